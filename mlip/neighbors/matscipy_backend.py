"""Neighbor list through matscipy, for installations without the compiled extension."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from mlip.neighbors.reference import complete_cell, squared_distances
from mlip.neighbors.validation import ListInput


def matscipy_list(data: ListInput) -> tuple[Tensor, Tensor]:
    """Neighbor list of a batch, one structure after the other; see :func:`mlip.neighbors.neighbor_list`."""
    edges, shifts = [np.empty((2, 0), np.int64)], [np.empty((0, 3), np.int32)]
    positions = data.positions.cpu().double().numpy()
    offsets = data.offsets.tolist()
    for b, (first, last) in enumerate(itertools.pairwise(offsets)):
        if first == last:
            continue
        edge, shift = _one_structure(positions[first:last], data.cell[b].numpy(), data.pbc[b].numpy(), data.cutoff)
        edges.append(edge + first)
        shifts.append(shift)
    device = data.positions.device
    return torch.from_numpy(np.hstack(edges)).to(device), torch.from_numpy(np.vstack(shifts)).to(device)


def _one_structure(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    from matscipy.neighbours import neighbour_list

    box = complete_cell(cell, pbc)
    fractional = positions @ np.linalg.inv(box)
    wrap = np.where(pbc, np.floor(fractional), 0).astype(np.int64)
    low = np.where(pbc, 0.0, fractional.min(axis=0) - cutoff)  # open axes are of unit length
    box[~pbc] *= (np.ptp(fractional, axis=0) + 2 * cutoff)[~pbc, None]
    # matscipy finds the candidates among wrapped atoms in a box that holds all of them; our formula decides
    i, j, shift = neighbour_list(
        "ijS",
        positions=positions - wrap @ box - low @ complete_cell(cell, pbc),
        cell=box,
        pbc=pbc,
        cutoff=cutoff * (1 + 1e-9) + 1e-14 * np.abs(positions).max(),
    )
    shift = shift + wrap[i] - wrap[j]
    inside = squared_distances(positions, cell, pbc, i, j, shift) < cutoff**2
    return np.stack([i, j])[:, inside].astype(np.int64), shift[inside].astype(np.int32)
