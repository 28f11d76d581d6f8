"""Whether a device computes what the model is: against the same weights in float64 on the processor.

In float32 the bound is a number. In bfloat16 it is what bfloat16 costs: the same computation in bfloat16 on the
processor has its own distance to float64, and the device may be ``ROOM`` times as far away.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.contestants import Shape
from benchmarks.generation.here import draw
from benchmarks.preference import here as preference
from benchmarks.preference.comparisons import Source
from benchmarks.preference.work import TOLERANCE
from benchmarks.tuning.epochs import Epoch
from lit_llm.backbone.config import BackboneConfig, from_depth
from lit_llm.backbone.family_table import FAMILIES
from lit_llm.backbone.models import LanguageModel
from lit_llm.generation.sampling import generate
from lit_llm.objectives.language import cross_entropy, token_logps
from lit_llm.records import Rollout

EXACT = 2e-4
"""Of float32, as a share: sums of some hundred numbers, added in another order."""

ROOM = 2.0
"""Times the distance that bfloat16 has on the processor."""

ALIKE = 0.02
"""Beside it: of means that happen to be nearer in one of two computations than rounding lets them be."""

LENGTHS = (512, 2048)
"""Of rows: below and above what is short to attention (``backbone/attention.py``)."""


@dataclass(frozen=True)
class Check:
    """What was compared, the relative difference that was found, and the largest that may be."""

    name: str
    found: float
    bound: float

    @property
    def passed(self) -> bool:
        return self.found <= self.bound  # no number at all is none


Outcome = dict[str, Tensor]
"""What one computation gave, by name: on the processor, in float64."""


def checks(device: torch.device, lengths: Sequence[int] = LENGTHS) -> Iterator[Check]:
    """One after another, the cheapest first."""
    torch.set_float32_matmul_precision("highest")
    for name, config in shapes().items():
        model = perturbed(config)
        for length in lengths:
            yield from _rows(f"{name}, rows of {length}", model, length, device)
    yield from generation(device)
    yield from _preference(device)


def shapes() -> dict[str, BackboneConfig]:
    """What attention is: grouped heads whose queries and keys are normed, a window, scores that are capped."""
    plain = from_depth(1000, 2, family="qwen3", hidden_size=256, num_heads=4, num_kv_heads=2, max_positions=4096)
    capped = {"attention_softcap": 20.0, "logit_softcap": 30.0, "qk_norm": None}
    return {
        "plain heads": plain,
        "window": replace(plain, sliding_window=128),
        "capped scores": replace(plain, family="gemma2", **FAMILIES["gemma2"].fixed, **capped),  # type: ignore[arg-type]
    }


def perturbed(config: BackboneConfig) -> LanguageModel:
    """The same weights everywhere, so large that attention and norms matter."""
    torch.manual_seed(0)
    model = LanguageModel(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.05)
    return model


def _rows(name: str, model: LanguageModel, length: int, device: torch.device) -> Iterator[Check]:
    """Loss and gradients of plain rows and of packed ones."""
    ids = torch.randint(model.config.vocab_size, (2, length + 1), generator=torch.Generator().manual_seed(1))
    for kind, packing in {"plain": (), "packed": packed(2, length)}.items():

        def compute(model: LanguageModel, place: torch.device, packing: Sequence[Tensor] = packing) -> Outcome:
            moved = [each.to(place) for each in packing]
            result = cross_entropy(
                model(ids[:, :-1].to(place), *moved), model.output_weight, ids[:, 1:].to(place),
                softcap=model.logit_softcap,
            )  # fmt: skip
            loss = result.loss / result.tokens
            loss.backward()  # type: ignore[no-untyped-call]
            return {"loss": loss.detach(), "gradient": _gradient(model)}

        yield from _compared(f"{name}, {kind}", compute, model, device)


def packed(rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Positions and segments (rows, length) of documents of 1 to 300 tokens, which begin anywhere."""
    generator = torch.Generator().manual_seed(2)
    starts = torch.rand(rows, length, generator=generator) < 1 / 150
    starts[:, 0] = True
    segments = starts.cumsum(1)
    slots = torch.arange(length).expand(rows, length)
    first = torch.where(starts, slots, 0).cummax(1).values
    return slots - first, segments


def _gradient(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def _compared(
    name: str, compute: Callable[[LanguageModel, torch.device], Outcome], model: LanguageModel, device: torch.device
) -> Iterator[Check]:
    """In float32 and in bfloat16 under autocast, as runs are."""
    processor = torch.device("cpu")
    truth = compute(copy.deepcopy(model).double(), processor)

    def distances(place: torch.device, mixed: bool) -> dict[str, float]:
        with torch.autocast(place.type, torch.bfloat16, enabled=mixed):
            found = compute(copy.deepcopy(model).to(place), place)
        return {key: _distance(found[key], value) for key, value in truth.items()}

    for key, found in distances(device, False).items():
        yield Check(f"{name}: {key}, float32", found, EXACT)
    own = distances(processor, True)
    for key, found in distances(device, True).items():
        yield Check(f"{name}: {key}, bfloat16", found, ROOM * own[key] + ALIKE)


def _distance(found: Tensor, truth: Tensor) -> float:
    truth = truth.double().cpu()
    return float((found.double().cpu() - truth).norm() / truth.norm())


def generation(device: torch.device) -> Iterator[Check]:
    """Greedy answers are the processor's, also from a recorded step; sampled tokens have the log-probability that
    scoring gives them."""
    model = perturbed(shapes()["plain heads"])
    there = copy.deepcopy(model).to(device)
    prompts = draw(SHAPE, torch.float32, 6, (4, 40), (8, 24)).prompts
    expected = answers(model, prompts, 0.0)
    ways = {"": False} | ({", recorded": True} if device.type == "cuda" else {})
    for way, recorded in ways.items():
        found = answers(there, prompts, 0.0, recorded=recorded)
        wrong = (found.input_ids.cpu() != expected.input_ids).sum()
        yield Check(f"generation: greedy tokens that differ{way}", float(wrong), 0.0)
        for dtype, name in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
            own = _misjudged(model, answers(model, prompts, 1.0, dtype))
            apart = _misjudged(there, answers(there, prompts, 1.0, dtype, recorded))
            bound = EXACT if dtype == torch.float32 else ROOM * own + ALIKE
            yield Check(f"generation: log-probabilities of what is sampled{way}, {name}", apart, bound)


SHAPE = Shape(256, 2, 4, 1000, 4096, batch=4, qk_norm=True)


def answers(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    temperature: float,
    dtype: torch.dtype = torch.float32,
    recorded: bool = False,
) -> Rollout:
    """Of 12 tokens; more prompts than are worked on at once, so that rows are filled anew."""
    return generate(
        model,
        prompts,
        max_new_tokens=12,
        end_ids=(),
        temperature=temperature,
        batch_size=SHAPE.batch,
        dtype=dtype,
        cuda_graph=recorded,
    )


def _misjudged(model: LanguageModel, rollout: Rollout) -> float:
    """The distance of the log-probabilities that sampling noted from those of one pass in float64 on the processor."""
    ids, mask = rollout.input_ids.cpu(), rollout.mask.cpu()
    exact = copy.deepcopy(model).to("cpu", torch.float64)
    with torch.no_grad():
        scored = token_logps(exact(ids[:, :-1]), exact.output_weight, ids[:, 1:])
    return _distance(rollout.logps.cpu()[mask], scored[mask])


def _preference(device: torch.device) -> Iterator[Check]:
    """The first step of DPO and of a reward model, whose completions stand behind their prompt."""
    config = shapes()["plain heads"]
    for kind, make in (("dpo", partial(preference.dpo, cached=False)), ("reward", preference.reward)):

        def first(place: str, precision: str, make: Callable[[preference.Work], Epoch] = make) -> dict[str, float]:
            return make(preference.Work(config, Source(None, 4, 3, 1000, 400), 4, precision, 1, 1, place)).first

        truth = first("cpu", "32-true")
        for precision, bound in TOLERANCE.items():
            for key, found in first(str(device), precision).items():
                apart = abs(found - truth[key]) / max(abs(truth[key]), 1e-6)
                yield Check(f"{kind}: {key} of the first step, {precision}", apart, bound)
