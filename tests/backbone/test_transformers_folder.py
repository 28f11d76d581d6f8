"""Folders of families that the table has not: read, written as their own class, refused in one line."""

import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from lit_llm.backbone.adapter_folder import save_adapter_folder
from lit_llm.backbone.families import read_config
from lit_llm.backbone.huggingface import head_in, load_config, load_language_model, load_model, load_score_model
from lit_llm.backbone.huggingface import save_model as save
from lit_llm.backbone.lora import apply_lora
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.backbone.options import TransformersOptions
from lit_llm.backbone.transformers_config import SWITCH, shape_of
from lit_llm.errors import UserError
from lit_llm.stages import checkpoint_contents
from lit_llm.stages.pretraining import Pretraining
from lit_llm.training.evaluate import reference_of
from tests.other_families import CONFIGS, LIKE_LLAMA, folder_of

transformers = pytest.importorskip("transformers")
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
CODE = """
from pathlib import Path
from transformers import FalconConfig, FalconForCausalLM
(Path(__file__).parent / "it_ran").touch()
class OurConfig(FalconConfig):
    model_type = "ours"
class OurForCausalLM(FalconForCausalLM):
    config_class = OurConfig
"""


def changed(folder, **settings):
    """The folder with other settings in its config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_written_is_read_by_its_own_class_with_equal_logits(name, tmp_path):
    theirs, folder = folder_of(name, tmp_path)
    model = load_language_model(folder).eval()
    torch.testing.assert_close(model.logits(model(IDS)), theirs(IDS).logits, rtol=1e-5, atol=1e-5)
    next(iter(model.parameters())).mul_(1.5)  # what is written is what was trained
    save(tmp_path / "saved", model, generation={"eos_token_id": 5})
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    assert type(again) is type(theirs) and again.generation_config.eos_token_id == 5
    assert torch.equal(again(IDS).logits, _theirs(model))
    assert not torch.equal(again(IDS).logits, theirs(IDS).logits)
    back = load_language_model(tmp_path / "saved").eval()
    assert torch.equal(back.logits(back(IDS)), model.logits(model(IDS)))
    assert load_file(tmp_path / "saved/model.safetensors").keys() == load_file(folder / "model.safetensors").keys()
    assert model.config.num_parameters == model.num_parameters()


def _theirs(model):
    """Logits by the class of transformers that the weights are of."""
    whole = transformers.AutoModelForCausalLM.from_config(model.config.theirs()).eval()
    setattr(whole, whole.base_model_prefix, model.backbone.network)
    whole.set_output_embeddings(model.lm_head)
    return whole(IDS).logits


@torch.no_grad()
def test_the_type_of_the_weights_stays(tmp_path):
    theirs, folder = folder_of("stablelm", tmp_path)
    theirs.to(torch.bfloat16).save_pretrained(folder)
    model = load_language_model(folder)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    save(tmp_path / "saved", model)
    written, before = load_file(tmp_path / "saved/model.safetensors"), load_file(folder / "model.safetensors")
    assert all(written[name].dtype == torch.bfloat16 and torch.equal(written[name], before[name]) for name in before)


@torch.no_grad()
def test_a_reward_model_is_written_as_their_classifier(tmp_path):
    _, folder = folder_of("falcon", tmp_path)
    torch.manual_seed(0)
    scored = ScoreModel.from_language_model(load_language_model(folder)).eval()
    scored.reward_mean, scored.reward_std = torch.tensor(0.5), torch.tensor(2.0)
    save(tmp_path / "reward", scored)
    assert head_in(tmp_path / "reward") == "score"
    again = load_score_model(tmp_path / "reward").eval()
    length = torch.tensor([IDS.shape[1]])
    torch.testing.assert_close(again(IDS, length), scored(IDS, length))
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    torch.testing.assert_close((theirs(IDS).logits[:, 0] - 0.5) / 2, scored(IDS, length), rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match=r"holds a reward model .FalconForSequenceClassification., a language model is"):
        load_language_model(tmp_path / "reward")
    _, folder = folder_of("cohere", tmp_path)
    with pytest.raises(UserError, match="family cohere has no reward model in transformers"):
        save(tmp_path / "none", ScoreModel.from_language_model(load_language_model(folder)))


@pytest.fixture
def coded(tmp_path, monkeypatch):
    """A model of transformers, and its folder with Python code that makes it."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    theirs, folder = folder_of("falcon", tmp_path)
    (folder / "ours.py").write_text(CODE)
    names = {"AutoConfig": "ours.OurConfig", "AutoModelForCausalLM": "ours.OurForCausalLM"}
    changed(folder, model_type="ours", architectures=["OurForCausalLM"], auto_map=names)
    return theirs, folder


def test_code_of_a_folder_runs_with_the_switch_alone(coded, tmp_path, monkeypatch):
    theirs, folder = coded
    for library in ("auto", "transformers"):
        with pytest.raises(UserError, match=rf"config.json: auto_map .*backbone.trust_remote_code=true \({SWITCH}=1"):
            load_model(folder, library=library)
    assert not list(tmp_path.rglob("it_ran"))
    model = load_model(folder, trust_remote_code=True).eval()
    assert type(model.backbone.network).__module__.startswith("transformers") and list(tmp_path.rglob("it_ran"))
    with torch.no_grad():
        torch.testing.assert_close(model.logits(model(IDS)), theirs(IDS).logits, rtol=1e-5, atol=1e-5)
        save(tmp_path / "saved", model)
    assert (tmp_path / "saved/ours.py").read_text() == CODE
    monkeypatch.setenv(SWITCH, "1")
    assert load_config(tmp_path / "saved").family == "ours"


def test_a_checkpoint_runs_no_code_without_the_switch(coded, tmp_path, monkeypatch):
    _, folder = coded
    stage = Pretraining(model=load_model(folder, trust_remote_code=True))
    kept = checkpoint_contents.contents(stage.model, None)
    assert str(tmp_path) not in json.dumps(kept)
    for ran in tmp_path.rglob("it_ran"):
        ran.unlink()
    new = kept["transformers"]
    for written in (new, new | {"code": str(folder)}, new | {"code": str(folder), "settings": "{}"}):
        checkpoint = {checkpoint_contents.KEY: {"transformers": written}, "state_dict": stage.state_dict()}
        torch.save(checkpoint, tmp_path / "kept.ckpt")
        with pytest.raises(UserError, match=rf"kept.ckpt: .*auto_map.* give model=FOLDER.*{SWITCH}=1") as error:
            Pretraining.load_from_checkpoint(tmp_path / "kept.ckpt")
        assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("it_ran"))
    monkeypatch.setenv(SWITCH, "1")
    again = Pretraining.load_from_checkpoint(tmp_path / "kept.ckpt", model=load_model(folder))
    assert torch.equal(again.model.output_weight, stage.model.output_weight)


def test_what_cannot_be_read_is_said_in_one_line(tmp_path):
    _, folder = folder_of("falcon", tmp_path)
    weights = load_file(folder / "model.safetensors")
    name = "transformer.h.1.mlp.dense_4h_to_h.weight"

    def refused(match):
        with pytest.raises(UserError, match=match) as error:
            load_model(folder)
        assert "\n" not in str(error.value)

    less = {key: each for key, each in weights.items() if key != name}
    save_file(less, folder / "model.safetensors", {"format": "pt"})
    refused(f"falcon: missing {name}, which the configuration asks for")
    save_file(weights | {name: weights[name] * torch.nan}, folder / "model.safetensors", {"format": "pt"})
    refused(f"falcon: {name} has NaN or infinite weights")
    save_file(weights | {name: weights[name][:, :4].clone()}, folder / "model.safetensors", {"format": "pt"})
    refused(rf"falcon: {name} has shape \[32, 4\], the configuration asks for \[32, 128\]")
    (folder / "model.safetensors").write_bytes(b"x" * 40)
    refused("model.safetensors: damaged or cut short")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused("pickled weights only, which can run code")
    (folder / "pytorch_model.bin").unlink()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    changed(folder, num_hidden_layers=10_000_000)
    refused(r"config.json: num_hidden_layers=10000000, but the weights are of 2 layers$")
    changed(folder, num_hidden_layers=2, num_attention_heads=5)
    refused(r"config.json: transformers cannot read it|config.json: ")
    changed(folder, model_type="t5", architectures=["T5ForConditionalGeneration"])
    refused("model_type='t5' is not supported: transformers has no causal language model of it")
    changed(folder, model_type="nothing", architectures=["NothingForCausalLM"])
    refused("model_type='nothing' is not known to the installed transformers")


def test_the_table_s_refusal_names_the_other_way(tmp_path):
    _, folder = folder_of("falcon", tmp_path)
    with pytest.raises(UserError, match=r"any other causal model of transformers is read with backbone=transformers$"):
        read_config(folder / "config.json")


@pytest.mark.parametrize("library", ["auto", "transformers"])
def test_without_transformers_the_line_says_what_to_install(tmp_path, monkeypatch, library):
    _, folder = folder_of("falcon", tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "transformers" else find(name, *a)
    )
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'lit-llm\[transformers\]'") as caught:
        load_model(folder, library=library)
    assert "\n" not in str(caught.value)


def test_new_weights_take_a_folder_s_shape_and_a_checkpoint_keeps_it(tmp_path):
    _, folder = folder_of("gptj", tmp_path)
    config = shape_of(vocab_size=70, config=str(folder), dropout=0.1)
    assert (config.vocab_size, config.max_positions, config.head_bias, config.num_heads) == (70, 64, True, 4)
    assert config.theirs().resid_pdrop == config.theirs().embd_pdrop == 0.1 and config.theirs().attn_pdrop == 0.0
    stage = Pretraining(model=LanguageModel(config))
    kept = {checkpoint_contents.KEY: checkpoint_contents.contents(stage.model, None)}
    torch.save(kept, tmp_path / "kept.ckpt")
    read = torch.load(tmp_path / "kept.ckpt", weights_only=True)
    assert checkpoint_contents.network_of(read, "kept.ckpt").config == config
    with pytest.raises(UserError, match=r"give init_from=FOLDER to train on from a model, or backbone.config=FOLDER"):
        shape_of(vocab_size=70)


@torch.no_grad()
def test_what_the_family_s_own_reader_refuses_is_computed_as_it_was_trained(tmp_path):
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LIKE_LLAMA, mlp_bias=True)).eval()
    for name, weight in theirs.named_parameters():
        weight.add_(torch.randn_like(weight)) if name.endswith(".bias") else weight.mul_(8)
    whole, saved, adapter = (tmp_path / name for name in ("whole", "saved", "adapter"))
    theirs.save_pretrained(whole)
    model = load_model(whole, library="transformers").eval()
    save(saved, model)
    assert head_in(saved) == "language" and load_config(saved).num_parameters == model.num_parameters()
    again = load_language_model(saved).eval()
    torch.testing.assert_close(again.logits(again(IDS)), theirs(IDS).logits, rtol=1e-5, atol=1e-5)
    for folder in (whole, saved):
        with pytest.raises(UserError, match=r"mlp_bias=True is not supported.*; or let .*: backbone=transformers$"):
            load_model(folder, library="own")
    with pytest.raises(UserError, match="mlp_bias=True is not supported"):  # nobody has trained it so
        load_model(whole)
    cfg = {"init_from": str(whole), "backbone": {"_target_": TransformersOptions.TARGET, "trust_remote_code": False}}
    evaluator = SimpleNamespace(beside=["prompts"])
    reference = reference_of(OmegaConf.create(cfg), evaluator, None, torch.device("cpu")).model
    assert torch.equal(reference.logits(reference(IDS)), model.logits(model(IDS)))
    apply_lora(model, rank=2)
    for name, weight in model.named_parameters():
        weight.add_(torch.randn_like(weight)) if "lora_B" in name else None
    save_adapter_folder(adapter, model.eval())
    assert head_in(adapter) == "language"
    merged = load_language_model(adapter).eval()
    torch.testing.assert_close(merged.logits(merged(IDS)), model.logits(model(IDS)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM"])
def test_an_encoder_is_told_from_a_causal_model(kind, tmp_path):
    shape = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(**shape, intermediate_size=16, max_position_embeddings=32)
    getattr(transformers, kind)(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"architectures=\['{kind}'\] .*no causal language model but an encoder"):
        load_model(tmp_path, library="transformers")
