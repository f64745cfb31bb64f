"""Symmetry functions of HDNNP (`mlip.nn.symmetry_functions`) of all atoms, without an array of pairs of neighbors.

The plain-torch reference is `mlip.nn.symmetry_groups`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlip import _extension


class SymmetryTables(NamedTuple):
    """All functions of a model, on the CPU, wherever the atoms are; `mlip.nn.symmetry_tables` makes them."""

    numbers: Tensor  # (S,) float64, what neighbors of each element weigh in weighted functions
    windows: Tensor  # (W, 4) float64, cutoff functions
    parts: Tensor  # (P, 8) float64, functions of one distance
    angles: Tensor  # (A, 7) float64, functions of an angle
    functions: Tensor  # (F, 7) int64, of which parts each function is made
    columns: int  # K, the most functions of an element


def symmetry_functions(
    vectors: Tensor, offsets: Tensor, neighbors: Tensor, species: Tensor, tables: SymmetryTables
) -> Tensor:
    """Symmetry functions (N, K) of all atoms in float64; columns that an element does not have are zero.

    Derivatives by the vectors are right up to the second.

    Args:
        vectors: (E, 3) in Å from centers to neighbors, sorted by center.
        offsets: (N + 1,) where the edges of each center begin.
        neighbors: (E,) int64, elements of the neighbors, as indices of `tables.numbers`.
        species: (N,) int64, elements of the atoms.
        tables: the functions.

    Raises:
        NotImplementedError: a third derivative.
    """
    return torch.ops.mlip.symmetry_functions(
        vectors.to(torch.float64).contiguous(), offsets, neighbors.contiguous(), species.contiguous(), *tables
    )


def symmetry_functions_gradient(
    grad: Tensor, vectors: Tensor, offsets: Tensor, neighbors: Tensor, species: Tensor, tables: SymmetryTables
) -> Tensor:
    """Σ_ik grad_ik ∂G_ik/∂vectors (E, 3) of gradients (N, K) by the functions; arguments as there."""
    return torch.ops.mlip.symmetry_functions_backward(
        grad.contiguous(), vectors.contiguous(), offsets, neighbors.contiguous(), species.contiguous(), *tables
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.columns = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    given = ctx.saved_tensors
    return torch.ops.mlip.symmetry_functions_backward(grad.contiguous(), *given, ctx.columns), *[None] * len(given)


def _backward_backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
    """By the gradient it is the derivative along `direction`, by the vectors that of the gradient: it is symmetric."""
    grad, *given = ctx.saved_tensors
    need_gradient = ctx.needs_input_grad[1] and _leads_somewhere(ctx, 1)
    values, gradient = torch.ops.mlip.symmetry_functions_tangent(
        direction.contiguous(), grad, *given, ctx.columns, need_gradient
    )
    return values, gradient if need_gradient else None, *[None] * len(given)


def _leads_somewhere(ctx: Any, k: int) -> bool:
    """Whether a backward pass goes on from the k-th argument: in training it leaves out positions (`inputs=`)."""
    node = ctx.next_functions[k][0]
    try:
        return node is not None and torch._C._will_engine_execute_node(node)
    except RuntimeError:  # torch does not tell of leaves while it is in torch.autograd.grad
        return True


def _refuse(ctx: Any, *gradients: Tensor) -> None:
    raise NotImplementedError("symmetry functions have no third derivative; plain torch has (backend 'reference')")


if _extension.compiled:

    @torch.library.register_fake("mlip::symmetry_functions")
    def _fake(vectors: Tensor, offsets: Tensor, neighbors: Tensor, species: Tensor, *tables: Any) -> Tensor:
        return vectors.new_empty((species.shape[0], tables[-1]))

    @torch.library.register_fake("mlip::symmetry_functions_backward")
    def _fake_backward(grad: Tensor, vectors: Tensor, *others: Any) -> Tensor:
        return torch.empty_like(vectors)

    @torch.library.register_fake("mlip::symmetry_functions_tangent")
    def _fake_tangent(direction: Tensor, grad: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        return torch.empty_like(grad), direction.new_empty((direction.shape[0] if others[-1] else 0, 3))

    torch.library.register_autograd("mlip::symmetry_functions", _backward, setup_context=_setup)
    torch.library.register_autograd("mlip::symmetry_functions_backward", _backward_backward, setup_context=_setup)
    torch.library.register_autograd("mlip::symmetry_functions_tangent", _refuse)
