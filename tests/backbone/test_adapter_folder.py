"""An adapter's folder is a model: what PEFT wrote is read as PEFT reads it, and what is written here PEFT reads."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_llm.backbone.adapter_folder import save_adapter_folder
from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.huggingface import head_in, load_config, load_model, save_model
from lit_llm.backbone.loaded import load_shared
from lit_llm.backbone.lora import adapted, apply_lora, keep_start, lora_disabled, merge_lora, without_adapters
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.errors import UserError
from lit_llm.generation.command import load
from lit_llm.generation.sampling import generate
from lit_llm.text.bpe import train_bpe
from lit_llm.text.tokenizer import load_tokenizer

IDS = torch.randint(0, 270, (2, 12), generator=torch.Generator().manual_seed(3))
SHAPE = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "intermediate_size": 48}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bfloat16 model with its tokenizer."""
    torch.manual_seed(0)
    tokenizer = train_bpe(["a model is trained on text", "نموذج لغة"] * 20, vocab_size=280, show_progress=False)
    model = LanguageModel(
        BackboneConfig(
            family="llama", vocab_size=tokenizer.vocab_size, max_positions=64, initializer_range=0.2, **SHAPE
        )
    )
    place = tmp_path_factory.mktemp("models") / "base"
    save_model(place, model, tokenizer, dtype=torch.bfloat16)
    return place


def train(model: Any) -> Any:
    """Adapters as training would leave them."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            elif "magnitude" in name:
                parameter.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=generator))
    return model


def peft_s(base: Path, place: Path, **settings: Any) -> Any:
    """An adapter that PEFT made and saved, and its model."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    kind = "SEQ_CLS" if settings.get("task_type") == "SEQ_CLS" else "CAUSAL_LM"
    auto = "AutoModelForSequenceClassification" if kind == "SEQ_CLS" else "AutoModelForCausalLM"
    more = {"num_labels": 1} if kind == "SEQ_CLS" else {}
    plain = getattr(transformers, auto).from_pretrained(base, dtype=torch.float32, **more)
    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "down_proj"], **settings}
    model = train(peft.get_peft_model(plain, peft.LoraConfig(**{"task_type": kind, **settings}))).eval()
    model.save_pretrained(place)
    return model


KINDS = {"lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}}


@pytest.mark.parametrize("kind", KINDS)
def test_what_peft_wrote_is_a_model_with_its_logits_and_its_greedy_answer(
    base: Path, tmp_path: Path, kind: str
) -> None:
    theirs = peft_s(base, tmp_path / "adapter", **KINDS[kind])
    model, tokenizer = load(tmp_path / "adapter")  # as scripts/generate.py does
    assert not adapted(model) and tokenizer.fingerprint() == load_tokenizer(base).fingerprint()
    with torch.no_grad():
        expected, plain = theirs(IDS).logits, load_model(base)
        torch.testing.assert_close(model.logits(model(IDS)), expected, rtol=1e-4, atol=1e-4)
        assert (plain.logits(plain(IDS)) - expected).abs().max() > 0.1  # type: ignore[operator]
    prompt = IDS[:1, :6]
    given = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=8,
                            min_new_tokens=8)  # fmt: skip
    found = generate(model, (prompt, torch.tensor([6])), max_new_tokens=8, end_ids=(), temperature=0.0)
    assert found.input_ids[0].tolist() == given[0].tolist()


def test_a_reward_model_s_adapter_of_peft_s_has_its_head(base: Path, tmp_path: Path) -> None:
    theirs = peft_s(base, tmp_path / "adapter", task_type="SEQ_CLS")
    model = load_shared(tmp_path / "adapter").model.eval()
    assert isinstance(model, ScoreModel) and head_in(tmp_path / "adapter") == "score"
    with torch.no_grad():
        rows = torch.cat([theirs(row[None]).logits[0] for row in IDS])
        torch.testing.assert_close(model(IDS, torch.tensor([12, 12])), rows, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="holds an adapter of a reward model, a language model is wanted"):
        load_model(tmp_path / "adapter")


@pytest.mark.parametrize("options", [{}, {"rank_stabilized": True}, {"decomposed": True}])
def test_what_is_written_here_peft_reads_with_equal_logits(base: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    place = tmp_path / "run" / "model"
    model = train(apply_lora(load_model(base, "language", keep_adapter=True), rank=4, alpha=6, dropout=0.0, **options))
    save_adapter_folder(place, model, load_tokenizer(base))
    assert {path.name for path in place.iterdir()} >= {"tokenizer.json", "generation_config.json", "base_model.json"}
    assert not list(place.glob("model*"))
    named = json.loads((place / "adapter_config.json").read_text())["base_model_name_or_path"]
    plain = transformers.AutoModelForCausalLM.from_pretrained(named, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(plain, place).eval()
    with torch.no_grad():
        expected = model.logits(model(IDS))
        torch.testing.assert_close(theirs(IDS).logits, expected, rtol=1e-4, atol=1e-4)
        beside, merged = load_model(place, keep_adapter=True), load_model(place)
        assert torch.equal(beside.logits(beside(IDS)), expected)  # type: ignore[operator]
        torch.testing.assert_close(merged.logits(merged(IDS)), expected, rtol=1e-4, atol=1e-4)  # type: ignore[operator]
    assert all(
        torch.equal(one, other)  # read again it is what the run measured
        for one, other in zip(merge_lora(copy.deepcopy(model)).parameters(), merged.parameters(), strict=True)
    )


def test_a_score_adapter_keeps_head_and_normalisation(base: Path, tmp_path: Path) -> None:
    scored = ScoreModel.from_language_model(load_model(base, "language", keep_adapter=True))  # type: ignore[arg-type]
    train(apply_lora(scored, rank=4, alpha=6, dropout=0.0))
    with torch.no_grad():
        scored.score.weight.normal_()
    scored.reward_mean.fill_(0.7), scored.reward_std.fill_(2.0)
    save_adapter_folder(tmp_path / "reward", scored, load_tokenizer(base))
    found, lengths = load_model(tmp_path / "reward", head="score").eval(), torch.tensor([12, 7])
    torch.testing.assert_close(found(IDS, lengths), scored.eval()(IDS, lengths), rtol=1e-4, atol=1e-4)
    assert load_config(tmp_path / "reward") == load_config(base)


def test_the_start_is_the_adapter_that_training_began_with(base: Path, tmp_path: Path) -> None:
    """The reference of training that goes on: base and adapter as they were, of which only the adapter is a copy."""
    for number, options in enumerate(({}, {"decomposed": True})):
        place = tmp_path / str(number)
        save_adapter_folder(
            place, train(apply_lora(load_model(base, "language", keep_adapter=True), 4, 6, 0.0, **options))
        )
        model = load_model(place, keep_adapter=True)
        keep_start(model)
        started = load_model(place)
        with torch.no_grad():
            before = model(IDS)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.05)
        with torch.no_grad():
            with lora_disabled(model):
                assert torch.equal(model(IDS), before)
            assert not torch.allclose(model(IDS), before, atol=1e-3)
        assert all(
            torch.equal(one, other)
            for one, other in zip(without_adapters(model).parameters(), started.parameters(), strict=True)
        )
        kept = sum(buffer.numel() for name, buffer in model.named_buffers() if "start_" in name)
        assert kept == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


# Where the base is, and what is wrong with it


@pytest.fixture
def place(base: Path, tmp_path: Path) -> Path:
    """base/ and adapter/ in one folder."""
    shutil.copytree(base, tmp_path / "base")
    save_adapter_folder(
        tmp_path / "adapter", train(apply_lora(load_model(tmp_path / "base", "language", keep_adapter=True), 4, 6, 0.0))
    )
    return tmp_path / "adapter"


def rename(place: Path, **values: Any) -> None:
    file = place / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_folders_that_move_together_find_each_other(place: Path, tmp_path: Path) -> None:
    expected = load_model(place)(IDS)
    (tmp_path / "moved").mkdir()
    for name in ("base", "adapter"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    assert torch.equal(load_model(tmp_path / "moved/adapter")(IDS), expected)  # by what base_model.json says
    (tmp_path / "moved/adapter/base_model.json").unlink()
    rename(tmp_path / "moved/adapter", base_model_name_or_path="../base")
    assert torch.equal(load_model(tmp_path / "moved/adapter")(IDS), expected)


def test_a_base_that_is_not_there_or_another_one_is_a_line(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def refused(**values: Any) -> str:
        rename(place, **values)
        with pytest.raises(UserError) as error:
            load_model(place)
        assert "\n" not in str(error.value) and str(place) in str(error.value)
        return str(error.value)

    other = load_model(tmp_path / "base", "language", keep_adapter=True)
    with torch.no_grad():
        other.backbone.embed_tokens.weight[0] += 1
    save_model(tmp_path / "other", other, load_tokenizer(tmp_path / "base"))
    line = refused(base_model_name_or_path=str(tmp_path / "other"))
    assert "is not of the base that the adapter" in line and "base_model.json recorded" in line
    (place / "base_model.json").unlink()
    load_model(place)  # nothing recorded: as PEFT would
    assert "no model folder there" in refused(base_model_name_or_path="/not/there")
    assert "base_model_name_or_path=None should name the model" in refused(base_model_name_or_path=None)
    line = refused(base_model_name_or_path="some-owner/some-model")
    assert "no model folder there, looked for from" in line and "; and hub:some-owner/some-model" in line
    assert "is an adapter itself" in refused(base_model_name_or_path=str(place))
    small = BackboneConfig(family="llama", vocab_size=280, max_positions=64, **(SHAPE | {"hidden_size": 64}))
    save_model(tmp_path / "small", LanguageModel(small))
    line = refused(base_model_name_or_path=str(tmp_path / "small"))
    assert "has shape [32, 4], its base asks for [64, 4]" in line and f"the base is {tmp_path}/small" in line


def test_damaged_adapters_are_a_line(place: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match) as error:
            load_model(place)
        assert "\n" not in str(error.value)

    weights, config = place / "adapter_model.safetensors", place / "adapter_config.json"
    whole, text = weights.read_bytes(), config.read_text()
    weights.write_bytes(whole[:-100])
    refused("adapter_model.safetensors: damaged or cut short")
    weights.unlink()
    refused("adapter_model.safetensors: no such file; an adapter folder has")
    weights.write_bytes(whole)
    rename(place, target_modules=["q_proj", "k_proj"])
    refused("unexpected base_model.model.model.layers.0.mlp")
    config.write_text(text[:-20])
    refused("adapter_config.json: damaged, not readable as JSON")
    config.write_text(text)
    rename(place, peft_type="IA3")
    refused("peft_type='IA3' is not supported: use LORA")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"files": {"../adapter/adapter_config.json": "0" * 64}}, "files='../adapter/adapter_config.json' should name"),
        ({"files": {"/etc/hostname": "0" * 64}}, "files='/etc/hostname' should name a file in the base's folder"),
        ({"files": {"..": "0" * 64}}, "files='..' should name a file"),
        ({"path": 5}, "path=5 should be text"),
        ({"source": ["x"]}, r"source=\['x'\] should be text"),
    ],
)
def test_a_record_of_the_base_that_reaches_elsewhere_is_a_line(place: Path, values: dict[str, Any], said: str) -> None:
    file = place / "base_model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    with pytest.raises(UserError, match=f"base_model.json: {said}") as error:
        load_model(place)
    assert "\n" not in str(error.value)


def test_the_library_holds_for_an_adapter_s_own_config_too(tmp_path: Path) -> None:
    """A shape that this package's own reader refuses, and transformers computes."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = transformers.LlamaConfig(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
                                     num_attention_heads=4, max_position_embeddings=64, mlp_bias=True)  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(shape).save_pretrained(tmp_path / "base")
    with pytest.raises(UserError):
        load_model(tmp_path / "base")
    model = train(
        apply_lora(load_model(tmp_path / "base", "language", keep_adapter=True, library="transformers"), rank=2)
    )
    save_adapter_folder(tmp_path / "adapter", model)
    again = load_model(tmp_path / "adapter", "language", keep_adapter=True, library="transformers")
    ids = IDS.clamp_max(60)
    assert torch.equal(again.eval()(ids), model.eval()(ids))
    assert head_in(tmp_path / "adapter", "transformers") == "language"
