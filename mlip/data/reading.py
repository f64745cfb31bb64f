"""Structures from files: extended xyz by our own reader, anything else by ASE's."""

from __future__ import annotations

from pathlib import Path

from ase import Atoms

from mlip.errors import DataError


def read_structures(path: str | Path) -> list[Atoms]:
    """All structures of a file.

    Raises:
        OSError: the file can't be opened.
        DataError: it is empty or not a file of structures.
    """
    from ase.io import read

    file = Path(path)
    with open(file, "rb") as stream:
        if not stream.read(1):
            raise DataError(f"{file} is empty; expected structures, for example in extended xyz")
    try:
        structures = read(file, index=":", format="extxyz" if file.suffix in (".xyz", ".extxyz") else None)
    except Exception as error:  # ASE's readers raise nearly anything on a file that is not theirs, OSError included
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{file} can't be read as structures: {type(error).__name__}: {error}") from error
    if not structures:
        raise DataError(f"{file} holds no structure")
    return list(structures)
