"""The files of a tokenizer's folder, one of ours or of any model: read and checked, every mistake named by its file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Engine

from lit_llm.errors import UserError
from lit_llm.runtime.model_folder import refuse_pointer
from lit_llm.text.chat import ChatTemplate

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def read_engine(file: Path) -> Engine:
    text = read_text(file)
    try:
        engine = Engine.from_str(text)
        ids = engine.get_vocab(with_added_tokens=True)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception, and panics as what is none
        raise UserError(f"{file}: not a tokenizer ({one_line(error)}); copy the file again") from None
    if not ids:
        raise UserError(f"{file}: its vocabulary is empty; copy the file again")
    token, largest = max(ids.items(), key=lambda item: item[1])
    if largest >= 2 * len(ids) + 1024:
        raise UserError(
            f"{file}: {token[:40]!r} has the id {largest}, but there are {len(ids)} tokens: an embedding would need "
            f"{largest + 1} rows; number the tokens from 0 on"
        )
    return engine


def check_names(file: Path, engine: Engine, config: dict[str, Any]) -> None:
    """The ends that the configuration names must be tokens: a reader would add them as new ones without a row."""
    for key in ("eos_token", "bos_token", "pad_token"):
        value = config.get(key)
        name = value.get("content") if isinstance(value, dict) else value
        if name is None:
            continue
        if not isinstance(name, str):
            raise UserError(f"{file}: {key}={value!r}; the name of a token is needed, or null")
        needed = key == "eos_token" or (key == "bos_token" and config.get("add_bos_token"))
        if needed and engine.token_to_id(name) is None:
            raise UserError(f"{file}: {key}={name!r} is no token of tokenizer.json; name one that is, or null")


# What transformers' classes name where the files are silent.
CLASS_NAMES = {
    "Llama": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "CodeLlama": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "Gemma": {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    },
    "GPT2": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    "GPTNeoX": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>") | {"pad_token": "<|padding|>"},
    "Qwen2": dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
}


def class_names(engine: Engine, config: dict[str, Any]) -> dict[str, str]:
    """The control tokens that ``tokenizer_class`` stands for, as far as the vocabulary has them."""
    name = re.sub(r"(Tokenizer|TokenizerFast)$", "", str(config.get("tokenizer_class")))
    return {key: token for key, token in CLASS_NAMES.get(name, {}).items() if engine.token_to_id(token) is not None}


def mapped_names(file: Path, engine: Engine) -> dict[str, str | None]:
    """The names of control tokens in the older of the two files, as text; what it says goes before the configuration.

    As in transformers, which reads it where ``tokenizer_config.json`` has no ``added_tokens_decoder``.
    """
    found = read_json(file)
    check_names(file, engine, found)
    named = {key: value for key in NAMED if (value := found.get(key, ...)) is not ...}
    return {key: value.get("content") if isinstance(value, dict) else value for key, value in named.items()}


def stop_ids(file: Path, engine: Engine) -> list[int]:
    """The ends of a generation in ``generation_config.json``."""
    found = read_json(file).get("eos_token_id")
    stops = [] if found is None else found if isinstance(found, list) else [found]
    for stop in stops:
        known = isinstance(stop, int) and not isinstance(stop, bool) and 0 <= stop < 2**31
        if not known or engine.id_to_token(stop) is None:
            raise UserError(f"{file}: eos_token_id={found!r}: {stop!r} is no token's id; give those of end tokens")
    return stops


def read_template(folder: Path, config: dict[str, Any]) -> ChatTemplate | None:
    """The chat template: its own file, or the entry of ``tokenizer_config.json`` (one, or several by name)."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return ChatTemplate(read_text(file), str(file))
    file, found = folder / "tokenizer_config.json", config.get("chat_template")
    if isinstance(found, list):
        by_name = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = by_name.get("default") or next(iter(by_name.values()), None)
    if found is not None and not isinstance(found, str):
        raise UserError(f"{file}: chat_template is a {type(found).__name__}; a template's text is needed, or null")
    return ChatTemplate(found, str(file)) if found and found.strip() else None


def read_text(file: Path) -> str:
    """The file as it is, line ends too."""
    refuse_pointer(file)
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            return stream.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not readable as UTF-8 text ({one_line(error)}); copy the file again") from None


def read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        value = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not JSON ({one_line(error)}); copy the file again") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}: holds a {type(value).__name__}; an object is needed")
    return value


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
