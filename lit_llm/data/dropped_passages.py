"""Passages of few long texts that are dropped since they hold held-out text: how much of the text goes with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lit_llm.runtime.counted import counted, verb


@dataclass
class DroppedPassages:
    """No row is dropped with a passage, so no count of rows tells of them."""

    number: int = 0
    near: int = 0  # of these, those that say nearly the same as what is held out
    lost: dict[str, int] = field(default_factory=dict)  # characters, by file
    size: dict[str, int] = field(default_factory=dict)  # characters of these files, with what is lost

    def __bool__(self) -> bool:
        return bool(self.number)

    def __iadd__(self, other: DroppedPassages) -> DroppedPassages:
        self.number, self.near = self.number + other.number, self.near + other.near
        for file, lost in other.lost.items():
            self.add(file, lost, other.size[file])
        return self

    def add(self, file: str, lost: int, size: int) -> None:
        """So many characters of a text in a file, which has ``size``."""
        self.lost[file] = self.lost.get(file, 0) + lost
        self.size[file] = self.size.get(file, 0) + size

    @property
    def characters(self) -> int:
        return sum(self.lost.values())

    def share(self, left: int) -> float:
        """Of the text. ``left``: characters that are trained or held out."""
        return self.characters / max(1, self.characters + left)

    def as_dict(self, left: int) -> dict[str, Any]:
        """As JSON takes it, with the files that lost most first."""
        files = sorted(self.lost, key=lambda file: -self.lost[file])
        return {
            "passages": self.number, "characters": self.characters, "share": round(self.share(left), 6),
            "files": {file: round(self.lost[file] / self.size[file], 6) for file in files},
        }  # fmt: skip

    def line(self, left: int) -> str:
        """For the table, which counts what is left."""
        said = f"dropped, since {verb(self.number, 'it holds', 'they hold')} held-out text"
        return f"{counted(self.number, 'passage')} {said}: {self.share(left):.1%} of the text, not counted above"

    def warning(self, left: int) -> str:
        """What is loud where much is lost."""
        most = max(self.lost, key=lambda file: self.lost[file])
        held = verb(self.number, "passage holds", "passages hold")
        near = "; data.deduplicate=exact what says only nearly the same" if self.near else ""
        return (
            f"{self.share(left):.0%} OF THE TEXT IS DROPPED, since {self.number:,} {held} held-out text: "
            f"{self.characters:,} of {counted(self.characters + left, 'character')}; most of it is in {most}, which "
            f"loses {self.lost[most] / self.size[most]:.0%}; data.decontaminate_words=0 keeps it{near}"
        )
