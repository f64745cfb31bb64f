"""The operator `directional_sums`: plain torch's numbers, derivatives of any order, clear refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import mlip
from mlip import ops

pytestmark = pytest.mark.skipif(not mlip.compiled, reason="the extension is not built")

COUNTS = [3, 0, 8, 1, 17, 9, 0]


def arguments(degrees: int, channels: int, counts: list[int] = COUNTS, dtype: Any = torch.float64) -> list[Tensor]:
    """Weights, harmonics, density, offsets."""
    torch.manual_seed(0)
    edges, components = sum(counts), degrees**2
    real = [
        torch.randn(degrees, edges, channels, dtype=dtype),
        torch.randn(edges, components, dtype=dtype),
        torch.randn(components, len(counts), channels, dtype=dtype),
    ]
    return [*real, torch.tensor([0, *counts]).cumsum(0)]


def by_hand(weights: Tensor, harmonics: Tensor, density: Tensor, offsets: Tensor) -> Tensor:
    out = torch.zeros(weights.shape[1:], dtype=weights.dtype)
    for i in range(len(offsets) - 1):
        for e in range(int(offsets[i]), int(offsets[i + 1])):
            for degree, weight in enumerate(weights[:, e]):
                ms = range(degree**2, (degree + 1) ** 2)
                out[e] += weight * sum(harmonics[e, m] * density[m, i] for m in ms)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("degrees", "channels"), [(1, 16), (2, 48), (7, 64), (9, 32), (3, 5)])
def test_equals_sums_by_hand(dtype: torch.dtype, degrees: int, channels: int) -> None:
    """Five channels are no whole block: plain torch."""
    given = arguments(degrees, channels, dtype=dtype)
    exact = by_hand(*(t.double() if t.is_floating_point() else t for t in given))
    tolerance = 50 * torch.finfo(dtype).eps
    assert (ops.directional_sums(*given) - exact).abs().max() <= tolerance * exact.abs().max()
    if channels == 5:
        return
    grad = torch.randn(exact.shape, dtype=dtype)
    leaves = [t.double().requires_grad_(True) for t in given[:3]]
    expected = torch.autograd.grad(by_hand(*leaves, given[3]), leaves, grad.double())
    found = torch.ops.mlip.directional_sums_backward(grad, *given, True, True, True)
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine - theirs).abs().max() <= tolerance * theirs.abs().max()
    alone = torch.ops.mlip.directional_sums_backward(grad, *given, False, True, False)
    assert [len(t) for t in alone] == [0, sum(COUNTS), 0] and torch.equal(alone[1], found[1])


def test_derivatives() -> None:
    *real, offsets = arguments(3, 8, [2, 0, 5])
    leaves = [t.requires_grad_(True) for t in real]

    def function(*given: Tensor) -> Tensor:
        return ops.directional_sums(*given, offsets)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)
    torch.library.opcheck(torch.ops.mlip.directional_sums.default, (*leaves, offsets))
    flags = (True, False, True)
    backward = torch.ops.mlip.directional_sums_backward.default
    torch.library.opcheck(backward, (torch.randn(7, 8, dtype=torch.float64), *real, offsets, *flags))


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_instruction_sets_agree(isa: str) -> None:
    code = """
import torch
from test_ops_directional_sums import arguments
from mlip import ops
for dtype, bound in ((torch.float64, 1e-13), (torch.float32, 1e-4)):
    given = [t.requires_grad_(t.is_floating_point()) for t in arguments(5, 48, dtype=dtype)]
    leaves = [t.detach().double().requires_grad_(True) for t in given[:3]]
    out = ops.directional_sums(*given)
    center = torch.repeat_interleave(torch.arange(len(given[3]) - 1), given[3].diff())
    plain = torch.stack([
        (leaves[0][l] * torch.einsum("em,mec->ec", leaves[1][:, l*l:(l+1)**2], leaves[2][l*l:(l+1)**2, center]))
        for l in range(5)]).sum(0)
    assert (out - plain).abs().max() < bound
    grads = torch.autograd.grad(out.square().sum(), given[:3]), torch.autograd.grad(plain.square().sum(), leaves)
    assert all((a - b).abs().max() < 1e3 * bound for a, b in zip(*grads))
"""
    here = os.path.dirname(__file__)
    environment = os.environ | {
        "MLIP_SIMD": isa,
        "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]),
    }
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_threads_do_not_change_a_bit() -> None:
    given, before = arguments(4, 16, [7] * 50, torch.float32), torch.get_num_threads()
    grad = torch.randn(350, 16)
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            backward = torch.ops.mlip.directional_sums_backward(grad, *given, True, True, True)
            results.append([ops.directional_sums(*given), *backward])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_no_edges_no_atoms() -> None:
    assert ops.directional_sums(*arguments(2, 8, [0, 0])).shape == (0, 8)
    assert ops.directional_sums(*arguments(2, 8, [])).shape == (0, 8)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.randn(2, 3, 7, dtype=torch.float64), "whole multiples of 64 bytes"),
        (0, torch.randn(2, 3, 8).half(), "weights: expected"),
        (1, torch.randn(3, 9, dtype=torch.float64), "harmonics: expected"),
        (1, torch.randn(3, 4), "harmonics: expected"),
        (2, torch.randn(4, 1, 8, dtype=torch.float64), "density: expected"),
        (3, torch.tensor([0, 1, 4]), "offsets"),
        (3, torch.tensor([0.0, 1.0, 3.0]), "offsets: expected"),
    ],
)
def test_wrong_arguments(place: int, value: Tensor, message: str) -> None:
    given = arguments(2, 8, [1, 2])
    given[place] = value
    with pytest.raises((RuntimeError, ValueError), match=message):
        torch.ops.mlip.directional_sums(*given)
