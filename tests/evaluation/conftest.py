import pytest
import torch

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.text.bpe import train_bpe

TEXTS = ["The cat sat on the mat. The dog sat on the log.", "قطة صغيرة جلست على السجادة", "naïve text, isn't it?"]


@pytest.fixture(scope="session")
def tokenizer():
    return train_bpe(TEXTS * 4, vocab_size=330, show_progress=False)


@pytest.fixture(scope="session")
def model(tokenizer):
    torch.manual_seed(3)
    config = from_depth(tokenizer.vocab_size, 1, hidden_size=32, num_heads=2, max_positions=48, dropout=0.1)
    model = LanguageModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return model


@pytest.fixture(scope="session")
def reward_model(model):
    torch.manual_seed(4)
    return ScoreModel.from_language_model(model)
