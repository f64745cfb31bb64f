"""Chebyshev series of functions on the interval from 0 to 1: many smooth ones at the price of one matrix product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

Functions = Callable[[Tensor], Tensor]
#: Highest polynomials that are tried, one after the other.
DEGREES = (16, 24, 32, 40, 48, 64, 96, 128, 192, 256)


class ChebyshevSeries:
    """F functions f_k(x) for x from 0 to 1 as Σ_j c_jk T_j(2x - 1), and such series of their derivatives.

    Args:
        functions: of x (E,) to (E, F) in float64, with more continuous derivatives than are asked for.
        orders: the highest derivative.
        tolerance: the largest error, relative to the largest value; the same for derivatives.

    Raises:
        ValueError: 256 polynomials do not reach the tolerance.
    """

    def __init__(self, functions: Functions, orders: int = 2, tolerance: float = 1e-12) -> None:
        self._by_order = [_fitted(functions, tolerance)]
        for _ in range(orders):
            functions = _derivative(functions)
            self._by_order.append(_fitted(functions, tolerance))

    def coefficients(self, order: int) -> NDArray[np.float64]:
        """Those of the derivatives of this order by x, (number of polynomials, F)."""
        if order >= len(self._by_order):
            raise NotImplementedError(
                f"derivative {order} of a series that was made for {len(self._by_order) - 1}; plain torch has all "
                "(backend 'reference')"
            )
        return self._by_order[order]

    def __call__(self, x: Tensor, order: int = 0) -> Tensor:
        """Derivatives of this order (E, F) at x (E,), in the precision of x but computed in float64."""
        out: Tensor = _Series.apply(x, self, order)
        return out


def _derivative(functions: Functions) -> Functions:
    """The derivatives (E, F) by x: those of the gradient of Σ_ek v_ek f_k(x_e) by v."""

    def derivative(x: Tensor) -> Tensor:
        values = functions(x)
        weights = torch.ones_like(values, requires_grad=True)
        (gradient,) = torch.autograd.grad(values, x, weights, create_graph=True)
        return torch.autograd.grad(gradient.sum(), weights, create_graph=True)[0]

    return derivative


def _fitted(functions: Functions, tolerance: float) -> NDArray[np.float64]:
    """Coefficients of the fewest polynomials that come close enough between their nodes."""
    between = np.linspace(0, 1, 1001)
    expected = _values(functions, between)
    largest = np.abs(expected).max()
    for degree in DEGREES:
        points = chebyshev.chebpts1(degree + 1)
        polynomials, values = chebyshev.chebvander(points, degree), _values(functions, (points + 1) / 2)
        coefficients: NDArray[np.float64] = polynomials.T @ values * (2 / (degree + 1))
        coefficients[0] /= 2
        error = np.abs(chebyshev.chebval(2 * between - 1, coefficients).T - expected).max()
        if error <= tolerance * largest:
            return coefficients
    raise ValueError(f"{degree} polynomials miss these functions by {error / largest:.1e} of the largest value")


def _values(functions: Functions, x: NDArray[np.float64]) -> NDArray[np.float64]:
    # Whoever asks first may be in torch.func.grad or in inference mode.
    with temporarily_clear_interpreter_stack(), torch.inference_mode(False), torch.enable_grad():
        return functions(torch.from_numpy(x).requires_grad_(True)).detach().numpy()


class _Series(torch.autograd.Function):
    """A series, whose derivative is another one."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, series: ChebyshevSeries, order: int) -> Tensor:
        coefficients = torch.from_numpy(series.coefficients(order)).to(x.device)
        degrees = torch.arange(len(coefficients), dtype=torch.float64, device=x.device)
        y = x.double().clamp(0, 1)
        angle = 2 * torch.atan2((1 - y).sqrt(), y.sqrt())  # the arc cosine of 2x - 1, exact near the ends too
        return (torch.cos(angle.unsqueeze(1) * degrees) @ coefficients).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ChebyshevSeries, int], output: Tensor) -> None:
        x, ctx.series, ctx.order = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return (gradient * ctx.series(x, ctx.order + 1)).sum(dim=1), None, None
