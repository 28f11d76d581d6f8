"""Two processes that share a rollout learn what one process learns from the whole of it, whatever its lengths."""

from functools import partial

import pytest
import torch

from lit_llm.optim.schedules import constant
from lit_llm.records import Rollout
from lit_llm.runtime.distributed import data_rank
from lit_llm.stages.grpo import GRPO
from lit_llm.stages.ppo import PPO

from .test_pretraining_mix import Data, Text
from .toy import END, LIKED, VOCABULARY, made, prompt_batch, tiny_model, trainer

SHORT, LONG = 1, 7  # tokens of an answer of the first process, and at most of the second
PLAIN = {"optimizer": lambda network: torch.optim.SGD(network.parameters(), lr=0.1), "schedule": constant}


def rollout(answers: int) -> Rollout:
    """The first half of the answers are short, the others long."""
    g = torch.Generator().manual_seed(0)
    sizes = torch.tensor([SHORT] * (answers // 2) + [LONG - i for i in range(answers // 2)])
    ids = torch.randint(6, VOCABULARY, (answers, 3 + LONG), generator=g)
    ids[torch.rand(ids.shape, generator=g) < 0.3] = LIKED
    ids[torch.arange(answers), 2 + sizes] = END
    lengths = torch.full((answers,), 3)
    places = torch.arange(2 + LONG)
    mask = (places >= 2) & (places < 2 + sizes[:, None])
    return Rollout(
        input_ids=ids, lengths=lengths + sizes, prompt_lengths=lengths, mask=mask, logps=torch.zeros(mask.shape),
        finished=torch.ones(answers, dtype=torch.bool),
    )  # fmt: skip


class Texts(Text):
    """One row of text for each process."""

    def __init__(self):
        super().__init__(rows=2)
        self.masked[0, 3:] = True


class Shares(Data):
    """The rows of each process, and its text, in turn."""

    def __init__(self, processes, ptx):
        super().__init__([prompt_batch(8 // processes)] * processes, ptx)
        self.processes = processes

    def ptx_loader(self):
        if not self.text:
            return None
        rows = [data_rank()[0]] if self.processes > 1 else [0, 1]

        class Loader(list):
            def state_dict(self):
                return {}

        return Loader([Texts().collate(rows)])


class Liked:
    def score_tokens(self, input_ids, lengths):
        return torch.tensor(
            [(row[3:n] == LIKED).float().sum() for row, n in zip(input_ids, lengths, strict=True)],
            dtype=torch.float32,
        )

    def __call__(self, *_):
        raise AssertionError


def learned(stage, processes, folder, ptx):
    """The weights after one update."""

    def sample(*_):
        whole, rank = rollout(8), stage.global_rank
        size = 8 // processes
        return Rollout(*(column[rank * size : (rank + 1) * size] for column in whole))

    stage.sampler.sample = sample
    several = {"devices": 2, "strategy": "ddp_fork"} if processes == 2 else {}
    run = trainer(max_steps=1, max_epochs=-1, default_root_dir=folder, **several)
    run.fit(stage, datamodule=Shares(processes, ptx))
    return stage.state_dict()


MADE = {
    "ppo": partial(made, PPO, ptx_coef=0.0, vf_coef=0.5, kl_coef=0.0, epochs=1),
    "ppo_ptx": partial(made, PPO, ptx_coef=2.0, vf_coef=0.5, kl_coef=0.0, epochs=1),
    "grpo": partial(made, GRPO, group_size=4, scale="batch"),
}


@pytest.mark.parametrize(
    "name", ["ppo_ptx", pytest.param("ppo", marks=pytest.mark.slow), pytest.param("grpo", marks=pytest.mark.slow)]
)
def test_two_processes_learn_what_one_does(name, tmp_path):
    found = []
    for processes in (1, 2):
        given = {"max_new_tokens": LONG, "end_ids": (END,), "max_grad_norm": 0.0, "micro_batch_size": 3, **PLAIN}
        stage = MADE[name](model=tiny_model(), reward=Liked(), **given)
        before = {key: value.clone() for key, value in stage.state_dict().items()}
        found.append(learned(stage, processes, tmp_path, name == "ppo_ptx"))
    assert any((found[0][key] - before[key]).abs().max() > 1e-3 for key in before)
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-4, atol=1e-5, msg=key)
