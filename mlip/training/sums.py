"""Sums whose bits do not depend on the number of threads.

Torch adds up a whole tensor of more than 32768 numbers in as many parts as there are threads, so that a run would
depend on the machine. A sum over the last dimension goes row by row, each row by one thread in one order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

#: Numbers in a row; many enough that rows are few, few enough that torch never splits one.
ROW = 1024


def total(x: Tensor) -> Tensor:
    """Sum of all elements, a float64 scalar, differentiable."""
    x = x.reshape(-1)
    while x.numel() > ROW:
        rows = x.numel() // ROW
        parts = [x[: rows * ROW].view(rows, ROW).sum(dim=1, dtype=torch.float64)]
        if rows * ROW < x.numel():
            parts.append(x[rows * ROW :].sum(dtype=torch.float64).view(1))
        x = torch.cat(parts)
    return x.sum(dtype=torch.float64)


class Fraction(NamedTuple):
    """A sum, a float64 scalar, and of how many numbers it is."""

    sum: Tensor
    n: float

    @property
    def mean(self) -> Tensor:
        return self.sum / self.n


def fraction(x: Tensor) -> Fraction:
    """Of all elements, differentiable."""
    return Fraction(total(x), x.numel())


@torch.no_grad()
def clip_norm(gradients: Iterable[Tensor | None], largest: float) -> None:
    """Scale gradients, all of one precision, in place so that their norm is `largest` at most (Pascanu et al. 2013)."""
    present = [g for g in gradients if g is not None]
    if not present:
        return
    norm = total(torch.cat([g.reshape(-1) for g in present]).double().square()).sqrt()
    scale = (largest / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(present, scale.to(present[0].dtype))
