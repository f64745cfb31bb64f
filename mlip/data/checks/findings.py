"""What a check of data has found, one line each, and the frames that are checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from mlip.data.labels import LabelledStructure

Level = Literal["error", "warning", "note", "ok"]

#: So many frames are named in a line; all are in `Finding.frames`.
NAMED = 5


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        level: error: what would spoil a fit; warning: what may; note: what could not be judged, or is good to know;
            ok: judged and right.
        topic: what it is about, a word or two.
        text: what was found, the evidence in numbers, what to do.
        frames: places of the frames concerned, FILE:INDEX, if it is not about all.
    """

    level: Level
    topic: str
    text: str
    frames: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Frames(NamedTuple):
    """Structures with their labels, and the file of each."""

    structures: Sequence[LabelledStructure]
    files: Sequence[str]

    def places(self, indices: Iterable[int]) -> tuple[str, ...]:
        """FILE:INDEX of some of them."""
        return tuple(f"{self.files[k]}:{self.structures[k].index}" for k in indices)

    def named(self, indices: Sequence[int]) -> str:
        """The first few of them in words; the file is named where there are several."""
        several = len(set(self.files)) > 1
        words = [(f"{self.files[k]}:" if several else "") + str(self.structures[k].index) for k in indices[:NAMED]]
        return ("frame " if len(indices) == 1 else "frames ") + ", ".join(words) + (", ..." * (len(indices) > NAMED))


def counted(n: int, what: str) -> str:
    """1 frame, 2 frames."""
    return f"{n} {what}" + ("" if n == 1 else "s")
