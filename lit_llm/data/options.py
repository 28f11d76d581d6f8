"""The options of every data module. Each is written here once, with what it means and what it may be.

``TARGET`` names the data module, which names its dataclass as ``Options``: its fields are the keys below ``data.`` in a
configuration and the first argument of the data module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from lit_llm.data.column_map import as_mapping
from lit_llm.data.encodings import checked_encoding
from lit_llm.data.quality import languages as known_languages
from lit_llm.data.quality.rules import rules
from lit_llm.errors import UserError
from lit_llm.runtime.options import Options
from lit_llm.runtime.ranges import FACTOR, LENGTH, PART, ROWS, SEED, SHARE, WEIGHT, Range

DataPath = str | int | Sequence[str | int] | Mapping[str, Any]
"""What ``data.path`` may be: see ``sources.resolve``. A number is the name of a file or folder."""
HALVES = ("first", "second")
SEVERITIES = range(1, 4)


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """What all data modules have. Each has a path of its own."""

    GROUP: ClassVar[str] = "data"
    GIVEN: ClassVar[tuple[str, ...]] = ("tokenizer",)
    RANGES: ClassVar[Mapping[str, Range]] = {
        "micro_batch_size": ROWS, "num_workers": Range(0, 1024), "seed": SEED, "max_error_rate": SHARE,
        "validation_fraction": PART, "test_fraction": PART, "path": FACTOR, "near_threshold": Range(0.3, 1),
        "decontaminate_words": Range(0, 1000), "decontaminate_share": SHARE, "quality": WEIGHT,
    }  # fmt: skip

    # Rows (prompts, where the batch holds prompts) per process and forward pass; auto: the most that fit in memory and
    # divide trainer.global_batch_size, found when the run begins.
    micro_batch_size: int | Literal["auto"] = 8
    num_workers: int = 0  # processes that prepare batches; they change nothing but speed
    seed: int = 0  # of the order of the rows
    format: str | None = None  # a format's name or a function's dotted path; None: by each row's keys (formats.py)
    # What rows call a key, and what its format calls it: {question: prompt, reply: completion}. Renamed before the
    # format is chosen.
    columns: Mapping[str, str] | str | None = None
    on_error: Literal["stop", "skip"] = "stop"  # with all bad rows and files; skip counts them by reason and goes on
    max_error_rate: float = 0.2  # share of bad rows above which skipping ends in an error all the same
    validation_fraction: float = 0.05  # held out by content, where the files do not say which split they are
    test_fraction: float = 0.05  # the same, to test on
    cache_dir: str = "outputs/cache"  # where tokens and the installed documentation are kept
    name: str = "data"  # of the source, and the beginning of the held-out sets' names
    accept_changed_data: bool = False  # let a resumed run go on with other data than its checkpoint saw
    # Keys that rows are read without, at every depth. Any other that is neither used nor known to say nothing makes a
    # bad row (row_keys.py).
    ignore_keys: Sequence[str] = ()
    clean: bool = True  # \r\n and \r become \n and NUL characters go, which is counted; False alters no character
    encoding: str = "auto"  # of texts and JSON; auto: UTF-8, and a text that is no UTF-8 is in what it is found to be
    # Rows that say the same as another: exact drops the later one; near also what says nearly the same, of which the
    # longest stays, and keeps near duplicates on one side of a split; off keeps all (quality/README.md).
    deduplicate: Literal["exact", "near", "off"] = "exact"
    near_threshold: float = 0.8  # of near: share of runs of three words that two texts have in common, of all of theirs
    # Files that must not be trained, such as an evaluation set or an earlier run's heldout folder, beside what this run
    # holds out itself. Training rows that hold an item of either are dropped.
    decontaminate: Sequence[str] = ()
    # Held-out folders of earlier stages, whose items must not be trained either; a pipeline adds those of all stages
    # before this one. They are looked for as what this run holds out itself.
    earlier_heldout: Sequence[str] = ()
    decontaminate_words: int = 13  # of the runs of words by which such rows are found; 0 keeps them
    decontaminate_share: float = 0.5  # of an item's runs of words that a row must have; 0: one is enough
    # Rules that a row must keep: gopher, c4, [gopher,c4], or {min_words: 50}, with set for the set that it alters
    # (quality/rules.py). null: none.
    quality: str | Sequence[str] | Mapping[str, Any] | None = None
    # Those to keep, such as [en,ar]; [all] keeps and counts all. Of none, languages are not told apart.
    languages: Sequence[str] = ()

    def check(self) -> None:
        if self.micro_batch_size != "auto":
            _at_least("micro_batch_size", self.micro_batch_size, 1)
        _at_least("num_workers", self.num_workers, 0)
        _at_least("seed", self.seed, 0)
        _one_of("on_error", self.on_error, ("stop", "skip"))
        _plain_name("name", self.name)
        if isinstance(self.ignore_keys, str) or not all(isinstance(key, str) for key in self.ignore_keys):
            raise UserError(f"data.ignore_keys={self.ignore_keys}: a list of keys is needed, such as [tools,images]")
        checked_encoding(self.encoding)
        as_mapping(self.columns)
        check_fractions(self.validation_fraction, self.test_fraction)
        _one_of("deduplicate", self.deduplicate, ("exact", "near", "off"))
        for key, places in (("decontaminate", self.decontaminate), ("earlier_heldout", self.earlier_heldout)):
            if isinstance(places, str):
                raise UserError(f"data.{key}={places}: a list of files or folders is needed, such as [a]")
        rules(self.quality)
        known_languages.checked(self.languages)
        super().check()

    @property
    def rows_at_once(self) -> int:
        """``micro_batch_size`` as a number. Raises UserError for auto, which a run settles before its data is made."""
        if self.micro_batch_size == "auto":
            raise UserError("data.micro_batch_size=auto: is settled by a run of scripts/train.py; give a number here")
        return self.micro_batch_size


# Text


@dataclass(frozen=True, kw_only=True)
class TextOptions(DataOptions):
    TARGET: ClassVar[str] = "lit_llm.data.raw_text.RawText"
    RANGES: ClassVar[Mapping[str, Range]] = {
        "max_length": LENGTH, "stream_above": Range(0, 10**9), "prepare_workers": Range(0, 1024),
    }  # fmt: skip

    # One corpus; or {path: weight}, where weights are shares of rows (2 and 1: two thirds and a third). An epoch has as
    # many rows as all sources together; a source with a big share repeats in it, one with a small share is gone through
    # in several epochs, and no row comes again before all of its source have.
    path: DataPath = "installed/raw_text"
    max_length: int = 256  # positions a row, in tokens
    # MiB of files above which a corpus is read as a stream into shards on the disk, in memory that does not grow with
    # it; what is packed counts four times. Below, it is read in memory.
    stream_above: int = 256
    prepare_workers: int = 0  # processes that make such shards; 0: as many as there are processors to use
    name: str = "general"  # of the source, and the beginning of the held-out sets' names

    def check(self) -> None:
        _at_least("max_length", self.max_length, 2)
        _at_least("stream_above", self.stream_above, 0)
        _at_least("prepare_workers", self.prepare_workers, 0)
        super().check()


@dataclass(frozen=True, kw_only=True)
class DomainCorporaOptions(TextOptions):
    TARGET: ClassVar[str] = "lit_llm.data.domain_corpora.DomainCorpora"
    RANGES: ClassVar[Mapping[str, Range]] = {"replay_path": FACTOR, "replay_ratio": PART}

    path: DataPath = "installed/domain"  # the domain: one corpus, or {path: weight}
    replay_path: DataPath | None = "installed/raw_text"  # the general corpus; None: none, without its validation
    replay_ratio: float = 0.2  # share of an epoch's rows, 0 (none) to below 1
    name: str = "domain"  # of the domain as a source
    replay_name: str = "general"  # of the general corpus as a source

    def check(self) -> None:
        if not 0 <= self.replay_ratio < 1:
            raise UserError(f"data.replay_ratio={self.replay_ratio}: a share of the rows, from 0 to below 1")
        _plain_name("replay_name", self.replay_name)
        if self.replay_path is None and self.replay_ratio:
            raise UserError(f"data.replay_ratio={self.replay_ratio}: set data.replay_path, or a ratio of 0")
        super().check()


# Conversations


@dataclass(frozen=True, kw_only=True)
class SupervisedDataOptions(DataOptions):
    """What task pairs and instructions share."""

    RANGES: ClassVar[Mapping[str, Range]] = {"max_length": LENGTH}

    path: DataPath  # conversations or pairs of source and target (formats.py)
    max_length: int = 256  # positions a row, in tokens; what is longer is treated as overlong says
    packing: bool = True  # several conversations in a row; False: a row for each, padded to the longest of its batch
    train_on_prompt: bool = False  # label all tokens, those of the user and of the template too
    train_last_only: bool = False  # label the last of the assistant's turns alone
    # Drop a conversation that does not fit, or truncate it from the left, which keeps the last answer and its end token
    # whole; one whose last answer alone does not fit is dropped. All are counted.
    overlong: Literal["drop", "truncate"] = "drop"

    def check(self) -> None:
        _at_least("max_length", self.max_length, 2)
        _one_of("overlong", self.overlong, ("drop", "truncate"))
        super().check()


@dataclass(frozen=True, kw_only=True)
class TaskPairsOptions(SupervisedDataOptions):
    TARGET: ClassVar[str] = "lit_llm.data.task_pairs.TaskPairs"

    path: DataPath = "installed/task_pairs"  # pairs of source and target, or conversations (formats.py)
    name: str = "task_pairs"  # of the source, and the beginning of the held-out sets' names


@dataclass(frozen=True, kw_only=True)
class InstructionsOptions(SupervisedDataOptions):
    TARGET: ClassVar[str] = "lit_llm.data.instructions.Instructions"

    path: DataPath = "installed/instructions"  # conversations, or pairs of source and target (formats.py)
    name: str = "instructions"  # of the source, and the beginning of the held-out sets' names


# Rankings and labels


@dataclass(frozen=True, kw_only=True)
class PreferencesOptions(DataOptions):
    TARGET: ClassVar[str] = "lit_llm.data.preferences.Preferences"
    RANGES: ClassVar[Mapping[str, Range]] = {"max_length": LENGTH, "annotator_weights": WEIGHT, "attacks": SHARE}

    path: DataPath  # comparisons: pairs, rankings of K completions, HH transcripts (formats.py)
    max_length: int = 512  # longest prompt and completion together, in tokens
    micro_batch_size: int | Literal["auto"] = 4  # comparisons per process and step; each brings its K completions
    # A comparison with a completion that does not fit behind its prompt is dropped whole, or its prompt is cut from the
    # left (truncate), for all of its completions alike. A completion is never cut: its end token is part of what is
    # judged. All are counted.
    overlong: Literal["drop", "truncate"] = "drop"
    # What each annotator's comparisons count, by name, times the weight of the row; 1 where a name is not given. Those
    # that count 0 are left out of training and validation.
    annotator_weights: Mapping[str, float] | None = None
    # Train on the comparisons of this half of the prompts, as their hash falls. A proxy reward and the gold reward that
    # it is watched with learn from disjoint halves. Validation and tests stay whole.
    half: Literal["first", "second"] | None = None
    # Share of the training prompts whose comparisons get one more answer, ranked last: the best one repeated, text like
    # control tokens, letters, nothing, another prompt's answer (text/attacks.py). A reward model that was trained so
    # has met attacks of the validation's kinds, made with other strings.
    attacks: float = 0.0
    # Comparisons of one prompt stand together in an epoch's order, so that a batch's forward pass reads the answers
    # that several annotators ranked once; a batch then holds fewer prompts.
    by_prompt: bool = False
    name: str = "rankings"  # of the source, and the beginning of the held-out sets' names

    def check(self) -> None:
        _at_least("max_length", self.max_length, 2)
        _one_of("overlong", self.overlong, ("drop", "truncate"))
        for who, weight in (self.annotator_weights or {}).items():
            _at_least(f"annotator_weights.{who}", weight, 0)
        if self.half is not None:
            _one_of("half", self.half, HALVES)
        if not 0 <= self.attacks <= 1:
            raise UserError(f"data.attacks={self.attacks}: a share of the training prompts, from 0 to 1")
        super().check()


@dataclass(frozen=True, kw_only=True)
class LabelledAnswersOptions(DataOptions):
    TARGET: ClassVar[str] = "lit_llm.data.labelled_answers.LabelledAnswers"
    RANGES: ClassVar[Mapping[str, Range]] = {"min_severity": Range(1, 3), "max_length": LENGTH}

    path: DataPath  # rows of prompt, completion, label; or rankings and pairs, of which label makes labels
    # What the label of a ranked completion is: desirable (best rank good; worst rank, or all bad, bad; the rest left
    # out) or flagged (people flagged it). See label_formats.py.
    label: Literal["desirable", "flagged"] = "desirable"
    flag_kinds: Sequence[str] | None = None  # for flagged: the kinds of flag that count; None: all
    min_severity: int = 1  # for flagged: the least severity that counts, 1 to 3
    max_length: int = 512  # longest prompt and completion together, in tokens; what is longer is left out and counted
    micro_batch_size: int | Literal["auto"] = 8  # completions per process and step
    name: str = "labels"  # of the source, and the beginning of the held-out sets' names

    def check(self) -> None:
        _at_least("max_length", self.max_length, 2)
        _one_of("label", self.label, ("desirable", "flagged"))
        if self.min_severity not in SEVERITIES:
            raise UserError(f"data.min_severity={self.min_severity}: must be 1, 2 or 3")
        if self.flag_kinds is not None and (isinstance(self.flag_kinds, str) or not self.flag_kinds):
            raise UserError(f"data.flag_kinds={self.flag_kinds}: a list of kinds is needed, or null for all")
        super().check()


# Prompts


@dataclass(frozen=True, kw_only=True)
class PromptsOptions(DataOptions):
    TARGET: ClassVar[str] = "lit_llm.data.prompts.Prompts"
    RANGES: ClassVar[Mapping[str, Range]] = {
        "max_prompt_length": Range(1, 10**8), "ptx_path": FACTOR, "ptx_max_length": LENGTH,
        "ptx_micro_batch_size": ROWS,
    }  # fmt: skip

    # Prompts, problems with their answers (which become tags, for rewards), or examples or comparisons whose answers
    # are left out (formats.py).
    path: DataPath = "installed/prompts"
    max_prompt_length: int = 192  # tokens; a longer prompt is an error, or skipped and counted with on_error=skip
    micro_batch_size: int = 16  # prompts per process and step
    # Pretraining text to mix into PPO, as the path of TextOptions; None: none. Its held-out part stays held out.
    ptx_path: DataPath | None = None
    ptx_max_length: int = 256  # positions a row of it
    ptx_micro_batch_size: int = 8  # rows of it per process and update
    name: str = "prompts"  # of the source, and the beginning of the held-out sets' names

    def check(self) -> None:
        _at_least("max_prompt_length", self.max_prompt_length, 1)
        _at_least("ptx_micro_batch_size", self.ptx_micro_batch_size, 1)
        _at_least("ptx_max_length", self.ptx_max_length, 2)
        super().check()

    def pretraining_text(self) -> TextOptions | None:
        """The text to mix in as data of its own, read as the prompts are but for their format; None: there is none."""
        if self.ptx_path is None:
            return None
        shared = {field.name: getattr(self, field.name) for field in fields(DataOptions)}
        own = {"path": self.ptx_path, "max_length": self.ptx_max_length, "micro_batch_size": self.ptx_micro_batch_size}
        return TextOptions(**{**shared, **own, "format": TextOptions.format, "columns": None,
                              "name": TextOptions.name})  # fmt: skip


def check_fractions(validation: float, test: float) -> None:
    """Raises UserError for shares of the rows that cannot be held out both."""
    if not (0 <= validation < 1 and 0 <= test < 1):
        raise UserError(
            f"data.validation_fraction={validation}, data.test_fraction={test}: each from 0 and together below 1"
        )
    if validation + test >= 1:
        raise UserError(
            f"data.validation_fraction={validation} and data.test_fraction={test}: nothing is left to train on; "
            "together they must be below 1"
        )


def _at_least(key: str, value: float, least: float) -> None:
    if value < least:
        raise UserError(f"data.{key}={value}: must be at least {least}")


def _plain_name(key: str, value: str) -> None:
    """Held-out sets are written under it."""
    if not value.strip() or {"/", "\\", "\0"} & set(value) or value.startswith("."):
        raise UserError(f"data.{key}={value}: a name is needed, without / and not a path; such as {Path(value).name!r}")


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"data.{key}={value}: must be one of {', '.join(allowed)}")
