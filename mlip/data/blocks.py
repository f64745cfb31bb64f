"""Consecutive structures as HDF5 files hold them: arrays of all atoms, one structure after the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlip.data.labels import LabelledStructure
from mlip.data.records import info_of, to_atoms


@dataclass(frozen=True)
class Block:
    """B structures with N atoms in all; a missing label is NaN."""

    numbers: NDArray[np.uint8]  # (N,)
    positions: NDArray[np.float64]  # (N, 3) Å
    forces: NDArray[np.float64]  # (N, 3) eV/Å
    cells: NDArray[np.float64]  # (B, 3, 3) Å
    pbc: NDArray[np.bool_]  # (B, 3)
    energies: NDArray[np.float64]  # (B,) eV
    stresses: NDArray[np.float64]  # (B, 3, 3) eV/Å³
    info: bytes  # JSON of what else is in `info`
    ends: NDArray[np.int64]  # (B + 1,) the first atom of each structure, and N
    info_ends: NDArray[np.int64]  # (B + 1,) likewise of `info`

    @classmethod
    def of(cls, structures: Sequence[LabelledStructure]) -> Block:
        """Structures in memory as a block."""
        texts = [json.dumps(info_of(s)).encode() for s in structures]
        none = np.full((3, 3), np.nan)
        return cls(
            numbers=np.concatenate([s.atoms.numbers for s in structures]).astype(np.uint8),
            positions=np.concatenate([s.atoms.positions for s in structures]),
            forces=np.concatenate(
                [np.full((len(s.atoms), 3), np.nan) if s.forces is None else s.forces for s in structures]
            ),
            cells=np.array([s.atoms.cell.array for s in structures]),
            pbc=np.array([s.atoms.pbc for s in structures]),
            energies=np.array([np.nan if s.energy is None else s.energy for s in structures]),
            stresses=np.array([none if s.stress is None else s.stress for s in structures]),
            info=b"".join(texts),
            ends=np.cumsum([0, *(len(s.atoms) for s in structures)]),
            info_ends=np.cumsum([0, *map(len, texts)]),
        )

    def __len__(self) -> int:
        return len(self.energies)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(B,) numbers of atoms."""
        return np.diff(self.ends)

    def info_of(self, k: int) -> dict[str, Any]:
        """What else is in the `info` of structure `k`."""
        found: dict[str, Any] = json.loads(self.info[self.info_ends[k] : self.info_ends[k + 1]])
        return found

    def atoms(self, k: int) -> Atoms:
        """A copy of structure `k`, with its labels as `REF_energy` and so on."""
        own = slice(self.ends[k], self.ends[k + 1])
        return to_atoms(
            self.numbers[own],
            self.positions[own],
            self.cells[k],
            self.pbc[k],
            float(self.energies[k]),
            self.forces[own],
            self.stresses[k],
            self.info_of(k),
        )
