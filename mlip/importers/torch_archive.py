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

import torch
from torch import Tensor

from mlip.errors import ModelFileError
from mlip.importers.pickle_reader import PickleReader, Record
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
_PICKLE = re.compile(r"[^/]+/data\.pkl")
_MAX_DIMENSIONS = 16
_INT64 = range(-(2**63), 2**63)


class Storage(NamedTuple):
    """A storage of the archive as a flat tensor."""

    numbers: Tensor


def _integers(values: Any, what: str) -> tuple[int, ...]:
    if not isinstance(values, tuple) or any(type(v) is not int or not 0 <= v < 2**48 for v in values):
        raise ModelFileError(f"a tensor's {what} is not made of integers from 0")
    return tuple(values)


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
        return self._zip.read(self._zip.entries[self._folder + "data.pkl"])

    def read(self, admitted: Sequence[str]) -> Any:
        """The object that the archive holds."""
        functions: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor_v2": self._rebuild_tensor,
            "torch._utils._rebuild_parameter": self._rebuild_parameter,
            "torch.Size": lambda sizes: torch.Size(_integers(sizes, "shape")),
            "torch.device": self._device,
        } | {name: self._no_call for name in (*_STORAGES, "torch._C._VariableFunctionsClass")}
        return PickleReader(self.pickle(), admitted, _DTYPES, functions, self._persistent, self._build).read()

    @staticmethod
    def _no_call(*_: Any) -> None:
        raise ModelFileError("the pickle calls a class of torch that describes storages only")

    @staticmethod
    def _build(target: Any, _: Any) -> None:
        raise ModelFileError(f"the pickle gives a state to a {type(target).__name__}")

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
        if type(description) is not tuple or len(description) != 5 or description[0] != "storage":
            raise ModelFileError("a description of a storage that torch does not write")
        _, kind, key, _, count = description
        dtype = _STORAGES.get(kind.kind) if isinstance(kind, Record) and not kind.called else None
        if dtype is None or type(key) is not str or type(count) is not int or count < 0:
            raise ModelFileError(f"a storage of an unknown kind: {kind!r:.100}")
        if key not in self._storages:
            self._storages[key] = self._read_storage(key, dtype, count)
        storage = self._storages[key]
        if storage.numbers.dtype != dtype or storage.numbers.numel() != count:
            raise ModelFileError(f"storage {key[:20]!a} is described in two ways")
        return storage

    def _read_storage(self, key: str, dtype: torch.dtype, count: int) -> Storage:
        entry: Entry | None = self._zip.entries.get(f"{self._folder}data/{key}")
        if entry is None:
            raise ModelFileError(f"storage {key[:20]!a} is missing; the file is truncated or damaged")
        if entry.size != count * dtype.itemsize:
            raise ModelFileError(f"storage {key[:20]!a} has {entry.size} bytes, expected {count} numbers of {dtype}")
        numbers = torch.empty(entry.size, dtype=torch.uint8)
        self._zip.read_into(entry, numbers.numpy().data)
        if dtype == torch.bool and bool((numbers > 1).any()):
            raise ModelFileError(f"storage {key[:20]!a} holds truth values that are neither 0 nor 1")
        return Storage(numbers.view(dtype))

    def _rebuild_tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
        """A view of `storage`; `rest` is about gradients and hooks."""
        if type(storage) is not Storage or len(rest) > 3 or any(rest[2:]):
            raise ModelFileError("a tensor of a kind that torch.save does not write for models")
        (offset,), size, stride = _integers((offset,), "offset"), _integers(size, "shape"), _integers(stride, "strides")
        if len(size) != len(stride) or len(size) > _MAX_DIMENSIONS:
            raise ModelFileError(f"a tensor of {len(size)} dimensions and {len(stride)} strides")
        count, length = math.prod(size), storage.numbers.numel()
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if (count and last >= length) or math.prod(n or 1 for n in size) >= 2**48:
            raise ModelFileError(f"a tensor of shape {size} reaches past its storage of {length} numbers")
        self._bytes_left -= count * storage.numbers.itemsize
        if self._bytes_left < 0:
            raise ModelFileError("the tensors are together much larger than the file")
        if not count:
            return torch.empty(size, dtype=storage.numbers.dtype)
        return storage.numbers.as_strided(size, stride, offset)

    @staticmethod
    def _rebuild_parameter(data: Any, *_: Any) -> Tensor:
        if type(data) is not Tensor:
            raise ModelFileError("a parameter that is no tensor")
        return data


def is_torch_archive(path: str | PathLike[str]) -> bool:
    """Whether `path` is a zip archive with the pickle that torch.save writes; False for anything else."""
    try:
        with open(path, "rb") as file:
            return any(_PICKLE.fullmatch(name) for name in StoredZip(file).entries)
    except (ModelFileError, OSError):
        return False


def read_archive(path: str | PathLike[str], admitted: Sequence[str]) -> Any:
    """Read a file of ``torch.save(object)``; nothing in it is executed.

    Args:
        path: the file.
        admitted: names of modules, such as ``["mace", "e3nn", "torch.nn"]``; what is in them or below becomes a
            `Record`.

    Returns:
        The object: tensors and parameters as tensors on the CPU, plain Python data as it is, the rest as `Record`.
        Tensors that shared a storage share it still.

    Raises:
        ModelFileError: not such a file, damaged, of unreasonable sizes, or it names what is not admitted.
        OSError: the file can't be read.
    """
    with open(path, "rb") as file:
        try:
            return TorchArchive(file).read(admitted)
        except ModelFileError as error:
            raise ModelFileError(f"{path}: {error}") from error
