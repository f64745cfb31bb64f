"""ase.Atoms -> AtomGraph, with every check that a structure needs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from mlip.errors import InputError
from mlip.graph import AtomGraph
from mlip.neighbors import ListInput, list_of, shortest_pair
from mlip.neighbors.pairs import squared_distances

#: Atoms closer than this (Å) are taken for the same atom entered twice; no chemistry comes near it.
COINCIDENT = 0.05


def check_structure(atoms: Atoms) -> None:
    """Raise `InputError` for a structure no potential can evaluate.

    Raises:
        InputError: positions or cell not finite, atomic numbers outside 1..118, a periodic axis without a lattice
            vector, linearly dependent periodic lattice vectors.
    """
    positions, cell = atoms.positions, atoms.cell.array
    if not np.isfinite(positions).all():
        bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
        raise InputError(
            f"the positions of {len(bad)} of {len(atoms)} atoms are not finite (first: atom {bad[0]}, "
            f"{positions[bad[0]]}); expected finite coordinates in Å"
        )
    if not np.isfinite(cell).all():
        raise InputError(f"the cell is not finite: {cell.tolist()}")
    numbers = atoms.numbers
    if len(numbers) and not (numbers.min() >= 1 and numbers.max() <= 118):
        unknown = [int(z) for z in np.unique(numbers) if not 1 <= z <= 118]
        raise InputError(f"atomic numbers {unknown} are no elements; expected 1 to 118")
    periodic = cell[atoms.pbc]
    if len(periodic) and np.linalg.matrix_rank(periodic, tol=1e-8 * max(1.0, np.abs(periodic).max())) < len(periodic):
        raise InputError(
            f"the structure is periodic along {_axes(atoms.pbc)} but the lattice vectors {periodic.tolist()} are "
            "zero or linearly dependent; set a proper cell or pbc=False"
        )


def check_structures(structures: Sequence[Atoms], name: Callable[[int], str] = lambda index: "") -> None:
    """`check_structure` for many, at once where nothing is wrong.

    Args:
        structures: to be checked.
        name: what an error starts with, by the place of the structure.
    """
    if _are_plain(structures):
        return
    for index, atoms in enumerate(structures):
        try:
            check_structure(atoms)
        except InputError as error:
            raise InputError(f"{name(index)}{error}") from error


def _are_plain(structures: Sequence[Atoms]) -> bool:
    if not structures:
        return True
    cells = np.array([a.cell.array for a in structures])
    pbc = np.array([a.pbc for a in structures])
    numbers = np.concatenate([a.numbers for a in structures])
    return are_plain(numbers, np.concatenate([a.positions for a in structures]), cells, pbc)


def are_plain(numbers: NDArray, positions: NDArray, cells: NDArray, pbc: NDArray) -> bool:
    """Whether `check_structure` would find nothing in many structures.

    Args:
        numbers: (N,) of all their atoms.
        positions: (N, 3) likewise, Å.
        cells: (B, 3, 3) Å.
        pbc: (B, 3)
    """
    if not (np.isfinite(cells).all() and np.isfinite(positions).all()):
        return False
    if len(numbers) and not (numbers.min() >= 1 and numbers.max() <= 118):
        return False
    for axes in np.unique(pbc, axis=0):
        periodic = cells[(pbc == axes).all(axis=1)][:, axes]
        tolerance = 1e-8 * np.maximum(1.0, np.abs(periodic).max(axis=(1, 2), initial=0.0))
        if axes.any() and not (np.linalg.matrix_rank(periodic, tol=tolerance) == axes.sum()).all():
            return False
    return True


def _axes(pbc: NDArray) -> str:
    return ", ".join(name for name, on in zip("abc", pbc, strict=True) if on)


def atoms_to_graph(
    atoms: Atoms | Sequence[Atoms],
    cutoff: float,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
) -> AtomGraph:
    """Structures as one batch, with all pairs closer than `cutoff` (Å).

    Raises:
        InputError: as `check_structure`, or two atoms at one point (closer than 0.05 Å).
    """
    structures = [atoms] if isinstance(atoms, Atoms) else list(atoms)
    if not structures:
        raise InputError("no structures given; expected one ase.Atoms or a non-empty sequence of them")
    check_structures(structures)
    sizes = [len(a) for a in structures]
    positions = torch.from_numpy(np.concatenate([a.positions for a in structures]).astype(np.float64, copy=False))
    cell = torch.from_numpy(np.array([a.cell.array for a in structures], dtype=np.float64))
    pbc = torch.from_numpy(np.array([a.pbc for a in structures]))
    offsets = torch.tensor([0, *itertools.accumulate(sizes)])
    edge_index, edge_shift = list_of(ListInput(positions, cell, pbc, offsets, float(cutoff)))
    graph = AtomGraph(
        numbers=torch.from_numpy(np.concatenate([a.numbers for a in structures]).astype(np.int64)),
        positions=positions,
        cell=cell,
        pbc=pbc,
        edge_index=edge_index,
        edge_shift=edge_shift,
        batch=torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)),
        n_atoms=torch.tensor(sizes),
    )
    check_distances(graph)
    return graph.to(device, dtype)


def check_distances(graph: AtomGraph) -> None:
    """Raise `InputError` when two atoms (or an atom and its image) coincide."""
    if shortest_pair(*graph.pairs()) < COINCIDENT:
        length = squared_distances(*graph.pairs()).sqrt()
        shortest = int(length.argmin())
        first = int((graph.n_atoms.cumsum(0) - graph.n_atoms)[graph.batch[graph.edge_index[0, shortest]]])
        i, j = (graph.edge_index[:, shortest] - first).tolist()
        raise InputError(
            f"atoms {i} and {j} are {length[shortest]:.3g} Å apart; two atoms at one point have no energy. "
            "Remove the duplicate or correct the coordinates"
        )
