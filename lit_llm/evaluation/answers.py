"""Generated answers to a held-out set and what they are worth."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lit_llm.backbone.completions import completion_logps, pack, token_rows
from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError
from lit_llm.evaluation import tasks
from lit_llm.evaluation.reward import Reward, as_reward
from lit_llm.evaluation.scores import Answer, Measured, Scores, clusters_of, measured
from lit_llm.generation.sampling import completions, generate
from lit_llm.records import Heldout, Message, Prompt, Rollout
from lit_llm.text.tokenizer import Tokenizer

PROMPT_TEMPERATURE = 0.7


@dataclass(frozen=True)
class Asking:
    """How answers are generated."""

    max_new_tokens: int
    temperature: float | None
    seed: int
    batch_size: int
    dtype: torch.dtype | None
    progress: str | None


def on_responses(
    model: LanguageModel,
    tokenizer: Tokenizer,
    heldout: Heldout,
    numbers: list[int],
    ask: Asking,
    scores: Scores,
    training_answers: Collection[str] | None,
    floors: bool,
) -> Scores:
    """Adds to ``scores`` the measures of the generated last turn. Prompts that fill the context are left out."""
    asked = {n: _asked(tokenizer, heldout.items[n].messages) for n in numbers}
    conversations = {n: prompt for n, (prompt, _) in asked.items() if prompt}
    given, lengths, _ = _answers(model, tokenizer, conversations, ask, 0.0)
    kept = [answer.number for answer in given]
    texts, references = [answer.text for answer in given], [asked[n][1] for n in kept]
    items = {name: measured(kept, values) for name, values in tasks.text_scores(texts, references).items()}
    items |= _shape(given, lengths)
    if training_answers is not None:
        known = {tasks.squeezed(text) for text in training_answers}
        items["verbatim"] = measured(kept, [tasks.squeezed(text) in known for text in texts])
    whole = {"bleu": tasks.corpus_bleu(texts, references)}
    scores = dataclasses.replace(
        scores, items=scores.items | items, whole=scores.whole | whole, answers=scores.answers + tuple(given)
    )
    if not floors:
        return scores
    sources = [asked[n][0][-1].content for n in kept]
    frequent = tasks.most_frequent(training_answers if training_answers is not None else references)
    guesses = {
        "copy_first_sentence": [tasks.copy_first_sentence(source) for source in sources],
        "most_frequent_target": [frequent] * len(kept),
    }
    scores = scores.with_floors({name: _measures(kept, guess, references) for name, guess in guesses.items()})
    for name, guess in guesses.items():
        scores.floors[name]["bleu"] = tasks.corpus_bleu(guess, references)
    return scores


def on_prompts(
    model: LanguageModel,
    tokenizer: Tokenizer,
    heldout: Heldout,
    numbers: list[int],
    ask: Asking,
    scorers: Mapping[str, Reward | Callable[..., Any]],
    reference: LanguageModel | None = None,
) -> Scores:
    """Sampled answers, scored by ``scorers``, rewards each: one with ``score_tokens`` reads the ids that were sampled,
    one with ``row_fields`` also the prompts' tags. The mean of a verifier is its success rate; each part of a sum has
    its own. kl/answer is how far the model is from a ``reference`` (``divergence``).
    """
    conversations = {n: tuple(heldout.items[n].messages) for n in numbers}
    given, lengths, rollout = _answers(model, tokenizer, conversations, ask, PROMPT_TEMPERATURE)
    kept = [answer.number for answer in given]
    items = _shape(given, lengths)
    for name, scorer in _rewards(scorers).items():
        values = scored_by(scorer, rollout, [heldout.items[n] for n in kept], [answer.text for answer in given])
        parts = {f"{name}/{part}": found for part, found in scorer.latest.items()}
        for each, found in {name: values, **parts}.items():
            items[f"score/{each}"] = _verified(each, kept, found, scorer.reads_tokens)
    temperature = PROMPT_TEMPERATURE if ask.temperature is None else ask.temperature
    if reference is not None and temperature > 0:
        items["kl/answer"] = measured(kept, divergence(model, reference, rollout, temperature, ask.batch_size))
    return Scores(heldout.name, heldout.kind, items, clusters_of(heldout, numbers), answers=tuple(given))


def _rewards(scorers: Mapping[str, Reward | Callable[..., Any]]) -> dict[str, Reward]:
    return {name: as_reward(scorer, f"scorer {name}") for name, scorer in scorers.items()}


def scored_by(scorer: Reward, rollout: Rollout, prompts: Sequence[Prompt], texts: Sequence[str]) -> Any:
    """A scorer's scores (B,) of a rollout's answers to prompts (B), read as it asks for them."""
    if scorer.reads_tokens:
        return scorer.score_tokens(rollout.input_ids, rollout.lengths)
    return scorer.score_texts([tuple(one.messages) for one in prompts], texts, lambda: [one.tags for one in prompts])


@torch.no_grad()
def divergence(
    model: LanguageModel, reference: LanguageModel, rollout: Rollout, temperature: float, batch_size: int = 64
) -> NDArray[np.float64]:
    """log p - log p_reference of each sampled answer (B,), in nats: its mean estimates KL(model || reference).

    Both at the temperature that was sampled at, over all tokens of the answer, its end token among them.
    """
    found, device = [], rollout.lengths.device
    rows = token_rows(rollout.input_ids, rollout.prompt_lengths, rollout.lengths)
    for first in range(0, len(rows), batch_size):
        some = pack(rows[first : first + batch_size], device.type).to(device)
        ours, theirs = (some.sums(completion_logps(net, some, temperature).double()) for net in (model, reference))
        found.append(ours - theirs)
    return torch.cat(found).cpu().numpy() if found else np.zeros(0)


def _answers(
    model: LanguageModel,
    tokenizer: Tokenizer,
    conversations: Mapping[int, Sequence[Message]],
    ask: Asking,
    usual_temperature: float,
) -> tuple[list[Answer], list[int], Rollout]:
    """An answer to each conversation that leaves room for one, its length in tokens, and the rollout."""
    prompts = {n: tokenizer.encode_prompt(messages) for n, messages in conversations.items()}
    prompts = {n: ids for n, ids in prompts.items() if len(ids) < model.config.max_positions}
    with torch.autocast(model.output_weight.device.type, enabled=False):  # a copy in bfloat16 is faster than casts
        rollout = generate(
            model,
            list(prompts.values()),
            max_new_tokens=ask.max_new_tokens,
            end_ids=tokenizer.end_ids,
            temperature=usual_temperature if ask.temperature is None else ask.temperature,
            seed=ask.seed,
            batch_size=ask.batch_size,
            dtype=ask.dtype,
            progress=ask.progress,
        )
    texts = [tokenizer.decode(ids) for ids in completions(rollout)]
    ended, lengths = rollout.finished.tolist(), (rollout.lengths - rollout.prompt_lengths).tolist()
    return [Answer(n, text, end) for n, text, end in zip(prompts, texts, ended, strict=True)], lengths, rollout


def _asked(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[tuple[Message, ...], str]:
    """The conversation before the assistant's last turn, and that turn."""
    last = max(i for i, message in enumerate(messages) if message.role == "assistant")
    return tuple(messages[:last]), tokenizer.written_answer(messages[: last + 1])


def _shape(given: Sequence[Answer], lengths: Sequence[int]) -> dict[str, Measured]:
    numbers = [answer.number for answer in given]
    return {"ended": measured(numbers, [answer.ended for answer in given]), "length": measured(numbers, lengths)}


def _measures(numbers: Sequence[int], guesses: Sequence[str], references: Sequence[str]) -> dict[str, Measured]:
    """As ``tasks.text_scores``; equal pairs (a frequent target) are computed once."""
    pairs = Counter(zip(guesses, references, strict=True))
    once = tasks.text_scores([guess for guess, _ in pairs], [reference for _, reference in pairs])
    place = {pair: i for i, pair in enumerate(pairs)}
    index = [place[pair] for pair in zip(guesses, references, strict=True)]
    return {name: measured(numbers, values[index]) for name, values in once.items()}


def _verified(name: str, numbers: Sequence[int], values: Any, always: bool) -> Measured:
    """The scores less those that are NaN, which were not verified; ``always``: all must be."""
    found = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values, dtype=np.float64)
    if np.isinf(found).any() or (always and np.isnan(found).any()):
        raise UserError(f"scorer {name}: gives a score that is not finite")
    known = ~np.isnan(found)
    if len(found) and not known.any():
        raise UserError(f"scorer {name}: could verify none of {len(found)} answers (NaN); do the prompts have its tag?")
    return measured(np.asarray(numbers)[known], found[known])
