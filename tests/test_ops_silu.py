"""silu and its derivatives of every order: against plain torch, on every instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mlip
from mlip import ops
from mlip.ops.silu import HIGHEST_ORDER, silu_reference

compiled = pytest.mark.skipif(not mlip.compiled, reason="the extension is not built")
DTYPES = [torch.float32, torch.float64]
ORDERS = range(HIGHEST_ORDER + 1)


def compare(dtype: torch.dtype, order: int, count: int) -> None:
    eps = torch.finfo(dtype).eps
    z, factor = 4 * torch.randn(count, dtype=dtype), torch.randn(count, dtype=dtype)
    exact = silu_reference(z.double(), None, order)
    tolerance = 4 * eps * 2**order * (1 + z.abs())
    assert ((ops.silu(z, None, order) - exact).abs() <= tolerance).all()
    assert ((ops.silu(z, factor, order) - factor * exact).abs() <= tolerance * factor.abs()).all()
    if order:
        return
    far = torch.linspace(-87 if dtype == torch.float32 else -708, 100, 5001, dtype=dtype)
    exact = far.double() * torch.sigmoid(far.double())
    assert (ops.silu(far) / exact - 1).nan_to_num().abs().max() <= 3 * eps


def compare_all() -> None:
    for dtype in DTYPES:
        for order in ORDERS:
            for count in (0, 1, 3, 17, 333):
                compare(dtype, order, count)
            compare_extremes(dtype, order)


def compare_extremes(dtype: torch.dtype, order: int) -> None:
    largest = torch.finfo(dtype).max
    z = torch.tensor([largest, -largest, 0.0, -0.0, 1e4, -1e4, -89, -110, -720, -750], dtype=dtype)
    at_zero = (0.0, 0.5, 0.5, 0.0, -0.5, 0.0)[order]
    beyond = {0: z, 1: torch.ones_like(z)}.get(order, torch.zeros_like(z))
    expected = torch.where(z > 0, beyond, torch.where(z == 0, at_zero, 0.0).to(dtype))
    torch.testing.assert_close(ops.silu(z, None, order), expected, rtol=0, atol=1e-30)


def everything(z: Tensor) -> list[Tensor]:
    out = [ops.silu(z, None, k) for k in ORDERS]
    for k in ORDERS[:-1]:
        out += torch.ops.mlip.silu_backward(z, out[2], k, out[1], True, True)
    return out


@compiled
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_and_number_of_threads(isa: str) -> None:
    program = (
        "import torch, test_ops_silu as t; torch.manual_seed(3)\n"
        "t.compare_all()\n"
        "z, out = torch.randn(1001, 61), []\n"
        "for threads in (1, 2, 5):\n"
        "    torch.set_num_threads(threads)\n"
        "    out.append(t.everything(z))\n"
        "assert all(torch.equal(a, b) for o in out for a, b in zip(out[0], o))\n"
        "assert all(torch.equal(a[5:17], b) for a, b in zip(out[0], t.everything(z[5:17])))\n"
    )
    paths = os.pathsep.join([str(Path(mlip.__file__).parents[1]), str(Path(__file__).parent)])
    environment = os.environ | {"MLIP_SIMD": isa, "PYTHONPATH": paths, "OMP_NUM_THREADS": "5"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("order", ORDERS)
def test_the_reference_is_the_derivative_of_torchs_silu(order: int) -> None:
    z = torch.linspace(-40, 40, 301, dtype=torch.float64, requires_grad=True)
    expected = z * torch.sigmoid(z)
    for _ in range(order):
        (expected,) = torch.autograd.grad(expected.sum(), z, create_graph=True)
    torch.testing.assert_close(silu_reference(z, None, order), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("order", ORDERS[:-2])
@pytest.mark.parametrize("with_factor", [True, False])
def test_derivatives(order: int, with_factor: bool) -> None:
    z = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    factor = torch.randn(5, 3, dtype=torch.float64, requires_grad=True) if with_factor else None
    inputs = (z, factor, order)
    assert torch.autograd.gradcheck(ops.silu, inputs)
    assert torch.autograd.gradgradcheck(ops.silu, inputs)


@compiled
@pytest.mark.parametrize("order", [0, 2])
@pytest.mark.parametrize("need_z", [True, False])
@pytest.mark.parametrize("need_factor", [True, False])
def test_derivatives_of_the_backward_operator(order: int, need_z: bool, need_factor: bool) -> None:
    given = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def backward(z: Tensor, factor: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        found = torch.ops.mlip.silu_backward(z, factor, order, grad, need_z, need_factor)
        return tuple(x for x in found if x.numel())

    if need_z or need_factor:
        assert torch.autograd.gradcheck(backward, given)
        assert torch.autograd.gradgradcheck(backward, given)
    arguments = (*given[:2], order, given[2], need_z, need_factor)
    torch.library.opcheck(torch.ops.mlip.silu_backward.default, arguments)


@compiled
@pytest.mark.parametrize("count", [0, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(count: int, dtype: torch.dtype) -> None:
    z, factor = (torch.randn(count, 3, dtype=dtype, requires_grad=True) for _ in range(2))
    torch.library.opcheck(torch.ops.mlip.silu.default, (z, factor, 1))
    torch.library.opcheck(torch.ops.mlip.silu.default, (z, torch.zeros(0, dtype=dtype), 0))
    torch.library.opcheck(
        torch.ops.mlip.silu_backward.default, (z, torch.zeros(0, dtype=dtype), 0, factor, True, False)
    )


def test_a_loss_of_forces() -> None:
    """A gradient of a gradient, by the weights of a perceptron, as torch finds it."""
    torch.manual_seed(4)
    x, first, second = (torch.randn(shape, dtype=torch.float64) for shape in ((9, 3), (3, 6), (6, 6)))
    found = []
    for function in (ops.silu, torch.nn.functional.silu):
        parameters = [x.clone().requires_grad_(), first.clone().requires_grad_(), second.clone().requires_grad_()]
        out = function(function(parameters[0] @ parameters[1]) @ parameters[2]).pow(2).sum()
        (force,) = torch.autograd.grad(out, parameters[0], create_graph=True)
        found.append(torch.autograd.grad(force.pow(2).sum(), parameters))
    torch.testing.assert_close(found[0], found[1], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [(), (4,), (0,), (2, 0), (3, 0, 2), (2, 3, 4)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    z = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(ops.silu(z), torch.nn.functional.silu(z))
    assert torch.autograd.gradcheck(ops.silu, (z,))
    strided = torch.randn(5, 4).T
    assert torch.equal(ops.silu(strided, strided), ops.silu(strided.contiguous(), strided.contiguous()))


def test_orders_there_are_not() -> None:
    z = torch.randn(3, 2, requires_grad=True)
    for order in (-1, HIGHEST_ORDER + 1):
        with pytest.raises(NotImplementedError, match="silu: order"):
            ops.silu(z, None, order)


@compiled
def test_a_derivative_of_an_order_there_is_not() -> None:
    z = torch.randn(3, 2, requires_grad=True)
    with pytest.raises(NotImplementedError, match="no derivative of order 6"):
        ops.silu(z, None, HIGHEST_ORDER).sum().backward()
    (gradient,) = torch.autograd.grad(ops.silu(z, None, HIGHEST_ORDER - 1).sum(), z, create_graph=True)
    with pytest.raises(NotImplementedError, match="no derivative of order 6"):
        gradient.sum().backward()
    factor = torch.randn(3, 2, requires_grad=True)
    ops.silu(z.detach(), factor, HIGHEST_ORDER).sum().backward()
    assert factor.grad is not None


@compiled
def test_refusals() -> None:
    z, none = torch.zeros(4, 3), torch.zeros(0)
    for given, message in (
        ((z[0], none, 0), "z"),
        ((z.T, none, 0), "z"),
        ((z.half(), none.half(), 0), "z"),
        ((z, z[:3], 0), "factor"),
        ((z, z.double(), 0), "factor"),
        ((z, none.double(), 0), "factor"),
        ((z, none, -1), "order"),
        ((z, none, 6), "order"),
    ):
        with pytest.raises((ValueError, RuntimeError), match=f"silu: {message}:"):
            torch.ops.mlip.silu(*given)
        with pytest.raises((ValueError, RuntimeError), match=f"silu_backward: {message}:"):
            torch.ops.mlip.silu_backward(*given, z, True, True)
    with pytest.raises((ValueError, RuntimeError), match="silu_backward: grad:"):
        torch.ops.mlip.silu_backward(z, none, 0, z[:3], True, True)
    with pytest.raises((ValueError, RuntimeError), match="silu_backward: order:"):
        torch.ops.mlip.silu_backward(z, none, 5, z, True, True)
    with pytest.raises((ValueError, RuntimeError), match="factor"):
        ops.silu(z, z[:, :1])
