"""Another source is another key, and nothing else is."""

import pytest

from lit_llm.runtime import source_files
from lit_llm.runtime.code_key import code_key


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "a_room_of_ones_own"
    folder.mkdir()
    for name in ("__init__", "one", "two"):
        (folder / f"{name}.py").write_text(f"NAME = {name!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = (code_key, source_files.module_file, source_files._top_level)
    for one in found:
        one.cache_clear()
    yield folder
    for one in found:
        one.cache_clear()


def key(*names):
    code_key.cache_clear()  # it is the process's: its code does not change while it runs
    return code_key(*names)


def test_a_change_of_the_source_is_another_key(package):
    room, module = package.name, f"{package.name}.one"
    before = key(room), key(module)
    assert (key(room), key(module)) == before and before[0] != before[1]
    (package / "two.py").write_text("NAME = 2\n")
    assert key(room) != before[0] and key(module) == before[1]
    (package / "one.py").write_text("NAME = 1\n")
    assert key(module) != before[1]


def test_a_module_more_is_another_key(package):
    before = key(package.name)
    (package / "three.py").write_text("")
    assert key(package.name) != before


def test_versions_count_and_what_is_not_installed_has_none():
    assert key("tokenizers==") != key("numpy==") and key("no_such_package==") == key("no_such_package==")
