"""An option is written once: its dataclass is the constructor's argument, the keys of a configuration, and what a
checkpoint keeps; what makes no sense is told before torch is imported."""

import dataclasses
import re
import subprocess
import sys

import pytest
import torch

from lit_llm.config import schema
from lit_llm.config.command_line import check
from lit_llm.config.hydra_words import hydra_words
from lit_llm.config.signatures import signature
from lit_llm.config.targets import construct
from lit_llm.errors import UserError
from lit_llm.stages import options
from lit_llm.stages.base import Stage
from tests.config.options_files import assert_read, content, files, kind_of

from .toy import END, parts, tiny_model, trainer

FILES = files("stage")


@pytest.mark.parametrize("name", FILES)
def test_every_option_is_read_by_the_stages(name):
    assert_read("stage", name, options, by_options=("lora_rslora", "lora_dora", "lora_alpha", "lora_targets"))


OTHER = {  # a value that is not the default
    "int": 3, "float": 0.5, "bool": True, "str": "batch", "str | None": "some/base", "int | None": 2,
    "Sequence[str]": ("q_proj",), "float | None": 2.5, "tuple[int, ...] | None": (END,),
}  # fmt: skip
WORDS = {"ratio": "sequence", "aggregation": "constant", "kl_in": "reward", "value_init": "zero", "trained": "full",
         "adherence": "learned", "positive_weight": "balanced", "new_tokens": (), "reference_logps": None,
         "adherence_shape": 3.0, "lora_quantization": "nf4"}  # fmt: skip


def others(kind):
    """Options of which as few as possible have their default."""
    found = {
        each.name: WORDS[each.name] if each.name in WORDS else OTHER[each.type] for each in dataclasses.fields(kind)
    }
    return kind(**found)


@pytest.mark.parametrize("name", FILES)
def test_options_come_back_from_the_hyper_parameters_of_a_checkpoint(name, tmp_path):
    made, kind = kind_of("stage", name)
    given = others(kind)
    taken = {each.name for each in signature(content("stage", name)[0]).parameters}
    live = {"reward": Constant()} if "reward" in taken else {}
    stage, run = made(given, model=tiny_model(), **live, **parts()), trainer()
    assert stage.options is given and made(model=tiny_model(), **live, **parts(), **ends(kind)).options != given
    stage.trainer = run
    run.strategy.connect(stage)
    run.save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    kept = torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"]
    assert kind(**kept) == given


def ends(kind):
    """Of a policy without a tokenizer something must end an answer."""
    return {"options": kind(end_ids=(END,))} if issubclass(kind, options.RolloutOptions) else {}


class Constant:
    def score_tokens(self, _, lengths):
        return torch.zeros(lengths.shape)

    def __call__(self, *_):
        raise AssertionError


PPO, GRPO = options.PPOOptions, options.GRPOOptions


@pytest.mark.parametrize(
    ("kind", "values", "line"),
    [
        (PPO, {"lora_rank": -1}, "stage.lora_rank: -1; must be 0 or more, or null"),
        (PPO, {"temperature": 0.0}, "stage.temperature: 0.0; must be above 0"),
        (PPO, {"max_grad_norm": -1.0}, "stage.max_grad_norm: -1.0; must be 0 or more"),
        (PPO, {"micro_batch_size": 0}, "stage.micro_batch_size: 0; must be 1 or more, or null"),
        (PPO, {"target_kl": 0.0}, "stage.target_kl: 0.0; must be above 0, or null"),
        (
            PPO,
            {"reward_validation_every_n_steps": 0},
            "stage.reward_validation_every_n_steps: 0; must be 1 or more, or null",
        ),
        (PPO, {"missing_eos_penalty": -1.0}, "stage.missing_eos_penalty: -1.0; must be 0 or more, or null"),
        (PPO, {"lam": 1.5}, "stage.lam: 1.5; must be between 0 and 1"),
        (PPO, {"clip_range_high": 0.0}, "stage.clip_range_high: 0.0; must be above 0, or null"),
        (PPO, {"adaptive_kl_target": 0.0}, "stage.adaptive_kl_target: 0.0; must be above 0, or null"),
        (PPO, {"value_init": "best"}, "stage.value_init: best; must be reward or zero"),
        (GRPO, {"group_size": 1}, "stage.group_size: 1; must be 2 or more, to measure an answer by its group"),
        (GRPO, {"scale": "std"}, "stage.scale: std; must be one of none, group, batch"),
        (GRPO, {"ratio": "word"}, "stage.ratio: word; must be one of token, sequence"),
        (GRPO, {"eps_low": 1.0}, "stage.eps_low: 1.0; must be below 1, as no ratio is below 0"),
        (GRPO, {"delta": 1.28}, "stage.delta=1.28: must be above 1 + stage.eps_high = 1.28, or null"),
        (options.SupervisedOptions, {"z_loss": -1.0}, "stage.z_loss: -1.0; must be 0 or more"),
        (
            options.SupervisedOptions,
            {"neftune_noise_alpha": -1.0},
            "stage.neftune_noise_alpha: -1.0; must be 0 or more",
        ),
        (
            options.ContinuedPretrainingOptions,
            {"new_tokens": ["a"], "lora_rank": 2, "lora_merge": False},
            "stage.new_tokens: ['a']; with stage.lora_merge=false the adapter's base would have no rows for them; "
            "leave one of the two out",
        ),
        (
            options.ContinuedPretrainingOptions,
            {"new_tokens": "auto:0"},
            "stage.new_tokens=auto:0: must be a list of words, such as [tensor,gradient], or auto:N, such as auto:2000",
        ),
        (
            options.ContinuedPretrainingOptions,
            {"new_tokens": ["a", ""]},
            "stage.new_tokens: ['a', '']; needs a tokenizer, and no token may be empty",
        ),
        (options.KTOOptions, {"beta": 0.0}, "stage.beta: 0.0; must be above 0"),
        (options.RewardModelingOptions, {"normalize_batches": -1}, "stage.normalize_batches: -1; must be 0 or more"),
        (options.RewardModelingOptions, {"adherence_shape": 1.0}, "stage.adherence_shape: 1.0; must be above 1"),
        (options.RewardModelingOptions, {"adherence_lr": 0.0}, "stage.adherence_lr: 0.0; must be above 0"),
        (
            options.FlagOptions,
            {"trained": "head", "lora_rank": 2},
            "stage.trained=head: trains no adapters; leave it or stage.lora_rank=2 out",
        ),
        (
            options.FlagOptions,
            {"positive_weight": True},
            "stage.positive_weight=True: must be above 0, balanced or null",
        ),
    ],
)
def test_what_makes_no_sense_is_one_line_where_the_options_are_made(kind, values, line):
    with pytest.raises(UserError, match=f"^{re.escape(line)}$"):
        kind(**values)


@pytest.mark.parametrize("kind", [options.DropoutAdapterOptions, options.GRPOOptions])
def test_a_word_about_adapters_without_any_is_refused(kind):
    """Else the whole model would be trained, in silence."""
    for each in dataclasses.fields(kind):
        if not each.name.startswith("lora_") or each.name == "lora_rank":
            continue
        value = False if each.default is True else WORDS.get(each.name) or OTHER[each.type]
        with pytest.raises(UserError, match=rf"^stage.{each.name}=.*: there are no adapters; give stage.lora_rank=16"):
            kind(**{each.name: value})
        kind(**{each.name: list(each.default) if each.name == "lora_targets" else each.default})
        assert getattr(kind(**{each.name: value, "lora_rank": 2}), each.name) == value
        # As in a sweep over stage.lora_rank=0,2: nothing behind the options sees it.
        assert kind(**{each.name: value, "lora_rank": 0}) == kind(lora_rank=0)


LINES = [
    (
        ["stage=dpo", "stage.lora_targets=[nosuch,up_proj]"],
        "stage.lora_targets=[nosuch,up_proj]: there are no adapters; give stage.lora_rank=16, or leave it out",
    ),
    (["stage=ppo", "reward=length", "stage.kl_cof=1"], "stage.kl_cof=1: unknown key; did you mean stage.kl_coef?"),
    (["stage=ppo", "reward=length", "+stage.kl_cof=1"], "stage.kl_cof=1: unknown key; did you mean kl_coef?"),
    (["stage=ppo", "reward=length", "stage.epochs=two"], "stage.epochs='two': must be int"),
    (["stage=ppo", "reward=length", "+stage.options=1"], "stage.options=1: unknown key"),
    (["stage=grpo", "stage.scale=std"], "stage.scale: std; must be one of none, group, batch"),
    (["stage=grpo", "stage.delta=1.1"], "stage.delta=1.1: must be above 1 + stage.eps_high = 1.28"),
    (
        ["stage=continued_pretraining", "stage.new_tokens=[a]", "stage.lora_rank=2", "stage.lora_merge=false"],
        "stage.new_tokens: ['a']; with stage.lora_merge=false the adapter's base",
    ),
    (
        ["stage=continued_pretraining", "stage.new_tokens=auto"],
        "stage.new_tokens=auto: must be a list of words, such as [tensor,gradient], or auto:N, such as auto:2000",
    ),
    (
        ["stage=flag_classification", "stage.trained=head", "stage.lora_rank=2"],
        "stage.trained=head: trains no adapters",
    ),
    (["stage=ppo", "reward=length", "stage.kl_coef=-1"], "stage.kl_coef=-1: must be 0 or more"),  # told once
]


@pytest.mark.parametrize(("words", "line"), LINES)
def test_a_mistake_on_the_command_line_is_one_line(words, line):
    schema.register()
    with pytest.raises(UserError) as error:
        check("train", hydra_words("train", [*words, "init_from=m", "data.path=x"]))
    (told,) = [each for each in str(error.value).splitlines() if each.startswith("stage.")]
    assert told.startswith(line)


def test_a_relation_in_a_pipeline_is_told_by_the_steps_own_keys():
    schema.register()
    given = {"new_tokens": "auto:2000", "lora_rank": 2, "lora_merge": "false"}
    words = [f"stages.continued_pretraining.{key}={value}" for key, value in given.items()]
    with pytest.raises(UserError) as error:
        check("pipeline", hydra_words("pipeline", words))
    stage = "stages.continued_pretraining.stage"
    assert str(error.value).startswith(f"{stage}.new_tokens: auto:2000; with {stage}.lora_merge=false the adapter's")


def test_a_number_that_the_environment_gives_is_not_compared_before_it_is_there(monkeypatch):
    monkeypatch.setenv("DELTA_OF_TEST", "4")
    schema.register()
    words = ["stage=grpo", "init_from=m", "data.path=x", "stage.delta='${oc.decode:${oc.env:DELTA_OF_TEST}}'"]
    with pytest.raises(UserError) as error:  # that there are no such files
        check("train", hydra_words("train", words))
    assert "delta" not in str(error.value)


def test_a_relation_is_told_before_torch_is_imported():
    words = [*LINES[6][0], "init_from=m", "data.path=x"]
    code = f"import sys\nfrom lit_llm.training.command import main\nsys.argv[1:] = {words}\n"
    code += "try:\n main()\nfinally:\n print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout.strip() == "False", done.stderr
    assert done.stderr.strip() == f"error: {LINES[6][1]}, or null"


OWN = """
import dataclasses
from lit_llm.stages.options import PretrainingOptions
from lit_llm.stages.pretraining import Pretraining

@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(PretrainingOptions):
    share: float = 0.5

class Told(Pretraining):
    Options = Mine

class Plain(Pretraining):
    def __init__(self, *, model, optimizer, schedule, tokenizer=None, share: float = 0.5):
        super().__init__(model=model, optimizer=optimizer, schedule=schedule, tokenizer=tokenizer)
        self.share = share

class Both(Pretraining):
    def __init__(self, options=None, *, model, optimizer, schedule, tokenizer=None, share: float = 0.5):
        super().__init__(options, model=model, optimizer=optimizer, schedule=schedule, tokenizer=tokenizer)
        self.share = share

class Neither(Pretraining):
    pass

Short = Told
"""


def test_a_stage_of_ones_own_has_options_or_a_signature_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "own_stages_of_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    keys = {"Told": {"z_loss", "share"}, "Plain": {"share"}, "Both": {"z_loss", "share"}, "Neither": {"z_loss"}}
    keys["Short"] = keys["Told"]
    for name, expected in keys.items():
        target = f"own_stages_of_test.{name}"
        live = {"model", "optimizer", "schedule", "tokenizer"}
        assert {each.name for each in signature(target).parameters} - live == expected
        values = dict.fromkeys(expected, 0.25)
        node = {"_target_": target, "_partial_": True, **values}
        stage = construct(node, "stage", ["own_stages_of_test."])(model=tiny_model(), **parts())
        assert isinstance(stage, Stage)
        for key, value in values.items():
            assert getattr(stage.options, key, getattr(stage, key, None)) == value
