"""Readouts: atomic energies from the scalar features."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mlip.nn.activation import ACTIVATIONS


class Readout(nn.Module):
    """Atomic energy from the scalars: linear, or a perceptron with one or two hidden layers; one per head.

    Args:
        channels: number of scalars C.
        hidden: width of the hidden layer; None: linear.
        num_heads: H, the number of energies learned at once.
        gate: activation of the hidden layer, a key of `ACTIVATIONS`.
        bias: a second hidden layer of the same width, and biases in all layers but the first (MACE's
            `NonLinearBiasReadoutBlock`).
    """

    def __init__(
        self, channels: int, hidden: int | None = None, num_heads: int = 1, gate: str = "silu", bias: bool = False
    ) -> None:
        super().__init__()
        sizes = [channels, 1] if hidden is None else [channels, *[hidden] * (2 if bias else 1), 1]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(num_heads, a, b)) for a, b in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(num_heads, size)) for size in sizes[2:] if bias)
        # MACE keeps the hidden units of all heads in one layer and masks those of the others: the fan-in counts all.
        fan_in = [sizes[0], *(num_heads * size for size in sizes[1:-1])]
        self.norms = [1 / math.sqrt(size) for size in fan_in]
        self.gate = ACTIVATIONS[gate]

    def forward(
        self, scalars: Tensor, head: int | Tensor, matmul: Callable[[Tensor, Tensor], Tensor] = torch.matmul
    ) -> Tensor:
        """(N, C) to (N,), with matrix products by `matmul`; `head` is one for all atoms or one of each (N,)."""
        if isinstance(head, Tensor):
            # Those that no atom asks for get no gradient, and cost little beside all else.
            of_heads = torch.stack([self(scalars, k, matmul) for k in range(len(self.weights[0]))])
            return of_heads.gather(0, head.unsqueeze(0)).squeeze(0)
        x = matmul(scalars, self.weights[0][head] * self.norms[0])
        for k, norm in enumerate(self.norms[1:], start=1):
            x = matmul(self.gate(x), self.weights[k][head] * norm)
            if len(self.biases):
                x = x + self.biases[k - 1][head]
        return x.squeeze(1)
