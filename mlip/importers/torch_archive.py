"""Reads files of ``torch.save(model)`` without running anything that they contain.

Such a file is a zip archive: a pickle that describes the objects (``data.pkl``) and one record per storage of numbers.
`torch.load` of a whole model executes whatever the pickle asks for. Here tensors are rebuilt from the storages, after
every size, offset and stride was checked against them, and each object of a foreign class becomes a `Record`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlip.errors import ModelFileError
from mlip.importers import numpy_pickles
from mlip.importers.pickle_reader import MAX_BYTES, PickleReader
from mlip.importers.records import Record, check_tree
from mlip.importers.stored_zip import Entry, StoredZip

__all__ = ["Record", "is_torch_archive", "read_archive"]

_STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_DTYPES = {str(d): d for d in (*_STORAGES.values(), torch.complex64, torch.complex128)}
#: What pickles name and never call.
_NAMES = (*_STORAGES, "torch.Tensor", "torch._C._VariableFunctionsClass")
_LEAVES = (Tensor, torch.Size, torch.dtype, torch.device, np.ndarray)
#: Nothing but ModelFileError is meant to arise from a file's content; the fuzzer in the tests looks for these.
_UNFORESEEN = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, AssertionError, RuntimeError)
#: Magic number at the start of files that torch wrote before version 1.6.
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
_PICKLE = re.compile(r"[^/]+/data\.pkl")
_MAX_DIMENSIONS, _MAX_NAME = 16, 64


class Storage(NamedTuple):
    """A storage of the archive as a flat tensor."""

    numbers: Tensor


def _integers(values: Any, what: str) -> tuple[int, ...]:
    if not isinstance(values, tuple) or len(values) > _MAX_DIMENSIONS:
        raise ModelFileError(f"a tensor's {what}: expected at most {_MAX_DIMENSIONS} integers")
    if any(type(v) is not int or not 0 <= v < 2**48 for v in values):
        raise ModelFileError(f"a tensor's {what}: expected integers from 0 to 2^48")
    return tuple(values)


def _overlaps(size: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether elements of a tensor may share memory, as in an expanded one."""
    reach = 0
    for step, n in sorted((step, n) for n, step in zip(size, stride, strict=True) if n > 1):
        if step <= reach:
            return True
        reach += (n - 1) * step
    return False


class TorchArchive:
    """The records of an archive, and the functions that turn descriptions of tensors into tensors."""

    def __init__(self, file: BinaryIO) -> None:
        self._zip = StoredZip(file)
        pickles = [name for name in self._zip.entries if _PICKLE.fullmatch(name)]
        if len(pickles) != 1:
            raise ModelFileError("a zip archive without one data.pkl; expected a file written by torch.save")
        self._folder = pickles[0].removesuffix("data.pkl")
        self._storages: dict[str, Storage] = {}
        #: Bytes of all tensors together, even if every view of a storage is copied.
        self._bytes_left = 2 * self._zip.length + 2**20
        if any(n == self._folder + "constants.pkl" or n.startswith(self._folder + "code/") for n in self._zip.entries):
            raise ModelFileError(
                "a TorchScript archive (torch.jit.save), a program rather than a model; expected the file of "
                "torch.save(model) from which it was made"
            )
        order = self._small_record("byteorder") or b"little"
        if order != b"little" or sys.byteorder != "little":
            raise ModelFileError(f"numbers in byte order {order.decode(errors='replace')!a}; expected little")

    def _small_record(self, name: str) -> bytes:
        entry = self._zip.entries.get(self._folder + name)
        return self._zip.read(entry) if entry and entry.size < 64 else b""

    def pickle(self) -> bytes:
        """The pickle that describes the objects."""
        entry = self._zip.entries[self._folder + "data.pkl"]
        if entry.size > MAX_BYTES:
            raise ModelFileError(f"a pickle of {entry.size} bytes, expected at most {MAX_BYTES}")
        return self._zip.read(entry)

    def read(self, admitted: Sequence[str]) -> Any:
        """The object that the archive holds."""
        functions: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor_v2": self._rebuild_tensor,
            "torch._utils._rebuild_parameter": self._rebuild_parameter,
            "torch._utils._rebuild_parameter_with_state": self._rebuild_parameter,
            "torch._tensor._rebuild_from_type_v2": self._rebuild_from_type,
            "torch.Size": lambda sizes: torch.Size(_integers(sizes, "shape")),
            "torch.device": self._device,
            **dict.fromkeys(_NAMES, self._no_call),
            **numpy_pickles.functions(),
        }
        result = PickleReader(self.pickle(), admitted, _DTYPES, functions, self._persistent, self._build).read()
        check_tree(result, _LEAVES)
        return result

    def _spend(self, size: int) -> None:
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise ModelFileError("the arrays are together much larger than the file")

    @staticmethod
    def _no_call(*_: Any) -> None:
        raise ModelFileError("the pickle calls a class of torch that is only ever named; nothing was executed")

    def _build(self, target: Any, state: Any) -> None:
        numpy_pickles.build(target, state, self._spend)

    @staticmethod
    def _device(kind: Any, index: Any = None) -> torch.device:
        known = type(kind) is str and re.fullmatch("[a-z]{1,16}", kind)
        if not known or not (index is None or (type(index) is int and 0 <= index < 128)):
            raise ModelFileError("a device that does not exist")
        try:
            return torch.device(kind, index) if index is not None else torch.device(kind)
        except RuntimeError as error:
            raise ModelFileError("a device that does not exist") from error

    def _persistent(self, description: Any) -> Storage:
        """The storage that ``("storage", kind, key, device, count)`` describes, read once."""
        if type(description) is not tuple or len(description) != 5:
            raise ModelFileError("a description of a storage that torch does not write")
        word, kind, key, _, count = description
        if type(word) is not str or word != "storage" or not isinstance(kind, Record) or kind.kind not in _STORAGES:
            raise ModelFileError(f"a storage of an unknown kind; expected one of {', '.join(_STORAGES)}")
        if type(key) is not str or len(key) > _MAX_NAME or type(count) is not int or count < 0:
            raise ModelFileError("a storage without a usable name and length")
        dtype = _STORAGES[kind.kind]
        if key not in self._storages:
            self._storages[key] = self._read_storage(key, dtype, count)
        storage = self._storages[key]
        if storage.numbers.dtype != dtype or storage.numbers.numel() != count:
            raise ModelFileError(f"storage {key!a} is described in two ways")
        return storage

    def _read_storage(self, key: str, dtype: torch.dtype, count: int) -> Storage:
        entry: Entry | None = self._zip.entries.get(f"{self._folder}data/{key}")
        if entry is None:
            raise ModelFileError(f"storage {key!a} is missing; the file is truncated or damaged")
        if entry.size != count * dtype.itemsize:
            raise ModelFileError(f"storage {key!a} has {entry.size} bytes, expected {count} numbers of {dtype}")
        numbers = torch.empty(entry.size, dtype=torch.uint8)
        self._zip.read_into(entry, numbers.numpy().data)
        if dtype == torch.bool and bool((numbers > 1).any()):
            raise ModelFileError(f"storage {key!a} holds truth values that are neither 0 nor 1")
        return Storage(numbers.view(dtype))

    def _rebuild_tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
        """A view of `storage`; `rest` is about gradients and hooks."""
        metadata = rest[2] if len(rest) == 3 else None  # of tensors that are conjugated or negated on access
        if (
            type(storage) is not Storage
            or len(rest) > 3
            or (metadata is not None and type(metadata) is not dict)
            or metadata
        ):
            raise ModelFileError("a tensor of a kind that torch.save does not write for models")
        (offset,), size, stride = _integers((offset,), "offset"), _integers(size, "shape"), _integers(stride, "strides")
        if len(size) != len(stride):
            raise ModelFileError(f"a tensor of {len(size)} dimensions and {len(stride)} strides")
        count, length = math.prod(size), storage.numbers.numel()
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if (count and last >= length) or math.prod(n or 1 for n in size) >= 2**48:
            raise ModelFileError(f"a tensor of shape {size} reaches past its storage of {length} numbers")
        self._spend(count * storage.numbers.itemsize)
        if not count:
            return torch.empty(size, dtype=storage.numbers.dtype)
        tensor = storage.numbers.as_strided(size, stride, offset)
        return tensor.clone(memory_format=torch.contiguous_format) if _overlaps(size, stride) else tensor

    @staticmethod
    def _rebuild_parameter(data: Any, *_: Any) -> Tensor:
        if type(data) is not Tensor:
            raise ModelFileError("a parameter that is no tensor")
        return data

    def _rebuild_from_type(self, function: Any, kind: Any, args: Any, *_: Any) -> Tensor:
        """A tensor with attributes, such as a torch.nn.Buffer; the attributes are not kept."""
        kinds = [item.kind for item in (function, kind) if isinstance(item, Record) and not item.called]
        known = kinds == ["torch._utils._rebuild_tensor_v2", "torch.Tensor"]
        if not known or type(args) is not tuple or len(args) > 7:
            raise ModelFileError("a tensor of an unknown class")
        return self._rebuild_tensor(*args)


def is_torch_archive(path: str | PathLike[str]) -> bool:
    """Whether `path` is a zip archive with the pickle that torch.save writes; False for anything else."""
    try:
        with open(path, "rb") as file:
            return any(_PICKLE.fullmatch(name) for name in StoredZip(file).entries)
    except (ModelFileError, OSError):
        return False


def _refuse_other_formats(file: BinaryIO) -> None:
    """A clear word about files that are mistaken for archives of torch."""
    start = file.read(64)
    if start.startswith(_LEGACY):
        raise ModelFileError(
            "written in the format of torch before 1.6, which is not read here. In the environment where the file is "
            "trusted, torch.load it and torch.save it again"
        )
    if start.startswith(b"version https://git-lfs"):
        raise ModelFileError("a Git LFS pointer, not the file that it stands for; fetch it with git lfs pull")
    if not start.startswith(b"PK"):
        raise ModelFileError("not a file written by torch.save(model), which is a zip archive")


def read_archive(path: str | PathLike[str], admitted: Sequence[str]) -> Any:
    """Read a file of ``torch.save(object)``; nothing in it is executed.

    Args:
        path: the file.
        admitted: names of modules, such as ``["mace", "e3nn", "torch.nn"]``; what is in them or below becomes a
            `Record`.

    Returns:
        The object: tensors and parameters as tensors on the CPU, plain Python data as it is, the rest as `Record`.
        Tensors that shared a storage share it still. A recursive walk over it is safe: it holds no cycles, is at most
        `records.MAX_DEPTH` levels deep, and at most `records.MAX_NODES` long even where parts of it are shared.

    Raises:
        ModelFileError: not such a file, damaged, of unreasonable sizes, or it names what is not admitted.
        OSError: the file can't be read.
    """
    with open(path, "rb") as file:
        try:
            _refuse_other_formats(file)
            return TorchArchive(file).read(admitted)
        except ModelFileError as error:
            raise ModelFileError(f"{path}: {error}") from error
        except _UNFORESEEN as error:
            raise ModelFileError(f"{path} is damaged ({type(error).__name__}: {error!s:.200})") from error
