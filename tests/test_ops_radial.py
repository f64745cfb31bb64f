"""Radial functions and their derivatives by the distance: against plain torch, on every instruction set."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mlip
from mlip import ops
from mlip.errors import InputError
from mlip.nn.radial import RadialEmbedding, RadialMLP
from mlip.ops.radial import bessel_basis_reference, radial_activations_reference, rowwise_dot_reference

compiled = pytest.mark.skipif(not mlip.compiled, reason="the extension is not built")
DTYPES = [torch.float32, torch.float64]
CUTOFF = 5.5
COUNTS = (0, 1, 7, 24, 61, 1100)
WIDTHS = [(64, 64, 64), (5,), (64, 3), (17, 130, 8, 33)]


def frequencies(n: int) -> Tensor:
    return math.pi / CUTOFF * torch.arange(1, n + 1, dtype=torch.float64)


def distances(count: int) -> Tensor:
    r = torch.rand(count, dtype=torch.float64) * 1.1 * CUTOFF
    special = [0.0, 1e-300, 1e-9, 1e-3, CUTOFF, math.nextafter(CUTOFF, 0), 1e5, math.inf]
    r[: len(special)] = torch.tensor(special)[:count]
    return r


def network(count: int, n: int, widths: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    sizes = (n, *widths)
    pairs = zip(sizes[:-1], sizes[1:], strict=True)
    weights = torch.cat([1.6 * torch.randn(a * b, dtype=dtype) / math.sqrt(a) for a, b in pairs])
    return torch.randn(count, n, dtype=dtype), torch.randn(count, n, dtype=dtype), weights


def compare_basis(dtype: torch.dtype, count: int, n: int, p: int, apply_cutoff: bool, transform: bool) -> None:
    r = distances(count)
    if not apply_cutoff:
        r = r.clamp(max=1.1 * CUTOFF)
    transformed = (1 / (1 + r), -1 / (1 + r) ** 2) if transform else None
    options = {"apply_cutoff": apply_cutoff, "transformed": transformed}
    found = ops.bessel_basis(r, frequencies(n), 0.6, CUTOFF, p, dtype=dtype, **options)
    expected = bessel_basis_reference(r, frequencies(n), 0.6, CUTOFF, p, **options)
    for a, b in zip(found, expected, strict=True):
        if b is None or not b.numel():
            assert a is b or a.shape == b.shape
            continue
        assert a.dtype == dtype and a.shape == b.shape
        assert (a.double() - b).abs().max() <= 4 * torch.finfo(dtype).eps * b.abs().max()
    if apply_cutoff:
        assert found[0][r >= CUTOFF].eq(0).all() and found[1][r >= CUTOFF].eq(0).all()


def compare_activations(dtype: torch.dtype, count: int, widths: tuple[int, ...], enveloped: bool) -> None:
    basis, tangent, weights = network(count, 8, widths, dtype)
    envelope = (torch.randn(count, dtype=dtype), torch.randn(count, dtype=dtype)) if enveloped else None
    exact = None if envelope is None else (envelope[0].double(), envelope[1].double())
    found = ops.radial_activations(basis, tangent, weights, widths, envelope)
    expected = radial_activations_reference(basis.double(), tangent.double(), weights.double(), widths, exact)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype and a.shape == b.shape == (count, widths[-1])
        if count:
            assert (a.double() - b).abs().max() <= 60 * torch.finfo(dtype).eps * b.abs().max().clamp(min=1)


def compare_dot(dtype: torch.dtype, count: int, size: int) -> None:
    a, b = torch.randn(count, size, dtype=dtype), torch.randn(count, size, dtype=dtype)
    exact = rowwise_dot_reference(a.double(), b.double())
    largest = 8 * torch.finfo(dtype).eps * (a * b).abs().sum(1)
    assert ((ops.rowwise_dot(a, b) - exact).abs() <= largest).all()
    rows = torch.randperm(count)
    assert torch.equal(ops.rowwise_dot(a, b[rows], rows.argsort()), ops.rowwise_dot(a, b))
    assert not len(ops.rowwise_dot(a[:0], b, rows[:0]))


def compare_all() -> None:
    for dtype in DTYPES:
        for count in COUNTS:
            for n, p in ((8, 5), (10, 6), (3, 1)):
                for apply_cutoff, transform in ((True, False), (False, False), (True, True), (False, True)):
                    compare_basis(dtype, count, n, p, apply_cutoff, transform)
            for widths in WIDTHS:
                compare_activations(dtype, count, widths, enveloped=count % 2 == 1)
            for size in (0, 1, 31, 64):
                compare_dot(dtype, count, size)


def compare_silu() -> None:
    """One layer of one unit is silu: within a few units in the last place, for every argument."""
    for dtype, end in ((torch.float32, 87.0), (torch.float64, 708.0)):
        limits = torch.finfo(dtype)
        z = torch.cat([torch.linspace(-end, end, 20001, dtype=dtype), torch.logspace(-30, 1, 999, dtype=dtype)])
        z = torch.cat([z, -z])
        value, slope = ops.radial_activations(z[:, None], torch.ones(len(z), 1, dtype=dtype), torch.ones(1).to(z), (1,))
        exact = z.double()
        s, rest = torch.sigmoid(exact), torch.sigmoid(-exact)
        assert ((value[:, 0].double() - exact * s) / (exact * s).abs()).abs().nan_to_num().max() <= 3 * limits.eps
        assert (slope[:, 0].double() - (s + exact * s * rest)).abs().max() <= 2 * limits.eps
        ones = torch.ones(9, 1, dtype=dtype)
        ends = [limits.max, -limits.max, 0.0, -0.0, 1e3, -1e3, limits.tiny, -end - 1, -end - 50]
        value, slope = ops.radial_activations(torch.tensor(ends, dtype=dtype)[:, None], ones, ones[0], (1,))
        expected = torch.tensor([limits.max, 0, 0, 0, 1e3, 0, limits.tiny / 2, 0, 0], dtype=dtype)
        torch.testing.assert_close(value[:, 0], expected, rtol=limits.eps, atol=1e-30)
        torch.testing.assert_close(slope[:, 0], ones[:, 0] * torch.tensor([1, 0, 0.5, 0.5, 1, 0, 0.5, 0, 0]))
        assert all(x.isnan().all() for x in ops.radial_activations(math.nan * ones, ones, ones[0], (1,)))


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
@compiled
def test_every_instruction_set_and_number_of_threads(isa: str) -> None:
    program = (
        "import torch, test_ops_radial as t; torch.manual_seed(3)\n"
        "t.compare_all()\n"
        "t.compare_silu()\n"
        "r, out = t.distances(3001), []\n"
        "for threads in (1, 2, 5):\n"
        "    torch.set_num_threads(threads)\n"
        "    out.append(t.everything(r))\n"
        "assert all(torch.equal(a, b) for o in out for a, b in zip(out[0], o))\n"
    )
    paths = os.pathsep.join([str(Path(mlip.__file__).parents[1]), str(Path(__file__).parent)])
    environment = os.environ | {"MLIP_SIMD": isa, "PYTHONPATH": paths, "OMP_NUM_THREADS": "5"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def everything(r: Tensor) -> list[Tensor]:
    """All operators in a row, as a model has them."""
    generator = torch.Generator().manual_seed(5)
    out = []
    for dtype in DTYPES:
        basis, tangent, *_ = ops.bessel_basis(r, frequencies(8), 0.6, CUTOFF, 5, dtype=dtype)
        _, _, f, df = ops.bessel_basis(r, frequencies(8), 0.6, CUTOFF, 5, dtype=dtype, apply_cutoff=False)
        weights = torch.randn(8 * 64 + 64 * 30, generator=generator, dtype=dtype) / 4
        activations, slopes = ops.radial_activations(basis, tangent, weights, (64, 30), (f, df))
        out += [basis, tangent, f, df, activations, slopes, ops.rowwise_dot(activations, slopes)]
    return out


@compiled
def test_other_edges_do_not_change_a_bit() -> None:
    r = distances(200)
    whole = everything(r)
    for chosen in (slice(13, 14), slice(17, 98), slice(None, None, 3)):
        part = everything(r[chosen].contiguous())
        assert all(torch.equal(a[chosen], b) for a, b in zip(whole, part, strict=True))


@pytest.mark.parametrize("apply_cutoff", [True, False])
def test_equals_the_networks_of_the_models(apply_cutoff: bool) -> None:
    embedding = RadialEmbedding([14], CUTOFF, 8, p=6, apply_cutoff=apply_cutoff)
    perceptron = RadialMLP([8, 32, 32, 100])
    r = (0.3 + torch.rand(90, dtype=torch.float64) * CUTOFF).requires_grad_()
    values, envelope = embedding(r, torch.zeros(2, 90, dtype=torch.int64))
    expected = perceptron.double().hidden(values) * (1 if envelope is None else envelope)
    weights = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(expected, r, weights)
    basis = embedding.basis
    with torch.no_grad():
        found = ops.bessel_basis(r, basis.frequencies, float(basis.prefactor), CUTOFF, 6, apply_cutoff=apply_cutoff)
        gain = 1.6791767923989418
        matrices = [w / math.sqrt(len(w)) for w in perceptron.weights[:-1]]
        flat = torch.cat([matrices[0].flatten(), gain * matrices[1].flatten()])
        f, df = found[2:]
        of_envelope = None if f is None or df is None else (f, df)
        activations, slopes = ops.radial_activations(found[0], found[1], flat, (32, 32), of_envelope)
        torch.testing.assert_close(gain * activations, expected, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(gain * ops.rowwise_dot(weights, slopes), gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", [ops.bessel_basis, bessel_basis_reference])
@pytest.mark.parametrize("apply_cutoff", [True, False])
def test_derivatives_of_the_basis(function, apply_cutoff: bool) -> None:  # noqa: ANN001
    """Against central differences; the transformed distance is a function of the distance."""
    r, h = torch.linspace(0.02, 1.2 * CUTOFF, 400, dtype=torch.float64), 1e-4

    def basis(r: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        t = (torch.sqrt(0.1 + r * r), r / torch.sqrt(0.1 + r * r))
        return function(r, frequencies(8), 0.6, CUTOFF, 5, apply_cutoff=apply_cutoff, transformed=t)

    minus, plus, here = basis(r - h), basis(r + h), basis(r)
    for value, slope in ((0, 1),) if apply_cutoff else ((0, 1), (2, 3)):
        torch.testing.assert_close(here[slope], (plus[value] - minus[value]) / (2 * h), rtol=0, atol=2e-7)


@pytest.mark.parametrize("function", [ops.bessel_basis, bessel_basis_reference])
def test_basis_at_zero(function) -> None:  # noqa: ANN001
    """The limits: values prefactor · ω, slopes 0, in a straight line from there."""
    r = torch.tensor([0.0, 1e-12, 1e-6], dtype=torch.float64)
    values, slopes, *_ = function(r, frequencies(8), 0.6, CUTOFF, 5)
    torch.testing.assert_close(values, 0.6 * frequencies(8).expand(3, 8), rtol=1e-11, atol=0)
    torch.testing.assert_close(slopes, -0.2 * r[:, None] * frequencies(8) ** 3, rtol=1e-11, atol=1e-17)


def test_slopes_are_the_derivatives_of_the_reference() -> None:
    basis, tangent, weights = network(50, 8, (16, 16, 12), torch.float64)
    f, df = torch.randn(50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)

    def along(s: Tensor) -> Tensor:
        parts = basis + s * tangent, tangent, weights, (16, 16, 12), (f + s * df, df)
        return radial_activations_reference(*parts)[0]

    zero = torch.zeros((), dtype=torch.float64)
    _, expected = torch.autograd.functional.jvp(along, zero, torch.ones_like(zero))
    _, slopes = ops.radial_activations(basis, tangent, weights, (16, 16, 12), (f, df))
    torch.testing.assert_close(slopes, expected, rtol=1e-12, atol=1e-12)


@compiled
@pytest.mark.parametrize("count", [0, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(count: int, dtype: torch.dtype) -> None:
    r = torch.rand(count, dtype=torch.float64)
    for apply_cutoff in (True, False):
        given = (r, r.new_empty(0), r.new_empty(0), frequencies(8), 0.6, CUTOFF, 5, apply_cutoff, dtype.itemsize == 4)
        torch.library.opcheck(torch.ops.mlip.bessel_basis.default, given)
    basis, tangent, weights = network(count, 8, (16, 6), dtype)
    empty = basis.new_empty(0)
    for f, df in ((empty, empty.clone()), (torch.randn(count).to(basis), torch.randn(count).to(basis))):
        given = (basis, tangent, weights, f, df, 16, 6, 0, 0)
        torch.library.opcheck(torch.ops.mlip.radial_activations.default, given)
    torch.library.opcheck(torch.ops.mlip.rowwise_dot.default, (basis, tangent, torch.arange(count)))


@compiled
def test_derivatives_raise() -> None:
    basis, tangent, weights = network(5, 8, (4,), torch.float64)
    basis.requires_grad_()
    r = torch.rand(5, dtype=torch.float64, requires_grad=True)
    for out in (
        ops.radial_activations(basis, tangent, weights, (4,))[0],
        ops.rowwise_dot(basis, tangent),
        ops.bessel_basis(r, frequencies(8), 0.6, CUTOFF, 5)[0],
    ):
        with pytest.raises(NotImplementedError, match="for inference"):
            out.sum().backward()


def test_inputs_of_other_types_and_strides() -> None:
    basis, tangent, weights = network(6, 8, (4,), torch.bfloat16)
    assert ops.radial_activations(basis, tangent, weights, (4,))[0].dtype == torch.bfloat16
    values, *_ = ops.bessel_basis(torch.rand(6), frequencies(8).float(), 0.6, CUTOFF, 5)
    assert values.dtype == torch.float32
    basis, tangent, weights = network(6, 8, (4,), torch.float64)
    strided = basis.T.contiguous().T
    found = ops.radial_activations(strided, tangent, weights, (4,))
    assert all(
        torch.equal(a, b) for a, b in zip(found, ops.radial_activations(basis, tangent, weights, (4,)), strict=True)
    )


def test_widths_are_checked() -> None:
    basis, tangent, weights = network(6, 8, (4,), torch.float64)
    for function in (ops.radial_activations, radial_activations_reference):
        for widths in ((), (4, 0), (4, 4, 4, 4, 4)):
            with pytest.raises(InputError, match="widths"):
                function(basis, tangent, weights, widths)


@compiled
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: torch.zeros(5, 8).T}, "basis"),
        ({0: torch.zeros(5)}, "basis"),
        ({0: torch.zeros(5, 8, dtype=torch.float16)}, "basis"),
        ({1: torch.zeros(4, 8)}, "tangent"),
        ({1: torch.zeros(5, 8, dtype=torch.float64)}, "tangent"),
        ({2: torch.zeros(47)}, "weights"),
        ({2: torch.zeros(48, dtype=torch.float64)}, "weights"),
        ({3: torch.zeros(4)}, "envelope"),
        ({3: torch.zeros(5)}, "envelope"),
        ({3: torch.zeros(5), 4: torch.zeros(5, dtype=torch.float64)}, "envelope"),
        ({5: 0}, "widths"),
        ({5: -4}, "widths"),
        ({6: 0, 7: 4}, "widths"),
        ({6: 1 << 40}, "widths"),
        ({0: torch.zeros(0, 1 << 50), 1: torch.zeros(0, 1 << 50), 2: torch.zeros(0), 5: 1 << 14, 6: 0}, "a tensor"),
    ],
)
def test_activations_refuse(changes: dict, message: str) -> None:
    given: list = [torch.zeros(5, 8), torch.zeros(5, 8), torch.zeros(48), torch.zeros(0), torch.zeros(0), 4, 4, 0, 0]
    torch.ops.mlip.radial_activations(*given)
    for place, value in changes.items():
        given[place] = value
    with pytest.raises((ValueError, RuntimeError), match=f"(radial_activations|mlip): {message}"):
        torch.ops.mlip.radial_activations(*given)


@compiled
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: torch.zeros(5)}, "distance"),
        ({0: torch.zeros(5, 1).double()}, "distance"),
        ({1: torch.zeros(5).double()}, "transformed"),
        ({1: torch.zeros(4).double(), 2: torch.zeros(4).double()}, "transformed"),
        ({1: torch.zeros(5), 2: torch.zeros(5)}, "transformed"),
        ({3: torch.zeros(8)}, "frequencies"),
        ({3: torch.zeros(8, 1).double()}, "frequencies"),
        ({5: 0.0}, "cutoff"),
        ({5: math.nan}, "cutoff"),
        ({6: 0}, "p: expected"),
    ],
)
def test_basis_refuses(changes: dict, message: str) -> None:
    empty = torch.zeros(0).double()
    given: list = [torch.zeros(5).double(), empty, empty, frequencies(8), 0.6, CUTOFF, 5, True, False]
    torch.ops.mlip.bessel_basis(*given)
    for place, value in changes.items():
        given[place] = value
    with pytest.raises((ValueError, RuntimeError), match=f"bessel_basis: {message}"):
        torch.ops.mlip.bessel_basis(*given)


@compiled
def test_dot_refuses() -> None:
    a, none, far = torch.zeros(5, 8), torch.zeros(0, dtype=torch.int64), torch.tensor([0, 1, 2, 3, 4])
    for given, message in (
        ((a.T, a, none), "a"),
        ((a[0], a[0], none), "a"),
        ((a, a[:4], none), "b"),
        ((a, a.double(), none), "b"),
        ((a, a[:, :7].contiguous(), far), "b"),
        ((a, a, far[:4]), "rows"),
        ((a, a, far.double()), "rows"),
        ((a, a[:4], far), "rows"),
        ((a, a, far - 1), "rows"),
    ):
        with pytest.raises((ValueError, RuntimeError), match=f"rowwise_dot: {message}:"):
            torch.ops.mlip.rowwise_dot(*given)
