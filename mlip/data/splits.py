"""Training and validation sets, isolated atoms set apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols

from mlip.data.labels import LabelledStructure
from mlip.errors import DataError, UnknownElementError


class Parts(NamedTuple):
    """Structures that train, and isolated atoms, which only give reference energies."""

    structures: list[LabelledStructure]
    isolated: list[LabelledStructure]


def set_apart_isolated_atoms(structures: Iterable[LabelledStructure]) -> Parts:
    """Isolated atoms never train: their energy is E0 by definition, their forces are zero by symmetry."""
    parts = Parts([], [])
    for structure in structures:
        (parts.isolated if structure.is_isolated_atom else parts.structures).append(structure)
    return parts


def split(
    structures: Sequence[LabelledStructure], valid_fraction: float, seed: int
) -> tuple[list[LabelledStructure], list[LabelledStructure]]:
    """A random part for validation, at least one structure; both parts keep the order of the file.

    Raises:
        DataError: fewer than two structures, or a fraction that leaves one part empty.
    """
    n_valid = max(1, round(valid_fraction * len(structures)))
    if not 0 < valid_fraction < 1 or n_valid >= len(structures):
        raise DataError(
            f"--valid_fraction {valid_fraction:g} of {len(structures)} structures leaves nothing to train or to "
            "validate on; choose it between 0 and 1, or give --valid_file"
        )
    chosen = set(np.random.default_rng(seed).permutation(len(structures))[:n_valid].tolist())
    return (
        [s for i, s in enumerate(structures) if i not in chosen],
        [s for i, s in enumerate(structures) if i in chosen],
    )


def check_elements(structures: Iterable[LabelledStructure], known: Iterable[int], source: str) -> None:
    """Raise `UnknownElementError` when a structure holds an element that the training data does not."""
    known_set = {int(z) for z in known}
    for structure in structures:
        unknown = sorted({int(z) for z in structure.atoms.numbers} - known_set)
        if unknown:
            symbols = ", ".join(chemical_symbols[z] for z in unknown)
            raise UnknownElementError(
                f"structure {structure.index} of {structure.file or source} holds {symbols}, which the "
                f"training data does not; it has {', '.join(chemical_symbols[z] for z in sorted(known_set))}"
            )
