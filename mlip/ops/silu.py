"""The activation silu(z) = z / (1 + exp(-z)), with derivatives that take one pass each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mlip import _extension
from mlip.ops.dispatch import raw, runs_compiled

#: Highest order that is compiled.
HIGHEST_ORDER = 5


def silu(z: Tensor, factor: Tensor | None = None, order: int = 0) -> Tensor:
    """`factor` times the derivative of this order of silu(z), number by number.

    Derivatives by z and by the factor are of the same kind, so that each is one pass over the numbers.

    Args:
        z: of any shape.
        factor: of the same shape; None: 1.
        order: 0 to 5.

    Raises:
        NotImplementedError: The order, or one that a derivative needs, is higher than 5.
    """
    if not 0 <= order <= HIGHEST_ORDER:
        raise NotImplementedError(f"silu: order {order}: there are 0 to {HIGHEST_ORDER}")
    given = (z,) if factor is None else (z, factor)
    if not runs_compiled(*given) or z.ndim == 0:
        return silu_reference(z, factor, order)
    rows = [(x.unsqueeze(0) if x.ndim == 1 else x.flatten(0, -2)).contiguous() for x in given]
    out = _Silu.apply(rows[0], rows[1] if len(rows) > 1 else z.new_empty(0), order)
    return out if z.ndim == 2 else out.view(z.shape)


def silu_reference(z: Tensor, factor: Tensor | None = None, order: int = 0) -> Tensor:
    """:func:`silu` in plain torch."""
    value, rest = torch.sigmoid(z), torch.sigmoid(-z)
    u, odd = value * rest, rest - value
    sigma = (value, u, u * odd, u * (1 - 6 * u), u * odd * (1 - 12 * u), u * (1 - 30 * u * (1 - 4 * u)))
    out = z * sigma[order] + (order * sigma[order - 1] if order else 0)
    return out if factor is None else factor * out


def _gradients(
    grad: Tensor, z: Tensor, factor: Tensor, order: int, need_z: bool, need_factor: bool
) -> tuple[Tensor | None, Tensor | None]:
    if need_z and order >= HIGHEST_ORDER:
        raise NotImplementedError(f"silu: no derivative of order {order + 1}: there are 0 to {HIGHEST_ORDER}")
    by_z, by_factor = torch.ops.mlip.silu_backward(z, factor, order, grad.contiguous(), need_z, need_factor)
    return by_z if need_z else None, by_factor if need_factor else None


class _Silu(torch.autograd.Function):
    """The operator with its registered derivative, at less overhead than calling it directly."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, factor: Tensor, order: int) -> Tensor:
        ctx.save_for_backward(z, factor)
        ctx.order = order
        return raw("silu")(z, factor, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        z, factor = ctx.saved_tensors
        return *_gradients(grad, z, factor, ctx.order, ctx.needs_input_grad[0], ctx.needs_input_grad[1]), None


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    z, factor, ctx.order = inputs
    ctx.save_for_backward(z, factor)


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    z, factor, ctx.order, grad, *ctx.given = inputs
    ctx.save_for_backward(z, factor, grad)
    ctx.set_materialize_grads(False)


def _backward_backward(ctx: Any, to_z: Tensor | None, to_factor: Tensor | None) -> tuple[Tensor | None, ...]:
    """Of grad · factor · silu^(k + 1) and grad · silu^(k): the same two functions, of products of the factors."""
    z, factor, grad = ctx.saved_tensors
    need_z, need_factor, _, need_grad = ctx.needs_input_grad[:4]
    given_z, given_factor = ctx.given
    out: list[Tensor | None] = [None, None, None]

    def add(place: int, value: Tensor | None) -> None:
        before = out[place]
        out[place] = value if before is None or value is None else before + value

    if given_z and to_z is not None:
        ones = factor.ndim == 1
        product = grad if ones else grad * factor
        by_z, by_product = _gradients(to_z, z, product, ctx.order + 1, need_z, need_factor or need_grad)
        add(0, by_z)
        if by_product is not None:
            if need_factor and not ones:
                add(1, by_product * grad)
            if need_grad:
                add(2, by_product if ones else by_product * factor)
    if given_factor and to_factor is not None:
        by_z, by_grad = _gradients(to_factor, z, grad, ctx.order, need_z, need_grad)
        if by_z is not None:
            add(0, by_z)
        if by_grad is not None:
            add(2, by_grad)
    return out[0], out[1], None, out[2], None, None


if _extension.compiled:

    @torch.library.register_fake("mlip::silu")
    def _fake(z: Tensor, factor: Tensor, order: int) -> Tensor:
        return torch.empty_like(z)

    @torch.library.register_fake("mlip::silu_backward")
    def _fake_backward(
        z: Tensor, factor: Tensor, order: int, grad: Tensor, need_z: bool, need_factor: bool
    ) -> tuple[Tensor, Tensor]:
        return (
            torch.empty_like(z) if need_z else z.new_empty(0),
            torch.empty_like(z) if need_factor else z.new_empty(0),
        )

    torch.library.register_autograd("mlip::silu", _Silu.backward, setup_context=_setup)
    torch.library.register_autograd("mlip::silu_backward", _backward_backward, setup_context=_setup_backward)
