"""Messages of any irreps against sums written with Wigner 3j symbols, and their derivatives, checks and determinism."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from e3nn import o3
from torch import Tensor

from mlip import _extension
from mlip import ops as all_ops
from mlip.nn.irreps import wigner_3j
from mlip.ops import message_general as ops
from mlip.ops.message import coupling_matrix, interpolated_radial, message_blocks, message_paths, pack_table

DTYPES = [torch.float32, torch.float64]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 2e-14}
KNOTS = 9
#: Features, harmonics, messages.
IRREPS = {
    "natural": ("0e + 1o", "0e + 1o + 2e", "0e + 1o + 2e"),
    "a gap": ("0e + 3o", "0e + 1o + 2e", "0e + 1o + 2e"),
    "both parities": ("0e + 0o + 1o + 1e", "0e + 1o + 2e", "0e + 0o + 1o + 1e + 2e + 2o"),
    "rotations only": ("0e + 1e + 2e", "0e + 1e + 2e", "0e + 1e + 2e"),
    "high": ("0e + 4e", "0e + 1o + 2e + 3o + 4e + 5o", "0e + 1o + 5o"),
    "no scalars": ("1e", "1o", "1o"),
}

compiled = pytest.mark.skipif(not _extension.compiled, reason="the compiled operators are not installed")


def program_of(features: str, harmonics: str, messages: str) -> ops.MessageProgram:
    left, right, out = ([ir for _, ir in o3.Irreps(irreps)] for irreps in (features, harmonics, messages))
    paths = sorted(
        (out.index(ir), i, j) for i, a in enumerate(left) for j, b in enumerate(right) for ir in a * b if ir in out
    )
    return ops.MessageProgram(*([ir.l for ir in irreps] for irreps in (left, right, out)), paths)


class Case:
    """Random numbers on a random graph with unsorted neighbors, the last two atoms (and others) without edges."""

    def __init__(
        self, irreps: str, dtype: torch.dtype, atoms: int, edges: int, channels: int, knots: int = KNOTS
    ) -> None:
        generator = torch.Generator().manual_seed(5)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        self.program = program_of(*IRREPS[irreps])
        self.atoms, self.paths = atoms, len(self.program.paths)
        self.center = torch.randint(max(1, atoms - 2), (edges,), generator=generator).sort().values
        self.neighbor = torch.randint(max(1, atoms), (edges,), generator=generator)
        counts = torch.bincount(self.center, minlength=atoms)
        self.offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        self.x = normal(atoms, sum(self.program.dims_in), channels)
        self.y = normal(edges, sum(self.program.dims_y))
        self.matrix_y = self.program.coupling_matrix(wigner_3j).to(dtype)
        self.coupling = self.y @ self.matrix_y
        self.weights, self.knot = normal(edges, 4), torch.randint(knots - 1, (edges,), generator=generator)
        self.values, self.slopes = normal(knots, self.paths, channels), normal(knots, self.paths, channels)
        self.table = pack_table(self.values, self.slopes, dtype)
        self.activations, self.matrix = normal(edges, 5), normal(5, self.paths * channels)

    @property
    def graph(self) -> tuple[Tensor, Tensor, ops.MessageProgram]:
        return self.neighbor, self.offsets, self.program

    @property
    def raw(self) -> tuple:
        """Arguments of the operator itself."""
        return self.neighbor, self.offsets, self.program.table, self.program.rows

    def radial(self, weights: Tensor, v: Tensor, s: Tensor) -> Tensor:
        """Radial functions (E, paths, C) interpolated from values and slopes."""
        near = torch.stack([v[self.knot], s[self.knot], v[self.knot + 1] - v[self.knot], s[self.knot + 1]], dim=1)
        return torch.einsum("ek,ekpc->epc", weights, near)

    def blocks(self, messages: Tensor) -> list[Tensor]:
        return message_blocks(messages, self.atoms, self.x.shape[2], self.program)

    def oracle(self, x: Tensor, y: Tensor, radial: Tensor) -> list[Tensor]:
        """The messages, path by path."""
        program = self.program
        features, harmonics = x[self.neighbor].split(program.dims_in, dim=1), y.split(program.dims_y, dim=1)
        out: list[list[Tensor]] = [[] for _ in program.dims_out]
        for p, (block, i, j) in enumerate(program.paths):
            degrees = program.degrees_in[i], program.degrees_y[j], program.degrees_out[block]
            symbols = wigner_3j(*degrees).to(x.dtype) * math.sqrt(program.dims_out[block])
            message = torch.einsum("abm,eac,eb,ec->mec", symbols, features[i], harmonics[j], radial[:, p])
            summed = x.new_zeros(len(message), self.atoms, x.shape[2]).index_add(1, self.center, message)
            out[block].append(summed)
        return [torch.cat(parts, dim=2) for parts in out]


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


def assert_near(found: Tensor, expected: Tensor) -> None:
    """Equal to rounding, relative to the largest number."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    scale = expected.abs().max().item() if expected.numel() else 1.0
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE[found.dtype] * max(scale, 1.0))


def compare(found: list[Tensor], expected: list[Tensor], inputs: list[Tensor]) -> None:
    grads = [torch.randn_like(out) for out in expected]
    for a, b in zip(found, expected, strict=True):
        assert_near(a, b)
    derivatives = torch.autograd.grad(found, inputs, grads), torch.autograd.grad(expected, inputs, grads)
    for a, b in zip(*derivatives, strict=True):
        assert_near(a, b)


# Atoms, edges, channels, knots. Whole tiles, half tiles, channels for plain torch; nothing; a center whose edges come
# in pieces; pieces and chunks of centers, knots without edges.
SIZES = [(30, 250, 64), (6, 40, 5), (0, 0, 16), (3, 0, 16), (3, 1000, 48), (140, 500, 16, 300)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("irreps", IRREPS)
def test_equals_sums_of_3j_symbols(irreps: str, size: tuple[int, ...], dtype: torch.dtype) -> None:
    """Messages and first derivatives, both kinds of radial functions."""
    case = Case(irreps, dtype, *size)
    x, y, weights, values, slopes = inputs = leaves(case.x, case.y, case.weights, case.values, case.slopes)
    table = pack_table(values, slopes, dtype)
    found = ops.message_interpolated_general(x, y @ case.matrix_y, weights, case.knot, table, *case.graph)
    compare(case.blocks(found), case.oracle(x, y, case.radial(weights, values, slopes)), inputs)

    x, y, activations, matrix = leaves(case.x, case.y, case.activations, case.matrix)
    found = ops.message_exact_general(x, y @ case.matrix_y, activations, matrix, *case.graph)
    expected = case.oracle(x, y, (activations @ matrix).unflatten(1, (case.paths, -1)))
    compare(case.blocks(found), expected, [x, y, activations, matrix])


def test_equals_the_compile_time_kernels() -> None:
    case = Case("natural", torch.float64, 30, 250, 16)
    assert case.paths == len(message_paths(1, 2))
    coupling = case.y @ coupling_matrix(1, 2, wigner_3j)
    found = ops.message_exact_general(case.x, case.coupling, case.activations, case.matrix, *case.graph)
    fast = all_ops.message_exact(case.x, coupling, case.activations, case.matrix, case.neighbor, case.offsets, 1, 2)
    assert_near(found, fast)


def functions(case: Case) -> Iterator[tuple[Callable[..., Tensor], tuple[Tensor, ...]]]:
    """The operators as functions of the arguments they can be derived by."""
    yield (
        lambda x, m, w, t: ops.message_interpolated_general(x, m, w, case.knot, t, *case.graph),
        (case.x, case.coupling, case.weights, case.table),
    )
    yield (
        lambda x, m, a, w: ops.message_exact_general(x, m, a, w, *case.graph),
        (case.x, case.coupling, case.activations, case.matrix),
    )


@pytest.mark.parametrize("irreps", ["a gap", "both parities", "no scalars"])
def test_first_and_second_derivatives(irreps: str) -> None:
    case = Case(irreps, torch.float64, 5, 9, 8)
    for function, inputs in functions(case):
        assert torch.autograd.gradcheck(function, leaves(*inputs), fast_mode=True)
        assert torch.autograd.gradgradcheck(function, leaves(*inputs), fast_mode=True)


def test_third_derivatives() -> None:
    """Of the operators against those of plain torch."""
    case = Case("both parities", torch.float64, 5, 20, 8)

    def third(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> list[Tensor]:
        arguments = leaves(*inputs)
        derivative = (function(*arguments) ** 3).sum()
        for k in (1, 2):
            (gradient,) = torch.autograd.grad(derivative, arguments[k], create_graph=True)
            derivative = (gradient**2).sum()
        return list(torch.autograd.grad(derivative, arguments))

    def interpolated(x: Tensor, coupling: Tensor, weights: Tensor, table: Tensor) -> Tensor:
        radial = interpolated_radial(weights, case.knot, table)
        return ops.message_general_reference(x, coupling, radial, *case.graph)

    def exact(x: Tensor, coupling: Tensor, activations: Tensor, matrix: Tensor) -> Tensor:
        radial = (activations @ matrix).unflatten(1, (case.paths, -1))
        return ops.message_general_reference(x, coupling, radial, *case.graph)

    for (operator, inputs), plain in zip(functions(case), (interpolated, exact), strict=True):
        for a, b in zip(third(operator, inputs), third(plain, inputs), strict=True):
            torch.testing.assert_close(a / b.abs().max(), b / b.abs().max(), rtol=0, atol=1e-12)


@compiled
def test_some_derivatives_only() -> None:
    """Gradients that are not wanted are not made, and change nothing in the others."""
    case = Case("both parities", torch.float64, 5, 20, 8)
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
    case = Case("a gap", dtype, 5, 20, 16)
    x, coupling, weights, table, activations, matrix = leaves(
        case.x, case.coupling, case.weights, case.table, case.activations, case.matrix
    )
    interpolated = (x, coupling, weights, table, case.knot, *case.raw)
    exact = (x, coupling, activations, matrix, *case.raw)
    grad = torch.randn(case.program.rows * 5 * 16, dtype=dtype)
    mlip = torch.ops.mlip
    torch.library.opcheck(mlip.message_interpolated_general.default, interpolated)
    torch.library.opcheck(mlip.message_interpolated_general_backward.default, (grad, *interpolated, True, True))
    torch.library.opcheck(mlip.message_exact_general.default, exact)
    torch.library.opcheck(mlip.message_exact_general_backward.default, (grad, *exact, False, True))


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(700, 5000, 16), (3, 1000, 16)])
@pytest.mark.parametrize("some", [False, True])
def test_threads_change_no_bit(size: tuple[int, int, int], some: bool, dtype: torch.dtype) -> None:
    """Neither with all derivatives nor without those of the first and last argument, whose sums are over edges."""
    case = Case("both parities", dtype, *size)

    def results() -> list[Tensor]:
        out: list[Tensor] = []
        for function, inputs in functions(case):
            arguments = leaves(*inputs)
            if some:
                arguments[0].requires_grad_(False), arguments[3].requires_grad_(False)
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
    selection = "equals_sums or second_derivatives"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", selection],
        env={**os.environ, "MLIP_SIMD": instructions, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout


def without_order(table: Tensor) -> Tensor:
    return table.flip(0).contiguous()


def with_entry(column: int, value: int, path: int = 1) -> Callable[[Tensor], Tensor]:
    def changed(table: Tensor) -> Tensor:
        return table.index_put((torch.tensor([path]), torch.tensor([column])), torch.tensor([value]))

    return changed


@compiled
@pytest.mark.parametrize(
    ("argument", "wrong", "message"),
    [
        (0, lambda t: t.to(torch.float16), "x: expected float32 or float64"),
        (0, lambda t: t[..., :4].contiguous(), "multiple of 16"),
        (0, lambda t: t[:, :3].contiguous(), "program"),
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
        (7, without_order, "program"),
        (7, lambda t: t[:0], "program"),
        (7, lambda t: t[:, :4].contiguous(), "program"),
        (7, with_entry(0, -1), "program"),
        (7, with_entry(0, 2**62), "program"),
        (7, with_entry(1, 2), "program"),
        (7, with_entry(2, 25), "program"),
        (7, with_entry(2, 2**62 + 1), "program"),
        (7, with_entry(3, 2), "program"),
        (7, with_entry(3, -1, path=0), "program"),
        (8, lambda t: t + 1, "rows"),
    ],
)
def test_wrong_arguments_are_refused(argument: int, wrong: Callable, message: str) -> None:
    case = Case("a gap", torch.float64, 5, 20, 8)
    arguments = [case.x, case.coupling, case.weights, case.table, case.knot, *case.raw]
    arguments[argument] = wrong(arguments[argument])
    with pytest.raises((ValueError, RuntimeError), match=f"message: .*{message}"):
        torch.ops.mlip.message_interpolated_general(*arguments)
