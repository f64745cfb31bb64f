"""Atoms outside the range of the training set: counted always, warned about once."""

from __future__ import annotations

import warnings

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from mlip.errors import ExtrapolationWarning


class ExtrapolationCounter:
    """Counts the descriptors outside the range of the training set over the calculations of one calculator.

    Args:
        possible: whether the model knows such a range.

    Attributes:
        last: (N,) of the last structure, None before the first.
        structures: that had any.
        total: sum over the atoms of all structures.
    """

    def __init__(self, possible: bool) -> None:
        self.possible = possible
        self.last: NDArray[np.int64] | None = None
        self.structures = self.total = 0

    def count(self, outside: NDArray[np.int64] | None, numbers: NDArray[np.int64]) -> None:
        """Take in one structure.

        Args:
            outside: (N,) descriptors outside the range; None if the model knows none.
            numbers: (N,) atomic numbers.
        """
        self.last = outside
        if outside is None or not outside.any():
            return
        if not self.structures:
            warnings.warn(_message(outside, numbers), ExtrapolationWarning, stacklevel=4)
        self.structures += 1
        self.total += int(outside.sum())


def _message(outside: NDArray[np.int64], numbers: NDArray[np.int64]) -> str:
    atoms = numbers[outside > 0]
    elements = ", ".join(chemical_symbols[z] for z in np.unique(atoms))
    return (
        f"{len(atoms)} of {len(numbers)} atoms ({elements}) are outside the range of the model's training set, "
        f"by {outside.sum()} descriptors: their energies and forces are extrapolated and can be far off. Check that "
        "the structure and its units are what was meant; else train on such structures. Further ones are counted "
        "without a warning, in the calculator's extrapolating_structures"
    )
