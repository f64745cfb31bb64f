"""Hostile pickles in archives: one clear error, nothing executed, little time and memory."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch_archives import archive, call, name, number, numbers, refuse, storage, tensor, text, whole

from mlip.importers.torch_archive import read_archive

FLOATS = {"data/0": struct.pack("<4f", 0, 1, 2, 3)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.model"


# -- Names and calls


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.reduced = function, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.reduced


def dangerous(marker: Path) -> dict[str, bytes]:
    """Pickles that make the file `marker` when a usual unpickler reads them."""
    command = text(f"touch {marker}")
    code = text(f"open({str(marker)!r}, 'w')")
    system = call("__builtin__", "getattr", call("__builtin__", "__import__", text("os")), text("system"))
    return {
        "os.system": whole(call("os", "system", command)),
        "posix.system": whole(call("posix", "system", command)),
        "builtins.eval": whole(call("builtins", "eval", code)),
        "builtins.exec": whole(call("__builtin__", "exec", code)),
        "subprocess.Popen": whole(call("subprocess", "Popen", b"(" + text("touch") + text(str(marker)) + b"t")),
        "torch.hub.load": whole(call("torch.hub", "load", text(str(marker.parent)), text("x"))),
        "torch.load": whole(call("torch", "load", text(str(marker)))),
        "functools.partial": whole(call("functools", "partial", name("os", "system"), command)),
        "operator.attrgetter": whole(call("operator", "attrgetter", text("system"))),
        "builtins.__import__": whole(system + b"(" + command + b"tR"),
        "builtins.open": b"\x80\x04\x8c\x08builtins\x8c\x04open\x93(" + text(str(marker)) + text("w") + b"tR.",
        "copyreg._reconstructor": whole(call("copyreg", "_reconstructor", name("mace", "A"))),
        "INST": whole(b"(" + command + b"ios\nsystem\n"),
        "OBJ": whole(b"(" + name("mace", "A") + command + b"o"),
    }


@pytest.mark.parametrize("what", sorted(dangerous(Path("x"))))
def test_foreign_calls_are_refused(path: Path, what: str) -> None:
    marker = path.with_name("marker")
    refuse(path, archive(dangerous(marker)[what]), what)
    assert not marker.exists()


@pytest.mark.parametrize("function", [os.system, eval])
def test_python_itself_would_have_called_it(path: Path, function: Any) -> None:
    """The danger is real: Python's unpickler makes the marker that we do not."""
    marker = path.with_name("marker")
    argument = f"touch {marker}" if function is os.system else f"open({str(marker)!r}, 'w').close()"
    pickled = pickle.dumps(Call(function, argument), 2)
    refuse(path, archive(pickled), "nothing was executed")
    assert not marker.exists()
    pickle.loads(pickled)
    assert marker.exists()


def test_admitted_names_execute_nothing(path: Path) -> None:
    """Even names that exist, with dots that a usual unpickler follows, are only words."""
    marker = path.with_name("marker")
    command = text(f"touch {marker}")
    for module, attribute in (("mace.tools", "os.system"), ("os", "system"), ("torch.nn", "Module.to.__globals__.os")):
        path.write_bytes(archive(whole(call(module, attribute, command))))
        record = read_archive(path, ["mace", "os", "torch"])
        assert record.kind == f"{module}.{attribute}" and record.args == (f"touch {marker}",)
        owner = call("__builtin__", "getattr", name(module, attribute), text("__call__"))
        path.write_bytes(archive(whole(owner + b"(" + command + b"tR")))
        assert read_archive(path, ["mace", "os", "torch"]).kind == f"{module}.{attribute}.__call__"
    path.write_bytes(archive(whole(call("torch.nn", "A") + b"}" + text("__setstate__") + name("os", "system") + b"sb")))
    assert read_archive(path, ["torch.nn", "os"]).state["__setstate__"].kind == "os.system"
    assert not marker.exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (call("mace", "A") + b"(" + b"tR", "calls a Record"),
        (b"](tR", "calls a list"),
        (name("mace", "A") + b"]R", "calls a Record"),
        (name("mace", "A") + b"}b", "gives a state to mace.A itself"),
        (call("mace", "A") + b"}b}b", "or twice"),
        (b"]}b", "gives a state to a list"),
        (b"}}b", "gives a state to a dict"),
        (call("mace", "A") + number(1) + b"a", "is no list"),
        (call("mace", "A") + number(1) + number(1) + b"s", "is no dictionary"),
        (call("torch", "FloatStorage"), "only ever named"),
        (call("builtins", "getattr", b"]", text("append")), "takes an attribute"),
        (call("builtins", "getattr", name("mace", "A"), text("b c")), "takes an attribute"),
        (call("_codecs", "encode", text("a"), text("rot13")), "another way"),
        (call("_codecs", "encode", text("€"), text("latin1")), "damaged"),
        (call("builtins", "set", text("abc")), "damaged"),
        (call("torch", "device", text("no such")), "device"),
        (call("torch", "device", text("abc")), "device"),
        (call("torch", "device", text("cpu"), number(-1)), "device"),
        (call("torch", "Size", numbers(-1)), "shape"),
        (call("torch", "Size", numbers(*[1] * 20)), "shape"),
        (call("torch._utils", "_rebuild_parameter", number(1)), "parameter"),
        (call("torch._tensor", "_rebuild_from_type_v2", name("mace", "A"), name("mace", "B"), b")"), "unknown class"),
        (call("numpy.core.multiarray", "scalar", number(1), number(1)), "numpy"),
        (name("mace", ""), "no name"),
        (name("mace\xe9", "A"), "damaged"),
        (name("mace", "A" * 300), "no name"),
        (name("mace x", "A"), "no name"),
        (number(1) + number(2) + b"\x93", "no text"),
        (number(2**128), "128 bits"),
        (storage(), "leaves a Storage"),
        (text("x") + b"Q", "description of a storage"),
        (b"0", "POP"),
        (b"\x82\x01", "EXT1"),
        (b"\x92", "NEWOBJ_EX"),
        (b"\x97", "NEXT_BUFFER"),
        (b"\x96" + struct.pack("<Q", 2**62), "BYTEARRAY8"),
        (b"P0\n", "PERSID"),
        (b"I" + b"1" * 10**6 + b"\n", "INT"),
        (b"\xff", "is no instruction"),
        (b"", "damaged"),
        (b"(", "damaged"),
        (b"NN", "does not end with one object"),
        (b"(N", "does not end with one object"),
        (b"a", "damaged"),
        (b"h\x05", "damaged"),
        (b"X\x02\0\0\0\xed\xa0", "damaged"),
        (b"X\x03\0\0\0\xed\xa0\x80", "damaged"),
    ],
)
def test_wrong_pickles(path: Path, body: bytes, message: str) -> None:
    refuse(path, archive(whole(body), FLOATS), message)


def test_bytes_after_the_end(path: Path) -> None:
    refuse(path, archive(whole(b"N") + b"N."), "does not end with one object")
    refuse(path, archive(b"\x80\x02N"), "truncated")


# -- Time and memory


def doubled(levels: int) -> bytes:
    """Lists of twice the list before."""
    get, put = (b"%c" % code for code in b"jr")
    indices = [struct.pack("<L", i) for i in range(levels)]
    return b"(]" + b"".join(put + i + b"](" + 2 * (get + i) + b"e" for i in indices) + b"t"


BOMBS: dict[str, tuple[bytes, str]] = {
    "memo far out": (b"Nr\xff\xff\xff\x7f", "out of order"),
    "long integer": (b"\x8b" + struct.pack("<l", 2**24) + b"\x01" * 2**24, "128 bits"),
    "length of bytes": (b"\x8e" + struct.pack("<Q", 2**63 - 1), "damaged"),
    "length of text": (b"\x8d" + struct.pack("<Q", 2**40), "damaged"),
    "frame": (b"\x95" + struct.pack("<Q", 2**63) + b"\x85", "damaged"),
    "sets": (b"\x8f" * 2_000_000, "steps"),
    "marks": (b"(" * 2_000_000, "steps"),
    "deep lists": (b"]" * 150_000 + b"a" * 149_999, "nested deeper"),
    "deep tuples": (b")" + b"\x85" * 900_000, "nested deeper"),
    "deep key": (b"}" + b")" + b"\x85" * 900_000 + b"Ns", "as key"),
    "deep records": (name("mace", "A") + b"q\0" + b"h\0" * 200_000 + b"N" + b"\x85R" * 200_001, "nested deeper"),
    "doubling": (doubled(150), "more than"),
    "doubled key": (b"}" + b")" + b"q\0h\0\x86" + b"\x94h\x01\x86Ns", "as key"),
    "equal long keys": (
        (text("a" * 10**7) + b"q\0") + (text("a" * 10**7) + b"q\1") + b"}" + b"h\0Nsh\1Ns" * 100_000,
        "very long",
    ),
    "cycle": (b"]q\0h\0a", "contains itself"),
    "cycle of a record": (call("mace", "A") + b"q\0}" + text("a") + b"h\0sb", "contains itself"),
    "colliding keys": (b"}(" + b"".join(number(i * (2**61 - 1)) + b"N" for i in range(1, 50_000)) + b"u", "4096 keys"),
    "colliding members": (b"\x8f(" + b"".join(number(i * (2**61 - 1)) for i in range(1, 50_000)) + b"\x90", "4096"),
    "copied sets": (
        b"(](" + text("a") * 1000 + b"eq\0" + (name("builtins", "set") + b"h\0\x85R") * 2000 + b"t",
        "steps",
    ),
    "copied bytes": (
        text("a" * 1_000_000)
        + b"q\0"
        + text("latin1")
        + b"q\1"
        + (name("_codecs", "encode") + b"h\0h\1\x86R") * 10_000,
        "multiplies its bytes",
    ),
    "long names": (text("a" * 10**6) + b"q\0" + b"h\0h\0\x93" * 10, "no name"),
    "arguments": (
        b"((" + b"N" * 1000 + b"tq\0" + (name("torch._utils", "_rebuild_parameter") + b"h\0R") * 1000,
        "parameter",
    ),
    "views": (
        b"(" + tensor((4,), (0,)) * 5_000 + tensor((2,)) * 5_000 + tensor((2**18,), (0,)) * 3,
        "larger than the file",
    ),
    "expanded": (tensor((2**40,), (0,)), "larger than the file"),
}


@pytest.mark.parametrize("what", sorted(BOMBS))
def test_bombs(path: Path, what: str) -> None:
    body, message = BOMBS[what]
    refuse(path, archive(whole(body), FLOATS), message)


def test_huge_pickle(path: Path) -> None:
    refuse(path, archive(b"\x80\x02" + b"N" * (33 * 2**20)), "expected at most")


# -- Tensors


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (tensor((5,)), "past its storage"),
        (tensor((4,), (2,)), "past its storage"),
        (tensor((4,), (1,), 1), "past its storage"),
        (tensor((2, 2), (3, 1)), "past its storage"),
        (tensor((1,), (1,), 4), "past its storage"),
        (tensor((1,), (1,), 2**62), "offset"),
        (tensor((2**62, 4), (0, 0)), "shape"),
        (tensor((2**40, 2**40), (0, 0)), "past its storage"),
        (tensor((2**40, 2**40, 0), (0, 0, 0)), "past its storage"),
        (tensor((4,), (-1,)), "strides"),
        (tensor((-1,)), "shape"),
        (tensor((1,), (1,), -1), "offset"),
        (tensor((1,), (1, 1)), "1 dimensions and 2 strides"),
        (tensor((1,) * 17, (1,) * 17), "at most 16"),
        (tensor(stored=number(1)), "tensor of a kind"),
        (tensor(stored=storage("1")), "storage '1' is missing"),
        (tensor(stored=storage("../data.pkl")), "is missing"),
        (tensor(stored=storage("x" * 100)), "usable name"),
        (tensor(stored=storage("2", 3)), "has 16 bytes, expected 3"),
        (tensor(stored=storage("2", 2**62)), "has 16 bytes"),
        (tensor(stored=storage(count=-1)), "usable name and length"),
        (tensor(stored=storage(count=2, kind="LongStorage")), "described in two ways"),
        (tensor(stored=storage(kind="NoStorage")), "torch.NoStorage"),
        (tensor(stored=storage("2", 16, "BoolStorage")), "neither 0 nor 1"),
        (call("torch._utils", "_rebuild_tensor_v2", storage(), b"\x88", numbers(4), numbers(1)), "offset"),
        (call("torch._utils", "_rebuild_tensor_v2", storage(), number(0), b"]", numbers(1)), "shape"),
        (call("torch._utils", "_rebuild_tensor_v2", storage()), "damaged"),
        (
            call(
                *("torch._utils", "_rebuild_tensor_v2", storage(), number(0), numbers(4), numbers(1), b"\x89", b"}"),
                b"}" + text("neg") + b"\x88s",
            ),
            "tensor of a kind",
        ),
    ],
)
def test_wrong_tensors(path: Path, body: bytes, message: str) -> None:
    records = FLOATS | {"data/2": bytes(range(16))}
    refuse(path, archive(whole(b"(" + tensor() + body + b"t"), records), message)


def test_fuzzing() -> None:
    """A few thousand damaged and hostile archives in a process with little memory: see `torch_archives.main`."""
    script = Path(__file__).with_name("torch_archives.py")
    environment = os.environ | {"PYTHONPATH": str(script.parent.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), "20", "3000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["failures"] == [] and result["files"] == ["case.model"]
    assert sum(result["outcomes"].values()) == 3000 and min(result["outcomes"].values()) > 100
    assert result["slowest_s"] < 10 and result["peak_MiB"] < 300
