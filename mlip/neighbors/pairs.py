"""What becomes of the pairs of a list while atoms and cell move: plain torch, and compiled operators on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from mlip import _extension


def squared_distances(positions: Tensor, cell: Tensor, batch: Tensor, edge_index: Tensor, edge_shift: Tensor) -> Tensor:
    """Squared lengths (E,) of pairs in Å², in the order of operations that decides what is in a neighbor list.

    Args:
        positions: (N, 3) in Å.
        cell: (B, 3, 3) in Å.
        batch: (N,) the structure of each atom.
        edge_index: (2, E) centers and neighbors.
        edge_shift: (E, 3) cell translations.
    """
    center, neighbor = edge_index
    a, b, c = (cell[batch[center]] if len(cell) > 1 else cell).unbind(dim=1)
    shift = edge_shift.to(positions.dtype)
    image = (shift[:, 0:1] * a + shift[:, 1:2] * b) + shift[:, 2:3] * c
    x, y, z = ((positions[neighbor] - positions[center]) + image).unbind(dim=1)
    return (x * x + y * y) + z * z


def pairs_within(
    positions: Tensor, cell: Tensor, batch: Tensor, edge_index: Tensor, edge_shift: Tensor, cutoff: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs that are closer than a cutoff, and the distance of the closest (infinite where there is none).

    With the positions and cell of now and a list made earlier with a larger cutoff, this is the list of now, as long
    as nothing moved too far (`mlip.calculators.verlet`). Arguments as in `squared_distances`; the cutoff in Å.

    Returns:
        ``edge_index`` (2, E'), ``edge_shift`` (E', 3), and the shortest distance () in Å.
    """
    arrays = positions.detach(), cell.detach(), batch, edge_index, edge_shift
    if _compiled_for(arrays):
        return torch.ops.mlip.pairs_within(*arrays, cutoff)
    squared = squared_distances(*arrays)
    inside = squared < cutoff**2
    return edge_index[:, inside], edge_shift[inside], _root_of_smallest(squared)


def shortest_pair(positions: Tensor, cell: Tensor, batch: Tensor, edge_index: Tensor, edge_shift: Tensor) -> Tensor:
    """Distance () in Å of the closest pair, infinite where there is none; arguments as in `squared_distances`."""
    arrays = positions.detach(), cell.detach(), batch, edge_index, edge_shift
    if _compiled_for(arrays):
        return torch.ops.mlip.shortest_pair(*arrays)
    return _root_of_smallest(squared_distances(*arrays))


def furthest_move(positions: Tensor, reference: Tensor, deformation: Tensor) -> Tensor:
    """How far in Å the atom went that went furthest: max_i |x_i - y_i F|; not a number if a coordinate is none.

    Args:
        positions: x (N, 3) in Å.
        reference: y (N, 3) in Å, of earlier.
        deformation: F (3, 3).
    """
    arrays = positions, reference, deformation
    if _extension.compiled and all(_plain(a, torch.float64) for a in arrays):
        return torch.ops.mlip.furthest_move(*arrays)
    squared = (positions - reference @ deformation).square().sum(dim=1)
    return squared.max().sqrt() if len(squared) else squared.sum()


def _root_of_smallest(squared: Tensor) -> Tensor:
    return squared.min().sqrt().double() if len(squared) else squared.new_tensor(torch.inf, dtype=torch.float64)


def _compiled_for(arrays: tuple[Tensor, ...]) -> bool:
    types = (torch.float64, torch.float64, torch.int64, torch.int64, torch.int32)
    return _extension.compiled and all(map(_plain, arrays, types))


def _plain(tensor: Tensor, dtype: torch.dtype) -> bool:
    return tensor.dtype == dtype and tensor.device.type == "cpu" and tensor.is_contiguous()


if _extension.compiled:

    @torch.library.register_fake("mlip::pairs_within")
    def _fake_pairs_within(
        positions: Tensor, cell: Tensor, batch: Tensor, edge_index: Tensor, edge_shift: Tensor, cutoff: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        kept = torch.library.get_ctx().new_dynamic_size()
        return edge_index.new_empty((2, kept)), edge_shift.new_empty((kept, 3)), positions.new_empty(())

    @torch.library.register_fake("mlip::shortest_pair")
    def _fake_shortest_pair(
        positions: Tensor, cell: Tensor, batch: Tensor, edge_index: Tensor, edge_shift: Tensor
    ) -> Tensor:
        return positions.new_empty(())

    @torch.library.register_fake("mlip::furthest_move")
    def _fake_furthest_move(positions: Tensor, reference: Tensor, deformation: Tensor) -> Tensor:
        return positions.new_empty(())
