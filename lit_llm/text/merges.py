"""Further merges for a byte-level BPE that is there, learned from a corpus: its vocabulary goes on growing.

The corpus is encoded by the tokenizer as it is, and the pair of neighbours that comes most often within a piece (a
word, as the pre-tokenizer cuts it) becomes a token, again and again (Sennrich et al. 2016, algorithm 1, begun from a
vocabulary instead of from characters). The merges stand behind the old ones, so that old ids stay, a text is first
encoded as before and then merged on: it never has more tokens than it had, and a text without a learned pair has the
same. The result is plain BPE, which ``tokenizer.json`` and GGUF hold.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Engine

from lit_llm.errors import UserError
from lit_llm.runtime.progress_bars import Bar
from lit_llm.text.new_words import with_entries
from lit_llm.text.options import TrainBPEOptions

if TYPE_CHECKING:  # numpy is imported where merges are learned
    from lit_llm.text.pair_counts import Pair

LONGEST_PIECE = 256  # characters of a piece that is learned from: longer ones are no words


@dataclass(frozen=True)
class LearnedMerges:
    """What a corpus teaches a tokenizer.

    ``merges``: pairs of tokens as the vocabulary spells them, in order. ``tokens``: what is new among their results,
    in the order of their ids; a merge may also make a token that the vocabulary has.
    """

    merges: tuple[tuple[str, str], ...] = ()
    tokens: tuple[str, ...] = ()


def learn_merges(
    engine: Engine,
    texts: Iterable[str],
    count: int,
    *,
    min_frequency: int = TrainBPEOptions.min_frequency,
    max_token_length: int = TrainBPEOptions.max_token_length,
    progress: bool = True,
) -> LearnedMerges:
    """The merges that make ``count`` new tokens, each the most frequent pair of its time; fewer where pairs run out.

    Args:
        texts: what to learn from, read once.
        min_frequency: pairs that come less often are not merged.
        max_token_length: of a token, in bytes.
        progress: shows how many texts are read, then how many tokens are learned.

    Raises UserError where the tokenizer is no BPE over bytes.
    """
    rules = json.loads(engine.to_str())
    refuse_others(rules)
    with Bar(texts, desc="new tokens", unit=" texts", leave=False, disable=not progress) as read:
        words = _Words(engine, rules, _pieces(engine, read))
    merges: list[tuple[str, str]] = []
    tokens: list[str] = []
    with Bar(total=count, desc="new tokens", unit=" tokens", leave=False, disable=not progress) as bar:
        while len(tokens) < count and (pair := words.pairs.most_frequent(min_frequency)) is not None:
            left, right = (words.spelled[i] for i in pair)
            token = left + right
            if len(token) > max_token_length or token in words.added:
                words.pairs.forbid(pair)
                continue
            merges.append((left, right))
            if token not in words.ids:
                tokens.append(token)
                bar.update()
            words.merge(pair, token)
    return LearnedMerges(tuple(merges), tuple(tokens))


def with_merges(engine: Engine, learned: LearnedMerges) -> Engine:
    """The engine with these merges behind its own, and their new tokens behind its largest id."""
    if not learned.merges:
        return engine
    return with_entries(engine, learned.tokens, learned.merges)


def replaced(before: Engine, after: Engine) -> dict[int, tuple[int, ...]]:
    """For every token that ``after`` has learned beyond ``before``: the ids that it stands for there.

    ``after`` is ``with_merges`` of ``before``, once or several times.
    """
    old, new = (json.loads(each.to_str())["model"] for each in (before, after))
    known, ids = before.get_vocab(with_added_tokens=True), after.get_vocab(with_added_tokens=True)
    found: dict[int, tuple[int, ...]] = {}

    def expanded(token: str) -> tuple[int, ...]:
        return (known[token],) if token in known else found[ids[token]]

    for left, right in _merges(new)[len(old["merges"]) :]:
        token = ids[left + right]
        if left + right not in known and token not in found:
            found[token] = expanded(left) + expanded(right)
    return found


def refuse_others(rules: Mapping[str, Any]) -> None:
    """Raises UserError for the rules of a tokenizer that is no BPE over bytes."""
    decoder = rules["decoder"] or {}
    kinds = {decoder.get("type"), *(each.get("type") for each in decoder.get("decoders", []))}
    if rules["model"]["type"] != "BPE" or "ByteLevel" not in kinds or rules["pre_tokenizer"] is None:
        what = "a BPE as SentencePiece's" if rules["model"]["type"] == "BPE" else rules["model"]["type"]
        raise UserError(
            f"stage.new_tokens=auto: continues the merges of a BPE over bytes (GPT-2, Llama 3, Qwen, SmolLM), and this "
            f"model's tokenizer is {what}; give the words as a list, such as stage.new_tokens=[tensor,gradient]"
        )


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
    return [(left, right) for left, right in pairs]


def _pieces(engine: Engine, texts: Iterable[str]) -> Counter[str]:
    """How often each piece occurs, as the vocabulary spells it; half a surrogate pair is a question mark."""
    counts: Counter[str] = Counter()
    normalize = engine.normalizer.normalize_str if engine.normalizer is not None else str
    cut = engine.pre_tokenizer.pre_tokenize_str
    for text in texts:
        valid = text if text.isascii() else text.encode("utf-8", errors="replace").decode()
        counts.update(piece for piece, _ in cut(normalize(valid)))
    return counts


class _Words:
    """The distinct pieces as ids, and what becomes of them when a pair is merged."""

    def __init__(self, engine: Engine, rules: Mapping[str, Any], pieces: Mapping[str, int]) -> None:
        from lit_llm.text.pair_counts import PairCounts

        self.ids: dict[str, int] = engine.get_vocab(with_added_tokens=True)
        self.spelled = {i: token for token, i in self.ids.items()}
        self.added = {token["content"] for token in rules["added_tokens"]}  # nothing else may make these
        self._next = max(self.ids.values()) + 1
        model = rules["model"]
        self._ranks = {(self.ids[left], self.ids[right]): rank for rank, (left, right) in enumerate(_merges(model))}
        self._whole_first = bool(model.get("ignore_merges"))
        bare = Engine(engine.model)  # what it gets is one piece, spelled already
        usual = {p: n for p, n in sorted(pieces.items()) if len(p) <= LONGEST_PIECE and p not in self.added}
        encoded = zip(usual.items(), bare.encode_batch(list(usual), add_special_tokens=False), strict=True)
        kept = [(piece, n, one.ids) for (piece, n), one in encoded if len(one) > 1]
        self._place = {piece: index for index, (piece, _, _) in enumerate(kept)}
        self.pairs = PairCounts([ids for _, _, ids in kept], [n for _, n, _ in kept])

    def merge(self, pair: Pair, token: str) -> None:
        """Makes ``token`` of the pair wherever it stands, and what older merges make of that then."""
        made, is_new = self.ids.get(token, self._next), token not in self.ids
        self._ranks[pair] = len(self._ranks)
        if is_new:  # no older merge has it
            self.ids[token], self.spelled[made] = made, token
            self._next += 1
            self.pairs.merge(pair, made)
        else:
            self.pairs.rewrite({index: self._encoded(ids) for index, ids in self.pairs.words_with(pair).items()})
        if self._whole_first and token in self._place:
            self.pairs.rewrite({self._place[token]: [made]})

    def _encoded(self, word: list[int]) -> list[int]:
        """The oldest merge that is possible, the leftmost of its places, one at a time: BPE itself."""
        found = list(word)
        while True:
            known = [(rank, at) for at, two in enumerate(pairwise(found)) if (rank := self._ranks.get(two)) is not None]
            if not known:
                return found
            at = min(known)[1]
            found[at : at + 2] = [self.ids[self.spelled[found[at]] + self.spelled[found[at + 1]]]]
