"""A reward model read back from its folder scores texts and tokens alike, and refuses policies it does not fit."""

import shutil

import pytest
import torch

from lit_llm.backbone import huggingface
from lit_llm.backbone.config import from_depth
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.errors import UserError
from lit_llm.records import Message
from lit_llm.rewards.learned import LearnedReward
from lit_llm.stages.ppo import PPO
from lit_llm.text.bpe import train_bpe
from tests.stages.toy import parts

TEXTS = ["a model is trained on text", "what does the function return? it returns a list of words"]
PROMPTS = [
    (Message("user", "what is a list?"),),
    (Message("user", "why?"), Message("assistant", "so"), Message("user", "a")),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    tokenizer = train_bpe(TEXTS * 20, vocab_size=300)
    shape = {"hidden_size": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "intermediate_size": 64}
    language = LanguageModel(from_depth(tokenizer.vocab_size, depth=2, max_positions=64, **shape))
    model = ScoreModel.from_language_model(language)
    model.reward_mean.fill_(0.4)
    model.reward_std.fill_(3.0)
    folder = tmp_path_factory.mktemp("reward") / "model"
    huggingface.save_model(folder, model, tokenizer)
    return folder, model, language, tokenizer


def test_texts_tokens_and_the_model_itself_give_one_score(saved):
    folder, model, _, tokenizer = saved
    reward = LearnedReward(folder=str(folder), batch_size=1)
    answers = ["a list of words", "text"]
    scores = reward(PROMPTS, answers)
    for prompt, answer, score in zip(PROMPTS, answers, scores.tolist(), strict=True):
        ids = tokenizer.encode_chat([*prompt, Message("assistant", answer)])[0]
        ids = ids[: len(tokenizer.encode_prompt(prompt) + tokenizer.encode_completion(answer))]
        with torch.no_grad():
            expected = model(torch.tensor([ids]), torch.tensor([len(ids)])).item()
        assert score == pytest.approx(expected, abs=1e-5)
        assert reward.score_tokens(torch.tensor([[*ids, 7, 7]]), torch.tensor([len(ids)])).item() == pytest.approx(
            score
        )
    assert not any(parameter.requires_grad for parameter in reward.parameters())
    assert reward.contexts() == [(reward.tokenizer, 64)] and reward.vocab_size == tokenizer.vocab_size
    assert reward.score_models() == [reward.model] and reward.folders == (str(folder),) and reward.reads_tokens


def test_ppo_takes_it_and_starts_its_values_from_it(saved):
    folder, model, language, tokenizer = saved
    stage = PPO(model=language, reward=LearnedReward(folder=str(folder)), tokenizer=tokenizer, **parts())
    assert torch.equal(stage.value.score.weight, model.score.weight) and stage.sampler.end_ids == tokenizer.end_ids
    assert not any(key.startswith("reward") for key in stage.state_dict())


def test_another_tokenizer_of_the_same_size_is_refused(saved):
    folder, _, language, tokenizer = saved
    other = train_bpe([text.upper() for text in TEXTS] * 20, vocab_size=300)
    assert other.fingerprint() != tokenizer.fingerprint()
    with pytest.raises(UserError, match=r"reward\.folder"):
        PPO(model=language, reward=LearnedReward(folder=str(folder)), tokenizer=other, **parts())


def test_a_tokenizer_of_another_model_is_refused(saved, tmp_path):
    folder, _, _, _ = saved
    shutil.copytree(folder, tmp_path / "model")
    tokenizer = train_bpe(TEXTS * 20, vocab_size=280)
    tokenizer.add_tokens([f"<token {n}>" for n in range(100)])
    tokenizer.save(tmp_path / "model")
    with pytest.raises(UserError, match="model's embedding 300 rows"):
        LearnedReward(folder=str(tmp_path / "model"))


def test_a_folder_of_a_language_model_or_none_is_refused(saved, tmp_path):
    _, _, language, tokenizer = saved
    huggingface.save_model(tmp_path / "language", language, tokenizer)
    for folder in ("language", "nothing"):
        with pytest.raises(UserError):
            LearnedReward(folder=str(tmp_path / folder))


def test_texts_longer_than_the_reward_model_reads_are_refused(saved):
    with pytest.raises(UserError, match="up to 64 tokens"):
        LearnedReward(folder=str(saved[0]))([PROMPTS[0]], ["words " * 100])


def test_tokens_beyond_what_the_reward_model_reads_are_refused(saved):
    ids, reward = torch.full((2, 65), 7), LearnedReward(folder=str(saved[0]))
    assert reward.score_tokens(ids, torch.tensor([3, 64])).shape == (2,)
    with pytest.raises(UserError, match="up to 64 tokens; got 65"):
        reward.score_tokens(ids, torch.tensor([3, 65]))
