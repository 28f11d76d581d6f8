"""The same documents in rows of every length."""

from __future__ import annotations

import pytest
import torch
from benchmarks.scaling.work import Settings, _built, packed_batch

from lit_llm.errors import UserError
from lit_llm.runtime.arguments import parse


def test_rows_of_every_length_hold_the_same_documents() -> None:
    short, long = (packed_batch(1024, context, (20, 50), 99) for context in (128, 1024))
    assert short.input_ids.shape == (8, 128) and long.input_ids.shape == (1, 1024)
    assert torch.equal(short.input_ids.flatten(), long.input_ids.flatten())
    assert torch.equal(short.labels.flatten(), long.labels.flatten())
    assert int(long.positions.max()) < 49 and int(long.segments.max()) > 1024 / 49 - 1


def test_the_loss_of_a_step_hardly_depends_on_where_rows_are_cut() -> None:
    settings = Settings(32, 1, 2, 64, tokens=512, contexts=(128, 512), shortest=20, longest=50, precision="32-true")
    losses = []
    for context in settings.contexts:
        step = _built(settings, context, True, "cpu")
        step()
        losses.append(step.numbers()["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


@pytest.mark.parametrize(
    "words", ["contexts=100", "rounds=0", "layers=0", "heads=-1", "hidden_size=250", "device=tpu", "device=cuda:99"]
)
def test_mistakes_are_one_line(words: str) -> None:
    with pytest.raises(UserError, match=f"^{words.partition('=')[0]}=.*(must|is not in this machine)"):
        parse(Settings, [words])
