"""Smooth cutoff functions f(r): 1 at r = 0, 0 for r >= r_c."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PolynomialCutoff(nn.Module):
    """Polynomial envelope of Gasteiger et al., ICLR 2020 (DimeNet), eq. 8.

    With x = r/r_c: f = 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2). The function and its first two
    derivatives vanish at r_c, whatever p is.
    """

    smoothness = 2

    def __init__(self, cutoff: float, p: int = 5) -> None:
        super().__init__()
        self.cutoff, self.p = float(cutoff), int(p)

    def forward(self, length: Tensor) -> Tensor:
        """Values (E,) for distances `length` (E,) in Å."""
        p, x = self.p, length / self.cutoff
        power = x**p
        value = 1 - (p + 1) * (p + 2) / 2 * power + p * (p + 2) * power * x - p * (p + 1) / 2 * power * x * x
        return torch.where(length < self.cutoff, value, torch.zeros_like(value))
