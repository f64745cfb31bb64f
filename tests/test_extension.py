"""The compiled library: how it is found, what its absence means, and that its operators behave as torch expects."""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from neighbor_systems import ALL_PBC, SYSTEMS, as_set, random_structure
from torch._subclasses.fake_tensor import FakeTensorMode

import mlip
from mlip import _extension, ops
from mlip.neighbors import neighbor_list

needs_extension = pytest.mark.skipif(not mlip.compiled, reason="the extension is not built")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_absence_warns_and_falls_back() -> None:
    """A process that can't see the library still makes lists, and is told once what is lost."""
    program = textwrap.dedent("""
        import warnings
        from pathlib import Path
        Path.is_file = lambda self: False if self.name == "_ops.so" else self.exists()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import mlip, torch
            assert mlip.compiled is False and mlip.compiled is False
            edges, shifts = mlip.neighbor_list(torch.zeros(1, 3), torch.eye(3), torch.tensor([True] * 3), 1.1)
        assert edges.shape == (2, 6), edges
        texts = [str(w.message) for w in caught if w.category is RuntimeWarning and "mlip" in str(w.message)]
        assert len(texts) == 1 and "matscipy" in texts[0] and "pip install" in texts[0], texts
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(mlip.__file__).parents[1], check=False
    )
    assert done.returncode == 0, done.stderr


def test_library_is_looked_for_beside_the_package_first() -> None:
    first = next(_extension._candidates())
    assert first == Path(mlip.__file__).with_name("_ops.so")


@needs_extension
def test_an_older_library_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_extension, "OPERATORS", (*_extension.OPERATORS, "not_yet"))
    with pytest.warns(RuntimeWarning, match=r"_ops.so is older than the package \(it has no not_yet\).*pip install"):
        assert not _extension._load()


def operator_arguments(dtype: torch.dtype = torch.float64, device: str = "cpu") -> tuple:
    atoms = random_structure(20, np.diag([5.0, 6.0, 7.0]))
    positions = torch.tensor(atoms.positions, dtype=dtype, device=device)
    cell = torch.tensor(atoms.cell.array).expand(2, 3, 3).contiguous()
    return positions, cell, torch.tensor([[True, False, True], [False] * 3]), torch.tensor([0, 12, 20]), 3.0


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype: torch.dtype) -> None:
    torch.library.opcheck(torch.ops.mlip.neighbor_list.default, operator_arguments(dtype))


@needs_extension
def test_exports() -> None:
    class EdgeLengths(torch.nn.Module):
        def forward(self, positions, cell, pbc, offsets):
            (i, j), shift = torch.ops.mlip.neighbor_list(positions, cell, pbc, offsets, 3.0)
            return (positions[j] - positions[i]).square().sum(dim=1) + shift.sum(dim=1)

    arguments = operator_arguments()[:4]
    exported = torch.export.export(EdgeLengths(), arguments).module()
    torch.testing.assert_close(exported(*arguments), EdgeLengths()(*arguments))


@needs_extension
def test_memory_of_large_outputs_serves_again() -> None:
    """That of a tensor that is gone, for one of about the same size; never that of one which lives."""
    ones = [torch.ones(rows, 64) for rows in (4096, 4000)]
    factors = 2 * torch.eye(64), 3 * torch.eye(64)
    doubled, tripled = (torch.ops.mlip.matmul(ones[0], factor) for factor in factors)
    assert doubled.unique().tolist() == [2.0] and tripled.unique().tolist() == [3.0]
    of_doubled, view = doubled.data_ptr(), tripled[100:]
    del doubled, tripled
    again = torch.ops.mlip.matmul(ones[1], factors[1])
    assert again.data_ptr() == of_doubled and again.unique().tolist() == [3.0]
    other = torch.ops.mlip.matmul(ones[0], factors[0])
    assert other.unique().tolist() == [2.0] and view.unique().tolist() == [3.0]


@pytest.mark.gpu
@gpu
@needs_extension
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cuda_equals_cpu(dtype: torch.dtype) -> None:
    structures = [*SYSTEMS.values(), random_structure(3000, np.diag([30.0, 34.0, 31.0]))]
    for pbc in ALL_PBC:
        for atoms in structures:
            positions = torch.tensor(atoms.positions, dtype=dtype)
            rest = torch.tensor(atoms.cell.array), torch.tensor(pbc), 4.0
            assert as_set(*neighbor_list(positions.cuda(), *rest)) == as_set(*neighbor_list(positions, *rest))


@pytest.mark.gpu
@gpu
@needs_extension
def test_cuda_batch_equals_cpu_batch() -> None:
    structures = list(SYSTEMS.values())
    positions = torch.cat([torch.tensor(atoms.positions) for atoms in structures])
    cell = torch.tensor(np.array([atoms.cell.array for atoms in structures]))
    pbc = torch.tensor([ALL_PBC[k % 8] for k in range(len(structures))])
    batch = torch.repeat_interleave(torch.arange(len(structures)), torch.tensor([len(a) for a in structures]))
    expected = neighbor_list(positions, cell, pbc, 5.0, batch)
    found = neighbor_list(positions.cuda(), cell.cuda(), pbc.cuda(), 5.0, batch.cuda())
    assert found[0].is_cuda and found[1].is_cuda
    assert as_set(*found) == as_set(*expected)
    assert as_set(*neighbor_list(positions[:0].cuda(), cell[:1], pbc[:1], 5.0)) == set()


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [("max", 9e8, 5e9), ("1000000000", 4e8, 9e8), ("1000000000", 1e9, 3e8), ("1000000000", 2e9, 0.0)],
)
def test_cached_files_of_a_container_count_as_free(tmp_path: Path, limit: str, used: float, expected: float) -> None:
    """A control group's `memory.current` holds the file cache, which soon fills the limit and is no obstacle."""
    (tmp_path / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 4882813 kB\n")
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text(f"{used:.0f}")
    statistics = {"anon": 7e8, "file": 3e8, "active_file": 1e8, "inactive_file": 1.5e8, "slab_reclaimable": 5e7}
    (tmp_path / "memory.stat").write_text("".join(f"{name} {value:.0f}\n" for name, value in statistics.items()))
    header = Path(mlip.__file__).parent / "csrc" / "memory.hpp"
    source = tmp_path / "main.cpp"
    source.write_text(
        f'#include "{header}"\n#include <cstdio>\n'
        f'int main() {{ std::printf("%g", mlip::free_memory("{tmp_path}/meminfo", "{tmp_path}")); }}\n'
    )
    subprocess.run(["g++", "-std=c++17", "-o", tmp_path / "free", source], check=True)
    output = subprocess.run([tmp_path / "free"], capture_output=True, text=True, check=True).stdout
    assert float(output) == pytest.approx(expected, rel=1e-6)


@needs_extension
def test_tensors_without_memory_and_functional_transforms() -> None:
    """What torch.compile, torch.export and torch.func hand to the operators has no numbers to read."""
    x, matrix = torch.randn(2, 5, 16), torch.randn(16, 16)
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(x)
        assert ops.matmul(fake[0], mode.from_tensor(matrix)).shape == (5, 16)
        assert ops.silu(fake).shape == x.shape
    for function in (lambda y: ops.matmul(y, matrix), ops.silu):
        torch.testing.assert_close(torch.func.vmap(function)(x), function(x))
        gradient = torch.func.grad(lambda y, f=function: f(y).square().sum())(x[0])
        leaf = x[0].clone().requires_grad_(True)
        torch.testing.assert_close(gradient, torch.autograd.grad(function(leaf).square().sum(), leaf)[0])
