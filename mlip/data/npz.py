"""Molecules with their properties in one npz file of flat arrays, as data sets such as QM9 are kept."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlip.data.npz_frames import is_frames, read_frames
from mlip.errors import DataError

NEEDED = ("n_atoms", "Z", "R")


class Molecules(NamedTuple):
    """Molecules, and how many were left out since they are marked as not characterized."""

    structures: list[Atoms]
    left_out: int


def read_npz(path: Path, part: str = "") -> Molecules:
    """Frames of rMD17 (`mlip.data.npz_frames`), or molecules of a file of these arrays, B with N atoms in all:

        n_atoms (B,), Z (N,) atomic numbers, R (N, 3) Å
        properties (B, P) with property_names (P,)
        characterized (B,): molecules where it is false are left out (in QM9: the geometry is not a minimum, or fell
            apart)
        any other array with B rows of numbers, truths or words

    Properties and other arrays become info of the structures, by their names.

    Raises:
        DataError: it is not such a file.
    """
    arrays = _arrays(path)
    if is_frames(arrays):
        return Molecules(read_frames(arrays, path, part), 0)
    if part:
        raise DataError(f"{path} has no parts; leave out @{part}")
    sizes = arrays["n_atoms"].astype(np.int64)
    ends = np.cumsum(sizes)
    n, n_atoms = len(sizes), int(ends[-1]) if len(sizes) else 0
    if (sizes < 1).any() or arrays["Z"].shape != (n_atoms,) or arrays["R"].shape != (n_atoms, 3):
        raise DataError(
            f"{path}: n_atoms counts {n_atoms} atoms in {n} molecules, Z has shape {arrays['Z'].shape} and R "
            f"{arrays['R'].shape}; expected {(n_atoms,)} and {(n_atoms, 3)}"
        )
    columns = _columns(arrays, n, path)
    kept = np.asarray(columns.pop("characterized", np.ones(n, dtype=bool)), dtype=bool)
    entries_of = {
        name: column.tolist() if column.ndim == 1 else list(column.copy()) for name, column in columns.items()
    }
    numbers, positions = arrays["Z"].astype(np.int64), arrays["R"].astype(np.float64)
    structures = [
        Atoms(
            numbers=numbers[end - size : end],
            positions=positions[end - size : end],
            info={name: entries[k] for name, entries in entries_of.items()},
        )
        for k, (size, end) in enumerate(zip(sizes.tolist(), ends.tolist(), strict=True))
        if kept[k]
    ]
    return Molecules(structures, int((~kept).sum()))


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{path} is not an npz file of arrays ({error}); Python objects are never read") from error
    missing = [name for name in NEEDED if name not in arrays]
    if missing and not is_frames(arrays):
        hint = ""
        if {"E", "F", "R", "z"} <= set(arrays):
            hint = ". Arrays E, F, R, z do not tell their units (MD17's are kcal/mol); rename them to rMD17's, "
            hint += "nuclear_charges, coords_A, energies_kcalmol or energies_eV, forces_kcalmolA or forces_eVA"
        raise DataError(
            f"{path} has no array {', '.join(missing)}; expected n_atoms (B,), Z (N,), R (N, 3) and arrays with B "
            f"rows, or those of rMD17 (nuclear_charges, coords, energies, forces); there are "
            f"{', '.join(list(arrays)[:12]) or 'none'}{hint}"
        )
    return arrays


def _columns(arrays: Mapping[str, NDArray[Any]], n: int, path: Path) -> dict[str, NDArray[Any]]:
    """What every molecule has, by name."""
    columns = {name: a for name, a in arrays.items() if name not in NEEDED and a.ndim and len(a) == n}
    if "property_names" not in arrays:
        return columns
    names = [str(name) for name in arrays["property_names"]]
    table = columns.pop("properties", None)
    columns.pop("property_names", None)  # as many as molecules
    if table is None or table.ndim != 2 or table.shape[1] != len(names) or len(set(names)) != len(names):
        raise DataError(f"{path}: expected properties with {n} rows and a column for each of property_names {names}")
    return columns | {name: table[:, k] for k, name in enumerate(names)}
