"""Spherical harmonics: compiled against e3nn, on every instruction set, with two derivatives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mlip
from mlip.ops.spherical_harmonics import spherical_harmonics, spherical_harmonics_reference

pytestmark = pytest.mark.skipif(not mlip.compiled, reason="the extension is not built")
DTYPES = [torch.float32, torch.float64]
DEGREES = range(7)


def compare(l_max: int, dtype: torch.dtype, count: int) -> None:
    """Harmonics, lengths, first and second derivatives against the reference in float64."""
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-12}[dtype] * (l_max + 1) ** 2
    vectors = torch.randn(count, 3, dtype=dtype) * torch.logspace(-1, 1, count, dtype=dtype)[:, None]
    exact = vectors.double().requires_grad_()
    vectors.requires_grad_()
    outputs, expected = spherical_harmonics(vectors, l_max), spherical_harmonics_reference(exact, l_max)
    expected = expected[0] + 0 * exact.sum(), expected[1]  # e3nn's constant Y_00 has no derivative, not a zero one
    weights = [torch.randn_like(x) for x in outputs]
    torch.testing.assert_close([x.double() for x in outputs], list(expected), rtol=tolerance, atol=tolerance)
    assert {x.dtype for x in outputs} == {dtype}
    for w in weights:
        w.requires_grad_()
    (grad,) = torch.autograd.grad(outputs, vectors, weights, create_graph=True)
    exact_weights = [w.detach().double().requires_grad_() for w in weights]
    (expected_grad,) = torch.autograd.grad(expected, exact, exact_weights, create_graph=True)
    scale = exact.detach().norm(dim=1, keepdim=True)
    torch.testing.assert_close(grad.double() * scale, expected_grad * scale, rtol=tolerance, atol=10 * tolerance)
    direction = torch.randn_like(vectors) * vectors.detach().norm(dim=1, keepdim=True)
    second = torch.autograd.grad(grad, (vectors, *weights), direction)
    expected_second = torch.autograd.grad(expected_grad, (exact, *exact_weights), direction.double())
    for k, (a, b) in enumerate(zip(second, expected_second, strict=True)):
        factor = scale if k == 0 else 1
        torch.testing.assert_close(a.double() * factor, b * factor, rtol=tolerance, atol=100 * tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("l_max", DEGREES)
def test_equals_e3nn(l_max: int, dtype: torch.dtype) -> None:
    for count in (1, 37, 1500):
        compare(l_max, dtype, count)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("l_max", [0, 3, 6])
@pytest.mark.parametrize("count", [0, 5])
def test_opcheck(count: int, l_max: int, dtype: torch.dtype) -> None:
    vectors = torch.randn(count, 3, dtype=dtype, requires_grad=True)
    outputs = torch.ops.mlip.spherical_harmonics(vectors, l_max)
    gradients = [torch.randn_like(x).requires_grad_() for x in outputs]
    torch.library.opcheck(torch.ops.mlip.spherical_harmonics.default, (vectors, l_max))
    torch.library.opcheck(torch.ops.mlip.spherical_harmonics_backward.default, (*gradients, vectors, l_max))
    second = (torch.randn(count, 3, dtype=dtype), *(g.detach() for g in gradients), vectors.detach(), l_max)
    torch.library.opcheck(torch.ops.mlip.spherical_harmonics_second.default, second)


@pytest.mark.parametrize("l_max", [0, 1, 3, 5])
def test_derivatives(l_max: int) -> None:
    vectors = torch.randn(11, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: spherical_harmonics(v, l_max), vectors)
    assert torch.autograd.gradgradcheck(lambda v: spherical_harmonics(v, l_max), vectors)


def test_third_derivative_raises() -> None:
    vectors = torch.randn(3, 3, requires_grad=True)
    grad = vectors
    with pytest.raises(NotImplementedError, match="third derivative"):
        for _ in range(3):
            (grad,) = torch.autograd.grad(spherical_harmonics(grad, 2)[0].pow(3).sum(), vectors, create_graph=True)
            (grad,) = torch.autograd.grad(grad.pow(2).sum(), vectors, create_graph=True)


def test_degrees_beyond_the_compiled_ones() -> None:
    vectors = torch.randn(4, 3, dtype=torch.float64)
    assert torch.equal(spherical_harmonics(vectors, 8)[0], spherical_harmonics_reference(vectors, 8)[0])


def test_zero_vector() -> None:
    vectors = torch.zeros(2, 3, requires_grad=True)
    harmonics, length = spherical_harmonics(vectors, 3)
    assert harmonics[:, 0].eq(1).all() and harmonics[:, 1:].eq(0).all() and length.eq(0).all()
    (grad,) = torch.autograd.grad(harmonics.sum() + length.sum(), vectors)
    assert grad.eq(0).all()


def test_input_need_not_be_contiguous() -> None:
    vectors = torch.randn(3, 8).T
    torch.testing.assert_close(spherical_harmonics(vectors, 3), spherical_harmonics(vectors.contiguous(), 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(4, 2), 2), "vectors"),
        ((torch.zeros(3), 2), "vectors"),
        ((torch.zeros(4, 3, dtype=torch.float16), 2), "vectors"),
        ((torch.zeros(4, 3), -1), "l_max"),
        ((torch.zeros(4, 3), 7), "l_max"),
        ((torch.zeros(3, 4).T, 2), "vectors"),
    ],
)
def test_refuses(arguments: tuple, message: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=f"spherical_harmonics: {message}"):
        torch.ops.mlip.spherical_harmonics(*arguments)
    vectors, l_max = arguments
    gradients = torch.zeros(len(vectors), 9, dtype=vectors.dtype), torch.zeros(len(vectors), dtype=vectors.dtype)
    with pytest.raises((ValueError, RuntimeError), match=f"spherical_harmonics_backward: {message}"):
        torch.ops.mlip.spherical_harmonics_backward(*gradients, vectors, l_max)


def test_derivatives_refuse() -> None:
    vectors, y, length = torch.zeros(4, 3), torch.zeros(4, 9), torch.zeros(4)
    for wrong in ((y[:3], length, vectors), (y, length[:3], vectors), (y, length.double(), vectors)):
        with pytest.raises((ValueError, RuntimeError), match="grad_"):
            torch.ops.mlip.spherical_harmonics_backward(*wrong, 2)
        with pytest.raises((ValueError, RuntimeError), match="grad_"):
            torch.ops.mlip.spherical_harmonics_second(vectors, *wrong, 2)
    with pytest.raises((ValueError, RuntimeError), match="tangent"):
        torch.ops.mlip.spherical_harmonics_second(vectors[:3], y, length, vectors, 2)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_and_number_of_threads(isa: str) -> None:
    program = (
        "import torch, test_ops_harmonics as t; torch.manual_seed(3)\n"
        "[t.compare(l, d, 100) for l in t.DEGREES for d in t.DTYPES]\n"
        "v, out = torch.randn(5001, 3), []\n"
        "for threads in (1, 2, 5):\n"
        "    torch.set_num_threads(threads)\n"
        "    y, r = torch.ops.mlip.spherical_harmonics(v, 3)\n"
        "    out.append((y, r, torch.ops.mlip.spherical_harmonics_backward(y, r, v, 3)))\n"
        "assert all(torch.equal(a, b) for o in out for a, b in zip(out[0], o))\n"
    )
    paths = os.pathsep.join([str(Path(mlip.__file__).parents[1]), str(Path(__file__).parent)])
    environment = os.environ | {"MLIP_SIMD": isa, "PYTHONPATH": paths, "OMP_NUM_THREADS": "5"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
