"""Smooth cutoff functions f(r): 1 at r = 0, 0 for r >= r_c."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def polynomial_envelope(length: Tensor, cutoff: float | Tensor, p: int) -> Tensor:
    """Polynomial envelope of Gasteiger et al., ICLR 2020 (DimeNet), eq. 8, for distances and cutoffs in Å.

    With x = r/r_c: f = 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2). The function and its first two
    derivatives vanish at r_c, whatever p is.
    """
    x = length / cutoff
    power = integer_power(x, p)
    value = 1 - (p + 1) * (p + 2) / 2 * power + p * (p + 2) * power * x - p * (p + 1) / 2 * power * x * x
    return torch.where(length < cutoff, value, torch.zeros_like(value))


def integer_power(x: Tensor, p: int) -> Tensor:
    """x^p by products: torch's own power has other roundings at the ends of what each of its threads takes."""
    result = None
    while True:
        if p % 2:
            result = x if result is None else result * x
        p //= 2
        if not p:
            return torch.ones_like(x) if result is None else result
        x = x * x


class PolynomialCutoff(nn.Module):
    """`polynomial_envelope` of one cutoff."""

    smoothness = 2

    def __init__(self, cutoff: float, p: int = 5) -> None:
        super().__init__()
        self.cutoff, self.p = float(cutoff), int(p)

    def forward(self, length: Tensor) -> Tensor:
        """Values (E,) for distances `length` (E,) in Å."""
        return polynomial_envelope(length, self.cutoff, self.p)
