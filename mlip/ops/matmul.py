"""Products of rows of channels with matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mlip import _extension
from mlip.ops.dispatch import raw, runs_compiled
from mlip.ops.multilinear import marked, register_multilinear, still_needed


def matmul(x: Tensor, matrix: Tensor) -> Tensor:
    """x @ matrix for features x (..., K) and one matrix (K, C); any derivative order is right.

    The BLAS of torch reaches less than half of what processors with AVX-512 can do in these shapes if they are not
    Intel's.
    """
    if not runs_compiled(x, matrix) or x.dtype != matrix.dtype or x.dim() < 2:
        return x @ matrix
    differentiable = torch.is_grad_enabled() and (x.requires_grad or matrix.requires_grad)
    operator = _Matmul.apply if differentiable else raw("matmul")
    return operator(x.flatten(0, -2).contiguous(), matrix.contiguous()).view(*x.shape[:-1], matrix.shape[1])


def transposed_product(a: Tensor, b: Tensor) -> Tensor:
    """aᵀ b of a (M, K) and b (M, C), without derivatives; the same to the bit for any number of threads."""
    if not runs_compiled(a, b):
        return a.T @ b
    unread = a.new_zeros(a.shape[1], b.shape[1])
    product: Tensor = raw("matmul_backward")(b.contiguous(), a.contiguous(), unread, False, True)[1]
    return product


class _Matmul(torch.autograd.Function):
    """The operator with its registered derivatives, at a third of the overhead of calling it directly."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor) -> Tensor:
        ctx.save_for_backward(x, matrix)
        ctx.of_parameters = marked((x, matrix))
        return raw("matmul")(x, matrix)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        need_x, need_matrix = still_needed(ctx.needs_input_grad, ctx.of_parameters)
        found = torch.ops.mlip.matmul_backward(grad.contiguous(), *ctx.saved_tensors, need_x, need_matrix)
        return found[0] if need_x else None, found[1] if need_matrix else None


if _extension.compiled:

    @torch.library.register_fake("mlip::matmul")
    def _fake(a: Tensor, b: Tensor) -> Tensor:
        return a.new_empty(a.shape[0], b.shape[1])

    @torch.library.register_fake("mlip::matmul_backward")
    def _backward_fake(grad: Tensor, a: Tensor, b: Tensor, need_a: bool, need_b: bool) -> tuple[Tensor, Tensor]:
        return (torch.empty_like(a) if need_a else a.new_empty(0)), (torch.empty_like(b) if need_b else b.new_empty(0))

    register_multilinear("matmul", linear=2, outputs=1, optional=(0, 1))
