"""Every number of every configuration has a range, and nothing outside it is trained with."""

import math
import re
from dataclasses import asdict

import pytest
import yaml
from omegaconf import OmegaConf

from lit_llm.config import schema
from lit_llm.config.annotations import shown
from lit_llm.config.command_line import check, compose
from lit_llm.config.hydra_words import hydra_words
from lit_llm.config.ranges import NAMES, RANGES, Range, numbers, out_of_range, range_of
from lit_llm.config.signatures import signature
from lit_llm.errors import UserError
from tests.config.test_schema import CONF

SCHEMAS = {"trainer": schema.TrainerConfig, "evaluation": schema.EvaluationConfig, "answers": schema.AnswersConfig,
           "people": schema.PeopleConfig, "best_of_n": schema.BestOfNConfig}  # fmt: skip


INSIDE = {"loss": ("stage", "loss"), "reward": ("stage", "reward")}


def configurations():
    """Every file of every group at the place that it fills, every key of the schemas, and a whole pipeline composed."""
    for path in CONF.rglob("*.yaml"):
        content = yaml.safe_load(path.read_text()) or {}
        group = path.relative_to(CONF).parts[0]
        if group in ("hydra", "hparams_search"):  # values of a sweep are texts
            continue
        whole = path.parent == CONF or group in ("experiment", "run", "debug")
        place = () if whole else INSIDE.get(group, (group,))
        for name in reversed(place):
            content = {name: content}
        yield content
    for name, kind in SCHEMAS.items():
        yield {name: asdict(OmegaConf.to_object(OmegaConf.structured(kind)))}
    schema.register()
    yield schema.plain(compose("pipeline", []))


def numeric(value, key=(), declared=None):
    """The key of every leaf that is a number, or that its definition says may be one (null today)."""
    if isinstance(value, dict):
        told = {p.name: shown(p.type) for p in signature(value["_target_"]).parameters} if "_target_" in value else {}
        fields = getattr(SCHEMAS.get(key[-1] if key else ""), "__dataclass_fields__", {})
        told |= {name: str(field.type) for name, field in fields.items()}
        for name, item in value.items():
            yield from numeric(item, (*key, str(name)), told.get(name))
    elif key[-1] not in NAMES and (list(numbers(value, key)) or (declared and re.search(r"\b(int|float)\b", declared))):
        yield key


def nested(key, value):
    for name in reversed(key):
        value = {name: value}
    return value


def test_every_number_has_a_range_and_what_is_outside_is_refused_by_name():
    seen = set()
    for values in configurations():
        assert not list(out_of_range(values))
        for key in numeric(values):
            found = range_of(key)
            assert found is not None, f"{'.'.join(key)}: no range"
            seen.add(key[-1])
            for bad in (math.nan, math.inf, -math.inf, found.low - 1, found.high * 2 + 1):
                for value in (bad, [0.5, bad]) if key[-1] == "betas" else (bad,):
                    lines = [line.partition("=")[0] for line in out_of_range(nested(key, value))]
                    assert lines == [".".join(key)], (key, bad)
    assert len(seen) > 120


def test_a_key_without_a_range_is_found():
    values = {"stage": {"_target_": "lit_llm.stages.pretraining.Pretraining", "unheard_of": 3}}
    assert [range_of(key) for key in numeric(values)] == [None]
    assert list(out_of_range({"stage": {"unheard_of": 3}})) == []
    assert list(out_of_range({"stage": {"unheard_of": math.inf}})) == ["stage.unheard_of=inf: must be a finite number"]


def test_the_ends_of_ranges():
    assert Range(0, 1).fault(0) is None and Range(0, 1).fault(1) is None
    assert (
        Range(0, 1, above=True).fault(0) == "must be above 0" and Range(0, 1, below=True).fault(1) == "must be below 1"
    )
    assert Range(1, 5).fault(6) == "must be 5 or less" and Range(1, 5).fault(0.5) == "must be 1 or more"
    assert all(each.low < each.high for each in RANGES.values())
    assert range_of(("stages", "ppo", "stage", "temperature")).fault(0)  # a policy samples
    assert range_of(("evaluation", "temperature")).fault(0) is None  # greedy
    assert range_of(("rankings", "max_prompts", "train")) is RANGES["max_prompts"]


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("optimizer.lr=inf", "optimizer.lr=inf: must be a finite number: above 0 and 10 or less"),
        ("optimizer.lr=1e30", "optimizer.lr=1e+30: must be 10 or less"),
        (
            "optimizer.weight_decay=nan",
            "optimizer.weight_decay=nan: must be a finite number: 0 or more and 100 or less",
        ),
        ("optimizer.betas=[2,3]", "optimizer.betas=2: must be below 1"),
        ("trainer.gradient_clip_val=nan", "trainer.gradient_clip_val=nan: must be a finite number"),
        ("trainer.log_every_n_steps=0", "trainer.log_every_n_steps=0: must be 1 or more"),
        ("seed=-1", "seed=-1: must be 0 or more"),
        ("seed=4294967296", "seed=4294967296: must be 4,294,967,295 or less"),
        ("callbacks.samples.temperature=-1", "callbacks.samples.temperature=-1: must be 0 or more"),
        ("backbone.rope_theta=-inf", "backbone.rope_theta=-inf: must be a finite number"),
        ("data.path={a.txt: 0}", "data.path.a.txt=0: must be above 0"),
        ("trainer.max_time=soon", "trainer.max_time=soon: must be DD:HH:MM:SS"),
    ],
)
def test_a_number_out_of_range_is_one_line_of_the_command(word, line):
    schema.register()
    with pytest.raises(UserError) as error:
        check("train", hydra_words("train", [word]))
    assert any(found.startswith(line) for found in str(error.value).splitlines()), str(error.value)


def test_a_number_from_the_environment_is_in_range_too(monkeypatch):
    monkeypatch.setenv("RATE_OF_TEST", "1e30")
    schema.register()
    with pytest.raises(UserError) as error:
        check("train", hydra_words("train", ["optimizer.lr='${oc.decode:${oc.env:RATE_OF_TEST}}'"]))
    assert str(error.value) == "optimizer.lr=${oc.env:RATE_OF_TEST}: must be 10 or less"
