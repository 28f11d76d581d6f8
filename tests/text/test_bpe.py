"""Learning a vocabulary takes time in proportion to the text, whatever its longest word."""

import random
import string

import pytest
from tokenizers import Regex, pre_tokenizers

from lit_llm.text import bpe
from lit_llm.text.bpe import LONGEST, PATTERN, train_bpe

PROSE = ["the cat sat on the mat, and 12 dogs sat too.\r\n\n  قطة صغيرة — 東京 " * 40, "x = f(y)\n" * 90]


@pytest.mark.parametrize("word", [string.ascii_letters, "-+=*#", " \t", "قطةصغير", "\n"])
def test_no_piece_to_learn_from_is_longer_than_the_bound_and_none_is_lost(word):
    random.seed(0)
    text = "before " + "".join(random.choices(word, k=20 * LONGEST)) + " behind it"
    parts = list(bpe._valid([text]))
    assert "".join(parts) == text and len(parts) > 20
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    assert max(len(piece) for part in parts for piece, _ in split.pre_tokenize_str(part)) <= LONGEST


def test_usual_texts_are_learned_from_as_they_are(monkeypatch):
    long_line = "東京、" * LONGEST  # long between blanks, but not in one piece
    assert list(bpe._valid([*PROSE, long_line])) == [*PROSE, long_line]
    learned = train_bpe(PROSE, 500, show_progress=False)
    monkeypatch.setattr(bpe, "_valid", lambda texts: texts)
    assert train_bpe(PROSE, 500, show_progress=False).fingerprint() == learned.fingerprint()


def test_a_tokenizer_trained_here_is_the_same_from_version_to_version():
    """Ids and fingerprint: what is cached under it, and models that were trained with it, stay valid."""
    learned = train_bpe(PROSE, 500, show_progress=False)
    assert learned.fingerprint() == "cd99e43eb47236bdf004846c18e8c906b9456942a070a26475f4975802e99609"
    ids = learned.encode("the cat sat <|im_end|> 東京")
    assert ids == [86, 265, 292, 268, 223, 30, 94, 75, 79, 65, 71, 80, 70, 94, 32, 310]
