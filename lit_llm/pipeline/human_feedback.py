"""People in a pipeline: their rankings in place of the simulated ones, and their verdict on its models at the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_llm.config.environment import real_text
from lit_llm.config.schema import digest
from lit_llm.errors import UserError
from lit_llm.runtime.terminal import typed

log = logging.getLogger("lit_llm")

ASK = "ask"
SIMULATED = "simulated"
TARGET = "lit_llm.feedback.people.collect"
SAMPLED = ("model", "prompts", "k", "temperature", "max_new_tokens", "max_prompts", "seed")
"""Keys of ``annotation`` that say which answers people are asked about: what they are, the project is the same."""


def rankings_step(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The configuration of the rankings step: ``annotation``, or with people's rankings what reads theirs."""
    path, simulated = values["rankings"], values["annotation"]
    if path == SIMULATED:
        return dict(simulated) if simulated is not None else None
    if path != ASK:
        return {"_target_": TARGET, "_partial_": True, "path": path}
    if not simulated or "model" not in simulated:
        raise UserError(
            "rankings=ask: annotation.model, annotation.prompts and annotation.k say what to ask; keep annotation"
        )
    return {"_target_": TARGET, "_partial_": True, "path": ASK, "model": simulated["model"]}


def found_win_rate(place: str) -> dict[str, Any]:
    """What people said in a project of blind comparisons. Raises UserError when it is none or nothing is judged yet."""
    from lit_llm.feedback.store.engine import open_store
    from lit_llm.feedback.win_rate import win_rate

    try:
        store = open_store(real_text(place))
    except UserError as error:
        raise UserError(f"win_rate={place}: {error}") from None
    try:
        return win_rate(store)
    finally:
        store.close()


def of_this_chain(found: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    """``found`` with "of_this_chain": whether both models whose answers people compared are steps' of this pipeline.

    By the hashes of their weights, so that a verdict on models of another time is not shown as one on these; one
    without hashes is on models that nobody knows. Where both are, "after" and "before" are the steps' names.
    ``outputs``: the folder of what each step made, also of one that a model of the user's own replaces.
    """
    from lit_llm.feedback.sampling import checkpoint_id

    steps = {checkpoint_id(place): name for name, place in outputs.items() if any(place.glob("*.safetensors"))}
    names = {role: steps.get(found.get(f"{role}_hash") or "") for role in ("after", "before")}
    if all(names.values()):
        return {**found, **names, "of_this_chain": True}
    log.warning(
        "win_rate: people compared %s and %s, whose weights are not both models of this pipeline as it is now; the "
        "report says so",
        found["after"],
        found["before"],
    )
    return {**found, "of_this_chain": False}


def comparison(folder: Path, after: str, before: Path | None, prompts: Path | None) -> list[str]:
    """The lines that say how people compare the model of the run ``after`` with the one in ``before``, blind."""
    if before is None or prompts is None:
        return []
    place = f"outputs/rankings/{folder.name}-{after}.db"
    return [
        "people's verdict, blind:",
        f"      python scripts/rank.py model={typed(folder / after / 'model')} against={typed(before)} "
        f"prompts={typed(prompts)} project={typed(place)}",
        f"      then the pipeline's own command again with win_rate={place}",
    ]


def asked(
    values: Mapping[str, Any], sampled: Mapping[str, Any], step: Mapping[str, Any], parent_hash: str
) -> dict[str, Any]:
    """rankings=ask: makes the project where it is not there, waits for people, and returns the step that reads it.

    Args:
        sampled: ``annotation`` with the model's folder filled in.
        step: of ``rankings_step``.
        parent_hash: of the model whose answers are ranked. The project's name has it, the prompts' contents and how is
            sampled, but no version of the code: people's work is not lost to one.
    """
    from lit_llm.feedback import people
    from lit_llm.lineage.input_hash import data_hashes

    settings = values["people"]
    how: dict[str, Any] = {key: sampled.get(key) for key in SAMPLED if key not in ("model", "prompts")}
    files = data_hashes({"prompts": sampled["prompts"]})
    place = Path(settings["folder"]) / f"rankings-{digest([parent_hash, files, how])[:16]}.db"
    people.ask(
        place,
        model=sampled["model"],
        prompts=sampled["prompts"],
        **how,
        overlap=settings["overlap"],
        batch_size=sampled.get("batch_size", 64),
        device=sampled.get("device", "auto"),
    )
    people.wait(place, settings["enough"], settings["poll_seconds"])
    return {**step, "path": str(place)}
