"""Invariant: every family is written as llama.cpp computes it, or refused by name where it computes otherwise; and read
again as the model that it was made from."""

import dataclasses
import json

import numpy as np
import pytest
import torch

pytest.importorskip("gguf")

from lit_llm.backbone.config import RopeScaling
from lit_llm.backbone.huggingface import load_language_model, save_model
from lit_llm.errors import UserError
from lit_llm.export.certificate import certify
from lit_llm.export.engines import Questions, ask_here, ask_llama_cpp
from lit_llm.export.gguf_file import read_model, write_gguf
from lit_llm.export.weights_check import worst_weight
from lit_llm.model_sources.gguf_folder import write_folder
from lit_llm.model_sources.gguf_forms import FORMS, Heads
from lit_llm.model_sources.gguf_header import read_head
from lit_llm.text.tokenizer import load_tokenizer
from tests.export.conftest import NODE, needs_llama_cpp, small_tokenizer
from tests.export.families import MORE, model_of

IDS = torch.randint(0, 320, (1, 40), generator=torch.Generator().manual_seed(1))


def logits(model):
    with torch.no_grad():
        return model.logits(model(IDS))


def written(model, folder, quantization="f32"):
    tokenizer = small_tokenizer()
    save_model(folder / "model", model, tokenizer)
    found = read_model(folder / "model")
    write_gguf(folder / "small.gguf", found, tokenizer, quantization, {"name": "small"})
    return found, folder / "small.gguf"


def meaning(config, context):
    """What decides the logits. A window of all layers is the file's context, within which all is the same."""
    plain = {"initializer_range": 0.02, "router_aux_coef": 0.0, "max_positions": context}
    window = {} if config.windowed_layers is not None else {"sliding_window": None}
    theta = {"rope_theta": 1e4} if config.learned_positions else {}  # nothing turns
    return dataclasses.replace(config, **plain, **window, **theta)


@pytest.mark.parametrize("name", MORE)
def test_a_file_is_read_as_the_model_and_has_its_architecture_s_tensors(name, tmp_path):
    from gguf import MODEL_ARCH_NAMES, MODEL_TENSORS, TENSOR_NAMES

    model = model_of(name)
    found, file = written(model, tmp_path)
    write_folder(tmp_path / "back", file, {})
    back = load_language_model(tmp_path / "back").eval()
    assert meaning(back.config, found.context) == meaning(model.config, found.context)
    assert back.config.max_positions == found.context
    torch.testing.assert_close(logits(back), logits(model), atol=1e-5, rtol=0)
    assert worst_weight(file, found)[0] == 0
    [arch] = [one for one, called in MODEL_ARCH_NAMES.items() if called == found.architecture]
    known = {TENSOR_NAMES[one].replace("blk.{bid}.", "") for one in MODEL_TENSORS[arch]}
    names = {tensor.split(".", 2)[-1] if tensor.startswith("blk.") else tensor for tensor in read_head(file).tensors}
    assert {one.rsplit(".", 1)[0] for one in names} <= known


@pytest.mark.parametrize("name", ["gemma3", "phi3", "gpt_neox", "gpt2", "qwen3_moe"])
def test_an_eight_bit_file_is_read_within_its_steps_and_with_the_same_ids(name, tmp_path):
    model = model_of(name)
    found, file = written(model, tmp_path, "q8_0")
    assert 0.1 < worst_weight(file, found)[0] <= 1
    write_folder(tmp_path / "back", file, {})
    back = load_language_model(tmp_path / "back").eval()
    wanted = logits(model)
    off = (logits(back) - wanted).square().mean().sqrt() / wanted.std()
    assert 1e-4 < off < 0.05
    before, after = small_tokenizer(), load_tokenizer(tmp_path / "back")
    for text in ("The house has 12 doors", " Türen\n\n", "return x"):
        assert before.encode(text) == after.encode(text)


def test_rows_are_put_in_llama_cpp_s_order_and_back():
    config, heads = model_of("gpt_neox").config, Heads(4, 4)
    rows = np.arange(3 * 64 * 2, dtype=np.float32).reshape(192, 2)
    there = FORMS["head by head"].there([rows], heads)
    width = config.head_dim
    assert (there[64 : 64 + width] == rows[width : 2 * width]).all()  # the first head's keys begin all keys
    assert (there[width : 2 * width] == rows[3 * width : 4 * width]).all()  # the second head's queries
    for form in FORMS.values():
        parts = [rows[:64], rows[64:128]] if form is FORMS["stacked"] else [rows]
        for before, after in zip(parts, form.back(form.there(parts, heads), heads), strict=True):
            assert (before == after).all()


@pytest.mark.parametrize(
    ("name", "changed", "line"),
    [
        ("gemma2", {"windowed_layers": (True,) * 4}, "gemma2 has no sliding_window in layers other than all but every"),
        ("gemma2", {"attention_scale": 0.2}, "no query_pre_attn_scalar=25 where llama.cpp takes 32"),
        ("gemma2", {"logit_softcap": None}, "no scores or logits without soft caps"),
        ("gemma3", {"window_rope_theta": 2e4}, "no rope_local_base_freq=20000 where llama.cpp takes 10000"),
        ("smollm3", {"rotary_layers": (True, False) * 2}, "no no_rope_layers other than every fourth"),
        ("smollm3", {"mlp_bias": True}, "no biases in its MLP"),
        ("olmo2", {"attention_bias": True}, "no attention biases"),
        ("olmo3", {"windowed_layers": (True, False) * 2}, "olmo2 has no sliding_window in layers other than all but"),
        ("olmo3 stretched", {"window_rope_theta": None}, "no stretched positions in the layers with a window"),
        ("olmo3", {"window_rope_theta": 2e4}, "no a base of 20000 in the layers with a window"),
        ("gpt_neox", {"attention_bias": False}, "no attention without biases"),
        ("gpt2", {"attention_scale_by_layer": True}, "no scores that are scaled otherwise"),
        ("qwen3_moe", {"normalize_experts": False}, "no norm_topk_prob=false"),
        ("qwen3_moe", {"expert_layers": (True, False) * 2}, "no layers without experts"),
        ("olmo2", {"rope_scaling": RopeScaling("llama3", 8.0)}, "no rope_type llama3"),
        ("yarn", {"rope_scaling": RopeScaling("dynamic", 8.0)}, "no rope_type dynamic"),
        ("yarn", {"rope_scaling": RopeScaling("yarn", 4.0, beta_fast=16.0)}, "no yarn with beta_fast=16, beta_slow=1"),
        ("yarn", {"rope_scaling": RopeScaling("yarn", 4.0, truncate=False)}, "no yarn with truncate=false"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(name, changed, line, tmp_path):
    with pytest.raises(UserError, match=line) as error:
        written(model_of(name, **changed), tmp_path)
    assert "\n" not in str(error.value) and "export with to=huggingface" in str(error.value)


def test_a_tensor_without_a_form_is_named(tmp_path):
    from safetensors.torch import load_file, save_file

    written(model_of("phi3"), tmp_path)
    file = tmp_path / "model/model.safetensors"
    save_file({**load_file(file), "model.layers.0.mlp.other.weight": torch.ones(2)}, file)
    (tmp_path / "model/lineage.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"llama\.cpp's phi3 has no model\.layers\.0\.mlp\.other\.weight"):
        read_model(tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["model_type"] == "phi3"


@needs_llama_cpp
@pytest.mark.parametrize("name", MORE)
def test_llama_cpp_computes_the_same(name, tmp_path):
    found, file = written(model_of(name), tmp_path)
    certificate = certify(file, found, small_tokenizer(), "f32", NODE, None)
    assert certificate.passed, certificate.failed


@needs_llama_cpp
def test_llama_cpp_takes_the_long_factors_beyond_the_original_context(tmp_path):
    model = model_of("longrope")
    _, file = written(model, tmp_path)
    prompt = tuple(torch.randint(0, 320, (300,), generator=torch.Generator().manual_seed(2)).tolist())
    asked = Questions((), (), (prompt,), steps=0)
    here, there = ask_here(model, small_tokenizer(), asked, []), ask_llama_cpp(file, NODE, asked, 512)
    np.testing.assert_allclose(there.logits[0], here.logits[0], atol=1e-4)
