"""The layer is torch's, whichever library multiplies."""

import pytest
import torch
import torch.nn.functional as F

from lit_llm.backbone import linear as module
from lit_llm.backbone.linear import MANY_ROWS, Linear, linear
from lit_llm.runtime import processor

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@pytest.fixture
def products(monkeypatch):
    """Counts oneDNN's products, on a processor with AVX2 alone."""
    made = []
    plain = module._product
    monkeypatch.setattr(module, "_product", lambda *given: made.append(given) or plain(*given))
    monkeypatch.setattr(processor, "has_narrow_vectors", lambda: HAS_ONEDNN)
    return made


@pytest.mark.skipif(not HAS_ONEDNN, reason="this torch has no oneDNN")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [(MANY_ROWS,), (3, MANY_ROWS // 2)])
def test_value_and_gradients_are_those_of_float64(products, rows, bias):
    torch.manual_seed(0)
    layer = Linear(40, 24, bias=bias)
    x = torch.randn(*rows, 40, requires_grad=True)
    out = layer(x)
    gradients = torch.autograd.grad(out.cos().sum(), [x, *layer.parameters()])
    assert len(products) == 2  # forward, and the gradient by x
    exact = [each.detach().double().requires_grad_() for each in [x, *layer.parameters()]]
    wanted = F.linear(exact[0], exact[1], exact[2] if bias else None)
    torch.testing.assert_close(out.double(), wanted, atol=1e-5, rtol=1e-5)
    expected = torch.autograd.grad(wanted.cos().sum(), exact)
    for mine, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine.double(), other, atol=2e-4, rtol=1e-5)


@pytest.mark.skipif(not HAS_ONEDNN, reason="this torch has no oneDNN")
def test_frozen_weights_get_no_gradient_and_a_first_layer_gives_none(products):
    x, weight = torch.randn(MANY_ROWS, 8), torch.randn(16, 8, requires_grad=True)
    linear(x, weight, None).sum().backward()
    assert weight.grad is not None and len(products) == 1
    given = torch.randn(MANY_ROWS, 8, requires_grad=True)
    linear(given, weight.detach(), None).sum().backward()
    torch.testing.assert_close(given.grad, weight.detach().sum(0).expand(MANY_ROWS, 8))
    assert [each is None for each in linear(given, weight.detach(), None).grad_fn.saved_tensors] == [True, False]


def test_everything_else_is_torchs(products):
    many, weight = torch.randn(MANY_ROWS, 8), torch.randn(16, 8)
    linear(many[1:], weight, None)
    linear(many.double(), weight.double(), None)
    linear(many.bfloat16(), weight.bfloat16(), None)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(many, weight, None).dtype == torch.bfloat16
    assert torch.equal(torch.compile(linear, backend="eager")(many, weight, None), F.linear(many, weight))
    assert not products


def test_wider_vectors_keep_to_torchs(products, monkeypatch):
    monkeypatch.setattr(processor, "has_narrow_vectors", lambda: False)
    linear(torch.randn(MANY_ROWS, 8), torch.randn(16, 8), None)
    assert not products
