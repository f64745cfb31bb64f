"""Structures of one purpose, and their graphs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mlip.data.batches import LabelledBatch
from mlip.data.labels import LabelledStructure
from mlip.data.summary import Count, count_by_group, total


@dataclass(frozen=True)
class DataSet:
    """Structures of one purpose and their graphs."""

    structures: list[LabelledStructure]
    samples: list[LabelledBatch]
    source: str
    counted: tuple[Count, ...] = ()  # by `config_type`, of the whole set, if these structures are a sample of it

    def __len__(self) -> int:
        """Structures of the whole set."""
        return self.whole.structures

    def count(self, name: str) -> int:
        """Number of structures with the label `name`, in the whole set."""
        return self.whole.labels[name]

    @cached_property
    def whole(self) -> Count:
        """The whole set."""
        return total(self.groups)

    @cached_property
    def groups(self) -> list[Count]:
        """The whole set by `config_type`."""
        return list(self.counted) or count_by_group(self.structures)

    def rows(self) -> list[Count]:
        """Rows of the start-up table: the whole set, then each `config_type` if there are several."""
        return [self.whole, *(self.groups if len(self.groups) > 1 else [])]
