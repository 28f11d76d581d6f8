"""The certificate of an exported file: what was asked of which engine, what came out, and the bounds it was held to.

A check that fails fails the certificate. One that could not be run is named as not run, and a file is certified only
where llama.cpp itself was asked: all else would be this project vouching for itself.
"""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lit_llm.backbone.huggingface import load_language_model
from lit_llm.backbone.models import LanguageModel
from lit_llm.evaluation.likelihood import Scored, document_rows, likelihoods, response_row
from lit_llm.evaluation.sets import read_all
from lit_llm.export.engines import Answers, NotRun, Questions, Refused, ask_here, ask_llama_cpp, ask_transformers
from lit_llm.export.gguf_file import Model
from lit_llm.export.random_texts import random_texts
from lit_llm.export.rounding import as_llama_cpp
from lit_llm.export.weights_check import worst_weight
from lit_llm.model_sources.gguf_folder import write_folder
from lit_llm.model_sources.gguf_header import Quantization
from lit_llm.records import Document, Example, Message
from lit_llm.runtime.file_hashes import sha256_of
from lit_llm.runtime.given_texts import read_texts
from lit_llm.runtime.progress_bars import Bar
from lit_llm.text.tokenizer import Tokenizer, load_tokenizer

NUMERIC = 1e-4  # rms of two engines' logits, in standard deviations of a logit: float32 sums in another order
SPREAD = 2.0  # how much further than the rounding here llama.cpp may be, whose roundings are others of the same size
SURE = 5.0  # times the bound of the root mean square: further than any one logit of many thousands is off
LOSS = {"f32": 0.001, "f16": 0.005, "bf16": 0.01, "q8_0": 0.01, "q5_1": 0.05, "q5_0": 0.05, "q4_1": 0.15, "q4_0": 0.15}
"""By which part the loss on held-out text may grow."""
TEXTS, STEPS, ITEMS, MOST_TOKENS, CONTEXT = 200, 24, 32, 512, 256
_ASKED = ("What is the capital of France?", "Write a short line about the sea.", "ما عاصمة مصر؟")


@dataclass(frozen=True)
class Check:
    """``passed`` None: not run, and ``value`` says why."""

    name: str
    engine: str
    passed: bool | None
    value: str
    bound: str = ""


@dataclass
class Certificate:
    file: str
    sha256: str
    quantization: Quantization
    model: str
    checks: list[Check] = field(default_factory=list)

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.passed is False]

    @property
    def not_run(self) -> list[Check]:
        return [check for check in self.checks if check.passed is None]

    @property
    def passed(self) -> bool:
        """Nothing failed, and llama.cpp was asked."""
        return not self.failed and any(c.passed and c.engine.startswith("node-llama-cpp") for c in self.checks)

    def as_json(self) -> dict[str, Any]:
        return {"version": 1, "passed": self.passed, **asdict(self)}


def certify(
    file: Path, model: Model, tokenizer: Tokenizer, quantization: Quantization, node: Path | None, texts: Path | None
) -> Certificate:
    """Asks all engines about ``file``, which was made from ``model``.

    Args:
        node: where node-llama-cpp is; None: in ./node_modules.
        texts: a UTF-8 text to take the loss on, or a run's folder of held-out sets; None: those of the run that made
            the model.
    """
    found = Certificate(file.name, sha256_of(file), quantization, str(model.folder))
    with tempfile.TemporaryDirectory(prefix=".certificate-", dir=file.parent) as place:
        back = Path(place, "model")
        write_folder(back, file, {})  # what the file says, read again: its own weights and tokenizer
        with Bar(total=6, desc="certificate", unit="step", leave=False) as bar:

            def at(step: str) -> None:
                bar.update(0 if step == "weights" else 1)
                bar.set_description(f"certificate: {step}")

            _ask_all(found, model, tokenizer, file, back, node, texts, at)
            bar.update()
    return found


def _ask_all(
    found: Certificate, model: Model, tokenizer: Tokenizer, file: Path, back: Path, node: Path | None,
    texts: Path | None, at: Callable[[str], None],
) -> None:  # fmt: skip
    """Adds every check to ``found``. ``back``: the folder that ``file`` was read into again; ``at`` is told what is
    done now."""
    at("weights")
    found.checks.append(_weights(file, model))
    questions, chats = questions_for(model, tokenizer)
    at("loss before")
    rows = _held_out(model, tokenizer, texts)
    before = _bits_per_byte(load_language_model(model.folder).eval(), tokenizer, rows) if rows else math.nan
    at("loss after")
    ours = load_language_model(back).eval()
    found.checks.append(
        _loss(before, _bits_per_byte(ours, tokenizer, rows), found.quantization) if rows else _no_texts(texts)
    )
    at("this project's answers")
    here = ask_here(ours, tokenizer, questions, chats)
    again = load_tokenizer(back)
    same = Answers("reading it again", [again.encode(t) for t in questions.texts], here.chats, [], [])
    found.checks.append(_tokens(here, same))
    with as_llama_cpp(ours, found.quantization.upper()):
        rounded = ask_here(ours, tokenizer, Questions((), (), questions.prompts, questions.positions, 0), [])
    bound = SPREAD * _distance(rounded.logits, here.logits) + NUMERIC * _unit(here.logits)
    del ours
    engines: dict[str, tuple[Callable[[], Answers], float]] = {
        "transformers": (lambda: ask_transformers(back, questions), NUMERIC * _unit(here.logits)),
        "llama.cpp": (lambda: ask_llama_cpp(file, node, questions, _context(model)), bound),
    }
    for name, (ask, limit) in engines.items():
        at(name)
        try:
            theirs = ask()
        except (NotRun, Refused) as reason:
            passed = None if isinstance(reason, NotRun) else False
            found.checks.append(Check("reading the file", name, passed, str(reason)))
            continue
        found.checks += [_tokens(here, theirs), _chats(here, theirs), _logits(here, theirs, limit)]
        found.checks.append(_greedy(here, theirs, limit))


# ---- what is asked -------------------------------------------------------------------------------------------------


def questions_for(model: Model, tokenizer: Tokenizer) -> tuple[Questions, list[list[int]]]:
    """Random texts, conversations, and prompts that fit; and the ids of the conversations as they are trained on."""
    texts = random_texts(TEXTS, composed=tokenizer.engine.normalizer is not None)
    chats, ids, prompts = [], [], []
    for text in _ASKED:
        messages = [Message("user", text)]
        names = {"prompt": True, "bos": tokenizer.bos_token, "eos": tokenizer.eos_token}
        chats.append(tokenizer.chat.render(messages, **names))  # type: ignore[arg-type]
        ids.append(tokenizer.encode_prompt(messages))
        prompts.append(tuple(ids[-1]))
    prompts += [(*tokenizer.beginning, *tokenizer.encode(text)) for text in texts[:2]]
    room = _context(model) // 2 - STEPS // 2  # as many again stay free: llama.cpp shifts a context before it is full
    fits = tuple(prompt[:room] for prompt in prompts if len(prompt[:room]) > 1)
    return Questions(tuple(texts), tuple(chats), fits, steps=STEPS, ends=tokenizer.end_ids), ids


def _context(model: Model) -> int:
    """With longrope llama.cpp takes other factors in a context beyond the original, also for a text that is short."""
    scaling = model.config.rope_scaling
    original = scaling.original_max_positions if scaling is not None and scaling.kind == "longrope" else CONTEXT
    return min(model.context, CONTEXT, original)


def can_be_measured(sets: Path) -> bool:
    """Whether a folder of held-out sets has one that a loss is taken on."""
    return any(one.kind in ("documents", "responses") for one in read_all(sets))


def _held_out(model: Model, tokenizer: Tokenizer, texts: Path | None) -> list[Scored]:
    context = min(model.context, 1024)
    sets = model.folder.parent / "heldout" if texts is None or not texts.is_dir() else texts
    if texts is not None and sets != texts:
        return document_rows(tokenizer, Document(read_texts(texts)), context, ITEMS * MOST_TOKENS)
    rows: list[Scored] = []
    for heldout in read_all(sets):
        for item in random.Random(0).sample(heldout.items, min(ITEMS, len(heldout.items))):
            if isinstance(item, Document):
                rows += document_rows(tokenizer, item, context, MOST_TOKENS)
            elif isinstance(item, Example) and (row := response_row(tokenizer, item, context)) is not None:
                rows.append(row)
    return rows


# ---- the checks ----------------------------------------------------------------------------------------------------


def _weights(file: Path, model: Model) -> Check:
    worst, name, error = worst_weight(file, model)
    value = (
        f"largest error {worst:.3f} of what its type allows (in {name}); rms of all errors {error:.2%} of the weights'"
    )
    return Check("weights", "reading it again", worst <= 1, value, "1, by the step of each block")


def _loss(before: float, after: float, quantization: Quantization) -> Check:
    grown = after / before - 1
    value = f"{before:.4f} before, {after:.4f} after: {grown:+.2%}"
    return Check(
        "bits per byte on held-out text", "lit-llm", grown <= LOSS[quantization], value, f"+{LOSS[quantization]:.1%}"
    )


def _no_texts(texts: Path | None) -> Check:
    why = f"texts={texts} is empty" if texts else "no held-out text beside the model; give texts=FILE"
    return Check("bits per byte on held-out text", "lit-llm", None, why)


def _bits_per_byte(model: LanguageModel, tokenizer: Tokenizer, rows: Sequence[Scored]) -> float:
    sums = likelihoods(model, tokenizer, rows, batch_tokens=2048)
    return sum(one.nats for one in sums) / max(1, sum(one.size for one in sums)) / math.log(2)


def _tokens(here: Answers, theirs: Answers) -> Check:
    wrong = [n for n, (a, b) in enumerate(zip(here.tokens, theirs.tokens, strict=True)) if a != b]
    value = f"{len(here.tokens) - len(wrong)} of {len(here.tokens)} texts alike"
    value += f"; the first that is not has the number {wrong[0]}" if wrong else ""
    return Check("ids of random Unicode texts", theirs.engine, not wrong, value, "all")


def _chats(here: Answers, theirs: Answers) -> Check:
    alike = sum(a == b for a, b in zip(here.chats, theirs.chats, strict=True))
    value = f"{alike} of {len(here.chats)} prompts alike"
    return Check("ids of chat prompts", theirs.engine, alike == len(here.chats), value, "all")


def _logits(here: Answers, theirs: Answers, limit: float) -> Check:
    rows = {logits.shape[1] for logits in theirs.logits}
    if rows != {logits.shape[1] for logits in here.logits}:
        return Check("logits", theirs.engine, False, f"{rows} of a place", f"{here.logits[0].shape[1]}")
    distance, places = _distance(theirs.logits, here.logits), sum(len(logits) for logits in here.logits)
    unit = _unit(here.logits)
    value = f"rms difference {distance:.2e} at {places} places; a logit's standard deviation is {unit:.2f}"
    return Check("logits", theirs.engine, bool(distance <= limit), value, f"{limit:.2e}")


def _greedy(here: Answers, theirs: Answers, limit: float) -> Check:
    """Alike up to where the two likeliest tokens are nearer to each other than the bound of the logits can tell."""
    parted, wrong = [], False
    for one, other, steps in zip(here.greedy, theirs.greedy, here.steps, strict=True):
        place = next((n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
        if place is not None:
            parted.append(place + 1)
            wrong = wrong or bool(steps[place].max() - steps[place][other[place]] > SURE * limit)
        else:
            wrong = wrong or len(one) != len(other)
    value = f"{len(here.greedy) - len(parted)} of {len(here.greedy)} continuations of at most {STEPS} tokens alike"
    value += f"; the others part at token {', '.join(map(str, parted))}" if parted else ""
    bound = f"alike until two tokens' logits are within {SURE * limit:.2e}"
    return Check("greedy continuations", theirs.engine, not wrong, value, bound)


def _distance(one: Sequence[Any], other: Sequence[Any]) -> float:
    """Root mean square of the differences, each place's mean taken off: a softmax does not see it."""
    squares = [np.square(_centred(a) - _centred(b)).mean() for a, b in zip(one, other, strict=True)]
    return float(np.sqrt(np.mean(squares)))


def _unit(logits: Sequence[Any]) -> float:
    return float(np.sqrt(np.mean([np.square(_centred(one)).mean() for one in logits])))


def _centred(logits: Any) -> Any:
    wide = logits.astype(np.float64)
    return wide - wide.mean(axis=-1, keepdims=True)
