"""The command chooses the work and passes its arguments on."""

import json

import pytest
from benchmarks.command import WORKS, command

from lit_llm.errors import UserError


def test_every_work_is_there_and_says_its_arguments(capsys):
    command([])
    said = capsys.readouterr().out
    assert all(name in said for name in WORKS)
    for name in WORKS:
        with pytest.raises(SystemExit):
            command([name, "--help"])
        assert "json=" in capsys.readouterr().out or name == "report"


@pytest.mark.parametrize(
    ("words", "said"),
    [(["trainning"], "did you mean training"), (["training", "bach=8"], "did you mean batch=")],
)
def test_mistakes_are_one_line(words, said):
    with pytest.raises(UserError, match=said) as caught:
        command(words)
    assert "\n" not in str(caught.value)


@pytest.mark.slow  # it races
def test_from_end_to_end(tmp_path, capsys):
    words = "hidden_size=32 layers=1 heads=2 length=8 batch=1 rounds=2 seconds=0.001 compile=no peers= device=cpu"
    command(["training", *words.split(), "precision=bf16-true", "threads=1", f"json={tmp_path / 'x.json'}"])
    said = capsys.readouterr().out
    assert "this project: " in said and "load afterwards" in said
    assert "0.0M parameters" in said and "1 threads, load before" in said and "here bf16-true" in said
    result, alone = json.loads((tmp_path / "x.json").read_text())["results"]
    assert len(result["rounds"]) == 2 and result["numbers"]["loss"] > 0
    assert alone["name"] == "matmuls alone bf16-true" and alone["numbers"]["products"] > 0
