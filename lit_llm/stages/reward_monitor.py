"""Whether the reward deserves to be maximised: its validation before a step, and later on the policy's own answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L

from lit_llm.checkpointing import atomic
from lit_llm.errors import UserError
from lit_llm.rewards.folders import folders_of
from lit_llm.rewards.scoring import Answers
from lit_llm.rewards.validation.gate import ADVICE, RewardValidationFailed, require_passed
from lit_llm.rewards.validation.result import file_in, read_result
from lit_llm.rewards.validation.validator import RewardValidator, rerun

log = logging.getLogger(__name__)

LAST_GOOD = "checkpoints/last_good.ckpt"


class RewardMonitor:
    """Validations of a learned reward. A reward without reward models is a rule, which is not validated.

    Args:
        reward, gold: as of ``OnPolicy``.
        every_n_steps: rollouts between validations on the policy's own answers; None: none on the way.
        ignore: fail without consequence but a warning.
    """

    def __init__(self, reward: Any, gold: Any, every_n_steps: int | None, ignore: bool) -> None:
        self.reward, self.gold, self.every_n_steps, self.ignore = reward, gold, every_n_steps, ignore
        self.folders = folders_of(reward)
        self.validator = validator_of(self.folders)
        self.failed = False

    def gate(self) -> None:
        """Raises RewardValidationFailed where a reward model failed its validation at the end of its training."""
        for folder in self.folders:
            require_passed(folder, ignore=self.ignore)

    def due(self, step: int) -> bool:
        """Whether this rollout's answers validate it: every so often, and the first where there was none yet."""
        if not self.folders:
            return False
        if step == 0:
            return any(read_result(folder) is None for folder in self.folders)
        return self.every_n_steps is not None and step % self.every_n_steps == 0

    def validate(self, stage: L.LightningModule, answers: Answers, step: int) -> dict[str, float]:
        """Validates the reward on these answers where it is due. Returns what is logged of it.

        The weights that a reward passed with are kept; when it fails, the run goes back to them and ends (``failed``).
        Raises RewardValidationFailed where it fails before anything was learned.
        """
        self.failed = False
        if not self.due(step):
            if step == 0 and self.every_n_steps is not None and self.folders:
                keep(stage.trainer)
            return {}
        result = rerun(
            self.reward, answers.prompts, answers.texts, gold=self.gold, rows=answers.rows, validator=self.validator
        )
        logged = {"reward_validation/passed": float(result.passed)}
        logged |= {f"reward_validation/{name}": probe.share for name, probe in result.probes.items()}
        passed = bool(stage.trainer.strategy.reduce_boolean_decision(result.passed, all=True))
        reasons = "; ".join(result.reasons) or "on another process's answers"
        if passed:
            keep(stage.trainer)
        elif self.ignore:
            log.warning(
                "rollout %d: the reward fails its validation (%s); stage.ignore_reward_validation=true: going on",
                step,
                reasons,
            )
        elif step == 0:
            raise RewardValidationFailed(
                f"{', '.join(self.folders)}: the reward fails its validation on the policy's own answers: "
                             f"{reasons}; {ADVICE}")  # fmt: skip
        else:
            self.failed = True
            go_back(stage.trainer, stage, step, reasons)
        return logged


def validator_of(folders: Sequence[str]) -> RewardValidator:
    """The settings that the first of these reward models was validated with; the usual ones where there are none.

    Raises UserError where its settings in ``reward_validation.json`` are none of a validation.
    """
    for folder in folders:
        settings = (read_result(folder) or {}).get("settings")
        if settings:
            try:
                return RewardValidator(**settings)
            except TypeError as error:
                raise UserError(
                    f"{file_in(folder)}: settings: {error}; train the reward model again to have it validated"
                ) from error
    return RewardValidator()


def keep(trainer: L.Trainer) -> None:
    """Writes the weights of now as the last good ones. All ranks call it."""
    if not trainer.fast_dev_run:  # type: ignore[attr-defined]
        trainer.save_checkpoint(Path(trainer.default_root_dir) / LAST_GOOD, weights_only=True)


def go_back(trainer: L.Trainer, stage: L.LightningModule, step: int, reasons: str) -> None:
    """Ends the run with the last good weights, and says so in one line. With those of now where the file of the good
    ones is not as it was written: every process reads it, and all go back or none."""
    file, good, wrong = Path(trainer.default_root_dir) / LAST_GOOD, None, ""
    if file.exists():
        try:
            # What a sharded run wrote is a folder, of which each process reads its part.
            good = trainer.strategy.load_checkpoint(file) if file.is_dir() else atomic.load(file, stage.device)
        except UserError as error:
            wrong = f"; those of the last validation that it passed cannot be read: {error}"
    if trainer.strategy.reduce_boolean_decision(good is not None, all=True):
        assert good is not None
        trainer.strategy.load_model_state_dict(good)
        kept = "the weights of the last validation that it passed are kept"
    else:
        kept = f"the weights of now are kept{wrong}"
    log.warning("the run ends at rollout %d: the reward fails its validation (%s); %s; %s", step, reasons, kept, ADVICE)
    trainer.should_stop = True
