"""Structures between memory and files of our own: labels under our names, everything else that is plain data."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlip.data.labels import KEYS, PROPERTIES, LabelledStructure

#: Names of labels in `info` and `arrays`; those of a structure are written under REF_* and nowhere else.
LABEL_NAMES = frozenset({*KEYS, *(f"REF_{name}" for name in KEYS), "free_energy", "stresses", "energies"})


def info_of(structure: LabelledStructure, used: frozenset[str] = frozenset()) -> dict[str, Any]:
    """What is in `info` beside the labels, as plain values; what is no plain data is left out."""
    plain = {key: _plain(value) for key, value in structure.atoms.info.items() if key not in LABEL_NAMES | used}
    return {str(key): value for key, value in plain.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        inner = [_plain(x) for x in value]
        return None if any(x is None for x in inner) else inner
    return value if isinstance(value, str | bool | int | float) else None


def to_atoms(
    numbers: NDArray[Any],
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    energy: float,
    forces: NDArray[np.float64],
    stress: NDArray[np.float64],
    info: dict[str, Any],
) -> Atoms:
    """A structure with its labels as REF_*; NaN: there is none."""
    atoms = Atoms(numbers=numbers.astype(int), positions=positions, cell=cell, pbc=pbc, info=info)
    if not np.isnan(energy):
        atoms.info["REF_energy"] = energy
    if not np.isnan(forces).any():
        atoms.arrays["REF_forces"] = np.array(forces)
    if not np.isnan(stress).any():
        atoms.info["REF_stress"] = np.array(stress)
    return atoms


def with_labels(structure: LabelledStructure, used: frozenset[str] = frozenset()) -> Atoms:
    """A copy with labels as REF_* alone, and info that every format can hold."""
    nan = np.nan
    return to_atoms(
        structure.atoms.numbers,
        structure.atoms.positions.copy(),
        structure.atoms.cell.array.copy(),
        structure.atoms.pbc.copy(),
        nan if structure.energy is None else structure.energy,
        np.full((1, 3), nan) if structure.forces is None else structure.forces,
        np.full((3, 3), nan) if structure.stress is None else structure.stress,
        info_of(structure, used),
    )


def count_labels(structures: list[LabelledStructure]) -> dict[str, int]:
    """Structures with each label."""
    return {name: sum(getattr(s, name) is not None for s in structures) for name in PROPERTIES}
