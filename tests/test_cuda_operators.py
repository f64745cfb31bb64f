"""The CUDA operators on a device equal those of the CPU: values, derivatives, potentials. To be run with a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cuda_cases
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

import mlip
from mlip import _extension, ops
from mlip.acceleration import Acceleration
from mlip.convert import atoms_to_graph
from mlip.ops.dispatch import CUDA_VARIABLE, has_cuda_kernel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not _extension.compiled, reason="the compiled operators are not installed"),
]
DTYPES = [torch.float32, torch.float64]


@pytest.fixture(autouse=True)
def _compiled_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(has_cuda_kernel(name) for name in cuda_cases.OPERATORS), "the library was built without CUDA"
    monkeypatch.setenv(CUDA_VARIABLE, "1")


def on_device(argument: Any, operator: str = "", name: str = "") -> Any:
    """Tensors on the GPU, but for those that operators take from the CPU."""
    return argument if cuda_cases.stays_on_cpu(operator, name, argument) else argument.cuda()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_operator_equals_the_cpu(dtype: torch.dtype) -> None:
    for name, arguments in cuda_cases.calls(dtype):
        operator = getattr(torch.ops.mlip, name)
        names = cuda_cases.argument_names(name)
        moved = [on_device(x, name, argument) for argument, x in zip(names, arguments, strict=True)]
        cuda_cases.assert_same(name, operator(*moved), operator(*arguments))


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_are_the_same_in_every_run(dtype: torch.dtype) -> None:
    random = cuda_cases.Random(dtype)
    named = cuda_cases.message_arguments(random, 1, 3, 300, 9000, 64)
    arguments = [on_device(named[name]) for name in cuda_cases.argument_names("message_interpolated")]
    linear = [t.requires_grad_() for t in arguments if isinstance(t, Tensor) and t.is_floating_point()][:3]
    runs = []
    for _ in range(3):
        out = torch.ops.mlip.message_interpolated(*arguments)
        runs.append((out, *torch.autograd.grad(out.square().sum(), linear)))
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def functions(random: cuda_cases.Random) -> Iterator[tuple[str, Callable[..., Any], list[Tensor], list[Any]]]:
    """Public functions, arguments with derivatives, and others."""
    normal, integers = random.normal, random.integers
    batch, shift = integers(2, 9), integers(3, 80, 3) - 1
    yield "edge_vectors", ops.edge_vectors, [normal(9, 3), normal(2, 3, 3)], [integers(9, 2, 80), shift, batch]
    yield "spherical_harmonics", ops.spherical_harmonics, [normal(80, 3)], [3]
    yield "cubic_weights", lambda r, *grid: ops.cubic_weights(r, *grid)[0], [normal(80).abs() + 0.1], [0.3, 12]
    for hidden, harmonics in ((0, 3), (1, 3), (2, 3)):
        named = cuda_cases.message_arguments(random, hidden, harmonics, 7, 90, 48)
        graph = [named[name] for name in ("neighbor", "offsets", "hidden", "harmonics")]
        x, coupling, weights = named["x"], named["coupling"], named["weights"]
        rest = [named["knot"], named["table"], *graph]
        yield "message_interpolated", ops.message_interpolated, [x, coupling, weights], rest
        yield "message_exact", ops.message_exact, [x, coupling, named["activations"], named["matrix"]], graph
    yield "neighbor_outer", ops.neighbor_outer, [normal(60, 16), normal(60, 33)], [random.graph(8, 60)[1]]
    basis = cuda_cases.program(3, 3)
    features, coefficients = normal(16, 6, 48), normal(2, basis.n_terms, 48)

    def contraction(features: Tensor, coefficients: Tensor, species: Tensor) -> Tensor:
        return ops.symmetric_contraction(features, species, coefficients, basis)

    yield "symmetric_contraction", contraction, [features, coefficients], [integers(2, 6)]


def derivatives(
    function: Callable[..., Any], inputs: Sequence[Tensor], rest: Sequence[Any], cuda: bool
) -> list[Tensor]:
    """Values, first derivatives of a sum of cubes, and derivatives of the sum of squares of these."""
    move = on_device if cuda else lambda t: t
    inputs = [move(t).detach().clone().requires_grad_() for t in inputs]
    out = function(*inputs, *map(move, rest))
    values = [out] if isinstance(out, Tensor) else list(out)
    first = torch.autograd.grad(sum(v.pow(3).sum() for v in values), inputs, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
    return [*values, *first, *second]


@pytest.mark.parametrize("dtype", DTYPES)
def test_derivatives_equal_those_of_the_cpu(dtype: torch.dtype) -> None:
    for name, function, inputs, rest in functions(cuda_cases.Random(dtype)):
        assert ops.runs_compiled(inputs[0].cuda(), cuda=name)
        found, expected = (derivatives(function, inputs, rest, cuda) for cuda in (True, False))
        for k, (a, b) in enumerate(zip(found, expected, strict=True)):
            scale = float(b.detach().abs().max())
            assert float((a.detach().cpu() - b.detach()).abs().max()) <= cuda_cases.TOLERANCE[dtype] * scale, (
                name,
                k,
            )


def crystal() -> Atoms:
    atoms = bulk("SiC", "zincblende", a=4.4, cubic=True) * (2, 2, 1)
    atoms.positions += np.random.default_rng(4).normal(0, 0.08, atoms.positions.shape)
    return atoms


@pytest.mark.parametrize("radial", ["table", "exact"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-11)])
@pytest.mark.parametrize("name", cuda_cases.MODELS)
def test_potentials_equal_those_of_the_cpu(name: str, dtype: torch.dtype, tolerance: float, radial: str) -> None:
    on_cpu = cuda_cases.potential(**cuda_cases.MODELS[name]).to(dtype)
    results = []
    for device in ("cpu", "cuda"):
        moved = on_cpu.to(device)
        moved.acceleration = Acceleration("compiled", radial)
        graph = atoms_to_graph([crystal(), bulk("Si")], moved.cutoff, device=device)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # no fallback
            assert moved.acceleration.evaluator(moved.model) is not moved.model
            results.append([t.cpu() for t in moved(graph, stress=True) if t is not None])
    scale = max(1.0, float(results[0][2].abs().max()))
    for a, b in zip(*results, strict=True):
        assert float((a.double() - b.double()).abs().max()) <= tolerance * scale


def test_force_losses_equal_those_of_the_cpu() -> None:
    gradients = []
    for device in ("cpu", "cuda"):
        trained = cuda_cases.potential(**cuda_cases.MODELS["vectors"]).requires_grad_(True).to(device)
        graph = atoms_to_graph([crystal()], trained.cutoff, device=device)
        prediction = trained(graph, stress=False)
        loss = prediction.forces.square().sum() + prediction.energy.square().sum()
        parameters = [p for p in trained.model.parameters() if p.requires_grad]
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        gradients.append([g.cpu() for g in found])
    scale = max(float(g.abs().max()) for g in gradients[0])
    assert all(float((a - b).abs().max()) <= 1e-9 * scale for a, b in zip(*gradients, strict=True))


def test_off_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CUDA_VARIABLE)
    assert not ops.runs_compiled(torch.zeros(3).cuda(), cuda="edge_vectors")
    assert mlip.compiled
