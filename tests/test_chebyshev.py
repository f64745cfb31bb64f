"""Chebyshev series: values and derivatives, ends included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mlip.nn.chebyshev import ChebyshevSeries


def waves(x: Tensor) -> Tensor:
    return torch.stack([torch.sin(9 * x), x**3, torch.exp(x)], dim=1)


def test_values_and_derivatives() -> None:
    series = ChebyshevSeries(waves, orders=3)
    x = torch.tensor([0.0, 1e-9, 0.2, 0.77, 1 - 1e-9, 1.0], dtype=torch.float64, requires_grad=True)
    phase = 9 * x.detach()
    expected = [phase.sin(), 9 * phase.cos(), -81 * phase.sin(), -729 * phase.cos()]
    value = series(x)
    torch.testing.assert_close(value, waves(x), rtol=0, atol=1e-12)
    for order, of_sine in enumerate(expected):
        torch.testing.assert_close(series(x, order)[:, 0], of_sine, rtol=0, atol=1e-12 * 9**order * 9)
    derivative = value[:, 0]
    for of_sine in expected[1:]:
        (derivative,) = torch.autograd.grad(derivative.sum(), x, create_graph=True)
        torch.testing.assert_close(derivative, of_sine, rtol=0, atol=1e-8)
    assert torch.autograd.gradcheck(series, x.detach()[2:4].requires_grad_(True))
    assert torch.autograd.gradgradcheck(series, x.detach()[2:4].requires_grad_(True))
    with pytest.raises(NotImplementedError, match="derivative 4 of a series that was made for 3"):
        torch.autograd.grad(derivative.sum(), x)


def test_single_precision_is_rounded_once() -> None:
    x = torch.rand(100)
    found = ChebyshevSeries(waves)(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, waves(x.double()).float(), rtol=1e-6, atol=1e-7)


def test_made_in_inference_mode() -> None:
    with torch.inference_mode():
        series = ChebyshevSeries(waves, orders=1)
    x = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(series(x)[:, 1].sum(), x)[0].item() == pytest.approx(0.27)


def test_made_in_a_functional_transform() -> None:
    found = torch.func.jacrev(lambda x: ChebyshevSeries(waves, orders=1)(x)[:, 1])(torch.tensor([0.3]).double())
    assert found.item() == pytest.approx(0.27)


def test_functions_that_are_not_smooth() -> None:
    with pytest.raises(ValueError, match="256 polynomials miss"):
        ChebyshevSeries(lambda x: (x - 0.4).abs().unsqueeze(1))
