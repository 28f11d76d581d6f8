"""The range of every number in a configuration, checked before torch is imported.

Those of options stand beside their fields (``RANGES`` of a room's options), those of the rest of the configuration
here, by the last words of a key (``seed``; ``evaluation.temperature`` where that is not enough). A number inside a list
or a mapping (``betas``, ``max_prompts.train``) has the range of what it is in. A key of the user's own part must be
finite, no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lit_llm.config.signatures import options_of
from lit_llm.runtime.ranges import COUNT, LONG, NAMES, ROWS, SECONDS, SEED, SHARE, SOME, TEMPERATURE, WEIGHT, Range

RANGES: dict[str, Range] = {
    # The run and its Trainer
    "seed": SEED,
    "devices": Range(-1, 10**4), "num_nodes": Range(1, 10**5), "num_threads": Range(1, 4096),
    "tensor_parallel": Range(1, 10**4),
    "max_steps": SOME, "max_epochs": SOME, "max_tokens": LONG, "global_batch_size": SOME,
    "gradient_clip_val": WEIGHT, "val_check_interval": COUNT, "limit_train_batches": COUNT, "limit_val_batches": COUNT,
    "log_every_n_steps": SOME, "checkpoint_every_n_steps": SOME, "overfit_batches": COUNT, "fast_dev_run": COUNT,
    "activation_memory_budget": SHARE, "sanity_steps": Range(-1, 10**9),
    "slurm.minutes": Range(1, 10**6), "slurm.signal_seconds": Range(0, 10**6), "slurm.requeues": COUNT,
    "slurm.cpus_per_task": Range(1, 4096), "slurm.gpus_per_node": Range(0, 1024),
    "slurm.mem_gb": Range(0, 10**6, above=True), "slurm.at_once": Range(1, 10**6), "slurm.poll_seconds": SECONDS,
    # Evaluations and pipelines
    "max_items": SOME, "batch_size": ROWS, "max_new_tokens": SOME, "temperature": TEMPERATURE,
    "heldout_prompts": COUNT, "n": COUNT, "prompts": SOME, "enough": SOME, "overlap": SOME, "poll_seconds": SECONDS,
}  # fmt: skip


Ranged = tuple[tuple[str, ...], float, Range | None]


def range_of(key: Sequence[str], known: Mapping[str, Range] = RANGES) -> Range | None:
    """The range at a key's parts; None: only that the number is finite is asked."""
    for end in range(len(key), 0, -1):  # outwards: a number in a mapping has the range of the mapping
        last = key[end - 1]
        for outer in reversed(key[: end - 1]):
            if (found := known.get(f"{outer}.{last}")) is not None:
                return found
        if (found := known.get(last)) is not None:
            return found
    return None


def ranged(
    value: Any, key: tuple[str, ...] = (), start: int = 0, known: Mapping[str, Range] = RANGES
) -> Iterator[Ranged]:
    """(parts of its key, number, its range) of every number in plain containers; in a list they have the list's key."""
    if isinstance(value, Mapping):
        if "_target_" in value:  # a part: its keys are those of its options
            options = options_of(str(value["_target_"]))
            start, known = len(key), options.ranges() if options is not None else {}
        for name, item in value.items():
            yield from ranged(item, (*key, str(name)), start, known)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from ranged(item, key, start, known)
    elif isinstance(value, int | float) and not isinstance(value, bool) and not (key and key[-1] in NAMES):
        yield key, value, range_of(key[start:], known)


def out_of_range(values: Any) -> Iterator[str]:
    """A line for every number that is not finite or not in its range."""
    for key, value, known in ranged(values):
        fault = known.fault(value) if known is not None else None
        if fault is None and not math.isfinite(value):
            fault = "must be a finite number"
        if fault is not None:
            yield f"{'.'.join(key)}={value}: {fault}"
