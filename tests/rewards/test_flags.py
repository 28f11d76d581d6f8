"""A flag classifier read back from its folder: probabilities of texts and tokens alike, 0 or 1 at its threshold."""

import pytest
import torch

from lit_llm.backbone import huggingface
from lit_llm.backbone.config import from_depth
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.errors import UserError
from lit_llm.records import Message
from lit_llm.rewards.flags import FlagProbability, FlagRate
from lit_llm.text.bpe import train_bpe

TEXTS = ["a model is trained on text", "what does the function return? it returns a list of words"]
PROMPTS = [(Message("user", "what is a list?"),), (Message("user", "why?"),), (Message("user", "a b c"),)]
ANSWERS = ["a list of words", "text", "the function returns a model"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    tokenizer = train_bpe(TEXTS * 20, vocab_size=300)
    shape = {"hidden_size": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "intermediate_size": 64}
    model = ScoreModel.from_language_model(
        LanguageModel(from_depth(tokenizer.vocab_size, depth=2, max_positions=64, **shape))
    )
    model.label = "flagged"
    place = tmp_path_factory.mktemp("flags")
    huggingface.save_model(place / "first", model, tokenizer)
    middle = float(FlagProbability(folder=str(place / "first"))(PROMPTS, ANSWERS).median())
    model.threshold = middle
    huggingface.save_model(place / "flags", model, tokenizer)
    model.label = None
    huggingface.save_model(place / "reward", model, tokenizer)
    return place, model, tokenizer


def test_texts_and_tokens_have_the_model_s_probability(saved):
    place, model, tokenizer = saved
    scorer = FlagProbability(folder=str(place / "flags"), batch_size=2)
    chat, found = tokenizer.chat, scorer(PROMPTS, ANSWERS)
    assert scorer.score_models() == [scorer.classifier] and scorer.folders == ()  # no reward model to be validated
    for prompt, answer, probability in zip(PROMPTS, ANSWERS, found.tolist(), strict=True):
        ids = chat.encode_prompt(tokenizer, prompt) + chat.encode_completion(tokenizer, answer)
        with torch.no_grad():
            logit = model(torch.tensor([ids]), torch.tensor([len(ids)])).item()
        assert probability == pytest.approx(1 / (1 + 2.718281828459045**-logit), rel=1e-5)
        own = scorer.score_tokens(torch.tensor([[*ids, 0, 0]]), torch.tensor([len(ids)]))
        assert own.item() == pytest.approx(probability, rel=1e-5)


def test_the_rate_is_the_share_at_the_threshold_or_above(saved):
    folder = str(saved[0] / "flags")
    found = FlagRate(folder=folder)(PROMPTS, ANSWERS)
    assert found.tolist() == (FlagProbability(folder=folder)(PROMPTS, ANSWERS) >= saved[1].threshold).float().tolist()
    assert sorted(found.tolist()) == [0.0, 1.0, 1.0]


def test_a_reward_model_is_no_flag_classifier_and_the_other_way_round(saved):
    from lit_llm.rewards.learned import LearnedReward

    with pytest.raises(UserError, match="holds no flag classifier"):
        FlagProbability(folder=str(saved[0] / "reward"))
    with pytest.raises(UserError, match="holds no reward model"):
        LearnedReward(folder=str(saved[0] / "flags"))


def test_another_tokenizer_is_refused(saved):
    scorer = FlagRate(folder=str(saved[0] / "flags"))
    scorer.check_tokenizer(saved[2])
    with pytest.raises(UserError, match="unlike the policy's"):
        scorer.check_tokenizer(train_bpe(["other words"] * 9, vocab_size=280))


def test_what_the_folder_says_of_its_threshold_is_checked(saved, tmp_path):
    import json
    import shutil

    folder = shutil.copytree(saved[0] / "flags", tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "decision_threshold": 7}))
    with pytest.raises(UserError, match=r"config.json: decision_threshold=7 should be a probability"):
        FlagProbability(folder=str(folder))


@pytest.mark.parametrize("kind", [FlagProbability, FlagRate])
def test_tokens_beyond_what_the_classifier_reads_are_refused(saved, kind):
    ids, scorer = torch.full((2, 65), 7), kind(folder=str(saved[0] / "flags"))
    assert scorer.score_tokens(ids, torch.tensor([3, 64])).shape == (2,)
    with pytest.raises(UserError, match="up to 64 tokens; got 65"):
        scorer.score_tokens(ids, torch.tensor([3, 65]))
