"""prepare.py: the data of a run as a table and three rows, nothing trained; the run finds the tokens made."""

import json
import re
from pathlib import Path

import pytest

from lit_llm.config.command_line import compose
from lit_llm.data import token_cache
from lit_llm.data.shards import making
from lit_llm.errors import UserError
from lit_llm.training import command, prepare
from lit_llm.training.train import run
from tests.training.test_train import SMALL


@pytest.fixture(scope="module")
def words(data, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return [*SMALL, f"data.path={data}/raw_text", f"data.cache_dir={cache}"]


def told(capsys, words):
    prepare.run(words)
    return capsys.readouterr().out


def test_the_table_and_three_rows_are_shown_and_the_run_makes_no_token_again(
    words, capsys, tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    shown = told(capsys, words)
    lines = shown.splitlines()
    assert lines[0].split() == ["files", "read", "rows", "used", "words", "tokens", "held", "out"]
    assert re.match(r"\.jsonl +3 of 3 +120 ", lines[1])
    assert shown.count("as the model sees it ====") == 3
    assert "[[" in shown and "The function" in shown and "next document" in shown
    assert list(tmp_path.iterdir()) == []

    def none(*_):
        raise AssertionError("tokens are made again")

    monkeypatch.setattr(token_cache, "_write", none)
    with caplog.at_level("INFO"):
        metrics = run(compose("train", words), tmp_path / "run")
    written = json.loads((tmp_path / "run/data.json").read_text())
    assert metrics["data"] == written and written["all"]["rows"] == 120
    table = [record.getMessage().strip() for record in caplog.records]
    assert lines[1].strip() in table
    loaded = next(n for n, line in enumerate(table) if line.startswith("from scratch, into"))
    assert loaded < table.index(lines[1].strip()) < next(n for n, line in enumerate(table) if line.startswith("data: "))


def test_a_corpus_in_shards_has_the_same_table_and_its_run_makes_no_shard(words, capsys, tmp_path, monkeypatch):
    in_memory = told(capsys, words).splitlines()
    words = [*words, "data.stream_above=0", "data.prepare_workers=2"]
    in_shards = told(capsys, words).splitlines()
    assert in_shards[:2] == in_memory[:2] and in_shards[2].startswith("an epoch has")
    place = in_shards[3].partition(": ")[2]
    assert in_shards[3].startswith("in 1 shard: ") and json.loads(Path(place).read_text())["shards"]

    def none(*_):
        raise AssertionError("a shard is made again")

    monkeypatch.setattr(making.Writer, "__init__", none)
    metrics = run(compose("train", words), tmp_path / "run")
    assert metrics["counts"]["used"] == 120


def test_what_stops_the_run_is_shown_in_the_table_before_the_error(words, capsys, tmp_path):
    """Without a model of its own: the tokenizer would be learned from this data."""
    folder = tmp_path / "folder"
    folder.mkdir()
    rows = [json.dumps({"text": f"The rent of month {n} is due."}) for n in range(30)]
    (folder / "a.jsonl").write_text("\n".join([*rows, "{", "["]))
    (folder / "b.pdf").write_bytes(b"%PDF-1.7 broken")
    (folder / "c.docx").write_bytes(b"")
    (folder / "d.xyz").write_text("x")
    own = [word for word in words if not word.startswith("data.path")]
    for more in ([], ["data.stream_above=0", "data.prepare_workers=1"]):
        with pytest.raises(UserError, match=r"2 of 3\d rows are bad, and 2 of 3 files cannot be read"):
            prepare.run([*own, f"data.path={folder}", *more])
        shown = capsys.readouterr().out
        table = [line.split() for line in shown.splitlines()]
        assert table[0] == ["files", "read", "rows", "used", "words"]
        assert table[1][:6] == [".jsonl", "1", "of", "1", "32", "30"]
        assert sorted(line[0] for line in table[2:5]) == [".docx", ".pdf", ".xyz"]
        assert ".jsonl: rows left out: 2 malformed_json" in shown
        assert ".pdf: files not read: 1 (broken_document)" in shown
        assert ".docx: files not read: 1 (empty_file)" in shown
        assert "WARNING: 75% OF THE FILES ARE NOT READ: 3 of 4" in shown


def test_look_is_the_same_command(words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py", *words, "look=true"])
    command.main()
    assert capsys.readouterr().out == told(capsys, words)
    assert list(tmp_path.iterdir()) == []


def test_new_words_of_the_stage_are_in_the_rows(words, data, capsys, tmp_path):
    folder = tmp_path / "run"
    run(compose("train", [*words, "evaluation.enabled=false", "trainer.max_steps=1"]), folder)
    more = [word for word in words if not word.startswith(("backbone", "tokenizer"))]
    more = [word for word in more if not word.startswith("data.path")]
    base = [*more, "stage=continued_pretraining", f"init_from={folder / 'model'}", f"data.path={data}/domain"]
    base += [f"data.replay_path={data}/raw_text"]
    tokens = [
        int(re.search(r"; ([\d,]+) tokens", told(capsys, given))[1].replace(",", ""))
        for given in (base, [*base, "stage.new_tokens=[operator]"])
    ]
    assert tokens[1] < tokens[0]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["stage=pretraning"], "did you mean pretraining?"),
        (["--multirun", "seed=1,2"], "--multirun: one run's data is shown"),
        (["data.path=nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_a_mistake_is_one_line(given, line):
    with pytest.raises(UserError, match=re.escape(line)):
        prepare.run(given)
