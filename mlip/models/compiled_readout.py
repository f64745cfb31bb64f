"""Readouts by the compiled operators, with a reverse pass of their own for those of most models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mlip import ops
from mlip.nn.activation import SILU_GAIN, silu
from mlip.nn.readout import Readout
from mlip.ops.tape import Pullback, Run, rule_of


class CompiledReadout:
    """A `Readout`; linear ones and those of one hidden layer with silu have their factors multiplied in.

    Args:
        readout: in float64, or with parameters to train.
        dtype: of the evaluation.
        trained: whether the parameters are trained: then it is called as it is.
    """

    def __init__(self, readout: Readout, dtype: torch.dtype, trained: bool) -> None:
        self.readout = readout
        plain = not len(readout.biases) and (len(readout.weights) == 1 or readout.gate is silu)
        self.matrices: list[Tensor] | None = None
        if plain and not trained and len(readout.weights) <= 2:
            gains = [1.0, SILU_GAIN]
            scaled = zip(readout.weights, readout.norms, gains[: len(readout.weights)], strict=True)
            self.matrices = [(weight * (norm * gain)).to(dtype) for weight, norm, gain in scaled]  # (heads, a, b)
        elif not trained:
            self.readout = readout.to(dtype)

    def __call__(self, run: Run, scalars: Tensor, head: int | Tensor) -> Tensor:
        """(N, C) to (N,)."""
        if self.matrices is None or isinstance(head, Tensor):
            out: Tensor = run(self.readout, scalars, head, ops.matmul)
            return out
        out = run(_perceptron, scalars, *(matrix[head] for matrix in self.matrices))
        return out


def _perceptron(x: Tensor, first: Tensor, last: Tensor | None = None) -> Tensor:
    """x @ first, or silu(x @ first) @ last, without the axis of length one.

    Not `torch.mv`, whose bits depend on the number of threads.
    """
    z = ops.matmul(x, first)
    return z.squeeze(1) if last is None else ops.matmul(ops.silu(z), last).squeeze(1)


@rule_of(_perceptron)
def _rule(needed: Sequence[bool], x: Tensor, first: Tensor, last: Tensor | None = None) -> tuple[Tensor, Pullback]:
    if last is None:
        return _perceptron(x, first), lambda g: (torch.outer(g, first.squeeze(1)),)
    z = ops.matmul(x, first)
    out = ops.matmul(ops.silu(z), last).squeeze(1)
    return out, lambda g: (ops.matmul(ops.silu(z, torch.outer(g, last.squeeze(1)), 1), first.T),)
