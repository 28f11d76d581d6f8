"""The options of every stage. Each is written here once, with what it means and what it may be.

``TARGET`` names the stage, which names its dataclass as ``Options``: its fields are the keys below ``stage.`` in a
configuration, the first argument of the stage, and the hyper-parameters that a checkpoint keeps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from lit_llm.backbone.config import LINEAR_LAYERS
from lit_llm.errors import UserError
from lit_llm.objectives.options import AGGREGATIONS, RATIOS, SCALES, check_kto
from lit_llm.runtime.options import Options
from lit_llm.runtime.ranges import COUNT, FACTOR, PART, RATE, ROWS, SEED, SHARE, SOME, WEIGHT, Range

KL_PLACES = ("loss", "reward")
VALUE_INITS = ("reward", "zero")


@dataclass(frozen=True, kw_only=True)
class StageOptions(Options):
    """What all stages have: nothing yet."""

    GROUP: ClassVar[str] = "stage"
    GIVEN: ClassVar[tuple[str, ...]] = ("model",)

    # What a plan of a run's memory asks

    @property
    def frozen_copies(self) -> int:
        """Networks of the model's size that are held beside it and not trained: a reference."""
        return 0

    @property
    def trained_copies(self) -> int:
        """Networks of the model's size that are trained beside it: a value network."""
        return 0

    def pass_over(self, rows: int, length: int) -> tuple[int, int]:
        """Rows and tokens a row of the largest forward pass that is learned from, of a batch of so many."""
        return rows, length

    def tokens_learned(self, rows: int, length: int) -> int:
        """Tokens at most of all passes that are learned from, of such a batch."""
        return rows * length

    def sampled(self, rows: int, length: int) -> tuple[int, int]:  # noqa: ARG002
        """Answers that are sampled at once while training, to such a batch, and tokens of one with its prompt; (0, 0):
        none."""
        return 0, 0


@dataclass(frozen=True, kw_only=True)
class AdapterOptions(StageOptions):
    """LoRA adapters (arXiv:2106.09685) beside the network's linear layers."""

    RANGES: ClassVar[Mapping[str, Range]] = {"lora_rank": Range(0, 10**5), "lora_alpha": FACTOR}

    # Of the adapters; null: none, all weights are trained. 0 says so whatever else is said of them, as in a sweep over
    # stage.lora_rank=0,16; with null a word about adapters is refused.
    lora_rank: int | None = None
    lora_alpha: float = 32.0  # the adapters' scale is lora_alpha / lora_rank
    lora_targets: Sequence[str] = LINEAR_LAYERS  # names of the layers that get one
    lora_rslora: bool = False  # the scale is lora_alpha / sqrt(lora_rank), which stays right for large ranks
    lora_dora: bool = False  # lengths of the weights' rows are trained beside the adapters (arXiv:2402.09353)
    # nf4: the frozen weights of the blocks' layers are held in 4 bits (QLoRA, arXiv:2305.14314), by bitsandbytes.
    lora_quantization: Literal["nf4"] | None = None
    # Name or folder of the model that the adapters belong to, for adapter_config.json; None: what the run started from.
    base_model: str | None = None
    # Whether the model folder holds them merged into the weights; false: it is the adapter, beside what the run started
    # from, and a stage that starts from it trains them on.
    lora_merge: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora_rank == 0:  # nobody behind reads what is said of adapters then
            for name in adapter_words(type(self), vars(self)):
                object.__setattr__(self, name, _usual(type(self))[name])

    def check(self) -> None:
        if self.lora_quantization not in ("nf4", None):
            raise UserError(f"stage.lora_quantization={self.lora_quantization}: must be nf4 or null")
        for name, value in adapter_words(type(self), vars(self)).items() if self.lora_rank is None else ():
            raise UserError(
                f"stage.{name}={as_word(value)}: there are no adapters; give stage.lora_rank=16, or leave it out"
            )
        super().check()

    def adapters(self, dropout: float = 0.0) -> dict[str, Any]:
        """What ``backbone.lora.apply_lora`` takes besides the model."""
        return {
            "rank": self.lora_rank,
            "alpha": self.lora_alpha,
            "dropout": dropout,
            "targets": tuple(self.lora_targets),
            "rank_stabilized": self.lora_rslora,
            "decomposed": self.lora_dora,
        }


def adapter_words(kind: type[AdapterOptions], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``values`` that say something about adapters, beside their rank, that a stage's options do not say by
    themselves: without adapters they would count for nothing."""
    return {
        name: value
        for name, usual in _usual(kind).items()
        if (value := values.get(name, usual)) != usual and not (_is_list(value) and tuple(value) == usual)
    }


def _usual(kind: type[AdapterOptions]) -> dict[str, Any]:
    return {
        each.name: each.default for each in fields(kind) if each.name.startswith("lora_") and each.name != "lora_rank"
    }


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def as_word(value: Any) -> str:
    """As the command line takes it."""
    if _is_list(value):
        return f"[{','.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True, kw_only=True)
class DropoutAdapterOptions(AdapterOptions):
    """Adapters of a stage that trains with dropout."""

    RANGES: ClassVar[Mapping[str, Range]] = {"lora_dropout": PART}

    lora_dropout: float = 0.05  # share of the adapters' input that is left out while training


# Next-token prediction


@dataclass(frozen=True, kw_only=True)
class LanguageOptions(StageOptions):
    RANGES: ClassVar[Mapping[str, Range]] = {"z_loss": Range(0, 100)}

    z_loss: float = 0.0  # weight of logsumexp(logits)^2, which keeps the logits from drifting (PaLM: 1e-4)


@dataclass(frozen=True, kw_only=True)
class PretrainingOptions(LanguageOptions):
    TARGET: ClassVar[str] = "lit_llm.stages.pretraining.Pretraining"


@dataclass(frozen=True, kw_only=True)
class ContinuedPretrainingOptions(LanguageOptions, DropoutAdapterOptions):
    TARGET: ClassVar[str] = "lit_llm.stages.continued_pretraining.ContinuedPretraining"
    RANGES: ClassVar[Mapping[str, Range]] = {"new_rows_lr": RATE}

    # Words of the domain that become single tokens, as they are written in it ("tensor", no space). Or auto:N: the N
    # tokens that save most on the run's training text, as further merges of the model's own BPE over bytes. Beside
    # adapters their rows of the embedding (and the head) are trained too, and no others.
    new_tokens: Sequence[str] | str = ()
    # Learning rate of the new tokens' rows at the schedule's peak, where that of the others is lower. None: as the
    # others. 0.001 was better on SmolLM2 with one seed (stages/README.md), which is too few to make it the default.
    new_rows_lr: float | None = None

    @property
    def learned_tokens(self) -> int:
        """N of auto:N; 0 where words are given, or nothing."""
        return int(self.new_tokens.removeprefix("auto:")) if isinstance(self.new_tokens, str) else 0

    def check(self) -> None:
        if isinstance(self.new_tokens, str) and not re.fullmatch(r"auto:[1-9]\d{0,6}", self.new_tokens):
            raise UserError(
                f"stage.new_tokens={self.new_tokens}: must be a list of words, such as [tensor,gradient], or auto:N, "
                "such as auto:2000"
            )
        if self.new_tokens and self.lora_rank and not self.lora_merge:
            raise UserError(
                f"stage.new_tokens: {self._told}; with stage.lora_merge=false the adapter's base would have no rows "
                "for them; leave one of the two out"
            )
        if not all(self.new_tokens):
            raise self.bad_tokens()
        super().check()

    @property
    def _told(self) -> str:
        return self.new_tokens if isinstance(self.new_tokens, str) else str(list(self.new_tokens))

    def bad_tokens(self) -> UserError:
        """What is said of an empty token, and where there is no tokenizer to add one to."""
        return UserError(f"stage.new_tokens: {self._told}; needs a tokenizer, and no token may be empty")


@dataclass(frozen=True, kw_only=True)
class SupervisedOptions(LanguageOptions, DropoutAdapterOptions):
    """Fine-tuning and instruction tuning."""

    RANGES: ClassVar[Mapping[str, Range]] = {"neftune_noise_alpha": Range(0, 10**4)}

    # Strength of uniform noise on the embeddings while training (NEFTune, arXiv:2310.05914, algorithm 1: 5); 0: none.
    neftune_noise_alpha: float = 0.0


@dataclass(frozen=True, kw_only=True)
class FineTuningOptions(SupervisedOptions):
    TARGET: ClassVar[str] = "lit_llm.stages.fine_tuning.FineTuning"


@dataclass(frozen=True, kw_only=True)
class InstructionTuningOptions(SupervisedOptions):
    TARGET: ClassVar[str] = "lit_llm.stages.instruction_tuning.InstructionTuning"


# Rankings and labels


@dataclass(frozen=True, kw_only=True)
class PreferenceOptions(AdapterOptions):
    """Learning beside a frozen reference. With adapters that is the policy with them as it began, no second copy."""

    TARGET: ClassVar[str] = "lit_llm.stages.preference_optimization.PreferenceOptimization"
    TAKES: ClassVar[tuple[str, ...]] = ("loss",)

    # Compute the reference's log-probabilities of all training and validation data before the first step, and keep them
    # in the data's cache_dir under the hash of data and reference: a later run reads them.
    reference_cache: bool = False
    reference_logps: str | None = None  # a file of those, which must be of this data and model; None: by their hashes

    @property
    def frozen_copies(self) -> int:
        return 0 if self.lora_rank or self.reference_cache or self.reference_logps else 1


@dataclass(frozen=True, kw_only=True)
class KTOOptions(PreferenceOptions):
    TARGET: ClassVar[str] = "lit_llm.stages.kto.KTO"
    TAKES: ClassVar[tuple[str, ...]] = ()
    RANGES: ClassVar[Mapping[str, Range]] = {
        "beta": Range(0, 10**4, above=True), "desirable_weight": FACTOR, "undesirable_weight": FACTOR,
    }  # fmt: skip

    beta: float = 0.1  # how dear it is to leave the reference
    desirable_weight: float = 1.0  # of good completions
    undesirable_weight: float = 1.0  # of bad ones; the weighted ratio of good to bad is best from 1 to 4/3

    def check(self) -> None:
        check_kto(self.beta, self.desirable_weight, self.undesirable_weight)
        super().check()


@dataclass(frozen=True, kw_only=True)
class RewardModelingOptions(DropoutAdapterOptions):
    """With adapters the new head alone is trained whole."""

    TARGET: ClassVar[str] = "lit_llm.stages.reward_modeling.RewardModeling"
    TAKES: ClassVar[tuple[str, ...]] = ("loss", "reward_validation")
    RANGES: ClassVar[Mapping[str, Range]] = {
        "normalize_batches": COUNT, "adherence_shape": Range(1, 10**6, above=True), "adherence_rate": FACTOR,
        "adherence_lr": RATE, "attack_weight": WEIGHT,
    }  # fmt: skip

    # After training, scores get mean 0 and deviation 1 over the answers of this many training batches (attacks among
    # them are no answers); 0: they stay as they are.
    normalize_batches: int = 16
    normalize_scale: bool = True  # False: only the mean
    # learned: a factor on the scores in the likelihood of each annotator's rankings, logged as adherence/<name>.
    adherence: Literal["none", "learned"] = "none"
    # Of the factors' Gamma prior, which has no peak unless it is above 1; with shape = rate its mean is 1.
    adherence_shape: float = 10.0
    adherence_rate: float = 10.0  # of the same prior
    adherence_lr: float = 0.03  # learning rate of the factors' logarithms at the schedule's peak
    # Of the pairs of an answer with an attack (data.attacks). They are a loss of their own, their mean over each
    # prompt, beside the people's: no annotator's adherence and no margin is in it, and the people's pairs keep the
    # weight that they have without attacks.
    attack_weight: float = 1.0

    def check(self) -> None:
        if self.adherence not in ("none", "learned"):
            raise UserError(f"stage.adherence: {self.adherence}; must be none or learned")
        super().check()


@dataclass(frozen=True, kw_only=True)
class FlagOptions(DropoutAdapterOptions):
    """With adapters the new head alone is trained whole."""

    TARGET: ClassVar[str] = "lit_llm.stages.flag_classification.FlagClassification"
    RANGES: ClassVar[Mapping[str, Range]] = {"positive_weight": FACTOR}

    trained: Literal["full", "head"] = "full"  # head: the transformer stays as it is
    # w of flagged answers in the loss; None or 1 leaves the probabilities calibrated, balanced is the training data's
    # unflagged over flagged answers, each with its annotator's weight.
    positive_weight: float | Literal["balanced"] | None = None

    def check(self) -> None:
        weight = self.positive_weight
        if self.trained not in ("full", "head"):
            raise UserError(f"stage.trained={self.trained}: must be full or head")
        if self.trained == "head" and self.lora_rank:
            raise UserError(f"stage.trained=head: trains no adapters; leave it or stage.lora_rank={self.lora_rank} out")
        number = isinstance(weight, int | float) and not isinstance(weight, bool) and 0 < weight < math.inf
        if weight is not None and weight != "balanced" and not number:
            raise UserError(f"stage.positive_weight={weight}: must be above 0, balanced or null")
        super().check()


# Stages that learn from their own answers


@dataclass(frozen=True, kw_only=True)
class RolloutOptions(AdapterOptions):
    """What PPO and GRPO share. With adapters the reference is the policy with them switched off, no second copy."""

    NEEDS: ClassVar[tuple[str, ...]] = ("reward",)
    TAKES: ClassVar[tuple[str, ...]] = ("gold",)
    RANGES: ClassVar[Mapping[str, Range]] = {
        "epochs": Range(1, 10**4), "minibatches": ROWS, "micro_batch_size": ROWS,
        "temperature": Range(0, 100, above=True), "max_new_tokens": SOME, "max_grad_norm": WEIGHT, "target_kl": FACTOR,
        "reward_validation_every_n_steps": SOME, "end_ids": Range(0, 2**31 - 1), "seed": SEED,
    }  # fmt: skip

    epochs: int = 1  # passes over a rollout
    minibatches: int = 1  # updates in each pass; must divide the rollout's answers
    micro_batch_size: int | None = None  # rows of a forward pass, for memory; None: a whole minibatch
    temperature: float = 1.0  # of sampling and of all scoring
    max_new_tokens: int = 64  # longest answer
    max_grad_norm: float = 1.0  # of each network's gradient; 0: no clipping
    target_kl: float | None = None  # a rollout's updates end early above this approximate KL to the sampling policy
    # Rollouts between validations of a learned reward on the policy's own answers; None: none.
    reward_validation_every_n_steps: int | None = None
    ignore_reward_validation: bool = False  # learn from a reward that fails its validation all the same
    end_ids: tuple[int, ...] | None = None  # tokens that end an answer; None: the tokenizer's
    # Of sampling and of the order of updates. They depend on it and on the rollout's number alone, so a resumed run
    # goes on exactly.
    seed: int = 0

    @property
    def frozen_copies(self) -> int:
        return 0 if self.lora_rank else 1

    @property
    def answers_to_a_prompt(self) -> int:
        return 1

    def pass_over(self, rows: int, length: int) -> tuple[int, int]:
        minibatch = -(-rows * self.answers_to_a_prompt // self.minibatches)
        return min(minibatch, self.micro_batch_size or minibatch), length + self.max_new_tokens

    def tokens_learned(self, rows: int, length: int) -> int:
        return self.epochs * rows * self.answers_to_a_prompt * (length + self.max_new_tokens)

    def sampled(self, rows: int, length: int) -> tuple[int, int]:
        return rows * self.answers_to_a_prompt, length + self.max_new_tokens


@dataclass(frozen=True, kw_only=True)
class PPOOptions(RolloutOptions):
    TARGET: ClassVar[str] = "lit_llm.stages.ppo.PPO"
    RANGES: ClassVar[Mapping[str, Range]] = {
        "kl_coef": WEIGHT, "clip_range": FACTOR, "clip_range_high": FACTOR, "value_clip_range": FACTOR,
        "vf_coef": WEIGHT, "gamma": SHARE, "lam": SHARE, "missing_eos_penalty": WEIGHT, "value_lr_ratio": FACTOR,
        "adaptive_kl_target": FACTOR, "adaptive_kl_horizon": SOME, "ptx_coef": WEIGHT,
    }  # fmt: skip

    kl_coef: float = 0.05  # beta, the price of a nat away from the reference; 0 is allowed
    clip_range: float = 0.2  # eps of the ratio
    clip_range_high: float | None = None  # eps of its upper bound (DAPO's clip-higher: 0.28); None: clip_range
    value_clip_range: float = 0.2  # eps of values, in units of the score
    vf_coef: float = 0.1  # weight of the value loss
    gamma: float = 1.0  # of GAE
    lam: float = 0.95  # of GAE
    epochs: int = 4  # passes over a rollout
    # Taken from the score of an answer cut by max_new_tokens; None: 1, or 0 with bootstrap_truncated.
    missing_eos_penalty: float | None = None
    # An answer cut by max_new_tokens ends with the value of the state that it was cut in, in place of its score: the
    # episode goes on, only out of sight (arXiv:1712.00378).
    bootstrap_truncated: bool = False
    value_init: str = "reward"  # from the reward model where there is one; zero: the policy's transformer, a zero head
    value_lr_ratio: float = 1.0  # the value network's learning rate over the policy's
    adaptive_kl_target: float | None = None  # nats an answer that kl_coef is steered to; None: it stays
    adaptive_kl_horizon: int = 10_000  # answers over which it is steered
    # gamma of PPO-ptx (InstructGPT, equation 2: 27.8), the weight of the mean next-token loss on pretraining text that
    # the data gives (data.ptx_path), a batch of it with every update; 0: none.
    ptx_coef: float = 0.0

    @property
    def trained_copies(self) -> int:
        return 0 if self.lora_rank else 1

    def check(self) -> None:
        for name, value in (("gamma", self.gamma), ("lam", self.lam)):
            if not 0 <= value <= 1:
                raise UserError(f"stage.{name}: {value}; must be between 0 and 1")
        if self.value_init not in VALUE_INITS:
            raise UserError(f"stage.value_init: {self.value_init}; must be {' or '.join(VALUE_INITS)}")
        super().check()


@dataclass(frozen=True, kw_only=True)
class GRPOOptions(RolloutOptions):
    TARGET: ClassVar[str] = "lit_llm.stages.grpo.GRPO"
    RANGES: ClassVar[Mapping[str, Range]] = {
        "group_size": Range(2, 10**5), "eps_low": Range(0, 1, above=True, below=True), "eps_high": FACTOR,
        "delta": Range(1, 10**6, above=True), "kl_coef": WEIGHT,
        "success_at": Range(-(10**9), 10**9), "validation_samples": Range(1, 10**5),
    }  # fmt: skip

    group_size: int = 8  # G, answers to each prompt; a rollout has data.micro_batch_size x G answers on every device
    scale: str = "none"  # what an advantage is divided by: or the standard deviation of its group or of the batch
    eps_low: float = 0.2  # how far below 1 the ratio may learn
    eps_high: float = 0.28  # how far above 1
    # Whose ratio to the policy that sampled is clipped: a token's, or with "sequence" the answer's, its geometric mean
    # over tokens (GSPO, arXiv:2507.18071; with aggregation sequence_mean and bounds such as 3e-4 and 4e-4).
    ratio: str = "token"
    # Where the ratio of a bad answer stops to count, above 1 + eps_high (two-sided clipping, arXiv:2505.07291: 4);
    # None: nowhere.
    delta: float | None = None
    # token_mean: every token counts alike; sequence_mean: every answer; constant: as token_mean, but over
    # max_new_tokens for each answer, whatever its length.
    aggregation: str = "token_mean"
    kl_coef: float = 0.0  # beta, the price of a nat away from the reference; 0: none
    kl_in: str = "loss"  # where it is paid: rho * k3 at every token; or reward: k1 of the answer, before the baseline
    mask_truncated: bool = False  # answers cut by max_new_tokens are not learned from; the baseline counts their reward
    success_at: float = 1.0  # reward from which an answer counts as right, for pass@k
    validation_samples: int = 1  # answers to each validation prompt

    @property
    def answers_to_a_prompt(self) -> int:
        return self.group_size

    def check(self) -> None:
        if self.group_size < 2:
            raise UserError(
                f"stage.group_size: {self.group_size}; must be 2 or more, to measure an answer by its group"
            )
        self.one_of("scale", SCALES)
        self.one_of("aggregation", AGGREGATIONS)
        self.one_of("kl_in", KL_PLACES)
        if self.eps_low >= 1:
            raise UserError(f"stage.eps_low: {self.eps_low}; must be below 1, as no ratio is below 0")
        self.one_of("ratio", RATIOS)
        if self.delta is not None and not 1 + self.eps_high < self.delta < math.inf:
            raise UserError(
                f"stage.delta={self.delta}: must be above 1 + stage.eps_high = {1 + self.eps_high:g}, or null"
            )
        super().check()
