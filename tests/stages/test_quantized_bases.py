"""QLoRA in every stage: adapters learn, the 4 bits stay bit for bit, and what is loaded, resumed and saved is it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from lit_llm.backbone.huggingface import load_model, save_model
from lit_llm.backbone.lora import merge_lora
from lit_llm.backbone.quantized import has_quantized, is_quantized, quantize
from lit_llm.backbone.saved_adapters import load_adapter
from lit_llm.errors import UserError
from lit_llm.records import TokenBatch
from lit_llm.stages.continued_pretraining import ContinuedPretraining
from lit_llm.stages.fine_tuning import FineTuning
from lit_llm.stages.flag_classification import FlagClassification
from lit_llm.stages.grpo import GRPO
from lit_llm.stages.instruction_tuning import InstructionTuning
from lit_llm.stages.kto import KTO
from lit_llm.stages.ppo import PPO
from lit_llm.stages.preference_optimization import PreferenceOptimization
from lit_llm.stages.reward_modeling import RewardModeling

from .test_flag_classification import answers
from .test_kto import labelled
from .test_ppo_setup import Learned
from .toy import END, LIKED, VOCABULARY, loader, made, parts, prompt_batch, rankings, tiny_model, trainer

pytest.importorskip("bitsandbytes")

QLORA = {"lora_rank": 4, "lora_alpha": 8.0, "lora_quantization": "nf4"}
ROLLOUT = {"max_new_tokens": 8, "end_ids": (END,)}


class LikedShare:
    """The share of an answer's tokens that are LIKED."""

    def score_tokens(self, input_ids, lengths):
        return torch.tensor([(row[:n] == LIKED).float().mean() for row, n in zip(input_ids, lengths, strict=True)])

    def __call__(self, *_):
        raise AssertionError("token scores were to be used")


def text(seed: int) -> TokenBatch:
    """Rows that count upwards."""
    first = torch.randint(VOCABULARY, (8, 1), generator=torch.Generator().manual_seed(seed))
    tokens = (first + torch.arange(13)) % VOCABULARY
    zeros = torch.zeros(8, 12, dtype=torch.int64)
    return TokenBatch(tokens[:, :-1], tokens[:, 1:], torch.arange(12).expand(8, 12), zeros, zeros)


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = model.logits(model(ids))
    return found


STAGES: dict[type, tuple[Any, dict[str, Any]]] = {
    ContinuedPretraining: (text, {}),
    FineTuning: (text, {"lora_dora": True}),
    InstructionTuning: (text, {"lora_rslora": True}),
    RewardModeling: (lambda seed: rankings(8, seed=seed), {}),
    FlagClassification: (lambda seed: answers(16, seed=seed), {}),
    PreferenceOptimization: (lambda seed: rankings(8, seed=seed), {}),
    KTO: (lambda seed: labelled(8, seed=seed), {}),
    PPO: (lambda seed: prompt_batch(16, seed=seed), {**ROLLOUT, "epochs": 2}),
    GRPO: (lambda seed: prompt_batch(8, seed=seed), {**ROLLOUT, "group_size": 4}),
}
ON_POLICY = (PPO, GRPO)


def stage_of(kind: type, model: Any = None, lr: float = 1e-2, **options: Any) -> Any:
    given = {**parts(lr), **QLORA, **STAGES[kind][1], **options}
    live = {"reward": LikedShare()} if kind in ON_POLICY else {}
    return made(kind, model=tiny_model() if model is None else model, **live, **given)


def fitted(kind: type, steps: int = 12, stage: Any = None, **settings: Any) -> tuple[Any, list[float]]:
    """The stage after so many steps, and what each logged as its loss: of GRPO less the reward, of PPO the values'."""
    stage = stage_of(kind) if stage is None else stage
    run, seen = trainer(max_steps=steps, max_epochs=-1, **settings), []
    log_training = stage.log_training

    def watched(values: dict[str, float]) -> None:
        log_training(values)
        seen.append(
            values["loss/value"] if kind is PPO else -values["objective/scores"] if kind is GRPO else values["loss"]
        )

    stage.log_training = watched
    run.fit(stage, loader([STAGES[kind][0](seed % 3) for seed in range(steps)]))
    del stage.log_training
    return stage, seen


def four_bits(stage: Any) -> dict[str, torch.Tensor]:
    """All that a checkpoint keeps of weights in 4 bits."""
    names = {name for name, weight in stage.named_parameters(remove_duplicate=False) if is_quantized(weight)}
    assert names
    return {
        key: value.clone()
        for key, value in stage.state_dict().items()
        if key.partition(".weight")[0] + ".weight" in names
    }


@pytest.mark.parametrize("kind", STAGES)
def test_adapters_learn_and_the_base_stays_in_every_bit(kind: type) -> None:
    stage = stage_of(kind)
    codes, before = four_bits(stage), {key: each.detach().clone() for key, each in stage.named_parameters()}
    _, losses = fitted(kind, 18, stage)
    assert sum(losses[-3:]) < sum(losses[:3]) - 0.03, losses
    assert all(torch.equal(each, codes[key]) for key, each in four_bits(stage).items())
    moved = {key for key, each in stage.named_parameters() if not torch.equal(each, before[key])}
    trained = {key for key in before if ".lora_" in key or key.endswith("score.weight")}
    assert moved == trained
    assert not any(is_quantized(each) for key, each in stage.named_parameters() if "_proj" not in key)


# With the same state in a checkpoint as one that runs every day.
LIKE_OTHERS = (ContinuedPretraining, InstructionTuning, FlagClassification, KTO)


@pytest.mark.parametrize("kind", [pytest.param(one, marks=[pytest.mark.slow] * (one in LIKE_OTHERS)) for one in STAGES])
def test_a_checkpoint_alone_makes_the_stage_again(kind: type, tmp_path) -> None:
    stage, _ = fitted(kind, 1)
    stage.trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    live = {"reward": LikedShare()} if kind in ON_POLICY else {}
    again = kind.load_from_checkpoint(tmp_path / "a.ckpt", **live)
    assert again.options == stage.options
    for key, each in stage.state_dict().items():
        assert torch.equal(again.state_dict()[key], each), key
    ids = torch.randint(VOCABULARY, (2, 9))
    assert torch.equal(again.eval().model.backbone(ids), stage.eval().model.backbone(ids))


def test_the_folder_holds_what_was_trained_and_the_whole_base_with_the_adapter_is_another_model(tmp_path) -> None:
    base = tiny_model()
    with torch.no_grad():  # weights as wide as trained ones are, so that 4 bits round visibly
        for name, weight in base.named_parameters():
            weight.normal_(1.0 if "norm" in name else 0.0, 0.2)
    stage, _ = fitted(InstructionTuning, 18, stage_of(InstructionTuning, copy.deepcopy(base), lora_rslora=False))
    stage.eval()
    stage.save(tmp_path / "model")
    batch = text(7)

    def loss(model: Any) -> float:
        with torch.no_grad():
            logits = model.eval().logits(model(batch.input_ids)).flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits, batch.labels.flatten()).item()

    folder, again = load_model(tmp_path / "model"), load_model(tmp_path / "model")
    over_whole = merge_lora(load_adapter(tmp_path / "adapter", base))
    quantize(again)
    trained, kept, whole, rounded = (loss(each) for each in (stage.model, folder, over_whole, again))
    assert kept == pytest.approx(trained, abs=1e-5)
    assert min(abs(whole - trained), abs(rounded - trained)) > 1e-3
    assert stage.started_from() is None, "what training began with was rounded: an evaluation reads it again"


def test_an_adapter_handed_on_is_read_beside_the_4_bits_that_it_was_trained_beside(tmp_path) -> None:
    base = tiny_model()
    with torch.no_grad():
        for name, weight in base.named_parameters():
            weight.normal_(1.0 if "norm" in name else 0.0, 0.2)
    save_model(tmp_path / "base", base)
    first = {**QLORA, "lora_merge": False}
    stage, _ = fitted(
        InstructionTuning, 6, made(InstructionTuning, model=load_model(tmp_path / "base"), **parts(), **first)
    )
    stage.eval().save(tmp_path / "tuned")
    ids = text(7).input_ids
    with torch.no_grad():
        trained = stage(ids)
        torch.testing.assert_close(logits(load_model(tmp_path / "tuned").eval(), ids), trained, rtol=1e-5, atol=1e-5)
    for said in (first, {**first, "lora_quantization": None}):
        following = made(
            InstructionTuning, model=load_model(tmp_path / "tuned", keep_adapter=True), **parts(), **said
        ).eval()
        assert has_quantized(following.model) is (said["lora_quantization"] == "nf4")
        with torch.no_grad():
            torch.testing.assert_close(following(ids), trained, rtol=1e-5, atol=1e-5)
    record = tmp_path / "tuned/base_model.json"
    record.write_text(record.read_text().replace("nf4", "int3"))
    with pytest.raises(UserError, match=r"base_model\.json: quantization='int3' should be nf4"):
        load_model(tmp_path / "tuned")


def test_ppo_s_value_shares_the_policy_s_4_bits_and_a_reward_model_stays_whole() -> None:
    stage = stage_of(PPO)
    weights = [dict(network.backbone.named_parameters()) for network in (stage.model, stage.value)]
    shared = [key for key, each in weights[0].items() if is_quantized(each) and weights[1][key] is each]
    assert len(shared) == 2 * 7
    reward = Learned()
    stage = made(PPO, model=tiny_model(), reward=reward, **parts(), **QLORA, **ROLLOUT)
    assert has_quantized(stage.model) and not has_quantized(reward.model) and not has_quantized(stage.value)


@pytest.mark.parametrize("kind", [InstructionTuning, RewardModeling, FlagClassification, KTO, PPO])
def test_it_needs_adapters(kind: type) -> None:
    with pytest.raises(UserError, match=r"^stage\.lora_\w+=\S+: there are no adapters;"):
        stage_of(kind, lora_rank=None)
    assert not has_quantized(stage_of(kind, lora_rank=0).model)  # said by itself, as in a sweep
    with pytest.raises(UserError, match=r"^stage.lora_quantization=int4: must be nf4 or null"):
        stage_of(kind, lora_quantization="int4")


def test_stored_log_probabilities_of_a_reference_in_4_bits_are_not_those_of_the_whole_one() -> None:
    hashes = {
        stage_of(PreferenceOptimization, reference_cache=True, lora_quantization=kind)._reference_hash
        for kind in ("nf4", None)
    }
    assert len(hashes) == 2
