"""What gold says of each validation prompt is kept, in the same order each time: the error of its change needs it."""

import pytest

from .test_grpo import LikedShare, grpo
from .toy import loader, prompt_batch, trainer


def test_gold_is_kept_prompt_by_prompt_of_the_last_validation_alone():
    stage = grpo(gold=LikedShare(), validation_samples=2)
    sets = loader([prompt_batch(4, seed=1), prompt_batch(3, seed=2)])
    runner = trainer(max_steps=1, max_epochs=-1)
    for _ in range(2):
        runner.validate(stage, sets, verbose=False)
    (kept,) = stage.gold_by_prompt.values()
    assert [len(part) for part in kept] == [4, 3]
    mean = sum(float(part.sum()) for part in kept) / 7
    assert mean == pytest.approx(float(runner.callback_metrics["val/set0/gold"]), abs=1e-6)
