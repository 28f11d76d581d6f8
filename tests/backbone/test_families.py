"""Invariant: a folder of any family means the same function here and in transformers, however rows are read, and
whoever wrote it; what a config.json asks for and a family has not is refused by its key."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_llm.backbone.family_table import FAMILIES
from lit_llm.backbone.huggingface import load_config, load_language_model, load_score_model, save_model
from lit_llm.backbone.lora import adapted, apply_lora, load_adapter, merge_lora, save_adapter
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.errors import UserError
from lit_llm.generation.decoder import Decoder
from lit_llm.generation.sampling import generate
from lit_llm.objectives.language import cross_entropy, token_entropy, token_logps
from tests.family_models import CONTEXT, MODELS, VARIANTS, VOCAB, Model, saved

transformers = pytest.importorskip("transformers")

EVERY = MODELS | VARIANTS
LARGEST = 1e-4
DIFFERENCES: dict[str, dict[str, float]] = {}


@pytest.fixture(scope="module", params=list(EVERY))
def pair(request: Any, tmp_path_factory: Any) -> tuple[str, Any, LanguageModel, Path]:
    """A name, the model of transformers, the one read here, and their folder."""
    folder = tmp_path_factory.mktemp("theirs")
    theirs = saved(EVERY[request.param], folder)
    return request.param, theirs, load_language_model(folder).eval(), folder


def rows(*lengths: int) -> list[Tensor]:
    return [torch.randint(1, VOCAB, (1, n), generator=torch.Generator().manual_seed(n)) for n in lengths]


def held(name: str, kind: str, found: Tensor, expected: Tensor) -> None:
    difference = float((found - expected).abs().max())
    DIFFERENCES.setdefault(name, {})[kind] = difference
    assert difference < LARGEST, f"{kind} logits of {name} differ by {difference}"


def test_every_family_is_held() -> None:
    assert set(MODELS) == set(FAMILIES)


@torch.no_grad()
def test_logits_are_transformers(pair: Any) -> None:
    name, theirs, ours, _ = pair
    tokens = torch.cat(rows(40, 40))
    held(name, "plain", ours.logits(ours(tokens)), theirs(tokens).logits)
    assert ours.num_parameters() == theirs.num_parameters() == ours.config.num_parameters


@torch.no_grad()
def test_documents_of_a_row_do_not_see_each_other(pair: Any) -> None:
    """Of which some are longer than the window or the original context, and some are not."""
    name, theirs, ours, _ = pair
    documents = rows(9, 21, 14)
    segments = torch.cat([torch.full((1, d.shape[1]), n) for n, d in enumerate(documents)], dim=1)
    found = ours.logits(ours(torch.cat(documents, dim=1), segments=segments))
    held(name, "packed", found, torch.cat([theirs(document).logits for document in documents], dim=1))


@torch.no_grad()
def test_a_completion_sees_its_prompt_and_itself(pair: Any) -> None:
    _, theirs, ours, _ = pair
    prompt, first, second = rows(6, 8, 5)
    tokens = torch.cat([prompt, first, second], dim=1)
    positions = torch.cat([torch.arange(14), torch.arange(6, 11)])[None]
    branches = torch.tensor([[0] * 6 + [1] * 8 + [2] * 5])
    found = ours.logits(ours(tokens, positions, torch.zeros_like(tokens), branches))
    for completion, place in ((first, slice(6, 14)), (second, slice(14, 19))):
        expected = theirs(torch.cat([prompt, completion], dim=1)).logits[:, 6:]
        torch.testing.assert_close(found[:, place], expected, atol=LARGEST, rtol=0)


@torch.no_grad()
def test_decoding_with_a_cache_is_reading_the_row(pair: Any) -> None:
    """From within the sliding window and the original context to far beyond."""
    name, theirs, ours, _ = pair
    (tokens,) = rows(min(36, ours.config.max_positions))
    token, cache = (decoder := Decoder(ours)).begin(tokens[0, :5].tolist())
    found = [decoder.step(token, cache)[0]]
    found += [decoder.step(tokens[0, n : n + 1], cache)[0] for n in range(5, tokens.shape[1])]
    expected = [theirs(tokens[:, :n]).logits[0, -1] for n in range(5, tokens.shape[1] + 1)]
    held(name, "cached", torch.stack(found), torch.stack(expected))


@pytest.mark.parametrize("name", [*MODELS, "longrope", "yarn"])
def test_greedy_text_is_the_same(name: str, tmp_path: Path) -> None:
    """Prompts of several lengths together, each as transformers goes on from it alone."""
    theirs, prompts = saved(EVERY[name], tmp_path), rows(4, 13, 9)
    end = [theirs.generate(p, max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0) for p in prompts]
    ours = generate(load_language_model(tmp_path), [p[0].tolist() for p in prompts], max_new_tokens=16, end_ids=(),
                    temperature=0)  # fmt: skip
    for number, expected in enumerate(end):
        assert ours.input_ids[number, : ours.lengths[number]].tolist() == expected[0].tolist()


@torch.no_grad()
def test_transformers_reads_what_is_written_here(pair: Any, tmp_path: Path) -> None:
    name, theirs, ours, folder = pair
    save_model(tmp_path, ours, generation={"pad_token_id": 0})
    again, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info.values()), info
    assert load_config(tmp_path) == load_config(folder) == ours.config
    tokens = torch.cat(rows(40))
    assert torch.equal(again(tokens).logits, theirs(tokens).logits)
    for ours_now, before in zip(load_language_model(tmp_path).parameters(), ours.parameters(), strict=True):
        assert torch.equal(ours_now, before)


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.score])
def test_reward_models_in_both_directions(name: str, tmp_path: Path) -> None:
    theirs, lengths = saved(MODELS[name], tmp_path / "theirs", score=True), torch.tensor([30, 17])
    tokens = torch.cat(rows(30, 30))
    tokens[1, 17:] = 0
    ours = load_score_model(tmp_path / "theirs")
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens, lengths), theirs(tokens).logits[:, 0], atol=LARGEST, rtol=0)
        save_model(tmp_path / "ours", ours, generation={"pad_token_id": 0})
        again, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
        )
        assert not any(info.values()), info
        assert torch.equal(again(tokens).logits, theirs(tokens).logits)


def test_a_family_without_a_reward_model_is_refused(tmp_path: Path) -> None:
    saved(MODELS["granite"], tmp_path)
    model = ScoreModel.from_language_model(load_language_model(tmp_path))
    with pytest.raises(UserError, match="granite has no reward model"):
        save_model(tmp_path / "score", model)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", [*MODELS, "qwen3_moe mixed", "gpt2 odd", "gpt_neox in sequence", "longrope"])
def test_gradients_are_transformers(name: str, checkpointing: bool, tmp_path: Path) -> None:
    """Of the loss of all tokens, by every parameter as the files have it."""
    theirs, ours = saved(EVERY[name], tmp_path), load_language_model(tmp_path)
    tokens = torch.cat(rows(20, 20))
    theirs(tokens, labels=tokens).loss.backward()
    ours.backbone.gradient_checkpointing = checkpointing
    result = cross_entropy(ours(tokens[:, :-1]), ours.output_weight, tokens[:, 1:], softcap=ours.logit_softcap)
    (result.loss / result.tokens).backward()
    # A model of theirs with our gradients as its weights, so that both are named and laid out alike.
    for parameter in ours.parameters():
        assert parameter.grad is not None
        parameter.data = parameter.grad
    ours.stored = None
    save_model(tmp_path / "gradients", ours)
    found = type(theirs).from_pretrained(tmp_path / "gradients")
    expected = dict(theirs.named_parameters())
    for key, parameter in found.named_parameters():
        torch.testing.assert_close(parameter.data, expected[key].grad, atol=2e-5, rtol=1e-3, msg=lambda m, k=key: k + m)


@pytest.mark.parametrize("name", MODELS)
def test_adapters_are_peft_s(name: str, tmp_path: Path) -> None:
    """Written here and read by PEFT beside transformers' model; on some of the layers, and merged."""
    peft = pytest.importorskip("peft")
    theirs, ours = saved(MODELS[name], tmp_path / "base"), load_language_model(tmp_path / "base")
    base, tokens = copy.deepcopy(ours), torch.cat(rows(20))
    targets = ["q_proj", "v_proj", "o_proj"] + ([] if name == "qwen3_moe" else ["up_proj", "down_proj"])
    apply_lora(ours, rank=3, alpha=7.0, dropout=0.0, targets=targets)
    with torch.no_grad():
        for layer in adapted(ours).values():
            layer.lora_B.weight.normal_(0, 0.3)
        expected = ours.logits(ours(tokens))
        assert not torch.allclose(expected, base.logits(base(tokens)), atol=0.01)
        save_adapter(tmp_path / "adapter", ours, str(tmp_path / "base"))
        found = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter")
        torch.testing.assert_close(found(tokens).logits, expected, atol=2e-4, rtol=0)
        again = load_adapter(tmp_path / "adapter", base)
        torch.testing.assert_close(again.logits(again(tokens)), expected, atol=1e-5, rtol=0)
        merged = merge_lora(copy.deepcopy(ours))
        torch.testing.assert_close(merged.logits(merged(tokens)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["phi3", "gpt_neox", "gpt2"])
def test_adapters_of_fused_layers_that_peft_trained_are_read(name: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    theirs, ours = saved(MODELS[name], tmp_path), load_language_model(tmp_path)
    fused = {"phi3": ["qkv_proj", "gate_up_proj"], "gpt_neox": ["query_key_value"], "gpt2": ["c_attn"]}[name]
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=fused, task_type="CAUSAL_LM", fan_in_fan_out=name == "gpt2")
    adapter = peft.get_peft_model(theirs, config).eval()
    with torch.no_grad():
        for key, parameter in adapter.named_parameters():
            if "lora_B" in key:
                parameter.normal_(0, 0.3)
        adapter.save_pretrained(tmp_path / "adapter")
        found, tokens = load_adapter(tmp_path / "adapter", ours).eval(), torch.cat(rows(20))
        torch.testing.assert_close(found.logits(found(tokens)), adapter(tokens).logits, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "qwen3_moe", "gemma2"])
def test_all_linear_layers_get_an_adapter(name: str, tmp_path: Path) -> None:
    saved(MODELS[name], tmp_path)
    model = apply_lora(load_language_model(tmp_path), rank=2)
    plain = {key for key, module in model.backbone.named_modules() if type(module) is torch.nn.Linear}
    assert {key.rpartition(".")[2] for key in plain} <= {"lora_A", "lora_B"}
    model(torch.cat(rows(9))).sum().backward()


def test_capped_logits_in_the_losses(tmp_path: Path) -> None:
    """Against their definition, in float64."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(7, 5, dtype=torch.float64), torch.randn(11, 5, dtype=torch.float64)
    labels, cap = torch.randint(0, 11, (7,)), 1.3

    def plain(h: Tensor, w: Tensor, temperature: float = 1.0) -> Tensor:
        return torch.log_softmax(cap * torch.tanh(h @ w.T / cap) / temperature, dim=-1)

    results = []
    for kind in range(2):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if kind:
            loss = cross_entropy(h, w, labels, softcap=cap, chunk_tokens=2).loss
            logps = token_logps(h, w, labels, 0.7, chunk_tokens=3, softcap=cap)
        else:
            loss = -plain(h, w).gather(1, labels[:, None]).sum()
            logps = plain(h, w, 0.7).gather(1, labels[:, None])[:, 0]
        gradients = torch.autograd.grad(loss, (h, w)) + torch.autograd.grad((logps * torch.arange(7)).sum(), (h, w))
        results.append((loss, logps, *gradients))
    torch.testing.assert_close(results[1], results[0])
    every = plain(hidden, weight, 0.7)
    torch.testing.assert_close(token_entropy(hidden, weight, 0.7, cap), -(every.exp() * every).sum(-1))


def change(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


REFUSED: list[tuple[str, str, Any]] = [
    ("llama", "attn_logit_softcapping", 50.0),
    ("llama", "final_logit_softcapping", 30.0),
    ("llama", "query_pre_attn_scalar", 8),
    ("llama", "attention_multiplier", 0.5),
    ("llama", "logits_scaling", 8.0),
    ("llama", "residual_multiplier", 0.2),
    ("llama", "embedding_multiplier", 12.0),
    ("llama", "no_rope_layers", [1, 1, 1, 0]),
    ("llama", "clip_qkv", 8.0),
    ("llama", "num_local_experts", 8),
    ("llama", "partial_rotary_factor", 0.5),
    ("llama", "hidden_act", "gelu"),
    ("llama", "mlp_bias", True),
    ("qwen3", "attention_chunk_size", 128),
    ("mistral", "attention_bias", True),
    ("gemma2", "hidden_activation", "tanh"),
    ("gemma2", "use_bidirectional_attention", True),
    ("gemma2", "layer_types", ["full_attention"]),
    ("gemma2", "query_pre_attn_scalar", -1),
    ("gemma3", "attn_logit_softcapping", 50.0),
    ("gemma3", "rope_parameters", {"rope_type": "default", "rope_theta": 1e4}),
    ("phi3", "attention_bias", True),
    ("phi3", "lm_head_bias", True),
    ("phi3", "full_attn_mod", 2),
    ("phi3", "rope_parameters", {"rope_type": "dynamic", "factor": 2.0}),
    ("phi3", "rope_parameters", {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}),
    ("phi3", "rope_parameters", {"rope_type": "longrope", "short_factor": "x", "long_factor": [2.0]}),
    ("olmo2", "clip_qkv", 1.0),
    ("olmo3", "layer_types", ["chunked_attention"] * 4),
    ("smollm3", "no_rope_layers", [1]),
    ("smollm3", "mlp_bias", "yes"),
    ("granite", "num_experts", 4),
    ("gpt_neox", "hidden_act", "silu"),
    ("gpt_neox", "use_parallel_residual", 1),
    ("gpt2", "add_cross_attention", True),
    ("gpt2", "activation_function", "tanh"),
    ("gpt2", "scale_attn_weights", "no"),
    ("qwen3_moe", "num_experts_per_tok", 9),
    ("qwen3_moe", "decoder_sparse_step", 0),
    ("qwen3_moe", "n_shared_experts", 1),
    ("qwen2", "rope_parameters", {"rope_type": "yarn", "factor": 2.0, "beta": 3}),
    ("qwen2", "rope_parameters", {"rope_type": "mrope"}),
]


@pytest.fixture(scope="module")
def config_files(tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("configs")
    for name in {name for name, *_ in REFUSED}:
        model: Model = MODELS[name]
        config = getattr(transformers, f"{model.config}Config")(**model.settings, architectures=[model.language])
        config.save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize(("name", "key", "value"), REFUSED)
def test_what_a_family_has_not_is_refused_by_its_key(
    config_files: Path, tmp_path: Path, name: str, key: str, value: Any
) -> None:
    text = (config_files / name / "config.json").read_text()
    (tmp_path / "config.json").write_text(text)
    load_config(tmp_path)
    change(tmp_path, **{key: value})
    with pytest.raises(UserError) as caught:
        load_config(tmp_path)
    named = {"num_experts_per_tok": "experts_per_token", "decoder_sparse_step": "decoder_sparse_step"}.get(key, key)
    message = str(caught.value)
    longrope = isinstance(value, dict) and value.get("rope_type") == "longrope"
    assert ("short_factor" if longrope else named) in message and str(tmp_path) in message and "\n" not in message


OLD: dict[str, dict[str, Any]] = {
    "gemma3": {"rope_theta": 1e6, "rope_local_base_freq": 2e4, "rope_scaling": {"type": "linear", "factor": 8.0},
               "sliding_window_pattern": 2, "layer_types": None},
    "gpt_neox": {"rotary_emb_base": 5000, "rotary_pct": 0.5, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "phi3": {"rope_theta": 5000.0, "partial_rotary_factor": 0.5, "original_max_position_embeddings": 16,
             "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0]}},
    "llama": {"rope_theta": 5000.0, "rope_scaling": {"type": "yarn", "factor": 4.0,
                                                      "original_max_position_embeddings": 16}},
    "smollm3": {"rope_theta": 5000.0, "no_rope_layers": None, "no_rope_layer_interval": 2},
}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_older_spellings_are_read_as_transformers_reads_them(name: str, tmp_path: Path) -> None:
    saved(MODELS[name], tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    raw = {key: value for key, value in (raw | OLD[name]).items() if key != "rope_parameters" and value is not None}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    ours, (tokens,) = load_language_model(tmp_path), rows(CONTEXT + 8 if name == "gpt_neox" else 40)
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(tokens)), theirs(tokens).logits, atol=LARGEST, rtol=0)
        save_model(tmp_path / "ours", ours)
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager")
        assert torch.equal(again(tokens).logits, theirs(tokens).logits)


def test_gpt2_s_first_files_are_read(tmp_path: Path) -> None:
    """Saved without a head, with the causal masks that old versions kept beside the weights."""
    from safetensors.torch import load_file, save_file

    theirs, (tokens,) = saved(MODELS["gpt2"], tmp_path), rows(20)
    path = tmp_path / "model.safetensors"
    tensors = {key.removeprefix("transformer."): tensor for key, tensor in load_file(path).items()}
    save_file(tensors | {f"h.{n}.attn.bias": torch.ones(1, 1, 8, 8) for n in range(4)}, path)
    ours = load_language_model(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(tokens)), theirs(tokens).logits, atol=LARGEST, rtol=0)
