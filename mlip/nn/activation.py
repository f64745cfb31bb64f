"""Activation functions with unit second moment under a standard normal input, as e3nn's `normalize2mom` makes them.

The factors are e3nn's, sampled from a million numbers (the integral for silu, for example, gives 1.67653): published
MACE weights were trained with the sampled values.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]
SILU_GAIN = 1.6791767923989418


def silu(x: Tensor) -> Tensor:
    return SILU_GAIN * nn.functional.silu(x)


def tanh(x: Tensor) -> Tensor:
    return 1.5937334472592695 * torch.tanh(x)


def absolute(x: Tensor) -> Tensor:
    return 1.001110600838467 * torch.abs(x)


def sigmoid(x: Tensor) -> Tensor:
    return 1.8467055342154763 * torch.sigmoid(x)


def identity(x: Tensor) -> Tensor:
    return x


#: By the names of MACE's option `gate`.
ACTIVATIONS: dict[str, Activation] = {"silu": silu, "tanh": tanh, "abs": absolute, "None": identity}
