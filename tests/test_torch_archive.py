"""Good files of torch.save: read to the bit, foreign classes inert."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_archives import ADMITTED, archive, call, name, number, saved, storage, tensor, text, whole

from mlip.errors import ModelFileError
from mlip.importers.torch_archive import Record, is_torch_archive, read_archive

PROTOCOLS = (2, 3, 4, 5)
REAL = ("mace_mp_small", "autoplex_Si_L1", "tutorial_mace01_swa")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.model"


def read(path: Path, data: bytes, admitted: list[str] = ADMITTED) -> Any:
    path.write_bytes(data)
    assert is_torch_archive(path)
    return read_archive(path, admitted)


def state_dict(module: Record, prefix: str = "") -> dict[str, Tensor]:
    """Parameters and buffers of a module and its children, by torch's names."""
    found = {}
    for group in ("_parameters", "_buffers"):
        found |= {prefix + key: value for key, value in module.state[group].items() if value is not None}
    for key, child in module.state["_modules"].items():
        found |= state_dict(child, f"{prefix}{key}.")
    return found


def network() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.SiLU(), torch.nn.ModuleList([torch.nn.BatchNorm1d(4).double()])
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_module(path: Path, protocol: int) -> None:
    net = network()
    record = read(path, saved(net, protocol))
    assert record.kind == "torch.nn.modules.container.Sequential" and record.args == () and record.called
    assert record.state["_modules"]["1"].kind == "torch.nn.modules.activation.SiLU"
    found, expected = state_dict(record), net.state_dict()
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert type(found[key]) is Tensor and not found[key].requires_grad
        assert found[key].dtype == value.dtype and torch.equal(found[key], value), key


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_of_every_kind(path: Path, protocol: int) -> None:
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {
        "transposed": base.permute(2, 0, 1),
        "part": base[1:, ::2, 1:3],
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 3),
        "empty": torch.zeros(0, 3),
        "nothing": torch.zeros(5)[2:2],
        "bool": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "buffer": torch.nn.Buffer(torch.randn(3)),
        **{str(d): torch.arange(5).to(d) for d in (torch.float16, torch.bfloat16, torch.float32, torch.float64)},
        **{str(d): torch.arange(5).to(d) for d in (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)},
    }
    found = read(path, saved(tensors, protocol))
    assert list(found) == list(tensors)
    for key, value in tensors.items():
        assert found[key].dtype == value.dtype and found[key].shape == value.shape, key
        assert torch.equal(found[key], value), key


def test_tensors_own_their_memory(path: Path) -> None:
    found = read(path, saved({"x": torch.ones(3), "expanded": torch.ones(1).expand(3)}))
    path.unlink()
    for tensor_ in found.values():
        tensor_[0] = 7.0
        assert tensor_.tolist() == [7.0, 1.0, 1.0]


def test_shared_storage_is_read_once(path: Path) -> None:
    base = torch.arange(6.0)
    a, b = read(path, saved([base[:4], base[2:]]))
    a[2] = -1.0
    assert b[0] == -1.0
    same = [base, base]
    a, b = read(path, saved(same))
    assert a is b


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data(path: Path, protocol: int) -> None:
    data = {
        "numbers": [0, -1, 255, 2**31, -(2**63), 2**100, 1.5, -math.inf, True, False, None],
        "texts": ["", "grün", "a" * 300, b"", b"\x00\xff" * 200, b"x"],
        "sets": [set(), {"a", 1}, frozenset({2.5}), {("a", 1)}],
        "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "ordered": OrderedDict([("b", 1), ("a", [OrderedDict()])]),
        (1, "key"): {1: {2: {}}},
        "torch": [torch.Size([1, 2]), torch.float32, torch.bool, torch.device("cuda", 1), torch.device("cpu")],
    }
    found = read(path, saved(data, protocol))
    assert found == data
    assert [type(v) for v in found["sets"]] == [set, set, frozenset, set]
    assert type(found["torch"][0]) is torch.Size and type(found["ordered"]) is OrderedDict


def test_state_dict_with_metadata(path: Path) -> None:
    """A checkpoint: torch gives its OrderedDict an attribute `_metadata`, which is not kept."""
    net = network()
    found = read(path, saved({"epoch": 3, "model": net.state_dict()}))
    assert found["epoch"] == 3 and list(found["model"]) == list(net.state_dict())


@pytest.mark.parametrize("protocol", [2, 4])
def test_numpy(path: Path, protocol: int) -> None:
    scalars = [np.float64(2.5), np.float32(0.5), np.int64(-3), np.bool_(True), np.complex128(1 + 2j)]
    arrays = [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.eye(3)), np.zeros((0, 2)), np.array(3), np.ones(2) > 0]
    found = read(path, saved({"scalars": scalars, "arrays": arrays}, protocol))
    assert found["scalars"] == [2.5, 0.5, -3, True, 1 + 2j]
    assert [type(v) for v in found["scalars"]] == [float, float, int, bool, complex]
    for array, expected in zip(found["arrays"], arrays, strict=True):
        assert array.dtype == expected.dtype and array.shape == expected.shape
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("value", [np.array(["text"]), np.array([None]), np.zeros(1, ">f8"), np.zeros(1, "f8,i4")])
def test_numpy_of_other_kinds_is_refused(path: Path, value: np.ndarray) -> None:
    with pytest.raises(ModelFileError, match="numpy"):
        read(path, saved([value]))


@pytest.mark.parametrize("protocol", [2, 4])
def test_functions_are_references(path: Path, protocol: int) -> None:
    silu, tanh = read(path, saved([torch.nn.functional.silu, torch.tanh], protocol))
    assert silu.kind == "torch.nn.functional.silu" and not silu.called and silu.args == ()
    assert tanh.kind.endswith(".tanh") and not tanh.called


def test_foreign_classes_are_inert(path: Path) -> None:
    body = call("mace.modules", "Block", number(3), text("x")) + b"}" + text("a") + number(1) + b"sb"
    record = read(path, archive(whole(body)))
    assert (record.kind, record.args, record.state) == ("mace.modules.Block", (3, "x"), {"a": 1})
    assert "mace.modules.Block" in repr(record)
    assert "mace" not in sys.modules


@pytest.mark.parametrize(
    ("module", "admitted"),
    [("torch.nn", True), ("torch.nn.modules.x", True), ("torch.nnx", False), ("torch", False), ("maced.x", False)],
)
def test_prefixes_end_at_a_dot(path: Path, module: str, admitted: bool) -> None:
    data = archive(whole(name(module, "Linear")))
    if admitted:
        assert read(path, data).kind == f"{module}.Linear"
    else:
        with pytest.raises(ModelFileError, match=f"{module}.Linear, which is not admitted; nothing was executed"):
            read(path, data)


def test_without_checksums(path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        data = saved(torch.arange(3))
    finally:
        torch.serialization.set_crc32_options(True)
    assert read(path, data).tolist() == [0, 1, 2]


def test_bytes_of_programs_stay_bytes(path: Path) -> None:
    """e3nn keeps its compiled functions as the bytes of a TorchScript archive."""
    script = archive(b"", {"constants.pkl": b""})
    assert read(path, saved({"code": script}))["code"] == script


def test_tensor_of_the_assembler(path: Path) -> None:
    """The hand-made pickle that the hostile ones vary is right itself."""
    floats = {"data/0": np.arange(4, dtype=np.float32).tobytes()}
    assert read(path, archive(whole(tensor()), floats)).tolist() == [0, 1, 2, 3]
    assert read(path, archive(whole(tensor((2, 2), (0, 1), 1, storage())), floats)).tolist() == [[1, 2], [1, 2]]


MEASURE = """
import resource, sys, time
import torch, numpy
from mlip.importers.torch_archive import read_archive
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = peak(), time.perf_counter()
record = read_archive(sys.argv[1], ["mace", "e3nn", "torch.nn", "torch.fx"])
print(time.perf_counter() - start, peak() - before, record.kind, *record.state["_buffers"]["atomic_numbers"].tolist())
"""


@pytest.mark.parametrize("model", REAL)
def test_official_files(mlip_data: Path, model: str) -> None:
    command = [sys.executable, "-c", MEASURE, str(mlip_data / "mace" / f"{model}.model")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    seconds, mebibytes, kind, *elements = done.stdout.split()
    assert kind == "mace.modules.models.ScaleShiftMACE"
    assert float(seconds) < 1.0 and float(mebibytes) < 100
    assert {"mace_mp_small": 89, "autoplex_Si_L1": 1, "tutorial_mace01_swa": 3}[model] == len(elements)
