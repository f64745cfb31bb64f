"""The message operators against sums written with Wigner 3j symbols, and their derivatives, checks and determinism."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mlip import _extension
from mlip.nn.irreps import wigner_3j
from mlip.ops import message as ops

DEGREES = [(hidden, harmonics) for hidden in range(3) for harmonics in range(max(1, hidden), 4)]
DTYPES = [torch.float32, torch.float64]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 2e-14}
KNOTS = 9
# Atoms, edges, channels, knots: a usual case; nothing; no edges; pieces and chunks of centers, knots without edges; a
# center whose edges come in pieces.
SIZES = [(30, 250, 32), (0, 0, 16), (3, 0, 16), (140, 500, 16, 300), (3, 1000, 48)]

compiled = pytest.mark.skipif(not _extension.compiled, reason="the compiled operators are not installed")


class Case:
    """Random numbers on a random graph with unsorted neighbors, the last two atoms (and others) without edges."""

    def __init__(
        self,
        hidden: int,
        harmonics: int,
        dtype: torch.dtype,
        atoms: int,
        edges: int,
        channels: int,
        knots: int = KNOTS,
    ) -> None:
        generator = torch.Generator().manual_seed(5)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        def integers(high: int, count: int) -> Tensor:
            return torch.randint(high, (count,), generator=generator)

        self.hidden, self.harmonics, self.atoms = hidden, harmonics, atoms
        self.paths = ops.message_paths(hidden, harmonics)
        self.center = integers(max(1, atoms - 2), edges).sort().values
        self.neighbor = integers(max(1, atoms), edges)
        counts = torch.bincount(self.center, minlength=atoms)
        self.offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        self.x = normal(atoms, (hidden + 1) ** 2, channels)
        self.y = normal(edges, (harmonics + 1) ** 2)
        self.matrix_y = ops.coupling_matrix(hidden, harmonics, wigner_3j).to(dtype)
        self.coupling = self.y @ self.matrix_y
        self.weights, self.knot = normal(edges, 4), integers(knots - 1, edges)
        self.values, self.slopes = normal(knots, len(self.paths), channels), normal(knots, len(self.paths), channels)
        self.table = ops.pack_table(self.values, self.slopes, self.values.dtype)
        self.activations, self.matrix = normal(edges, 5), normal(5, len(self.paths) * channels)
        # As many rows as half the edges and one without any: rows of none, one and several edges.
        self.shared, self.row = normal(edges // 2 + 1, len(self.paths) * channels), integers(edges // 2 + 1, edges)

    @property
    def graph(self) -> tuple[Tensor, Tensor, int, int]:
        return self.neighbor, self.offsets, self.hidden, self.harmonics

    @property
    def interpolated(self) -> tuple:
        return self.x, self.coupling, self.weights, self.knot, self.table, *self.graph

    @property
    def exact(self) -> tuple:
        return self.x, self.coupling, self.activations, self.matrix, *self.graph

    @property
    def rows(self) -> tuple:
        return self.x, self.coupling, self.shared, self.row, *self.graph

    def radial(self, weights: Tensor, v: Tensor, s: Tensor) -> Tensor:
        """Radial functions (E, paths, C) interpolated from values and slopes."""
        near = (v[self.knot], s[self.knot], v[self.knot + 1] - v[self.knot], s[self.knot + 1])
        return sum(w[:, None, None] * v for w, v in zip(weights.unbind(1), near, strict=True))

    def blocks(self, messages: Tensor) -> list[Tensor]:
        return ops.message_blocks(messages, self.atoms, self.x.shape[2], (self.hidden, self.harmonics))

    def oracle(self, x: Tensor, y: Tensor, radial: Tensor) -> list[Tensor]:
        """The messages, path by path."""
        out: list[list[Tensor]] = [[] for _ in range(self.harmonics + 1)]
        for p, (l1, l2, l3) in enumerate(self.paths):
            symbols = wigner_3j(l1, l2, l3).to(x.dtype) * math.sqrt(2 * l3 + 1)
            features = x[self.neighbor, l1**2 : (l1 + 1) ** 2]
            message = torch.einsum("abm,eac,eb,ec->mec", symbols, features, y[:, l2**2 : (l2 + 1) ** 2], radial[:, p])
            out[l3].append(x.new_zeros(2 * l3 + 1, self.atoms, x.shape[2]).index_add(1, self.center, message))
        return [torch.cat(parts, dim=2) for parts in out]


def assert_near(found: Tensor, expected: Tensor) -> None:
    """Equal to rounding, relative to the largest number."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    scale = expected.abs().max().item() if expected.numel() else 1.0
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE[found.dtype] * max(scale, 1.0))


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


def test_order_of_paths() -> None:
    assert ops.message_paths(1, 2) == [(0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 2, 1), (0, 2, 2), (1, 1, 2)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("degrees", DEGREES)
def test_equals_sums_of_3j_symbols(degrees: tuple[int, int], size: tuple[int, ...], dtype: torch.dtype) -> None:
    """Messages and first derivatives, all kinds of radial functions."""
    case = Case(*degrees, dtype, *size)
    x, y, weights, values, slopes = inputs = leaves(case.x, case.y, case.weights, case.values, case.slopes)
    table = ops.pack_table(values, slopes, dtype)
    found = ops.message_interpolated(x, y @ case.matrix_y, weights, case.knot, table, *case.graph)
    compare(case.blocks(found), case.oracle(x, y, case.radial(weights, values, slopes)), inputs)

    x, y, activations, matrix = leaves(case.x, case.y, case.activations, case.matrix)
    found = ops.message_exact(x, y @ case.matrix_y, activations, matrix, *case.graph)
    expected = case.oracle(x, y, (activations @ matrix).unflatten(1, (len(case.paths), -1)))
    compare(case.blocks(found), expected, [x, y, activations, matrix])

    x, y, shared = leaves(case.x, case.y, case.shared)
    found = ops.message_rows(x, y @ case.matrix_y, shared, case.row, *case.graph)
    compare(case.blocks(found), case.oracle(x, y, shared[case.row].unflatten(1, (len(case.paths), -1))), [x, y, shared])


def compare(found: list[Tensor], expected: list[Tensor], inputs: list[Tensor]) -> None:
    grads = [torch.randn_like(out) for out in expected]
    for a, b in zip(found, expected, strict=True):
        assert_near(a, b)
    derivatives = torch.autograd.grad(found, inputs, grads), torch.autograd.grad(expected, inputs, grads)
    for a, b in zip(*derivatives, strict=True):
        assert_near(a, b)


@pytest.mark.parametrize("degrees", [(0, 4), (2, 1), (1, 3), (3, 3)])
def test_other_degrees_and_channels_run_in_plain_torch(degrees: tuple[int, int]) -> None:
    case = Case(*degrees, torch.float64, 6, 40, 5)
    expected = case.oracle(case.x, case.y, case.radial(case.weights, case.values, case.slopes))
    for found, reference in zip(case.blocks(ops.message_interpolated(*case.interpolated)), expected, strict=True):
        assert_near(found, reference)
    expected = case.oracle(case.x, case.y, (case.activations @ case.matrix).unflatten(1, (len(case.paths), -1)))
    for found, reference in zip(case.blocks(ops.message_exact(*case.exact)), expected, strict=True):
        assert_near(found, reference)
    expected = case.oracle(case.x, case.y, case.shared[case.row].unflatten(1, (len(case.paths), -1)))
    for found, reference in zip(case.blocks(ops.message_rows(*case.rows)), expected, strict=True):
        assert_near(found, reference)


def functions(case: Case) -> Iterator[tuple]:
    """The operators as functions of the arguments they can be derived by."""
    yield (
        lambda x, m, w, t: ops.message_interpolated(x, m, w, case.knot, t, *case.graph),
        (case.x, case.coupling, case.weights, case.table),
    )
    yield (
        lambda x, m, a, w: ops.message_exact(x, m, a, w, *case.graph),
        (case.x, case.coupling, case.activations, case.matrix),
    )
    yield (
        lambda x, m, r: ops.message_rows(x, m, r, case.row, *case.graph),
        (case.x, case.coupling, case.shared),
    )
    yield lambda y, a: ops.neighbor_outer(y, a, case.offsets), (case.y, case.activations)


@pytest.mark.parametrize("degrees", [(0, 1), (1, 1), (1, 2), (2, 2)])
def test_first_and_second_derivatives(degrees: tuple[int, int]) -> None:
    case = Case(*degrees, torch.float64, 5, 9, 8)
    for function, inputs in functions(case):
        assert torch.autograd.gradcheck(function, leaves(*inputs), fast_mode=True)
        assert torch.autograd.gradgradcheck(function, leaves(*inputs), fast_mode=True)


@compiled
@pytest.mark.parametrize("harmonics", [1, 3])
def test_some_derivatives_only(harmonics: int) -> None:
    """Gradients that are not wanted are not made, and change nothing in the others."""
    case = Case(1, harmonics, torch.float64, 5, 20, 8)
    for function, inputs in functions(case):
        everything = leaves(*inputs)
        expected = torch.autograd.grad((function(*everything) ** 2).sum(), everything)
        for k in range(len(inputs)):
            some = [t.clone().requires_grad_(j == k) for j, t in enumerate(inputs)]
            (found,) = torch.autograd.grad((function(*some) ** 2).sum(), some[k])
            assert torch.equal(found, expected[k])


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype) -> None:
    case = Case(1, 2, dtype, 5, 20, 16)
    x, coupling, weights, table, activations, matrix, shared = leaves(
        case.x, case.coupling, case.weights, case.table, case.activations, case.matrix, case.shared
    )
    interpolated = (x, coupling, weights, table, case.knot, *case.graph)
    exact = (x, coupling, activations, matrix, *case.graph)
    grad = torch.randn_like(torch.ops.mlip.message_exact(*case.exact))
    torch.library.opcheck(torch.ops.mlip.message_interpolated.default, interpolated)
    torch.library.opcheck(torch.ops.mlip.message_interpolated_backward.default, (grad, *interpolated, True, True))
    torch.library.opcheck(torch.ops.mlip.message_exact.default, exact)
    torch.library.opcheck(torch.ops.mlip.message_exact_backward.default, (grad, *exact, False, True))
    rows = (x, coupling, shared, case.row, *case.graph)
    torch.library.opcheck(torch.ops.mlip.message_rows.default, rows)
    torch.library.opcheck(torch.ops.mlip.message_rows_backward.default, (grad, *rows, False))
    outer = (leaves(case.y)[0], activations, case.offsets)
    torch.library.opcheck(torch.ops.mlip.neighbor_outer.default, outer)
    torch.library.opcheck(torch.ops.mlip.neighbor_outer_backward.default, (torch.randn(9, 5, 5, dtype=dtype), *outer))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(9, 64, 200, 12), (16, 64, 400, 7), (4, 5, 0, 3), (1, 33, 0, 0), (16, 128, 3000, 20)])
def test_outer(size: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    rows, columns, edges, atoms = size
    center = torch.randint(max(1, atoms - 1), (edges,)).sort().values
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(center, minlength=atoms).cumsum(0)])
    left, right = leaves(torch.randn(edges, rows, dtype=dtype), torch.randn(edges, columns, dtype=dtype))
    found = ops.neighbor_outer(left, right, offsets)
    product = left[:, :, None] * right[:, None]
    expected = left.new_zeros(atoms, rows, columns).index_add(0, center, product).transpose(0, 1)
    compare([found], [expected], [left, right])


def test_derivatives_of_the_table_are_those_of_values_and_slopes() -> None:
    values, slopes = leaves(*torch.randn(2, 4, 3, 8, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda v, s: ops.pack_table(v, s, torch.float64), (values, slopes))
    assert torch.autograd.gradgradcheck(lambda v, s: ops.pack_table(v, s, torch.float64), (values, slopes))


def test_third_derivatives() -> None:
    """Of all arguments, with the table, against those of plain torch."""
    case = Case(1, 2, torch.float64, 5, 20, 8)

    def third(function: Callable[..., Tensor]) -> list[Tensor]:
        arguments = leaves(case.x, case.coupling, case.weights, case.table)
        derivative = (function(*arguments) ** 3).sum()
        for k in (2, 3):
            (gradient,) = torch.autograd.grad(derivative, arguments[k], create_graph=True)
            derivative = (gradient**2).sum()
        return list(torch.autograd.grad(derivative, arguments))

    def plain(x: Tensor, coupling: Tensor, weights: Tensor, table: Tensor) -> Tensor:
        return ops.message_reference(x, coupling, ops.interpolated_radial(weights, case.knot, table), *case.graph)

    found = third(lambda x, m, w, t: ops.message_interpolated(x, m, w, case.knot, t, *case.graph))
    for a, b in zip(found, third(plain), strict=True):
        torch.testing.assert_close(a / b.abs().max(), b / b.abs().max(), rtol=0, atol=1e-12)


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(700, 9000, 16), (40, 2000, 64), (3, 1000, 16)])
@pytest.mark.parametrize("some", [False, True])
def test_threads_change_no_bit(size: tuple[int, int, int], some: bool, dtype: torch.dtype) -> None:
    """Neither with all derivatives nor without those of the first and last argument, whose sums are over edges."""
    case = Case(1, 3, dtype, *size)

    def results() -> list[Tensor]:
        out: list[Tensor] = []
        for function, inputs in functions(case):
            arguments = leaves(*inputs)
            if some and len(arguments) > 2:
                for argument in (arguments[0], *arguments[3:]):
                    argument.requires_grad_(False)
            messages = function(*arguments)
            out += [messages, *torch.autograd.grad((messages**2).sum(), [a for a in arguments if a.requires_grad])]
        return out

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = results()
        for threads in (2, 3, 5):
            torch.set_num_threads(threads)
            assert all(torch.equal(a, b) for a, b in zip(one, results(), strict=True))
    finally:
        torch.set_num_threads(before)


@compiled
@pytest.mark.parametrize("instructions", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(instructions: str) -> None:
    selection = "equals_sums or second_derivatives or outer"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", selection],
        env={**os.environ, "MLIP_SIMD": instructions, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout


@compiled
@pytest.mark.parametrize(
    ("argument", "wrong", "message"),
    [
        (0, lambda t: t.to(torch.float16), "x: expected float32 or float64"),
        (0, lambda t: t[..., :4].contiguous(), "multiple of 16"),
        (0, lambda t: t[:, :3].contiguous(), r"\(hidden \+ 1\)\^2"),
        (1, lambda t: t[:, 1:].contiguous(), "coupling"),
        (1, lambda t: t.float(), "coupling"),
        (2, lambda t: t[:, :3].contiguous(), "weights"),
        (3, lambda t: t.flatten(0, 1), "table"),
        (4, lambda t: t + KNOTS, "knot"),
        (4, lambda t: t - KNOTS, "knot"),
        (5, lambda t: t + 5, "neighbor"),
        (5, lambda t: t.int(), "neighbor"),
        (6, lambda t: t.flip(0), "offsets"),
        (6, lambda t: t[:-1].contiguous(), "offsets"),
        (7, lambda t: 3, "hidden"),
        (8, lambda t: 0, "harmonics"),
    ],
)
def test_wrong_arguments_are_refused(argument: int, wrong, message: str) -> None:
    case = Case(1, 2, torch.float64, 5, 20, 8)
    arguments = [case.x, case.coupling, case.weights, case.table, case.knot, *case.graph]
    arguments[argument] = wrong(arguments[argument])
    with pytest.raises((ValueError, RuntimeError), match=f"message: .*{message}"):
        torch.ops.mlip.message_interpolated(*arguments)


@compiled
@pytest.mark.parametrize(
    ("argument", "wrong", "message"),
    [
        (2, lambda t: t[:, 1:].contiguous(), "radial"),
        (2, lambda t: t.float(), "radial"),
        (2, lambda t: t[:0], "row"),
        (3, lambda t: t - 1, "row"),
        (3, lambda t: t[1:].contiguous(), "row"),
        (3, lambda t: t.int(), "row"),
    ],
)
def test_wrong_rows_are_refused(argument: int, wrong, message: str) -> None:
    case = Case(1, 2, torch.float64, 5, 20, 8)
    arguments = list(case.rows)
    arguments[3][0] = 0
    arguments[argument] = wrong(arguments[argument])
    with pytest.raises((ValueError, RuntimeError), match=f"message: {message}: expected"):
        torch.ops.mlip.message_rows(*arguments)
    arguments = [torch.zeros_like(torch.ops.mlip.message_rows(*case.rows)), *arguments, True]
    with pytest.raises((ValueError, RuntimeError), match=f"message: {message}: expected"):
        torch.ops.mlip.message_rows_backward(*arguments)


@compiled
def test_sizes_beyond_any_memory_are_refused() -> None:
    case = Case(1, 2, torch.float64, 0, 0, 8)
    x, table = case.x.new_empty(0, 4, 2**58), case.table.new_empty(0, 2**55, len(case.paths), 3, 8)
    arguments = (x.new_empty(0), x, case.coupling, case.weights, table, case.knot, *case.graph)
    with pytest.raises((ValueError, RuntimeError), match="larger than any memory"):
        torch.ops.mlip.message_interpolated_backward(*arguments, True, False)
