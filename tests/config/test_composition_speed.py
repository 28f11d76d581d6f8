"""What makes composing faster changes no composition (that it is Hydra's own is asked in test_composition)."""

import os
import sys

import pytest
from hydra._internal.sources_registry import SourcesRegistry
from omegaconf import OmegaConf

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
