"""A neighbor list with a Verlet skin that stays right while atoms and cell move together."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from mlip.convert import COINCIDENT, atoms_to_graph, check_distances
from mlip.errors import InputError
from mlip.graph import AtomGraph
from mlip.neighbors import furthest_move, pairs_within

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
        self._atoms = Atoms()
        self._largest = 0.0  # coordinate when the list was built

    def graph(self, atoms: Atoms, device: str | torch.device) -> AtomGraph:
        """The structure with all pairs within the cutoff, in float64 on `device`.

        Raises:
            InputError: as `mlip.convert.atoms_to_graph`.
        """
        if self._graph is None or not self._holds(atoms):
            self._graph = atoms_to_graph(atoms, self.cutoff + self.skin, device=device)
            self._atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
            self._largest = float(np.abs(atoms.positions).max(initial=0.0))
            self.builds += 1
            return self._graph.within(self.cutoff) if self.skin else self._graph
        moved = self._graph._replace(
            positions=torch.tensor(atoms.positions, device=device),
            cell=torch.tensor(atoms.cell.array, device=device).unsqueeze(0),
        )
        *pairs, shortest = pairs_within(*moved.pairs(), self.cutoff)
        if shortest < COINCIDENT:
            check_distances(moved)
        return moved._replace(edge_index=pairs[0], edge_shift=pairs[1])

    def _holds(self, atoms: Atoms) -> bool:
        """Whether the list is complete for `atoms`."""
        before, cell = self._atoms, atoms.cell.array
        same = (
            len(atoms) == len(before)
            and (atoms.numbers == before.numbers).all()
            and (atoms.pbc == before.pbc).all()
            and np.isfinite(cell).all()
        )
        if not same:
            return False
        smallest, deformation = 1.0, np.eye(3)
        if (cell != before.cell.array).any():
            found = _deformation(before.cell.array, cell, atoms.pbc)
            if found is None:
                return False
            deformation, smallest = found, float(np.linalg.svd(found, compute_uv=False)[-1])
        furthest = float(
            furthest_move(
                *(torch.from_numpy(np.ascontiguousarray(a)) for a in (atoms.positions, before.positions, deformation))
            )
        )
        # The margin covers rounding of coordinates far from the origin.
        margin = 1e-9 + 1e-14 * self._largest
        return smallest * (self.cutoff + self.skin) - 2 * furthest - margin >= self.cutoff  # False if not a number


def _deformation(before: Array, after: Array, pbc: NDArray[np.bool_]) -> Array | None:
    """F with after = before F on the periodic axes, open directions completed by orthonormal ones; None if singular."""
    old, new = before[pbc], after[pbc]
    complement = np.linalg.svd(old)[2][len(old) :] if len(old) else np.eye(3)
    old, new = np.vstack([old, complement]), np.vstack([new, complement])
    if abs(np.linalg.det(old)) < 1e-12 or abs(np.linalg.det(new)) < 1e-12:
        return None
    return np.asarray(np.linalg.solve(old, new), dtype=np.float64)
