"""The small commands' front doors."""

import subprocess
import sys
from pathlib import Path

import pytest

from lit_llm.config import entry_points
from lit_llm.errors import UserError


@pytest.mark.parametrize("name", ["evaluate", "generate", "chat", "rank"])
def test_a_misspelt_key_is_told_before_the_command_is_imported(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "modle=a"])
    monkeypatch.setattr(entry_points, "import_module", None)
    with pytest.raises(SystemExit) as stop:
        getattr(entry_points, name)()
    assert stop.value.code == 2 and capsys.readouterr().err.startswith("error: unknown key modle=; ")


@pytest.mark.parametrize(
    ("name", "words", "line"),
    [
        ("evaluate", ["model=a", "tasks=nothere.yaml"], "tasks=nothere.yaml: no such file"),
        ("export", ["model=a", "node_llama_cpp=nothere"], "node_llama_cpp=nothere: no such folder; give"),
        ("export", ["model=a", "texts=nowhere.txt"], "texts=nowhere.txt: no such file; give a text"),
    ],
)
def test_a_place_that_is_not_there_is_told_before_the_command_is_imported(name, words, line, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", *words])
    monkeypatch.setattr(entry_points, "import_module", None)
    with pytest.raises(SystemExit) as stop:
        getattr(entry_points, name)()
    assert stop.value.code == 2 and capsys.readouterr().err.startswith(f"error: {line}")


def test_right_keys_and_help_go_on_to_the_command(monkeypatch):
    asked = []
    monkeypatch.setattr(entry_points, "import_module", lambda name: asked.append(name) or pytest)
    monkeypatch.setattr(pytest, "main", lambda: None)
    for words in (["run=a", "max_items=3"], ["--help"]):
        monkeypatch.setattr(sys, "argv", ["x", *words])
        entry_points.evaluate()
    assert asked == ["lit_llm.training.evaluate_command"] * 2


def test_the_front_doors_import_no_torch():
    code = "import sys, lit_llm.config.entry_points; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_ranking_app_s_accounts_need_no_torch():
    modules = "lit_llm.feedback.web.command, lit_llm.feedback.web.account_changes"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_keys_that_a_dataclass_inherits_are_known():
    entry_points.check_words("benchmarks.preference.work.Settings", ["kinds=dpo", "minutes=2"])
    with pytest.raises(UserError, match="did you mean minutes="):
        entry_points.check_words("benchmarks.preference.work.Settings", ["minuts=2"])


def test_a_race_s_misspelt_key_is_told_without_torch():
    code = (
        "import sys\nfrom benchmarks.command import command\n"
        "try: command(['training', 'shap=1'])\nexcept Exception as error: print(error)\n"
        "sys.exit('torch' in sys.modules)"
    )
    places = {"PYTHONPATH": str(Path(__file__).parents[2] / "scripts")}
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=places)
    assert (done.returncode, done.stdout) == (0, "unknown key shap=; did you mean shape=?\n")
