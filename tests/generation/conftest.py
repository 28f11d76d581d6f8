import pytest
import torch

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.models import LanguageModel
from lit_llm.text.bpe import train_bpe

TEXTS = ["The cat sat on the mat. The dog sat on the log.", "قطة صغيرة جلست على السجادة", "naïve 🙂 text, isn't it?"]


@pytest.fixture(scope="session")
def tokenizer():
    return train_bpe(TEXTS * 4, vocab_size=330, show_progress=False)


@pytest.fixture(scope="session")
def small_model(tokenizer):
    torch.manual_seed(3)
    config = from_depth(tokenizer.vocab_size, 1, hidden_size=32, num_heads=2, max_positions=128)
    model = LanguageModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model
