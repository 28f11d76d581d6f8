"""The Modelfile: the template in Go writes what the model was trained on, the system message, what ends an answer."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lit_llm.export.ollama import CHATML_GO, NONE_KNOWN, go_template, modelfile
from lit_llm.records import Message
from lit_llm.text.chat import CHATML, PLAIN, ChatTemplate
from lit_llm.text.tokenizer import Tokenizer
from tests.export.conftest import small_tokenizer

SMOL = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INVITED = "{% if add_generation_prompt %}{{ 'INVITATION' }}{% endif %}"
FIRST = "{% set first = messages[0].content if messages[0].role == 'system' else '' %}"
REST = "{% set rest = messages[1:] if messages[0].role == 'system' else messages %}"
# In the manner of public models.
LIKE = {
    "llama3": "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + "
    "m.content | trim + '<|eot_id|>' }}{% endfor %}"
    + INVITED.replace("INVITATION", "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    "llama3.1": FIRST + REST + "{{ bos_token + '<|start_header_id|>system<|end_header_id|>\n\nToday: 26 Jul 2024\n\n' "
    "+ first + '<|eot_id|>' }}{% for m in rest %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + "
    "m.content + '<|eot_id|>' }}{% endfor %}"
    + INVITED.replace("INVITATION", "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    "gemma3": FIRST + REST + "{{ bos_token }}{% for m in rest %}{{ '<start_of_turn>' + ('model' if m.role == "
    "'assistant' else m.role) + '\n' }}{% if loop.first and first %}{{ first + '\n\n' }}{% endif %}{{ m.content | trim "
    "+ '<end_of_turn>\n' }}{% endfor %}" + INVITED.replace("INVITATION", "<start_of_turn>model\n"),
    "gemma2": "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content + "
    "'<end_of_turn>\n' }}{% endfor %}" + INVITED.replace("INVITATION", "<start_of_turn>model\n"),
    "mistral": FIRST + REST + "{{ bos_token }}{% for m in rest %}{% if m.role == 'user' %}{{ '[INST] ' }}"
    "{% if loop.last and first %}{{ first + '\n\n' }}{% endif %}{{ m.content + '[/INST]' }}{% else %}"
    "{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
    "llama2": FIRST + REST + "{% for m in rest %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' }}{% if loop.first "
    "and first %}{{ '<<SYS>>\n' + first + '\n<</SYS>>\n\n' }}{% endif %}{{ m.content + ' [/INST]' }}{% else %}"
    "{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}",
    "phi3": "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    "phi4": "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}"
    + INVITED.replace("INVITATION", "<|im_start|>assistant<|im_sep|>"),
    "plain": PLAIN,
}
CHATS = [
    [Message("user", "Hi")],
    [Message("system", "S"), Message("user", "Hi")],
    [Message("user", "a\nb"), Message("assistant", "c"), Message("user", "d")],
    [Message("system", "S"), Message("user", "a\nb"), Message("assistant", "c"), Message("user", "d"),
     Message("assistant", "e"), Message("user", "f")],
]  # fmt: skip


def with_template(source: str) -> Tokenizer:
    plain = small_tokenizer()
    return Tokenizer(plain.engine, plain.config | {"bos_token": "<|endoftext|>"}, ChatTemplate(source))


def values(messages: list[Message]) -> dict[str, Any]:
    """What ollama gives to a template."""
    said = [one.content for one in messages if one.role == "system"]
    return {"System": "\n\n".join(said), "Messages": [{"Role": m.role, "Content": m.content} for m in messages]}


class Go:
    """The few constructions of Go's text/template that are used here."""

    def __init__(self, template: str, given: dict[str, Any]) -> None:
        pieces = re.split(r"\{\{(-?)\s*(.*?)\s*\}\}", template, flags=re.DOTALL)
        self.steps: list[tuple[str, str]] = [("text", pieces[0])]
        for trim, action, text in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
            if trim:
                self.steps[-1] = (self.steps[-1][0], self.steps[-1][1].rstrip())
            self.steps += [("action", action), ("text", text)]
        self.given, self.names, self.out = given, {"$": given}, ""
        self.run(0, given)

    def run(self, at: int, dot: Any, write: bool = True) -> int:
        """Up to the ``end`` or ``else`` of the block that begins at ``at``; returns its place."""
        while at < len(self.steps):
            kind, text = self.steps[at]
            if kind == "text":
                self.out += text if write else ""
            elif text.split()[0] in ("end", "else"):
                return at
            elif text.startswith("if "):
                at = self.branch(at, dot, write)
            elif text.startswith("range "):
                at = self.loop(at, dot, write)
            elif write and (found := re.fullmatch(r"(\$\w+) :?= (.*)", text)):
                self.names[found[1]] = self.value(found[2], dot)
            elif write:
                self.out += self.value(text, dot)
            at += 1
        return at

    def branch(self, at: int, dot: Any, write: bool) -> int:
        done = False
        while not self.steps[at][1].startswith("end"):
            condition = self.steps[at][1].removeprefix("else").strip().removeprefix("if").strip()
            taken = write and not done and (not condition or bool(self.value(condition, dot)))
            at, done = self.run(at + 1, dot, taken), done or taken
        return at

    def loop(self, at: int, dot: Any, write: bool) -> int:
        name = re.fullmatch(r"range (?:(\$\w+), \$\w+ := )?\.(\w+)", self.steps[at][1])
        end = self.run(at + 1, dot, False)
        for n, one in enumerate(dot[name[2]] if write else ()):
            self.names |= {name[1]: n} if name[1] else {}
            self.run(at + 1, one)
        return end

    def value(self, text: str, dot: Any) -> Any:
        return self.term(iter(re.findall(r'"[^"]*"|[()]|[^\s()]+', text)), dot)

    def term(self, words: Iterator[str], dot: Any) -> Any:
        word = next(words)
        if word == "(":
            found = self.term(words, dot)
            assert next(words) == ")"
            return found
        if word in ("eq", "and", "len", "slice"):
            few = [self.term(words, dot) for _ in range(1 if word == "len" else 2)]
            return {"eq": lambda a, b: a == b, "and": lambda a, b: a and b, "len": len, "slice": lambda a, n: a[n:]}[
                word
            ](*few)
        if word.startswith("$"):
            name, *keys = word.split(".")
            found = self.names[name]
            return found[keys[0]] if keys else found
        return dot[word[1:]] if word.startswith(".") else json.loads(word)


def known() -> Iterator[tuple[Tokenizer, str, list[Message], str]]:
    """A tokenizer, its template in Go, a conversation, and what the model was trained to read there."""
    for name, source in LIKE.items():
        tokenizer = with_template(source)
        found = go_template(tokenizer)
        assert found is not None and found[1] == "", name
        for messages in CHATS:
            asked = [m for m in messages if m.role != "system"] if name == "gemma2" else messages
            expected = tokenizer.chat.render(asked, prompt=True, bos=tokenizer.bos_token, eos=tokenizer.eos_token)
            yield tokenizer, found[0], messages, expected


def test_the_go_template_writes_what_the_model_was_trained_on() -> None:
    for tokenizer, template, messages, expected in known():
        assert Go(template, values(messages)).out == expected
        assert f'TEMPLATE """{template}"""' in modelfile("a.gguf", tokenizer)


@pytest.mark.skipif(shutil.which("go") is None, reason="no Go")
def test_go_itself_writes_the_same(tmp_path: Path) -> None:
    cases = [{"template": t, "values": values(m), "expected": e} for _, t, m, e in known()]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    (tmp_path / "main.go").write_text(
        'package main\nimport ("bytes"; "encoding/json"; "fmt"; "os"; "text/template")\n'
        "func main() {\n var cases []struct { Template, Expected string; Values map[string]any }\n"
        ' text, _ := os.ReadFile("cases.json")\n if err := json.Unmarshal(text, &cases); err != nil { panic(err) }\n'
        " for n, one := range cases {\n  var out bytes.Buffer\n"
        '  if err := template.Must(template.New("").Parse(one.Template)).Execute(&out, one.Values); err != nil '
        '{ panic(err) }\n  if out.String() != one.Expected { fmt.Printf("%d: %q\\n", n, out.String()); os.Exit(1) }\n'
        " }\n}\n"
    )
    done = subprocess.run(["go", "run", "main.go"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_chatml_takes_turns_of_any_role() -> None:
    tokenizer = with_template(CHATML)
    assert go_template(tokenizer) == (CHATML_GO, "")
    for messages in CHATS:
        assert Go(CHATML_GO, values(messages)).out == tokenizer.chat.render(messages, prompt=True)
    text = modelfile("small-Q8_0.gguf", tokenizer)
    assert text.startswith("FROM ./small-Q8_0.gguf\n") and f'TEMPLATE """{CHATML_GO}"""' in text
    assert 'PARAMETER stop "<|im_end|>"' in text and 'PARAMETER stop "<|endoftext|>"' in text


def test_a_system_message_of_the_template_s_own_is_ollama_s_too() -> None:
    tokenizer = with_template(SMOL)
    assert go_template(tokenizer) == (CHATML_GO, "You are helpful.")
    assert 'SYSTEM """You are helpful."""' in modelfile("a.gguf", tokenizer)
    asked = [Message("system", "You are helpful."), *CHATS[0]]  # as ollama adds it
    assert Go(CHATML_GO, values(asked)).out == tokenizer.chat.render(CHATS[0], prompt=True)


def test_a_template_that_takes_no_system_message_says_so() -> None:
    text = modelfile("a.gguf", with_template(LIKE["gemma2"]))
    assert "# The model's template takes no system message" in text and "TEMPLATE" in text
    assert "takes no system message" not in modelfile("a.gguf", with_template(LIKE["gemma3"]))


@pytest.mark.parametrize(
    "source",
    [
        SMOL.replace("message['role'] + '\n'", "message['role'] + loop.index | string + '\n'"),  # turns are counted
        LIKE["phi4"].replace("<|im_sep|>", "{{{{"),
        LIKE["phi4"].replace("<|im_sep|>", '"""'),
        LIKE["phi4"].replace("m.content", "(m.content if m.role == 'assistant' else m.content | upper)"),
    ],
)
def test_another_template_is_told(source: str) -> None:
    text = modelfile("a.gguf", with_template(source))
    assert 'TEMPLATE """' not in text and f"# {NONE_KNOWN}." in text and "PARAMETER stop" in text
