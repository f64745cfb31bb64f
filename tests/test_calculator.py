"""The ASE calculator and its Verlet list."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.io import read, write

import mlip
from mlip.calculators import MLIPCalculator
from mlip.calculators.verlet import VerletList
from mlip.convert import atoms_to_graph
from mlip.errors import InputError, UnknownElementError
from mlip.models import MACE
from mlip.potential import Potential
from mlip.units import full_3x3_to_voigt_6, voigt_6_to_full_3x3


def make_potential(
    elements: tuple[int, ...] = (14,), cutoff: float = 4.0, dtype: torch.dtype = torch.float64
) -> Potential:
    torch.manual_seed(1)
    model = MACE(elements, cutoff, "4x0e+4x1o", l_max=2, correlation=2, radial_mlp=(8,), avg_num_neighbors=10.0)
    return Potential(model.to(dtype), dict.fromkeys(elements, -5.0), scale=1.5)


@pytest.fixture
def calculator() -> MLIPCalculator:
    return MLIPCalculator(make_potential())


@pytest.fixture
def silicon() -> Atoms:
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.set_cell(atoms.cell @ np.array([[1.02, 0.01, 0.03], [0, 0.99, 0.02], [0, 0, 1.01]]), scale_atoms=True)
    return atoms


def counting(calculator: MLIPCalculator, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, bool]]:
    """The keyword arguments of every evaluation of the potential."""
    calls: list[dict[str, bool]] = []
    forward = calculator.potential.forward

    def spy(graph, **keywords):  # type: ignore[no-untyped-def]
        calls.append(keywords)
        return forward(graph, **keywords)

    monkeypatch.setattr(calculator.potential, "forward", spy)
    return calls


def test_results(calculator: MLIPCalculator, silicon: Atoms) -> None:
    silicon.calc = calculator
    graph = atoms_to_graph(silicon, 4.0)
    prediction = calculator.potential(graph)
    assert silicon.get_potential_energy() == pytest.approx(prediction.energy.item(), abs=1e-12)
    assert silicon.get_potential_energy(force_consistent=True) == silicon.get_potential_energy()
    np.testing.assert_allclose(silicon.get_forces(), prediction.forces, atol=1e-12)
    np.testing.assert_allclose(silicon.get_potential_energies().sum(), silicon.get_potential_energy(), atol=1e-12)
    np.testing.assert_allclose(silicon.get_stress(voigt=False), prediction.stress[0], atol=1e-14)
    np.testing.assert_allclose(silicon.get_stress(), full_3x3_to_voigt_6(prediction.stress[0]), atol=1e-14)
    with pytest.raises(PropertyNotImplementedError):
        silicon.get_stresses()


def test_stress_is_the_strain_derivative_in_voigt_order(calculator: MLIPCalculator, silicon: Atoms) -> None:
    silicon.calc = calculator
    stress, volume, step = silicon.get_stress(), silicon.get_volume(), 1e-4

    def energy(strain: np.ndarray) -> float:
        strained = silicon.copy()
        strained.set_cell(silicon.cell @ (np.eye(3) + strain), scale_atoms=True)
        strained.calc = calculator
        return strained.get_potential_energy()

    for k in range(6):
        unit = np.zeros(6)
        unit[k] = 1.0 if k < 3 else 0.5
        strain = step * voigt_6_to_full_3x3(unit)
        slope = (8 * (energy(strain) - energy(-strain)) - (energy(2 * strain) - energy(-2 * strain))) / (12 * step)
        assert stress[k] == pytest.approx(slope / volume, rel=1e-6, abs=1e-9)


def test_computes_only_what_is_asked(
    calculator: MLIPCalculator, silicon: Atoms, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counting(calculator, monkeypatch)
    silicon.calc = calculator
    silicon.get_potential_energy()
    silicon.get_potential_energies()
    assert calls == [{"forces": False, "stress": False}]
    silicon.get_forces()
    silicon.get_potential_energy()
    assert calls[1:] == [{"forces": True, "stress": False}]
    silicon.get_stress()
    silicon.get_forces()
    assert calls[2:] == [{"forces": True, "stress": True}]


def test_cache(calculator: MLIPCalculator, silicon: Atoms, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counting(calculator, monkeypatch)
    silicon.calc = calculator
    before = silicon.get_potential_energy()
    silicon.set_initial_magnetic_moments(np.ones(len(silicon)))
    assert silicon.get_potential_energy() == before and len(calls) == 1
    silicon.positions[0, 0] += 0.01
    assert silicon.get_potential_energy() != before and len(calls) == 2
    silicon.set_cell(silicon.cell * 1.01)
    silicon.get_potential_energy()
    silicon.pbc = (True, True, False)
    silicon.get_potential_energy()
    assert len(calls) == 4


def test_returned_arrays_are_copies(calculator: MLIPCalculator, silicon: Atoms) -> None:
    silicon.calc = calculator
    silicon.get_forces()[:] = 7
    assert abs(silicon.get_forces()).max() < 7


def test_atoms_and_potential_are_left_alone(silicon: Atoms) -> None:
    potential = make_potential(dtype=torch.float32)
    potential.requires_grad_(True)
    before = silicon.copy()
    silicon.calc = MLIPCalculator(potential, dtype="float64")
    silicon.get_stress()
    assert silicon == before
    assert potential.dtype == torch.float32
    assert all(p.requires_grad and p.grad is None for p in potential.parameters())
    assert torch.get_default_dtype() == torch.float32


def test_many_atoms_objects_on_one_calculator(calculator: MLIPCalculator, silicon: Atoms) -> None:
    other = bulk("Si") * (2, 1, 1)
    other.rattle(0.1, seed=4)
    alone = []
    for atoms in (silicon, other):
        single = atoms.copy()
        single.calc = MLIPCalculator(make_potential())
        alone.append((single.get_potential_energy(), single.get_forces()))
    silicon.calc = other.calc = calculator
    for _ in range(2):
        for atoms, (energy, forces) in zip((silicon, other), alone, strict=True):
            assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-12)
            np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-12)


def _energy(atoms: Atoms) -> float:
    return atoms.get_potential_energy()


def test_copies_and_workers(calculator: MLIPCalculator, silicon: Atoms) -> None:
    silicon.calc = calculator
    energy = silicon.get_potential_energy()
    for twin in (copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator))):
        atoms = silicon.copy()
        atoms.calc = twin
        assert atoms.get_potential_energy() == energy
        assert twin.potential is not calculator.potential
    # A spawned worker shares nothing with this process.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(_energy, silicon).result() == pytest.approx(energy, abs=1e-12)


def test_todict_and_trajectory(calculator: MLIPCalculator, silicon: Atoms, tmp_path: Path) -> None:
    assert calculator.todict() == {"model": "MACE", "radial": "exact"}
    silicon.calc = calculator
    energy, forces = silicon.get_potential_energy(), silicon.get_forces()
    for name in ("a.traj", "a.extxyz", "a.json"):
        write(tmp_path / name, silicon)
        stored = read(tmp_path / name)
        assert isinstance(stored, Atoms)
        assert stored.get_potential_energy() == pytest.approx(energy, abs=1e-6)
        np.testing.assert_allclose(stored.get_forces(), forces, atol=1e-6)


def test_molecule_has_no_stress(silicon: Atoms) -> None:
    calculator = MLIPCalculator(make_potential((1, 8)))
    water = molecule("H2O")
    water.calc = calculator
    assert np.isfinite(water.get_forces()).all()
    with pytest.raises(PropertyNotImplementedError, match="three-dimensional cell"):
        water.get_stress()
    assert np.isfinite(water.get_forces()).all()


def test_errors(calculator: MLIPCalculator, silicon: Atoms) -> None:
    def energy(atoms: Atoms) -> float:
        atoms.calc = calculator
        return atoms.get_potential_energy()

    with pytest.raises(UnknownElementError, match=r"does not know H, Ge; it was trained for Si"):
        energy(Atoms("SiGeH", positions=[[0, 0, 0], [0, 0, 2.3], [0, 2, 0]]))
    with pytest.raises(InputError, match="no atoms"):
        energy(Atoms())
    with pytest.raises(InputError, match="not finite"):
        energy(Atoms("Si2", positions=[[0, 0, 0], [0, np.nan, 0]]))
    with pytest.raises(InputError, match=r"atoms 0 and 2 are 0 Å apart"):
        energy(Atoms("Si3", positions=[[0, 0, 0], [0, 0, 2.3], [0, 0, 0]]))
    with pytest.raises(InputError, match="zero or linearly dependent"):
        energy(Atoms("Si", pbc=True))
    # After an error the next structure is right again.
    assert np.isfinite(energy(silicon))
    moved = silicon.copy()
    moved.positions[1] = moved.positions[0]
    with pytest.raises(InputError, match="apart"):
        energy(moved)
    for options in ({"dtype": "float16"}, {"skin": -0.1}):
        with pytest.raises(InputError):
            MLIPCalculator(make_potential(), **options)


def test_float32_network_keeps_double_geometry(silicon: Atoms) -> None:
    double, single = MLIPCalculator(make_potential()), MLIPCalculator(make_potential(), dtype="float32")
    far = silicon.copy()
    far.positions += 1e5
    forces = []
    for atoms, calculator in ((silicon, double), (silicon.copy(), single), (far, single)):
        atoms.calc = calculator
        forces.append(atoms.get_forces())
    np.testing.assert_allclose(forces[1], forces[0], atol=1e-4)
    np.testing.assert_allclose(forces[2], forces[1], atol=1e-5)


def test_evaluate_in_batches(calculator: MLIPCalculator, silicon: Atoms) -> None:
    structures = [silicon, bulk("Si"), silicon * (2, 1, 1)]
    for batch_atoms in (1, 12, 1000):
        results = calculator.evaluate(structures, forces=True, stress=True, batch_atoms=batch_atoms)
        for atoms, result in zip(structures, results, strict=True):
            single = atoms.copy()
            single.calc = calculator
            assert result["energy"] == pytest.approx(single.get_potential_energy(), abs=1e-11)
            np.testing.assert_allclose(result["forces"], single.get_forces(), atol=1e-12)
            np.testing.assert_allclose(result["stress"], single.get_stress(), atol=1e-13)
    assert calculator.evaluate([]) == []


class TestVerletList:
    """The kept list gives the pairs of a fresh search, however atoms and cell move."""

    @staticmethod
    def pairs(graph) -> set[tuple[int, ...]]:  # type: ignore[no-untyped-def]
        return {(*e, *s) for e, s in zip(graph.edge_index.T.tolist(), graph.edge_shift.tolist(), strict=True)}

    @pytest.mark.parametrize("pbc", [True, (True, True, False), (False, True, False), False])
    def test_random_walk_of_atoms_and_cell(self, pbc: bool | tuple[bool, ...]) -> None:
        rng = np.random.default_rng(7)
        atoms = bulk("Si", cubic=True) * (2, 1, 1)
        atoms.pbc = pbc
        verlet = VerletList(4.0, 0.6)
        for _ in range(150):
            atoms.positions += 0.02 * rng.normal(size=(len(atoms), 3))
            atoms.set_cell(atoms.cell @ (np.eye(3) + 0.004 * rng.normal(size=(3, 3))), scale_atoms=rng.random() < 0.7)
            assert self.pairs(verlet.graph(atoms, "cpu")) == self.pairs(atoms_to_graph(atoms, 4.0))
        assert 2 < verlet.builds < 75  # it was kept, and it was rebuilt

    def test_pure_strain_uses_the_skin(self) -> None:
        atoms = bulk("Si", cubic=True)
        verlet = VerletList(4.0, 0.6)
        verlet.graph(atoms, "cpu")
        for strain, builds in ((0.99, 1), (0.90, 1), (0.86, 2)):  # 4.6 * 0.9 > 4 > 4.6 * 0.86
            strained = atoms.copy()
            strained.set_cell(atoms.cell * strain, scale_atoms=True)
            graph = verlet.graph(strained, "cpu")
            assert self.pairs(graph) == self.pairs(atoms_to_graph(strained, 4.0))
            assert verlet.builds == builds

    @pytest.mark.parametrize(("step", "builds", "pairs"), [(0.29, 1, 0), (0.31, 2, 2)])
    def test_both_atoms_of_a_pair_use_the_skin(self, step: float, builds: int, pairs: int) -> None:
        """The worst case of the bound: a pair just outside the list whose atoms move towards each other."""
        atoms = Atoms("Si2", positions=[[0, 0, 0], [4.601, 0, 0]])
        verlet = VerletList(4.0, 0.6)
        verlet.graph(atoms, "cpu")
        atoms.positions[:, 0] += (step, -step)
        assert verlet.graph(atoms, "cpu").edge_index.shape[1] == pairs
        assert verlet.builds == builds

    def test_atoms_that_meet_between_searches_are_refused(self) -> None:
        atoms = Atoms("Si2", positions=[[0, 0, 0], [0.2, 0, 0]])
        verlet = VerletList(4.0, 0.6)
        verlet.graph(atoms, "cpu")
        atoms.positions[1, 0] = 0.01
        with pytest.raises(InputError, match="apart"):
            verlet.graph(atoms, "cpu")
        assert verlet.builds == 1

    def test_translation_of_all_atoms_and_change_of_species(self) -> None:
        atoms = bulk("SiC", "zincblende", 4.36)
        verlet = VerletList(4.0, 0.6)
        verlet.graph(atoms, "cpu")
        atoms.numbers[:] = atoms.numbers[::-1]
        assert verlet.graph(atoms, "cpu").numbers.tolist() == atoms.numbers.tolist()
        assert verlet.builds == 2

    def test_slab_without_a_third_vector(self) -> None:
        slab = bulk("Si", cubic=True)
        slab.cell[2] = 0
        slab.pbc = (True, True, False)
        verlet = VerletList(4.0, 0.6)
        verlet.graph(slab, "cpu")
        slab.set_cell(slab.cell * 1.01, scale_atoms=True)
        assert self.pairs(verlet.graph(slab, "cpu")) == self.pairs(atoms_to_graph(slab, 4.0))
        assert verlet.builds == 1


def test_a_failed_calculation_leaves_no_results(calculator: MLIPCalculator, silicon: Atoms) -> None:
    calculator.calculate(silicon)
    coincident = silicon.copy()
    coincident.positions[1] = coincident.positions[0]
    with pytest.raises(InputError, match="apart"):
        calculator.calculate(coincident)
    with pytest.raises(InputError, match="apart"):
        calculator.get_potential_energy(coincident)


def test_options_are_fixed(calculator: MLIPCalculator) -> None:
    assert calculator.set(skin=0.5) == {}
    with pytest.raises(InputError, match="dtype of an existing MLIPCalculator can't be changed"):
        calculator.set(dtype="float32")
    assert calculator.parameters["dtype"] == "float64"


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_devices_that_are_not_there(device: str) -> None:
    with pytest.raises(InputError, match=f"device '{device}' can't be used .*expected cpu"):
        MLIPCalculator(make_potential(), device=device)
    with pytest.raises(InputError, match=f"device '{device}' can't be used"):
        mlip.load("silicon", device=device)


def test_never_nan(calculator: MLIPCalculator, silicon: Atoms) -> None:
    with torch.no_grad():
        calculator.potential.model.embedding.fill_(float("nan"))
    for evaluate in (calculator.get_potential_energy, lambda atoms: calculator.evaluate([atoms])):
        with pytest.raises(InputError, match=r"no finite energy \(nan eV\)"):
            evaluate(silicon)
    with pytest.raises(InputError, match="no atoms"):
        calculator.evaluate([silicon, Atoms()])
    for structures, message in (
        (silicon, "one structure; expected a list"),
        ([silicon, "Si"], "structure 1 is a str; expected an ase.Atoms"),
        ([silicon] * 40 + [Atoms("Si")], "structure 40 has no three-dimensional cell"),
    ):
        with pytest.raises(InputError, match=message):
            calculator.evaluate(structures, stress=True)


def test_batches_are_bounded(calculator: MLIPCalculator, silicon: Atoms, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counting(calculator, monkeypatch)
    results = calculator.evaluate([silicon] * 5, batch_atoms=2 * len(silicon))
    assert len(calls) == 3 and len(results) == 5
    np.testing.assert_allclose(results[4]["forces"], calculator.get_forces(silicon), atol=1e-12)
