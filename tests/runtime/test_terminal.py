"""Lines break between words, in a terminal and nowhere else; nothing that is copied is damaged by it."""

import shlex

from hypothesis import given
from hypothesis import strategies as st

from lit_llm.runtime.terminal import broken, columns, near, typed

WORDS = st.lists(st.text("abcدقطة0123.%", min_size=1, max_size=30), min_size=1, max_size=40)


@given(WORDS, st.integers(0, 6), st.integers(40, 120))
def test_no_word_and_no_number_is_broken_and_none_is_lost(words, indent, width):
    line = " " * indent + " ".join(words)
    lines = broken(line, width).split("\n")
    assert [word for part in lines for word in part.split()] == words
    assert all(len(part) <= width or len(part.split()) == 1 for part in lines)
    assert broken(line, None) == line


@given(WORDS, st.integers(60, 120))
def test_a_broken_command_is_the_same_command(words, width):
    line = f'  next: python scripts/generate.py {" ".join(words)} prompt="The cat sat"'
    parts = broken(line, width).split("\n")
    assert all(part.endswith(" \\") for part in parts[:-1])
    assert shlex.split("".join(part.removesuffix("\\") for part in parts)) == shlex.split(line)


def test_a_path_with_blanks_and_quotes_is_copied_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / 'it\'s my "own" run' / "model"
    line = f"next: python scripts/chat.py model={typed(place)} and {'many more words ' * 8}"
    parts = broken(line, 60).split("\n")
    copied = shlex.split("".join(part.removesuffix("\\") for part in parts))
    assert copied == shlex.split(line) and copied[3] == 'model=it\'s my "own" run/model'
    assert "it's" in broken(f"next: python x.py model=it's a run {'and more ' * 20}", 60)


def test_the_width_is_the_environment_s_else_the_terminal_s(monkeypatch, tmp_path):
    with (tmp_path / "log").open("w") as file:
        monkeypatch.setenv("COLUMNS", "100")
        assert columns(file) == 100
        monkeypatch.delenv("COLUMNS")
        assert columns(file) is None


def test_a_path_is_written_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert near(tmp_path / "a/b") == "a/b" and near("/elsewhere/b") == "/elsewhere/b"
