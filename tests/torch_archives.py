"""Archives as torch.save writes them, around any pickle; an assembler of pickles; a fuzzer of the reader.

Run as a program, ``python tests/torch_archives.py SEED CASES [FILES]``, it feeds the reader damaged and hostile
archives (made from FILES, if any) under a limit on memory, and prints as JSON how they ended.
"""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import random
import resource
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from mlip.errors import ModelFileError
from mlip.importers.torch_archive import is_torch_archive, read_archive

ADMITTED = ["mace", "e3nn", "torch.nn"]
MEMORY = 768 * 2**20


def archive(pickled: bytes, records: dict[str, bytes] | None = None, folder: str = "model") -> bytes:
    """A zip archive with a pickle and records such as ``data/0``."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, data in {"data.pkl": pickled, "byteorder": b"little", **(records or {}), "version": b"3\n"}.items():
            file.writestr(f"{folder}/{name}", data)
    return stream.getvalue()


def saved(obj: object, protocol: int = 2) -> bytes:
    """What torch.save writes."""
    stream = io.BytesIO()
    torch.save(obj, stream, pickle_protocol=protocol)
    return stream.getvalue()


def text(value: str) -> bytes:
    """Instruction that puts text on the stack."""
    data = value.encode()
    return b"X" + struct.pack("<L", len(data)) + data


def number(value: int) -> bytes:
    """Instruction that puts an integer on the stack."""
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def name(module: str, attribute: str) -> bytes:
    """Instruction that names a class or function."""
    return f"c{module}\n{attribute}\n".encode()


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    """Instructions that call a function with what `arguments` put on the stack."""
    return name(module, attribute) + b"(" + b"".join(arguments) + b"tR"


def whole(*instructions: bytes) -> bytes:
    """A pickle of protocol 2."""
    return b"\x80\x02" + b"".join(instructions) + b"."


def storage(key: str = "0", count: int = 4, kind: str = "FloatStorage") -> bytes:
    """Instructions for a storage of the archive."""
    return b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + number(count) + b"tQ"


def numbers(*values: int) -> bytes:
    """Instructions for a tuple of integers."""
    return b"(" + b"".join(number(v) for v in values) + b"t"


def tensor(
    size: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), offset: int = 0, stored: bytes | None = None
) -> bytes:
    """Instructions for a tensor in a storage, by default of 4 floats."""
    parts = (stored or storage(), number(offset), numbers(*size), numbers(*stride), b"\x89", b"}")
    return call("torch._utils", "_rebuild_tensor_v2", *parts)


def refuse(path: Path, data: bytes, message: str, admitted: list[str] = ADMITTED) -> None:
    """Reading `data` ends with a ModelFileError that names the file, soon and without much memory."""
    path.write_bytes(data)
    start, peak = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelFileError, match=message) as caught:
        read_archive(path, admitted)
    assert time.perf_counter() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 300 * 2**10  # kB
    assert str(caught.value).startswith(str(path)) and len(str(caught.value)) < 600 + len(str(path))


# -- The fuzzer

_OPCODES = (
    b".(012FNRSTUVXabcdegilojqstu})]h\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b"
    b"\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98BCGIJKLMPQ"
)
_NAMES = [
    *(("os", "system"), ("builtins", "eval"), ("__builtin__", "getattr"), ("builtins", "set"), ("_codecs", "encode")),
    *(("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter")),
    *(
        ("torch", "FloatStorage"),
        ("torch", "BoolStorage"),
        ("torch", "Size"),
        ("torch", "device"),
        ("torch", "float32"),
    ),
    *(("numpy", "dtype"), ("numpy", "ndarray"), ("numpy.core.multiarray", "scalar"), ("torch", "Tensor")),
    *(("numpy.core.multiarray", "_reconstruct"), ("mace.tools", "os.system"), ("torch.nn", "Linear"), ("mace", "A")),
    *(("torch._tensor", "_rebuild_from_type_v2"), ("__builtin__", "bytes"), ("builtins", "frozenset")),
]
_VALUES = [0, 1, 2, 3, 4, -1, 255, 2**31, 2**40, 2**62, 2**63, 2**64, 2**127, 2**200]
_TEXTS = ["storage", "0", "1", "cpu", "latin1", "f8", "b1", "<", "|", "A", "", "\0" * 8, "ab" * 500, "é", "../x", "b"]


def seeds() -> list[bytes]:
    """Good archives from which damaged ones are made."""
    torch.manual_seed(0)
    shared = torch.arange(6.0)
    data = {
        "views": [shared, shared[1:4], shared.view(2, 3).T, torch.ones(1).expand(3), torch.zeros(0, 3)],
        "plain": (1, 2.5, None, True, b"\xff\0", {"a", "b"}, OrderedDict(x=1), 2**70, torch.Size([2]), torch.float64),
        "kinds": [torch.tensor([True]), torch.tensor([1], dtype=torch.int16), torch.device("cpu")],
    }
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    return [saved(net), saved(net, 4), saved(data), saved(data, 4), saved(torch.nn.ModuleList([net]))]


def _instruction(rng: random.Random) -> bytes:
    """A random instruction with a fitting argument, or tensors and calls that are almost right."""
    kind = rng.randrange(14)
    if kind == 0:
        return name(*rng.choice(_NAMES))
    if kind == 1:
        return text(rng.choice(_TEXTS))
    if kind == 2:
        return number(rng.choice(_VALUES))
    if kind == 3:
        return rng.choice((b"h", b"q")) + bytes([rng.randrange(8)])
    if kind == 4:
        return rng.choice((b"j", b"r")) + struct.pack("<L", rng.choice((0, 1, 2, 3, 2**31, 2**32 - 1)))
    if kind == 5:
        size = tuple(rng.choice((0, 1, 2, 3, 2**20, 2**40)) for _ in range(rng.randrange(4)))
        stride = tuple(rng.choice((0, 1, 2, 3, -1, 2**47)) for _ in range(rng.choice((len(size), 2))))
        stored = storage(rng.choice("01x"), rng.choice((4, 4, 1, 2**40)), rng.choice(("FloatStorage", "BoolStorage")))
        return tensor(size, stride, rng.choice((0, 0, 1, 4, -1, 2**60)), stored)
    if kind == 6:
        arguments = [_instruction(rng) for _ in range(rng.randrange(4))]
        return call(*rng.choice(_NAMES), *arguments)
    if kind == 7:
        return b"(" + b"".join(_instruction(rng) for _ in range(rng.randrange(5))) + rng.choice((b"t", b"", b"\x91"))
    if kind == 8:
        return rng.choice((b"]", b"}", b"\x8f", b")", b"N", b"\x88", b"\x89", b"\x94"))
    if kind == 9:
        return b"](" + b"".join(_instruction(rng) for _ in range(rng.randrange(5))) + b"e"
    if kind == 10:
        return b"}(" + b"".join(_instruction(rng) for _ in range(2 * rng.randrange(3))) + b"u"
    if kind == 11:
        return rng.choice((b"\x8d", b"\x8e", b"\x96")) + struct.pack("<Q", rng.choice((0, 2**31, 2**62, 2**64 - 1)))
    if kind == 12:
        return rng.choice((b"X", b"B", b"\x8b")) + struct.pack("<l", rng.choice((-1, 0, 2**31 - 1)))
    return bytes([rng.choice(_OPCODES)])


def hostile_pickle(rng: random.Random) -> bytes:
    """A pickle from a grammar, or a short piece of it many times over."""
    pieces = (_instruction(rng) + rng.choice((b"", b"\x94")) for _ in range(rng.choice((1, 2, 3, 12))))
    body = b"".join(pieces)
    if rng.random() < 0.25:
        piece, times = _instruction(rng), rng.choice((10, 1000, 100_000))
        body += piece * min(times, 2_000_000 // len(piece))
    return whole(b"(" + body + b"t") if rng.random() < 0.8 else whole(body)


def _damaged(data: bytes, rng: random.Random) -> bytes:
    """A file with bits flipped, bytes swapped, pieces repeated, or cut; half of them in its last part."""
    kind = rng.randrange(5)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    first = rng.choice((0, max(0, len(data) - 400)))
    for _ in range(rng.choice((1, 1, 2, 8))):
        a, b = rng.randrange(first, len(data)), rng.randrange(len(data))
        if kind == 1:
            changed[a] ^= 1 << rng.randrange(8)
        elif kind == 2:
            changed[a], changed[b] = changed[b], changed[a]
        elif kind == 3:
            changed[a] = rng.choice((0, 1, 0xFF, rng.choice(_OPCODES)))
        else:
            length = rng.randrange(40)
            changed[a : a + rng.choice((0, length))] = data[b : b + length]
    return bytes(changed)


def _rearranged(pickled: bytes, rng: random.Random) -> bytes:
    """A pickle with whole instructions left out, repeated, swapped, or put in from the grammar."""
    starts = [place for _, _, place in pickletools.genops(pickled) if place is not None]
    parts = [pickled[a:b] for a, b in zip(starts, [*starts[1:], len(pickled)], strict=True)]
    for _ in range(rng.choice((1, 1, 2, 5))):
        a, b = rng.randrange(len(parts)), rng.randrange(len(parts))
        kind = rng.randrange(5)
        if kind == 0:
            del parts[a]
        elif kind == 1:
            parts.insert(a, parts[b])
        elif kind == 2:
            parts[a], parts[b] = parts[b], parts[a]
        elif kind == 3:
            parts[a] = parts[b]
        else:
            parts[a] = _instruction(rng)
    return b"".join(parts)


def case(originals: list[bytes], rng: random.Random) -> bytes:
    """One archive: a damaged file, a good zip around a damaged pickle, or one around a hostile pickle."""
    kind = rng.randrange(4)
    if kind == 0:
        return _damaged(rng.choice(originals), rng)
    floats = {"data/0": struct.pack("<4f", 1, 2, 3, 4), "data/1": b"\0\1\0\1"}
    if kind <= 2:
        with zipfile.ZipFile(io.BytesIO(rng.choice(originals))) as file:
            records = {n.partition("/")[2]: file.read(n) for n in file.namelist()}
        change = _damaged if kind == 1 else _rearranged
        return archive(change(records.pop("data.pkl"), rng), records)
    return archive(hostile_pickle(rng), floats)


def _outcome(path: Path) -> str:
    try:
        is_torch_archive(path)
        repr(read_archive(path, ADMITTED))
    except ModelFileError as error:
        if not isinstance(error.__cause__, ModelFileError):
            raise AssertionError(f"unforeseen: {error}") from error
        return "refused"
    return "read"


def main(seed: int, cases: int, files: list[str]) -> None:
    """Feed `cases` archives to the reader; print the outcomes, the slowest case and the peak of memory as JSON."""
    rng, originals = random.Random(seed), [Path(file).read_bytes() for file in files] or seeds()
    resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30 + MEMORY, resource.RLIM_INFINITY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes: Counter[str] = Counter()
    failures: list[Any] = []
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.model"
        for index in range(cases):
            path.write_bytes(case(originals, rng))
            start = time.perf_counter()
            try:
                outcomes[_outcome(path)] += 1
            except BaseException as error:  # noqa: BLE001
                failures.append([index, f"{type(error).__name__}: {error}"])
                (Path(tempfile.gettempdir()) / f"torch_archive_{seed}_{index}.model").write_bytes(path.read_bytes())
            slowest = max(slowest, time.perf_counter() - start)
        left = [entry.name for entry in Path(folder).iterdir()]
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps(dict(outcomes=outcomes, failures=failures, slowest_s=slowest, peak_MiB=peak, files=left)))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
