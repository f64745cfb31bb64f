"""Linear maps of irreps: the operator against plain torch, its derivatives, its refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import mlip
from mlip.ops import irreps_linear
from mlip.ops.irreps_linear import irreps_linear_reference

compiled = pytest.mark.skipif(not mlip.compiled, reason="the extension is not built")

#: dims_in, channels_in, sources, dims_out, C_out. Some have a source used twice, another unused, zeros, odd sizes.
MAPS: dict[str, tuple[list[int], list[int], list[int], list[int], int]] = {
    "plain": ([1, 3, 5, 7], [32, 32, 32, 32], [0, 1, 2, 3], [1, 3, 5, 7], 32),
    "one": ([1], [64], [0], [1], 128),
    "mixed": ([1, 3, 3, 5], [48, 16, 32, 16], [0, 2, -1, 0, -1], [1, 3, 3, 1, 5], 48),
    "odd": ([3, 1, 5], [7, 13, 1], [2, 0, -1, 1, 0], [5, 3, 7, 1, 3], 11),
    "column": ([1, 3], [5, 16], [0, 1], [1, 3], 1),
}


def problem(name: str, n_atoms: int, n_elements: int, present: int, dtype: torch.dtype) -> tuple[Any, ...]:
    dims_in, channels_in, sources, dims_out, channels_out = MAPS[name]
    numbers = sum(dim * n_atoms * channels for dim, channels in zip(dims_in, channels_in, strict=True))
    x = torch.randn(numbers, dtype=dtype, requires_grad=True)
    rows = sum(channels_in[source] for source in sources if source >= 0)
    weight = torch.randn(n_elements, rows * channels_out, dtype=dtype, requires_grad=True)
    species = torch.randint(n_elements - present, n_elements, (n_atoms,)) if n_elements > 1 else None
    return x, weight, dims_in, channels_in, sources, dims_out, species


def close(mine: Tensor, expected: Tensor) -> None:
    scale = float(expected.detach().abs().max()) if expected.numel() else 1.0
    torch.testing.assert_close(mine, expected, rtol=0, atol=50 * torch.finfo(expected.dtype).eps * max(1.0, scale))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n_elements", "present"), [(1, 1), (5, 1), (5, 3), (40, 40)])
@pytest.mark.parametrize("n_atoms", [0, 1, 8, 29, 250])
@pytest.mark.parametrize("name", MAPS)
def test_equals_reference(name: str, n_atoms: int, n_elements: int, present: int, dtype: torch.dtype) -> None:
    torch.manual_seed(n_atoms + n_elements)
    arguments = problem(name, n_atoms, n_elements, present, dtype)
    mine, expected = irreps_linear(*arguments), irreps_linear_reference(*arguments)
    close(mine, expected)
    grad = torch.randn_like(expected)
    for a, b in zip(*(torch.autograd.grad(out, arguments[:2], grad) for out in (mine, expected)), strict=True):
        close(a, b)


def test_features_are_blocks() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(9, 6, 16), torch.randn(1, 2 * 16 * 32)
    out = irreps_linear(x.transpose(0, 1).contiguous().transpose(0, 1), weight, [1, 3, 5], [16] * 3, [2, 0], [5, 1])
    first, second = weight.view(2, 16, 32)
    close(out, torch.cat([x[4:] @ first, x[:1] @ second]))


@compiled
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_instruction_sets_agree(isa: str) -> None:
    code = """
import sys
import torch
sys.path.insert(0, "tests")
from test_ops_irreps_linear import MAPS, test_equals_reference
for name in MAPS:
    for n_atoms in (1, 4, 30, 90):
        for elements, present in ((1, 1), (4, 3)):
            for dtype in (torch.float32, torch.float64):
                test_equals_reference(name, n_atoms, elements, present, dtype)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"MLIP_SIMD": isa})


@pytest.mark.parametrize("name", ["mixed", "odd"])
@pytest.mark.parametrize("n_elements", [1, 3])
def test_derivatives(name: str, n_elements: int) -> None:
    torch.manual_seed(1)
    x, weight, *others = problem(name, 4, n_elements, 2, torch.float64)

    def function(a: Tensor, b: Tensor) -> Tensor:
        return irreps_linear(a, b, *others)

    assert torch.autograd.gradcheck(function, (x, weight), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (x, weight), fast_mode=True)


@compiled
@pytest.mark.parametrize("n_elements", [1, 3])
def test_operators_are_registered_right(n_elements: int) -> None:
    arguments = problem("mixed", 5, n_elements, min(2, n_elements), torch.float64)
    torch.library.opcheck(torch.ops.mlip.irreps_linear, arguments)
    grad = torch.randn_like(irreps_linear(*arguments)).requires_grad_()
    for needs in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(torch.ops.mlip.irreps_linear_backward, (grad, *arguments, *needs))


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_elements", [1, 6])
def test_threads_do_not_change_a_bit(n_elements: int, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    x, weight, *others = problem("mixed", 700, n_elements, n_elements, dtype)
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            out = irreps_linear(x, weight, *others)
            found.append((out, *torch.autograd.grad(out, (x, weight), out)))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@compiled
def test_refusals() -> None:
    good: dict[str, Any] = {
        "x": torch.randn(4, 5, 8),
        "weight": torch.randn(2, 2 * 8 * 8),
        "dims_in": [1, 3],
        "channels_in": [8, 8],
        "sources": [0, 1],
        "dims_out": [1, 3],
        "species": torch.tensor([0, 1, 1, 0, 1]),
    }
    operator = torch.ops.mlip.irreps_linear
    assert operator(**good).shape == (4, 5, 8)
    for change, message in (
        ({"x": torch.randn(4, 5, 8).double()}, "x and weight of float32"),
        ({"x": torch.randn(8, 5, 4).mT}, "x: expected a contiguous"),
        ({"x": torch.randn(31)}, "numbers of each atom"),
        ({"weight": torch.randn(2, 2 * 8 * 8 + 1)}, "weight: expected"),
        ({"weight": torch.randn(2, 2 * 8, 8)}, "weight: expected"),
        ({"weight": torch.randn(0, 2 * 8 * 8)}, "weight: expected"),
        ({"species": None}, "several elements need species"),
        ({"species": torch.tensor([0, 1, 2, 0, 1])}, "from 0 to elements - 1"),
        ({"species": torch.tensor([0, 1, -1, 0, 1])}, "from 0 to elements - 1"),
        ({"species": torch.tensor([0, 1])}, "species: expected a contiguous"),
        ({"species": torch.zeros(5, dtype=torch.int32)}, "species: expected a contiguous"),
        ({"sources": [0, 2]}, "indices of input blocks"),
        ({"sources": [0, -2]}, "indices of input blocks"),
        ({"sources": [-1, -1]}, "an output with a source"),
        ({"sources": [1, 0]}, "differs in dimension"),
        ({"sources": [0]}, "differ in length"),
        ({"channels_in": [8]}, "differ in length"),
        ({"channels_in": [8, 0]}, "from 1 to"),
        ({"dims_in": [2**40, 3]}, "from 1 to"),
    ):
        with pytest.raises((RuntimeError, ValueError), match=f"irreps_linear: .*{message}"):
            operator(**(good | change))
    values = list(good.values())
    with pytest.raises((RuntimeError, ValueError), match="irreps_linear: grad: expected"):
        torch.ops.mlip.irreps_linear_backward(torch.randn(4, 5, 9), *values, True, True)
