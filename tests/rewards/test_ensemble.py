"""An ensemble joins its members' scores, and all members read one tokenizer."""

import pytest
import torch

from lit_llm.backbone import huggingface
from lit_llm.backbone.config import from_depth
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.errors import UserError
from lit_llm.records import Message
from lit_llm.rewards.ensemble import Ensemble
from lit_llm.rewards.folders import folders_of
from lit_llm.rewards.learned import LearnedReward
from lit_llm.text.bpe import train_bpe

SHAPE = {"hidden_size": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "intermediate_size": 64}
PROMPTS = [(Message("user", "why?"),)] * 2
TEXTS = ["a list of words", "text"]


def reward_folder(place, seed, text):
    torch.manual_seed(seed)
    tokenizer = train_bpe([text] * 20, vocab_size=290)
    language = LanguageModel(from_depth(tokenizer.vocab_size, depth=2, max_positions=64, **SHAPE))
    huggingface.save_model(place, ScoreModel.from_language_model(language), tokenizer)
    return str(place)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("rewards")
    return [reward_folder(place / str(seed), seed, "a model is trained on text") for seed in range(3)]


def test_members_are_joined_by_the_formula(folders):
    each = torch.stack([LearnedReward(folder=folder)(PROMPTS, TEXTS) for folder in folders]).double()
    mean = each.mean(0)
    spread = ((each - mean).square().sum(0) / 2).sqrt()
    expected = {"mean": mean, "min": each.min(0).values, "mean_minus_std": mean - 0.5 * spread}
    for how, scores in expected.items():
        found = Ensemble(folders=folders, how=how, std_coef=0.5)(PROMPTS, TEXTS)
        torch.testing.assert_close(found.double(), scores, rtol=1e-5, atol=1e-6)
    ids, lengths = torch.randint(0, 250, (3, 9)), torch.tensor([9, 4, 6])
    rows = torch.stack([LearnedReward(folder=folder).score_tokens(ids, lengths) for folder in folders])
    ensemble = Ensemble(folders=folders)
    torch.testing.assert_close(ensemble.score_tokens(ids, lengths), rows.mean(0))
    assert folders_of(ensemble) == tuple(folders)
    assert [context for _, context in ensemble.contexts()] == [64] * 3 and len(ensemble.score_models()) == 3


def test_what_makes_no_ensemble_is_refused(folders, tmp_path):
    other = reward_folder(tmp_path / "other", 0, "quite another text in capitals")
    for given, how, message in (
        (folders[:1], "mean", "two or more"),
        ([folders[0], folders[0]], "mean", "two or more"),
        (folders, "max", "how: max"),
        ([folders[0], other], "mean", "a tokenizer of"),
    ):
        with pytest.raises(UserError, match=message):
            Ensemble(folders=given, how=how)
