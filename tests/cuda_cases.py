"""Calls of all operators that have CUDA kernels, with random arguments; for tests on a device and without one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from ase import Atoms
from ase.build import bulk
from e3nn import o3
from test_hdnnp import CUTOFF, functions, make
from torch import Tensor

from mlip import ops
from mlip.convert import atoms_to_graph
from mlip.models import HDNNP, MACE
from mlip.models.compiled_edges import edge_vectors
from mlip.models.compiled_hdnnp import CompiledHDNNP
from mlip.nn.irreps import spherical_irreps, wigner_3j
from mlip.nn.product_basis import polynomial
from mlip.nn.symmetry_functions import CORES, CUTOFFS
from mlip.ops.message import message_paths
from mlip.potential import Potential

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
#: The operators, without those that only are derivatives.
OPERATORS = (
    "edge_vectors",
    "row_offsets",
    "cubic_weights",
    "spherical_harmonics",
    "message_interpolated",
    "message_exact",
    "neighbor_outer",
    "directional_sums",
    "symmetric_contraction",
    "symmetry_functions",
)
#: Arguments of symmetry functions that stay on the CPU.
TABLES = set(ops.SymmetryTables._fields)
DEGREES = [(hidden, harmonics) for hidden in range(3) for harmonics in range(max(1, hidden), 4)]
KNOTS = 9
Call = tuple[str, tuple[Any, ...]]
MODELS: dict[str, dict[str, Any]] = {
    "scalars": {"hidden_irreps": "16x0e"},
    "vectors": {"hidden_irreps": "32x0e+32x1o"},
    "density": {
        "hidden_irreps": "16x0e+16x1o",
        "interaction_first": "density",
        "interaction": "density_residual",
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
    },
}


class Random:
    """Numbers, the same each time."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(1)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(self.dtype)

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(max(1, high), shape, generator=self.generator)

    def graph(self, atoms: int, edges: int) -> tuple[Tensor, Tensor]:
        """Neighbors, and offsets of which the last atom, if there are more, has no edges."""
        center = self.integers(max(1, atoms - 1), edges)
        counts = torch.bincount(center, minlength=atoms)
        return self.integers(atoms, edges), torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def calls(dtype: torch.dtype) -> Iterator[Call]:
    """Names of operators, and arguments on the CPU."""
    random = Random(dtype)
    yield from edge_calls(random)
    yield from harmonics_calls(random)
    yield from message_calls(random)
    yield from outer_calls(random)
    yield from directional_calls(random)
    yield from contraction_calls(random)
    if dtype == torch.float64:
        yield from symmetry_calls(random)


def edge_calls(random: Random) -> Iterator[Call]:
    for atoms, edges, graphs in ((7, 60, 2), (130, 700, 3), (3, 0, 1), (0, 0, 0), (5, 9, 200)):
        index, batch = random.integers(atoms, 2, edges), random.integers(graphs, atoms)
        positions, cell, grad = random.normal(atoms, 3), random.normal(graphs, 3, 3), random.normal(edges, 3)
        for integer in (torch.int32, torch.int64):
            shift = random.integers(3, edges, 3).to(integer) - 1
            yield "edge_vectors", (positions, cell, index, shift, batch)
            yield "edge_vectors_backward", (grad, index, shift, batch, graphs)
        yield "row_offsets", (index[0].sort().values, atoms)
        r = 3 * random.normal(edges)
        r[:3] = torch.tensor([float("nan"), 5.0, 0.0])[:edges]
        for order in range(5):
            yield "cubic_weights", (r, 0.5, 11, order)
            yield "cubic_weights_backward", (random.normal(edges, 4), r, 0.5, 11, order)


def harmonics_calls(random: Random) -> Iterator[Call]:
    for edges, l_max in ((300, 3), *((40, l_max) for l_max in range(7)), (0, 2)):
        vectors, tangent = random.normal(edges, 3), random.normal(edges, 3)
        vectors[:1] = 0
        grads = random.normal(edges, (l_max + 1) ** 2), random.normal(edges)
        yield "spherical_harmonics", (vectors, l_max)
        yield "spherical_harmonics_backward", (*grads, vectors, l_max)
        yield "spherical_harmonics_second", (tangent, *grads, vectors, l_max)


def message_arguments(
    random: Random, hidden: int, harmonics: int, atoms: int, edges: int, channels: int
) -> dict[str, Any]:
    paths = len(message_paths(hidden, harmonics))
    neighbor, offsets = random.graph(atoms, edges)
    matrix = ops.coupling_matrix(hidden, harmonics, wigner_3j).to(random.dtype)
    values, slopes = random.normal(KNOTS, paths, channels), random.normal(KNOTS, paths, channels)
    return {
        "x": random.normal(atoms, (hidden + 1) ** 2, channels),
        "coupling": random.normal(edges, (harmonics + 1) ** 2) @ matrix,
        "weights": random.normal(edges, 4),
        "knot": random.integers(KNOTS - 1, edges),
        "table": ops.pack_table(values, slopes, random.dtype),
        "activations": random.normal(edges, 21),
        "matrix": random.normal(21, paths * channels),
        "neighbor": neighbor,
        "offsets": offsets,
        "hidden": hidden,
        "harmonics": harmonics,
    }


def argument_names(operator: str) -> list[str]:
    return [argument.name for argument in getattr(torch.ops.mlip, operator).default._schema.arguments]


def message_calls(random: Random) -> Iterator[Call]:
    for hidden, harmonics in DEGREES:
        rows = sum(2 * l3 + 1 for _, _, l3 in message_paths(hidden, harmonics))
        for atoms, edges, channels in ((6, 50, 16), (3, 70, 144), (4, 0, 16)):
            named = message_arguments(random, hidden, harmonics, atoms, edges, channels)
            grad = random.normal(rows * atoms * channels)
            for operator in ("message_interpolated", "message_exact"):
                arguments = tuple(named[name] for name in argument_names(operator))
                yield operator, arguments
                yield f"{operator}_backward", (grad, *arguments, True, True)
                yield f"{operator}_backward", (grad, *arguments, False, False)


def outer_calls(random: Random) -> Iterator[Call]:
    for edges, rows, columns, atoms in ((50, 16, 64, 7), (33, 9, 70, 4), (20, 23, 8, 3), (0, 4, 5, 2), (10, 1, 1, 3)):
        _, offsets = random.graph(atoms, edges)
        factors = random.normal(edges, rows), random.normal(edges, columns)
        yield "neighbor_outer", (*factors, offsets)
        yield "neighbor_outer_backward", (random.normal(rows, atoms, columns), *factors, offsets)


def directional_calls(random: Random) -> Iterator[Call]:
    for edges, degrees, channels, atoms in ((50, 4, 64, 7), (33, 7, 80, 4), (9, 1, 16, 3), (0, 3, 16, 2)):
        _, offsets = random.graph(atoms, edges)
        factors = random.normal(degrees, edges, channels), random.normal(edges, degrees**2)
        given = (*factors, random.normal(degrees**2, atoms, channels), offsets)
        yield "directional_sums", given
        for needed in ((True, True, True), (True, False, False), (False, True, False), (False, False, True)):
            yield "directional_sums_backward", (random.normal(edges, channels), *given, *needed)


def symmetry_calls(random: Random) -> Iterator[Call]:
    """All kinds, windows and cores, several elements, many neighbors and none, longer lists than needed."""
    elements = (1, 6, 14)
    every = functions(elements, (2, 3, 9, 12, 13)) + functions(elements, (20, 21, 22, 23, 24, 25), "p2a")
    crystal = bulk("Si", cubic=True)
    crystal.numbers = [1, 6, 14, 14, 6, 14, 1, 14]
    crystal.rattle(0.3, seed=1)
    line = Atoms("Si4", positions=[[0, 0, 0], [2, 0, 0], [-2, 0, 0], [30, 0, 0]])
    models = [(elements, every, {"cutoff_function": "cos", "inner_cutoff": 0.3}, crystal)]
    models += [((14,), functions((14,), (2, 9)), {"cutoff_function": name}, bulk("Si")) for name in CUTOFFS]
    models += [((14,), functions((14,), (2, 3, 22), core), {}, line) for core in CORES]
    models += [((14,), functions((14,), (2, 3)), {}, Atoms("Si"))]
    for species, made, options, atoms in models:
        model = make(species, made, **options).model
        assert isinstance(model, HDNNP)
        graph = atoms_to_graph([atoms, bulk("Si")], 1.2 * CUTOFF)
        vectors, edges = edge_vectors(graph), CompiledHDNNP(model).edges(graph)
        given = (vectors, *edges, *model.tables)
        grad, direction = random.normal(len(graph.numbers), model.tables.columns), random.normal(*vectors.shape)
        yield "symmetry_functions", given
        yield "symmetry_functions_backward", (grad, *given)
        for need_gradient in (True, False):
            yield "symmetry_functions_tangent", (direction, grad, *given, need_gradient)


def stays_on_cpu(operator: str, name: str, argument: Any) -> bool:
    """Programs of contractions, tables of symmetry functions."""
    if not isinstance(argument, Tensor):
        return True
    program = argument.dim() == 1 and argument.dtype == torch.int32
    return program or (operator.startswith("symmetry_functions") and name in TABLES)


def program(l_max: int, order: int, outputs: Sequence[str] = ("0e", "1o", "2e")) -> ops.ContractionProgram:
    """The product basis of harmonics up to l_max."""
    blocks: list[tuple[int, Tensor, Tensor]] = []
    first = 0
    for irrep in map(o3.Irrep, outputs):
        found = [polynomial(spherical_irreps(l_max), irrep, factors) for factors in range(1, order + 1)]
        blocks += [(first, *terms) for terms in found if terms is not None]
        first += irrep.dim
    return ops.ContractionProgram((l_max + 1) ** 2, first, blocks)


def contraction_calls(random: Random) -> Iterator[Call]:
    wide = ops.ContractionProgram(64, 1, [(0, torch.tensor([[0, 63], [5, 5], [40, 2]]), torch.ones(1, 1, 3))])
    for basis in (program(1, 2), program(3, 3), program(2, 1), program(1, 4, ["0e", "1o"]), wide):
        for atoms, channels, elements in ((5, 16, 3), (3, 144, 1), (0, 16, 2)):
            features, tangent = (random.normal(basis.dim_in, atoms, channels) for _ in range(2))
            species, grad = random.integers(elements, atoms), random.normal(basis.dim_out, atoms, channels)
            coefficients = ops.pack_coefficients(random.normal(elements, basis.n_terms, channels))
            weighted, sizes = (features, species, coefficients, basis.table), (basis.n_terms, elements)
            yield "symmetric_contraction", (*weighted, basis.dim_out)
            yield "symmetric_contraction_backward", (grad, *weighted)
            yield "symmetric_contraction_second", (tangent, grad, *weighted)
            yield "symmetric_contraction_terms", (grad, features, species, basis.table, *sizes)
            yield "symmetric_contraction_terms_second", (tangent, grad, features, species, basis.table, *sizes)


def assert_same(name: str, found: Any, expected: Any) -> None:
    """Outputs on any devices: integers and NaNs equal, numbers within `TOLERANCE`."""
    found, expected = ((out,) if isinstance(out, Tensor) else tuple(out) for out in (found, expected))
    assert len(found) == len(expected)
    for k, (a, b) in enumerate(zip(found, expected, strict=True)):
        a, b = a.detach().cpu(), b.detach().cpu()
        assert a.shape == b.shape and a.dtype == b.dtype, (name, k)
        if not b.is_floating_point():
            assert torch.equal(a, b), (name, k)
        elif b.numel():
            assert torch.equal(a.isnan(), b.isnan()), (name, k)
            scale = float(b.abs().nan_to_num().max())
            assert float((a - b).abs().nan_to_num().max()) <= TOLERANCE[b.dtype] * scale, (name, k)


def potential(**options: Any) -> Potential:
    torch.manual_seed(2)
    options = {"l_max": 3, "correlation": 3, "radial_mlp": (16, 16), "avg_num_neighbors": 9.0} | options
    made = Potential(MACE((6, 8, 14), 4.5, **options), {6: -60.0, 8: -80.0, 14: -140.0}, scale=0.8, shift=0.1)
    return made.requires_grad_(False)
