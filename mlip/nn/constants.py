"""Tensors that follow a module's device but not its precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from typing_extensions import Self


def double(values: ArrayLike) -> Tensor:
    """A tensor of float64, whatever torch's default is."""
    return torch.as_tensor(np.asarray(values, dtype=np.float64))


class KeepsPrecision(nn.Module):
    """A module whose own tensors keep their dtype in `Module.to(dtype)`."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        return super()._apply(lambda t: t.to(fn(t.new_empty(0)).device), recurse)


class Constants(KeepsPrecision):
    """Derived tensors in full precision, not saved with the weights: `constants[k]`.

    Coupling coefficients rounded to float32 and brought back would break equivariance at 1e-8 for good.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        super().__init__()
        for k, tensor in enumerate(tensors):
            self.register_buffer(str(k), tensor, persistent=False)

    def __getitem__(self, k: int) -> Tensor:
        return self.get_buffer(str(k))
