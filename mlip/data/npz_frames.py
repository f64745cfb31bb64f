"""Frames of one molecule in an npz file: rMD17's, in kcal/mol and Å as published (Christensen and von Lilienfeld 2020).

    nuclear_charges (N,)  coords (B, N, 3) Å  energies (B,) kcal/mol  forces (B, N, 3) kcal/mol/Å

The names of the last three may end in their units (`coords_A`, `energies_kcalmol`, `forces_kcalmolA`) and begin with
that of a part (`train_`, `test_`), of which `FILE.npz@train` takes one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from mlip.errors import DataError

KCAL_PER_MOL = 1 / 23.060547830619  # eV
_KEY = re.compile(r"(?:(\w+?)_)?(coords|energies|forces)(?:_(\w+))?")
_UNITS = {"coords": {"A": 1.0}, "energies": {"kcalmol": KCAL_PER_MOL, "eV": 1.0}}
_UNITS["forces"] = {"kcalmolA": KCAL_PER_MOL, "eVA": 1.0}
_UNNAMED = {"coords": "A", "energies": "kcalmol", "forces": "kcalmolA"}


def is_frames(names: Collection[str]) -> bool:
    """Whether arrays of these names are frames of one molecule."""
    return "nuclear_charges" in names and any("coords" in name for name in names)


def read_frames(arrays: Mapping[str, NDArray[Any]], path: Path, part: str = "") -> list[Atoms]:
    """The structures, in eV and Å, with labels in a calculator.

    Raises:
        DataError: several parts and none named, none of that name, unknown units, arrays that don't fit together.
    """
    parts: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name, array in arrays.items():
        if (match := _KEY.fullmatch(name)) is None:
            continue
        of, what, unit = match[1] or "", match[2], match[3] or _UNNAMED[match[2]]
        if unit not in _UNITS[what]:
            raise DataError(f"{path}: {name} is in a unit that is not known; expected {', '.join(_UNITS[what])}")
        parts.setdefault(of, {})[what] = array.astype(np.float64) * _UNITS[what][unit]
    if part not in parts:
        if part or "" not in parts and len(parts) > 1:
            raise DataError(
                f"{path} has the parts {', '.join(filter(None, parts)) or 'none'}; name one of them, as in "
                f"{path}@{next(filter(None, parts), 'train')}"
            )
        part = next(iter(parts))
    return _frames(arrays["nuclear_charges"], parts[part], path)


def _frames(numbers: NDArray[Any], values: dict[str, NDArray[np.float64]], path: Path) -> list[Atoms]:
    coords = values.get("coords", np.zeros(0))
    energies, forces = values.get("energies"), values.get("forces")
    fits = coords.shape[1:] == (len(numbers), 3) and (energies is None or energies.size == len(coords))
    if not fits or not (forces is None or forces.shape == coords.shape):
        found = {name: value.shape for name, value in values.items()}
        raise DataError(
            f"{path}: {len(numbers)} nuclear charges with arrays of shapes {found} that do not fit together"
        )
    structures = []
    for k, positions in enumerate(coords):
        atoms = Atoms(numbers=numbers.astype(int), positions=positions)
        results: dict[str, Any] = {} if energies is None else {"energy": float(energies.ravel()[k])}
        if forces is not None:
            results["forces"] = forces[k]
        atoms.calc = SinglePointCalculator(atoms, **results)
        structures.append(atoms)
    return structures
