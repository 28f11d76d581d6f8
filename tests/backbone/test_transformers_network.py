"""Models of transformers behind the interface of the project's own: packed rows, losses and heads are what they are."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F

from lit_llm.backbone.completions import completion_logps, pack
from lit_llm.backbone.huggingface import load_language_model, load_model
from lit_llm.backbone.lora import adapted, apply_lora, merge_lora
from lit_llm.backbone.models import LanguageModel, ScoreModel, grow_vocabulary
from lit_llm.backbone.saved_adapters import load_adapter, save_adapter
from lit_llm.errors import UserError
from lit_llm.objectives.language import cross_entropy
from tests.family_models import CONTEXT as _CONTEXT
from tests.other_families import CONFIGS, LIKE_LLAMA, VOCAB, folder_of, model_of

transformers = pytest.importorskip("transformers")
warnings.filterwarnings("ignore", module="transformers")
PACKED = {"falcon", "stablelm", "cohere", "gptj", "opt", "starcoder2"}  # told apart by a mask; the others by rows
LENGTHS = [11, 13, 6]


@pytest.fixture(scope="module", params=CONFIGS)
def both(request, tmp_path_factory):
    theirs, folder = folder_of(request.param, tmp_path_factory.mktemp("models"))
    return request.param, theirs, load_language_model(folder).eval()


def documents(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, VOCAB, (1, size), generator=generator) for size in LENGTHS]


def test_packed_documents_learn_as_each_alone_does(both):
    name, theirs, model = both
    assert model.backbone.packs == (name in PACKED)
    some = documents()
    segments = torch.arange(3).repeat_interleave(torch.tensor(LENGTHS))[None]
    labels = torch.cat([F.pad(ids[:, 1:], (0, 1), value=-100) for ids in some], dim=1)
    found = cross_entropy(model(torch.cat(some, dim=1), None, segments), model.output_weight, labels)
    gradients = torch.autograd.grad(found.loss, list(model.parameters()), allow_unused=True)

    logits = [theirs(ids).logits for ids in some]
    wanted = sum(
        F.cross_entropy(each[0, :-1], ids[0, 1:], reduction="sum") for each, ids in zip(logits, some, strict=True)
    )
    named = dict(theirs.named_parameters())
    theirs_by_name = dict(zip(named, torch.autograd.grad(wanted, list(named.values())), strict=True))
    torch.testing.assert_close(found.loss, wanted, rtol=1e-5, atol=1e-5)
    checked, largest = 0, max(float(each.abs().max()) for each in theirs_by_name.values())
    for (key, _), mine in zip(model.named_parameters(), gradients, strict=True):
        key = key.replace("backbone.network", theirs.base_model_prefix)
        torch.testing.assert_close(mine, theirs_by_name[key], rtol=1e-4, atol=1e-5 * largest, msg=key)
        checked += 1
    assert checked == len(theirs_by_name)


def test_completions_that_share_a_prompt_are_as_likely_as_each_alone(both):
    _, theirs, model = both
    prompt, other, *_ = (ids[0].numpy() for ids in documents(1))
    rows = [(prompt, prompt[:4]), (prompt, prompt[3:9]), (other[:5], other[5:8]), (prompt, prompt[1:3])]
    found = completion_logps(model, pack(rows, row_tokens=64))
    wanted = []
    for begin, end in rows:
        ids = torch.tensor([[*begin, *end]])
        logps = theirs(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        wanted.append(logps[len(begin) - 1 :])
    torch.testing.assert_close(found, torch.cat(wanted), rtol=1e-5, atol=2e-5)


def test_a_new_head_scores_a_packed_completion_as_a_row_of_its_own(both):
    _, _, model = both
    torch.manual_seed(1)
    scored = ScoreModel.from_language_model(model)
    prompt, answer, _ = (ids[0].numpy() for ids in documents(2))
    packed = pack([(prompt, answer), (prompt, answer[:3])], row_tokens=64)
    ids = torch.tensor([[*prompt, *answer], [*prompt, *answer[:3], *[0] * (len(answer) - 3)]])
    wanted = scored(ids, torch.tensor([24, 14]))
    torch.testing.assert_close(scored.score_completions(packed), wanted, rtol=1e-4, atol=1e-5)
    assert wanted[0] != wanted[1]


def test_what_fills_a_row_up_may_be_longer_than_the_context():
    model = _shaped("opt")
    ids, longer = documents()[0], torch.zeros(1, 90, dtype=torch.int64)
    assert longer.shape[1] > _CONTEXT
    segments = torch.cat([torch.zeros_like(ids), longer + 1], dim=1)
    for packs in (True, False):
        model.backbone.packs = packs
        hidden = model(torch.cat([ids, longer], dim=1), None, segments)[:, : ids.shape[1]]
        torch.testing.assert_close(hidden, model(ids), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_known_family_is_the_same_through_both(tmp_path):
    config = transformers.LlamaConfig(**LIKE_LLAMA)
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    own, theirs = load_language_model(tmp_path), load_model(tmp_path, library="transformers")
    segments = torch.arange(3).repeat_interleave(torch.tensor(LENGTHS))[None]
    losses, gradients = [], []
    for model in (own, theirs):
        with torch.enable_grad():
            hidden = model(torch.cat(documents(), dim=1), None, segments)
            loss = cross_entropy(hidden, model.output_weight, torch.cat(documents(3), dim=1)).loss
            gradients.append(torch.autograd.grad(loss, model.backbone.embed_tokens.weight)[0])
        losses.append(loss)
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_attention_that_sees_later_tokens_is_refused(monkeypatch):
    def sees_all(self, input_ids, **_):
        return type("Output", (), {"last_hidden_state": self.embed_tokens(input_ids).cumsum(1).flip(1)})

    monkeypatch.setattr(transformers.StableLmModel, "forward", sees_all)
    monkeypatch.setattr("lit_llm.backbone.transformers_probe._check_head", lambda *_: None)
    with pytest.raises(UserError, match=r"model_type='stablelm': its hidden states depend on later tokens"):
        _shaped("stablelm")


def test_the_vocabulary_grows_with_a_head_that_has_a_bias():
    model = _shaped("gptj")
    ids = documents()[0]
    before = model.logits(model(ids))
    grow_vocabulary(model, VOCAB + 3)
    after = model.logits(model(ids))
    torch.testing.assert_close(after[..., :VOCAB], before)
    torch.testing.assert_close(after[..., -1], before.mean(-1), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["falcon", "opt"])
def test_an_adapter_is_what_peft_reads(name, tmp_path):
    peft = pytest.importorskip("peft")
    theirs, folder = folder_of(name, tmp_path)
    model = apply_lora(load_language_model(folder), rank=2, dropout=0.0)
    torch.manual_seed(3)
    for layer in adapted(model).values():
        torch.nn.init.normal_(layer.lora_B.weight, std=0.2)
    save_adapter(tmp_path / "adapter", model, folder)
    ids, model = documents()[0], model.eval()
    wanted = peft.PeftModel.from_pretrained(copy.deepcopy(theirs), tmp_path / "adapter").eval()(ids).logits
    found = model.logits(model(ids))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-5)
    assert (found - theirs(ids).logits).abs().max() > 0.01
    again = load_adapter(tmp_path / "adapter", load_language_model(folder)).eval()
    merged = merge_lora(again)
    torch.testing.assert_close(merged.logits(merged(ids)), wanted, rtol=1e-5, atol=2e-5)


def test_a_layer_that_is_not_there_gets_no_adapter():
    with pytest.raises(UserError, match=r"'c_attn'\] not in the model; use some of dense, dense_4h_to_h"):
        apply_lora(_shaped("falcon"), targets=["c_attn"])


def test_activations_are_computed_again_to_the_same_gradients():
    model = _shaped("starcoder2").train()
    gradients = []
    for again in (False, True):
        model.backbone.gradient_checkpointing = again
        assert model.backbone.gradient_checkpointing is again
        loss = model(documents()[0]).square().sum()
        gradients.append(torch.autograd.grad(loss, model.backbone.embed_tokens.weight)[0])
    torch.testing.assert_close(*gradients)


def _shaped(name) -> LanguageModel:
    """New weights in the shape of a family."""
    from lit_llm.backbone.transformers_config import _shape

    config = model_of(name).config
    torch.manual_seed(0)
    return LanguageModel(_shape(config, config.to_dict(), None)).eval()
