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

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlip.data.blocks import Block
from mlip.data.labels import LabelledStructure
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
        self.n = n = len(ends)  # the others may be longer, if their writer could not finish
        self.n_atoms, self.n_bytes = (int(x[n - 1]) if n else 0 for x in (ends, info_ends))
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
        if some:
            self._write(Block.of(some))

    def add_block(self, block: Block) -> None:
        """Many structures at once, on disk when it returns."""
        self.flush()
        self._write(block)

    def _write(self, block: Block) -> None:
        arrays = {name: getattr(block, name) for name in LAYOUT}
        arrays["info"] = np.frombuffer(block.info, dtype="u1")
        arrays["info_ends"] = self.n_bytes + block.info_ends[1:]
        arrays["ends"] = self.n_atoms + block.ends[1:]
        starts = {"numbers": self.n_atoms, "positions": self.n_atoms, "forces": self.n_atoms, "info": self.n_bytes}
        for name in LAYOUT:
            if name == "ends":
                self.file.flush()
            data, start = self.file[name], starts.get(name, self.n)
            data.resize(start + len(arrays[name]), axis=0)
            data[start:] = arrays[name]
        self.file.flush()
        self.n, self.n_atoms = self.n + len(block), self.n_atoms + int(block.ends[-1])
        self.n_bytes += len(block.info)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.flush()
        finally:
            self.file.close()


class Shard(Sequence[Atoms]):
    """Structures of a file, read when they are asked for, with labels as `REF_energy` and so on.

    Each process that uses it opens the file for itself; what a writer adds later is not seen.

    Raises:
        DataError: another HDF5 file, or one of a newer version.
        MissingDependencyError: h5py is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: Any = None
        self._arrays: dict[str, Any] = {}
        self._process = 0
        self._n = len(self.arrays["ends"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_arrays": {}}

    @property
    def arrays(self) -> dict[str, Any]:
        """Those of the file, which is opened where it is not: processes that fork from this one can't share it."""
        if self._file is not None and self._process != os.getpid():
            self.close()
        if self._file is None:
            self._file, self._process = _opened(self.path), os.getpid()
            self._arrays = {name: self._file[name] for name in LAYOUT}
        return self._arrays

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        k = range(len(self))[index]
        return self.block(k, k + 1).atoms(0)

    def read(self, start: int, stop: int) -> Iterator[Atoms]:
        """Structures start to stop, with one access for each array."""
        block = self.block(start, stop)
        return (block.atoms(k) for k in range(len(block)))

    def block(self, start: int, stop: int) -> Block:
        """Structures start to stop as they are in the file.

        Raises:
            DataError: the file can't be read there.
        """
        try:
            ends, info_ends = (self._ends(name, start, stop) for name in ("ends", "info_ends"))
            atoms, span = slice(ends[0], ends[-1]), slice(start, stop)
            spans = {"numbers": atoms, "positions": atoms, "forces": atoms, "info": slice(info_ends[0], info_ends[-1])}
            arrays = {k: data[spans.get(k, span)] for k, data in self.arrays.items() if not k.endswith("ends")}
        except (OSError, KeyError, RuntimeError) as error:
            raise DataError(f"structures {start} to {stop - 1} of {self.path} can't be read: {error}") from error
        lengths = {name: slice_.stop - slice_.start for name, slice_ in spans.items()}
        if any(len(array) != lengths.get(name, stop - start) for name, array in arrays.items()):
            raise DataError(f"{self.path} is damaged: arrays end before structure {stop - 1}; write it again")
        arrays["info"] = arrays["info"].tobytes()
        return Block(**arrays, ends=ends - ends[0], info_ends=info_ends - info_ends[0])

    def _ends(self, name: str, start: int, stop: int) -> NDArray[np.int64]:
        """(stop - start + 1,) where the part of each structure begins, and where that of the last one ends."""
        found: NDArray[np.int64] = self.arrays[name][max(start - 1, 0) : stop]
        return found if start else np.concatenate([[0], found])

    def close(self) -> None:
        """It is opened again when it is needed."""
        if self._file is not None:
            self._file.close()
            self._file, self._arrays = None, {}


def _opened(path: Path) -> Any:
    """The file for reading, without a cache of chunks: blocks at random would fill it with what is not asked for."""
    h5py = _h5py()
    try:
        file = h5py.File(path, "r", rdcc_nbytes=0)
    except OSError as error:
        if "open for write" not in str(error):
            raise
        file = h5py.File(path, "r", rdcc_nbytes=0, libver="latest", swmr=True)  # its writer was killed, or still writes
    try:
        _check(file, path)
    except BaseException:
        file.close()
        raise
    return file


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
