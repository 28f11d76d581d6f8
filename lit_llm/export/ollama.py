"""A Modelfile for ollama: the GGUF file, the chat template in Go, and what ends answers.

Without a TEMPLATE ollama looks for one among its own that is written almost as the Jinja in the GGUF file, and takes
the user's words bare where it has none. Without ``PARAMETER stop`` a model whose answers end otherwise than its file's
eos goes on for ever (ollama's issues 8363 and 2334).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from lit_llm.errors import UserError
from lit_llm.export.go_template import Turns
from lit_llm.records import Message
from lit_llm.text.control_tokens import TURN_END, TURN_START
from lit_llm.text.tokenizer import Tokenizer

CHATML_GO = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
NONE_KNOWN = (
    "no TEMPLATE: the chat template has no form in Go here, and where ollama knows none like it, it takes the user's "
    "words without any"
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
        lines += [f"# {NONE_KNOWN}.", ""]
    else:
        template, system = known
        if ".System" not in template and template != CHATML_GO:
            lines += ["# The model's template takes no system message: one that is given is left out."]
        lines += [f'TEMPLATE """{template}"""', ""]
        lines += [f'SYSTEM """{system}"""', ""] if system else []
    ends = [str(tokenizer.engine.id_to_token(n)) for n in tokenizer.end_ids]
    lines += [f"PARAMETER stop {json.dumps(end, ensure_ascii=False)}" for end in dict.fromkeys(ends)]
    return "\n".join(lines) + "\n"


def go_template(tokenizer: Tokenizer) -> tuple[str, str] | None:
    """The template in Go and the system message that it writes where none is given, if ollama is to say it; None for a
    template that has no form in Go here."""
    adds = _adds_bos(tokenizer)

    def render(messages: Sequence[Message], prompt: bool) -> str:
        text = tokenizer.chat.render(messages, prompt=prompt, bos=tokenizer.bos_token, eos=tokenizer.eos_token)
        return text.removeprefix(tokenizer.bos_token) if adds else text  # llama.cpp adds it itself

    try:
        shown = [render(probe, True) for probe in _PROBES]
    except UserError:  # it refuses a system message, say
        shown = []
    if shown == [_chatml(probe) for probe in _PROBES]:
        return CHATML_GO, ""
    head = f"{TURN_START}system\n"
    system = shown[0].removeprefix(head).partition(TURN_END)[0] if shown and shown[0].startswith(head) else ""
    own = (Message("system", system),)
    if (
        system
        and '"""' not in system
        and shown == [_chatml(probe if probe[0].role == "system" else own + probe) for probe in _PROBES]
    ):
        return CHATML_GO, system
    turns = Turns.of(render)
    return None if turns is None else (turns.in_go(), "")


def _adds_bos(tokenizer: Tokenizer) -> bool:
    """Whether the file says so: what texts begin behind in training may be an end that nobody adds."""
    return bool(tokenizer.bos_token) and tokenizer.added_before == (tokenizer.bos_id,)


def _chatml(messages: Sequence[Message]) -> str:
    turns = "".join(f"{TURN_START}{one.role}\n{one.content}{TURN_END}\n" for one in messages)
    return f"{turns}{TURN_START}assistant\n"
