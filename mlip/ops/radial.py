"""Radial functions of distances and their derivatives by the distance in one pass, for inference only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mlip import _extension
from mlip.errors import InputError
from mlip.ops.dispatch import register_no_derivative, runs_compiled, without_derivative

#: Layers that `radial_activations` takes.
MOST_LAYERS = 4
#: Terms of the series of sin(x)/x and its derivative, for |x| < 1.
_TERMS = 9


def bessel_basis(
    distance: Tensor,
    frequencies: Tensor,
    prefactor: float,
    cutoff: float,
    p: int,
    *,
    apply_cutoff: bool = True,
    dtype: torch.dtype | None = None,
    transformed: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Bessel basis functions, a polynomial envelope, and their derivatives by the distance.

    b_n = prefactor · sin(ω_n t)/t of the distance t = r or a transformed one, and `mlip.nn.cutoff.polynomial_envelope`
    of r. Computed in float64; within a few units in the last place of the largest value, down to r = 0.

    Args:
        distance: (E,) Å.
        frequencies: ω (n,) 1/Å; |ω t| < 10⁶.
        prefactor: of the basis.
        cutoff: r_c in Å of the envelope.
        p: its order.
        apply_cutoff: multiply the basis by the envelope, so that it is zero from r_c on; else both are given.
        dtype: of the results, float32 or float64; that of the distance.
        transformed: t (E,) and dt/dr (E,).

    Returns:
        The basis (E, n) and its derivative (E, n); the envelope (E,) and its derivative (E,), or None if applied.
    """
    dtype = dtype or distance.dtype
    given = (distance, *(transformed or ()))
    if not runs_compiled(*given, frequencies) or dtype not in (torch.float32, torch.float64):
        given_basis = (distance, frequencies, prefactor, cutoff, p)
        return bessel_basis_reference(*given_basis, apply_cutoff=apply_cutoff, dtype=dtype, transformed=transformed)
    r, *t = (x.double().contiguous() for x in given)
    t = t or [r.new_empty(0)] * 2
    values, derivatives, envelope, slope = without_derivative("bessel_basis", r)(
        r, *t, frequencies.double().contiguous(), prefactor, cutoff, p, apply_cutoff, dtype == torch.float32
    )
    return (values, derivatives, None, None) if apply_cutoff else (values, derivatives, envelope, slope)


def bessel_basis_reference(
    distance: Tensor,
    frequencies: Tensor,
    prefactor: float,
    cutoff: float,
    p: int,
    *,
    apply_cutoff: bool = True,
    dtype: torch.dtype | None = None,
    transformed: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """:func:`bessel_basis` in plain torch."""
    dtype = dtype or distance.dtype
    r = distance.double().unsqueeze(1)
    t, dt = (r, 1.0) if transformed is None else (x.double().unsqueeze(1) for x in transformed)
    scale = prefactor * frequencies.double()
    value, slope = _sinc(frequencies.double() * t)
    values, derivatives = scale * value, scale * frequencies.double() * slope * dt
    x, rest = r / cutoff, (cutoff - r) / cutoff
    series = sum((k + 1) * (k + 2) / 2 * x**k for k in range(p))
    outside, zero = r >= cutoff, torch.zeros_like(r)
    f = torch.where(outside, zero, rest**3 * series)
    df = torch.where(outside, zero, -p * (p + 1) * (p + 2) / 2 / cutoff * rest**2 * x ** (p - 1))
    if not apply_cutoff:
        return values.to(dtype), derivatives.to(dtype), f.squeeze(1).to(dtype), df.squeeze(1).to(dtype)
    derivatives = torch.where(outside, zero, derivatives * f + values * df)
    return torch.where(outside, zero, values * f).to(dtype), derivatives.to(dtype), None, None


def _sinc(x: Tensor) -> tuple[Tensor, Tensor]:
    """sin(x)/x and its derivative; by their series around 0, where the quotients cancel."""
    small = x.abs() < 1
    value, slope, square = torch.zeros_like(x), torch.zeros_like(x), x * x
    for n in range(_TERMS, 0, -1):
        coefficient = (-1) ** n / math.factorial(2 * n + 1)
        value = (value + coefficient) * square
        slope = slope * square + 2 * n * coefficient
    quotient = torch.sin(x) / x
    return torch.where(small, 1 + value, quotient), torch.where(small, slope * x, (torch.cos(x) - quotient) / x)


def radial_activations(
    basis: Tensor,
    tangent: Tensor,
    weights: Tensor,
    widths: Sequence[int],
    envelope: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Activations of a perceptron, silu(... silu(basis @ W_1) ... @ W_k), and their derivatives by the distance.

    What is found for an edge does not depend on the other edges, to the bit.

    Args:
        basis: (E, n).
        tangent: (E, n), derivatives of the basis.
        weights: The matrices (n, widths[0]), (widths[0], widths[1]) ... one after the other in one dimension.
        widths: Of one to four layers.
        envelope: A function (E,) of the distance, and its derivative (E,), that multiply the activations.

    Returns:
        Activations (E, widths[-1]) and their derivatives (E, widths[-1]).
    """
    given = (basis, tangent, weights, *(envelope or ()))
    if not runs_compiled(*given):
        return radial_activations_reference(basis, tangent, weights, widths, envelope)
    f, df = (basis.new_empty(0),) * 2 if envelope is None else (x.contiguous() for x in envelope)
    sizes = _checked_widths(widths)
    activations, slopes = without_derivative("radial_activations", basis)(
        basis.contiguous(), tangent.contiguous(), weights, f, df, *sizes, *[0] * (MOST_LAYERS - len(sizes))
    )
    return activations, slopes


def _checked_widths(widths: Sequence[int]) -> Sequence[int]:
    if not 1 <= len(widths) <= MOST_LAYERS or min(widths) < 1:
        raise InputError(f"widths: expected the units of 1 to {MOST_LAYERS} layers, not {tuple(widths)}")
    return widths


def radial_activations_reference(
    basis: Tensor,
    tangent: Tensor,
    weights: Tensor,
    widths: Sequence[int],
    envelope: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`radial_activations` in plain torch."""
    sizes = [basis.shape[1], *_checked_widths(widths)]
    shapes = list(zip(sizes[:-1], sizes[1:], strict=True))
    value, slope = basis, tangent
    for shape, matrix in zip(shapes, weights.split([a * b for a, b in shapes]), strict=True):
        z, dz = value @ matrix.view(shape), slope @ matrix.view(shape)
        logistic = torch.sigmoid(z)
        value = z * logistic
        slope = (logistic + value * torch.sigmoid(-z)) * dz
    if envelope is None:
        return value, slope
    f, df = (x.unsqueeze(1) for x in envelope)
    return value * f, slope * f + value * df


def rowwise_dot(a: Tensor, b: Tensor, rows: Tensor | None = None) -> Tensor:
    """Scalar products (E,) of the rows of a (E, n) and b: of b (E, n), or, of b (U, n), the `rows` (E,) int64."""
    if not runs_compiled(a, b, *([] if rows is None else [rows])):
        return rowwise_dot_reference(a, b, rows)
    chosen = a.new_empty(0, dtype=torch.int64) if rows is None else rows.contiguous()
    return without_derivative("rowwise_dot", a)(a.contiguous(), b.contiguous(), chosen)


def rowwise_dot_reference(a: Tensor, b: Tensor, rows: Tensor | None = None) -> Tensor:
    """:func:`rowwise_dot` in plain torch."""
    return (a * (b if rows is None else b[rows])).sum(1)


if _extension.compiled:

    @torch.library.register_fake("mlip::bessel_basis")
    def _fake_basis(
        distance: Tensor,
        transformed: Tensor,
        slope: Tensor,
        frequencies: Tensor,
        prefactor: float,
        cutoff: float,
        p: int,
        apply_cutoff: bool,
        single: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count, dtype = distance.shape[0], torch.float32 if single else torch.float64
        shapes = [(count, frequencies.shape[0])] * 2 + [(0 if apply_cutoff else count,)] * 2
        a, b, c, d = (distance.new_empty(shape, dtype=dtype) for shape in shapes)
        return a, b, c, d

    @torch.library.register_fake("mlip::radial_activations")
    def _fake_activations(
        basis: Tensor, tangent: Tensor, weights: Tensor, envelope: Tensor, envelope_slope: Tensor, *widths: int
    ) -> tuple[Tensor, Tensor]:
        shape = basis.shape[0], [width for width in widths if width][-1]
        return basis.new_empty(shape), basis.new_empty(shape)

    @torch.library.register_fake("mlip::rowwise_dot")
    def _fake_dot(a: Tensor, b: Tensor, rows: Tensor) -> Tensor:
        return a.new_empty((a.shape[0],))

    for _operator in ("bessel_basis", "radial_activations", "rowwise_dot"):
        register_no_derivative(
            _operator, f"the compiled {_operator} is for inference and has no derivative; use the reference"
        )
