"""Radial basis functions and the multilayer perceptron on top of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

#: Factor that gives silu unit second moment under a standard normal input, as e3nn's `normalize2mom` samples it.
#: (The integral is 1.67653; published MACE weights were trained with the sampled value.)
SILU_GAIN = 1.6791767923989418


class BesselBasis(nn.Module):
    """b_n(r) = sqrt(2/r_c) sin(nπ r/r_c) / r for n = 1..N (Gasteiger et al., ICLR 2020, eq. 7)."""

    def __init__(self, cutoff: float, num_basis: int = 8) -> None:
        super().__init__()
        self.prefactor = math.sqrt(2 / cutoff)
        self.frequencies: Tensor
        self.register_buffer("frequencies", math.pi / cutoff * torch.arange(1.0, num_basis + 1))

    def forward(self, length: Tensor) -> Tensor:
        """Values (E, N) for distances `length` (E,) in Å."""
        r = length.unsqueeze(1)
        return self.prefactor * torch.sin(self.frequencies * r) / r


class RadialMLP(nn.Module):
    """Bias-free perceptron with normalised silu: zero in, zero out, so that the cutoff of the basis carries over.

    Weights are (fan_in, fan_out) with unit variance; the 1/sqrt(fan_in) is applied in `forward` (e3nn's
    `FullyConnectedNet`, which MACE uses).
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(n_in, n_out)) for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True)
        )

    def hidden(self, x: Tensor) -> Tensor:
        """Activations (E, sizes[-2]) before the last, linear layer."""
        for weight in list(self.weights)[:-1]:
            x = SILU_GAIN * nn.functional.silu(x @ (weight / math.sqrt(weight.shape[0])))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(E, sizes[0]) to (E, sizes[-1])."""
        last = self.weights[-1]
        return self.hidden(x) @ (last / math.sqrt(last.shape[0]))
