"""Structures from files: usual extended xyz, npz, n2p2's and VASP's by our own readers, anything else by ASE's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ase import Atoms

from mlip.data.extxyz import Unusual, read_frames
from mlip.data.files import without_part
from mlip.data.n2p2 import Units, is_n2p2_data, read_n2p2_data
from mlip.data.npz import read_npz
from mlip.data.vasp import is_vasp, read_vasp
from mlip.errors import DataError, MissingDependencyError

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
    file, part = without_part(path)
    with open(file, "rb") as stream:
        if not stream.read(1):
            raise DataError(f"{file} is empty; expected structures, for example in extended xyz")
    try:
        content = FileContent(read_n2p2_data(file, units)) if is_n2p2_data(file) else _read(file, part)
    except (DataError, MissingDependencyError):
        raise
    except Exception as error:  # ASE's readers raise nearly anything on a file that is not theirs, OSError included
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{file} can't be read as structures: {type(error).__name__}: {error}") from error
    if not content.structures:
        raise DataError(f"{file} holds no structure" + "".join(f"; {remark}" for remark in content.remarks))
    return content


def label_of(atoms: Atoms, key: str) -> Any:
    """What a structure carries under `key`: in its info, or where ASE's readers put energies; None if nothing."""
    if key in atoms.info:
        return atoms.info[key]
    return None if atoms.calc is None else getattr(atoms.calc, "results", {}).get(key)


def _read(file: Path, part: str) -> FileContent:
    if part and file.suffix != ".npz":
        raise DataError(f"{file}@{part}: only npz files have parts; name the file alone")
    if file.suffix == ".npz":
        molecules = read_npz(file, part)
        left_out = molecules.left_out
        remark = f"{file}: {left_out} molecules are not characterized and left out"
        return FileContent(molecules.structures, (remark,) if left_out else (), left_out)
    if is_vasp(file):
        run = read_vasp(file)
        return FileContent(run.structures, run.remarks(file))
    if file.suffix in _EXTXYZ:
        return FileContent(_read_extxyz(file))
    return FileContent(_own_or_ase(file))


def _own_or_ase(file: Path) -> list[Atoms]:
    """Files that mlip data convert writes, else those of ASE."""
    from ase.io import read

    from mlip.data import shards, storing  # they know of labels, and so of this module

    if file.suffix in shards.SUFFIXES:
        return shards.read_shard(file)
    if file.suffix == ".lmdb":
        return storing.read_lmdb(file)
    return storing.read_db(file) if file.suffix == ".db" else list(read(file, index=":"))


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
