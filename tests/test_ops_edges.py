"""Edge vectors, row offsets and cubic interpolation weights: compiled against plain torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mlip
from mlip.ops import edges as ops

needs_extension = pytest.mark.skipif(not mlip.compiled, reason="the extension is not built")
DTYPES = [torch.float32, torch.float64]


def graph(
    n_atoms: int, n_edges: int, n_graphs: int, dtype: torch.dtype, integer: torch.dtype = torch.int32
) -> tuple[torch.Tensor, ...]:
    """Random positions, cells, edges sorted by center, shifts (half of them none), structures."""
    batch = torch.arange(n_atoms) * n_graphs // max(n_atoms, 1)
    center = torch.randint(max(n_atoms, 1), (n_edges,)).sort().values
    edge_index = torch.stack([center, torch.randint(max(n_atoms, 1), (n_edges,))])
    shift = torch.randint(-2, 3, (n_edges, 3), dtype=integer) * torch.randint(2, (n_edges, 1), dtype=integer)
    return torch.randn(n_atoms, 3, dtype=dtype), torch.randn(n_graphs, 3, 3, dtype=dtype), edge_index, shift, batch


SIZES = [(7, 40, 1), (9, 60, 3), (3000, 20_000, 4), (5, 0, 2), (0, 0, 1), (0, 0, 0)]


@needs_extension
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("integer", [torch.int32, torch.int64])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_edge_vectors_are_those_of_the_reference(
    size: tuple[int, int, int], integer: torch.dtype, dtype: torch.dtype
) -> None:
    positions, cell, *edges = graph(*size, dtype, integer)
    positions.requires_grad_()
    cell.requires_grad_()
    compiled, reference = (f(positions, cell, *edges) for f in (ops.edge_vectors, ops.edge_vectors_reference))
    assert torch.equal(compiled, reference)
    weight = torch.randn_like(reference)
    for a, b in zip(
        torch.autograd.grad(compiled, (positions, cell), weight),
        torch.autograd.grad(reference, (positions, cell), weight),
        strict=True,
    ):
        tolerance = {torch.float32: 1e-5, torch.float64: 1e-13}[dtype] * max(
            1.0, float(b.abs().max()) if b.numel() else 1
        )
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@needs_extension
def test_edge_vectors_derivatives() -> None:
    positions, cell, *edges = graph(6, 30, 2, torch.float64)
    inputs = (positions.requires_grad_(), cell.requires_grad_())
    assert torch.autograd.gradcheck(lambda p, c: ops.edge_vectors(p, c, *edges), inputs)
    assert torch.autograd.gradgradcheck(lambda p, c: ops.edge_vectors(p, c, *edges).pow(3), inputs)


@needs_extension
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES[:2] + SIZES[3:5], ids=str)
def test_opcheck(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    positions, cell, *edges = graph(*size, dtype)
    differentiable = (positions.requires_grad_(), cell.requires_grad_())
    torch.library.opcheck(torch.ops.mlip.edge_vectors.default, (*differentiable, *edges))
    grad = torch.randn(size[1], 3, dtype=dtype, requires_grad=True)
    torch.library.opcheck(torch.ops.mlip.edge_vectors_backward.default, (grad, *edges, size[2]))
    torch.library.opcheck(torch.ops.mlip.row_offsets.default, (edges[0][0].contiguous(), size[0]))


@needs_extension
@pytest.mark.parametrize("size", SIZES[:5], ids=str)
def test_row_offsets(size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    center = graph(*size, torch.float32)[2][0]
    offsets = ops.row_offsets(center, size[0])
    assert torch.equal(offsets.diff(), torch.bincount(center, minlength=size[0]))
    assert offsets[0] == 0 and offsets.dtype == torch.int64
    monkeypatch.setattr(ops._extension, "compiled", False)
    assert torch.equal(ops.row_offsets(center, size[0]), offsets)


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_extension), False])
@pytest.mark.parametrize("center", [[0, 2, 1], [0, 1, 3], [-1, 0]])
def test_row_offsets_refuses(center: list[int], compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops._extension, "compiled", compiled)
    with pytest.raises((ValueError, RuntimeError), match="row_offsets: center"):
        ops.row_offsets(torch.tensor(center), 3)


@needs_extension
@pytest.mark.parametrize(
    ("which", "wrong", "message"),
    [
        (0, torch.zeros(6, 2), "positions"),
        (0, torch.zeros(5, 3), "batch"),
        (0, torch.zeros(6, 3, dtype=torch.float64), "cell"),
        (1, torch.zeros(3, 3), "cell"),
        (1, torch.zeros(1, 3, 3), "batch"),
        (2, torch.full((2, 30), 6), "edge_index"),
        (2, torch.full((2, 30), -1), "edge_index"),
        (2, torch.zeros(2, 30, dtype=torch.int32), "edge_index"),
        (3, torch.zeros(30, 3), "edge_shift"),
        (3, torch.zeros(29, 3, dtype=torch.int64), "edge_shift"),
        (4, torch.full((6,), -1), "batch"),
    ],
)
def test_edge_vectors_refuses(which: int, wrong: torch.Tensor, message: str) -> None:
    arguments = list(graph(6, 30, 2, torch.float32))
    arguments[which] = wrong
    with pytest.raises((ValueError, RuntimeError), match=f"edge_vectors: {message}"):
        ops.edge_vectors(*arguments)
    if which in (2, 3, 4):
        with pytest.raises((ValueError, RuntimeError), match=f"edge_vectors_backward: {message}"):
            torch.ops.mlip.edge_vectors_backward(torch.zeros(30, 3), *arguments[2:], 2)


THREADS = """
import torch
from mlip.ops import edges
torch.manual_seed(1)
center = torch.randint(9000, (90_000,)).sort().values
index = torch.stack([center, torch.randint(9000, (90_000,))])
shift, batch = torch.randint(-1, 2, (90_000, 3)), torch.arange(9000) // 3000
grad = torch.randn(90_000, 3)
results = []
for threads in (1, 2, 5):
    torch.set_num_threads(threads)
    positions, cell = torch.ops.mlip.edge_vectors_backward(grad, index, shift, batch, 3)
    results.append((positions, cell, edges.edge_vectors(positions, cell, index, shift, batch)))
for other in results[1:]:
    assert all(torch.equal(a, b) for a, b in zip(results[0], other))
"""


@needs_extension
def test_any_number_of_threads_gives_the_same_bits() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "5"}
    root = Path(mlip.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, cwd=root, env=environment)
    assert done.returncode == 0, done.stderr
