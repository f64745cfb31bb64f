"""What the points of a map are colored by: a number or a word for each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from mlip.data.reading import label_of
from mlip.errors import InputError

#: Labels that every structure, or every atom, has.
ALWAYS = ("file", "formula", "element")
ENERGY = "energy"


def check_label(label: str, per: str) -> None:
    """Refuse a label that points of this kind can't have.

    Raises:
        InputError: elements of whole structures.
    """
    if label == "element" and per == "structure":
        raise InputError("--color element is of atoms; take --per atom, or --color formula")


def values_of(atoms: Atoms, label: str, per: str, file: str) -> list[Any]:
    """The label of the structure, or of each of its atoms; None where there is none.

    - `file`: name of the file; `formula`: reduced formula; `element`: of atoms, their symbol
    - `energy`: energy per atom in eV, under REF_energy or energy
    - any key of the info with one number, truth or word; of atoms also any array, of vectors their length
    """
    if label == "element":
        return [chemical_symbols[z] for z in atoms.numbers]
    if per == "atom":
        array = _array(atoms, label)
        if array is not None:
            return array
    return [_of_structure(atoms, label, file)] * (len(atoms) if per == "atom" else 1)


def _of_structure(atoms: Atoms, label: str, file: str) -> Any:
    if label == "file":
        return file
    if label == "formula":
        return atoms.get_chemical_formula(empirical=True)
    value = label_of(atoms, "REF_energy" if label == ENERGY else label)
    if value is None and label == ENERGY:
        value = label_of(atoms, ENERGY)
    if value is None or np.size(value) != 1:
        return None
    plain = np.asarray(value).item()
    if label == ENERGY:
        return float(plain) / len(atoms) if isinstance(plain, int | float) else None
    return plain


def _array(atoms: Atoms, label: str) -> list[Any] | None:
    value = atoms.arrays.get(label)
    if value is None and atoms.calc is not None:
        value = getattr(atoms.calc, "results", {}).get(label)
    if not isinstance(value, np.ndarray) or value.shape not in ((len(atoms),), (len(atoms), 3)):
        return None
    return (value if value.ndim == 1 else np.linalg.norm(value, axis=1)).tolist()


def require_label(structures: Iterable[Atoms], label: str, per: str) -> None:
    """Look for the label until a structure has it, which usually is the first.

    Raises:
        InputError: none has.
    """
    if label in ALWAYS:
        return
    keys: set[str] = set()
    for atoms in structures:
        if values_of(atoms, label, per, "")[0] is not None:
            return
        results = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
        keys |= {str(key) for key, value in {**atoms.info, **results}.items() if np.size(value) == 1}
        keys |= ({*atoms.arrays} - {"numbers", "positions"}) if per == "atom" else set()
    raise InputError(
        f"--color {label}: no {per} has it; expected {', '.join(ALWAYS[: 3 if per == 'atom' else 2])} or one of "
        f"{', '.join(sorted(keys)) or 'no keys of the structures, which have none'}"
    )


def as_column(values: list[Any]) -> np.ndarray:
    """Numbers as float64 with NaN where there is none, or words with "" where there is none."""
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return np.array([np.nan if value is None else float(value) for value in values])
    return np.array(["" if value is None else str(value) for value in values])
