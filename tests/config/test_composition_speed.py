"""What makes composing faster changes no composition (that it is Hydra's own is asked in test_composition)."""

import copy
import os
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
from hydra._internal.sources_registry import SourcesRegistry
from omegaconf import OmegaConf, read_write

from lit_llm.config.command_line import compose
from lit_llm.config.composition_speed import compose_faster


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A package with one file of configuration, as Hydra reads it, and the file."""
    package = tmp_path / "configuration_of_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.yaml").write_text("# @package _global_\ndefaults: [b]\nx: {y: 1}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    compose_faster()
    return SourcesRegistry.instance().resolve("pkg")("test", "pkg://configuration_of_test"), package / "a.yaml"


def test_a_file_is_parsed_once(monkeypatch):
    parsed = []
    load = OmegaConf.load
    monkeypatch.setattr(OmegaConf, "load", lambda file: parsed.append(file) or load(file))
    first = compose("train", ["stage=ppo", "init_from=m"])
    parsed.clear()
    assert compose("train", ["stage=ppo", "init_from=m"]) == first and parsed == []


def test_what_one_composition_does_to_a_file_s_values_reaches_no_other(source):
    files, _ = source
    first = files.load_config("a")
    assert first.header == {"package": "_global_"} and first.provider == "test"
    del first.config["defaults"]
    first.config.x.y, first.header["package"], first.defaults_list = 2, None, []
    second = files.load_config("a.yaml")
    assert second.config == {"defaults": ["b"], "x": {"y": 1}} and second.header == {"package": "_global_"}
    assert second.defaults_list is None


def test_a_file_that_changed_is_read_again_and_one_that_went_is_gone(source):
    files, file = source
    files.load_config("a")
    before = file.stat()
    file.write_text(file.read_text().replace("y: 1", "y: 2"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert files.load_config("a").config.x.y == 2
    file.unlink()
    with pytest.raises(Exception, match="Config not found"):
        files.load_config("a")


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
