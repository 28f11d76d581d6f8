"""Simulated annotators, marked as such everywhere: a model's answers, ranked by a visible rule plus noise.

They stand in for people until people rank answers; what comes out has the format of their rankings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lit_llm.backbone.huggingface import check_vocabulary, load_language_model
from lit_llm.backbone.models import LanguageModel
from lit_llm.data.options import DataOptions
from lit_llm.data.reading import read_records
from lit_llm.data.row_keys import known
from lit_llm.errors import UserError
from lit_llm.feedback.agreement import agreement
from lit_llm.feedback.options import SimulatedOptions
from lit_llm.feedback.rule import reward, rule
from lit_llm.feedback.sampling import Sampling, checkpoint_id, chosen_prompts
from lit_llm.feedback.sampling import answers as sample
from lit_llm.feedback.simulated_flags import flags_of, ratings_of
from lit_llm.generation.command import choose_device
from lit_llm.records import Prompt
from lit_llm.runtime.atomic_files import write_json, write_text
from lit_llm.runtime.devices import Device
from lit_llm.text.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "ANNOTATORS",
    "Annotator",
    "Sampling",
    "collect",
    "describe",
    "judge_answers",
    "rank_answers",
    "reward",
    "rule",
]


SCHEMA = 1  # of a ranking row


@dataclass(frozen=True)
class Annotator:
    """Sees ``rule`` plus normal noise of deviation ``noise``; answers nearer than ``tie`` look equally good."""

    name: str
    noise: float
    tie: float

    def ranks(self, values: Sequence[float], generator: np.random.Generator) -> list[int]:
        """Ranks of answers worth ``values``: 1 is best, equal ranks are ties, no rank is left out."""
        return self.ranks_as_seen(self.seen(values, generator))

    def seen(self, values: Sequence[float], generator: np.random.Generator) -> list[float]:
        """What answers worth ``values`` look worth to this annotator now."""
        return [float(value) for value in np.asarray(values) + generator.normal(0, self.noise, len(values))]

    def ranks_as_seen(self, values: Sequence[float]) -> list[int]:
        """Ranks by what the answers look worth, those nearer than ``tie`` to the best of their rank tied with it."""
        seen = np.asarray(values)
        ranks, current, last = [0] * len(values), 0, np.inf
        for place in np.argsort(-seen, kind="stable").tolist():
            if last - seen[place] >= self.tie or current == 0:
                current, last = current + 1, seen[place]
            ranks[place] = current
        return ranks


ANNOTATORS = (
    Annotator("simulated-careful", 0.03, 0.02),
    Annotator("simulated-usual", 0.08, 0.04),
    Annotator("simulated-hurried", 0.18, 0.06),
)


def collect(
    model: str | Path | LanguageModel,
    prompts: str | Sequence[str] | Mapping[str, Any],
    output: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    k: int = SimulatedOptions.k,
    temperature: float = SimulatedOptions.temperature,
    max_new_tokens: int = SimulatedOptions.max_new_tokens,
    max_prompts: Mapping[str, int] | int | None = SimulatedOptions.max_prompts,
    annotators: Sequence[Annotator] = ANNOTATORS,
    annotators_per_prompt: int | None = SimulatedOptions.annotators_per_prompt,
    seed: int = SimulatedOptions.seed,
    batch_size: int = SimulatedOptions.batch_size,
    bf16: bool = SimulatedOptions.bf16,
    device: Device = SimulatedOptions.device,
    cache_dir: str | Path = SimulatedOptions.cache_dir,
    ignore_keys: Sequence[str] = SimulatedOptions.ignore_keys,
    progress: bool = SimulatedOptions.progress,
) -> dict[str, Any]:
    """Samples up to ``k`` different answers to each prompt and has the annotators rank them.

    Args:
        model: a model folder, or a model with its ``tokenizer``.
        prompts: as ``data.path`` of the Prompts data; their files say which split each belongs to.
        output: gets ``train.jsonl``, ``validation.jsonl``, ``test.jsonl`` (rows of the ranking format, one for each
            prompt and annotator, with ``"simulated": true``) and ``collection.json`` with what is returned.
        max_prompts: of each split, or of all of them, chosen by the seed.
        device: where a model folder answers; auto: on a GPU where there is one.
        ignore_keys: as ``data.ignore_keys`` of the Prompts data.
        annotators_per_prompt: None: all of them; else so many, in turn.

    Returns:
        Counts, and how far the annotators agree with each other and with the rule, as shares of the pairs of answers
        that neither side ties.

    Raises:
        UserError: no usable prompt, or no prompt with two different answers.
    """
    SimulatedOptions(model="", prompts="", k=k)  # checks it
    loaded, tokenizer, digest = _load(model, tokenizer, choose_device(device))
    sampling = Sampling(temperature, max_new_tokens, seed)
    records = read_records(prompts, "prompts", DataOptions(cache_dir=str(cache_dir), ignore_keys=ignore_keys))
    splits = chosen_prompts(records.splits, max_prompts, seed)
    rows, counts = dict[str, list[dict[str, Any]]](), {"prompts": 0, "too_long": 0, "too_few_answers": 0}
    every = [(split, prompt) for split, members in splits.items() for prompt in members]
    shown = "answers to rank" if progress else None
    asked = [prompt for _, prompt in every]
    found = sample(loaded, tokenizer, asked, k, sampling, batch_size=batch_size, bf16=bf16, progress=shown)
    for number, ((split, prompt), some) in enumerate(zip(every, found, strict=True)):
        answers = None if some is None else [answer.text for answer in some]
        reason = "too_long" if answers is None else "too_few_answers" if len(answers) < 2 else "prompts"
        counts[reason] += 1
        if reason == "prompts":
            chosen = _in_turn(annotators, annotators_per_prompt, number)
            about = {"sampling": asdict(sampling), "model": digest, **_tags(prompt)}
            rows.setdefault(split, []).extend(_rows(prompt, answers or [], chosen, (seed, number), about))
    if not rows:
        raise UserError(f"rankings: no prompt has two different answers among {len(every)}; raise rankings.temperature")
    result = {**counts, "rows": {split: len(some) for split, some in rows.items()}, "simulated": True}
    result |= {"annotators": [asdict(a) for a in annotators], "sampling": asdict(sampling), "model": digest}
    result |= agreement([row for some in rows.values() for row in some])
    result["flagged"] = _flagged([row for some in rows.values() for row in some])
    _write(Path(output), rows, result)
    return result


def rank_answers(
    prompt: Prompt, answers: Sequence[str], annotators: Sequence[Annotator], seed: Sequence[int]
) -> Iterator[tuple[Annotator, list[int]]]:
    """Each annotator with its ranks. Noise depends on the seed and the annotator's name alone."""
    for annotator, judged in judge_answers(prompt, answers, annotators, seed):
        yield annotator, judged["ranking"]


def judge_answers(
    prompt: Prompt, answers: Sequence[str], annotators: Sequence[Annotator], seed: Sequence[int]
) -> Iterator[tuple[Annotator, dict[str, Any]]]:
    """Each annotator with what a row holds of its judgement: ranking, flags, ratings and all_bad (every one fails)."""
    values = [rule(prompt.messages, answer) for answer in answers]
    for annotator in annotators:
        own = int.from_bytes(hashlib.sha256(annotator.name.encode()).digest()[:4], "big")
        generator = np.random.default_rng([*seed, own])
        seen = annotator.seen(values, generator)  # first: the ranks are the same with flags and without
        flags = flags_of(prompt.messages, answers, seen, annotator.noise, generator)
        failing = {flag["completion"] for flag in flags if flag["kind"] == "fails_task"}
        yield (
            annotator,
            {
                "ranking": annotator.ranks_as_seen(seen),
                "all_bad": len(failing) == len(answers),
                "flags": flags,
                "ratings": ratings_of(seen, flags),
            },
        )


def describe(result: Mapping[str, Any]) -> str:
    """The collection in a few lines, for people."""
    rows = ", ".join(f"{split} {count}" for split, count in result["rows"].items())
    shares = ", ".join(f"{name.removeprefix('simulated-')} {_share(v)}" for name, v in result["with_rule"].items())
    return (
        f"simulated rankings of {result['prompts']} prompts ({rows} rows; left out: {result['too_few_answers']} with "
        f"too few different answers, {result['too_long']} too long)\n"
        f"pairs ordered alike: by two annotators {_share(result['agreement'])}; by annotator and rule: {shares}\n"
        f"answers flagged: {result['flagged']['share']:.1%} ({_counted(result['flagged']['kinds'])})"
    )


def _counted(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in kinds.items()) or "no flag"


def _rows(
    prompt: Prompt, answers: Sequence[str], annotators: Sequence[Annotator], seed: Sequence[int], about: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
    worth = [round(rule(prompt.messages, answer), 4) for answer in answers]
    for annotator, judged in judge_answers(prompt, answers, annotators, seed):
        row = {"prompt": messages, "completions": list(answers), "annotator": annotator.name, **judged}
        models = [about["model"]] * len(answers)
        yield {**row, "simulated": True, "schema": SCHEMA, "models": models, "rule": worth, **about}


def _tags(prompt: Prompt) -> dict[str, Any]:
    """A prompt's tags as keys of a ranking row; under ``tags`` those that a ranking row does not have."""
    own = {key: value for key, value in prompt.tags.items() if known(key, "comparisons")}
    others = {key: value for key, value in prompt.tags.items() if key not in own}
    return own | ({"tags": others} if others else {})


def _in_turn(annotators: Sequence[Annotator], count: int | None, number: int) -> list[Annotator]:
    count = len(annotators) if count is None else min(count, len(annotators))
    return [annotators[(number + i) % len(annotators)] for i in range(count)]


def _load(
    model: str | Path | LanguageModel, tokenizer: Tokenizer | None, device: str
) -> tuple[LanguageModel, Tokenizer, str]:
    """The model in eval mode, its tokenizer, and the first 16 digits of its weights' SHA-256."""
    if isinstance(model, LanguageModel):
        if tokenizer is None:
            raise ValueError("a model that is no folder needs its tokenizer")
        digest = hashlib.sha256()
        for name, parameter in model.named_parameters():
            digest.update(name.encode() + parameter.detach().float().cpu().numpy().tobytes())
        return model, tokenizer, digest.hexdigest()[:16]
    loaded, tokenizer = load_language_model(model, device=device).eval(), tokenizer or load_tokenizer(model)
    check_vocabulary(loaded.config, tokenizer.vocab_size, model)
    return loaded, tokenizer, checkpoint_id(model)


def _flagged(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The share of judged answers that have any flag, and how many flags of each kind there are."""
    kinds: dict[str, int] = {}
    for flag in (flag for row in rows for flag in row["flags"]):
        kinds[flag["kind"]] = kinds.get(flag["kind"], 0) + 1
    flagged = sum(len({flag["completion"] for flag in row["flags"]}) for row in rows)
    return {"share": flagged / sum(len(row["completions"]) for row in rows), "kinds": dict(sorted(kinds.items()))}


def _share(value: Mapping[str, Any]) -> str:
    error = "" if value["se"] is None else f" ± {value['se']:.1%}"
    return "unknown" if value["mean"] is None else f"{value['mean']:.1%}{error}"


def _write(output: Path, rows: Mapping[str, Sequence[Mapping[str, Any]]], result: Mapping[str, Any]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for split, members in rows.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in members)
        write_text(output / f"{split}.jsonl", text)
    write_json(output / "collection.json", result)
