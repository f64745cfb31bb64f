"""Structures of a file one by one: extended xyz and ASE's trajectories without reading the others, any format at least
through one interface.
"""

from __future__ import annotations

import io
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ase import Atoms

from mlip.data.extxyz import Unusual, read_frames
from mlip.data.files import without_part
from mlip.data.n2p2 import Units, is_n2p2_data
from mlip.data.reading import read_structures
from mlip.errors import DataError

_EXTXYZ = (".xyz", ".extxyz")


class Frames:
    """The structures of one file.

    Of extended xyz only the beginnings of the structures are looked for at first, of a `.traj` its table of contents is
    read; both then give the structures that are asked for. Files of other formats are read as a whole.

    Args:
        path: the file.
        units: of length in Å and of energy in eV, of a file of n2p2.

    Raises:
        OSError: the file can't be opened.
        DataError: it is empty or not a file of structures.
    """

    def __init__(self, path: str | Path, units: Units | None = None) -> None:
        self.path = Path(path)
        with open(without_part(self.path)[0], "rb") as stream:
            if not stream.read(1):
                raise DataError(f"{self.path} is empty; expected structures, for example in extended xyz")
        self._starts: array[int] | None = None
        self._held: Any = None
        if self.path.suffix in _EXTXYZ and not is_n2p2_data(self.path):
            self._starts = _starts(self.path)
        elif self.path.suffix == ".traj":
            self._held = _trajectory(self.path)
        else:
            self._held = read_structures(self.path, units)
        if not len(self):
            raise DataError(f"{self.path} holds no structure")

    def __len__(self) -> int:
        return len(self._held) if self._starts is None else len(self._starts) - 1

    def read(self, indices: Iterable[int]) -> Iterator[Atoms]:
        """The structures with these numbers, counted from 0, in this order.

        Raises:
            DataError: one can't be read.
        """
        if self._starts is None:
            for index in indices:
                yield self._held[index]
            return
        with open(self.path, "rb") as stream:
            for index in indices:
                stream.seek(self._starts[index])
                text = stream.read(self._starts[index + 1] - self._starts[index])
                yield _structure(text, f"structure {index} of {self.path}")


def _structure(text: bytes, where: str) -> Atoms:
    from ase.io import read

    try:
        decoded = text.decode().replace("\r\n", "\n")
        try:
            (atoms,) = read_frames(decoded)
        except Unusual:
            (atoms,) = read(io.StringIO(decoded), index=":1", format="extxyz")
    except Exception as error:  # ASE's readers raise nearly anything
        raise DataError(f"{where} can't be read: {type(error).__name__}: {error}") from error
    return atoms


def _starts(path: Path) -> array[int]:
    """Where each structure of an extended xyz file begins, in bytes, and the end of the last one."""
    starts, position, line_number = array("q"), 0, 0
    with open(path, "rb") as stream:
        line = stream.readline()
        while line.strip():
            starts.append(position)
            try:
                n_atoms = int(line)
            except ValueError as error:
                shown = line.decode(errors="replace").strip()[:40]
                raise DataError(
                    f"{path} can't be read as extended xyz: line {line_number + 1} is {shown!r}, expected a number of "
                    "atoms"
                ) from error
            rest = list(map(len, islice(stream, n_atoms + 1)))
            if len(rest) < n_atoms + 1:
                raise DataError(f"{path} ends inside of structure {len(starts) - 1}, which has {n_atoms} atoms")
            position, line_number = position + len(line) + sum(rest), line_number + 1 + len(rest)
            line = stream.readline()
            while line.startswith(b"VEC"):
                position, line_number, line = position + len(line), line_number + 1, stream.readline()
        starts.append(position)
        if any(other.strip() for other in stream):
            raise DataError(
                f"{path}: line {line_number + 1} is empty, and structures come after it, which would be left out; "
                "remove the empty line"
            )
    return starts


def _trajectory(path: Path) -> Any:
    from ase.io.trajectory import Trajectory

    try:
        return Trajectory(str(path))
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{path} can't be read as a trajectory of ASE: {type(error).__name__}: {error}") from error
