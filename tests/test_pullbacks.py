"""Each operator's rule for the tape gives the numbers of autograd."""

import pytest
import torch

import mlip.ops.pullbacks  # noqa: F401
from mlip import ops
from mlip.nn.irreps import wigner_3j
from mlip.ops.dispatch import runs_compiled
from mlip.ops.message import message_paths
from mlip.ops.tape import RULES, Tape, by_autograd

N, E, C = 6, 40, 16


def cases(dtype):
    torch.manual_seed(1)

    def real(*shape):
        return torch.randn(*shape, dtype=dtype)

    center = torch.randint(N, (E,)).sort().values
    neighbor = torch.randint(N, (E,))
    offsets = ops.row_offsets(center, N)
    index = torch.stack([center, neighbor])
    shift = torch.randint(-1, 2, (E, 3)).int()
    program = ops.MessageProgram((0, 1), (0, 1, 2), (0, 1), ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)))
    coupling = ops.coupling_matrix(1, 2, wigner_3j)
    paths = len(message_paths(1, 2)) * C
    knots = 9
    weights, knot = real(E, 4), torch.randint(knots - 1, (E,))
    table = ops.pack_table(real(knots, paths // C, C), real(knots, paths // C, C), dtype)
    small = ops.pack_table(real(knots, 4, C), real(knots, 4, C), dtype)
    general = program.coupling_matrix(wigner_3j)
    graph = (neighbor, offsets)
    exact = (real(N, 4, C), real(E, coupling.shape[1]), real(E, 5), real(5, paths), *graph, 1, 2)
    exact_general = (real(N, 4, C), real(E, general.shape[1]), real(E, 5), real(5, 4 * C), *graph, program)
    species = torch.randint(3, (N,))
    return {
        "edge_vectors": (ops.edge_vectors, (real(N, 3), real(1, 3, 3), index, shift, torch.zeros(N).long()), (0, 1)),
        "spherical_harmonics": (ops.spherical_harmonics, (real(E, 3), 3), (0,)),
        "high_harmonics": (ops.spherical_harmonics, (real(E, 3), 8), (0,)),
        "cubic_weights": (ops.cubic_weights, (torch.rand(E, dtype=dtype) * 4, 0.5, knots), (0,)),
        "matmul": (ops.matmul, (real(60, C), real(C, C)), (0, 1)),
        "few_rows": (ops.matmul, (real(2, 3, C), real(C, C)), (0,)),
        "exact": (ops.message_exact, exact, (0, 1, 2, 3)),
        "exact_first_layer": (ops.message_exact, exact, (1, 2)),
        "exact_general": (ops.message_exact_general, exact_general, (0, 1, 2, 3)),
        "interpolated": (ops.message_interpolated, (*exact[:2], weights, knot, table, *graph, 1, 2), (0, 1, 2, 4)),
        "interpolated_first_layer": (
            ops.message_interpolated,
            (*exact[:2], weights, knot, table, *graph, 1, 2),
            (1, 2),
        ),
        "interpolated_general": (
            ops.message_interpolated_general,
            (*exact_general[:2], weights, knot, small, *graph, program),
            (0, 1, 2, 4),
        ),
        "neighbor_outer": (ops.neighbor_outer, (real(E, 4), real(E, 5), offsets), (0, 1)),
        "irreps_linear": (
            ops.irreps_linear,
            (real(4, N, C), real(1, 2 * C * C), [1, 3], [C, C], [1, -1, 0], [3, 5, 1], None),
            (0,),
        ),
        "by_element": (
            ops.irreps_linear,
            (real(4, N, C), real(3, 2 * C * C), [1, 3], [C, C], [1, -1, 0], [3, 5, 1], species),
            (0,),
        ),
    }


@pytest.mark.skipif(not runs_compiled(torch.zeros(1)), reason="needs the extension")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", cases(torch.float64))
def test_rule_equals_autograd(name, dtype):
    operator, arguments, wanted = cases(dtype)[name]
    assert operator in RULES
    needed = [k in wanted for k in range(len(arguments))]
    tape = Tape(*(arguments[k] for k in wanted))
    out = tape(operator, *arguments)
    expected, pullback = by_autograd(operator, needed, *arguments)
    outs, expecteds = ((t,) if isinstance(t, torch.Tensor) else t for t in (out, expected))
    for a, b in zip(outs, expecteds, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    gradients = [torch.randn_like(t) if t.is_floating_point() else None for t in outs]
    theirs = pullback(*gradients)
    tape._used = False
    whole = sum_of(tape, outs, gradients)
    mine = tape.gradients(whole, torch.ones((), dtype=dtype), [arguments[k] for k in wanted])
    for k, gradient in zip(wanted, mine, strict=True):
        torch.testing.assert_close(gradient, theirs[k], rtol=1e-5 if dtype == torch.float32 else 1e-13, atol=1e-5)


def sum_of(tape, outs, gradients):
    total = None
    for out, gradient in zip(outs, gradients, strict=True):
        if gradient is not None:
            term = tape(lambda o, g: (o * g).sum(), out, gradient)
            total = term if total is None else tape(torch.add, total, term)
    return total
