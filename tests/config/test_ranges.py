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
from lit_llm.config.ranges import RANGES, out_of_range, range_of, ranged
from lit_llm.config.signatures import options_of, signature
from lit_llm.errors import UserError
from lit_llm.runtime.ranges import NAMES, Range
from tests.config.options_files import CONF, GROUPS, files

SCHEMAS = {"trainer": schema.TrainerConfig, "evaluation": schema.EvaluationConfig, "answers": schema.AnswersConfig,
           "people": schema.PeopleConfig, "best_of_n": schema.BestOfNConfig}  # fmt: skip


def configurations():
    """Every file of a group that describes a part, every key of the schemas, and a whole pipeline composed."""
    for group in GROUPS:
        for name in files(group):
            file, _, part = name.partition(".")
            content = yaml.safe_load((CONF / group / f"{file}.yaml").read_text())
            yield {part: content[part]} if part else {group: content}
    for name, kind in SCHEMAS.items():
        yield {name: asdict(OmegaConf.to_object(OmegaConf.structured(kind)))}
    schema.register()
    yield schema.plain(compose("pipeline", []))


def ranges(value, key=(), declared=None, part=None):
    """(key, target of its part, key in it, range) of every leaf that is a number, or that may be one (null today)."""
    if isinstance(value, dict):
        target = value.get("_target_")
        if target:
            part = (target, len(key), options_of(target).ranges())
        told = {p.name: shown(p.type) for p in signature(target).parameters} if target else {}
        fields = getattr(SCHEMAS.get(key[-1] if key else ""), "__dataclass_fields__", {})
        told |= {name: str(field.type) for name, field in fields.items()}
        for name, item in value.items():
            yield from ranges(item, (*key, str(name)), told.get(name), part)
    elif list(ranged(value, key)) or (key[-1] not in NAMES and declared and re.search(r"\b(int|float)\b", declared)):
        target, start, known = part or (None, 0, RANGES)
        yield key, target, key[start:], range_of(key[start:], known)


def nested(key, value):
    for name in reversed(key):
        value = {name: value}
    return value


def test_every_number_has_a_range_and_what_is_outside_is_refused_by_name():
    seen = set()
    for values in configurations():
        assert not list(out_of_range(values))
        for key, target, inner, found in ranges(values):
            assert found is not None, f"{'.'.join(key)}: no range"
            seen.add((target, inner))
            for bad in (math.nan, math.inf, -math.inf, found.low - 1, found.high * 2 + 1):
                for value in (bad, [0.5, bad]) if key[-1] == "betas" else (bad,):
                    part = nested(inner, value) | ({"_target_": target} if target else {})
                    lines = [line.partition("=")[0] for line in out_of_range(part)]
                    assert lines == [".".join(inner)], (key, bad)
    assert len(seen) > 200


def test_a_number_of_ones_own_must_be_finite_no_more():
    for values in ({"_target_": "my_package.Mine"}, {"_target_": "lit_llm.stages.pretraining.Pretraining"}):
        assert list(out_of_range({"stage": {**values, "lr": -3}})) == []
        told = ["stage.lr=inf: must be a finite number"]
        assert list(out_of_range({"stage": {**values, "lr": math.inf}})) == told


def test_options_made_in_code_have_the_same_ranges():
    kind = options_of("lit_llm.callbacks.samples.Samples")
    with pytest.raises(UserError, match=r"^callbacks\.samples\.temperature: -1; must be 0 or more$"):
        kind(temperature=-1)
    with pytest.raises(UserError, match=r"^optimizer\.betas: \(0\.9, 1\.0\); must be below 1$"):
        options_of("lit_llm.optim.adamw.adamw")(betas=(0.9, 1.0))
    with pytest.raises(UserError, match=r"^optimizer\.muon_lr: nan; must be a finite number: .*, or null$"):
        options_of("lit_llm.optim.muon.muon_adamw")(muon_lr=math.nan)
    assert options_of("lit_llm.data.raw_text.RawText")(path=0).path == 0  # a name


def test_the_ends_of_ranges():
    assert Range(0, 1).fault(0) is None and Range(0, 1).fault(1) is None
    assert (
        Range(0, 1, above=True).fault(0) == "must be above 0" and Range(0, 1, below=True).fault(1) == "must be below 1"
    )
    assert Range(1, 5).fault(6) == "must be 5 or less" and Range(1, 5).fault(0.5) == "must be 1 or more"
    assert all(each.low < each.high for each in RANGES.values())
    for target, refused in (("lit_llm.stages.ppo.PPO", 1), ("lit_llm.feedback.simulated.collect", 0)):  # 0: greedy
        assert len(list(out_of_range({"_target_": target, "temperature": 0}))) == refused
    many = {"_target_": "lit_llm.feedback.simulated.collect", "max_prompts": {"train": 0}}
    assert list(out_of_range(many)) == ["max_prompts.train=0: must be 1 or more"]


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
