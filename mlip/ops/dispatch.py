"""Which tensors the compiled operators take, and what operators without a derivative do."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mlip import _extension


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Not the lower precision that the caller's `torch.autocast` may ask for: the operators take one.

    Not every device that a plugin of torch adds knows of autocast.
    """
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if device in ("cpu", "cuda") else nullcontext()


def in_forward_mode() -> bool:
    """Whether derivatives in forward mode may be wanted; the compiled operators have none: they would be zero."""
    return forward_ad._current_level >= 0


def in_functional_transform() -> bool:
    """Whether torch.func transforms the caller (vmap, grad, ...); of the compiled operators it knows no rules."""
    return torch._C._functorch.peek_interpreter_stack() is not None


#: Precisions that the operators do not take.
REFUSED = frozenset(
    dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point and dtype not in (torch.float32, torch.float64)
)
#: The CUDA operators were never run on a device: without this variable set to 1, CUDA tensors take plain torch.
CUDA_VARIABLE = "MLIP_CUDA_OPERATORS"


def runs_compiled(*tensors: Tensor, cuda: str | None = None) -> bool:
    """Whether the compiled operators take these tensors: on the CPU, floating ones in float32 or float64.

    Args:
        tensors: what the operator is given.
        cuda: name of the operator, if it takes tensors on a CUDA device too; see `CUDA_VARIABLE`.
    """
    if not _extension.compiled or in_forward_mode() or in_functional_transform():
        return False
    on_cpu = True
    for tensor in tensors:
        if tensor.dtype in REFUSED:
            return False
        on_cpu = on_cpu and tensor.is_cpu
    return on_cpu or (cuda is not None and _runs_on_cuda(cuda, tensors))


def _runs_on_cuda(operator: str, tensors: tuple[Tensor, ...]) -> bool:
    asked = os.environ.get(CUDA_VARIABLE) == "1"
    return asked and all(t.is_cuda for t in tensors) and has_cuda_kernel(operator)


@lru_cache
def has_cuda_kernel(operator: str) -> bool:
    """Whether the library was built with CUDA and has this operator for it."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"mlip::{operator}", "CUDA")


def raw(name: str) -> Callable[..., Any]:
    """The CPU kernel of an operator, below autograd, whose Python takes 5 µs a call.

    Not in a dispatch mode of torch, such as that of tensors without memory (torch.compile, torch.export), which has to
    see the operator: then it is the operator itself.
    """
    if torch._C._len_torch_dispatch_stack():
        operator: Callable[..., Any] = getattr(torch.ops.mlip, name).default
        return operator
    return _kernel(name)


@cache
def _kernel(name: str) -> Callable[..., Any]:
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    return partial(getattr(torch.ops.mlip, name).default.redispatch, keys)


def without_derivative(name: str, tensor: Tensor) -> Callable[..., Any]:
    """How to call an operator that has no derivative on `tensor`: it raises where one could be asked for."""
    operator: Callable[..., Any] = getattr(torch.ops.mlip, name).default
    return operator if torch.is_grad_enabled() or not tensor.is_cpu else raw(name)


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
