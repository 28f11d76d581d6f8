"""Invariant: every key=value lands on its field with its type, and every mistake is one line that names the key."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest

from lit_llm.errors import UserError
from lit_llm.runtime.arguments import describe, parse, run_command


@dataclass
class Demo:
    """A demonstration."""

    model: Annotated[Path, "the model folder"]
    prompt: Annotated[str, "the text"] = ""
    top_k: Annotated[int | None, "keep the k most likely"] = None
    temperature: Annotated[float, "0 is greedy"] = 1.0
    stream: Annotated[bool, "print as it goes"] = True
    device: Annotated[Literal["cpu", "cuda"], "where"] = "cpu"
    names: Annotated[list[str], "several"] = field(default_factory=list)


def test_values_get_their_types():
    got = parse(Demo, ["model=a/b", "prompt=x=y, 5", "top_k=3", "temperature=1e-1", "stream=no", "names=a, b"])
    assert got == Demo(Path("a/b"), "x=y, 5", 3, 0.1, False, "cpu", ["a", "b"])


def test_text_is_taken_raw():
    for text in ("null", "[1, 2]", "  spaces  ", "القطة جلست", "$(x) ${y}", "--help me"):
        assert parse(Demo, ["model=m", f"prompt={text}"]).prompt == text


def test_none_and_defaults():
    got = parse(Demo, ["model=m", "top_k=none"])
    assert got.top_k is None and got.temperature == 1.0 and got.stream is True


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["model=m", "promt=x"], ["promt", "did you mean prompt="]),
        (["prompt=x"], ["missing", "model="]),
        (["model=m", "top_k=many"], ["top_k=many", "whole number"]),
        (["model=m", "temperature=hot"], ["temperature=hot", "a number"]),
        (["model=m", "stream=maybe"], ["stream=maybe", "true, false"]),
        (["model=m", "device=tpu"], ["device=tpu", "cpu, cuda"]),
        (["model=m", "model=n"], ["model=", "twice"]),
        (["--model=m"], ["model=m", "without dashes"]),
        (["--top-k", "model=m"], ["top_k=VALUE"]),
        (["hello", "model=m"], ["'hello'", "key=value"]),
    ],
)
def test_mistakes_are_one_line(argv, words):
    with pytest.raises(UserError) as caught:
        parse(Demo, argv)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_help_lists_every_key(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(Demo, ["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert shown.strip() == describe(Demo).strip()
    assert "model=PATH " in shown and "names=TEXT,..." in shown
    assert all(name in shown for name in ("top_k=", "the model folder", "required", "default 1.0"))


def test_a_script_exits_with_2_and_no_traceback(capsys):
    with pytest.raises(SystemExit) as stopped:
        run_command(Demo, print, ["x=1"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: unknown key x=")
