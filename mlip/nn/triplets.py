"""Pairs of neighbors of one center."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Triplets(NamedTuple):
    """Two edges of the same center each, `first` before `second`: every pair of neighbors once."""

    first: Tensor  # (T,) edge indices
    second: Tensor  # (T,)


def pairs_of_neighbors(center: Tensor, n_atoms: int) -> Triplets:
    """All pairs of edges that share a center.

    Args:
        center: (E,) the centers, ascending.
        n_atoms: number of centers.
    """
    end = torch.bincount(center, minlength=n_atoms).cumsum(0)[center]  # of each edge's center
    edge = torch.arange(len(center), device=center.device)
    after = end - edge - 1
    first = torch.repeat_interleave(edge, after)
    begin = after.cumsum(0) - after
    second = torch.arange(len(first), device=center.device) - begin[first] + first + 1
    return Triplets(first, second)
