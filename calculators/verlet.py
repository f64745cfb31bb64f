"""A neighbor list with a Verlet skin that stays right while atoms and cell move together."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from mlip.convert import atoms_to_graph, check_distances
from mlip.errors import InputError
from mlip.graph import AtomGraph

Array = NDArray[np.float64]


class VerletList:
    """Keeps the pairs of one structure within `cutoff` + `skin` and says when they must be searched again.

    A pair outside the list was at least cutoff + skin apart when it was built. Let F map the periodic lattice vectors
    of then to those of now, and u_i = x_i - x_i(then) F be the atoms' own motion. The pair's vector now is
    d F + u_j - u_i, so its length is at least σ_min(F) (cutoff + skin) - 2 max|u|, with σ_min the smallest singular
    value of F. As long as that is no less than the cutoff, no pair is missed, whatever the cell did. (What F does to
    directions without a lattice vector is free: the bound holds for any choice.)

    Args:
        cutoff: radius in Å.
        skin: extra radius in Å; 0 searches at every change.
    """

    def __init__(self, cutoff: float, skin: float) -> None:
        if not skin >= 0:
            raise InputError(f"skin = {skin}: expected a length in Å, zero or more")
        self.cutoff, self.skin = cutoff, float(skin)
        self.builds = 0
        self._graph: AtomGraph | None = None
        self._positions = self._cell = np.empty((0, 3))

    def graph(self, atoms: Atoms, device: str | torch.device) -> AtomGraph:
        """The structure with all pairs within the cutoff, in float64 on `device`.

        Raises:
            InputError: as `mlip.convert.atoms_to_graph`.
        """
        if self._graph is None or not self._holds(atoms, self._graph):
            self._graph = atoms_to_graph(atoms, self.cutoff + self.skin, device=device)
            self._positions, self._cell = atoms.positions.copy(), np.array(atoms.cell)
            self.builds += 1
            return self._graph.within(self.cutoff)
        moved = self._graph._replace(
            positions=torch.tensor(atoms.positions, device=device),
            cell=torch.tensor(np.array(atoms.cell), device=device).unsqueeze(0),
        ).within(self.cutoff)
        check_distances(moved)
        return moved

    def _holds(self, atoms: Atoms, graph: AtomGraph) -> bool:
        """Whether the list built for `graph` is complete for `atoms`."""
        cell = np.array(atoms.cell)
        same = (
            len(atoms) == len(self._positions)
            and np.array_equal(atoms.numbers, graph.numbers.cpu().numpy())
            and np.array_equal(atoms.pbc, graph.pbc[0].cpu().numpy())
            and np.isfinite(atoms.positions).all()
            and np.isfinite(cell).all()
        )
        if not same:
            return False
        deformation = np.eye(3) if np.array_equal(cell, self._cell) else _deformation(self._cell, cell, atoms.pbc)
        if deformation is None:
            return False
        smallest = float(np.linalg.svd(deformation, compute_uv=False)[-1])
        moved = atoms.positions - self._positions @ deformation
        furthest = float(np.sqrt((moved**2).sum(axis=1).max(initial=0.0)))
        # The margin covers rounding of coordinates far from the origin.
        margin = 1e-9 + 1e-14 * float(np.abs(self._positions).max(initial=0.0))
        return smallest * (self.cutoff + self.skin) - 2 * furthest - margin >= self.cutoff


def _deformation(before: Array, after: Array, pbc: NDArray[np.bool_]) -> Array | None:
    """F with after = before F on the periodic axes, open directions completed by orthonormal ones; None if singular."""
    old, new = before[pbc], after[pbc]
    complement = np.linalg.svd(old)[2][len(old) :] if len(old) else np.eye(3)
    old, new = np.vstack([old, complement]), np.vstack([new, complement])
    if abs(np.linalg.det(old)) < 1e-12 or abs(np.linalg.det(new)) < 1e-12:
        return None
    return np.asarray(np.linalg.solve(old, new), dtype=np.float64)
