"""What a kill cut off in the compiler's cache is removed at the next start; what is whole, or in use, stays."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from lit_llm.errors import UserError
from lit_llm.runtime import compile_cache
from lit_llm.runtime.compile_cache import VARIABLE, keep_compiled

fcntl = pytest.importorskip("fcntl")
LIBRARY = min(Path(numpy.__file__).parent.rglob("*.so"), key=lambda file: file.stat().st_size).read_bytes()
TRAINING = """
import sys, torch, torch._dynamo
from pathlib import Path
from lit_llm.runtime.compile_cache import keep_compiled
keep_compiled(Path(sys.argv[1]))
def f(x): return torch.nn.functional.gelu(x).sin().mean()
print(float(torch.compile(f)(torch.ones(16))))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "compiled"))
    monkeypatch.setattr(compile_cache, "_in_use", [])
    (tmp_path / "compiled" / "ab").mkdir(parents=True)
    return tmp_path / "compiled"


def _written(folder: Path) -> set[str]:
    files = {
        "whole.so": LIBRARY,
        "cut.so": LIBRARY[:-1],
        "half.so": LIBRARY[: len(LIBRARY) // 2],
        "head.so": b"\x7fELF",
    }
    files |= {"none.so": b"", "none.py": b"", "whole.py": b"x = 1\n", "a.cpp": b"", "a.lock": b""}
    for name, content in files.items():
        (folder / "ab" / name).write_bytes(content)
    return set(files)


def test_what_was_cut_off_is_removed_and_said_in_one_line(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    _written(folder)
    with caplog.at_level(logging.WARNING, "lit_llm"):
        keep_compiled(folder)
    assert {file.name for file in (folder / "ab").iterdir()} == {"whole.so", "whole.py", "a.cpp", "a.lock"}
    (line,) = caplog.messages
    assert "5 files that a kill cut off were removed" in line and str(folder) in line


def test_another_run_may_be_writing_them(folder: Path) -> None:
    names = _written(folder)
    with (folder / "in_use").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        keep_compiled(folder)
    assert {file.name for file in (folder / "ab").iterdir()} == names
    with (folder / "in_use").open("wb") as third, pytest.raises(BlockingIOError):
        fcntl.flock(third, fcntl.LOCK_EX | fcntl.LOCK_NB)  # now this run is the one that may be writing


def test_another_place_is_left_alone(folder: Path, tmp_path: Path) -> None:
    names = _written(folder)
    keep_compiled(tmp_path / "mine")
    assert os.environ[VARIABLE] == str(folder) and not (tmp_path / "mine").exists()
    assert {file.name for file in (folder / "ab").iterdir()} == names


def test_the_place_that_torch_writes_down_when_it_is_imported_is_nobodys_choice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, default_cache_dir())
    keep_compiled(folder)
    assert os.environ[VARIABLE] == str(folder)


@pytest.mark.usefixtures("folder")
def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/compiled: cannot be written \(.*data.cache_dir="):
        keep_compiled(tmp_path / "file" / "compiled")


@pytest.mark.slow
def test_a_run_goes_on_where_the_compiler_was_killed(folder: Path) -> None:
    def trained() -> tuple[str, str]:
        words, environment = [sys.executable, "-c", TRAINING, str(folder)], {**os.environ}
        del environment[VARIABLE]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=200, env=environment)
        return done.stdout, done.stderr

    value, _ = trained()
    libraries = list(folder.rglob("*.so"))
    for file in libraries:
        file.write_bytes(file.read_bytes()[:3000])
    again, said = trained()
    assert libraries and again == value and f"{len(libraries)} files" in said
