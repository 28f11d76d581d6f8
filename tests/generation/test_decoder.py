"""Invariant: the decoder says what the model's own forward says, whatever the family, the batch and the cache hold."""

import copy

import pytest
import torch

from lit_llm.backbone.config import RopeScaling, from_depth
from lit_llm.backbone.lora import adapted, apply_lora, lora_disabled
from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError
from lit_llm.generation import cuda_graphs, scheduler, transformers_decoder
from lit_llm.generation.choice import Choice
from lit_llm.generation.decoder import Decoder
from lit_llm.generation.sampling import completions, generate
from lit_llm.generation.weights import Product
from lit_llm.objectives.language import token_logps
from lit_llm.runtime import processor

V = 90


def tiny(dtype=torch.float64, **changes):
    torch.manual_seed(0)
    options = {"hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "max_positions": 96, **changes}
    model = LanguageModel(from_depth(V, 2, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3) if parameter.dim() > 1 else parameter.add_(0.3 * torch.randn_like(parameter))
    return model.to(dtype)


def prompts(count=21, longest=40, seed=1):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (count,), generator=generator).tolist()
    return [torch.randint(0, V, (n,), generator=generator).tolist() for n in lengths]


@torch.no_grad()
def plain_logps(model, rollout, temperature=1.0):
    """Row by row, without padding or cache."""
    expected = torch.zeros(rollout.logps.shape)
    for row, (ids, end) in enumerate(zip(rollout.input_ids, rollout.lengths.tolist(), strict=True)):
        row_logps = token_logps(
            model(ids[None, : end - 1]), model.output_weight, ids[None, 1:end], temperature=temperature
        )
        expected[row, : end - 1] = row_logps[0]
    return expected[rollout.mask]


FAMILIES = {
    "qwen3": {"family": "qwen3"},
    "qwen2": {"family": "qwen2", "num_kv_heads": 1},
    "llama": {"family": "llama", "num_kv_heads": 4, "attention_bias": True, "tie_embeddings": False},
    "scaled": {"family": "llama", "rope_scaling": RopeScaling("llama3", 4.0, original_max_positions=32)},
    "windowed": {"family": "mistral", "sliding_window": 7},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_log_probabilities_are_the_plain_forwards(name):
    """Rows that take another prompt once they are done; unlike completions; float64 hides no mistake."""
    model = tiny(**FAMILIES[name])
    rollout = generate(model, prompts(), max_new_tokens=30, end_ids=(1, 2, 3), seed=2, batch_size=18)
    assert len({len(each) for each in completions(rollout)}) > 5
    torch.testing.assert_close(rollout.logps[rollout.mask], plain_logps(model, rollout), atol=1e-5, rtol=1e-5)


def test_adapters_count_while_they_are_on():
    model = tiny(torch.float32)
    apply_lora(model, 4, 8.0, 0.0)
    with torch.no_grad():
        for layer in adapted(model).values():
            layer.lora_B.weight.normal_(std=0.2)
    adapter = generate(model, prompts(4), max_new_tokens=8, end_ids=(), seed=2)
    torch.testing.assert_close(adapter.logps[adapter.mask], plain_logps(model, adapter), atol=1e-4, rtol=1e-4)
    with lora_disabled(model):
        base = generate(model, prompts(4), max_new_tokens=8, end_ids=(), seed=2)
        torch.testing.assert_close(base.logps[base.mask], plain_logps(model, base), atol=1e-4, rtol=1e-4)
    assert not torch.equal(adapter.input_ids, base.input_ids)


def test_bfloat16_is_as_near_as_the_plain_model_in_bfloat16():
    """The same tokens, as the exact model sees them: rounding here is no larger than that of a model cast whole."""
    model = tiny()
    rollout = generate(model, prompts(), max_new_tokens=20, end_ids=(), seed=2, dtype=torch.bfloat16)
    exact = plain_logps(model, rollout)
    cast = plain_logps(copy.deepcopy(model).bfloat16(), rollout)
    ours = (rollout.logps[rollout.mask] - exact).abs().mean()
    assert 0 < ours < (cast - exact).abs().mean()


@torch.no_grad()
def test_embeddings_are_read_as_they_are():
    """As in autocast's forward, which casts only what products read; and without a copy."""
    model = tiny(torch.float32)
    decoder = Decoder(model, torch.bfloat16)
    assert decoder.embedding.dtype == torch.float32
    assert decoder.embedding.data_ptr() == model.backbone.embed_tokens.weight.data_ptr()


def test_tables_reach_as_far_as_the_call(monkeypatch):
    """Not as far as the context: of a model for 131,072 tokens that takes longer than a short answer."""
    made = []
    monkeypatch.setattr(transformers_decoder, "Decoder", lambda *args: made.append(Decoder(*args)) or made[-1])
    generate(tiny(), [[1, 2, 3], [4]], max_new_tokens=[5, 9], end_ids=())
    assert [len(decoder.ropes) for decoder in made] == [10]


def test_under_autocast_products_are_in_its_precision():
    model = tiny(torch.float32)
    options = {"max_new_tokens": 8, "end_ids": (), "seed": 2}
    asked = generate(model, prompts(4), dtype=torch.bfloat16, **options)
    with torch.autocast("cpu", torch.bfloat16):
        found = generate(model, prompts(4), **options)
    assert torch.equal(found.logps, asked.logps)
    assert not torch.equal(found.logps, generate(model, prompts(4), **options).logps)


needs_packing = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch has no packed products"
)


@needs_packing
@pytest.mark.parametrize(("dtype", "atol", "rtol"), [(torch.bfloat16, 0.2, 0.02), (torch.float32, 1e-5, 1e-6)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("laid_out_for", [1, 5])
def test_a_product_is_the_plain_one_however_its_weight_lies(monkeypatch, dtype, atol, rtol, bias, rows, laid_out_for):
    """Laid out for many rows, it takes any number of them: the last rows of a batch are few, a prompt's many."""
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor multiplies bfloat16 otherwise")
    monkeypatch.setattr(processor, "has_narrow_vectors", lambda: True)
    torch.manual_seed(0)
    weight, x = torch.randn(32, 40), torch.randn(rows, 40)
    offset = torch.randn(32) if bias else None
    product = Product(weight, offset, dtype, rows=laid_out_for)
    assert product.packed == (laid_out_for > 1 or dtype == torch.bfloat16)
    assert product.packed or product.weight.stride() == (1, 32)
    exact = x.double() @ weight.double().t() + (offset.double() if bias else 0)
    torch.testing.assert_close(product(x.to(dtype)).double(), exact, atol=atol, rtol=rtol)


def test_float32_is_packed_with_avx2_alone_and_where_it_pays(monkeypatch):
    made = {}
    for narrow in (True, False):
        monkeypatch.setattr(processor, "has_narrow_vectors", lambda narrow=narrow: narrow)
        sizes = ((32, 2), (32, 1), (65, 2))
        made[narrow] = [Product(torch.zeros(size, 8), None, torch.float32, rows).packed for size, rows in sizes]
    assert not any(made[False]) and not any(made[True][1:])
    assert made[True][0] == hasattr(torch.ops.mkldnn, "_linear_pointwise")


@needs_packing
def test_a_batch_with_packed_float32_answers_as_the_model_does(monkeypatch):
    """The plain forward with a cache, token by token, is the twin."""
    packed = []
    for narrow in (True, False):
        monkeypatch.setattr(processor, "has_narrow_vectors", lambda narrow=narrow: narrow)
        packed.append(generate(tiny(torch.float32), prompts(6), max_new_tokens=12, end_ids=(), seed=1, batch_size=3))
    assert torch.equal(packed[0].input_ids, packed[1].input_ids)
    torch.testing.assert_close(packed[0].logps, packed[1].logps, atol=1e-5, rtol=1e-5)


def test_asking_rarely_how_many_are_done_changes_nothing(monkeypatch):
    """As on a GPU: rows that are done run on for some steps, and what they write is nobody's."""
    model = tiny()
    options = {"max_new_tokens": 30, "end_ids": (1, 2, 3), "seed": 2, "batch_size": 5}
    often = generate(model, prompts(), **options)
    monkeypatch.setattr(scheduler, "WAIT_EVERY", {"cpu": 7})
    rarely = generate(model, prompts(), **options)
    assert all(torch.equal(one, other) for one, other in zip(often, rarely, strict=True))


@torch.no_grad()
def test_rows_that_all_end_unseen_are_counted(monkeypatch):
    """The last step before nothing is left may be one after which nobody asked."""
    monkeypatch.setattr(scheduler, "WAIT_EVERY", {"cpu": 8})
    model = tiny()
    nine = [[5], [6, 7], [8]] * 3
    rollout = generate(model, nine, max_new_tokens=1, end_ids=(), seed=2, batch_size=8)
    assert (rollout.lengths - rollout.prompt_lengths).tolist() == [1] * 9
    rows, lengths = torch.tensor([[5]] * 9), torch.ones(9, dtype=torch.int64)
    run = scheduler.BatchScheduler(
        Decoder(model, positions=2), Choice(), rows, lengths, lengths, torch.rand(9, 1), (), 8
    )
    assert sum(iter(run.step, None)) == 9


def test_weights_that_are_no_numbers_are_an_error():
    """With a vocabulary of more than a block: the token that they give is still one of it."""
    model = tiny()
    with torch.no_grad():
        model.backbone.norm.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        generate(model, prompts(3), max_new_tokens=2, end_ids=())


class Repeated(cuda_graphs.CUDAGraphs):
    """A recording without CUDA: the call itself, into memory that stays."""

    recorded = 0

    def record(self, call, _device):
        self.recorded += 1
        logits = torch.empty(2, V, dtype=torch.float64)
        return logits, lambda: logits.copy_(call())


@torch.no_grad()
def test_a_recorded_step_is_the_step():
    decoder = Decoder(tiny(), positions=60)
    plain, recorded = decoder.cache(2), decoder.cache(2)
    replays_of_it = Repeated(decoder.compute)
    for token in range(40):  # beyond the first memory's 32 slots
        tokens = torch.tensor([token, 2 * token])
        recorded.make_room()
        assert torch.equal(decoder.step(tokens, plain), replays_of_it(tokens, recorded))
    assert recorded.lengths.tolist() == [40, 40] and replays_of_it.recorded == 2
