"""Weights of cubic Hermite interpolation on equidistant knots, differentiable in the argument to any order."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mlip import _extension
from mlip.ops.dispatch import runs_compiled


def cubic_weights(r: Tensor, spacing: float, knots: int, order: int = 0) -> tuple[Tensor, Tensor]:
    """Weights (E, 4) for an interpolant of tabulated functions at `r` (E,), and the row (E,) of the left knot.

    Knot k lies at k · spacing. With value and spacing · derivative of a function at the knots, f and d,

        weights · (f[row], d[row], f[row + 1] - f[row], d[row + 1])

    is the cubic through them, with a continuous first derivative; with `order` = n it is the n-th derivative with
    respect to r. Below 0 and beyond the last knot r stands for that end: the value is constant, derivatives are zero
    (radial functions that vanish at the cutoff stay zero). At a knot, second and third derivatives are those on the
    right, at the last one those on the left. Computed in float64 whatever the type of `r`.
    """
    if runs_compiled(r, cuda="cubic_weights"):
        weights, row = torch.ops.mlip.cubic_weights(r.contiguous(), spacing, knots, order)
        return weights, row
    return cubic_weights_reference(r, spacing, knots, order)


#: Coefficients of t^0 ... t^3 of the four weights.
_CUBICS = ((1, 0, 0, 0), (0, 1, -2, 1), (0, 0, 3, -2), (0, 0, -1, 1))


def cubic_weights_reference(r: Tensor, spacing: float, knots: int, order: int = 0) -> tuple[Tensor, Tensor]:
    """:func:`cubic_weights` in plain torch."""
    place = r.double() / spacing
    inside = (place >= 0) & (place <= knots - 1)
    place = place.clamp(0, knots - 1)
    row = place.detach().nan_to_num().floor().long().clamp(max=knots - 2)
    t = (place - row).unsqueeze(1)
    weights = torch.cat([_derivative(cubic, order, t) for cubic in _CUBICS], dim=1) / spacing**order
    if order:
        weights = weights * inside.unsqueeze(1)
    return weights.to(r.dtype), row


def _derivative(cubic: tuple[int, ...], order: int, t: Tensor) -> Tensor:
    out = torch.zeros_like(t)
    for power in range(len(cubic) - 1, order - 1, -1):
        out = out * t + cubic[power] * math.perm(power, order)
    return out


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    r, *ctx.grid = inputs
    ctx.save_for_backward(r)


def _backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    (r,) = ctx.saved_tensors
    spacing, knots, order = ctx.grid
    grad_r = torch.ops.mlip.cubic_weights_backward(grad.contiguous(), r, spacing, knots, order + 1)
    return grad_r, None, None, None


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, r, *ctx.grid = inputs
    ctx.save_for_backward(grad, r)


def _backward_backward(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, ...]:
    """Made of the two operators themselves, so that every further derivative is right, too."""
    grad, r = ctx.saved_tensors
    spacing, knots, order = ctx.grid
    grad_grad = tangent.unsqueeze(1) * torch.ops.mlip.cubic_weights(r, spacing, knots, order)[0]
    grad_r = tangent * torch.ops.mlip.cubic_weights_backward(grad, r, spacing, knots, order + 1)
    return grad_grad, grad_r, None, None, None


if _extension.compiled:

    @torch.library.register_fake("mlip::cubic_weights")
    def _fake(r: Tensor, spacing: float, knots: int, order: int = 0) -> tuple[Tensor, Tensor]:
        return r.new_empty((r.shape[0], 4)), torch.empty_like(r, dtype=torch.int64)

    @torch.library.register_fake("mlip::cubic_weights_backward")
    def _fake_backward(grad: Tensor, r: Tensor, spacing: float, knots: int, order: int) -> Tensor:
        return torch.empty_like(r)

    torch.library.register_autograd("mlip::cubic_weights", _backward, setup_context=_setup)
    torch.library.register_autograd("mlip::cubic_weights_backward", _backward_backward, setup_context=_setup_backward)
