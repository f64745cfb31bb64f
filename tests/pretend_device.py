"""A device that is none: tensors of the device "meta" that keep their numbers on the CPU.

Mixing them with tensors of the CPU raises, as it does on a CUDA device; the operators of `torch.ops.mlip` become those
of `torch.ops.mlip_emulated` (tests/cuda_emulation). So whole models run as they would on a GPU.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
#: Operators that take indices or tables from the CPU, or copy between devices.
MIXING = ("aten.index.", "aten.copy_", "aten.index_put", "aten._index_put", "mlip.symmetry_functions")


_libraries: list[ctypes.CDLL] = []


def load_emulation(library: Path) -> None:
    """The operators become `torch.ops.mlip_emulated.*`."""
    torch.ops.load_library(library)
    _libraries.append(ctypes.CDLL(str(library)))


def emulated(name: str, arguments: Sequence[Any], on_cpu: Sequence[Any]) -> Any:
    """Calls an emulated operator ("name" or "name.overload"); all tensors but those `on_cpu` count as the device's."""
    places = [t.data_ptr() for t in on_cpu if isinstance(t, Tensor) and t.numel()]
    _libraries[-1].emulated_host_tensors((ctypes.c_void_p * len(places))(*places), ctypes.c_int64(len(places)))
    operator, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.mlip_emulated, operator), overload or "default")(*arguments)


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
    """Tensors on the CPU may be numbers, programs of contractions, or tables of symmetry functions.

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
            if called is not None:
                called[name.split(".")[1]] += 1
            on_cpu = [x for x in leaves if not isinstance(x, DeviceTensor)]
            out = emulated(name.removeprefix("mlip."), tree_map(_strip, args), on_cpu)
            return tree_map(lambda x: DeviceTensor(x) if isinstance(x, Tensor) else x, out)
    out = func(*tree_map(_strip, args), **tree_map(_strip, kwargs))
    if not on_device or "_local_scalar_dense" in name:
        return out
    return tree_map(lambda x: wrapped.get(id(x), DeviceTensor(x)) if isinstance(x, Tensor) else x, out)
