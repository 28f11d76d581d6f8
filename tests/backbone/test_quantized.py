"""Invariants: the 4 bits are the paper's, PEFT and transformers compute the same over theirs, nothing trains them."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_llm.backbone import quantized
from lit_llm.backbone.huggingface import load_language_model, save_model
from lit_llm.backbone.lora import (
    adapted,
    apply_lora,
    lora_disabled,
    merge_lora,
    without_adapters,
)
from lit_llm.backbone.lora_files import in_files
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.backbone.saved_adapters import load_adapter, save_adapter
from lit_llm.errors import UserError
from lit_llm.generation.sampling import generate
from tests.family_models import MODELS, rows, saved

pytest.importorskip("bitsandbytes")

TOKENS = torch.randint(0, 61, (2, 12), generator=torch.Generator().manual_seed(3))
# NormalFloat4 as the paper's appendix E prints it.
NF4 = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
], dtype=torch.float64)  # fmt: skip


def of_the_paper(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What NF4 makes of a weight, blocks of 64 along its rows, each divided by its largest number; and those (n, 1)."""
    blocks = weight.double().reshape(-1, 64)
    largest = blocks.abs().amax(1, keepdim=True)
    nearest = (blocks / largest)[..., None].sub(NF4).abs().argmin(-1)
    return NF4[nearest], largest


def trained(model: Any, **settings: Any) -> Any:
    """The model with adapters as training would leave them, beside 4 bits."""
    quantized.quantize(model)
    apply_lora(model, **{"rank": 3, "alpha": 7.0, "dropout": 0.0, **settings})
    with torch.no_grad():
        for layer in adapted(model).values():
            layer.lora_B.weight.normal_(0, 0.3)
            if layer.lora_magnitude_vector is not None:
                layer.lora_magnitude_vector.mul_(1 + 0.3 * torch.rand(layer.out_features))
    return model


def test_codes_are_the_paper_s_and_scales_are_within_their_8_bits() -> None:
    layer = torch.nn.ModuleDict({"layers": torch.nn.ModuleDict({"q_proj": torch.nn.Linear(128, 96, bias=False)})})
    weight = layer["layers"]["q_proj"].weight.detach().clone()  # type: ignore[index]
    quantized.quantize(layer)
    kept = layer["layers"]["q_proj"].weight  # type: ignore[index]
    codes, largest = of_the_paper(weight)
    found = quantized.whole(kept, torch.float64).reshape(-1, 64)
    scales = found.abs().amax(1, keepdim=True)
    torch.testing.assert_close(found / scales, codes, rtol=0, atol=1e-6)
    # 8 bits over the scales' range, less their mean: a step of the dynamic map is at most 1/64 of the largest.
    assert (scales - largest).abs().max() <= (largest - largest.mean()).abs().max() / 64


def test_memory_is_half_a_byte_a_weight_and_its_scales() -> None:
    for shape in ((96, 128), (33, 31), (5, 7)):
        model = torch.nn.ModuleDict({"layers": torch.nn.ModuleDict({"up_proj": torch.nn.Linear(*shape)})})
        quantized.quantize(model)
        weight = model["layers"]["up_proj"].weight  # type: ignore[index]
        state = weight.quant_state  # type: ignore[union-attr]
        parts = (weight, state.absmax, state.code, state.state2.absmax, state.state2.code, state.offset)
        assert quantized.bytes_of(shape[0] * shape[1]) == sum(part.nbytes for part in parts)
        assert quantized.size_of(weight) == shape[0] * shape[1]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["llama", "qwen2"])
@pytest.mark.parametrize("kind", [{}, {"rank_stabilized": True, "decomposed": True}])
def test_logits_and_gradients_are_those_of_peft_over_transformers_4_bits(
    name: str, kind: dict[str, bool], tmp_path: Path
) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    saved(MODELS[name], tmp_path / "base")
    ours, tokens = trained(load_language_model(tmp_path / "base"), **kind), torch.cat(rows(20))
    save_adapter(tmp_path / "adapter", ours, str(tmp_path / "base"))
    four = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )  # fmt: skip
    base = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", quantization_config=four, dtype=torch.float32, device_map="cpu"
    )
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter", is_trainable=True)
    expected, found = theirs(tokens).logits, ours.logits(ours(tokens))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    expected.square().mean().backward()
    found.square().mean().backward()
    wanted = {key.replace(".default", ""): each.grad for key, each in theirs.named_parameters() if each.requires_grad}
    grads = {key: each.grad for key, each in ours.named_parameters() if each.grad is not None}
    for key, grad in in_files(grads, ours.config).items():
        other = wanted[key] if key in wanted else wanted[f"{key}.weight"]
        torch.testing.assert_close(grad, other, rtol=1e-3, atol=1e-5)
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    over_whole = peft.PeftModel.from_pretrained(whole, tmp_path / "adapter")(tokens).logits
    assert (over_whole - expected).abs().max() > 0.01, "PEFT reads the adapter over the whole base, which is another"


@pytest.mark.parametrize("kind", [{}, {"decomposed": True}])
def test_a_plain_model_of_what_the_4_bits_stand_for_does_the_same(model: LanguageModel, kind: dict[str, bool]) -> None:
    """Forward, switched off, merged and sampled from; some layers have no adapter."""
    ours = trained(copy.deepcopy(model), targets=("q_proj", "down_proj"), **kind)
    plain = copy.deepcopy(model)
    with torch.no_grad():
        for key, layer in ours.named_modules():
            if quantized.is_quantizable(key, layer):
                plain.get_submodule(key).weight.copy_(quantized.whole(layer.weight, torch.float32))  # type: ignore
    with lora_disabled(ours):
        torch.testing.assert_close(ours(TOKENS), plain(TOKENS), rtol=1e-5, atol=1e-5)
    assert torch.equal(without_adapters(ours)(TOKENS), plain(TOKENS))
    assert (plain(TOKENS) - model(TOKENS)).abs().max() > 0.05, "4 bits round"
    merged = merge_lora(copy.deepcopy(ours))
    assert not quantized.has_quantized(merged) and all(each.requires_grad for each in merged.parameters())
    assert list(merged.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(merged(TOKENS), ours(TOKENS), rtol=1e-4, atol=1e-4)
    asked: dict[str, Any] = {"max_new_tokens": 8, "end_ids": (), "temperature": 0.0}
    said = [generate(each, TOKENS.tolist(), **asked).input_ids for each in (ours, merged, plain)]
    assert torch.equal(said[0], said[1]) and not torch.equal(said[0], said[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_product_and_its_gradient_are_those_of_float64(dtype: torch.dtype) -> None:
    layer = torch.nn.ModuleDict({"layers": torch.nn.ModuleDict({"up_proj": torch.nn.Linear(40, 24)})})
    quantized.quantize(layer)
    weight, bias = layer["layers"]["up_proj"].weight, layer["layers"]["up_proj"].bias  # type: ignore[index]
    exact = quantized.whole(weight, torch.float64)
    x = torch.randn(5, 40, dtype=dtype, requires_grad=True)
    out = quantized.product(x, weight, bias)  # type: ignore[arg-type]
    grad = torch.randn(5, 24, dtype=dtype)
    out.backward(grad)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float64: 1e-7}[dtype]
    torch.testing.assert_close(out.double(), x.double() @ exact.T + bias.double(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(x.grad.double(), grad.double() @ exact, rtol=tolerance, atol=tolerance)  # type: ignore
    with torch.autocast("cpu", torch.bfloat16):
        assert quantized.product(x.float(), weight, bias).dtype == torch.bfloat16  # type: ignore[arg-type]
    assert bias.dtype == torch.float32, "autocast rounds no bias"


def test_compiled_code_is_one_graph_and_does_the_same(model: LanguageModel) -> None:
    layer = trained(model).backbone.layers[0].mlp
    x = torch.randn(2, 9, 32, requires_grad=True)
    layer(x).square().sum().backward()
    expected, x.grad = x.grad, None
    torch.compile(layer, backend="aot_eager", fullgraph=True)(x).square().sum().backward()
    torch.testing.assert_close(x.grad, expected)


def test_training_changes_adapters_alone_and_evaluation_between_steps_hides_no_gradient(model: LanguageModel) -> None:
    trained(model, targets=("q_proj", "v_proj")).train()
    codes = {name: each.clone() for name, each in model.state_dict().items() if ".lora_" not in name}
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
    gradients = []
    for _ in range(2):
        with torch.no_grad():
            model.eval()(TOKENS)
        optimizer.zero_grad()
        model.train()(TOKENS).square().mean().backward()
        gradients.append({name for name, each in model.named_parameters() if each.grad is not None})
        optimizer.step()
    assert gradients == [{name for name, _ in model.named_parameters() if ".lora_" in name}] * 2
    assert all(torch.equal(each, codes[name]) for name, each in model.state_dict().items() if name in codes)


def test_a_state_goes_into_another_model_and_into_what_shares_its_weights(model: LanguageModel) -> None:
    first = trained(copy.deepcopy(model))
    other = trained(LanguageModel(model.config)).eval()
    sharer = copy.deepcopy(other, {id(each): each for each in other.parameters()})
    assert not torch.allclose(other(TOKENS), first(TOKENS), atol=0.1)
    other.load_state_dict(first.state_dict())
    assert torch.equal(other(TOKENS), first(TOKENS)) and torch.equal(sharer(TOKENS), first(TOKENS))
    lacking = {name: each for name, each in first.state_dict().items() if "up_proj.weight.nested" not in name}
    with pytest.raises(RuntimeError, match=r"Missing key.*up_proj\.weight\.nested_absmax"):
        other.load_state_dict(lacking)


def test_the_folder_holds_what_was_trained_and_a_whole_base_is_farther_off(
    model: LanguageModel, tmp_path: Path
) -> None:
    """4 bits with the adapter, merged into 32 bits, give the logits of training. The same adapter merged into the
    weights that it never saw is off by what the 4 bits round, and so is what is merged and rounded to 4 bits again."""
    ours = trained(copy.deepcopy(model))
    save_model(tmp_path, merge_lora(copy.deepcopy(ours)))
    save_adapter(tmp_path / "adapter", ours, "base")
    expected, folder = ours(TOKENS), load_language_model(tmp_path).eval()
    exact = (folder(TOKENS) - expected).abs().mean()
    whole = merge_lora(load_adapter(tmp_path / "adapter", copy.deepcopy(model)))
    again = copy.deepcopy(folder)
    quantized.quantize(again)
    off = [(each.eval()(TOKENS) - expected).abs().mean() for each in (whole, again)]
    assert exact < 1e-5 and min(off) > 1000 * exact


def test_router_norms_embedding_and_heads_stay_whole(tmp_path: Path) -> None:
    saved(MODELS["qwen3_moe"], tmp_path)
    for model in (load_language_model(tmp_path), ScoreModel.from_language_model(load_language_model(tmp_path))):
        quantized.quantize(model)
        kept = {name for name, each in model.named_parameters() if quantized.is_quantized(each)}
        assert kept == {name for name, _ in model.named_parameters() if "_proj." in name}
        assert len(kept) == 4 * (4 + 3 * 5)


def test_a_missing_package_is_told_with_what_to_install(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
    with pytest.raises(UserError, match=r"^stage.lora_quantization=nf4: bitsandbytes is missing; pip install 'lit-llm"):
        quantized.quantize(model)
