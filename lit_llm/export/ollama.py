"""A Modelfile for ollama: the GGUF file, the chat template in Go where it is one of those known, and what ends answers.

Without a TEMPLATE ollama takes the Jinja template in the GGUF file where it knows it; without ``PARAMETER stop`` a
model whose answers end otherwise than its file's eos goes on for ever (ollama's issues 8363 and 2334).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from lit_llm.errors import UserError
from lit_llm.records import Message
from lit_llm.text.control_tokens import TURN_END, TURN_START
from lit_llm.text.tokenizer import Tokenizer

CHATML_GO = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
PLAIN_GO = (
    '{{- range .Messages }}{{ if eq .Role "user" }}User: {{ .Content }}\n'
    '{{ else if eq .Role "system" }}System: {{ .Content }}\n'
    "{{ else }}Assistant: {{ .Content }}%s\n{{ end }}{{ end }}Assistant: "
)
_PROBES = (
    (Message("user", "q7x"),),
    (Message("user", "q7x"), Message("assistant", "a7y"), Message("user", "b7z")),
    (Message("system", "s7w"), Message("user", "q7x"), Message("assistant", "a7y"), Message("user", "b7z")),
)


def modelfile(file: str, tokenizer: Tokenizer) -> str:
    """The Modelfile beside the GGUF ``file``."""
    lines = [f"FROM ./{file}", ""]
    known = go_template(tokenizer)
    if known is None:
        lines += ["# The chat template is none that has a form here: ollama reads the one in the GGUF file.", ""]
    else:
        template, system = known
        lines += [f'TEMPLATE """{template}"""', ""]
        lines += [f'SYSTEM """{system}"""', ""] if system else []
    ends = [str(tokenizer.engine.id_to_token(n)) for n in tokenizer.end_ids]
    lines += [f"PARAMETER stop {json.dumps(end, ensure_ascii=False)}" for end in dict.fromkeys(ends)]
    return "\n".join(lines) + "\n"


def go_template(tokenizer: Tokenizer) -> tuple[str, str] | None:
    """The template in Go and the system message that it writes where none is given; None for one that is not known."""
    try:
        shown = [_rendered(tokenizer, probe) for probe in _PROBES]
    except UserError:  # it refuses a system message, say
        return None
    begins = tokenizer.bos_token if shown[0].startswith(tokenizer.bos_token) and _adds_bos(tokenizer) else ""
    shown = [text.removeprefix(begins) for text in shown]  # what llama.cpp adds itself
    if shown == [_chatml(probe) for probe in _PROBES]:
        return CHATML_GO, ""
    if shown == [_plain(probe, tokenizer.eos_token) for probe in _PROBES]:
        return PLAIN_GO % tokenizer.eos_token, ""
    head = f"{TURN_START}system\n"
    system = shown[0].removeprefix(head).partition(TURN_END)[0] if shown[0].startswith(head) else ""
    own = (Message("system", system),)
    if system and shown == [_chatml(probe if probe[0].role == "system" else own + probe) for probe in _PROBES]:
        return CHATML_GO, system
    return None


def _adds_bos(tokenizer: Tokenizer) -> bool:
    return bool(tokenizer.bos_id is not None and tokenizer.beginning == (tokenizer.bos_id,) and tokenizer.bos_token)


def _rendered(tokenizer: Tokenizer, messages: Sequence[Message]) -> str:
    return tokenizer.chat.render(messages, prompt=True, bos=tokenizer.bos_token, eos=tokenizer.eos_token)


def _chatml(messages: Sequence[Message]) -> str:
    turns = "".join(f"{TURN_START}{one.role}\n{one.content}{TURN_END}\n" for one in messages)
    return f"{turns}{TURN_START}assistant\n"


def _plain(messages: Sequence[Message], eos: str) -> str:
    ends = {"assistant": eos}
    return "".join(f"{m.role.capitalize()}: {m.content}{ends.get(m.role, '')}\n" for m in messages) + "Assistant: "
