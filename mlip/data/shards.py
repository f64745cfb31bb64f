"""Structures with labels in one HDF5 file: concatenated arrays with offsets, read at random by index, appended to.

    numbers (N,)  positions (N, 3) Å  forces (N, 3) eV/Å        atoms of all structures, one after the other
    cells (B, 3, 3) Å  pbc (B, 3)  energies (B,) eV  stresses (B, 3, 3) eV/Å³
    info (M,) bytes, info_ends (B,): JSON of what else is in `info`
    ends (B,): where the atoms of each structure end

Missing labels are NaN. `ends` grows last, so that its length is the number of structures whatever the other arrays
hold, and the file is written as HDF5's single writer, multiple readers: a killed writer leaves all structures up to its
last flush.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlip.data.labels import LabelledStructure
from mlip.data.records import info_of, to_atoms
from mlip.errors import DataError, InputError, MissingDependencyError

FORMAT, VERSION = "mlip structures", 1
SUFFIXES = (".h5", ".hdf5")
#: Structures between two flushes, and rows of a chunk.
FLUSH, CHUNK = 1000, 4096
#: Arrays: what follows the first axis, type. `ends` last.
LAYOUT: dict[str, tuple[tuple[int, ...], str]] = {
    "numbers": ((), "u1"),
    "positions": ((3,), "f8"),
    "forces": ((3,), "f8"),
    "cells": ((3, 3), "f8"),
    "pbc": ((3,), "?"),
    "energies": ((), "f8"),
    "stresses": ((3, 3), "f8"),
    "info": ((), "u1"),
    "info_ends": ((), "i8"),
    "ends": ((), "i8"),
}


def _h5py() -> Any:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise MissingDependencyError("HDF5 files need h5py: pip install 'mlip-torch[train]'") from error
    return h5py


class ShardWriter:
    """Writes structures; `append` goes on with a file that was closed."""

    def __init__(self, path: str | Path, append: bool = False) -> None:
        h5py = _h5py()
        self.path, going_on = Path(path), append and Path(path).exists()
        try:
            self.file = h5py.File(path, "r+" if going_on else "w", libver="latest")
        except OSError as error:
            if not going_on:
                raise
            why = "its writer was killed, or still writes" if "open for write" in str(error) else str(error)
            raise InputError(f"{path} can't be appended to: {why}. mlip data convert copies what it holds") from error
        if going_on:
            _check(self.file, self.path)
        else:
            self.file.attrs["format"], self.file.attrs["version"] = FORMAT, VERSION
            for name, (shape, kind) in LAYOUT.items():
                self.file.create_dataset(name, (0, *shape), kind, maxshape=(None, *shape), chunks=(CHUNK, *shape))
        ends, info_ends = self.file["ends"], self.file["info_ends"]
        self.n_atoms, self.n_bytes = (int(x[-1]) if len(ends) else 0 for x in (ends, info_ends))
        self.n = len(ends)
        self.waiting: list[LabelledStructure] = []
        self.file.swmr_mode = True

    def add(self, structure: LabelledStructure) -> None:
        """One structure, on disk after the next flush."""
        self.waiting.append(structure)
        if len(self.waiting) >= FLUSH:
            self.flush()

    def flush(self) -> None:
        """All structures so far are in the file after it."""
        some, self.waiting = self.waiting, []
        if not some:
            return
        texts = [json.dumps(info_of(s)).encode() for s in some]
        none, nothing = np.full((3, 3), np.nan), np.nan
        arrays: dict[str, Any] = {
            "numbers": np.concatenate([s.atoms.numbers for s in some]),
            "positions": np.concatenate([s.atoms.positions for s in some]),
            "forces": np.concatenate([_or_nan(s.forces, len(s.atoms)) for s in some]),
            "cells": np.array([s.atoms.cell.array for s in some]),
            "pbc": np.array([s.atoms.pbc for s in some]),
            "energies": np.array([nothing if s.energy is None else s.energy for s in some]),
            "stresses": np.array([none if s.stress is None else s.stress for s in some]),
            "info": np.frombuffer(b"".join(texts), dtype="u1"),
            "info_ends": self.n_bytes + np.cumsum([len(t) for t in texts]),
            "ends": self.n_atoms + np.cumsum([len(s.atoms) for s in some]),
        }
        starts = {"numbers": self.n_atoms, "positions": self.n_atoms, "forces": self.n_atoms, "info": self.n_bytes}
        for name in LAYOUT:
            if name == "ends":
                self.file.flush()
            data, start = self.file[name], starts.get(name, self.n)
            data.resize(start + len(arrays[name]), axis=0)
            data[start:] = arrays[name]
        self.file.flush()
        self.n, self.n_atoms = self.n + len(some), int(arrays["ends"][-1])
        self.n_bytes = int(arrays["info_ends"][-1])

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.flush()
        finally:
            self.file.close()


def _or_nan(forces: NDArray[np.float64] | None, n: int) -> NDArray[np.float64]:
    return np.full((n, 3), np.nan) if forces is None else forces


class Shard(Sequence[Atoms]):
    """Structures of a file, read when they are asked for, with labels as `REF_energy` and so on.

    Raises:
        DataError: another HDF5 file, or one of a newer version.
        MissingDependencyError: h5py is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        h5py = _h5py()
        try:
            self.file = h5py.File(path, "r")
        except OSError as error:
            if "open for write" not in str(error):
                raise
            self.file = h5py.File(path, "r", libver="latest", swmr=True)  # its writer was killed, or still writes
        _check(self.file, Path(path))
        self.ends, self.info_ends = self.file["ends"][:], self.file["info_ends"][:]

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        k = range(len(self))[index]
        return next(self.read(k, k + 1))

    def read(self, start: int, stop: int) -> Iterator[Atoms]:
        """Structures start to stop, with one access for each array."""
        first = int(self.ends[start - 1]) if start else 0
        first_byte = int(self.info_ends[start - 1]) if start else 0
        atoms = slice(first, int(self.ends[stop - 1]))
        spans = {"numbers": atoms, "positions": atoms, "forces": atoms}
        spans["info"] = slice(first_byte, int(self.info_ends[stop - 1]))
        a = {name: self.file[name][spans.get(name, slice(start, stop))] for name in LAYOUT}
        text = a["info"].tobytes()
        for k in range(stop - start):
            i, b = int(self.ends[start + k - 1]) if start + k else 0, int(self.ends[start + k])
            j, c = int(self.info_ends[start + k - 1]) if start + k else 0, int(self.info_ends[start + k])
            yield to_atoms(
                a["numbers"][i - first : b - first],
                a["positions"][i - first : b - first],
                a["cells"][k],
                a["pbc"][k],
                float(a["energies"][k]),
                a["forces"][i - first : b - first],
                a["stresses"][k],
                json.loads(text[j - first_byte : c - first_byte]),
            )

    def close(self) -> None:
        self.file.close()


def read_shard(path: Path) -> list[Atoms]:
    """All structures of a file."""
    shard = Shard(path)
    try:
        n = len(shard)
        return [atoms for start in range(0, n, FLUSH) for atoms in shard.read(start, min(n, start + FLUSH))]
    finally:
        shard.close()


def _check(file: Any, path: Path) -> None:
    if file.attrs.get("format") != FORMAT:
        raise DataError(
            f"{path} is an HDF5 file that mlip data convert did not write; it holds {', '.join(file) or 'nothing'}"
        )
    if int(file.attrs["version"]) > VERSION:
        raise DataError(f"{path} has version {file.attrs['version']}, this mlip reads up to {VERSION}; update mlip")


def write_shard(path: Path, structures: Iterable[LabelledStructure], append: bool = False) -> None:
    """All structures into one file."""
    with ShardWriter(path, append) as writer:
        for structure in structures:
            writer.add(structure)
