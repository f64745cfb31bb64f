"""Equal distances, whose radial functions are computed once: both directions of a pair of atoms have the same."""

from __future__ import annotations

import torch
from torch import Tensor

from mlip import _extension
from mlip.ops.dispatch import register_no_derivative, runs_compiled, without_derivative


def distinct(distance: Tensor, transformed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Where each distance occurs first, and which one each is: distance[first][place] is `distance`, to the bit.

    Args:
        distance: (E,), real.
        transformed: (E,), of models that transform distances: what is equal has both equal.

    Returns:
        first (U,) int64, ascending in the compiled operator; place (E,) int64.
    """
    if not runs_compiled(distance, *([] if transformed is None else [transformed])):
        return distinct_reference(distance, transformed)
    r = distance.detach().double().contiguous()
    t = r.new_empty(0) if transformed is None else transformed.detach().double().contiguous()
    first, place = without_derivative("distinct", r)(r, t)
    return first, place


def distinct_reference(distance: Tensor, transformed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """:func:`distinct` in plain torch."""
    keys = [distance] if transformed is None else [distance, transformed]
    bits = torch.stack([key.detach().double().view(torch.int64) for key in keys], dim=1)
    _, place = bits.unique(dim=0, return_inverse=True)
    count = int(place.max()) + 1 if len(place) else 0
    return _first_of(count, place), place


def undirected(edge_index: Tensor, edge_shift: Tensor, num_atoms: int) -> tuple[Tensor, Tensor] | None:
    """Edges without their direction: pairs of atoms, whose distance is one function of positions and cell.

    Args:
        edge_index: (2, E), center and neighbor.
        edge_shift: (E, 3) cells from the center to the neighbor's image, integers.
        num_atoms: N.

    Returns:
        `first` (U,), an edge of each pair, and `place` (E,), the pair of each edge; both int64. None where the numbers
        of pairs do not fit 64 bits.
    """
    center, neighbor = edge_index
    shift = edge_shift.long()
    base = 2 * int(shift.abs().max()) + 1 if len(shift) else 1
    if (count := base**3) * num_atoms**2 >= 2**62:
        return None
    image = (shift[:, 0] * base + shift[:, 1]) * base + shift[:, 2]  # of the reverse edge: its negative
    direction = (neighbor - center).sign()
    direction = torch.where(direction == 0, image.sign(), direction)
    low, high = torch.minimum(center, neighbor), torch.maximum(center, neighbor)
    codes = (low * num_atoms + high) * count + direction * image + count // 2
    pairs, place = codes.unique(return_inverse=True)
    return _first_of(len(pairs), place), place


def _first_of(count: int, place: Tensor) -> Tensor:
    every = torch.arange(len(place), device=place.device)
    return torch.full((count,), len(place), device=place.device).scatter_reduce(0, place, every, "amin")


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """x[rows] for x (U, n) and rows (E,) int64; for inference, not differentiable."""
    if not runs_compiled(x, rows) or not x.is_floating_point():
        return x[rows]
    return without_derivative("take_rows", x)(x.contiguous(), rows.contiguous())


if _extension.compiled:

    @torch.library.register_fake("mlip::distinct")
    def _fake(distance: Tensor, transformed: Tensor) -> tuple[Tensor, Tensor]:
        count = torch.library.get_ctx().new_dynamic_size()
        return distance.new_empty((count,), dtype=torch.int64), torch.empty_like(distance, dtype=torch.int64)

    @torch.library.register_fake("mlip::take_rows")
    def _fake_rows(x: Tensor, rows: Tensor) -> Tensor:
        return x.new_empty((rows.shape[0], x.shape[1]))

    register_no_derivative("take_rows", "the compiled take_rows is for inference and has no derivative; use x[rows]")
