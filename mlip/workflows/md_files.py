"""Files of a molecular-dynamics run that survive a kill at any moment and a full disk.

A run ``md.traj`` has two companions: ``md.traj.log`` (one line per frame) and ``md.traj.state`` (all that the
integrator needs to go on). After every frame the state is replaced by one atomic rename; it holds the lengths
of trajectory and log at that moment. To resume is to cut both files back to these lengths, which removes
whatever a kill left half written, and to go on from the state: no frame is lost, none appears twice.
"""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from ase import Atoms
from ase.io.extxyz import write_extxyz
from ase.io.trajectory import TrajectoryWriter
from numpy.typing import NDArray

from mlip.errors import InputError, MLIPError

_TRAJ_HEADER = 48
"""Bytes at the start of an ASE ``.traj`` file that change with every frame (ase.io.ulm: count, offset table)."""
_STATE_VERSION = 1

Mark = dict[str, Any]
"""What `AppendedFile.rewind` needs to bring a file back to an earlier moment."""


class AppendedFile:
    """A file that grows by whole records; a record that can't be written leaves no trace."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mark(self) -> Mark:
        """Return the present end of the file."""
        if not self.path.exists():
            return {"size": 0, "header": ""}
        with self.path.open("rb") as file:
            header = file.read(self._header_size())
        return {"size": self.path.stat().st_size, "header": header.hex()}

    def rewind(self, mark: Mark) -> None:
        """Cut the file back to a mark.

        Raises:
            InputError: the file is shorter than the mark, so it isn't the one that the mark was taken of.
        """
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < mark["size"]:
            raise InputError(f"{self.path} has {size} bytes but its state file expects {mark['size']}; can't resume")
        if size:
            with self.path.open("r+b") as file:
                file.truncate(mark["size"])
                file.write(bytes.fromhex(mark["header"])[: mark["size"]])

    def append(self, write: Callable[[], None]) -> None:
        """Call ``write``, which appends one record; if it fails the file stays as it was.

        Raises:
            OSError: with the reason, after the file was brought back.
        """
        before = self.mark()
        try:
            write()
        except OSError as error:
            self.rewind(before)
            # numpy reports a short write without an error number; a full disk is what causes it
            code = error.errno or errno.ENOSPC
            raise OSError(code, os.strerror(code), str(self.path)) from error

    def _header_size(self) -> int:
        return 0


class TrajectoryFile(AppendedFile):
    """Trajectory in ASE's ``.traj`` or in extended xyz, as the suffix says."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if path.suffix not in (".traj", ".xyz", ".extxyz"):
            raise InputError(f"a trajectory ends in .traj, .xyz or .extxyz; got {path.name!r}")

    def append_frame(self, frame: Atoms) -> None:
        """Append one structure with the results of its calculator."""
        self.append(lambda: self._write_traj(frame) if self.path.suffix == ".traj" else self._write_xyz(frame))

    def _header_size(self) -> int:
        return _TRAJ_HEADER if self.path.suffix == ".traj" else 0

    def _write_xyz(self, frame: Atoms) -> None:
        text = io.StringIO()
        write_extxyz(text, [frame])
        with self.path.open("ab") as file:
            file.write(text.getvalue().encode())

    def _write_traj(self, frame: Atoms) -> None:
        writer = TrajectoryWriter(str(self.path), "a")
        try:
            writer.write(frame)
            writer.close()
        except OSError:
            with suppress(OSError):  # what is still buffered must not reach the file after it is cut back
                writer.backend.fd.close()
            raise


class LogFile(AppendedFile):
    """Text table with one line per frame, columns named in a first comment line."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        super().__init__(path)
        self.columns = columns

    def append_row(self, row: tuple[float, ...]) -> None:
        """Append one line; the first one is preceded by the column names."""
        line = " ".join(f"{value:.10g}" if float(value).is_integer() else f"{value:.8f}" for value in row)
        empty = not self.path.exists() or not self.path.stat().st_size
        text = f"# {' '.join(self.columns)}\n{line}\n" if empty else f"{line}\n"

        def write() -> None:
            with self.path.open("ab") as file:
                file.write(text.encode())

        self.append(write)

    def rows(self) -> list[tuple[float, ...]]:
        """Return all lines as numbers."""
        if not self.path.exists():
            return []
        lines = self.path.read_text().splitlines()
        return [tuple(map(float, line.split())) for line in lines if not line.startswith("#")]


def save_state(path: Path, arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> None:
    """Replace the state file at one stroke.

    Args:
        path: state file.
        arrays: exact numbers (positions, momenta, ...).
        values: what JSON can hold.

    Raises:
        OSError: it can't be written; the former state is still there.
    """
    content = io.BytesIO()
    stored: dict[str, Any] = arrays | {"_values": np.array(json.dumps(values | {"version": _STATE_VERSION}))}
    np.savez(content, **stored)
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(content.getvalue())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


def load_state(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return arrays and values of a state file.

    Raises:
        MLIPError: not a state file of ours.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        values = json.loads(str(arrays.pop("_values")))
    except (ValueError, KeyError, BadZipFile, EOFError) as error:
        raise MLIPError(f"{path} is not the state of a molecular-dynamics run ({error})") from error
    if values["version"] != _STATE_VERSION:
        raise MLIPError(f"{path} was written by another version of mlip (state version {values['version']})")
    return arrays, values
