"""A device that is none: tensors of the device "meta" that keep their numbers on the CPU.

Mixing them with tensors of the CPU raises, as it does on a CUDA device; the operators of `torch.ops.mlip` become those
of `torch.ops.mlip_emulated` (tests/cuda_emulation). So whole models run as they would on a GPU.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
#: Operators that take indices from the CPU, or copy between devices.
MIXING = ("aten.index.", "aten.copy_", "aten.index_put", "aten._index_put")


class DeviceTensor(Tensor):
    """A tensor on the device, made of one on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> DeviceTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, None)

    def tolist(self) -> Any:
        return self.inner.tolist()


class PretendDevice(TorchDispatchMode):
    """While it is entered, tensors can be made on the device and moved there; `called` counts operators of mlip."""

    def __init__(self) -> None:
        super().__init__()
        self.called: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, self.called)


def tensor(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
    """In place of `torch.tensor`, which no mode sees."""
    made = torch.asarray(data, *args, **kwargs)
    return made if device is None or torch.device(device) != DEVICE else DeviceTensor(made)


def _strip(x: Any) -> Any:
    return x.inner if isinstance(x, DeviceTensor) else x


def _check(name: str, tensors: list[Tensor]) -> None:
    """Tensors on the CPU may be numbers, or programs of contractions.

    Indexing with a list makes a tensor on the device without any mode seeing it: its numbers are lost here, and copied,
    while the program waits, on a real device. An index tensor is what the code should have.
    """
    for x in tensors:
        program = x.dtype == torch.int32 and x.dim() == 1
        if x.device == DEVICE or (x.dim() > 0 and not program and not name.startswith(MIXING)):
            raise RuntimeError(f"{name}: a tensor {tuple(x.shape)} is not on the device of the others")


def _run(func: Any, args: Any, kwargs: dict[str, Any], called: Counter[str] | None) -> Any:
    name, leaves = str(func), tree_leaves((args, kwargs))
    wrapped = {id(x.inner): x for x in leaves if isinstance(x, DeviceTensor)}
    target = kwargs.get("device")
    if target is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    on_device = target == DEVICE if target is not None else bool(wrapped)
    if wrapped and not name.startswith("aten._to_copy"):
        _check(name, [x for x in leaves if isinstance(x, Tensor) and not isinstance(x, DeviceTensor)])
        if name.startswith("mlip."):
            func = getattr(getattr(torch.ops.mlip_emulated, name.split(".")[1]), name.split(".")[2])
            if called is not None:
                called[name.split(".")[1]] += 1
    out = func(*tree_map(_strip, args), **tree_map(_strip, kwargs))
    if not on_device or "_local_scalar_dense" in name:
        return out
    return tree_map(lambda x: wrapped.get(id(x), DeviceTensor(x)) if isinstance(x, Tensor) else x, out)
