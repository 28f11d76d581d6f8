"""The tokenizer in a GGUF file as the files of a model folder: every text gets the ids that llama.cpp gives it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lit_llm.model_sources.gguf_header import GGUFHead
from lit_llm.model_sources.pre_tokenizers import RULES, Rule

NORMALIZER = "lit_llm.tokenizer.normalizer"  # an entry of the files that are written here: a name, or none
# ggml's kinds of tokens
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_ENDS = ("bos", "eos", "unk", "pad")
_IDS = {"unk": "unknown", "pad": "padding"}  # as the file calls them
_TURN_ENDS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
BLANK = "▁"
# Phi-3's tokens take the blanks and new lines behind them, but for three. No file says so: llama.cpp goes by
# ``general.name``, and ends over a vocabulary that lacks one of these. Some of the model's files are called otherwise;
# its own tokenizer has this token.
_PHI3 = "<|placeholder1|>"
PHI3_PLAIN, PHI3_NEEDED = ("<unk>", "<s>", "<|endoftext|>"), ("<unk>", "<s>", "<|endoftext|>", "</s>")
PHI3_NAME = re.compile("(phi)-?3", re.IGNORECASE)


def tokenizer_files(head: GGUFHead) -> dict[str, Any]:
    """Names of files to what they hold: JSON, and the text of ``chat_template.jinja``.

    Raises UserError for a kind of tokenizer or a pre-tokenizer that is not known here, and for a damaged one.
    """
    model, tokens = head.needed("tokenizer.ggml.model", str), _tokens(head)
    if model == "gpt2":
        rule = _rule(head)
        engine, adds_bos = _byte_pairs(head, tokens, rule), rule.adds_bos
    elif model == "llama":
        engine, adds_bos = _sentencepiece(head, tokens), True
    else:
        head.refuse(
            f"tokenizer.ggml.model={model!r} is not supported: use a file with gpt2 (BPE) or llama (SentencePiece)"
        )
    ids = {name: _end(head, name, tokens) for name in _ENDS}
    adds = {"bos": head.value("tokenizer.ggml.add_bos_token", bool, adds_bos)}
    adds["eos"] = head.value("tokenizer.ggml.add_eos_token", bool, False)
    engine["post_processor"] = _around({name: ids[name] for name, on in adds.items() if on}, tokens)
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config |= {f"{name}_token": None if (n := ids[name]) is None else tokens[n] for name in _ENDS}
    config |= {f"add_{name}_token": bool(on and ids[name] is not None) for name, on in adds.items()}
    if context := head.value(f"{head.needed('general.architecture', str)}.context_length", int):
        config["model_max_length"] = context
    files = {
        "tokenizer.json": engine,
        "tokenizer_config.json": config,
        "generation_config.json": _ends(head, ids, tokens),
    }
    if template := head.value("tokenizer.chat_template", str):
        files["chat_template.jinja"] = template
    return files


def _tokens(head: GGUFHead) -> list[str]:
    tokens = head.items("tokenizer.ggml.tokens", str)
    if not tokens:
        head.refuse("tokenizer.ggml.tokens is missing: the file has no tokenizer; make it again with one")
    if len(set(tokens)) < len(tokens):
        twice = Counter(tokens).most_common(1)[0][0]
        head.refuse(f"tokenizer.ggml.tokens holds {twice[:40]!r} twice; make the file again")
    return tokens


def _kinds(head: GGUFHead, tokens: Sequence[str]) -> list[int]:
    kinds = head.items("tokenizer.ggml.token_type", int) or [NORMAL] * len(tokens)
    if len(kinds) != len(tokens):
        head.refuse(f"tokenizer.ggml.token_type has {len(kinds)} entries for {len(tokens)} tokens; make the file again")
    return kinds


def _rule(head: GGUFHead) -> Rule:
    name = head.value("tokenizer.ggml.pre", str)
    if name not in RULES:
        told = " is missing" if name is None else f"={name!r} is not supported"
        head.refuse(f"tokenizer.ggml.pre{told}: how it cuts texts is not known here; known are {', '.join(RULES)}")
    return RULES[name]


def _end(head: GGUFHead, name: str, tokens: Sequence[str]) -> int | None:
    key = f"tokenizer.ggml.{_IDS.get(name, name)}_token_id"
    found: int | None = head.value(key, int)
    if found is not None and not 0 <= found < len(tokens):
        head.refuse(f"{key}={found} is no token's id: there are {len(tokens)}")
    return found


def _ends(head: GGUFHead, ids: Mapping[str, int | None], tokens: Sequence[str]) -> dict[str, Any]:
    turns = [head.value(key, int) for key in _TURN_ENDS]
    stops = [n for n in (ids["eos"], *turns) if n is not None and 0 <= n < len(tokens)]
    found = {"bos_token_id": ids["bos"], "eos_token_id": list(dict.fromkeys(stops)) or None, "pad_token_id": ids["pad"]}
    return {key: value for key, value in found.items() if value is not None}


def _added(tokens: Sequence[str], kinds: Sequence[int], also: Sequence[int]) -> list[dict[str, Any]]:
    """Control tokens, and words that are found before a text is cut."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": n, "content": token, **flags, "special": kinds[n] in also}
        for n, token in enumerate(tokens)
        if kinds[n] in also or kinds[n] == USER_DEFINED
    ]


def _is_phi3(head: GGUFHead, vocabulary: Mapping[str, int]) -> bool:
    if head.value("general.architecture", str) == "phi3" and _PHI3 in vocabulary:
        return True
    named = PHI3_NAME.search(head.value("general.name", str, "")) is not None
    return named and all(token in vocabulary for token in PHI3_NEEDED)


def _taking_blanks(added: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Phi-3's."""
    return [one | {"rstrip": one["content"] not in PHI3_PLAIN} for one in added]


def _engine(added: list[dict[str, Any]], model: dict[str, Any], **rules: Any) -> dict[str, Any]:
    empty = {"truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": None, "post_processor": None}
    return {"version": "1.0", **empty, "added_tokens": added, **rules, "model": model}


def _byte_pairs(head: GGUFHead, tokens: list[str], rule: Rule) -> dict[str, Any]:
    kinds, merges = _kinds(head, tokens), head.items("tokenizer.ggml.merges", str)
    if merges is None:
        head.refuse("tokenizer.ggml.merges is missing, which BPE needs; make the file again")
    vocabulary = {token: n for n, token in enumerate(tokens) if kinds[n] != UNUSED}
    pairs = [merge.split(" ") for merge in merges]
    for pair in pairs:
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys():
            head.refuse(
                f"tokenizer.ggml.merges holds {' '.join(pair)[:40]!r}, which its tokens do not make; fetch it again"
            )
    normalizer = head.value(NORMALIZER, str, rule.normalizer)
    if normalizer not in (None, "none", "NFC"):
        head.refuse(f"{NORMALIZER}={normalizer[:40]!r} is not supported: use NFC or none")
    return _engine(
        _added(tokens, kinds, [CONTROL]),
        {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "fuse_unk": False,
            "end_of_word_suffix": None, "byte_fallback": False, "ignore_merges": rule.whole_words_first,
            "vocab": vocabulary, "merges": pairs,
        },
        normalizer={"type": "NFC"} if normalizer == "NFC" else None,
        pre_tokenizer={"type": "Sequence", "pretokenizers": rule.steps()},
        decoder={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    )  # fmt: skip


def _sentencepiece(head: GGUFHead, tokens: list[str]) -> dict[str, Any]:
    """Byte-pair encoding with scores: pieces are merged, the best score first, as merges in the order of the scores."""
    kinds, scores = _kinds(head, tokens), head.items("tokenizer.ggml.scores", float)
    if scores is None or len(scores) != len(tokens):
        head.refuse(
            f"tokenizer.ggml.scores has {len(scores or ())} entries for {len(tokens)} tokens; make the file again"
        )
    vocabulary = {token: n for n, token in enumerate(tokens) if kinds[n] != UNUSED}
    pieces = {token: n for token, n in vocabulary.items() if kinds[n] in (NORMAL, USER_DEFINED, UNUSED)}
    merges = sorted(_merges(pieces), key=lambda pair: (-scores[pieces["".join(pair)]], pieces["".join(pair)]))
    unknown = _end(head, "unk", tokens)
    blank = head.value("tokenizer.ggml.add_space_prefix", bool, True)
    steps: list[dict[str, Any]] = [{"type": "Prepend", "prepend": BLANK}] if blank else []
    steps += [{"type": "Replace", "pattern": {"String": " "}, "content": BLANK}]
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if blank else []
    decoders = [{"type": "Replace", "pattern": {"String": BLANK}, "content": " "}, {"type": "ByteFallback"}]
    added = _added(tokens, kinds, [CONTROL, UNKNOWN])
    return _engine(
        _taking_blanks(added) if _is_phi3(head, vocabulary) else added,
        {
            "type": "BPE", "dropout": None, "unk_token": None if unknown is None else tokens[unknown],
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True,
            "ignore_merges": False, "vocab": vocabulary, "merges": [list(pair) for pair in merges],
        },
        normalizer={"type": "Sequence", "normalizers": steps},
        decoder={"type": "Sequence", "decoders": [*decoders, {"type": "Fuse"}, *strip]},
    )  # fmt: skip


def _merges(pieces: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    for piece in pieces:
        for cut in range(1, len(piece)):
            if piece[:cut] in pieces and piece[cut:] in pieces:
                yield piece[:cut], piece[cut:]


def _around(ends: Mapping[str, int | None], tokens: Sequence[str]) -> dict[str, Any] | None:
    """What puts the beginning and the end around a text, for every reader alike; None where nothing is put."""
    known = {name: n for name, n in ends.items() if n is not None}
    if not known:
        return None

    def special(name: str, n: int) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": tokens[known[name]], "type_id": n}}] if name in known else []

    def text(kind: str, n: int) -> list[dict[str, Any]]:
        return [*special("bos", n), {"Sequence": {"id": kind, "type_id": n}}, *special("eos", n)]

    named = {tokens[n]: {"id": tokens[n], "ids": [n], "tokens": [tokens[n]]} for n in known.values()}
    pair = [*text("A", 0), *text("B", 1)]
    return {"type": "TemplateProcessing", "single": text("A", 0), "pair": pair, "special_tokens": named}
