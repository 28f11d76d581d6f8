"""The small commands' front doors."""

import subprocess
import sys

import pytest

from lit_llm import front


@pytest.mark.parametrize("name", ["evaluate", "generate", "chat", "rank"])
def test_a_misspelt_key_is_told_before_the_command_is_imported(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "modle=a"])
    monkeypatch.setattr(front, "import_module", None)
    with pytest.raises(SystemExit) as stop:
        getattr(front, name)()
    assert stop.value.code == 2 and capsys.readouterr().err.startswith("error: unknown key modle=; ")


def test_right_keys_and_help_go_on_to_the_command(monkeypatch):
    asked = []
    monkeypatch.setattr(front, "import_module", lambda name: asked.append(name) or pytest)
    monkeypatch.setattr(pytest, "main", lambda: None)
    for words in (["run=a", "max_items=3"], ["--help"]):
        monkeypatch.setattr(sys, "argv", ["x", *words])
        front.evaluate()
    assert asked == ["lit_llm.reexamination"] * 2


def test_the_front_doors_import_no_torch():
    code = "import sys, lit_llm.front; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
