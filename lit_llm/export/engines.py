"""The same questions to several engines: ids of texts, logits behind prompts, greedy continuations."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lit_llm.backbone.models import LanguageModel
from lit_llm.runtime.node_package import node_package
from lit_llm.runtime.out_of_resources import is_out_of_memory
from lit_llm.text.plain_text import library_cores
from lit_llm.text.tokenizer import Tokenizer

SCRIPT = Path(__file__).with_name("llama_cpp.mjs")
SMALL = 10**9  # bytes of a file
SECONDS = 1800  # that llama.cpp gets

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Questions:
    """``texts`` hold no control tokens that count; ``chats`` are written by a chat template, whose tokens do."""

    texts: tuple[str, ...]
    chats: tuple[str, ...]
    prompts: tuple[tuple[int, ...], ...]
    positions: int = 16  # of each prompt, the last ones
    steps: int = 24  # of a continuation
    ends: tuple[int, ...] = ()  # tokens that end one


@dataclass(frozen=True)
class Answers:
    engine: str
    tokens: list[list[int]]  # of each text
    chats: list[list[int]]
    logits: list[Logits]  # (positions, V) of each prompt
    greedy: list[list[int]]  # of each prompt, up to an end token or ``steps``
    steps: list[Logits] = field(default_factory=list)  # (tokens, V): what each of ``greedy`` was chosen from


class NotRun(Exception):  # noqa: N818 (it is what happened)
    """An engine that is not here; the text says why."""


class Refused(Exception):  # noqa: N818
    """An engine that is here and does not read the file, or ends over it."""


@torch.no_grad()
def ask_here(model: LanguageModel, tokenizer: Tokenizer, asked: Questions, chats: Sequence[list[int]]) -> Answers:
    """This project's answers. ``chats``: the ids that it trains on, by its chat template."""
    logits, greedy, steps = [], [], []
    for prompt in asked.prompts:
        logits.append(_last(model.logits(model(torch.tensor([prompt]))[:, -asked.positions :])))
        said, chosen_from = list[int](), list[Logits]()
        while len(said) < asked.steps and not (said and said[-1] in asked.ends):
            chosen_from.append(_last(model.logits(model(torch.tensor([[*prompt, *said]]))[:, -1:])))
            said.append(int(chosen_from[-1].argmax()))
        greedy.append(said)
        steps.append(np.concatenate(chosen_from) if chosen_from else np.zeros((0, 0), np.float32))
    tokens = [tokenizer.encode(text) for text in asked.texts]
    return Answers(
        f"lit-llm {metadata.version('lit-llm')}", tokens, [list(ids) for ids in chats], logits, greedy, steps
    )


def ask_transformers(folder: Path, asked: Questions) -> Answers:
    """transformers' answers, by the tokenizer and the model of a folder.

    Raises NotRun where transformers is not installed, Refused where it ends with an error of its own.
    """
    try:
        import transformers
    except ImportError:
        raise NotRun("transformers is not installed (pip install transformers)") from None
    try:
        return _by_transformers(transformers, folder, asked)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise Refused(f"transformers ended with an error: {_error(str(error))}") from error


def _by_transformers(transformers: Any, folder: Path, asked: Questions) -> Answers:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # AutoTokenizer takes the class of config.json's family, whose rules are its own: Qwen2's composes texts first.
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    backend = tokenizer.backend_tokenizer
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = loaded.eval()
    logits, greedy = [], []
    with torch.no_grad():
        for prompt in asked.prompts:
            logits.append(_last(model(torch.tensor([prompt])).logits[:, -asked.positions :]))
            said: list[int] = []
            while len(said) < asked.steps and not (said and said[-1] in asked.ends):
                said.append(int(model(torch.tensor([[*prompt, *said]])).logits[0, -1].argmax()))
            greedy.append(said)
    chats = [backend.encode(text, add_special_tokens=False).ids for text in asked.chats]
    backend.encode_special_tokens = True
    tokens = [backend.encode(text, add_special_tokens=False).ids for text in asked.texts]
    return Answers(f"transformers {transformers.__version__}", tokens, chats, logits, greedy)


def ask_llama_cpp(file: Path, package: Path | None, asked: Questions, context: int) -> Answers:
    """llama.cpp's answers. ``package``: a folder with ``node_modules/node-llama-cpp`` in it, or that package itself.

    Raises NotRun where Node.js or the package is not there or does not start, Refused where it ends over the file.
    """
    node, found = shutil.which("node"), node_package(package)
    if node is None:
        raise NotRun("Node.js is not installed")
    if found is None:
        where = f"not in {package}" if package else "not in ./node_modules"
        raise NotRun(f"node-llama-cpp is {where}; npm install node-llama-cpp, or give node_llama_cpp=FOLDER")
    with tempfile.TemporaryDirectory() as place:
        request = Path(place, "request.json")
        request.write_text(
            json.dumps({
                "file": str(file.resolve()), "context": context, "threads": _threads(file), "texts": asked.texts,
                "chats": asked.chats, "prompts": asked.prompts, "positions": asked.positions, "steps": asked.steps,
                "ends": asked.ends,
            }),
            encoding="utf-8",
        )  # fmt: skip
        words = [node, str(SCRIPT), str(found.resolve()), str(request), place]
        try:
            done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise NotRun(f"llama.cpp took more than {SECONDS} seconds") from None
        if not Path(place, "answer.json").is_file():
            told = f"llama.cpp ended with an error: {_error(done.stderr + done.stdout)}"
            raise Refused(told) if Path(place, "started").is_file() else NotRun(told)
        answer: dict[str, Any] = json.loads(Path(place, "answer.json").read_text(encoding="utf-8"))
        logits = [
            np.fromfile(Path(place, f"logits-{n}.bin"), np.float32).reshape(-1, answer["vocabulary"])
            for n in range(len(asked.prompts))
        ]
    return Answers(answer["version"], answer["tokens"], answer["chats"], logits, answer["greedy"])


def _threads(file: Path) -> int:
    """One where the work is small: llama.cpp's threads wait for each other in loops, on a busy machine for minutes."""
    return 1 if file.stat().st_size < SMALL else library_cores()


def _error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if "rror" in line]
    return (told or lines or ["it said nothing"])[0][:200]


def _last(logits: torch.Tensor) -> Logits:
    """(1, T, V) -> (T, V)"""
    found: Logits = logits[0].float().numpy()
    return found
