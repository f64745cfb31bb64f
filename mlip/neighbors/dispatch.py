"""The neighbor list of the package: one entry, three backends."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from mlip import _extension
from mlip.neighbors.compiled import compiled_list
from mlip.neighbors.matscipy_backend import matscipy_list
from mlip.neighbors.reference import reference_list
from mlip.neighbors.validation import ListInput, check_input, check_values

Backend = Literal["compiled", "matscipy", "reference"]
BACKENDS = {"compiled": compiled_list, "matscipy": matscipy_list, "reference": reference_list}


def neighbor_list(
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    cutoff: float,
    batch: Tensor | None = None,
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor]:
    """All pairs of atoms closer than a cutoff, periodic images included.

    The triple (i, j, S) is in the list if and only if ``i != j or S != 0`` and
    ``|r_j - r_i + S·cell|² < cutoff²``, evaluated in float64 with the positions as given. The list holds both
    directions of each pair and is exactly symmetric: with (i, j, S) it has (j, i, -S). S is zero along open axes.

    Args:
        positions: (N, 3) in Å, float32 or float64; atoms may lie outside the cell.
        cell: (3, 3) or (B, 3, 3) in Å, rows are lattice vectors; of any shape and handedness. Rows of open axes
            are ignored and may be zero.
        pbc: (3,) or (B, 3), True along periodic axes.
        cutoff: in Å; may exceed the size of the cell.
        batch: (N,) the structure of each atom, ascending from 0; needed when B > 1.
        backend: ``"compiled"``, ``"matscipy"`` or ``"reference"``; by default the fastest there is.

    Returns:
        ``edge_index`` (2, E) int64: centers i, ascending, and neighbors j; ``edge_shift`` (E, 3) int32: S.
        The order within a center is the same for every number of threads.

    Raises:
        InputError: wrong shapes or types, positions not finite, a cutoff not positive, linearly dependent periodic
            lattice vectors, an unsorted batch, or more pairs than memory can hold.
    """
    return list_of(check_input(positions, cell, pbc, cutoff, batch), backend)


def list_of(data: ListInput, backend: Backend | None = None) -> tuple[Tensor, Tensor]:
    """As :func:`neighbor_list`, of input whose shapes and types are right."""
    backend = backend or ("compiled" if _extension.compiled else "matscipy")
    if backend != "compiled":
        check_values(data)
    return BACKENDS[backend](data)
