"""Best-of-n: the best of n answers by one reward, the control for what reinforcement learning does with that reward.

Its distance from the model that it samples from is known: KL = ln n - (n - 1) / n (Stiennon et al. 2020,
arXiv:2009.01325, appendix G.3; exact where no two answers have one score, else a bound, Beirami et al. 2024,
arXiv:2401.01879).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError
from lit_llm.evaluation.answers import PROMPT_TEMPERATURE, scored_by
from lit_llm.evaluation.overoptimization import fit
from lit_llm.evaluation.reward import as_reward
from lit_llm.evaluation.scores import as_plain
from lit_llm.evaluation.statistics import mean
from lit_llm.generation.sampling import completions, generate
from lit_llm.records import Prompt
from lit_llm.text.tokenizer import Tokenizer

Array = NDArray[np.float64]


def kl(n: int) -> float:
    """KL(best of n || one answer) in nats, ln n - (n - 1) / n."""
    return math.log(n) - (n - 1) / n


def sizes_up_to(n: int) -> list[int]:
    """1, 2, 4, ... and n itself."""
    return sorted({*(2**i for i in range(n.bit_length()) if 2**i <= n), n})


def expected_best(by: ArrayLike, values: ArrayLike, n: int) -> Array:
    """The mean, over all subsets of n of N answers, of ``values`` at the answer that is largest ``by``: (P, N) -> (P,).

    Unbiased for the best of n fresh answers: the i-th smallest of N is the largest of C(i-1, n-1) of the C(N, n)
    subsets. Answers equal ``by`` take turns: each has the mean of their values.
    """
    score, value = np.asarray(by, dtype=np.float64), np.asarray(values, dtype=np.float64)
    count = score.shape[1]
    if not 1 <= n <= count:
        raise ValueError(f"best of {n} of {count} answers")
    weights = np.array([math.comb(i, n - 1) / math.comb(count, n) for i in range(count)])
    found = np.empty(len(score))
    for prompt, (one, of) in enumerate(zip(score, value, strict=True)):
        levels, place = np.unique(one, return_inverse=True)
        shares = np.bincount(place, weights=of, minlength=len(levels)) / np.bincount(place, minlength=len(levels))
        found[prompt] = weights @ shares[np.sort(place)]
    return found


def curve(proxy: ArrayLike, gold: ArrayLike | None, clusters: Sequence[Any] | None = None) -> list[dict[str, Any]]:
    """For n = 1, 2, 4 ... N: {"n", "kl", "proxy", "gold"}, each reward as {"mean", "se", "n"} over the P prompts.

    proxy, gold: (P, N) scores of the same answers. ``clusters``: what a prompt is not independent of.
    """
    scores = {"proxy": np.asarray(proxy, dtype=np.float64)}
    if gold is not None:
        scores["gold"] = np.asarray(gold, dtype=np.float64)
    points = []
    for n in sizes_up_to(scores["proxy"].shape[1]):
        best = {name: expected_best(scores["proxy"], of, n) for name, of in scores.items()}
        points.append({"n": n, "kl": kl(n)} | {name: as_plain(mean(one, clusters)) for name, one in best.items()})
    return points


@torch.no_grad()
def measure_best_of_n(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    proxy: Any,
    gold: Any = None,
    *,
    n: int = 16,
    max_new_tokens: int = 64,
    temperature: float = PROMPT_TEMPERATURE,
    seed: int = 0,
    batch_size: int = 64,
    progress: str | None = None,
) -> dict[str, Any]:
    """best_of_n.json: {"samples", "prompts", "temperature", "points" (``curve``), "fit" by reward, "duplicates"}.

    Args:
        prompts: held-out ones; those that fill the context are left out.
        proxy, gold: rewards; answers are chosen by ``proxy`` and judged by both.
        n: answers sampled for each prompt.

    Raises UserError for n < 2, no prompt that fits, or a score that is not finite.
    """
    if n < 2:
        raise UserError(f"best_of_n.n={n}: must be 2 or more answers to choose from")
    encoded = [tokenizer.encode_prompt(prompt.messages) for prompt in prompts]
    fitting = [i for i, ids in enumerate(encoded) if len(ids) < model.config.max_positions]
    if not fitting:
        raise UserError(f"best_of_n: none of {len(prompts)} prompts leaves room for an answer in the model's context")
    rollout = generate(
        model,
        [encoded[i] for i in fitting],
        max_new_tokens=max_new_tokens,
        end_ids=tokenizer.end_ids,
        temperature=temperature,
        samples=n,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    texts = [tokenizer.decode(ids) for ids in completions(rollout)]
    asked = [prompts[i] for i in fitting for _ in range(n)]
    judges = {"proxy": as_reward(proxy, "best_of_n: proxy")}
    if gold is not None:
        judges["gold"] = as_reward(gold, "best_of_n: gold")
    scores = {
        name: _finite(name, scored_by(judge, rollout, asked, texts)).reshape(len(fitting), n)
        for name, judge in judges.items()
    }
    # Prompts about one function are not independent of each other.
    clusters = [prompts[i].tags.get("function") or str(prompts[i].messages) for i in fitting]
    points = curve(scores["proxy"], scores.get("gold"), clusters)
    return {
        "samples": n,
        "prompts": len(fitting),
        "temperature": temperature,
        "points": points,
        "fit": {name: _fit(points, name) for name in scores},
        "duplicates": 1 - sum(len(set(texts[i : i + n])) for i in range(0, len(texts), n)) / len(texts),
    }


def _finite(name: str, scores: Any) -> Array:
    found = np.asarray(scores.detach().cpu() if isinstance(scores, torch.Tensor) else scores, dtype=np.float64)
    if not np.isfinite(found).all():
        raise UserError(f"best_of_n: {name} gives a score that is not finite; it must judge every answer")
    return found


def _fit(points: Sequence[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """From the reward of one answer, where d = 0, in the form of best-of-n."""
    distances, rewards = [math.sqrt(p["kl"]) for p in points], [p[name]["mean"] for p in points]
    found = fit(distances, rewards, rewards[0], "best_of_n")
    return None if found is None else found.as_plain()
