"""``scripts/generate.py``: goes on with a text, or lists the most likely next words."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch

from lit_llm.backbone.huggingface import check_vocabulary, load_language_model
from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError
from lit_llm.generation.next_words import Word, next_words
from lit_llm.generation.streaming import decoder_of, stream, stream_text
from lit_llm.model_sources.folders import folder_of
from lit_llm.runtime.arguments import run_command
from lit_llm.runtime.devices import Device
from lit_llm.runtime.model_folder import check_model_folder
from lit_llm.runtime.terminal import utf8_output
from lit_llm.text.tokenizer import Tokenizer, load_tokenizer


@dataclass
class Generate:
    """Goes on with a text; with next_words=N lists the N most likely next words and their probabilities instead."""

    model: Annotated[Path, "the model: a folder, FILE.gguf, installed/smollm2, hub:OWNER/NAME"]
    prompt: Annotated[str, "the text to go on from; - reads it from standard input"]
    next_words: Annotated[int | None, "list so many words, most likely first"] = None
    max_new_tokens: Annotated[int, "at most so many tokens"] = 100
    samples: Annotated[int, "how many continuations"] = 1
    temperature: Annotated[float, "0 takes the likeliest token each time"] = 0.8
    top_k: Annotated[int | None, "choose among the k likeliest tokens"] = None
    top_p: Annotated[float | None, "choose among the likeliest tokens that reach this probability"] = None
    seed: Annotated[int, "of the sampling"] = 0
    device: Annotated[Device, "where to compute"] = "auto"


def main() -> None:
    """The command line (lit-llm-generate)."""
    run_command(Generate, run)


def run(arguments: Generate) -> None:
    """Prints to standard output."""
    utf8_output()
    model, tokenizer = load(arguments.model, arguments.device)
    text = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    if arguments.next_words is not None:
        print(table(next_words(model, tokenizer, text, arguments.next_words)))
        return
    for name in ("samples", "max_new_tokens"):
        if getattr(arguments, name) < 1:
            raise UserError(f"{name}={getattr(arguments, name)}: must be at least 1")
    prompt = [*tokenizer.beginning, *tokenizer.encode(text)]
    decoder = decoder_of(model, consume=True)
    del model  # of no use any more
    for number in range(arguments.samples):
        ids = stream(
            decoder,
            prompt,
            max_new_tokens=arguments.max_new_tokens,
            end_ids=tokenizer.end_ids,
            temperature=arguments.temperature,
            top_k=arguments.top_k,
            top_p=arguments.top_p,
            seed=arguments.seed + number,
        )
        print(text, end="", flush=True)
        for piece in stream_text(tokenizer, ids, prompt):
            print(piece, end="", flush=True)
        print("\n" if number + 1 < arguments.samples else "")


def table(words: list[Word]) -> str:
    """One word a line with its probability; the last line says what is left for all else."""
    rest = 1 - sum(word.probability for word in words)
    width = max([len(word.text) for word in words] + [len("(anything else)")])
    lines = [f"{word.text:<{width}}  {word.probability:8.2%}" for word in words]
    return "\n".join([*lines, f"{'(anything else)':<{width}}  {rest:8.2%}"])


def load(folder: Path, device: Device = "auto") -> tuple[LanguageModel, Tokenizer]:
    """A folder's language model in eval mode, and its tokenizer."""
    folder = folder_of(folder)
    check_model_folder(folder, "model")
    model, tokenizer = load_language_model(folder, device=choose_device(device)).eval(), load_tokenizer(folder)
    check_vocabulary(model.config, tokenizer.vocab_size, folder)
    return model, tokenizer


def choose_device(wanted: Device) -> str:
    """A GPU where there is one. Raises UserError for a device that this machine has not."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return "cuda" if there["cuda"] else "cpu"
    if not there[wanted]:
        raise UserError(f"device={wanted}: this machine has none; device=auto takes what there is")
    return wanted
