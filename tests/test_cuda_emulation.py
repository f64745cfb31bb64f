"""The CUDA operators' code, compiled for the processor (tests/cuda_emulation), equals the operators of the CPU.

What it shows is that indices, sums, barriers and exchanges are right; not that a device runs them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import cuda_cases
import pretend_device
import pytest
import torch
from ase.build import bulk
from torch import Tensor

from mlip import _extension
from mlip.convert import atoms_to_graph
from mlip.graph import AtomGraph
from mlip.models import MACE
from mlip.ops import dispatch

HERE = Path(__file__).parent
SOURCES = HERE.parent / "mlip" / "csrc"
EMULATION = HERE / "cuda_emulation"
FILES = [path.name for path in sorted(SOURCES.glob("*.cu")) if path.name not in ("neighbor_list.cu", "sort.cu")]

pytestmark = [
    pytest.mark.skipif(not _extension.compiled, reason="the compiled operators are not installed"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler"),
    pytest.mark.skipif(os.uname().sysname != "Linux", reason="the emulation is written for Linux"),
]


def build(folder: Path) -> Path:
    """The library, whose operators are `torch.ops.mlip_emulated.*`."""
    # Hidden: the loader merges variables of templates in all libraries that export them, even with those of `_ops.so`.
    flags = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-w", f"-I{EMULATION}", f"-I{SOURCES}"]
    objects = []
    for source in [*(SOURCES / name for name in FILES), EMULATION / "emulation.cpp"]:
        objects.append(folder / f"{source.stem}.o")
        subprocess.run(["g++", *flags, "-x", "c++", "-c", source, "-o", objects[-1]], check=True)
    # A stand-in for libtorch, as in CMakeLists.txt.
    (folder / "empty.cpp").write_text("")
    subprocess.run(["g++", "-shared", "-o", folder / "libtorch_cpu.so", folder / "empty.cpp"], check=True)
    library = folder / "emulated.so"
    link = ["-Wl,--no-as-needed", f"-L{folder}", "-ltorch_cpu"]
    subprocess.run(["g++", "-shared", "-o", library, *objects, *link], check=True)
    return library


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> torch.library.Library:
    """Keeps the definitions of the emulated operators."""
    library = build(tmp_path_factory.mktemp("cuda_emulation"))
    definitions = torch.library.Library("mlip_emulated", "DEF")
    for name in torch._C._dispatch_get_all_op_names():
        if name.startswith("mlip::"):
            schema = str(getattr(torch.ops.mlip, name.removeprefix("mlip::")).default._schema)
            definitions.define(schema.removeprefix("mlip::"))
    pretend_device.load_emulation(library)
    return definitions


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_cpu(emulated: torch.library.Library, dtype: torch.dtype) -> None:
    names = set()
    for name, arguments in cuda_cases.calls(dtype):
        named = zip(cuda_cases.argument_names(name), arguments, strict=True)
        on_cpu = [x for argument, x in named if cuda_cases.stays_on_cpu(name, argument, x)]
        found = pretend_device.emulated(name, arguments, on_cpu)
        cuda_cases.assert_same(name, found, getattr(torch.ops.mlip, name)(*arguments))
        names.add(name)
    assert names >= set(cuda_cases.OPERATORS) - ({"symmetry_functions"} if dtype == torch.float32 else set())


def test_wrong_indices_give_nan(emulated: torch.library.Library) -> None:
    """Nothing waits for the device to look at indices; nothing outside of the tensors is read, either."""
    random = cuda_cases.Random(torch.float64)
    named = cuda_cases.message_arguments(random, 1, 2, 4, 30, 16)
    names = cuda_cases.argument_names("message_interpolated")

    def messages(**changed: torch.Tensor) -> torch.Tensor:
        return torch.ops.mlip_emulated.message_interpolated(*[(named | changed)[name] for name in names])

    assert not messages().isnan().any()
    for name in ("neighbor", "knot"):
        for wrong in (-1, 100):
            index = named[name].clone()
            index[3] = wrong
            found = messages(**{name: index})
            assert found.isnan().any() and not found.isnan().all()
    for center in ([0, 2, 1], [0, 1, 5]):
        offsets = torch.ops.mlip_emulated.row_offsets(torch.tensor(center), 3)
        assert offsets[0] == -1
    offsets = named["offsets"].clone()
    offsets[0] = -1
    assert messages(offsets=offsets).isnan().all()


def test_wrong_arguments_are_refused(emulated: torch.library.Library) -> None:
    operators = torch.ops.mlip_emulated
    with pytest.raises(ValueError, match="vectors: expected a contiguous tensor"):
        operators.spherical_harmonics(torch.zeros(3, 4), 2)
    with pytest.raises(ValueError, match="l_max: expected 0 to 6"):
        operators.spherical_harmonics(torch.zeros(3, 3), 7)
    deep = cuda_cases.program(1, 5, ["0e"])
    features = torch.zeros(4, 2, 16)
    coefficients = torch.zeros(1, 1, deep.n_terms, 16)
    with pytest.raises(ValueError, match="up to 4 factors"):
        operators.symmetric_contraction(features, torch.zeros(2, dtype=torch.int64), coefficients, deep.table, 1)


@pytest.fixture
def device(emulated: torch.library.Library, monkeypatch: pytest.MonkeyPatch) -> pretend_device.PretendDevice:
    """A device whose operators are the emulated ones."""

    def runs(operator: str, tensors: tuple[Tensor, ...]) -> bool:
        return operator in cuda_cases.OPERATORS and all(t.device == pretend_device.DEVICE for t in tensors)

    monkeypatch.setattr(dispatch, "_runs_on_cuda", runs)
    monkeypatch.setattr(torch, "tensor", pretend_device.tensor)
    monkeypatch.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)
    return pretend_device.PretendDevice()


def derivatives(model: MACE, graph: AtomGraph, radial: str, trained: bool) -> list[Tensor]:
    """Energies of atoms and gradients of positions and cells; of a force loss also by the parameters."""
    evaluate = model.compiled(radial, trained=trained)
    assert evaluate is not None
    inputs = [graph.positions.detach().requires_grad_(True), graph.cell.detach().requires_grad_(True)]
    energy = evaluate(graph._replace(positions=inputs[0], cell=inputs[1]), 0).energy
    first = torch.autograd.grad(energy.sum(), inputs, create_graph=trained)
    if not trained:
        return [energy, *first]
    loss = first[0].square().sum() + energy.square().sum()
    parameters = [inputs[0], *model.parameters()]
    second = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [energy, *first, *[g for g in second if g is not None]]


@pytest.mark.parametrize(("radial", "trained"), [("table", False), ("exact", False), ("exact", True)])
@pytest.mark.parametrize("name", cuda_cases.MODELS)
def test_models_equal_those_of_the_cpu(
    device: pretend_device.PretendDevice, name: str, radial: str, trained: bool
) -> None:
    """Whole models on a device whose tensors can't be mixed with others."""
    model = cuda_cases.potential(**cuda_cases.MODELS[name]).to(torch.float64).model.requires_grad_(trained)
    crystal = bulk("SiC", "zincblende", a=4.4)
    crystal.positions[1] += (0.1, 0.05, -0.07)
    graph = atoms_to_graph([crystal, bulk("Si")], model.cutoff)
    expected = derivatives(model, graph, radial, trained)
    with device:
        moved = AtomGraph(*[t.to(pretend_device.DEVICE) for t in graph])
        found = derivatives(model.to(pretend_device.DEVICE), moved, radial, trained)
    assert device.called["symmetric_contraction"] > 0
    assert device.called["message_interpolated" if radial == "table" else "message_exact"] > 0
    for a, b in zip(found, expected, strict=True):
        assert isinstance(a, pretend_device.DeviceTensor)
        b = b.detach()
        assert float((a.inner.detach() - b).abs().max()) <= 1e-12 * max(1.0, float(b.abs().max()))
