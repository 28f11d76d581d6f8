"""Learning a tokenizer: byte-level BPE from one's own texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Engine

from lit_llm.model_sources.pre_tokenizers import QWEN2
from lit_llm.runtime.native_calls import heard
from lit_llm.runtime.progress_bars import Bar, at_work
from lit_llm.text.control_tokens import DOCUMENT_END, SPECIALS, TURN_END
from lit_llm.text.options import TrainBPEOptions
from lit_llm.text.tokenizer import Tokenizer

PATTERN = QWEN2  # one digit a piece; no normalizer, so that every byte comes back (Qwen's NFC would change some)
LONGEST = 1024
"""Characters of a piece that is learned from whole: the library's time grows with the square of the longest one."""
_LONG_BLANK = re.compile(rf"\s{{{LONGEST}}}")


def train_bpe(
    texts: Iterable[str],
    vocab_size: int = TrainBPEOptions.vocab_size,
    *,
    min_frequency: int = TrainBPEOptions.min_frequency,
    max_token_length: int = TrainBPEOptions.max_token_length,
    show_progress: bool = TrainBPEOptions.show_progress,
) -> Tokenizer:
    """Learn a byte-level BPE vocabulary (Sennrich et al. 2016, on bytes as GPT-2).

    Args:
        texts: what to learn from, read once.
        vocab_size, min_frequency, max_token_length, show_progress: as in ``TrainBPEOptions``.
    """
    TrainBPEOptions(vocab_size=vocab_size)  # checks it
    engine = Engine(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        max_token_length=max_token_length,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,  # its bars know no total, and are blank lines in a log
    )
    with ExitStack() as shown:
        told = _told(_valid(texts), shown, f"make {vocab_size:,} tokens of them") if show_progress else _valid(texts)
        heard(lambda ended_with_us: engine.train_from_iterator(ended_with_us(told), trainer))
    return Tokenizer(engine, {"eos_token": TURN_END, "pad_token": DOCUMENT_END, "bos_token": None})


def _told(texts: Iterable[str], shown: ExitStack, afterwards: str) -> Iterator[str]:
    """The texts, and what the library is at: it reads them all, and makes the vocabulary then, whose steps it does not
    tell. That is shown until ``shown`` ends."""
    with Bar(desc="read texts for the tokenizer", unit=" characters", unit_scale=True, leave=False) as bar:
        for text in texts:
            yield text
            bar.update(len(text))
    shown.enter_context(at_work(afterwards))


def _valid(texts: Iterable[str]) -> Iterator[str]:
    """The library stops at half a surrogate pair; its replacement is a character like any other."""
    for text in texts:
        valid = text if text.isascii() else text.encode("utf-8", errors="replace").decode()
        if max(map(len, valid.split()), default=0) >= LONGEST or _LONG_BLANK.search(valid):
            yield from _bounded(valid)
        else:
            yield valid


def _bounded(text: str) -> Iterator[str]:
    """The text in parts, cut nowhere but around and inside pieces longer than ``LONGEST``."""
    usual: list[str] = []
    for piece, _ in pre_tokenizers.Split(Regex(PATTERN), "isolated").pre_tokenize_str(text):
        if len(piece) <= LONGEST:
            usual.append(piece)
            continue
        yield "".join(usual)
        usual = []
        yield from (piece[start : start + LONGEST] for start in range(0, len(piece), LONGEST))
    yield "".join(usual)
