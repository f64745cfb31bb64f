"""Batches that fit into memory, with memories that are too small for them."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from lj_data import argon
from torch import Tensor
from toy_potentials import Toy

from mlip.calculators import MLIPCalculator
from mlip.calculators.batches import FIRST, GROWTH, Batches
from mlip.calculators.batches import MOST as MOST_BY_DEVICE
from mlip.calculators.memory import Peak, available_memory, enough_memory, is_out_of_memory
from mlip.convert import atoms_to_graph
from mlip.errors import InputError, MLIPError, TooLargeError
from mlip.graph import AtomGraph
from mlip.models.base import AtomOutputs, EnergyModel
from mlip.potential import Potential
from mlip.workflows.evaluate import evaluate
from mlip.workflows.evaluation import batch_forces, forces_in_batches

CPU = torch.device("cpu")
MOST = MOST_BY_DEVICE["cpu"]
TORCH_SAYS = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 123 bytes."


def torch_ran_out() -> Exception:
    return RuntimeError(TORCH_SAYS)


class Refusing(Toy):
    """Runs out of memory above so many atoms, and keeps account of the batches it was given."""

    def __init__(self, most: int, error: Callable[[], Exception] = torch_ran_out) -> None:
        super().__init__()
        self.most, self.error = most, error
        self.asked: list[int] = []

    def energies(self, graph: AtomGraph) -> Tensor:
        self.asked.append(len(graph.numbers))
        if len(graph.numbers) > self.most:
            raise self.error()
        return super().energies(graph)


def refusing(most: int, **options: Callable[[], Exception]) -> tuple[MLIPCalculator, list[int]]:
    calculator = MLIPCalculator(Potential(Refusing(most, **options), {6: 0.0, 14: 0.0}), device="cpu")
    calculator.potential.model.asked.clear()  # type: ignore[union-attr]
    return calculator, calculator.potential.model.asked  # type: ignore[union-attr,return-value]


def crystals(count: int) -> list[Atoms]:
    structures = []
    for seed in range(count):
        atoms = bulk("SiC", "zincblende", 4.36) * (1, 1, 1 + seed % 3)
        atoms.rattle(0.05, seed=seed)
        structures.append(atoms)
    return structures


def assert_equal(results: list[dict], expected: list[dict]) -> None:  # type: ignore[type-arg]
    assert len(results) == len(expected)
    for a, b in zip(results, expected, strict=True):
        assert a["energy"] == pytest.approx(b["energy"], abs=1e-11)
        np.testing.assert_allclose(a["forces"], b["forces"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(a["stress"], b["stress"], rtol=0, atol=1e-13)


def one_by_one(structures: list[Atoms]) -> list[dict]:  # type: ignore[type-arg]
    calculator = MLIPCalculator(Potential(Toy(), {6: 0.0, 14: 0.0}), device="cpu")
    return [calculator.evaluate([atoms], stress=True)[0] for atoms in structures]


@pytest.mark.parametrize("batch_atoms", [None, 1, 7, 50, 10_000])
@pytest.mark.parametrize("most", [6, 17, 10_000])
def test_results_do_not_depend_on_batches(batch_atoms: int | None, most: int) -> None:
    structures = crystals(40)
    calculator, asked = refusing(most)
    assert_equal(calculator.evaluate(structures, stress=True, batch_atoms=batch_atoms), one_by_one(structures))
    assert sum(n for n in asked if n <= most) == sum(map(len, structures))
    assert max(n for n in asked if n <= most) <= max(6, batch_atoms or MOST)


def test_half_and_no_more_than_half_again() -> None:
    calculator, asked = refusing(30)
    calculator.evaluate([bulk("Si")] * 100, batch_atoms=100)
    assert asked == [100, 50] + [24] * 8 + [8]  # 25 atoms are 12 structures of 2


@pytest.mark.parametrize(
    "error",
    [
        lambda: MemoryError("Unable to allocate 3 GiB for an array"),
        lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        lambda: RuntimeError("std::bad_alloc"),
    ],
)
def test_every_way_to_run_out(error: Callable[[], Exception]) -> None:
    structures = crystals(12)
    calculator, _ = refusing(9, error=error)
    assert_equal(calculator.evaluate(structures, stress=True), one_by_one(structures))


def test_what_real_allocators_say() -> None:
    for allocate in (lambda: torch.empty(2**60), lambda: np.empty(2**58), lambda: bytearray(2**62)):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            allocate()
        assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(KeyError("out of memory"))


def test_one_structure_that_does_not_fit() -> None:
    calculator, asked = refusing(5)
    message = "structure of 6 atoms needs more memory than there is.*float32"
    with pytest.raises(TooLargeError, match=message) as caught:
        calculator.evaluate(crystals(5), batch_atoms=100)
    assert isinstance(caught.value, MLIPError) and isinstance(caught.value, MemoryError)
    assert asked[-1] == 6
    for ask in (calculator.get_forces, calculator.get_hessian):
        with pytest.raises(TooLargeError, match="of 6 atoms"):
            ask(crystals(3)[2])


def test_other_errors_are_not_tried_again() -> None:
    calculator, asked = refusing(5, error=lambda: RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        calculator.evaluate(crystals(10))
    assert len(asked) == 1
    with pytest.raises(InputError, match="at most 0 atoms"):
        calculator.evaluate(crystals(2), batch_atoms=0)
    with pytest.raises(RuntimeError, match="a bug"), enough_memory(3):
        raise RuntimeError("a bug")


def test_batches_grow_to_the_most() -> None:
    calculator, asked = refusing(10**6)
    structures = [bulk("Si")] * (2 * MOST)
    calculator.evaluate(structures)
    assert asked[:3] == [FIRST, FIRST * GROWTH, MOST] and sum(asked) == 4 * MOST
    assert max(asked) == MOST and asked.count(MOST) >= 2
    asked.clear()
    calculator.evaluate(structures)  # what was learned stays
    assert asked == 4 * [MOST]
    for other in (copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator))):
        other.evaluate(structures)
        assert other.potential.model.asked[-2:] == 2 * [MOST]


class Hungry:
    """A machine of so many bytes, and an evaluation that takes some for each atom and pair."""

    def __init__(self, bytes_free: float, per_atom: float, per_pair: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free, self.per_atom, self.per_pair = bytes_free, per_atom, per_pair
        self.used: list[float] = []
        machine = self

        class Measured:
            def __init__(self, device: torch.device) -> None:
                pass

            def __enter__(self) -> Measured:
                return self

            def __exit__(self, *_: object) -> None:
                self.bytes = machine.used[-1]

        monkeypatch.setattr("mlip.calculators.batches.Peak", Measured)
        self.batches = Batches(CPU, available=lambda device: self.free)

    def run(self, structures: list[Atoms], cutoff: float = 4.0) -> list[int]:
        """Atoms of each batch."""
        taken: list[int] = []

        def work(graph: AtomGraph) -> list[int]:
            taken.append(len(graph.numbers))
            self.used.append(self.per_atom * len(graph.numbers) + self.per_pair * graph.edge_index.shape[1])
            return graph.n_atoms.tolist()

        sizes = [len(atoms) for atoms in structures]
        answers = list(self.batches.evaluated(structures, sizes, lambda part: atoms_to_graph(part, cutoff), work))
        assert answers == sizes
        return taken


def test_the_budget_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Hungry(1e6, per_atom=500.0, per_pair=50.0, monkeypatch=monkeypatch)
    loose, dense = bulk("Si", a=7.0), bulk("Si", a=4.2)
    taken = machine.run([loose] * 300 + [dense] * 300)
    assert max(machine.used) <= 0.5 * machine.free
    assert max(taken) > 2 * FIRST  # and made use of
    machine = Hungry(1e6, per_atom=500.0, per_pair=50.0, monkeypatch=monkeypatch)
    machine.run([dense] * 300 + [Atoms("Si")] * 300)
    assert max(machine.used) <= 0.5 * machine.free
    machine = Hungry(10.0, per_atom=500.0, per_pair=50.0, monkeypatch=monkeypatch)
    assert machine.run([loose] * 50)[:3] == [FIRST, 2, 2]  # nothing fits: one by one, which may still go well
    machine = Hungry(math.inf, per_atom=500.0, per_pair=50.0, monkeypatch=monkeypatch)
    assert max(machine.run([loose] * 2000)) == MOST


def test_evaluate_takes_part() -> None:
    """`mlip evaluate` halves its batches too, given sizes or not."""

    class Argon(Refusing):
        def __init__(self) -> None:
            EnergyModel.__init__(self, (18,), 4.0)
            self.cutoff_smoothness, self.isolated_is_E0 = 2, True
            self.strength = torch.nn.Parameter(torch.ones(1, 1, dtype=torch.float64))
            self.most, self.error, self.asked = 20, torch_ran_out, []

        def forward(self, graph: AtomGraph, head: int = 0) -> AtomOutputs:
            return AtomOutputs(self.energies(graph))

    structures = argon(8)
    potential = Potential(Argon(), {18: 0.0})
    found = [evaluate(potential, structures, batch_size=size) for size in (None, 1, 3, 100)]
    assert max(n for n in potential.model.asked) > 20  # type: ignore[type-var]
    for result in found[1:]:
        for a, b in zip(result.predictions, found[0].predictions, strict=True):
            assert a.energy == pytest.approx(b.energy, abs=1e-11)
            np.testing.assert_allclose(a.forces, b.forces, rtol=0, atol=1e-12)


def test_displaced_structures_take_part() -> None:
    calculator, asked = refusing(64)
    structures = [bulk("Si", cubic=True)] * 100
    forces = forces_in_batches(structures, batch_forces(calculator))
    assert len(forces) == 100 and max(asked) > 64 and sum(n for n in asked if n <= 64) == 800


def test_available_memory(tmp_path: Path) -> None:
    assert 0 < available_memory(CPU) < math.inf
    (tmp_path / "meminfo").write_text("MemTotal:  16000 kB\nMemAvailable:  8000 kB\nHugePages_Total:  0\n")
    machine = str(tmp_path / "meminfo")
    assert available_memory(CPU, machine, str(tmp_path)) == 8000 * 1024
    for name, text in (("max", "6000000"), ("current", "5000000"), ("stat", "anon 1\ninactive_file 200000\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert available_memory(CPU, machine, str(tmp_path)) == 1_200_000  # of the container
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(CPU, machine, str(tmp_path)) == 8000 * 1024
    assert available_memory(CPU, str(tmp_path / "none"), str(tmp_path / "none")) > 0
    assert available_memory(torch.device("meta")) == math.inf


def test_memory_of_a_batch_job(tmp_path: Path) -> None:
    """The limit is that of a group around the group of the process."""
    (tmp_path / "job/step").mkdir(parents=True)
    for group, limit, used in (("job", 9_000_000, 8_500_000), ("job/step", "max", 100_000)):
        for name, value in (("max", limit), ("current", used), ("stat", "active_file 0")):
            (tmp_path / group / f"memory.{name}").write_text(f"{value}\n")
    (tmp_path / "own").write_text("4:memory:/else\n0::/job/step\n")
    assert available_memory(CPU, groups=str(tmp_path), own_group=str(tmp_path / "own")) == 500_000


def test_peak_sees_what_is_gone_at_the_end() -> None:
    with Peak(CPU) as peak:
        block = torch.ones(2**26)  # 256 MB
        block.mul_(2.0)
        del block
    assert peak.bytes == 0 or 0.9 * 2**28 < peak.bytes < 2 * 2**28
    assert peak.bytes or not Path("/proc/self/statm").exists()


@pytest.mark.gpu
def test_memory_of_a_gpu() -> None:
    device = torch.device("cuda")
    assert 0 < available_memory(device) <= torch.cuda.get_device_properties(device).total_memory
    with Peak(device) as peak:
        torch.ones(2**26, device=device)
    assert 2**28 <= peak.bytes < 1.1 * 2**28
