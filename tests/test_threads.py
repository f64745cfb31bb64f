"""Whole evaluations and training steps have the same bits for any number of threads; subnormal numbers cost nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from ase.build import bulk
from torch import Tensor

import mlip
from mlip import ops
from mlip.convert import atoms_to_graph
from mlip.models import MACE
from mlip.neighbors import neighbor_list
from mlip.potential import Potential
from mlip.training.config import TrainingConfig
from mlip.training.optimizer import make_optimizer

pytestmark = pytest.mark.skipif(not mlip.compiled, reason="the compiled operators are not installed")


@pytest.fixture(autouse=True)
def threads_of_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def wide_potential(dtype: torch.dtype) -> Potential:
    """So wide that the matrix products of common libraries would share their sums among threads."""
    torch.manual_seed(0)
    model = MACE(elements=(14,), cutoff=4.5, hidden_irreps="64x0e", l_max=2, correlation=2, radial_mlp=(16,))
    return Potential(model, E0s={14: -1.0}).to(dtype)


def evaluated(potential: Potential, n_structures: int, training: bool) -> list[Tensor]:
    structures = [bulk("Si", cubic=True) * (3, 3, 3) for _ in range(n_structures)]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed)
    graph = atoms_to_graph(structures, potential.cutoff)
    potential.requires_grad_(training)
    found = potential(graph, forces=True, stress=True, training=training)
    results = [found.energy, found.forces, found.stress]
    if training:
        loss = found.energy.square().sum() + found.forces.square().sum()
        results += torch.autograd.grad(loss, [p for p in potential.parameters() if p.requires_grad], allow_unused=True)
    return [result.detach() for result in results if result is not None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n_structures", "training"), [(1, False), (2, False), (2, True)])
def test_threads_do_not_change_a_bit(dtype: torch.dtype, n_structures: int, training: bool) -> None:
    potential = wide_potential(dtype)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(evaluated(potential, n_structures, training))
    assert len(results[0]) > (10 if training else 2)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(("repeats", "cutoff"), [((15, 15, 15), 6.0), ((7, 7, 7), 14.5)])
def test_threads_do_not_change_a_long_list(repeats: tuple[int, int, int], cutoff: float) -> None:
    """Lists of more than a million pairs are written past the caches by several threads, long rows too."""
    atoms = bulk("Si", cubic=True) * repeats
    atoms.rattle(0.05, seed=0)
    atoms.positions[:200] -= atoms.cell[0]
    arguments = torch.tensor(atoms.positions), torch.tensor(atoms.cell.array), torch.tensor(atoms.pbc), cutoff
    lists = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        lists.append(neighbor_list(*arguments))
    assert lists[0][0].shape[1] > 1.1 * 2**20
    for found, shifts in lists[1:]:
        assert torch.equal(found, lists[0][0]) and torch.equal(shifts, lists[0][1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_subnormal_numbers_are_zero_in_operators_alone(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).tiny
    x = torch.full((1000, 64), 2.0**40, dtype=dtype)
    torch.set_num_threads(2)
    assert (ops.matmul(x, torch.full((64, 64), tiny / 2, dtype=dtype)) == 0).all()
    assert (ops.matmul(x, torch.full((64, 64), tiny, dtype=dtype)) > 0).all()
    assert (torch.full((100_000,), tiny, dtype=dtype) / 2 > 0).all()  # on all threads


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_optimizer_has_the_same_bits(dtype: torch.dtype) -> None:
    """Of weights in parts that fill no vector, among them numbers of all sizes."""

    def weights_after_steps(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        potential = Potential(
            MACE(elements=(14,), cutoff=4.5, hidden_irreps="1x0e", l_max=1, correlation=1), E0s={14: 0.0}
        )
        potential.model.register_parameter("extra", torch.nn.Parameter(torch.ones(77_777, dtype=dtype)))
        optimizer = make_optimizer(potential, TrainingConfig(train_file="none"))
        for _ in range(3):
            for parameter in potential.parameters():
                size = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.grad = (size * 10.0 ** (12 * torch.rand(size.shape, generator=generator) - 10)).to(parameter)
            optimizer.step()
        return list(potential.parameters())

    one, three = weights_after_steps(1), weights_after_steps(3)
    assert all(map(torch.equal, one, three)) and not torch.equal(one[0], torch.ones_like(one[0]))
