"""Vectors of edges from positions, cells and integer shifts; where the edges of each center begin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mlip import _extension
from mlip.ops.dispatch import raw, runs_compiled, without_derivative


def edge_vectors(positions: Tensor, cell: Tensor, edge_index: Tensor, edge_shift: Tensor, batch: Tensor) -> Tensor:
    """Vectors (E, 3) in Å from each center to its neighbor's image, r_j - r_i + S·cell; any derivative order is right.

    Args:
        positions: (N, 3) Å.
        cell: (B, 3, 3) Å, rows are lattice vectors.
        edge_index: (2, E) int64, center and neighbor.
        edge_shift: (E, 3) int32 or int64, S.
        batch: (N,) int64, structure of each atom.
    """
    if not runs_compiled(positions, cell, edge_index, cuda="edge_vectors"):
        return edge_vectors_reference(positions, cell, edge_index, edge_shift, batch)
    return torch.ops.mlip.edge_vectors(
        positions.contiguous(),
        cell.contiguous(),
        edge_index.contiguous(),
        edge_shift.contiguous(),
        batch.contiguous(),
    )


def edge_vectors_reference(
    positions: Tensor, cell: Tensor, edge_index: Tensor, edge_shift: Tensor, batch: Tensor
) -> Tensor:
    """:func:`edge_vectors` in plain torch."""
    center, neighbor = edge_index
    a, b, c = edge_shift.to(positions.dtype).unsqueeze(2).unbind(1)
    h = cell[batch[center]]
    image = (a * h[:, 0] + b * h[:, 1]) + c * h[:, 2]
    return (positions[neighbor] - positions[center]) + image


def edge_vectors_transposed(
    gradient: Tensor, edge_index: Tensor, edge_shift: Tensor, batch: Tensor, n_graphs: int
) -> tuple[Tensor, Tensor]:
    """From gradients (E, 3) by the vectors to those by positions (N, 3) and cell (B, 3, 3); without derivative."""
    edges = edge_index.contiguous(), edge_shift.contiguous(), batch.contiguous()
    if runs_compiled(gradient, edge_index) and not torch.is_grad_enabled():
        by_positions, by_cell = raw("edge_vectors_backward")(gradient.contiguous(), *edges, n_graphs)
        return by_positions, by_cell
    with torch.enable_grad():
        positions = gradient.new_zeros(len(batch), 3, requires_grad=True)
        cell = gradient.new_zeros(n_graphs, 3, 3, requires_grad=True)
        vectors = edge_vectors_reference(positions, cell, *edges)
    found = torch.autograd.grad(vectors, (positions, cell), gradient.detach())
    return found[0], found[1]


def row_offsets(center: Tensor, size: int) -> Tensor:
    """Where the edges of each center begin: those of center i are offsets[i] to offsets[i + 1]; (size + 1,) int64.

    Args:
        center: (E,) int64, ascending.
        size: Number of atoms.

    Raises:
        ValueError: Centers are not ascending or out of range. The compiled operator for CUDA, which would have to wait
            for the device, gives offsets that begin with -1 instead, with which messages are NaN.
    """
    if runs_compiled(center, cuda="row_offsets"):
        return without_derivative("row_offsets", center)(center.contiguous(), size)
    if center.numel() and (bool((center[1:] < center[:-1]).any()) or int(center[0]) < 0 or int(center[-1]) >= size):
        raise ValueError(f"row_offsets: center: expected ascending numbers from 0 to {size - 1}")
    return torch.searchsorted(center.contiguous(), torch.arange(size + 1, device=center.device))


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    _, cell, *edges = inputs
    ctx.save_for_backward(*edges)
    ctx.n_graphs = cell.shape[0]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    positions, cell = torch.ops.mlip.edge_vectors_backward(grad.contiguous(), *ctx.saved_tensors, ctx.n_graphs)
    return positions, cell, None, None, None


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[1:4])


def _backward_backward(ctx: Any, positions: Tensor, cell: Tensor) -> tuple[Tensor | None, ...]:
    """The operator is linear: the derivative of its transpose is the operator itself."""
    return edge_vectors(positions, cell, *ctx.saved_tensors), None, None, None, None


if _extension.compiled:

    @torch.library.register_fake("mlip::edge_vectors")
    def _fake(positions: Tensor, cell: Tensor, edge_index: Tensor, edge_shift: Tensor, batch: Tensor) -> Tensor:
        return positions.new_empty((edge_index.shape[1], 3))

    @torch.library.register_fake("mlip::edge_vectors_backward")
    def _fake_backward(
        grad: Tensor, edge_index: Tensor, edge_shift: Tensor, batch: Tensor, n_graphs: int
    ) -> tuple[Tensor, Tensor]:
        return grad.new_empty((batch.shape[0], 3)), grad.new_empty((n_graphs, 3, 3))

    @torch.library.register_fake("mlip::row_offsets")
    def _fake_offsets(center: Tensor, size: int) -> Tensor:
        return center.new_empty((size + 1,))

    torch.library.register_autograd("mlip::edge_vectors", _backward, setup_context=_setup)
    torch.library.register_autograd("mlip::edge_vectors_backward", _backward_backward, setup_context=_setup_backward)
