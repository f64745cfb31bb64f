"""The compiled symmetry functions against plain torch: values, first and second derivatives, all kinds and windows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from test_hdnnp import CUTOFF, functions, make
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import mlip
from mlip import ops
from mlip.convert import atoms_to_graph
from mlip.graph import AtomGraph
from mlip.models import HDNNP
from mlip.models.compiled_hdnnp import CompiledHDNNP
from mlip.nn.symmetry_functions import CORES, CUTOFFS, KINDS, WITHOUT_INNER, SymmetryFunction
from mlip.ops.edges import row_offsets
from mlip.potential import Potential

compiled = pytest.mark.skipif(not mlip.compiled, reason="needs the compiled operators")
pytestmark = compiled
ELEMENTS = (1, 6, 14)


def structure(elements: tuple[int, ...] = ELEMENTS, seed: int = 0) -> Atoms:
    """A dense, periodic, random one."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Si", cubic=True).repeat((1, 1, 2))
    atoms.numbers = rng.choice(elements, len(atoms))
    atoms.rattle(0.3, seed=seed)
    return atoms


def hdnnp(made: list[SymmetryFunction], elements: tuple[int, ...] = ELEMENTS, **options: object) -> HDNNP:
    model = make(elements, made, **options).model
    assert isinstance(model, HDNNP)
    return model


def both(model: HDNNP, graph: AtomGraph) -> tuple[Tensor, Tensor]:
    """Symmetry functions of all atoms by the operator, and by plain torch."""
    found = [values for _, values in model.symmetry_functions(graph)]
    expected = [values for _, values in model.plain_symmetry_functions(graph)]
    return torch.cat([v.flatten() for v in found]), torch.cat([v.flatten() for v in expected])


def compare(model: HDNNP, graph: AtomGraph) -> None:
    """Values, and first and second derivatives of a random function of them."""
    moved = graph._replace(positions=graph.positions.clone().requires_grad_(True))
    results = []
    generator = torch.Generator().manual_seed(1)
    for values in both(model, moved):
        weights = torch.randn(len(values), generator=generator.manual_seed(1), dtype=torch.float64)
        scale = values.detach().abs() + 1e-3 * values.detach().abs().max()
        (first,) = torch.autograd.grad((weights * values / scale).sin().sum(), moved.positions, create_graph=True)
        direction = torch.randn(first.shape, generator=generator, dtype=torch.float64)
        (second,) = torch.autograd.grad((first * direction).sum(), moved.positions)
        results.append((values.detach(), first.detach(), second))
    for found, expected in zip(*results, strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: int) -> None:
    compare(hdnnp(functions(ELEMENTS, (kind,))), atoms_to_graph(structure(), CUTOFF))


@pytest.mark.parametrize("name", CUTOFFS)
@pytest.mark.parametrize("inner", [0.0, 0.3])
def test_cutoff_functions(name: str, inner: float) -> None:
    if inner and name in WITHOUT_INNER:
        pytest.skip("has no inner cutoff")
    model = hdnnp(functions((14,), (2, 3, 9)), (14,), cutoff_function=name, inner_cutoff=inner)
    compare(model, atoms_to_graph(structure((14,)), CUTOFF))


@pytest.mark.parametrize("core", [*CORES, *(f"{core}a" for core in CORES if core != "e")])
def test_cores(core: str) -> None:
    compare(hdnnp(functions((14,), (20, 21, 22), core), (14,)), atoms_to_graph(structure((14,)), CUTOFF))


@pytest.mark.parametrize("zeta", [0.5, 1.0, 1.5, 2.0, 3.7, 16.0, 200.0])
def test_powers(zeta: float) -> None:
    made = [SymmetryFunction(k, 14, (14, 14), CUTOFF, 0.1, 0.2, lam, zeta) for k in (3, 9) for lam in (1.0, -1.0)]
    compare(hdnnp(made, (14,)), atoms_to_graph(structure((14,)), CUTOFF))


def test_functions_of_different_reach() -> None:
    made = [SymmetryFunction(2, 14, (14,), cutoff, 0.3) for cutoff in (2.5, 3.0, CUTOFF)]
    made += [SymmetryFunction(k, 14, (14, 14), c, 0.2, 0.1, 1.0, 2.0) for k in (3, 9) for c in (2.6, 3.3)]
    made += [SymmetryFunction(22, 14, (14, 14), 3.4, lowest=a, angles=(90.0, 140.0)) for a in (1.5, 2.0, 2.8)]
    graph = atoms_to_graph(structure((14,)), 1.4 * CUTOFF)  # of a longer list too
    compare(hdnnp(made, (14,)), graph)


def test_atoms_in_line_and_alone() -> None:
    """Cosines of exactly 1 and -1, neighbors at the same distance, an atom without neighbors."""
    line = Atoms("Si5", positions=[[0, 0, 0], [2, 0, 0], [-2, 0, 0], [3.9, 0, 0], [50, 0, 0]])
    graph = atoms_to_graph([line, bulk("Si"), Atoms("Si")], CUTOFF)
    for kinds in ((2, 3, 9), (20, 21, 22)):
        model = hdnnp(functions((14,), kinds), (14,))
        found, expected = both(model, graph)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-14)
        for derivative in CompiledHDNNP(model).first_derivatives(graph)[:3]:
            assert derivative is not None and bool(derivative.isfinite().all())


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize(
    "options",
    [
        {"kind": 9, "eta": 0.1, "lam": 1.0, "zeta": 1.0},
        {"kind": 3, "eta": 0.1, "lam": -1.0, "zeta": 1.0},
        {"kind": 22, "lowest": -CUTOFF, "angles": (20.0, 180.0), "core": "p1"},
        {"kind": 22, "lowest": -CUTOFF, "angles": (-180.0, 180.0), "core": "p1"},
        {"kind": 21, "lowest": -CUTOFF, "angles": (100.0, 260.0), "core": "e"},
    ],
)
def test_hessian_of_atoms_in_line(backend: str, options: dict[str, Any]) -> None:
    """cos = -1 exactly: the derivative of the angle's part by the cosine is that of its limit."""
    atoms = Atoms("CO2", positions=[[0, 0, 0], [0, 0, 1.2], [0, 0, -1.2]])
    made = [
        SymmetryFunction(center=a, neighbors=(8, 8) if a == 6 else (6, 8), cutoff=CUTOFF, **options) for a in (6, 8)
    ]
    torch.manual_seed(0)
    model = HDNNP((6, 8), CUTOFF, made, hidden=(4,), activations=("tanh", "identity")).double()
    potential = Potential(model, {6: 0.0, 8: 0.0})
    potential.model.requires_grad_(False)
    potential.acceleration.backend = backend
    hessian = potential.hessian(atoms_to_graph(atoms, CUTOFF)).view(9, 9)
    columns = []
    for k in range(9):
        forces = []
        for step in (1e-4, -1e-4):
            moved = atoms.copy()
            moved.positions.flat[k] += step
            found = potential(atoms_to_graph(moved, CUTOFF), stress=False).forces
            assert found is not None
            forces.append(found.flatten())
        columns.append((forces[1] - forces[0]) / 2e-4)
    assert hessian.abs().max() > 1e-3
    rough = options.get("core") == "p1"  # whose third derivative jumps there
    tolerance = (1e-3 if rough else 1e-6) * float(hessian.abs().max())
    torch.testing.assert_close(hessian, torch.stack(columns), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["exp", "cos"])
def test_just_within_the_cutoff(name: str) -> None:
    """Where the scaled distance rounds to 1."""
    below = [float(np.nextafter(c, 0)) for c in np.linspace(2.0, CUTOFF, 40)]
    made = [SymmetryFunction(2, 14, (14,), float(np.nextafter(r, 9)), 0.1) for r in below]
    made += [SymmetryFunction(20, 14, (14,), float(np.nextafter(r, 9)), core="e") for r in below]
    model = HDNNP((14,), CUTOFF, made, cutoff_function=name).double()
    for r in below:
        graph = atoms_to_graph(Atoms("Si2", positions=[[0, 0, 0], [0, 0, r]]), CUTOFF)
        found = CompiledHDNNP(model).first_derivatives(graph)
        assert bool(found.positions.isfinite().all()), r


def test_equal_functions() -> None:
    made = [SymmetryFunction(2, 14, (14,), CUTOFF, 0.1)] * 2 + [SymmetryFunction(9, 14, (14, 14), CUTOFF, 0.1)] * 3
    compare(hdnnp(made, (14,)), atoms_to_graph(structure((14,)), CUTOFF))


def test_no_edges_and_no_atoms() -> None:
    model = hdnnp(functions((14,), (2, 3)), (14,))
    for atoms in (Atoms("Si"), Atoms("Si2", positions=[[0, 0, 0], [9, 0, 0]])):
        found, expected = both(model, atoms_to_graph(atoms, CUTOFF))
        assert torch.equal(found, expected) and not found.any()


def operands(seed: int = 0) -> tuple[HDNNP, tuple[Tensor, ...]]:
    model = hdnnp(functions(ELEMENTS, (2, 3, 22, 24)))
    graph = atoms_to_graph(structure(seed=seed), CUTOFF)
    species = model.species(graph.numbers)
    center, neighbor = graph.edge_index
    return model, (graph.edge_vectors(), row_offsets(center, len(species)), species[neighbor], species)


def test_opcheck() -> None:
    model, given = operands()
    given = (given[0].requires_grad_(True), *given[1:])
    torch.library.opcheck(torch.ops.mlip.symmetry_functions.default, (*given, *model.tables))
    grad = torch.randn(len(given[-1]), model.tables.columns, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.mlip.symmetry_functions_backward.default, (grad, *given, *model.tables))
    for need in (True, False):
        direction = torch.randn_like(given[0])
        arguments = (direction, grad.detach(), given[0].detach(), *given[1:], *model.tables, need)
        torch.library.opcheck(torch.ops.mlip.symmetry_functions_tangent.default, arguments)


def test_gradients_by_finite_differences() -> None:
    model = hdnnp(functions((6, 14), (3, 9, 22)), (6, 14))
    atoms = structure((6, 14))[:5]
    atoms.pbc = False
    graph = atoms_to_graph(atoms, CUTOFF)
    species = model.species(graph.numbers)
    edges = (row_offsets(graph.edge_index[0], len(species)), species[graph.edge_index[1]], species)

    def function(vectors: Tensor) -> Tensor:
        return ops.symmetry_functions(vectors, *edges, model.tables)

    vectors = graph.edge_vectors().requires_grad_(True)
    assert torch.autograd.gradcheck(function, (vectors,), atol=1e-7)
    assert torch.autograd.gradgradcheck(function, (vectors,), atol=1e-6)


def test_there_is_no_third_derivative() -> None:
    model, given = operands()
    vectors = given[0].requires_grad_(True)
    values = ops.symmetry_functions(vectors, *given[1:], model.tables)
    (first,) = torch.autograd.grad(values.square().sum(), vectors, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), vectors, create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivative"):
        second.sum().backward()


class Tangents(TorchDispatchMode):
    """Whether derivatives of the gradient by positions were asked for, call by call."""

    def __init__(self) -> None:
        super().__init__()
        self.needed: list[bool] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if function is torch.ops.mlip.symmetry_functions_tangent.default:
            self.needed.append(arguments[-1])
        return function(*arguments, **(options or {}))


def test_training_leaves_out_second_derivatives_by_positions() -> None:
    """The same gradients of the parameters, for less."""
    potential = make(ELEMENTS, functions(ELEMENTS, (2, 3)))
    potential.requires_grad_(True)
    graph, parameters = atoms_to_graph(structure(), CUTOFF), list(potential.model.parameters())
    found = []
    for options, needed in (({}, True), ({"inputs": parameters}, False)):
        for parameter in parameters:
            parameter.grad = None
        forces = potential(graph, stress=False, training=True).forces
        assert forces is not None
        with Tangents() as seen:
            forces.square().sum().backward(**options)
        assert seen.needed == [needed]
        found.append([parameter.grad for parameter in parameters if parameter.grad is not None])
    assert len(found[0]) > 3
    for plain, spared in zip(*found, strict=True):
        assert torch.equal(plain, spared)


def test_potential_with_both_backends() -> None:
    """Energies, forces, stresses, the Hessian and the gradients of a force loss."""
    potential = make(ELEMENTS, functions(ELEMENTS, (2, 3, 9, 22)))
    graph = atoms_to_graph(structure(), CUTOFF)
    found = []
    for backend in ("compiled", "reference"):
        potential.acceleration.backend = backend
        potential.acceleration.forget()
        assert isinstance(potential.acceleration.trainer(potential.model), HDNNP) == (backend == "reference")
        potential.requires_grad_(False)
        prediction = potential(graph)
        hessian = potential.hessian(graph, indices=[3])
        potential.requires_grad_(True)
        trained = potential(graph, training=True)
        assert trained.forces is not None and trained.stress is not None
        loss = trained.forces.square().sum() + trained.energy.sum() + trained.stress.square().sum()
        parameters = list(potential.model.parameters())
        found.append([*prediction[:4], hessian, *torch.autograd.grad(loss, parameters, allow_unused=True)])
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-9 * float(plain.abs().max()))


def test_wrong_tables_are_refused() -> None:
    model, given = operands()
    tables = model.tables
    wrong = tables.functions.clone()
    wrong[0, 5] = len(tables.parts)
    for bad in (
        tables._replace(functions=wrong),
        tables._replace(columns=1),
        tables._replace(parts=tables.parts[:, :5].contiguous()),
        tables._replace(numbers=tables.numbers[:2]),
    ):
        with pytest.raises(ValueError, match="symmetry_functions: "):
            ops.symmetry_functions(*given, bad)
    with pytest.raises(ValueError, match="offsets"):
        ops.symmetry_functions(given[0], given[1].flip(0), *given[2:], tables)
    with pytest.raises(ValueError, match="elements"):
        ops.symmetry_functions(*given[:2], given[2] + 1, given[3], tables)


def everything() -> list[Tensor]:
    """All three operators."""
    model, given = operands(3)
    tables, generator = model.tables, torch.Generator().manual_seed(2)
    grad = torch.randn(len(given[-1]), tables.columns, generator=generator, dtype=torch.float64)
    direction = torch.randn(given[0].shape, generator=generator, dtype=torch.float64)
    return [
        ops.symmetry_functions(*given, tables),
        ops.symmetry_functions_gradient(grad, *given, tables),
        *torch.ops.mlip.symmetry_functions_tangent(direction, grad, *given, *tables, True),
    ]


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_and_number_of_threads(isa: str) -> None:
    program = (
        "import torch, test_ops_symmetry_functions as t\n"
        "t.test_gradients_by_finite_differences()\n"
        "t.test_kinds(24)\n"
        "out = []\n"
        "for threads in (1, 2, 5):\n"
        "    torch.set_num_threads(threads)\n"
        "    out.append(t.everything())\n"
        "assert all(torch.equal(a, b) for o in out for a, b in zip(out[0], o))\n"
    )
    paths = os.pathsep.join([str(Path(mlip.__file__).parents[1]), str(Path(__file__).parent)])
    environment = os.environ | {"MLIP_SIMD": isa, "PYTHONPATH": paths, "OMP_NUM_THREADS": "5"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
