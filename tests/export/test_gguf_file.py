"""What is written into GGUF: held against transformers' own reader, gguf's quantisation, and the reader here."""

from __future__ import annotations

import json
import warnings

import gguf
import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Regex, pre_tokenizers
from transformers import AutoModelForCausalLM

from lit_llm.backbone.huggingface import load_language_model, save_model
from lit_llm.backbone.models import ScoreModel
from lit_llm.errors import UserError
from lit_llm.export.gguf_file import read_model, write_gguf
from lit_llm.export.weights_check import worst_weight
from lit_llm.model_sources import folders
from lit_llm.model_sources.gguf_folder import write_folder
from lit_llm.records import Message
from lit_llm.text.tokenizer import load_tokenizer
from tests.export.conftest import SHAPES, small_model, small_tokenizer
from tests.model_sources.test_gguf import random_texts

IDS = torch.randint(0, 320, (1, 40), generator=torch.Generator().manual_seed(1))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model(IDS))


def written(folder, path, quantization="f32"):
    write_gguf(path, read_model(folder), load_tokenizer(folder), quantization, {"name": "small"})
    return path


@pytest.mark.parametrize("kind", SHAPES)
def test_both_readers_have_the_model_s_own_logits(kind, tmp_path):
    tokenizer = small_tokenizer()
    model = small_model(320, **SHAPES[kind])
    save_model(tmp_path / "model", model, tokenizer)
    file = written(tmp_path / "model", tmp_path / "gguf" / "small.gguf")
    write_folder(tmp_path / "back", file, {})
    back = load_language_model(tmp_path / "back").eval()
    torch.testing.assert_close(logits(back), logits(model), atol=0, rtol=0)
    assert back.config.rope_scaling == model.config.rope_scaling and back.config.rope_theta == model.config.rope_theta
    assert back.config.max_positions == (48 if kind == "mistral" else 96), (
        "where llama.cpp has no window, what it holds"
    )
    # What transformers' reader of GGUF leaves out.
    if kind.startswith(("llama 3", "linear", "llama with biases", "yarn")):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, logits(model), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("quantization", ["f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
def test_every_type_keeps_each_weight_within_its_step(quantization, folder, tmp_path):
    file = written(folder, tmp_path / "small.gguf", quantization)
    of, named = gguf.GGMLQuantizationType, {t.name: t for t in gguf.GGUFReader(file).tensors}
    fine = of.Q8_0 if quantization[:2] in ("q4", "q5") else of[quantization.upper()]
    assert named["blk.0.ffn_up.weight"].tensor_type == of[quantization.upper()]
    assert named["token_embd.weight"].tensor_type == fine
    assert named["blk.0.ffn_norm.weight"].tensor_type == of.F32
    assert named["blk.0.ffn_up.weight"].n_elements == named["blk.0.ffn_down.weight"].n_elements
    worst, _, rms = worst_weight(file, read_model(folder))
    assert 0.3 < worst <= 1, "the limit is near: half of it would be too little"
    assert rms < {"f16": 4e-4, "bf16": 3e-3, "q8_0": 0.01}.get(quantization, 0.12)


def test_one_weight_that_is_off_by_two_steps_is_found(folder, tmp_path):
    file = written(folder, tmp_path / "small.gguf", "q8_0")
    tensor = next(t for t in gguf.GGUFReader(file).tensors if t.name == "blk.1.ffn_down.weight")
    with file.open("r+b") as stream:
        stream.seek(tensor.data_offset + 34 * 5 + 2 + 7)  # a number of the sixth block: two bytes of scale, then 32
        (old,) = stream.read(1)
        stream.seek(-1, 1)
        stream.write(bytes([(old + 2) % 256]))
    worst, name, _ = worst_weight(file, read_model(folder))
    assert worst > 1 and name == "blk.1.ffn_down.weight"


def test_rows_that_are_no_whole_blocks_stay_in_16_bits(tmp_path):
    tokenizer = small_tokenizer()
    save_model(tmp_path / "m", small_model(320, family="qwen3", hidden_size=40, intermediate_size=64), tokenizer)
    kinds = {
        t.name: t.tensor_type.name
        for t in gguf.GGUFReader(written(tmp_path / "m", tmp_path / "s.gguf", "q4_0")).tensors
    }
    assert (kinds["blk.0.ffn_up.weight"], kinds["blk.0.ffn_down.weight"]) == ("F16", "Q4_0")
    assert worst_weight(tmp_path / "s.gguf", read_model(tmp_path / "m"))[0] <= 1


def test_a_tokenizer_comes_back_as_it_was(folder, tmp_path):
    file = written(folder, tmp_path / "small.gguf")
    before, after = load_tokenizer(folder), load_tokenizer(folders.folder_of(file, tmp_path))
    for text in random_texts(300):
        assert before.encode(text) == after.encode(text), text
    fields = {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}
    assert fields["tokenizer.ggml.pre"] == "qwen2" and fields["tokenizer.ggml.add_bos_token"] is False
    kinds = fields["tokenizer.ggml.token_type"]
    assert kinds[:3] == [3, 3, 3] and kinds[-3:] == [5, 5, 5] and set(kinds[3:-3]) == {1}
    assert (after.end_ids, after.control_tokens) == (before.end_ids, before.control_tokens)
    asked = [
        Message("system", "Be brief."),
        Message("user", "Hi"),
        Message("assistant", "Yes"),
        Message("user", "a<|im_end|>"),
    ]
    assert after.encode_prompt(asked) == before.encode_prompt(asked)
    assert "generation" not in fields["tokenizer.chat_template"].replace("add_generation_prompt", "")


def test_what_llama_cpp_has_no_form_for_is_one_line(folder, tmp_path):
    def refused(message):
        with pytest.raises(UserError, match=message) as error:
            written(folder, tmp_path / "none" / "small.gguf")
        assert "\n" not in str(error.value) and not list((tmp_path / "none").glob("*"))

    tokenizer = load_tokenizer(folder)
    tokenizer.engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\w+|\W+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.save(folder)
    refused("cuts texts by a pre-tokenizer that llama.cpp has no name for .it has gpt-2")
    tokenizer = small_tokenizer()
    tokenizer.add_tokens(["<tensor>"])
    tokenizer.save(folder)
    refused("the word '<tensor>' is a token only where it stands alone")
    small_tokenizer().save(folder)
    save_model(folder, ScoreModel.from_language_model(load_language_model(folder)), small_tokenizer())
    refused("holds a reward model; llama.cpp answers with language models only")
    save_model(folder, small_model(320, family="qwen3", attention_bias=True), small_tokenizer())
    refused("llama.cpp's qwen3 has no attention biases; export with to=huggingface")
    save_model(folder, small_model(320, family="qwen3"), small_tokenizer())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["GemmaForCausalLM"]}))
    refused("GemmaForCausalLM")
    (folder / "config.json").write_text(
        json.dumps({**config, "architectures": ["OPTForCausalLM"], "model_type": "opt"})
    )
    refused("a family that transformers computes is not written into GGUF here")


def test_rows_without_a_token_get_names_that_no_token_has(tmp_path):
    tokenizer = small_tokenizer()
    tokenizer.engine.add_tokens([AddedToken("[PAD324]", normalized=False)])
    save_model(tmp_path / "m", small_model(tokenizer.vocab_size + 8, family="qwen3"), tokenizer)
    tokens = gguf.GGUFReader(written(tmp_path / "m", tmp_path / "s.gguf")).fields["tokenizer.ggml.tokens"].contents()
    assert len(set(tokens)) == len(tokens) and "[PAD324]" in tokens and "[[PAD324]]" in tokens


def test_a_tokenizer_without_merges_is_one_line(folder, tmp_path):
    file = folder / "tokenizer.json"
    rules = json.loads(file.read_text())
    rules["model"]["merges"] = []
    file.write_text(json.dumps(rules))
    (folder / "lineage.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match="its tokenizer has no merges, without which") as error:
        written(folder, tmp_path / "small.gguf")
    assert "\n" not in str(error.value) and not (tmp_path / "small.gguf").exists()
    del rules["model"]["merges"]
    file.write_text(json.dumps(rules))
    with pytest.raises(UserError, match=r"tokenizer\.json") as error:
        load_tokenizer(folder)
    assert "\n" not in str(error.value)


def test_a_weight_beyond_float16_is_told(tmp_path):
    model = small_model(320, family="qwen3")
    with torch.no_grad():
        model.backbone.layers[0].mlp.up_proj.weight[3, 4] = 1e5
    save_model(tmp_path / "m", model, small_tokenizer())
    with pytest.raises(UserError, match="quantization=f16: a weight is beyond float16's range"):
        written(tmp_path / "m", tmp_path / "s.gguf", "f16")
    assert not (tmp_path / "s.gguf").exists()
    assert np.isfinite(
        worst_weight(written(tmp_path / "m", tmp_path / "s.gguf", "bf16"), read_model(tmp_path / "m"))[0]
    )
