import json

import pytest
import torch

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.models import LanguageModel
from lit_llm.text.bpe import train_bpe


@pytest.fixture(scope="session")
def tokenizer():
    return train_bpe(["It returns the sum of numbers. What does add do?"] * 9, vocab_size=330, show_progress=False)


@pytest.fixture(scope="session")
def model(tokenizer):
    torch.manual_seed(0)
    return LanguageModel(from_depth(tokenizer.vocab_size, 1, hidden_size=32, num_heads=2, max_positions=96)).eval()


@pytest.fixture
def prompts(tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    for split, count in (("train", 12), ("validation", 3), ("test", 4)):
        rows = [
            {"messages": [{"role": "user", "content": f"What does {split}.add_{n} do?"}], "function": f"{split}.{n}"}
            for n in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
