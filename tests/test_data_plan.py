"""Batches by number and by budget: functions of seed and epoch, all structures once, a fixed number of steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lj_data import argon

from mlip.data.batches import make_plan, make_samples
from mlip.data.labels import LabelKeys, label_structures
from mlip.data.loading import InMemory, training_loader
from mlip.data.plan import BatchPlan, CountPlan, EpochBatches, budget_plan
from mlip.errors import DataError, InputError

RNG = np.random.default_rng(7)
SIZES = {
    "equal": [15] * 40,
    "few kinds": [8, 16, 64] * 20,
    "all different": list(range(10, 110)),
    "heavy tail": np.minimum(RNG.pareto(1.0, size=300) * 10 + 1, 500).astype(int).tolist(),
    "one giant": [500] + [2] * 100,
    "pairs": RNG.integers(0, 40_000, size=200).tolist(),
    "single": [7],
}


def loads(plan: BatchPlan, sizes: list[int], epoch: int) -> list[int]:
    return [sum(sizes[k] for k in batch) for batch in plan.batches(3, epoch)]


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("factor", [1, 2, 7])
@pytest.mark.parametrize("most", [None, 3])
def test_every_epoch_keeps_to_the_budget(name, factor, most):
    sizes = SIZES[name]
    budget = factor * max(max(sizes), 1)
    plan = budget_plan(sizes, budget, "batch_atoms", most)
    for epoch in range(4):
        made = plan.batches(3, epoch)
        assert sorted(k for batch in made for k in batch) == list(range(len(sizes)))
        assert len(made) == plan.steps and all(made)
        assert max(loads(plan, sizes, epoch)) <= budget
        assert most is None or max(map(len, made)) <= most


@pytest.mark.parametrize("name", ["equal", "few kinds", "all different", "heavy tail"])
def test_few_batches_about_equally_full(name):
    """No more than an eighth above the number without which it can't be done (plus one)."""
    sizes = SIZES[name]
    budget = 4 * max(sizes)
    plan = budget_plan(sizes, budget, "batch_atoms")
    assert plan.steps <= np.ceil(sum(sizes) / budget * 9 / 8) + 1
    found = loads(plan, sizes, 0)
    assert min(found) > 0.5 * max(found)


def test_exactly_as_many_as_fit():
    assert budget_plan([15] * 40, 100, "batch_atoms").steps == 7  # six of 15 atoms in each
    assert budget_plan([15] * 40, 100, "batch_atoms", most=4).steps == 10


@pytest.mark.parametrize("plan", [CountPlan(20, 3), budget_plan([3, 5, 5, 8] * 10, 20, "batch_atoms")])
def test_batches_depend_on_seed_and_epoch_alone(plan):
    first = [plan.batches(1, epoch) for epoch in range(3)]
    assert first == [plan.batches(1, epoch) for epoch in range(3)]
    assert len({str(batches) for batches in (*first, plan.batches(2, 0))}) == 4


def test_companions_change_from_epoch_to_epoch():
    plan = budget_plan(SIZES["all different"], 300, "batch_atoms")
    companions = [{frozenset(batch) for batch in plan.batches(1, epoch)} for epoch in range(2)]
    assert len(companions[0] & companions[1]) < plan.steps / 4


@pytest.mark.parametrize("plan", [CountPlan(20, 3), budget_plan([3, 5, 5, 8] * 10, 20, "batch_atoms")])
def test_a_restarted_run_goes_on_inside_an_epoch(plan):
    whole, resumed = EpochBatches(plan, seed=3), EpochBatches(plan, seed=3, first_epoch=1, skip=2)
    expected = []
    for epoch in range(3):
        whole.set_epoch(epoch)
        expected.append(list(whole))
    assert len(resumed) == plan.steps - 2
    resumed.set_epoch(0)
    assert list(resumed) == expected[1][2:]
    resumed.set_epoch(1)
    assert len(resumed) == plan.steps and list(resumed) == expected[2]


def test_the_heaviest_batch_is_within_reach():
    sizes = SIZES["few kinds"]
    order = sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True)
    assert CountPlan(len(sizes), 4).worst(order) == order[:4]
    plan = budget_plan(sizes, 130, "batch_atoms")
    assert 64 <= sum(sizes[k] for k in plan.worst(order)) <= 130


def test_loader_makes_the_batches_of_the_plan():
    samples = make_samples(label_structures(argon(9), LabelKeys()).structures, 4.5)
    plan = make_plan(samples, None, edges=3 * max(s.graph.edge_index.shape[1] for s in samples))
    loader = training_loader(InMemory(samples), plan, seed=5)
    assert len(loader) == plan.steps
    for batch, members in zip(loader, plan.batches(5, 0), strict=True):
        assert torch.equal(batch.labels.energy, torch.cat([samples[k].labels.energy for k in members]))
        assert batch.graph.n_graphs == len(members)


def test_workers_make_the_same_batches():
    samples = make_samples(label_structures(argon(5), LabelKeys()).structures, 4.5)
    plan = make_plan(samples, None, atoms=8)
    alone, helped = (list(training_loader(InMemory(samples), plan, 1, num_workers=n)) for n in (0, 1))
    for a, b in zip(alone, helped, strict=True):
        assert all(torch.equal(x, y) for x, y in zip((*a.graph, *a.labels), (*b.graph, *b.labels), strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_go_on_inside_an_epoch(workers):
    samples = make_samples(label_structures(argon(7), LabelKeys()).structures, 4.5)
    plan = make_plan(samples, 2)
    loader = training_loader(InMemory(samples), plan, 1, first_epoch=1, first_batch=2, num_workers=workers)
    for first, epoch in ((2, 1), (0, 2)):
        loader.sampler.set_epoch(epoch - 1)
        expected = [
            torch.cat([samples[k].labels.energy for k in members]) for members in plan.batches(1, epoch)[first:]
        ]
        found = [batch.labels.energy for batch in loader]
        assert len(found) == len(expected) and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_budget_that_is_too_small():
    with pytest.raises(DataError, match="--batch_edges 100 is less than the 120 of the largest structure"):
        budget_plan([10, 120], 100, "batch_edges")
    with pytest.raises(InputError, match="expected a number"):
        make_plan([], None)
