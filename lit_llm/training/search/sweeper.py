"""``hydra/sweeper=optuna``: Hydra's sweeper that asks Optuna what to run next and tells it what came of that.

A study lies in its sweep's folder. A trial is the job of its number: what a killed command left running goes on under
its own number and in its own folder, and a trial's proposal depends on the study and its number alone, so that a study
that was stopped proposes what one that was not would have.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from lit_llm.config.search_keys import OptunaOptions
from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import write_json, write_text
from lit_llm.runtime.counted import counted, verb
from lit_llm.runtime.run_lock import RunLock
from lit_llm.training.search import study as studies
from lit_llm.training.search.space import Dimension, split
from lit_llm.training.search.trial import Trial
from lit_llm.training.sweep import read, said

log = logging.getLogger("lit_llm")

FOLDER = "folder"  # attribute of a trial: of which sweep
SPACE, WORDS = "space", "words"  # attributes of a study
SUMMARY = "study.json"  # in the sweep's folder


class OptunaSweeper(Sweeper):
    """Options: ``OptunaOptions``."""

    def __init__(self, **values: Any) -> None:
        studies.require()
        plain = {key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
                 for key, value in values.items()}  # fmt: skip
        known = [field.name for field in fields(OptunaOptions)]
        if unknown := [key for key in plain if key not in known]:
            raise UserError(f"hydra.sweeper.{unknown[0]}: unknown key; there are {', '.join(known)}")
        self.options = OptunaOptions(**plain)  # type: ignore[arg-type]
        self.config: DictConfig
        self.launcher: Launcher

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run trials until the study has ``n_trials``. Returns what their jobs returned."""
        folder = Path(self.config.hydra.sweep.dir).absolute()
        self._refuse_unknown()
        place = studies.place_of(self.options.storage, folder)
        with RunLock(folder), studies.reached(place):  # two commands would both go on with what a third left
            self._open(folder, place, self._overrides(arguments))
            write_text(folder / "multirun.yaml", OmegaConf.to_yaml(self.config))
            found: list[JobReturn] = []
            try:
                while batch := self._next():
                    found += self._run(batch)
            finally:
                self._sum_up()
            return found

    # What is searched

    def _overrides(self, arguments: Sequence[str]) -> list[Any]:
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)  # type: ignore[union-attr]
        given = [f"{key}={value}" for key, value in (self.options.params or {}).items()]
        return parser.parse_overrides([*given, *arguments])

    def _refuse_unknown(self) -> None:
        """What Optuna would find out about its sampler and pruner after the first trials."""
        studies.sampler(self.options.sampler, self.options.seed, 0)
        studies.pruner(self.options.pruner)

    def _open(self, folder: Path, place: str, overrides: list[Any]) -> None:
        import optuna

        options = self.options
        self.folder, self.place = folder, place
        searched, fixed = split(overrides)
        if not searched:
            raise UserError(
                "hydra/sweeper=optuna: nothing is searched; give a key several values, as in "
                "'optimizer.lr=tag(log, interval(1e-4, 1e-2))', or hparams_search=optuna/NAME"
            )
        self.searched: dict[str, Dimension] = searched
        self.fixed = [*fixed.values()]
        self.validate_batch_is_legal([self._words({key: each.first for key, each in searched.items()})])
        self.storage = studies.opened(place)
        name = options.study_name or folder.name
        self.study = optuna.create_study(
            storage=self.storage, study_name=name, load_if_exists=True, pruner=studies.pruner(options.pruner)
        )
        self._compare(self.study.user_attrs)
        done = len(self._trials())
        if done:
            every, are = counted(options.n_trials, "trial"), verb(done, "is", "are")
            log.info("study %s: goes on, %d of %s %s there", name, done, every, are)
        left = [trial for trial in self._trials() if self._was_left(trial)]
        self.left = [trial.number for trial in left if trial.params.keys() == searched.keys()]
        self._never_ran(trial.number for trial in left if trial.number not in self.left)

    def _compare(self, before: dict[str, Any]) -> None:
        """A study goes on with the same search of the same runs: other values could not be compared."""
        from optuna.distributions import distribution_to_json
        from optuna.study import StudyDirection

        strange = SPACE not in before and self.study.get_trials(deepcopy=False)
        if strange or self.study.directions != [StudyDirection.MINIMIZE]:
            raise UserError(
                f"hydra.sweeper.study_name={self.study.study_name}: the storage holds a study of that name that was "
                "made by another program; give another study_name"
            )
        space = {key: distribution_to_json(each.distribution) for key, each in sorted(self.searched.items())}
        for attribute, now in ((SPACE, space), (WORDS, sorted(self.fixed))):
            old = before.get(attribute)
            if old is None:
                self.study.set_user_attr(attribute, now)
            elif old != now:
                raise UserError(
                    f"hydra.sweeper.study_name={self.study.study_name}: {_difference(old, now)}; a study goes on with "
                    "the search it began with; give another study_name"
                )

    def _trials(self) -> list[Any]:
        from optuna.trial import TrialState

        asked = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        return self.study.get_trials(deepcopy=False, states=asked)

    def _was_left(self, trial: Any) -> bool:
        """Whether a command that was killed left the trial in this sweep's folder; elsewhere it may be at work. A study
        that lies in the folder is that one's alone, also where the folder was moved."""
        own = self.options.storage is None or trial.user_attrs.get(FOLDER) == str(self.folder)
        return bool(own and trial.state.name == "RUNNING")

    # One trial after the other

    def _next(self) -> list[tuple[int, list[str]]]:
        """(number, overrides) of the trials that run next; none: the study has all."""
        found = []
        trials = {trial.number: trial for trial in self._trials()}
        for number in self.left[: self.options.at_once]:
            log.info("trial %d was left unfinished, and goes on", number)
            found.append((number, self._words(trials[number].params)))
        self.left = self.left[len(found) :]
        while not self.left and len(found) < self.options.at_once and len(trials) < self.options.n_trials:
            trial = self._ask(len(trials))
            trials[trial.number] = trial
            found.append((trial.number, self._words(trial.params)))
        for number, _ in found:
            self._tell_job(number)
        return found

    def _ask(self, number: int) -> Any:
        self.study.sampler = studies.sampler(self.options.sampler, self.options.seed, number)
        before = {trial.number for trial in self._trials()}
        try:
            trial = self.study.ask({key: each.distribution for key, each in self.searched.items()})
        except (ValueError, TypeError, ImportError) as error:  # a sampler that does not take this space or its options
            self._never_ran(
                each.number for each in self._trials()
                if each.number not in before and each.state.name == "RUNNING" and FOLDER not in each.user_attrs
            )  # fmt: skip
            raise UserError(f"hydra.sweeper.sampler: {next(iter(str(error).splitlines()), '')}") from None
        trial.set_user_attr(FOLDER, str(self.folder))
        return trial

    def _never_ran(self, numbers: Iterable[int]) -> None:
        """What was begun and not drawn to its end: a command was killed then, or the sampler failed."""
        from optuna.trial import TrialState

        for number in numbers:
            self.study.tell(number, state=TrialState.FAIL)

    def _tell_job(self, number: int) -> None:
        options = self.options
        if options.monitor is not None and options.pruner is not None:
            Trial(self.place, self.study.study_name, number, options.monitor, options.pruner).write(self.folder)

    def _words(self, values: dict[str, Any]) -> list[str]:
        return [*self.fixed, *(self.searched[key].word(value) for key, value in values.items())]

    def _run(self, batch: list[tuple[int, list[str]]]) -> Iterator[JobReturn]:
        """Launches jobs whose numbers follow each other together, and tells the study what came of them."""
        for _, group in groupby(enumerate(batch), lambda one: one[1][0] - one[0]):
            jobs = [job for _, job in group]
            try:
                found = self.launcher.launch([words for _, words in jobs], initial_job_idx=jobs[0][0])
            except HydraException:  # the values do not compose: a choice that is no file of its group
                for number, _ in jobs:
                    self._tell(number, {})
                raise
            for (number, _), job in zip(jobs, found, strict=True):
                folder = Path(str(job.hydra_cfg.hydra.runtime.output_dir))  # type: ignore[union-attr]
                self._tell(number, read(folder), told=folder in said)
                yield job

    def _tell(self, number: int, result: dict[str, Any], told: bool = False) -> None:
        """Tells the study, and says it where it is bad. ``told``: why was said just now, by the job in this process."""
        from optuna.trial import TrialState

        status = str(result.get("status", "failed: no result was written"))
        if status == "finished":
            self.study.tell(number, float(result["objective"]), skip_if_finished=True)
        else:
            state = TrialState.PRUNED if status.startswith("pruned") else TrialState.FAIL
            self.study.tell(number, state=state, skip_if_finished=True)
            log.info("trial %d %s", number, status.partition(":")[0] if told else status)

    def _sum_up(self) -> None:
        """``study.json`` beside the leaderboard: where the study is, how its trials ended, and the best."""
        trials = self._trials()
        complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
        best = min(complete, key=lambda trial: trial.value, default=None)
        counts = {name: sum(1 for each in trials if each.state.name == name) for name in _STATES}
        summary = {
            "study": self.study.study_name,
            "storage": studies.shown(self.place),
            "trials": {name.lower(): count for name, count in counts.items() if count},
            "best": None if best is None else {"trial": best.number, "objective": best.value, "params": best.params},
        }
        write_json(self.folder / SUMMARY, summary)
        if best is not None:
            words = " ".join(self.searched[key].word(value) for key, value in best.params.items())
            name = self.study.study_name
            every = counted(len(trials), "trial")
            log.info("study %s: the best of %s is %d: %s", name, every, best.number, words)


_STATES = ("COMPLETE", "PRUNED", "FAIL", "RUNNING")


def _difference(old: Any, now: Any) -> str:
    """The first thing in which two searches differ."""
    if isinstance(old, dict):
        for key in {**old, **now}:
            if old.get(key) != now.get(key):
                return f"{key} is searched otherwise than before" if key in old and key in now else (
                    f"{key} was not searched before" if key in now else f"{key} was searched, and is not now"
                )  # fmt: skip
    gone, new = [word for word in old if word not in now], [word for word in now if word not in old]
    return f"it was begun {'with ' + ' '.join(gone) if gone else 'without ' + ' '.join(new)}"
