"""PPO-ptx: its gradient is the sum of two; its place in the text survives a stop; text and coefficient go together."""

import lightning as L
import pytest
import torch

from lit_llm.data.loading import ResumableLoader, shuffled
from lit_llm.data.options import PromptsOptions
from lit_llm.errors import UserError
from lit_llm.objectives.language import cross_entropy
from lit_llm.records import IGNORE, TokenBatch
from lit_llm.stages.pretraining_mix import PretrainingMix

from .test_ppo import ppo
from .toy import VOCABULARY, loader, prompt_batch, trainer


class Text:
    """Rows of random tokens, some of whose labels are masked."""

    def __init__(self, rows=10, size=12):
        g = torch.Generator().manual_seed(0)
        self.ids = torch.randint(0, VOCABULARY, (rows, size + 1), generator=g)
        self.masked = torch.rand((rows, size), generator=g) < 0.3

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, row):
        return row

    def collate(self, rows):
        ids = self.ids[rows]
        labels = torch.where(self.masked[rows], IGNORE, ids[:, 1:])
        positions = torch.arange(ids.shape[1] - 1).expand(len(rows), -1)
        return TokenBatch(ids[:, :-1], labels, positions, torch.zeros_like(positions), torch.zeros_like(positions))


class Data(L.LightningDataModule):
    options = PromptsOptions(ptx_path="text.txt")

    def __init__(self, batches, text=True):
        super().__init__()
        self.batches, self.text = batches, text

    def train_dataloader(self):
        return loader(self.batches)

    def ptx_loader(self):
        return ResumableLoader(Text(), 4, order=shuffled(10, 0), fingerprint="text") if self.text else None


def gradients(coef, text=True, **options):
    """The policy's gradients of the first update."""
    stage = ppo(ptx_coef=coef, epochs=1, minibatches=1, max_grad_norm=0.0, **options)
    found = {}

    def finish(parameters, scale, max_norm, loss):
        found.update({} if found else {name: p.grad.clone() for name, p in stage.model.named_parameters()})
        return type(stage).finish_gradients(stage, parameters, scale, max_norm, loss)

    stage.finish_gradients = finish
    trainer(max_steps=1, max_epochs=-1).fit(stage, datamodule=Data([prompt_batch(8)], text))
    return found, stage


@pytest.mark.parametrize("micro", [None, 3])
def test_the_gradient_is_ppos_plus_the_coefficient_times_the_texts(micro):
    mixed, stage = gradients(27.8, micro_batch_size=micro)
    alone, _ = gradients(0.0, text=False)
    model = ppo().model.double()
    batch = next(iter(Data([]).ptx_loader()))
    loss = cross_entropy(model(batch.input_ids, batch.positions, batch.segments), model.output_weight, batch.labels)
    (loss.loss / (batch.labels != IGNORE).sum()).backward()
    for name, parameter in model.named_parameters():
        expected = alone[name].double() + 27.8 * parameter.grad
        torch.testing.assert_close(mixed[name].double(), expected, rtol=1e-4, atol=1e-5)
    assert stage.latest["loss/ptx"] == pytest.approx((loss.loss / (batch.labels != IGNORE).sum()).item(), rel=1e-5)


def test_a_stopped_run_goes_on_with_the_next_rows_of_text(tmp_path):
    def run(steps, batches, resume=None):
        stage, engine = ppo(ptx_coef=1.0, epochs=1), trainer(max_steps=steps, max_epochs=-1)
        engine.fit(stage, datamodule=Data(batches), ckpt_path=resume, weights_only=True)
        return stage, engine

    batches = [prompt_batch(8, seed=i) for i in range(3)]
    whole, _ = run(3, batches)
    half, engine = run(2, batches)
    assert half.mix.state_dict()["epoch"] == 1  # 4 updates of 4 of the 10 rows
    engine.save_checkpoint(tmp_path / "half.ckpt")
    again, _ = run(3, batches[2:] + batches[:2], tmp_path / "half.ckpt")
    for (name, one), two in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def test_text_and_coefficient_go_together():
    assert PretrainingMix.of(Data([], text=False), 0.0) is None and PretrainingMix.of(object(), 0.0) is None
    with pytest.raises(UserError, match=r"ptx_coef=27\.8.*data\.ptx_path"):
        PretrainingMix.of(Data([], text=False), 27.8)
    with pytest.raises(UserError, match=r"data\.ptx_path=text\.txt.*stage\.ptx_coef"):
        PretrainingMix.of(Data([]), 0.0)
    with pytest.raises(UserError, match="no batch"):
        PretrainingMix([]).next()
