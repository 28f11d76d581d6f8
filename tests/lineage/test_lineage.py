"""Lineage: one changed byte anywhere along the chain is found and named; the card says what the lineage says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lit_llm.config.schema import save
from lit_llm.errors import UserError
from lit_llm.lineage import lineage, model_card
from lit_llm.lineage.verification import verify

SCRIPT = Path(__file__).parents[2] / "scripts" / "verify.py"


def make(run: Path, parents: dict[str, Path], data: list[Path], simulated: bool = False) -> Path:
    """A run's folder as a run leaves it."""
    model = run / "model"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(run.name.encode() * 100)
    (model / "config.json").write_text("{}")
    config = {"seed": 1, "stage": {"lr": 0.1}}
    save(config, run / "config.yaml")
    scores = {"general": {"bits_per_byte": {"mean": 1.5, "se": 0.1, "n": 20}}}
    record = lineage.record(
        model,
        stage=run.name,
        config=config,
        parents=parents,
        data={"fingerprint": "f" * 64, "counts": {"read": 3, "used": 3}, "files": data},
        metrics={"parameters": 1000, "steps": 5, "tokens": 640, "seconds": 1.0, "heldout": scores, "before": {}},
        tokenizer={"fingerprint": "t"},
        simulated=simulated,
    )
    (model / "README.md").write_text(model_card.render(record))
    return model


@pytest.fixture
def chain(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("once upon a time")
    first = make(tmp_path / "pretraining", {}, [corpus])
    reward = make(tmp_path / "reward", {"init_from": first}, [], simulated=True)
    return make(tmp_path / "ppo", {"init_from": first, "stage.reward.folder": reward}, [])


def test_an_unchanged_chain_verifies_to_the_corpus(chain):
    folders, differences = verify(chain)
    assert differences == []
    assert [Path(folder).parent.name for folder in folders] == ["ppo", "pretraining", "reward"]


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("corpus.txt", "pretraining: data file ../../corpus.txt differs"),
        ("pretraining/model/model.safetensors", "pretraining/model.safetensors: its bytes differ"),
        ("reward/model/config.json", "reward/config.json: its bytes differ"),
        ("ppo/model/README.md", "model/README.md: is not the card"),
    ],
)
def test_one_changed_byte_is_named(chain, tmp_path, file, named):
    path = tmp_path / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    _, differences = verify(chain)
    assert len(differences) == 1 and differences[0].startswith(named)


@pytest.mark.parametrize("file", ["model/README.md", "model/lineage.json", "config.yaml"])
@pytest.mark.parametrize("run", ["ppo", pytest.param("reward", marks=pytest.mark.slow)])
def test_a_flipped_bit_anywhere_in_a_text_is_a_difference_and_the_walk_goes_on(chain, tmp_path, run, file):
    weights = tmp_path / "pretraining/model/model.safetensors"
    weights.write_bytes(b"other")
    path = tmp_path / run / file
    good = path.read_bytes()
    for position in range(0, len(good), max(1, len(good) // 20)):
        for bit in (0, 2, 5, 7):
            content = bytearray(good)
            content[position] ^= 1 << bit
            path.write_bytes(content)
            differences = verify(chain)[1]
            named = [line for line in differences if Path(file).name in line or "parent" in line]
            assert named, (position, bit, differences)
            if file != "model/lineage.json":  # which says where the walk goes on
                assert any(line.startswith("pretraining/model.safetensors") for line in differences)
    path.write_bytes(good)
    assert len(verify(chain)[1]) == 1


def test_the_time_it_took_is_not_of_what_was_made(tmp_path):
    made = {"stage": "ppo", "config": {}, "parents": {}, "data": {}, "tokenizer": {}}
    digests = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        metrics = {"steps": 5, "seconds": number, "hardware": {"threads": number}}
        digests.append(lineage.record(tmp_path / str(number), metrics=metrics, **made)["digest"])
    assert digests[0] == digests[1]


def test_the_commit_of_somebody_elses_repository_is_not_taken(tmp_path, monkeypatch):
    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    package = tmp_path / ".venv/lit_llm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("x = 1")
    git("init")
    git("commit", "--allow-empty", "-m", "one")
    monkeypatch.setattr("lit_llm.__file__", str(package / "__init__.py"))
    assert set(lineage.commit()) == {"digest"}
    before = lineage.commit()["digest"]
    (package / "__init__.py").write_text("x = 2")
    assert lineage.commit()["digest"] != before
    git("add", ".")
    git("commit", "-m", "two")
    assert len(lineage.commit()["commit"]) == 40


def test_files_gone_and_added_are_named(chain, tmp_path):
    (chain / "config.json").unlink()
    (chain / "adapter.bin").write_text("x")
    (tmp_path / "corpus.txt").unlink()
    assert set(verify(chain)[1]) == {
        "model/config.json: is gone",
        "model/adapter.bin: was added",
        "pretraining: data file ../../corpus.txt is gone",
    }


def test_a_changed_configuration_is_told_field_by_field(chain):
    path = chain.parent / "config.yaml"
    path.write_text(path.read_text().replace("0.1", "0.2"))
    assert verify(chain)[1] == ["model: config.yaml stage.lr is 0.2, recorded 0.1"]


def test_an_edited_lineage_shows_here_and_at_the_child(chain, tmp_path):
    path = tmp_path / "pretraining/model/lineage.json"
    content = json.loads(path.read_text())
    content["metrics"]["steps"] = 10_000
    path.write_text(json.dumps(content))
    differences = verify(chain)[1]
    assert any(line.startswith("pretraining/lineage.json: its digest") for line in differences)
    assert any(line.startswith("pretraining/README.md") for line in differences)


def test_a_parent_made_again_is_another_parent(chain, tmp_path):
    shutil.rmtree(tmp_path / "reward")
    make(tmp_path / "reward", {}, [], simulated=True)
    differences = verify(chain)[1]
    assert len(differences) == 1 and "parent stage.reward.folder is another one" in differences[0]


@pytest.mark.usefixtures("chain")
def test_a_whole_tree_can_be_moved(tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("corpus.txt", "pretraining", "reward", "ppo"):
        (tmp_path / name).rename(moved / name)
    assert verify(moved / "ppo/model")[1] == []


def test_a_model_from_elsewhere_is_compared_with_what_was_recorded_of_it(tmp_path):
    foreign = tmp_path / "downloaded"
    foreign.mkdir()
    (foreign / "model.safetensors").write_bytes(b"weights")
    model = make(tmp_path / "fine_tuning", {"init_from": foreign}, [])
    assert verify(model)[1] == []
    (foreign / "model.safetensors").write_bytes(b"weightz")
    assert any("model.safetensors: its bytes differ" in line for line in verify(model)[1])
    with pytest.raises(UserError, match="only folders made by this program"):
        verify(foreign)


def test_simulated_preferences_are_inherited_and_marked_on_the_card(chain, tmp_path):
    assert lineage.read(chain)["simulated_preferences"] is True
    card = (chain / "README.md").read_text()
    assert "**Simulated preferences.**" in card and "- simulated-preferences" in card
    assert "| general | bits_per_byte |  | 1.5 ± 0.1 | 20 |" in card
    assert "Simulated" not in (tmp_path / "pretraining/model/README.md").read_text()


def test_parents_are_the_folders_that_the_configuration_names(chain, tmp_path):
    (tmp_path / "ppo/collected").mkdir()
    config = {"init_from": str(chain), "data": {"path": str(tmp_path / "corpus.txt")}, "resume": str(chain)}
    assert lineage.parents_in(config) == {"init_from": chain}
    assert lineage.parents_in({"stage": {"reward": {"folder": str(chain)}}}) == {"stage.reward.folder": chain}
    weighted = {"data": {"path": {str(chain): 0.5, str(tmp_path / "reward/model"): 2}}}
    both = {"data.path": chain, "data.path[1]": tmp_path / "reward/model"}
    assert lineage.parents_in(weighted) == both
    assert lineage.parents_in({"data": {"path": list(weighted["data"]["path"])}}) == both


@pytest.mark.slow  # tests/test_commands.py asks the script the same of a run's model
def test_the_script_exits_with_1_on_a_difference(chain):
    def run() -> subprocess.CompletedProcess[str]:
        words = [sys.executable, str(SCRIPT), f"model={chain}"]
        return subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)

    assert run().returncode == 0
    (chain / "config.json").write_text("{ }")
    done = run()
    assert done.returncode == 1 and "differs: model/config.json: its bytes differ" in done.stdout


FOREIGN = {  # what a folder from elsewhere holds: (README.md, config.json) to (name, licence)
    "a hub": ("---\nlicense: apache-2.0\n---\n# X", {"_name_or_path": "org/base-1B"}, ("org/base-1B", "apache-2.0")),
    "a licence of its own": ("---\nlicense: other\nlicense_name: llama3.2\n---\n", {}, ("elsewhere", "llama3.2")),
    "several": ("---\nlicense: [mit, bsd]\n---\n", {}, ("elsewhere", "mit, bsd")),
    "no card": (None, {}, ("elsewhere", "unknown")),
    "a card that says nothing": ("# A model\nlicense: mit", {}, ("elsewhere", "unknown")),
    "in the configuration": (None, {"license": "mit", "_name_or_path": "/home/ann/x"}, ("elsewhere", "mit")),
    "broken": ("---\nlicense: [\n---\n", [], ("elsewhere", "unknown")),
    "a stranger's marks": ('---\nlicense: "a\\n\\n# <b>[x](y)`"\n---\n', {}, ("elsewhere", "a bx(y)")),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_model_from_elsewhere_is_named_with_its_licence_and_its_data_are_unknown(tmp_path, kind):
    card, config, (name, licence) = FOREIGN[kind]
    place = tmp_path / "elsewhere"
    place.mkdir()
    (place / "config.json").write_text(json.dumps(config))
    if card is not None:
        (place / "README.md").write_text(card)
    first = make(tmp_path / "tuning", {"init_from": place}, [])
    second = make(tmp_path / "ppo", {"init_from": first}, [])
    for model in (first, second):  # also of what is made of what is made from it
        assert lineage.read(model)["base_models"] == [{"name": name, "license": licence, "data": "unknown"}]
        text = (model / "README.md").read_text()
        assert f'base_model: "{name}"\nlicense: "{licence}"\n' in text
        assert f"- base model: {name}, from elsewhere; licence {licence}" in text
        assert "data that it was trained on are unknown here" in text
    assert verify(second)[1] == []


def test_a_model_from_scratch_has_no_base(chain):
    assert lineage.read(chain)["base_models"] == []
    assert "base_model" not in (chain / "README.md").read_text()


def test_an_older_card_is_still_its_lineage_s():
    record = {
        "version": 1, "stage": "ppo", "created": "", "simulated_preferences": False, "people_preferences": True,
        "data": {}, "metrics": {}, "parents": [], "code": {"digest": ""}, "packages": {}, "config": {},
    }  # fmt: skip
    assert "People made rankings that this model learned from (simulated: false)." in model_card.render(record)
    assert "are not marked as simulated" in model_card.render({**record, "version": 2})
