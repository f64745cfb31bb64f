"""Time of the operators on edges and atoms, on one thread: silicon with about 45 edges per atom, 128 channels.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/ops_local.py [--atoms 216] [--reference]

Prints microseconds of processor time per atom, and the fixed cost of a call (one atom) with and without autograd.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import torch
from ase.build import bulk
from e3nn import o3
from torch import Tensor

from mlip.convert import atoms_to_graph
from mlip.nn.irreps import spherical_irreps
from mlip.nn.product_basis import polynomial
from mlip.ops.contraction_program import ContractionProgram
from mlip.ops.edges import edge_vectors, edge_vectors_reference, row_offsets
from mlip.ops.element_linear import element_linear, element_linear_reference
from mlip.ops.interpolation import cubic_weights, cubic_weights_reference
from mlip.ops.spherical_harmonics import spherical_harmonics, spherical_harmonics_reference
from mlip.ops.symmetric_contraction import pack_coefficients, symmetric_contraction, symmetric_contraction_reference

CUTOFF, CHANNELS, L_MAX, ORDER = 6.0, 128, 3, 3
Case = tuple[str, Callable[..., Tensor], list[Tensor]]


def seconds(function: Callable[[], object], repeats: int = 7) -> float:
    """Shortest processor time of a call."""
    function()
    calls, best = 1, float("inf")
    for _ in range(repeats):
        while True:
            start = time.process_time()
            for _ in range(calls):
                function()
            elapsed = time.process_time() - start
            if elapsed > 0.02:
                break
            calls *= 2
        best = min(best, elapsed / calls)
    return best


def program(outputs: tuple[str, ...]) -> ContractionProgram:
    """The product basis of MACE."""
    first, blocks = 0, []
    for ir in map(o3.Irrep, outputs):
        found = (polynomial(spherical_irreps(L_MAX), ir, order) for order in range(1, ORDER + 1))
        blocks += [(first, *terms) for terms in found if terms is not None]
        first += ir.dim
    return ContractionProgram((L_MAX + 1) ** 2, first, blocks)


def cases(n_atoms: int, dtype: torch.dtype, reference: bool) -> Iterator[Case]:
    """Name, function, differentiable arguments."""
    cells = max(1, round((n_atoms / 8) ** (1 / 3)))
    graph = atoms_to_graph(bulk("Si", cubic=True).repeat(cells) if n_atoms > 1 else bulk("Si")[:1], CUTOFF, dtype)
    count = graph.positions.shape[0]
    edges = (graph.edge_index, graph.edge_shift, graph.batch)
    kind = "torch" if reference else "compiled"
    print(f"{count} atoms, {edges[0].shape[1] / count:.1f} edges per atom, {dtype}, {kind}")
    vectors_of = edge_vectors_reference if reference else edge_vectors
    yield "edge vectors", lambda p, c: vectors_of(p, c, *edges), [graph.positions, graph.cell]
    yield "row offsets", lambda: row_offsets(edges[0][0], count), []
    vectors = graph.edge_vectors().detach()
    harmonics = spherical_harmonics_reference if reference else spherical_harmonics
    yield f"harmonics, l_max {L_MAX}", lambda v: torch.cat([x.flatten() for x in harmonics(v, L_MAX)]), [vectors]
    weights = cubic_weights_reference if reference else cubic_weights
    yield "interpolation weights", lambda r: weights(r, CUTOFF / 2048, 2049)[0], [vectors.norm(dim=1)]
    contraction = symmetric_contraction_reference if reference else symmetric_contraction
    species = torch.zeros(count, dtype=torch.int64)
    for outputs in (("0e",), ("0e", "1o"), ("0e", "1o", "2e")):
        terms = program(outputs)
        features = torch.randn(terms.dim_in, count, CHANNELS, dtype=dtype)
        coefficients = pack_coefficients(torch.randn(1, terms.n_terms, CHANNELS, dtype=dtype))
        name = f"contraction to {'+'.join(outputs)}"
        yield name, lambda a, t=terms, c=coefficients: contraction(a, species, c, t), [features]
        yield f"{name}, trained", lambda a, c, t=terms: contraction(a, species, c, t), [features, coefficients]
    linear = element_linear_reference if reference else element_linear
    features, matrices = torch.randn(1, count, CHANNELS, dtype=dtype), torch.randn(89, CHANNELS, CHANNELS, dtype=dtype)
    for elements in (1, 2, 20, 89):
        species_of = torch.arange(count) % elements
        yield f"element linear, {elements} of 89", lambda x, s=species_of: linear(x, s, matrices), [features]


def measure(n_atoms: int, dtype: torch.dtype, reference: bool) -> None:
    """Print a line for each operator: forward without autograd, and forward with backward."""
    for name, function, arguments in cases(n_atoms, dtype, reference):
        with torch.no_grad():
            forward = seconds(lambda f=function, a=arguments: f(*a)) * 1e6
        line = f"  {name:36s} forward {forward / n_atoms:8.2f}"
        if arguments:
            inputs = [x.detach().clone().requires_grad_() for x in arguments]
            weight = torch.randn_like(function(*inputs))

            def both(f: Callable[..., Tensor] = function, x: list[Tensor] = inputs, w: Tensor = weight) -> object:
                return torch.autograd.grad(f(*x), x, w)

            line += f"   with backward {seconds(both) * 1e6 / n_atoms:8.2f} us/atom"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atoms", type=int, nargs="+", default=[216, 1], help="8 · n³, or 1 for the cost of a call")
    parser.add_argument("--reference", action="store_true", help="measure plain torch")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.float64):
        for n_atoms in options.atoms:
            measure(n_atoms, dtype, options.reference)


if __name__ == "__main__":
    main()
