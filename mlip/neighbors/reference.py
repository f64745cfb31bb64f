"""The definition of the neighbor list, as slow and plain as it can be written: every pair, every image."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from mlip.neighbors.validation import ListInput

IMAGES_AT_ONCE = 4_000_000  # pairs of atoms times images held in memory at once


def reference_list(data: ListInput) -> tuple[Tensor, Tensor]:
    """Neighbor list of a batch by brute force; see :func:`mlip.neighbors.neighbor_list`."""
    edges, shifts = [np.empty((2, 0), np.int64)], [np.empty((0, 3), np.int32)]
    positions = data.positions.cpu().double().numpy()
    offsets = data.offsets.tolist()
    for b, (first, last) in enumerate(itertools.pairwise(offsets)):
        edge, shift = brute_force(positions[first:last], data.cell[b].numpy(), data.pbc[b].numpy(), data.cutoff)
        edges.append(edge + first)
        shifts.append(shift)
    device = data.positions.device
    return torch.from_numpy(np.hstack(edges)).to(device), torch.from_numpy(np.vstack(shifts)).to(device)


def complete_cell(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """The cell (3,3) with its open axes replaced by unit vectors orthogonal to everything else."""
    complete = np.where(pbc[:, None], cell, 0.0)
    for axis in np.flatnonzero(~pbc):
        spanned = [row / np.linalg.norm(row) for row in complete if row.any()]
        # the right singular vector of the smallest singular value is orthogonal to all rows
        complete[axis] = np.linalg.svd(np.array(spanned).reshape(-1, 3))[2][-1]
    return complete


def squared_distances(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, i: np.ndarray, j: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """``|r_j - r_i + S·cell|²`` in the order of operations that decides membership in every backend.

    Under (i, j, S) -> (j, i, -S) every intermediate result changes its sign exactly, so the list is symmetric.
    """
    a, b, c = np.where(pbc[:, None], cell, 0.0)
    image = (shift[..., 0:1] * a + shift[..., 1:2] * b) + shift[..., 2:3] * c
    x, y, z = np.moveaxis((positions[j] - positions[i]) + image, -1, 0)
    return (x * x + y * y) + z * z


def brute_force(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> tuple[np.ndarray, ...]:
    """Neighbor list of one structure: positions (n,3), cell (3,3), pbc (3,) -> edge_index (2,E), edge_shift (E,3)."""
    n = len(positions)
    inverse = np.linalg.inv(complete_cell(cell, pbc))
    wrap = np.where(pbc, np.floor(positions @ inverse), 0).astype(np.int64)
    reach = np.where(pbc, np.ceil(cutoff * np.linalg.norm(inverse, axis=0) + 1e-6), 0).astype(int)
    images = np.stack(np.meshgrid(*(np.arange(-k, k + 1) for k in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    center, neighbor = (index.ravel() for index in np.indices((n, n)))
    found = []
    step = max(1, IMAGES_AT_ONCE // max(1, n * n))
    for start in range(0, len(images), step):
        shift = images[start : start + step, None, :] + (wrap[center] - wrap[neighbor])[None]
        distance = squared_distances(positions, cell, pbc, center, neighbor, shift)
        inside = (distance < cutoff**2) & ((center != neighbor) | shift.any(axis=-1))
        image, pair = np.nonzero(inside)
        found.append(np.column_stack([center[pair], neighbor[pair], shift[image, pair]]))
    rows = np.vstack(found)
    rows = rows[np.lexsort(rows.T[::-1])]
    return rows[:, :2].T, rows[:, 2:].astype(np.int32)
