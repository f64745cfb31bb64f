"""DimeNet's bases: Bessel functions of a distance, and spherical Bessel functions times Legendre polynomials.

Gasteiger et al., ICLR 2020 (arXiv:2003.03123), section 5. Distances enter as x = d/c, in units of the cutoff c, and the
functions have no factors of c^(-3/2): the linear layers behind them absorb such factors.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlip.nn.constants import Constants, double
from mlip.nn.cutoff import polynomial_envelope

#: The power series of j_l up to l + 1 is cut off after this many terms and l more: below rounding in float64.
SERIES_TERMS = 16
#: Halvings of an interval of length π until its ends are neighboring numbers of float64.
BISECTIONS = 56


def spherical_bessel(order: int, y: Tensor) -> Tensor:
    """Spherical Bessel function j_l of order l >= 0 for y >= 0 of any shape, right to any derivative order.

    By its power series up to y = l + 1, where there is hardly any cancellation, and by the recurrence upwards from
    j_0 = sin y / y beyond, where it is stable. The derivative is (l j_(l-1) - (l+1) j_(l+1)) / (2l+1), which is finite
    at y = 0 (Abramowitz and Stegun 10.1.2, 10.1.19, 10.1.20).
    """
    return _SphericalBessel.apply(y, order)


class _SphericalBessel(torch.autograd.Function):
    """`spherical_bessel` with derivatives that are spherical Bessel functions again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, order: int) -> Tensor:
        return torch.where(y < order + 1, _series(order, y.clamp(max=order + 1.0)), _upwards(order, y))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.order = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return gradient * _derivative(ctx.order, y), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        levels = [level.key() for level in torch._C._functorch.get_interpreter_stack() or []]
        if levels.count(torch._C._functorch.TransformType.Jvp) > 1:  # torch would take y for a constant
            raise NotImplementedError(
                "spherical_bessel: one derivative at most in forward mode, others in reverse mode"
            )
        (y,) = ctx.saved_tensors
        return tangent * _derivative(ctx.order, y)


def _derivative(order: int, y: Tensor) -> Tensor:
    above = spherical_bessel(order + 1, y)
    if order == 0:
        return -above
    return (order * spherical_bessel(order - 1, y) - (order + 1) * above) / (2 * order + 1)


def _series(order: int, y: Tensor) -> Tensor:
    """y^l/(2l+1)!! · Σ_k (-y²/2)^k / (k! (2l+3)(2l+5)...(2l+2k+1)), by Horner's scheme."""
    z = -0.5 * y * y
    total = torch.ones_like(y)
    for k in range(SERIES_TERMS + order, 0, -1):
        total = 1 + total * z / (k * (2 * order + 2 * k + 1))
    for k in range(1, order + 1):
        total = total * y / (2 * k + 1)
    return total


def _upwards(order: int, y: Tensor) -> Tensor:
    """j_(l+1) = (2l+1)/y j_l - j_(l-1) from j_0 and j_1; of use beyond y = l."""
    y = y.clamp(min=1.0)
    sine, cosine = torch.sin(y), torch.cos(y)
    below, value = cosine / y, sine / y
    for k in range(order):
        below, value = value, (2 * k + 1) / y * value - below
    return value


@lru_cache(maxsize=32)
def spherical_bessel_roots(num_orders: int, num_roots: int) -> NDArray[np.float64]:
    """The first positive roots z_ln (num_orders, num_roots) of j_l, l = 0, 1, ..., to the last digits of float64.

    Those of j_0 are nπ, and between two roots of j_(l-1) lies one of j_l.
    """
    points = math.pi * torch.arange(1, num_roots + num_orders, dtype=torch.float64)
    rows = [points[:num_roots]]
    for order in range(1, num_orders):
        low, high = points[:-1].clone(), points[1:].clone()
        rising = spherical_bessel(order, low) < 0
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            left = (spherical_bessel(order, middle) < 0) == rising
            low, high = torch.where(left, middle, low), torch.where(left, high, middle)
        points = 0.5 * (low + high)
        rows.append(points[:num_roots])
    roots = torch.stack(rows).numpy()
    roots.setflags(write=False)
    return roots


@lru_cache(maxsize=32)
def radial_norms(num_orders: int, num_roots: int) -> NDArray[np.float64]:
    """√2 / |j_(l+1)(z_ln)|: with it, ∫ x² j_l(z_ln x)² dx from 0 to 1 is one (eq. 6 of the paper)."""
    roots = torch.tensor(spherical_bessel_roots(num_orders, num_roots))
    values = torch.stack([spherical_bessel(order + 1, row) for order, row in enumerate(roots)])
    norms = (math.sqrt(2) / values.abs()).numpy()
    norms.setflags(write=False)
    return norms


def published_constants(num_orders: int, num_roots: int) -> tuple[Tensor, Tensor]:
    """Roots and norms (num_orders, num_roots) with the roundings to float32 of the published code.

    It keeps the roots z in float32, and takes √2/|j_(l+1)(z)| step by step in float32 from j = √(π/2z) J_(l+3/2)(z).
    """
    roots = spherical_bessel_roots(num_orders, num_roots).astype(np.float32)
    exact = torch.tensor(roots).double()
    above = torch.stack([spherical_bessel(order + 1, row) for order, row in enumerate(exact)])
    cylindrical = (above * (exact * (2 / math.pi)).sqrt()).numpy().astype(np.float32)
    spherical = np.sqrt(np.float32(np.pi) / (np.float32(2) * roots)) * cylindrical
    norms = np.float32(1) / np.sqrt(np.float32(0.5) * spherical * spherical)
    return exact, double(norms)


def legendre(num_orders: int, cosine: Tensor) -> Tensor:
    """Y_l0 = √((2l+1)/4π) P_l(cos θ) for l < num_orders, of cosines (T,) as (T, num_orders).

    As polynomials in the cosine they are smooth for collinear atoms too, where the angle θ itself is not.
    """
    values = [torch.ones_like(cosine), cosine]
    for degree in range(2, num_orders):
        values.append(((2 * degree - 1) * cosine * values[-1] - (degree - 1) * values[-2]) / degree)
    return torch.stack([math.sqrt((2 * k + 1) / (4 * math.pi)) * v for k, v in enumerate(values[:num_orders])], dim=1)


class RadialBasis(nn.Module):
    """u(x) sin(ω_n x) / x for n = 1..N with trainable ω_n, at first nπ (eq. 7 of the paper, times the envelope u).

    Args:
        num_radial: number of functions N.
        envelope_exponent: of the published code; the p of the envelope (eq. 8) is one more.
    """

    def __init__(self, num_radial: int, envelope_exponent: int = 5) -> None:
        super().__init__()
        self.p = envelope_exponent + 1
        self.frequencies = nn.Parameter(math.pi * torch.arange(1, num_radial + 1, dtype=torch.get_default_dtype()))

    def forward(self, x: Tensor) -> Tensor:
        """(E,) to (E, N)."""
        envelope = polynomial_envelope(x, 1.0, self.p) / x
        return envelope.unsqueeze(1) * torch.sin(x.unsqueeze(1) * self.frequencies)


class SphericalRadialBasis(nn.Module):
    """u(x) √2/|j_(l+1)(z_ln)| j_l(z_ln x): the factor of the distance in the spherical basis (eq. 6 of the paper).

    Args:
        num_spherical: number of degrees l = 0, 1, ...
        num_radial: number of roots z_ln of each.
        envelope_exponent: of the published code; the p of the envelope (eq. 8) is one more.
        faithful: as published, u(x)/x in the place of u(x), and constants rounded to float32.
    """

    def __init__(self, num_spherical: int, num_radial: int, envelope_exponent: int = 5, faithful: bool = False) -> None:
        super().__init__()
        self.num_spherical, self.num_radial = num_spherical, num_radial
        self.p, self.faithful = envelope_exponent + 1, faithful
        if faithful:
            self.constants = Constants(published_constants(num_spherical, num_radial))
        else:
            exact = spherical_bessel_roots(num_spherical, num_radial), radial_norms(num_spherical, num_radial)
            self.constants = Constants([torch.tensor(values) for values in exact])

    def forward(self, x: Tensor) -> Tensor:
        """(E,) to (E, num_spherical, num_radial)."""
        roots, norms = self.constants[0].to(x.dtype), self.constants[1].to(x.dtype)
        envelope = polynomial_envelope(x, 1.0, self.p)
        if self.faithful:
            envelope = envelope / x
        y = x.unsqueeze(1)
        values = torch.stack([spherical_bessel(order, y * row) for order, row in enumerate(roots)], dim=1)
        return envelope.view(-1, 1, 1) * norms * values
