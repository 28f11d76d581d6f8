"""Proxy against gold: what is written, what ends a run, what is warned of, and that a resumed run goes on with it."""

import json
import logging
import math
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from lit_llm.callbacks.overoptimization import FILE, Overoptimization
from lit_llm.errors import UserError


class Policy(L.LightningModule):
    """Validates as a policy does; the n-th validation says what ``rows[n]`` holds."""

    def __init__(self, rows):
        super().__init__()
        self.rows, self.weight = rows, torch.nn.Parameter(torch.zeros(1))
        self.seen = 0

    def training_step(self, batch, _):
        return (self.weight * batch).sum()

    def validation_step(self, batch, _):
        pass

    def on_validation_epoch_end(self):
        row = self.rows[min(self.seen, len(self.rows) - 1)]
        self.seen += 1
        spread, by_prompt = row.get("spread"), row.get("by_prompt")
        own = ("spread", "by_prompt")
        self.log_dict({f"val/prompts/{name}": value for name, value in row.items() if name not in own})
        if by_prompt is not None:
            self.gold_by_prompt = {"prompts": [torch.tensor(by_prompt)]}
        if spread is not None:
            self.log("objective/scores_std", spread)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, rows, callback, steps=6, logger=False, **options):
    batches = DataLoader(torch.ones(steps, 1))
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        val_check_interval=1,
        default_root_dir=folder,
        logger=logger,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(Policy(rows), batches, DataLoader(torch.ones(1, 1)))
    return trainer


def row(kl, scores, gold=None, **more):
    return {"kl": kl, "scores": scores, **({} if gold is None else {"gold": gold}), **more}


def lines(folder):
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


PARTING = [row(0.5, 1, 1), row(1, 2, 2), row(2, 3, 1.9), row(3, 4, 1.8), row(4, 5, 1.7), row(5, 6, 1.6)]


def test_it_ends_when_gold_fell_twice_while_the_proxy_rose(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "lit_llm"):
        trainer = fit(tmp_path, PARTING, Overoptimization())
    assert trainer.global_step == 4 and "fell 2 times in a row" in caplog.text
    assert [(one["step"], one["proxy"], one["gold"], one["kl"]) for one in lines(tmp_path)] == [
        (1, 1, 1, 0.5),
        (2, 2, 2, 1),
        (3, 3, pytest.approx(1.9), 2),
        (4, 4, pytest.approx(1.8), 3),
    ]


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (PARTING, {"patience": None}),
        ([row(i, i, 9 - 0.1 * (i % 2)) for i in range(6)], {}),  # now down, now up
        ([row(i, -i, 9 - i) for i in range(6)], {}),  # both fall: the proxy is not what is exploited
        ([row(i, i) for i in range(6)], {}),  # nothing to judge by
    ],
)
def test_it_goes_on_otherwise(tmp_path, rows, options):
    assert fit(tmp_path, rows, Overoptimization(**options)).global_step == 6
    assert len(lines(tmp_path)) == 6


@pytest.mark.parametrize(("noise", "steps"), [(0.0, 4), (0.05, 4), (2.0, 6)])
def test_a_fall_within_its_error_prompt_by_prompt_is_none(tmp_path, noise, steps):
    """Prompts differ by far more than the fall, which only their changes tell."""
    rows = []
    for n, one in enumerate(PARTING):
        swing = [noise * (-1) ** (n + k // 2) for k in range(4)]
        rows.append({**one, "by_prompt": [one["gold"] + 9 * (-1) ** k + swing[k] for k in range(4)]})
    assert fit(tmp_path, rows, Overoptimization()).global_step == steps
    found = lines(tmp_path)
    assert "gold_change_se" not in found[0]
    change = torch.tensor(rows[2]["by_prompt"]) - torch.tensor(rows[1]["by_prompt"])
    assert found[2]["gold_change_se"] == pytest.approx(float(change.std()) / 2, abs=1e-6)


def test_the_error_of_a_resumed_run_s_first_change_is_known():
    first = Overoptimization()
    first._add_errors([{"source": "prompts"}], {"prompts": torch.tensor([1.0, 2.0])})
    second, row = Overoptimization(), {"source": "prompts"}
    second.load_state_dict(first.state_dict())
    second._add_errors([row], {"prompts": torch.tensor([1.0, 4.0])})
    assert row["gold_change_se"] == pytest.approx(1.0)


def test_tensorboard_has_both_rewards_over_the_root_of_the_kl(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="tensorboard")
    fit(tmp_path, PARTING, Overoptimization(patience=None), logger=logger)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "overoptimization"))
    events.Reload()
    gold = events.Scalars("overoptimization/prompts/gold")
    assert [event.step for event in gold] == [round(1000 * math.sqrt(one["kl"])) for one in PARTING]
    assert [event.value for event in gold] == pytest.approx([one["gold"] for one in PARTING])


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ({"response_length": 31.0}, "31 tokens an answer, 20 at first"),
        ({"response_length": 13.0}, "13 tokens an answer"),
        ({"eos_rate": 0.6}, "60% of the answers end, 90% at first"),
        ({"spread": 0.1}, "0.1 is the spread of the scores, 1 at first"),
    ],
)
def test_signs_are_warned_of_once(tmp_path, caplog, last, said):
    usual = {"response_length": 20.0, "eos_rate": 0.9, "spread": 1.0}
    rows = [row(1, 1, **usual), row(2, 2, **usual), *[row(3, 3, **{**usual, **last})] * 3]
    with caplog.at_level(logging.WARNING, "lit_llm"):
        fit(tmp_path, rows, Overoptimization(), steps=5)
    found = [record.getMessage() for record in caplog.records if "exploited" in record.getMessage()]
    assert len(found) == 1 and said in found[0]


def test_a_stage_without_kl_leaves_nothing(tmp_path):
    fit(tmp_path, [{"loss": 1.0}], Overoptimization())
    assert not (tmp_path / FILE).exists()


def test_a_resumed_run_goes_on_with_what_was_seen(tmp_path):
    first = Overoptimization(patience=None)
    fit(tmp_path, PARTING[:3], first, steps=3)
    second = Overoptimization()
    second.load_state_dict(first.state_dict())
    second.rows.append({"step": 4, "source": "prompts", "kl": 9.0, "proxy": 9.0})  # of steps that are done again
    fit(tmp_path, PARTING[3:], second, steps=1)
    assert [one["step"] for one in second.rows] == [1]  # this toy counts from 1 again: later rows are taken back


@pytest.mark.parametrize(("patience", "stops"), [(2, True), (None, False), (3, False)])
def test_a_run_that_it_ended_makes_no_step_more_when_it_is_resumed(patience, stops):
    first = Overoptimization()
    seen = [{**one, "proxy": one["scores"], "source": "prompts"} for one in PARTING[:4]]
    first.rows = [{"step": step, **one} for step, one in enumerate(seen, 1)]
    second = Overoptimization(patience=patience)
    second.load_state_dict(first.state_dict())
    run = SimpleNamespace(should_stop=False, global_step=4, lightning_module=Policy(PARTING))
    second.on_train_start(run, run.lightning_module)
    assert run.should_stop is stops


@pytest.mark.parametrize(
    "options", [{"patience": 0}, {"length_change": 1.0}, {"eos_drop": 0.0}, {"spread_change": float("nan")}]
)
def test_options_that_make_no_sense(options):
    with pytest.raises(UserError, match=f"overoptimization.{next(iter(options))}"):
        Overoptimization(**options)
