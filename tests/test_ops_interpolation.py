"""Cubic interpolation weights: against plain torch, against scipy's interpolant, derivatives, ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicHermiteSpline
from torch import Tensor

import mlip
from mlip.ops.interpolation import cubic_weights, cubic_weights_reference

needs_extension = pytest.mark.skipif(not mlip.compiled, reason="the extension is not built")
FUNCTIONS = [pytest.param(cubic_weights, marks=needs_extension), cubic_weights_reference]
SPACING, KNOTS = 0.25, 21  # 0 to 5


def lengths(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Lengths on both sides of the ends, none at a knot."""
    return (torch.rand(count, dtype=dtype) * 7 - 1).add_(1e-7)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("order", range(5))
def test_is_the_hermite_interpolant(function, order: int) -> None:
    knots = np.arange(KNOTS) * SPACING
    values, slopes = np.sin(knots), np.cos(knots)
    r = lengths(400)
    weights, row = function(r, SPACING, KNOTS, order)
    f, d = torch.tensor(values), torch.tensor(SPACING * slopes)
    mine = (weights * torch.stack([f[row], d[row], f[row + 1] - f[row], d[row + 1]], dim=1)).sum(dim=1)
    spline = CubicHermiteSpline(knots, values, slopes)
    inside = r.clamp(0, knots[-1]).numpy()
    expected = torch.tensor(spline(inside, nu=order) if order < 4 else np.zeros(len(r)))
    if order:
        expected[(r < 0) | (r > knots[-1])] = 0
    torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-10)


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", range(6))
def test_equals_the_reference(order: int, dtype: torch.dtype) -> None:
    for count in (0, 1, 10_000):
        r = lengths(count, dtype)
        weights, row = cubic_weights(r, SPACING, KNOTS, order)
        expected, expected_row = cubic_weights_reference(r, SPACING, KNOTS, order)
        assert torch.equal(row, expected_row) and weights.dtype == dtype
        torch.testing.assert_close(weights, expected, rtol=1e-6 if dtype == torch.float32 else 1e-12, atol=1e-7)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_ends_and_knots(function) -> None:
    last = (KNOTS - 1) * SPACING
    r = torch.tensor([-1e30, -1.0, 0.0, 1.0, last, last + 1e-9, 1e30, float("inf"), float("nan")], dtype=torch.float64)
    weights, row = function(r, SPACING, KNOTS)
    assert row[:8].tolist() == [0, 0, 0, 4, KNOTS - 2, KNOTS - 2, KNOTS - 2, KNOTS - 2]
    left, right = [1.0, 0, 0, 0], [1.0, 0, 1.0, 0]
    assert weights[:8].tolist() == [left] * 4 + [right] * 4
    assert weights[8].isnan().all() and 0 <= row[8] <= KNOTS - 2
    slopes, _ = function(r[:8], SPACING, KNOTS, 1)
    assert slopes[[0, 1, 5, 6, 7]].eq(0).all() and slopes[[2, 3], 1].eq(4).all() and slopes[4, 3] == 4


@needs_extension
def test_derivatives_of_every_order() -> None:
    """Up to the third by autograd, each against finite differences."""
    r = lengths(60).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: cubic_weights(r, SPACING, KNOTS)[0], r, atol=1e-6)
    assert torch.autograd.gradgradcheck(lambda r: cubic_weights(r, SPACING, KNOTS)[0].pow(2), r, atol=1e-5)
    w = torch.randn(60, 4, dtype=torch.float64)
    value, table = r, [w]
    for function in (cubic_weights, cubic_weights_reference):
        value = (function(r, SPACING, KNOTS)[0] * w).sum(dim=1)
        derivatives = []
        for _ in range(3):
            (value,) = torch.autograd.grad(value.sum(), r, create_graph=True)
            derivatives.append(value.detach())
        table.append(torch.stack(derivatives))
    torch.testing.assert_close(table[1], table[2], rtol=1e-9, atol=1e-9)


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 9])
def test_opcheck(count: int, dtype: torch.dtype) -> None:
    r = lengths(count, dtype).requires_grad_()
    torch.library.opcheck(torch.ops.mlip.cubic_weights.default, (r, SPACING, KNOTS))
    grad = torch.randn(count, 4, dtype=dtype, requires_grad=True)
    torch.library.opcheck(torch.ops.mlip.cubic_weights_backward.default, (grad, r, SPACING, KNOTS, 1))


@needs_extension
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3, 1), 0.1, 5), "r: "),
        ((torch.zeros(3, dtype=torch.int64), 0.1, 5), "r: "),
        ((torch.zeros(3), 0.0, 5), "spacing"),
        ((torch.zeros(3), -1.0, 5), "spacing"),
        ((torch.zeros(3), float("nan"), 5), "spacing"),
        ((torch.zeros(3), 0.1, 1), "knots"),
        ((torch.zeros(3), 0.1, 5, -1), "order"),
    ],
)
def test_refuses(arguments: tuple, message: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=f"cubic_weights: {message}"):
        torch.ops.mlip.cubic_weights(*arguments)
