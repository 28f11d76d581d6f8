"""What makes composing faster changes no composition (that it is Hydra's own is asked in test_composition)."""

import copy
import os
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.utils import create_config_search_path
from omegaconf import OmegaConf, read_write

from lit_llm.config.command_line import compose
from lit_llm.config.composition_speed import compose_faster
from lit_llm.config.given_values import given_in


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A package with one file of configuration, as Hydra reads it, and the file."""
    package = tmp_path / "configuration_of_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.yaml").write_text("# @package _global_\ndefaults: [b]\nx: {y: 1}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    compose_faster()
    place = create_config_search_path("pkg://configuration_of_test")
    return CachingConfigRepository(ConfigRepository(place)), package / "a.yaml"


def test_a_file_is_parsed_once(monkeypatch):
    parsed = []
    load = OmegaConf.load
    monkeypatch.setattr(OmegaConf, "load", lambda file: parsed.append(file) or load(file))
    first = compose("train", ["stage=ppo", "init_from=m"])
    parsed.clear()
    assert compose("train", ["stage=ppo", "init_from=m"]) == first and parsed == []


@pytest.mark.parametrize(("name", "words"), [("train", ["stage=dpo", "init_from=m", "data.path=p"]), ("pipeline", [])])
def test_what_becomes_of_one_composition_reaches_no_other(name, words):
    first = compose(name, words)
    plain = OmegaConf.to_container(first, resolve=False)
    OmegaConf.set_struct(first, False)
    waiting = [first]
    while waiting:
        node = waiting.pop()
        values = [node._get_node(key) for key in range(len(node)) if OmegaConf.is_list(node)] or (
            [node._get_node(key) for key in node] if OmegaConf.is_dict(node) else []
        )
        waiting += [one for one in values if OmegaConf.is_config(one) and not one._is_none()]
        for one in values:
            if not OmegaConf.is_config(one):
                one.__dict__["_content"] = "changed"
        OmegaConf.set_readonly(node, True)
    second = compose(name, words)
    assert OmegaConf.to_container(second, resolve=False) == plain
    assert not OmegaConf.is_readonly(second) and second.data if name == "train" else second.stages


def test_a_file_s_lists_and_header_are_each_reader_s_own(files):
    repository, _ = files
    first = repository.load_config("a")
    assert first.header == {"package": "_global_"} and first.config == {"x": {"y": 1}}
    assert [default.path for default in first.defaults_list] == ["b"]
    first.header["package"] = None
    other = CachingConfigRepository(repository).load_config("a.yaml")
    assert other.header == {"package": "_global_"} and other.config == {"x": {"y": 1}}


def test_a_file_that_changed_is_read_again_and_one_that_went_is_gone(files):
    repository, file = files
    repository.load_config("a")
    before = file.stat()
    file.write_text(file.read_text().replace("y: 1", "y: 2"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    fresh = CachingConfigRepository(repository.delegate)
    assert fresh.load_config("a").config.x.y == 2
    file.unlink()
    assert CachingConfigRepository(repository.delegate).load_config("a") is None


def test_a_folder_of_the_user_s_is_asked_for_what_it_says_now(tmp_path):
    """What was chosen for one composition is used for what was given in it alone."""
    experiment = tmp_path / "experiment"
    experiment.mkdir()
    (experiment / "mine.yaml").write_text("# @package _global_\noptimizer: {lr: 0.5}\n")
    words = ["stage=dpo", "init_from=m", "data.path=p", "experiment=mine", f"--config-dir={tmp_path}"]
    assert given_in("train", words).has("optimizer.lr")
    assert given_in("train", words[:3]).keys == {"init_from", "data.path"}
    (experiment / "mine.yaml").write_text("# @package _global_\ntrainer: {max_steps: 3}\n")
    found = given_in("train", words)
    assert found.has("trainer.max_steps") and not found.has("optimizer.lr")
    cfg = compose("train", [*words[:3], "optimizer.lr=1e-3"])
    assert cfg.optimizer.lr == 1e-3 and given_in("train", words).has("trainer.max_steps")


# What stands in place of OmegaConf's own


@dataclass
class Typed:
    number: int | float = 1
    names: dict[str, list[int]] = field(default_factory=dict)
    free: Any = None


def inside(node):
    """(node, what holds it) of all that is in a configuration."""
    content = node.__dict__.get("_content")
    held = content.values() if isinstance(content, dict) else content if isinstance(content, list) else [content]
    for one in held if content is not None and not isinstance(content, str) else []:
        yield one, node
        yield from inside(one)


@pytest.fixture
def merged():
    compose_faster()
    cfg = OmegaConf.structured(Typed)
    more = [{"number": 2.5}, {"names": {"a": [1, 2], "b": []}}, {"free": {"x": [{"y": None}, "${number}"]}}]
    for one in more:
        cfg.merge_with(OmegaConf.create(one))
    return cfg


def test_after_a_merge_every_value_knows_where_it_stands_and_what_holds_there(merged):
    found = list(inside(merged))
    assert len(found) == 12 and all(one.__dict__["_parent"] is holder for one, holder in found)
    assert merged == {"number": 2.5, "names": {"a": [1, 2], "b": []}, "free": {"x": [{"y": None}, 2.5]}}
    below = merged.names._get_node("a")
    assert below._get_flag("readonly") is None  # and is kept
    other = OmegaConf.create({"names": {"c": [3]}})
    OmegaConf.set_readonly(other.names, True)
    merged.merge_with(other)
    assert merged.names._get_node("a")._get_flag("readonly") is True, "what holds now, not what held before"
    with read_write(merged.names):
        merged.names.a.append(3)
    assert merged.names.a == [1, 2, 3]


def test_a_copy_has_flags_and_results_of_its_own(merged):
    OmegaConf.set_struct(merged.free, True)
    merged._metadata.resolver_cache["r"]["k"] = [1]
    twin = copy.deepcopy(merged)
    assert twin == merged and twin._metadata.resolver_cache == merged._metadata.resolver_cache
    assert all(one.__dict__["_parent"] is holder for one, holder in inside(twin))
    assert OmegaConf.is_struct(twin.free) and OmegaConf.get_type(twin) is Typed
    OmegaConf.set_struct(twin.free, False)
    twin._metadata.resolver_cache["r"]["k"].append(2)
    twin._metadata.resolver_cache["s"]["k"] = 1
    assert OmegaConf.is_struct(merged.free) and merged._metadata.resolver_cache == {"r": {"k": [1]}}
