"""Every command as its user has it, in a process: a mistake is one line and status 2, success leaves its file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lit_llm.config.command_line import compose
from lit_llm.training.train import run
from tests.chain_data import chain_overrides
from tests.forked_command import forked
from tests.training.test_train import SMALL

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "pretraining"
    run(compose("train", [*SMALL, f"data.path={data}/raw_text", f"data.cache_dir={data}/cache"]), folder)
    return folder


def command(script: str, *words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / f"{script}.py", *map(str, words)],
        capture_output=True, text=True, encoding="utf-8", timeout=400, check=False, cwd=cwd,
        env={**os.environ, **environment},
    )  # fmt: skip


def succeeded(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines that it printed."""
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "error" not in done.stderr
    return done.stdout.splitlines()


MISTAKES = {
    "train": (["stage=pretraning"], "did you mean pretraining?"),
    "pipeline": (["stages.pretraining.optimzer.lr=1"], "did you mean"),
    "evaluate": (["run=x", "set=general"], "unknown key set=; did you mean sets=?"),
    "generate": (["modle=x"], "unknown key modle=; did you mean model=?"),
    "export": (["modle=x"], "unknown key modle=; did you mean model=?"),
    "rank": (["projct=x.db"], "unknown key projct=; did you mean project=?"),
    "plan": (["stage=pretraning"], "did you mean pretraining?"),
    "prepare": (["stage=pretraning"], "did you mean pretraining?"),
    "verify": (["model=nowhere"], "nowhere/lineage.json: not there"),
}


@pytest.mark.parametrize("script", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(script, tmp_path):
    words, message = MISTAKES[script]
    done = command(script, *words, cwd=tmp_path)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("error: ") and message in line and not done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("train", ["stage=pretraining"]), pytest.param("pipeline", [], marks=pytest.mark.slow), ("evaluate", ["run=x"]),
        ("prepare", ["stage=pretraining"]),
        ("rank", ["project=x.db"]), ("generate", ["model=x", "prompt=The"]),
        ("export", ["model=x"]),
    ],
)  # fmt: skip
def test_something_is_said_before_torch_is_imported(script, words, tmp_path):
    """A torch that only speaks stands in for the one whose import takes seconds."""
    (tmp_path / "torch.py").write_text("import os\nprint('torch', file=__import__('sys').stderr)\nos._exit(3)\n")
    done = command(script, *words, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    first, second = done.stderr.splitlines()
    assert done.returncode == 3 and first.startswith(f"{script}: ") and second == "torch"


@pytest.mark.parametrize("words", [["--help"], ["stage=ppo", "--help"]])
def test_nobody_reads_to_the_end(words, tmp_path):
    """As in ``train.py --help | head -1``: no traceback."""
    read, write = os.pipe()
    os.close(read)
    line = [sys.executable, ROOT / "scripts/train.py", *words]
    done = subprocess.run(line, stdout=write, stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path)
    os.close(write)
    assert (done.stderr, done.returncode) == ("", 141)


@pytest.mark.slow  # of those that start torch in a process one or two are enough for every day
def test_evaluate_writes_every_item(trained, tmp_path):
    lines = succeeded(command("evaluate", f"run={trained}", f"output={tmp_path}/items", cwd=tmp_path))
    assert lines[0].startswith("general") and any("bits_per_byte" in line and "n=4" in line for line in lines)
    assert not any("the run recorded" in line for line in lines), "as the run itself evaluated"
    assert json.loads((tmp_path / "items/general.json").read_text())


def test_verify_finds_every_byte_and_a_changed_one(trained, tmp_path):
    assert succeeded(forked("verify", f"model={trained}/model", cwd=tmp_path))[-1] == "every byte is as recorded"
    changed = shutil.copytree(trained, tmp_path / "changed") / "model"
    (changed / "tokenizer.json").write_bytes((changed / "tokenizer.json").read_bytes() + b" ")
    done = forked("verify", f"model={changed}", cwd=tmp_path)
    assert done.returncode == 1 and "differs: model/tokenizer.json: its bytes differ" in done.stdout


def test_generate_goes_on_with_any_script(trained, tmp_path):
    words = (f"model={trained}/model", "prompt=قطة The", "max_new_tokens=4", "device=cpu")
    assert succeeded(command("generate", *words, cwd=tmp_path, PYTHONIOENCODING="ascii"))[0].startswith("قطة The")


@pytest.mark.slow
def test_rank_makes_a_project_and_exports_it(trained, data, tmp_path):
    words = (f"model={trained}/model", f"prompts={data}/prompts", "k=2", "max_prompts=2", "max_new_tokens=4")
    lines = succeeded(command("rank", "action=make", *words, "project=team.db", "device=cpu", cwd=tmp_path))
    assert "password" in lines[-1] and (tmp_path / "team.db").is_file()
    export = ("action=export", "project=team.db", "output=rankings.jsonl")
    assert succeeded(command("rank", *export, cwd=tmp_path))[0].startswith("rankings.jsonl: 0 rankings")
    assert (tmp_path / "rankings.jsonl").read_text() == ""


@pytest.mark.slow
def test_a_pipeline_ends_with_its_result_its_folder_and_what_comes_next(data, tmp_path):
    words = [*chain_overrides(data, tmp_path / "cache"), "hydra.run.dir=one"]
    lines = succeeded(command("pipeline", *words, cwd=tmp_path, COLUMNS="100"))
    assert (tmp_path / "one/report.html").is_file() and (tmp_path / "one/ppo/model/lineage.json").is_file()
    assert lines[-3].startswith("ppo: ") and lines[-3].endswith(".") and "(n=" in lines[-3]
    assert lines[-2:] == ["folder: one", "next: python scripts/chat.py model=one/ppo/model"]
    assert [line for line in lines if len(line) > 100 and " " in line.strip()] == []


@pytest.mark.slow
def test_a_wheel_runs_its_commands_from_another_folder(data, tmp_path):
    """Built from what git knows, and installed beside nothing: pages, configurations and code are all in it."""
    source, place = tmp_path / "source", tmp_path / "place"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", tmp_path, source]
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = tmp_path.glob("lit_llm-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", place, wheel], check=True, timeout=300)
    elsewhere = {**os.environ, "PYTHONPATH": str(place)}

    def installed(*words: str) -> str:
        line = [sys.executable, *words]
        done = subprocess.run(
            line, cwd=tmp_path, env=elsewhere, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    page = "from lit_llm.feedback.web import pages; print(pages.environment().get_template('item.html').filename)"
    assert installed("-c", page).startswith(str(place))
    train = [f"{place}/bin/lit-llm-train", *SMALL, f"data.path={data}/raw_text", f"data.cache_dir={tmp_path}/cache"]
    assert "next: python scripts/generate.py" in installed(*train, "hydra.run.dir=run", "trainer.max_steps=2")
    assert (tmp_path / "run/model/model.safetensors").is_file()
    assert "every byte is as recorded" in installed(f"{place}/bin/lit-llm-verify", "model=run/model")
