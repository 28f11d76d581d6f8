"""Rows of new tokens: means of their pieces' rows, and what alone is trained beside adapters."""

import pytest
import torch

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.lora import apply_lora, merge_lora
from lit_llm.backbone.models import LanguageModel, grow_vocabulary
from lit_llm.backbone.new_rows import set_to_means, token_tables, train_rows
from lit_llm.optim.adamw import adamw
from lit_llm.optim.muon import muon_adamw
from lit_llm.optim.parameter_groups import ROWS, parameter_groups


def grown(tied: bool, bias: bool = False) -> LanguageModel:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_heads": 2, "max_positions": 16, "tie_embeddings": tied}
    model = LanguageModel(from_depth(20, 1, **shape))
    if bias:
        model.lm_head.bias = torch.nn.Parameter(torch.randn(20))
    grow_vocabulary(model, 23)
    return model


@pytest.mark.parametrize(("tied", "bias", "tables"), [(True, False, 1), (False, False, 2), (False, True, 3)])
def test_a_row_is_the_mean_of_its_pieces(tied, bias, tables):
    model = grown(tied, bias)
    before = [table.clone() for table in token_tables(model)]
    set_to_means(model, {20: (3, 4), 22: (5, 5, 6)})  # 21 is somebody else's
    for table, old in zip(token_tables(model), before, strict=True):
        torch.testing.assert_close(table[20], (old[3] + old[4]) / 2)
        torch.testing.assert_close(table[22], (2 * old[5] + old[6]) / 3)
        kept = [*range(20), 21]
        assert torch.equal(table[kept], old[kept])
    assert len(before) == tables


@pytest.mark.parametrize("tied", [True, False])
def test_beside_adapters_the_new_rows_are_trained_and_no_others(tied):
    model = apply_lora(grown(tied), rank=2, dropout=0)
    train_rows(model, [20, 22])
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = adamw(model, lr=0.05, weight_decay=0.5)
    assert not {id(table) for table in token_tables(model)} & {id(one) for one in parameter_groups(model).decayed}
    ids = torch.tensor([[1, 20, 3, 22, 21, 7]])
    for _ in range(3):
        logits = model.logits(model(ids[:, :-1]))
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    tables = {id(table) for table in token_tables(model)}
    for name, weight in model.named_parameters():
        if id(weight) in tables:
            others = [*range(20), 21]
            assert torch.equal(weight[others], before[name][others]), name
            assert (weight[[20, 22]] != before[name][[20, 22]]).any(dim=1).all(), name
        elif ".lora_" not in name:
            assert torch.equal(weight, before[name]), name
    with torch.no_grad():
        expected = model.logits(model(ids))
        torch.testing.assert_close(merge_lora(model).logits(model(ids)), expected, rtol=1e-4, atol=1e-5)


IDS = torch.tensor([[1, 20, 3, 22, 21, 7]])


def adapted_and_its_optimizer(make, *, whole=False):
    """``whole``: an optimizer that knows of no rows, and keeps moments of all."""
    model = apply_lora(grown(tied=False, bias=True), rank=2, dropout=0)
    train_rows(model, [20, 22])
    optimizer = make(model, lr=0.05, weight_decay=0.5)
    for table in token_tables(model) if whole else ():
        delattr(table, ROWS)
    return model, optimizer


def steps(model, optimizer, count):
    for _ in range(count):
        logits = model.logits(model(IDS[:, :-1]))
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), IDS[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def stock_adamw(model, **options):
    """torch's own, over the same groups."""
    made = adamw(model, **options)
    groups = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in made.param_groups]
    known = {name: made.defaults[name] for name in ("betas", "eps")}
    return torch.optim.AdamW(groups, lr=options["lr"], fused=True, **known)


@pytest.mark.parametrize(("make", "other"), [(adamw, stock_adamw), (muon_adamw, muon_adamw)])
def test_moments_of_the_new_rows_alone_train_them_as_those_of_all_do(make, other):
    model, optimizer = adapted_and_its_optimizer(make)
    found, wanted = steps(model, optimizer, 4), steps(*adapted_and_its_optimizer(other, whole=True), 4)
    for name, weight in found.items():
        torch.testing.assert_close(weight, wanted[name], rtol=1e-6, atol=1e-7, msg=name)
    shapes = [tuple(optimizer.state[table]["exp_avg_sq"].shape) for table in token_tables(model)]
    assert shapes == [(2, 32), (2, 32), (2,)]


@pytest.mark.parametrize("make", [adamw, muon_adamw])
def test_a_checkpoint_goes_on_bitwise_an_old_one_with_moments_of_all_rows_too(make):
    wanted = steps(*adapted_and_its_optimizer(make), 5)
    for whole in (False, True):
        model, optimizer = adapted_and_its_optimizer(make, whole=whole)
        weights, moments = steps(model, optimizer, 2), optimizer.state_dict()
        model, optimizer = adapted_and_its_optimizer(make)
        model.load_state_dict(weights, strict=False)
        optimizer.load_state_dict(moments)
        found = steps(model, optimizer, 3)
        for name, weight in found.items():
            assert torch.equal(weight, wanted[name]), name
