"""Invariant: a reward model's folder gives one score, here and in transformers, whatever its tokenizer pads with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.huggingface import save_model
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.records import Message
from lit_llm.rewards.flags import FlagProbability
from lit_llm.rewards.learned import LearnedReward
from lit_llm.text import tokenizer as ours
from lit_llm.text.chat import CHATML, ChatTemplate

transformers = pytest.importorskip("transformers")

LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
PHI3 = (  # a second end behind all, where no answer is asked for
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
CHATML_ENDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# name: (control tokens, what tokenizer_config.json says, template)
KINDS: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "pad ends the turn": (CHATML_ENDS, {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}, CHATML),
    "pad ends the document": (CHATML_ENDS, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, CHATML),
    "pad as an object": (CHATML_ENDS, {"eos_token": "<|im_end|>", "pad_token": {"content": "<|im_end|>"}}, CHATML),
    "no pad": (CHATML_ENDS, {"eos_token": "<|im_end|>"}, CHATML),
    "pad that is no token": (CHATML_ENDS, {"eos_token": "<|im_end|>", "pad_token": "[PAD]"}, CHATML),
    "pad of its own": ([*CHATML_ENDS, "<pad>"], {"eos_token": "<|im_end|>", "pad_token": "<pad>"}, CHATML),
    "reserved": ([*CHATML_ENDS, "<|reserved_7|>"], {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}, CHATML),
    "one end and nothing else": (["</s>"], {"eos_token": "</s>", "pad_token": "</s>"}, ours.PLAIN),
    "llama 2": (["<s>", "</s>"], {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}, LLAMA2),
    "phi 3": (
        ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"],
        {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        PHI3,
    ),
}


def tokenizer_of(kind: str) -> ours.Tokenizer:
    """Bytes and control tokens alone."""
    control, config, template = KINDS[kind]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    engine = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return ours.Tokenizer(engine, config, ChatTemplate(template))


def score_model(vocabulary: int, label: str | None = None) -> ScoreModel:
    torch.manual_seed(0)
    shape = from_depth(vocabulary, depth=2, hidden_size=32, num_heads=4, num_kv_heads=2, head_dim=8, max_positions=256)
    model = ScoreModel.from_language_model(LanguageModel(shape))
    for parameter in model.parameters():  # wide, so that what stands before the last token shows well above rounding
        torch.nn.init.normal_(parameter, std=0.5)
    model.label = label
    return model.eval()


CONVERSATIONS = [("hi", "yo"), ("what is it?", "a longer answer.\nOf two lines"), ("x", "line ends \n\n")]


@pytest.mark.parametrize("kind", KINDS)
def test_one_score_here_and_in_transformers(kind: str, tmp_path: Path) -> None:
    """Of texts, by each side's own tokenizer, in a batch padded on either side and one by one."""
    tokenizer = tokenizer_of(kind)
    before = tokenizer.fingerprint()
    save_model(tmp_path, score_model(tokenizer.vocab_size), tokenizer)
    reward = LearnedReward(folder=str(tmp_path))
    reward.check_tokenizer(tokenizer)  # the policy's, which is as it was
    assert tokenizer.fingerprint() == before
    prompts = [[Message("user", prompt)] for prompt, _ in CONVERSATIONS]
    wanted = reward(prompts, [answer for _, answer in CONVERSATIONS])
    assert torch.pdist(wanted[:, None]).min() > 1e-3  # told apart

    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype="float32").eval()
    reads = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.config.pad_token_id, len(reads)) == (reads.pad_token_id, tokenizer.vocab_size)
    talks = [[{"role": "user", "content": p}, {"role": "assistant", "content": a}] for p, a in CONVERSATIONS]
    with torch.no_grad():
        for side in ("right", "left"):
            reads.padding_side = side
            batch = reads.apply_chat_template(talks, padding=True, return_tensors="pt", return_dict=True)
            assert torch.allclose(theirs(**batch).logits[:, 0], wanted, atol=1e-4)
        for talk, score in zip(talks, wanted, strict=True):
            alone = reads.apply_chat_template(talk, return_tensors="pt", return_dict=True)
            assert torch.allclose(theirs(**alone).logits[0, 0], score, atol=1e-4)


def test_a_flag_classifier_says_the_same_in_transformers(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("pad ends the turn")
    save_model(tmp_path, score_model(tokenizer.vocab_size, label="flagged"), tokenizer)
    flags = FlagProbability(folder=str(tmp_path))
    flags.check_tokenizer(tokenizer)
    wanted = flags([[Message("user", p)] for p, _ in CONVERSATIONS], [a for _, a in CONVERSATIONS])
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype="float32").eval()
    reads = transformers.AutoTokenizer.from_pretrained(tmp_path)
    talks = [[{"role": "user", "content": p}, {"role": "assistant", "content": a}] for p, a in CONVERSATIONS]
    batch = reads.apply_chat_template(talks, padding=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        assert torch.allclose(torch.sigmoid(theirs(**batch).logits[:, 0]), wanted, atol=1e-5)


def test_a_language_models_folder_keeps_pad_and_template(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("pad ends the turn")
    shape = from_depth(tokenizer.vocab_size, 1, hidden_size=32, num_heads=4, num_kv_heads=2, head_dim=8)
    save_model(tmp_path, LanguageModel(shape), tokenizer)
    reads = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert reads.pad_token == "<|im_end|>"
    assert (tmp_path / "chat_template.jinja").read_text() == CHATML
