"""Which tensors the compiled operators take, and what operators without a derivative do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mlip import _extension


def in_forward_mode() -> bool:
    """Whether derivatives in forward mode may be wanted; the compiled operators have none: they would be zero."""
    return forward_ad._current_level >= 0


def runs_compiled(*tensors: Tensor) -> bool:
    """Whether the compiled operators take these tensors: on the CPU, floating ones in float32 or float64."""
    if not _extension.compiled or in_forward_mode():
        return False
    real = (torch.float32, torch.float64)
    return all(t.is_cpu and (not t.is_floating_point() or t.dtype in real) for t in tensors)


def pad_channels(tensor: Tensor, dtype: torch.dtype, *axes: int) -> Tensor:
    """`tensor` with zeros at the ends of `axes`, up to whole blocks of 64 bytes of `dtype`: what operators take."""
    lanes = 64 // dtype.itemsize
    for axis in axes:
        missing = -tensor.shape[axis] % lanes
        if missing:
            shape = list(tensor.shape)
            shape[axis] = missing
            tensor = torch.cat([tensor, tensor.new_zeros(shape)], dim=axis)
    return tensor


def register_no_derivative(operator: str, message: str) -> None:
    """Make a derivative of the operator `mlip::operator` raise NotImplementedError; without it, it would be zero."""

    def refuse(ctx: Any, *gradients: Tensor) -> None:
        raise NotImplementedError(message)

    torch.library.register_autograd(f"mlip::{operator}", refuse)
