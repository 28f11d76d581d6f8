"""What is measured of scores on ranked completions: sums batch by batch, and what needs all pairs at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_llm.evaluation.annotator_agreement import unanimous
from lit_llm.records import RankingBatch
from lit_llm.stages.metric_sums import Sums

BINS = 10  # of the expected calibration error, as in evaluation/statistics.py


def pair_sums(scores: Tensor, sizes: Tensor, pairs: Tensor) -> Sums:
    """Sums over ``pairs`` (2, M) of a better and a worse completion, and over completions, detached: of their scores
    (N,) and their ``sizes`` (N,) in tokens."""
    scores, sizes = scores.detach().float(), sizes.double()
    winners, losers = pairs
    margin = scores[winners] - scores[losers]
    return {
        "pairs": len(margin),
        "accuracy": (margin > 0).sum() + 0.5 * (margin == 0).sum(),
        "margin": margin.sum(),
        "nll": -F.logsigmoid(margin).sum(),
        "brier": torch.sigmoid(-margin).square().sum(),  # (p - 1)^2, p = sigmoid(margin)
        "completions": len(scores),
        "reward": scores.sum(),
        "reward_squared": scores.double().square().sum(),
        "size": sizes.sum(),
        "size_squared": sizes.square().sum(),
        "reward_times_size": (scores.double() * sizes).sum(),
        **_calibration_gaps(margin),
    }


def _calibration_gaps(margin: Tensor) -> dict[str, Tensor]:
    """For each bin of p = sigmoid(margin) the sum of p - y over its pairs.

    Each pair is seen from both sides: from the winner's alone every outcome is 1, which calibrates nothing.
    """
    right = torch.sigmoid(margin)
    p, y = torch.cat([right, 1 - right]), torch.cat([torch.ones_like(right), torch.zeros_like(right)])
    place = (p.nan_to_num() * BINS).long().clamp_max(BINS - 1)  # scores that are not finite are for Numerics to tell
    gaps = torch.zeros(BINS, dtype=p.dtype, device=p.device).index_add_(0, place, p - y)
    return {f"calibration_{index}": gap for index, gap in enumerate(gaps)}


def derived(totals: dict[str, float]) -> dict[str, float]:
    """Pair metrics over pairs, reward metrics over completions: accuracy, margin, nll, brier, ece, reward (mean),
    reward_std, and the correlation of the score with the completion's length in tokens."""
    pairs, completions = max(totals["pairs"], 1.0), max(totals["completions"], 1.0)
    values = {name: totals[name] / pairs for name in ("accuracy", "margin", "nll", "brier")}
    values["ece"] = sum(abs(totals[f"calibration_{index}"]) for index in range(BINS)) / (2 * pairs)
    mean, size = totals["reward"] / completions, totals["size"] / completions
    variance = max(totals["reward_squared"] / completions - mean**2, 0.0)
    size_variance = max(totals["size_squared"] / completions - size**2, 0.0)
    together = totals["reward_times_size"] / completions - mean * size
    spread = (variance * size_variance) ** 0.5
    return {
        "loss": totals["loss"] / max(totals["count"], 1e-9),
        **values,
        "reward": mean,
        "reward_std": variance**0.5,
        "length_correlation": max(-1.0, min(1.0, together / spread)) if spread > 1e-9 else 0.0,
    }


def judged_pairs(scores: Tensor, batch: RankingBatch) -> tuple[Tensor, ...]:
    """Every two completions i < j of a prompt, ties too, on the CPU: what they are (M, 2), order (M,) 1 where i is
    better and -1 where j is, score_i - score_j (M,), length_i - length_j (M,) and the annotator (M,), -1 if unknown."""
    groups, ranks = batch.groups.cpu(), batch.ranks.cpu()
    same = (groups[:, None] == groups[None, :]).triu(1)
    i, j = same.nonzero(as_tuple=True)
    keys = torch.tensor([int.from_bytes(key[:7].tobytes(), "big") for key in batch.completions.host.keys])
    swapped = keys[i] > keys[j]  # the same two completions come in the same order, whoever ranked them
    i, j = torch.where(swapped, j, i), torch.where(swapped, i, j)
    found, sizes = scores.detach().float().cpu(), batch.completions.sizes.cpu()
    who = torch.full_like(groups, -1) if batch.annotators is None else batch.annotators.cpu()[groups]
    pairs = torch.stack([keys[i], keys[j]], dim=1)
    return pairs, (ranks[j] - ranks[i]).sign(), found[i] - found[j], sizes[i] - sizes[j], who[i]


def ranking_summary(
    scores: Tensor, pairs: Tensor, orders: Tensor, margins: Tensor, size_gaps: Tensor, annotators: Tensor
) -> dict[str, float]:
    """What cannot be summed batch by batch: of scores (N,) and of what ``judged_pairs`` gives."""
    alike = unanimous([tuple(pair) for pair in pairs.tolist()], orders.tolist(), annotators.tolist())
    strict = orders != 0
    right = _wins(margins * orders)
    shorter = float(_wins(-size_gaps * orders)[strict].mean()) if bool(strict.any()) else 0.5
    values = {
        "shorter_wins": shorter,
        "longer_wins": 1 - shorter,
        "reward_min": float(scores.min()),
        "reward_max": float(scores.max()),
    }
    for name, wanted in (("accuracy_agreed", True), ("accuracy_disputed", False)):
        chosen = strict & torch.tensor([one is wanted for one in alike], dtype=torch.bool)
        if bool(chosen.any()):
            values[name] = float(right[chosen].mean())
    return values


def _wins(margins: Tensor) -> Tensor:
    """1 for an ordered pair, half for a tie."""
    return (margins > 0).double() + 0.5 * (margins == 0).double()
