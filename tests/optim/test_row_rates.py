"""Rows with a rate of their own move as parameters in a group of their own would."""

import pytest
import torch

from lit_llm.optim.muon import MuonAdamW
from lit_llm.optim.row_rates import learn_faster
from lit_llm.optim.schedules import cosine

ROWS, NEW, WIDTH, LR = 9, [8, 2, 5], 4, 0.02
OLD = [row for row in range(ROWS) if row not in NEW]


def sgd(groups):
    return torch.optim.SGD(groups, lr=LR, momentum=0.9, weight_decay=0.1)


def adamw(groups):
    return torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95), weight_decay=0.1, fused=True)


def muon(groups):
    told = {"muon": False, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    return MuonAdamW([{"lr": LR, **told, **group} for group in groups])


def loss(table, bias, step):
    generator = torch.Generator().manual_seed(step)
    x, y = torch.randn(16, WIDTH, generator=generator), torch.randint(ROWS, (16,), generator=generator)
    return torch.nn.functional.cross_entropy(x @ table.T + bias, y)


def trained(make, groups, tables, prepare=lambda _: None):
    optimizer = make(groups)
    prepare(optimizer)
    schedule = cosine(optimizer, 8, warmup_steps=2)
    for step in range(8):
        optimizer.step(lambda step=step: closure(optimizer, tables, step))
        schedule.step()
    return [table.detach() for table in tables()]


def closure(optimizer, tables, step):
    optimizer.zero_grad()
    found = loss(*tables(), step)
    found.backward()
    return found


@pytest.mark.parametrize("make", [sgd, adamw, muon])
@pytest.mark.parametrize(("asked", "rate"), [(7 * LR, 7 * LR), (LR / 4, LR)])
def test_rows_move_as_a_group_with_that_rate_and_the_others_as_before(make, asked, rate):
    torch.manual_seed(0)
    start = torch.randn(ROWS, WIDTH), torch.randn(ROWS)
    table, bias = (torch.nn.Parameter(each.clone()) for each in start)
    found = trained(
        make, [{"params": [table, bias]}], lambda: (table, bias), lambda o: learn_faster(o, (table, bias), NEW, asked)
    )
    parts = [[torch.nn.Parameter(each[rows].clone()) for each in start] for rows in (OLD, NEW)]
    back = torch.tensor([*OLD, *NEW]).argsort()
    wanted = trained(
        make,
        [{"params": parts[0]}, {"params": parts[1], "lr": rate}],
        lambda: [torch.cat(pair)[back] for pair in zip(*parts, strict=True)],
    )
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
