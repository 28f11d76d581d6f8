"""Byte-level BPE and the tokenizer folders of Hugging Face models, behind one small class.

A text is never parsed for control tokens: ``<|im_end|>`` in a user's text becomes plain pieces, since
``encode_special_tokens`` is set at every load (the library does not save it). Control tokens come only from the chat
template (``chat.py``) and from ids. What a file asks for beyond its rules (to cut texts, to fill them up, to leave out
merges at random) is switched off: ids depend on the text alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken
from tokenizers import Tokenizer as Engine

from lit_llm.errors import UserError
from lit_llm.model_sources.adapters import base_of
from lit_llm.model_sources.folders import folder_of
from lit_llm.records import Message
from lit_llm.runtime.atomic_files import write_text
from lit_llm.runtime.model_folder import check_model_folder, check_recorded, is_adapter, without_tokenizer
from lit_llm.text.around import added_around, always_add
from lit_llm.text.chat import CHATML, PLAIN, ChatTemplate
from lit_llm.text.control_tokens import DOCUMENT_END, SPECIALS, TURN_END, TURN_START
from lit_llm.text.merges import LearnedMerges, replaced, with_merges
from lit_llm.text.new_words import whole_pieces, with_pieces
from lit_llm.text.places import Place
from lit_llm.text.plain_text import PlainText
from lit_llm.text.token_bytes import TokenBytes, is_byte_level
from lit_llm.text.tokenizer_files import (
    check_names,
    class_names,
    mapped_names,
    read_engine,
    read_json,
    read_template,
    stop_ids,
)

FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
    "chat_template.jinja",
)  # fmt: skip
"""What a tokenizer is read from."""
_DOCUMENT_ENDS = (DOCUMENT_END, "<|end_of_text|>", "</s>", "<eos>")  # Qwen and GPT-2, Llama 3, Llama 2 and Mistral


class Tokenizer:
    """Text to ids and back.

    Args:
        engine: a ``tokenizers.Tokenizer``; its ``encode_special_tokens`` is switched on, and its truncation, padding
            and dropout off.
        config: what ``tokenizer_config.json`` holds (``eos_token``, ``bos_token``, ``pad_token``, ...), kept on saving.
        chat: the chat template; by default ChatML, or a plain one where the vocabulary lacks ChatML's tokens.
        stop_ids: further ids that end a generation (``eos_token_id`` of ``generation_config.json``).
    """

    def __init__(
        self,
        engine: Engine,
        config: dict[str, Any] | None = None,
        chat: ChatTemplate | None = None,
        stop_ids: Sequence[int] = (),
    ) -> None:
        engine.encode_special_tokens = True
        engine.no_truncation()
        engine.no_padding()
        if getattr(engine.model, "dropout", None) is not None:
            engine.model.dropout = None
        self.engine = engine
        self.config = dict(config or {})
        self._stop_ids = tuple(stop_ids)
        self._rows = (-1, 0)  # tokens when it was last asked, and the rows for them
        self._mark_ends_as_special()
        always_add(self.engine, self._asked_for("bos_token"), self._asked_for("eos_token"))
        self.chat = chat or self._own_template()

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, (self.engine, self.config, self.chat, self._stop_ids)  # the engine forgets its switch

    def _mark_ends_as_special(self) -> None:
        """An end token that the file holds as ordinary text would be read out of users' texts."""
        named = [self._named(key) for key in ("eos_token", "bos_token", "pad_token")]
        wanted = {token for token in (*named, *SPECIALS) if token and self.engine.token_to_id(token) is not None}
        missing = sorted(wanted - set(self.control_tokens))
        if missing:
            self.engine.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
            self.__dict__.pop("control_tokens", None)

    def _asked_for(self, key: str) -> int | None:
        """The id of an end that ``add_bos_token`` or ``add_eos_token`` puts around every text."""
        return self.id_of(self._named(key) or "") if self.config.get(f"add_{key}") is True else None

    def _own_template(self) -> ChatTemplate:
        """ChatML where the vocabulary has its tokens; it begins as the tokenizer lets its texts begin."""
        knows_chatml = self.id_of(TURN_START) is not None and self.id_of(TURN_END) is not None
        begins = "{{- bos_token }}" if added_around(self.engine)[0] == [self.bos_id] else ""
        return ChatTemplate(begins + (CHATML if knows_chatml else PLAIN))

    def _named(self, key: str) -> str | None:
        """The token that ``tokenizer_config.json`` names under ``key``, written as text or as an object."""
        value = self.config.get(key)
        value = value.get("content") if isinstance(value, dict) else value
        return value if isinstance(value, str) and value else None

    def id_of(self, token: str) -> int | None:
        """The id of a token by its exact name, or None."""
        found = self.engine.token_to_id(token)
        return None if found is None else int(found)

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """Tokens that only a template or an id can produce, by name."""
        return {t.content: i for i, t in self.engine.get_added_tokens_decoder().items() if t.special}

    @cached_property
    def blank_takers(self) -> tuple[frozenset[str], frozenset[str]]:
        """Control tokens that take the blanks before, and behind, them (``lstrip``, ``rstrip`` of their entries)."""
        special = [t for t in self.engine.get_added_tokens_decoder().values() if t.special]
        return frozenset(t.content for t in special if t.lstrip), frozenset(t.content for t in special if t.rstrip)

    @cached_property
    def named_tokens(self) -> dict[str, str]:
        """What templates may write by name, as in transformers; the two ends always."""
        keys = ("pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
        found = {key: name for key in keys if (name := self._named(key)) is not None}
        return found | {"bos_token": self.bos_token, "eos_token": self.eos_token}

    # ---- ids of the ends -------------------------------------------------------------------------------------------

    @cached_property
    def document_end_id(self) -> int:
        """Ends a document of raw text: what separated documents in pretraining, by its usual names, else the eos."""
        named = self._named("eos_token") or ""
        for name in (*(n for n in _DOCUMENT_ENDS if n in self.control_tokens), named, *_DOCUMENT_ENDS):
            if (found := self.id_of(name)) is not None:
                return found
        raise UserError(
            "tokenizer_config.json: eos_token is missing and the vocabulary has none of "
            f"{', '.join(_DOCUMENT_ENDS)}; name the end token as eos_token"
        )

    @cached_property
    def turn_end_id(self) -> int:
        """Ends an assistant's turn: what the chat template writes after its text."""
        found = self.chat.end_token(self)
        if found is None:
            found = self.id_of(self._named("eos_token") or "")
        return self.document_end_id if found is None else found

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Every id that ends a generation; the turn's end first."""
        named = self.id_of(self._named("eos_token") or "")
        ends = [self.turn_end_id, self.document_end_id, *([] if named is None else [named]), *self._stop_ids]
        return tuple(dict.fromkeys(ends))

    @property
    def pad_id(self) -> int:
        """Fills rows; masks come from lengths, so that it may equal an end token."""
        found = self.id_of(self._named("pad_token") or "")
        return self.document_end_id if found is None else found

    @property
    def pad_token(self) -> str:
        """The name that the folder gives it; empty where it gives none."""
        return self._named("pad_token") or ""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Further ids that end a generation, beside the end of a turn and of a document."""
        return self._stop_ids

    @property
    def bos_id(self) -> int | None:
        """What ``bos_token`` names. A name alone puts it before no text: see ``beginning``."""
        return self.id_of(self._named("bos_token") or "")

    @cached_property
    def added_before(self) -> tuple[int, ...]:
        """What the tokenizer itself puts before a text: a BOS, or nothing."""
        return tuple(added_around(self.engine)[0])

    @cached_property
    def beginning(self) -> tuple[int, ...]:
        """What every text begins behind that no template writes: documents, prompts to go on from.

        The BOS where the tokenizer itself adds one (its post-processor, or ``add_bos_token``); else the document's
        end, which stood before a text in the rows of pretraining.
        """
        return self.added_before or (self.document_end_id,)

    @property
    def bos_token(self) -> str:
        return self._named("bos_token") or ""

    @property
    def eos_token(self) -> str:
        return self._named("eos_token") or str(self.engine.id_to_token(self.document_end_id))

    # ---- text and ids ----------------------------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """The largest id and one, added tokens included: the rows that an embedding needs. Ids may be left out."""
        number = int(self.engine.get_vocab_size(with_added_tokens=True))
        if self._rows[0] != number:
            self._rows = number, 1 + max(self.engine.get_vocab(with_added_tokens=True).values(), default=-1)
        return self._rows[1]

    def encode(self, text: str, place: Place = Place.START, goes_on: bool = False) -> list[int]:
        """Ids of a plain text, without a beginning or an end token. Control tokens in it stay plain text.

        ``place``: where in a longer text it stands; a sentencepiece tokenizer puts a blank before some of these.
        ``goes_on``: that text goes on behind it, without a control token between; some tokenizers strip a text's end.
        """
        return self._plain.encode(text, place, goes_on)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts: by the table of pieces, or by the library on more cores than the table is worth."""
        return self._plain.batch(texts)

    def encode_arrays(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """``encode_batch``, each (T,): what goes to the disk is at no time numbers of Python."""
        return self._plain.arrays(texts)

    @cached_property
    def _plain(self) -> PlainText:
        return PlainText(self.engine)

    # ---- conversations ---------------------------------------------------------------------------------------------

    def encode_chat(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Ids of a conversation by the chat template, and which are trained; errors as ``ChatTemplate.encode``."""
        return self.chat.encode(self, messages)

    def sequences(self, messages: Sequence[Message]) -> list[tuple[Message, ...]]:
        """The conversation as one or more to train on, by the chat template: ``ChatTemplate.sequences``."""
        return self.chat.sequences(self, messages)

    def written_answer(self, messages: Sequence[Message]) -> str:
        """The last turn's text as a model writes it: with its tool calls and its reasoning, without the end token."""
        last = messages[-1]
        if not last.calls and not last.thoughts:
            return last.content
        ids, _ = self.encode_chat([*messages[:-1], replace(last, trained=True)])
        written = self.decode(ids[len(self.encode_prompt(messages[:-1])) :], skip_special=False)
        whole = "".join(self.chat.turn_format(self).ends)
        end = whole if whole and whole in written else str(self.engine.id_to_token(self.turn_end_id))
        return written.rpartition(end)[0] or written

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids up to where the assistant begins to write: an exact prefix of ``encode_chat(messages + answer)``."""
        return self.chat.encode_prompt(self, messages)

    def encode_completion(self, text: str) -> list[int]:
        """Ids of one answer with its end token: what follows ``encode_prompt``. Never refuses a text."""
        return self.chat.encode_completion(self, text)

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of ids; bytes that are no UTF-8 (a character cut in two) become U+FFFD."""
        control = set(self.control_tokens.values()) if skip_special else set()
        if not self.byte_level:
            return str(self.engine.decode(list(ids), skip_special_tokens=skip_special))
        return b"".join(self.token_bytes(i) for i in ids if i not in control).decode("utf-8", errors="replace")

    @cached_property
    def byte_level(self) -> bool:
        """Whether a token is a string of bytes, and a text's bytes are those of its tokens."""
        return is_byte_level(self.engine)

    @cached_property
    def _bytes(self) -> TokenBytes:
        return TokenBytes(self.engine, self.byte_level)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one id stands for (a part of a character, perhaps): for streaming and bits per byte."""
        return self._bytes.of(token_id)

    def add_tokens(self, tokens: Sequence[str], *, pieces: bool = True) -> list[int]:
        """Add whole words (of a domain, say) and return all ids that stand for them; known ones keep theirs.

        A word that the pre-tokenizer leaves in one piece gets two ids, with and without the space before it; they are
        taken for that piece alone, never inside a longer word. Any other ("<tensor>") gets one id, without the space;
        so does every word with ``pieces=False``, for readers that make the vocabulary's merges anew
        (``new_words.REBUILT``).
        """
        if bad := [t for t in tokens if not t.strip()]:
            raise UserError(f"new_tokens: {bad[0]!r} is blank; give words")
        if bad := [t for t in tokens if t in self.control_tokens]:
            raise UserError(f"new_tokens: {bad[0]!r} is a control token already; give words")
        spelled = {t: whole_pieces(self.engine, t) if pieces and self.byte_level else () for t in tokens}
        if new := [piece for found in spelled.values() for piece in found]:
            self.engine = with_pieces(self.engine, new)
        for word in [t for t, found in spelled.items() if not found]:
            spelled[word] = self._whole(word)
        others = [t for t, found in spelled.items() if not found]
        if others and self.vocab_size != self.engine.get_vocab_size(with_added_tokens=True):
            self.engine = with_pieces(self.engine, others)  # ids are left out: the library would count into them
        self.engine.add_tokens([AddedToken(t, special=False, normalized=False, single_word=True) for t in others])
        self._forget()
        vocabulary = self.engine.get_vocab(with_added_tokens=True)
        return list(dict.fromkeys(vocabulary[piece] for t in tokens for piece in spelled[t] or (t,)))

    def add_merges(self, learned: LearnedMerges) -> dict[int, tuple[int, ...]]:
        """Go on merging as ``merges.learn_merges`` found; returns, by the id of each new token, the old ids that it
        stands for."""
        before, self.engine = self.engine, with_merges(self.engine, learned)
        self._forget()
        return replaced(before, self.engine)

    def _forget(self) -> None:
        """What was made from the engine before it changed."""
        for stale in ("_bytes", "_plain"):
            self.__dict__.pop(stale, None)

    def _whole(self, word: str) -> tuple[str, ...]:
        """The tokens that stand for a word already, with and without the space before it; () where it is cut."""
        found = [self.encode(text) for text in ((word, f" {word}") if self.byte_level else (word,))]
        return () if any(len(ids) != 1 for ids in found) else tuple(str(self.engine.id_to_token(i)) for (i,) in found)

    # ---- the folder ------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.json``, ``tokenizer_config.json`` and ``chat_template.jinja``, as transformers reads.

        The class is the one that takes ``tokenizer.json`` as it is: those of a family (``Qwen2Tokenizer``) make its
        rules anew, and new words are lost. The template stands in ``tokenizer_config.json`` too: ollama's converter and
        text-generation-inference look nowhere else.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"clean_up_tokenization_spaces": False} | self.config
        config |= {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": self.chat.source}
        write_text(folder / "tokenizer.json", self.engine.to_str(pretty=True))
        text = json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True)
        write_text(folder / "tokenizer_config.json", text + "\n")
        write_text(folder / "chat_template.jinja", self.chat.source)

    def fingerprint(self) -> str:
        """SHA-256 of vocabulary, merges, rules and template: equal fingerprints give equal ids."""
        ends = json.dumps([self.bos_token, self.eos_token])  # further stop ids end generation; they change no encoding
        return hashlib.sha256("\0".join((self.engine.to_str(), self.chat.source, ends)).encode()).hexdigest()


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Read a tokenizer folder: one of ours, or of any model with a ``tokenizer.json``; a GGUF file, the hub's name.

    Raises:
        UserError: the folder or ``tokenizer.json`` is missing, a file is damaged, or what they say cannot be: names of
            ends that no token has, ids far beyond the number of tokens, a template that does not compile.
    """
    folder = folder_of(folder)
    check_model_folder(folder)
    if is_adapter(folder) and not (folder / "tokenizer.json").is_file():
        folder = base_of(folder)
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UserError(f"{folder}: {without_tokenizer(folder)}")
    check_recorded(folder, FILES)
    engine = read_engine(file)
    config = read_json(folder / "tokenizer_config.json")
    check_names(folder / "tokenizer_config.json", engine, config)
    if "added_tokens_decoder" not in config:
        config |= mapped_names(folder / "special_tokens_map.json", engine)
    config = class_names(engine, config) | config
    stops = stop_ids(folder / "generation_config.json", engine)
    return Tokenizer(engine, config, read_template(folder, config), stops)
