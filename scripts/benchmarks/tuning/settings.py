"""What the benchmarks of preference training and of instruction tuning are asked for alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

from benchmarks.conditions import device_of
from benchmarks.contestants import Shape
from benchmarks.sizing import MINUTES, Machine, default_precisions
from lit_llm.errors import UserError

PRECISIONS = ("bf16-mixed", "32-true")


@dataclass(frozen=True)
class StageSettings:
    """The data, the model and the race."""

    path: Annotated[Path | None, "a file of data to train on; none: lengths are drawn"] = None
    max_length: Annotated[int, "tokens of a row; longer ones are left out"] = 512
    hidden_size: Annotated[int, "width"] = 384
    layers: Annotated[int, "layers"] = 6
    heads: Annotated[int, "attention heads"] = 6
    vocab_size: Annotated[int, "rows of the embedding"] = 4096
    precision: Annotated[
        tuple[str, ...], f"of {', '.join(PRECISIONS)}; without any, those that the processor multiplies in"
    ] = field(default_factory=partial(default_precisions, *PRECISIONS))
    minutes: Annotated[float, "of the race, about: what is not given is sized by what the machine does in them"] = (
        MINUTES
    )
    rounds: Annotated[int, "rounds, at least 5 to be reported"] = 5
    seconds: Annotated[float, "of each contestant in each round"] = 1.0
    fresh: Annotated[bool, "one process at a time, for large models"] = False
    threads: Annotated[int | None, "torch's threads; none: its own choice"] = None
    device: Annotated[str, "auto, cpu or cuda"] = "auto"
    json: Annotated[Path | None, "also write the results here"] = None

    def __post_init__(self) -> None:
        self.above_zero(
            "minutes", "layers", "heads", "hidden_size", "vocab_size", "max_length", "rounds", "seconds", "threads"
        )
        self.known("precision", PRECISIONS)
        device_of(self.device)
        if self.hidden_size % (2 * self.heads):
            raise UserError(f"hidden_size={self.hidden_size}: must be a multiple of 2 x heads={self.heads}")
        if self.path is not None and not self.path.is_file():
            raise UserError(f"path={self.path}: is no file")

    def above_zero(self, *names: str) -> None:
        """Raises UserError for one that is not, where it is given."""
        for name in names:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name}={value}: must be above 0")

    def known(self, name: str, values: tuple[str, ...]) -> None:
        """Raises UserError for anything but these, and for nothing at all."""
        for value in getattr(self, name) or ("",):
            if value not in values:
                raise UserError(f"{name}={value}: must be of {', '.join(values)}")

    @property
    def machine(self) -> Machine:
        return Machine(self.minutes, self.threads)

    def shape(self, length: int, batch: int) -> Shape:
        """The model with room for ``length`` positions."""
        return Shape(self.hidden_size, self.layers, self.heads, self.vocab_size, length, batch, qk_norm=False)
