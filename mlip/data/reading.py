"""Structures from files: usual extended xyz, npz and n2p2's data by our own readers, anything else by ASE's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ase import Atoms

from mlip.data.extxyz import Unusual, read_frames
from mlip.data.n2p2 import Units, is_n2p2_data, read_n2p2_data
from mlip.data.npz import read_npz
from mlip.errors import DataError

_EXTXYZ = (".xyz", ".extxyz")


def read_structures(path: str | Path, units: Units | None = None) -> list[Atoms]:
    """All structures of a file.

    Args:
        path: the file; n2p2's `input.data` is known by its first word.
        units: of length in Å and of energy in eV, of a file of n2p2; others have their own.

    Raises:
        OSError: the file can't be opened.
        DataError: it is empty, not a file of structures, or one that ASE would read in part.
    """
    file = Path(path)
    with open(file, "rb") as stream:
        if not stream.read(1):
            raise DataError(f"{file} is empty; expected structures, for example in extended xyz")
    try:
        structures = read_n2p2_data(file, units) if is_n2p2_data(file) else _read(file)
    except DataError:
        raise
    except Exception as error:  # ASE's readers raise nearly anything on a file that is not theirs, OSError included
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{file} can't be read as structures: {type(error).__name__}: {error}") from error
    if not structures:
        raise DataError(f"{file} holds no structure")
    return structures


def label_of(atoms: Atoms, key: str) -> Any:
    """What a structure carries under `key`: in its info, or where ASE's readers put energies; None if nothing."""
    if key in atoms.info:
        return atoms.info[key]
    return None if atoms.calc is None else getattr(atoms.calc, "results", {}).get(key)


def _read(file: Path) -> list[Atoms]:
    from ase.io import read

    if file.suffix == ".npz":
        return read_npz(file).structures
    if file.suffix not in _EXTXYZ:
        return list(read(file, index=":"))
    text = file.read_text()
    try:
        return read_frames(text)
    except Unusual:
        structures = list(read(file, index=":", format="extxyz"))
    _check_end(text, structures, file)
    return structures


def _check_end(text: str, structures: list[Atoms], file: Path) -> None:
    """ASE stops silently at an empty line where a number of atoms should be, whatever comes after it."""
    n_lines = sum(len(atoms) + 2 for atoms in structures)
    n_vectors = sum(line.lstrip().startswith("VEC") for line in text.split("\n"))
    rest = text.split("\n")[n_lines + n_vectors :]
    if any(line.strip() for line in rest):
        raise DataError(
            f"{file}: line {n_lines + n_vectors + 1} is empty, and structures come after it, which would be left out; "
            "remove the empty line"
        )
