"""The operator `matmul`: torch's numbers, derivatives of any order, clear refusals."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import mlip
from mlip import ops

pytestmark = pytest.mark.skipif(not mlip.compiled, reason="the extension is not built")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 16, 16),
        (1, 8, 128, 128),
        (3, 3, 64, 48),
        (1, 5, 7, 33),
        (1, 30, 128, 64),
        (3, 50, 7, 33),
        (7, 40, 128, 128),
    ]
    + [(1, 97, 1, 1), (5, 31, 130, 2), (1, 300, 32, 96)],
)
def test_equals_torch(dtype: torch.dtype, shape: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    components, atoms, k, n = shape
    x, matrix = torch.randn(components, atoms, k, dtype=dtype), torch.randn(k, n, dtype=dtype)
    exact = x.double() @ matrix.double()
    assert (ops.matmul(x, matrix) - exact).abs().max() <= 30 * torch.finfo(dtype).eps * k**0.5
    assert ops.matmul(x, matrix).shape == exact.shape
    grads = torch.ops.mlip.matmul_backward(exact.to(dtype).flatten(0, 1), x.flatten(0, 1), matrix, True, True)
    for mine, expected in zip(
        grads, (exact @ matrix.double().T, x.double().flatten(0, 1).T @ exact.flatten(0, 1)), strict=True
    ):
        assert (mine.view(expected.shape) - expected).abs().max() <= 30 * torch.finfo(dtype).eps * expected.abs().max()
    strided = ops.matmul(x.transpose(0, 1), matrix.T.contiguous().T)
    torch.testing.assert_close(strided, exact.transpose(0, 1).to(dtype), rtol=0, atol=1e-3)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_instruction_sets_agree(isa: str) -> None:
    code = """
import torch
from mlip import ops
torch.manual_seed(1)
for rows, k, n in ((101, 37, 45), (1, 64, 32), (2, 48, 80), (8, 128, 128), (23, 32, 16), (60, 64, 64), (300, 48, 33)):
    x, m = torch.randn(rows, k, dtype=torch.float64), torch.randn(k, n, dtype=torch.float64)
    assert (ops.matmul(x, m) - x @ m).abs().max() < 1e-12
    a, b = torch.ops.mlip.matmul_backward(x @ m, x, m, True, True)
    assert (a - (x @ m) @ m.T).abs().max() < 1e-11 and (b - x.T @ (x @ m)).abs().max() < 1e-11
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"MLIP_SIMD": isa})


def test_derivatives() -> None:
    torch.manual_seed(2)
    x = torch.randn(49, 3, dtype=torch.float64, requires_grad=True)
    matrix = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ops.matmul, (x, matrix), fast_mode=True)
    assert torch.autograd.gradgradcheck(ops.matmul, (x, matrix), fast_mode=True)
    torch.library.opcheck(torch.ops.mlip.matmul, (x, matrix))


def test_threads_do_not_change_a_bit() -> None:
    torch.manual_seed(3)
    x, matrix, threads = torch.randn(1000, 64), torch.randn(64, 48), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = ops.matmul(x, matrix)
        torch.set_num_threads(2)
        two = ops.matmul(x, matrix)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, two)


def test_nothing_to_multiply() -> None:
    for x, matrix in ((torch.randn(0, 4), torch.randn(4, 3)), (torch.randn(60, 0), torch.randn(0, 3))):
        assert torch.equal(torch.ops.mlip.matmul(x, matrix), x @ matrix)
        assert torch.equal(ops.matmul(x, matrix), x @ matrix)
    assert torch.ops.mlip.matmul(torch.randn(60, 4), torch.randn(4, 0)).shape == (60, 0)


def test_refusals() -> None:
    x = torch.randn(60, 4)
    for a, b in ((x, torch.randn(5, 3)), (x, torch.randn(4, 3).double()), (x.T, torch.randn(60, 3)), (x[0], x)):
        with pytest.raises((RuntimeError, ValueError), match="matmul: expected"):
            torch.ops.mlip.matmul(a, b)
