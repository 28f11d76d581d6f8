"""``scripts/evaluate.py``: takes a finished run's evaluation again, by the configuration that the run kept; and has a
run or any model folder answer tasks of lm-evaluation-harness (``evaluate_tasks``)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lit_llm.backbone.huggingface import check_vocabulary
from lit_llm.backbone.loaded import load_shared
from lit_llm.config import schema
from lit_llm.config.targets import saved_code
from lit_llm.errors import UserError
from lit_llm.evaluation.exported_tasks import export
from lit_llm.evaluation.harness import Asked
from lit_llm.evaluation.heldout import can_evaluate
from lit_llm.evaluation.scores import Scores
from lit_llm.evaluation.sets import read_all
from lit_llm.lineage import lineage
from lit_llm.model_sources.folders import folder_of
from lit_llm.records import Heldout
from lit_llm.report.page import write_again
from lit_llm.runtime.arguments import run_command
from lit_llm.runtime.run_folder import RunFolder
from lit_llm.runtime.terminal import near
from lit_llm.text.tokenizer import load_tokenizer
from lit_llm.training.evaluate import device_of, evaluator_of, reference_of
from lit_llm.training.evaluate_tasks import answer_tasks, default_device


@dataclass
class Evaluate:
    """Evaluates a run's model on the run's held-out sets, as its own configuration says, and prints the scores.

    With tasks=: tasks of lm-evaluation-harness, of run= (its init_from before, its model after) or of model=.
    """

    run: Annotated[Path | None, "the run's folder"] = None
    model: Annotated[
        Path | None,
        "another model's name (a folder, FILE.gguf, hub:OWNER/NAME), on the run's sets; or for tasks=, without run=",
    ] = None
    tasks: Annotated[list[str], "tasks of lm-evaluation-harness: names, YAML files, folders of them"] = field(
        default_factory=list
    )
    limit: Annotated[int | float | None, "of each task the first so many items, or a share below 1"] = None
    num_fewshot: Annotated[int | None, "examples before each of a task's questions; none: as the task says"] = None
    batch_size: Annotated[int, "questions of a task read or answered at once"] = 64
    chat: Annotated[bool, "a task's questions in the model's chat template"] = False
    export_tasks: Annotated[Path | None, "a folder to write the run's held-out sets to, as tasks for tasks="] = None
    sets: Annotated[list[str], "only these sets"] = field(default_factory=list)
    generate: Annotated[bool | None, "measure generated answers too; none: as the run did"] = None
    max_items: Annotated[int | None, "of every set; 0: all; none: as the run did"] = None
    seed: Annotated[int | None, "of the sampling; none: as the run did"] = None
    answers: Annotated[int, "show so many generated answers of each set"] = 0
    output: Annotated[Path | None, "a folder to write every item's scores to, as JSON"] = None
    allowed_targets: Annotated[list[str], "packages besides lit_llm whose code the run's configuration may name"] = (
        field(default_factory=list)
    )


def main() -> None:
    """The command line (lit-llm-evaluate)."""
    run_command(Evaluate, run)


def run(arguments: Evaluate) -> None:
    """Prints a table for each set, or for the tasks."""
    check(arguments)
    if arguments.export_tasks is not None:
        export_sets(arguments, arguments.export_tasks)
    if arguments.tasks:
        run_tasks(arguments)
    if not arguments.tasks and arguments.export_tasks is None:
        run_again(arguments)


def check(arguments: Evaluate) -> None:
    """Raises UserError for words that do not go together."""
    of_tasks = ("limit", "num_fewshot", "chat")
    given = [name for name in of_tasks if getattr(arguments, name) not in (None, False)]
    if given and not arguments.tasks:
        raise UserError(f"{given[0]}={getattr(arguments, given[0])}: is of tasks=; of held-out sets give max_items=")
    if arguments.tasks and arguments.run is not None and arguments.model is not None:
        raise UserError(f"run={arguments.run} model={arguments.model}: tasks= takes one of them")
    if arguments.run is None and (arguments.model is None or not arguments.tasks or arguments.export_tasks):
        raise UserError("missing run=PATH, a run's folder; or give model=FOLDER with tasks= (--help lists every key)")
    if arguments.limit is not None and arguments.limit <= 0:
        raise UserError(f"limit={arguments.limit}: must be above 0")
    if arguments.num_fewshot is not None and arguments.num_fewshot < 0:
        raise UserError(f"num_fewshot={arguments.num_fewshot}: must be at least 0")
    if arguments.batch_size < 1:
        raise UserError(f"batch_size={arguments.batch_size}: must be at least 1")


def run_tasks(arguments: Evaluate) -> None:
    """Answers the tasks, prints their scores and writes ``tasks.json``: beside the run, and to output=."""
    asked = Asked(
        limit=arguments.limit,
        num_fewshot=arguments.num_fewshot,
        batch_size=arguments.batch_size,
        chat=arguments.chat,
        seed=arguments.seed or 0,
    )
    outputs = [] if arguments.output is None else [arguments.output]
    before, after, device = None, arguments.model, default_device()
    if arguments.run is not None:
        folder = RunFolder(arguments.run)
        cfg = _settings(folder, arguments)
        before, after, device = cfg.get("init_from"), folder.model, device_of(cfg)
        outputs = [folder.path, *outputs]
    assert after is not None  # checked
    print(answer_tasks(arguments.tasks, after, asked, device, outputs, None if before is None else Path(before)))
    if arguments.run is not None and (page := write_again(arguments.run)) is not None:
        print(f"the pipeline's ledger and report were written again: {near(page)}")


def export_sets(arguments: Evaluate, place: Path) -> None:
    """The run's held-out sets as tasks."""
    assert arguments.run is not None  # checked
    folder = RunFolder(arguments.run)
    cfg, sets = _settings(folder, arguments), _sets(folder, arguments.sets)
    tokenizer, said = load_tokenizer(folder.model), cfg.evaluation
    found = export(place, sets, tokenizer, max_items=said.max_items, max_new_tokens=said.max_new_tokens)
    for path in found:
        print(path)
    without = [one for one in sets if not any(path.stem.startswith(f"heldout_{one.name}") for path in found)]
    if without:
        print(f"no task measures {', '.join(f'{one.name} ({one.kind})' for one in without)}")


def run_again(arguments: Evaluate) -> None:
    """The run's own evaluation; a table for each set."""
    scores = evaluate_again(arguments)
    recorded = {} if arguments.model or arguments.run is None else _recorded(RunFolder(arguments.run).metrics)
    for one in scores:
        print(table(one, recorded.get(one.name, {})))
        for answer in one.answers[: arguments.answers]:
            print(f"  [{answer.number}] {answer.text!r}{'' if answer.ended else ' (cut at the limit)'}")
        if arguments.output is not None:
            one.save(arguments.output / f"{one.name}.json")


def evaluate_again(arguments: Evaluate) -> list[Scores]:
    """The scores on each set that the model can take. Raises UserError for a folder that is no run."""
    check(arguments)
    assert arguments.run is not None
    folder = RunFolder(arguments.run)
    cfg = _settings(folder, arguments)
    sets = _sets(folder, arguments.sets)
    place = folder_of(arguments.model or folder.model)
    device, evaluator, candidate = device_of(cfg), evaluator_of(cfg, folder.path), load_shared(place)
    check_vocabulary(candidate.model.config, candidate.tokenizer.vocab_size, place)
    candidate.model.to(device)
    reference = None if arguments.model else reference_of(cfg, evaluator, candidate.tokenizer, device)
    taken = [
        evaluator.evaluate(
            candidate, heldout, heldout.name, reference=reference if heldout.kind in evaluator.beside else None
        )
        for heldout in sets
        if can_evaluate(candidate.model, heldout)
    ]
    if not taken:
        raise UserError(f"{place}: this model can take none of {', '.join(heldout.name for heldout in sets)}")
    return taken


def table(scores: Scores, recorded: Mapping[str, Any]) -> str:
    """A line for each measure: value with error and items, the floors, and what the run wrote down if that differs."""
    lines = [f"{scores.name} ({scores.kind})"]
    for name, value in scores.summary.items():
        error = f" ± {value.se:.2g}" if math.isfinite(value.se) else ""
        notes = [
            f"{floor.replace('_', ' ')} {found[name].mean:.4g}"
            for floor, found in scores.floors.items()
            if name in found
        ]
        before = (recorded.get(name) or {}).get("mean")
        if before is not None and not math.isclose(before, value.mean, rel_tol=1e-3, abs_tol=1e-4):
            notes.append(f"the run recorded {before:.4g}")
        lines.append(
            f"  {name:<22} {value.mean:8.4g}{error:<11} n={value.n:<5}" + (f" ({'; '.join(notes)})" if notes else "")
        )
    return "\n".join(line.rstrip() for line in lines)


def _settings(folder: RunFolder, arguments: Evaluate) -> DictConfig:
    if not folder.config.is_file():
        raise UserError(f"run={folder.path}: no config.yaml there; give a run's folder, such as outputs/<stage>/<time>")
    cfg = schema.load(folder.config)
    trusted(cfg, arguments.allowed_targets, f"run={folder.path}")
    _find_parents(cfg, folder)
    for name in ("generate", "seed", "max_items"):
        value = getattr(arguments, name)
        if value is not None:
            cfg.evaluation[name] = None if name == "max_items" and value == 0 else value
    return cfg


def trusted(cfg: DictConfig, allowed: Sequence[str], where: str) -> None:
    """Raises UserError for code that a saved configuration, which may be somebody else's, names outside lit_llm and
    the packages ``allowed``; what it allows itself does not count."""
    cfg.allowed_targets = list(allowed)
    findings = list(saved_code(_as_built(cfg, where), allowed))
    if findings:
        rest = "if you trust it, give allowed_targets=PACKAGE"
        raise UserError("\n".join(f"{where}: {line}; {rest}" for line in findings))


def _as_built(cfg: DictConfig, where: str) -> dict[str, Any]:
    try:
        return schema.resolved(cfg)
    except OmegaConfBaseException as error:
        line = str(error).splitlines()[0]
        raise UserError(f"{where}: config.yaml: {error.full_key or ''}: {line}") from None


def _find_parents(cfg: DictConfig, folder: RunFolder) -> None:
    """Folders named as seen from where the run was started are looked up in its lineage when they are not here."""
    for parent in (lineage.read(folder.model) or {}).get("parents", ()):
        named = OmegaConf.select(cfg, parent["role"])
        place = (folder.model.resolve() / parent["path"]).resolve()
        if isinstance(named, str) and not Path(named).expanduser().exists() and place.is_dir():
            OmegaConf.update(cfg, parent["role"], str(place))


def _sets(folder: RunFolder, wanted: Sequence[str]) -> list[Heldout]:
    found = {heldout.name: heldout for heldout in read_all(folder.heldout)}
    if not found:
        raise UserError(f"{folder.heldout}: no held-out sets there; a finished run keeps them")
    unknown = [name for name in wanted if name not in found]
    if unknown:
        raise UserError(f"sets={unknown[0]}: the run has {', '.join(found)}")
    return [heldout for name, heldout in found.items() if not wanted or name in wanted]


def _recorded(metrics: Path) -> Mapping[str, Any]:
    try:
        return json.loads(metrics.read_text(encoding="utf-8")).get("heldout") or {}
    except (OSError, ValueError):
        return {}
