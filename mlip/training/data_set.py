"""Structures of one purpose, and their graphs."""

from __future__ import annotations

from dataclasses import dataclass

from mlip.data.batches import LabelledBatch
from mlip.data.labels import LabelledStructure


@dataclass(frozen=True)
class DataSet:
    """Structures of one purpose and their graphs."""

    structures: list[LabelledStructure]
    samples: list[LabelledBatch]
    source: str

    def count(self, name: str) -> int:
        """Number of structures with the label `name`."""
        return sum(getattr(s, name) is not None for s in self.structures)
