"""Triplets of atoms as pairs of edges that share the middle atom: for messages between messages (DimeNet)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class EdgeTriplets(NamedTuple):
    """T triplets i-j-k: the first edge has center i and neighbor j, the second center j and neighbor k.

    Sorted by the first edge.
    """

    first: Tensor  # (T,) int64, edge ji
    second: Tensor  # (T,) int64, edge kj


def edge_triplets(edge_index: Tensor, edge_shift: Tensor, num_atoms: int) -> EdgeTriplets:
    """All triplets i-j-k of a (batched, periodic) graph in which k is not the same image of the same atom as i.

    Another image of i counts as an atom like any other: only the way back along the first edge is left out.

    Args:
        edge_index: (2, E) centers, ascending, and neighbors.
        edge_shift: (E, 3) cell translations.
        num_atoms: N.
    """
    center, neighbor = edge_index
    count = torch.bincount(center, minlength=num_atoms)
    begin = count.cumsum(0) - count
    number = count[neighbor]
    first = torch.repeat_interleave(number)
    place = torch.arange(len(first), device=first.device) - (number.cumsum(0) - number)[first]
    second = begin[neighbor][first] + place
    back = (neighbor[second] == center[first]) & (edge_shift[first] + edge_shift[second] == 0).all(dim=1)
    return EdgeTriplets(first[~back], second[~back])
