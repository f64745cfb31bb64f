"""Structures from files: usual extended xyz, npz, n2p2's and VASP's by our own readers, anything else by ASE's."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ase import Atoms

from mlip.data.extxyz import Unusual, read_frames
from mlip.data.n2p2 import Units, is_n2p2_data, read_n2p2_data
from mlip.data.npz import read_npz
from mlip.data.vasp import is_vasp, read_vasp
from mlip.errors import DataError

_EXTXYZ = (".xyz", ".extxyz")


class FileContent(NamedTuple):
    """Structures of a file, and what to know about how they were read."""

    structures: list[Atoms]
    remarks: tuple[str, ...] = ()
    left_out: int = 0  # molecules that are not characterized


def read_structures(path: str | Path, units: Units | None = None) -> list[Atoms]:
    """All structures of a file; arguments and errors as in `read_file`."""
    return read_file(path, units).structures


def read_file(path: str | Path, units: Units | None = None) -> FileContent:
    """All structures of a file, with remarks on what was left out.

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
        content = FileContent(read_n2p2_data(file, units)) if is_n2p2_data(file) else _read(file)
    except DataError:
        raise
    except Exception as error:  # ASE's readers raise nearly anything on a file that is not theirs, OSError included
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{file} can't be read as structures: {type(error).__name__}: {error}") from error
    if not content.structures:
        raise DataError(f"{file} holds no structure" + "".join(f"; {remark}" for remark in content.remarks))
    return content


def _read(file: Path) -> FileContent:
    if file.suffix == ".npz":
        molecules = read_npz(file)
        left_out = molecules.left_out
        remark = f"{file}: {left_out} molecules are not characterized and left out"
        return FileContent(molecules.structures, (remark,) if left_out else (), left_out)
    if is_vasp(file):
        run = read_vasp(file)
        return FileContent(run.structures, run.remarks(file))
    if file.suffix in _EXTXYZ:
        return FileContent(_read_extxyz(file))
    from ase.io import read

    return FileContent(list(read(file, index=":")))


def _read_extxyz(file: Path) -> list[Atoms]:
    from ase.io import read

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
