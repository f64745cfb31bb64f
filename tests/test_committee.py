"""Committees: MLIPCalculator([a, b, c]) and the place of its deviations."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError, all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import Trajectory, read, write
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS
from ase.vibrations import Vibrations
from toy_potentials import CUTOFF, Cosine, Jumping, Reaching, Toy

from mlip.calculators import MLIPCalculator
from mlip.calculators.committee import Committee
from mlip.convert import atoms_to_graph
from mlip.errors import InputError, ModelFileError, UnknownElementError
from mlip.models import MACE
from mlip.potential import Potential
from mlip.testing.physics import check_calculator
from mlip.workflows.evaluate import evaluate

PROPERTIES = ("energy", "forces", "stress")


def toy(
    strength: float = 1.0, cutoff: float = CUTOFF, kind: type[Toy] = Toy, E0: float = -5.0, scale: float = 1.0
) -> Potential:
    model = kind()
    model.cutoff = cutoff
    with torch.no_grad():
        model.strength.mul_(strength)
    return Potential(model, {6: E0, 14: 2 * E0}, scale)


def mace(elements: tuple[int, ...] = (14,), seed: int = 0) -> Potential:
    torch.manual_seed(seed)
    model = MACE(elements, 4.5, "4x0e+4x1o", l_max=2, correlation=2, radial_mlp=(8,), avg_num_neighbors=10.0)
    return Potential(model, dict.fromkeys(elements, -3.0))


MEMBERS = (toy(), toy(1.2, 3.1, E0=-4.0), toy(0.7, 4.8, scale=1.4))


@pytest.fixture
def committee() -> MLIPCalculator:
    return MLIPCalculator(list(MEMBERS))


@pytest.fixture
def atoms() -> Atoms:
    crystal = bulk("SiC", "zincblende", 4.36, cubic=True)
    crystal.rattle(0.1, seed=3)
    crystal.set_cell(crystal.cell @ np.array([[1.02, 0.01, 0.03], [0, 0.99, 0.02], [0, 0, 1.01]]), scale_atoms=True)
    return crystal


def moved(atoms: Atoms, seed: int = 5) -> Atoms:
    other = atoms.copy()
    other.rattle(0.05, seed=seed)
    return other


def alone(atoms: Atoms, models: tuple[Potential, ...] = MEMBERS, **options: str) -> dict[str, np.ndarray]:
    """The answers of calculators of one model each, one after the other."""
    calculators = [MLIPCalculator(model, **options) for model in models]
    return {name: np.array([c.get_property(name, atoms) for c in calculators]) for name in (*PROPERTIES, "energies")}


# --- the numbers


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_mean_and_deviation_of_the_single_calculators(atoms: Atoms, dtype: str) -> None:
    atoms.calc = MLIPCalculator(MEMBERS, dtype=dtype)
    answers = alone(atoms, dtype=dtype)
    tolerance = 1e-12 if dtype == "float64" else 1e-5  # the order of sums differs with the list's order
    for name in PROPERTIES:
        mean, std = atoms.calc.get_property(name, atoms), atoms.calc.get_property(f"{name}_std", atoms)
        np.testing.assert_allclose(mean, answers[name].mean(axis=0), rtol=0, atol=tolerance)
        np.testing.assert_allclose(std, answers[name].std(axis=0), rtol=0, atol=tolerance)
        np.testing.assert_array_equal(std, getattr(atoms.calc, f"{name}_std"))
        assert np.shape(std) == np.shape(mean) and np.max(std) > 1e-4
    np.testing.assert_allclose(atoms.get_potential_energies(), answers["energies"].mean(axis=0), rtol=0, atol=tolerance)
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    assert isinstance(atoms.calc.energy_std, float)


def test_evaluate_gives_the_deviations(committee: MLIPCalculator, atoms: Atoms) -> None:
    structures = [atoms, moved(atoms) * (2, 1, 1), bulk("Si")]
    for batch_atoms in (1, 1000):
        results = committee.evaluate(structures, forces=True, stress=True, batch_atoms=batch_atoms)
        for structure, result in zip(structures, results, strict=True):
            assert set(result) == {*PROPERTIES, *(f"{name}_std" for name in PROPERTIES)}
            for name, value in result.items():
                np.testing.assert_allclose(value, committee.get_property(name, structure), rtol=0, atol=1e-11)
    assert set(committee.evaluate([atoms], forces=False)[0]) == {"energy", "energy_std"}
    assert set(MLIPCalculator(toy()).evaluate([atoms])[0]) == {"energy", "forces"}


@pytest.mark.parametrize("times", [2, 3, 7, 11])
def test_one_model_many_times_is_that_model_without_deviation(atoms: Atoms, times: int) -> None:
    model = mace((6, 14))
    single, several = MLIPCalculator(model), MLIPCalculator([model] * times)
    for name in PROPERTIES:
        np.testing.assert_array_equal(several.get_property(name, atoms), single.get_property(name, atoms))
        assert np.all(several.get_property(f"{name}_std", atoms) == 0)


def test_huge_reference_energies_cost_no_digits(atoms: Atoms) -> None:
    near, far = alone(atoms, (toy(E0=0), toy(1.2, E0=0))), MLIPCalculator([toy(E0=-1e5), toy(1.2, E0=-1e5)])
    assert far.get_property("energy_std", atoms) == pytest.approx(near["energy"].std(), abs=1e-8)


def test_reference_energies_enter_the_deviation_of_the_energy_only(atoms: Atoms) -> None:
    calculator = MLIPCalculator([toy(E0=-5), toy(E0=-6)])
    assert calculator.get_property("energy_std", atoms) == pytest.approx(4 * 0.5 + 4 * 1.0)
    assert np.abs(calculator.get_property("forces_std", atoms)).max() == 0


@pytest.mark.parametrize("kind", [Cosine, Jumping, Reaching])
def test_each_member_sees_its_own_cutoff_only(atoms: Atoms, kind: type[Toy]) -> None:
    """Also members that would take farther pairs for near ones, and a list longer than needed."""
    models = (toy(cutoff=3.3, kind=kind), toy(cutoff=5.0), toy(0.8, cutoff=2.5, kind=kind))
    answers, calculator = alone(atoms, models), MLIPCalculator(models, skin=1.0)
    for name in PROPERTIES:
        np.testing.assert_allclose(calculator.get_property(name, atoms), answers[name].mean(axis=0), rtol=0, atol=1e-12)
    committee = Committee(models, ["a", "b", "c"])
    assert committee.cutoff == 5.0 and committee.elements == (6, 14)
    wide = committee(atoms_to_graph(atoms, 7.0))
    assert wide.energy.item() == pytest.approx(answers["energy"].mean(), abs=1e-12)


def test_physics_of_the_mean(atoms: Atoms) -> None:
    failed = [r for r in check_calculator(lambda: MLIPCalculator(MEMBERS, device="cpu"), atoms) if not r.passed]
    assert not failed, failed


def test_errors_over_labelled_structures(committee: MLIPCalculator, atoms: Atoms) -> None:
    labelled = atoms.copy()
    labelled.info["REF_energy"] = committee.get_potential_energy(atoms) + len(atoms)
    labelled.arrays["REF_forces"] = committee.get_forces(atoms)
    result = evaluate(committee, [labelled])
    assert result.energy_rmse_meV_per_atom == pytest.approx(1000)
    assert result.forces_rmse_meV_per_A == pytest.approx(0, abs=1e-9)


# --- what may be given


def test_potentials_names_and_files_mixed(tmp_path: Path) -> None:
    silicon, file = bulk("Si"), tmp_path / "small.safetensors"
    silicon.rattle(0.1, seed=1)
    potential = mace()
    potential.save(file)
    models = ("silicon", file, str(file), potential)
    energies = [MLIPCalculator(model).get_potential_energy(silicon) for model in models]
    calculator = MLIPCalculator(models)
    assert calculator.get_potential_energy(silicon) == pytest.approx(np.mean(energies), abs=1e-10)
    assert calculator.get_property("energy_std", silicon) == pytest.approx(np.std(energies), abs=1e-10)
    assert calculator.todict() == {"model": ["silicon", str(file), str(file), "MACE"], "radial": "exact"}
    assert all(p.requires_grad for p in potential.parameters())


def test_one_model_in_a_list_is_that_model(atoms: Atoms) -> None:
    """It has no deviation, rather than one of zero, which would say that it is certain."""
    atoms.calc = MLIPCalculator([toy()])
    assert isinstance(atoms.calc.potential, Potential)
    np.testing.assert_array_equal(atoms.get_forces(), MLIPCalculator(toy()).get_forces(atoms))
    assert atoms.calc.todict() == {"model": "Toy", "radial": "exact"}


def test_one_model_has_no_deviation(atoms: Atoms) -> None:
    atoms.calc = MLIPCalculator(toy())
    assert not hasattr(atoms.calc, "energy_std")
    with pytest.raises(AttributeError, match="no forces_std: .* a committee is"):
        _ = atoms.calc.forces_std
    with pytest.raises(PropertyNotImplementedError, match="no stress_std"):
        atoms.calc.get_property("stress_std", atoms)


def test_models_that_can_not_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="empty list"):
        MLIPCalculator([])
    with pytest.raises(ModelFileError, match="nosuch"):
        MLIPCalculator(["silicon", "nosuch"])
    with pytest.raises(InputError, match="expected a name"):
        MLIPCalculator([toy(), 3])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"\(MACE, MACE\) have no element in common"):
        MLIPCalculator([mace((6,)), mace((14,))])


def test_the_member_that_does_not_know_an_element_is_named(atoms: Atoms, tmp_path: Path) -> None:
    file = tmp_path / "silicon_only.safetensors"
    mace().save(file)
    calculator = MLIPCalculator([toy(), file])
    assert calculator.potential.elements == (14,)
    for answer in (calculator.get_potential_energy, lambda atoms: calculator.evaluate([bulk("Si"), atoms])):
        with pytest.raises(UnknownElementError, match=r"member 2 .*\(.*silicon_only.safetensors\).* not know C;.* Si"):
            answer(atoms)
    assert np.isfinite(calculator.get_potential_energy(bulk("Si")))


# --- ASE's rules: caching, copies


def test_computed_once_and_only_what_is_asked(
    committee: MLIPCalculator, atoms: Atoms, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, bool]] = []
    forward = committee.potential.forward

    def spy(graph, **keywords):  # type: ignore[no-untyped-def]
        calls.append(keywords)
        return forward(graph, **keywords)

    monkeypatch.setattr(committee.potential, "forward", spy)
    atoms.calc = committee
    assert committee.energy_std > 0
    atoms.get_potential_energy()
    assert calls == [{"forces": False, "stress": False}]
    atoms.get_forces()
    _ = committee.forces_std, committee.energy_std
    assert calls[1:] == [{"forces": True, "stress": False}]
    _ = committee.stress_std
    atoms.get_stress()
    atoms.get_forces()
    assert calls[2:] == [{"forces": True, "stress": True}]
    assert committee.get_property("forces_std", moved(atoms), allow_calculation=False) is None
    assert len(calls) == 3


def test_deviations_are_never_those_of_other_atoms(committee: MLIPCalculator, atoms: Atoms, tmp_path: Path) -> None:
    other = moved(atoms)
    expected = [committee.get_property("energy_std", a) for a in (atoms, other)]
    atoms.calc = committee
    assert committee.energy_std == expected[0]
    atoms.positions = other.positions
    assert committee.energy_std == pytest.approx(expected[1], abs=1e-12) != expected[0]
    atoms.get_forces()
    for name in ("a.traj", "a.extxyz", "a.json", "a.db"):
        write(tmp_path / name, atoms)
    atoms.rattle(0.1, seed=8)
    fresh = committee.evaluate([atoms])[0]
    np.testing.assert_allclose(committee.forces_std, fresh["forces_std"], rtol=0, atol=1e-12)
    # Attached to other atoms it speaks of these, at once.
    second = moved(atoms, seed=9)
    second.calc = committee
    assert committee.energy_std == pytest.approx(committee.evaluate([second])[0]["energy_std"], abs=1e-12)
    # One calculator of two structures answers for the one it was asked about last, or for the one it is told.
    atoms.get_forces()
    assert committee.energy_std == pytest.approx(fresh["energy_std"], abs=1e-12)
    assert committee.get_property("energy_std", second) != pytest.approx(fresh["energy_std"], abs=1e-6)


def test_no_structure_no_deviation(committee: MLIPCalculator, atoms: Atoms) -> None:
    with pytest.raises(InputError, match="of which structure"):
        _ = committee.energy_std
    committee.calculate(moved(atoms), ["forces"])  # these atoms are gone, and so is what could be said of them
    with pytest.raises(InputError, match="of which structure"):
        _ = committee.energy_std
    committee.calculate(atoms, ["forces"])
    assert committee.energy_std > 0
    with pytest.raises(InputError, match="no structure given"):
        MLIPCalculator(MEMBERS).get_potential_energy()


def test_a_failed_calculation_leaves_no_deviation(committee: MLIPCalculator, atoms: Atoms) -> None:
    atoms.calc = committee
    atoms.get_forces()
    atoms.positions[1] = atoms.positions[0]
    for _ in range(2):
        with pytest.raises(InputError, match="apart"):
            _ = committee.energy_std
    assert committee.results == {} and committee.deviations == {}


def test_molecule(committee: MLIPCalculator) -> None:
    methane = molecule("CH4")
    methane.numbers[1:] = 14
    methane.calc = committee
    assert committee.forces_std.shape == (5, 3)
    with pytest.raises(PropertyNotImplementedError, match="three-dimensional cell"):
        _ = committee.stress_std


def test_returned_arrays_are_copies(committee: MLIPCalculator, atoms: Atoms) -> None:
    atoms.calc = committee
    committee.forces_std[:] = 7
    assert committee.forces_std.max() < 7


def test_copies(committee: MLIPCalculator, atoms: Atoms) -> None:
    atoms.calc = committee
    forces, std = atoms.get_forces(), committee.forces_std
    for twin in (copy.deepcopy(atoms), pickle.loads(pickle.dumps(atoms))):
        assert twin.calc is not committee
        np.testing.assert_array_equal(twin.get_forces(), forces)
        np.testing.assert_array_equal(twin.calc.forces_std, std)
        twin.rattle(0.1)
        assert abs(twin.calc.forces_std - std).max() > 1e-3
    np.testing.assert_array_equal(committee.forces_std, std)
    for calculator in (copy.deepcopy(committee), pickle.loads(pickle.dumps(committee))):
        np.testing.assert_array_equal(calculator.get_property("forces_std", atoms), std)


# --- ASE's exporters


def test_results_hold_only_what_ase_knows(committee: MLIPCalculator, atoms: Atoms) -> None:
    """Any other name there breaks these three."""
    atoms.calc = committee
    atoms.get_stress()
    _ = committee.stress_std
    assert set(committee.results) == {"energy", "free_energy", "energies", "forces", "stress"} <= set(all_properties)
    frozen = SinglePointCalculator(atoms, **committee.results)
    np.testing.assert_array_equal(frozen.get_forces(), atoms.get_forces())
    assert atoms.get_properties(["energy", "forces"])["energy"] == committee.export_properties()["energy"]


@pytest.mark.parametrize("name", ["a.traj", "a.extxyz", "a.json", "a.db"])
def test_writers(committee: MLIPCalculator, atoms: Atoms, tmp_path: Path, name: str) -> None:
    atoms.calc = committee
    energy, forces, std = atoms.get_potential_energy(), atoms.get_forces(), committee.forces_std
    write(tmp_path / name, atoms)
    stored = read(tmp_path / name)
    assert stored.get_potential_energy() == pytest.approx(energy, abs=1e-6)
    np.testing.assert_allclose(stored.get_forces(), forces, atol=1e-6)
    np.testing.assert_array_equal(committee.forces_std, std)


def test_deviations_kept_in_files(committee: MLIPCalculator, atoms: Atoms, tmp_path: Path) -> None:
    """As docs/calculator.md tells."""
    atoms.calc = committee
    atoms.get_forces()
    frame = atoms.copy()
    frame.calc = SinglePointCalculator(frame, **atoms.calc.results)
    frame.info["energy_std"] = atoms.calc.energy_std
    frame.arrays["forces_std"] = atoms.calc.forces_std
    write(tmp_path / "a.extxyz", frame)
    stored = read(tmp_path / "a.extxyz")
    assert stored.info["energy_std"] == pytest.approx(committee.energy_std, abs=1e-7)
    np.testing.assert_allclose(stored.arrays["forces_std"], committee.forces_std, atol=1e-7)
    with connect(tmp_path / "a.db") as database:
        database.write(atoms, energy_std=committee.energy_std, data={"forces_std": committee.forces_std})
    row = connect(tmp_path / "a.db").get(1)
    assert row.energy_std == pytest.approx(committee.energy_std)
    np.testing.assert_allclose(row.data["forces_std"], committee.forces_std)


def test_molecular_dynamics_and_relaxation(committee: MLIPCalculator, atoms: Atoms, tmp_path: Path) -> None:
    atoms.calc = committee
    atoms.set_momenta(np.random.default_rng(0).normal(size=(len(atoms), 3)))
    seen: list[float] = []
    dynamics = VelocityVerlet(atoms, 1.0, trajectory=str(tmp_path / "md.traj"), logfile=str(tmp_path / "md.log"))
    dynamics.attach(lambda: seen.append(committee.energy_std))
    dynamics.run(5)
    frames = read(tmp_path / "md.traj", ":")
    np.testing.assert_allclose(seen, [r["energy_std"] for r in committee.evaluate(frames)], rtol=0, atol=1e-10)
    before = atoms.get_potential_energy()
    with Trajectory(tmp_path / "relax.traj", "w", atoms) as trajectory:
        BFGS(atoms, trajectory=trajectory, logfile=None).run(fmax=0.01, steps=5)
    assert atoms.get_potential_energy() < before and len(read(tmp_path / "relax.traj", ":")) >= 2


def test_vibrations(committee: MLIPCalculator, tmp_path: Path) -> None:
    pair = Atoms("SiC", positions=[[0, 0, 0], [0, 0, 2.1]], calculator=committee)
    vibrations = Vibrations(pair, name=str(tmp_path / "vib"))
    vibrations.run()
    assert np.isfinite(vibrations.get_frequencies()).all()


def test_band_of_images(committee: MLIPCalculator, atoms: Atoms) -> None:
    images = [atoms, *(atoms.copy() for _ in range(2)), moved(atoms)]
    for image in images:
        image.calc = committee
    band = NEB(images, allow_shared_calculator=True, method="improvedtangent")
    band.interpolate()
    assert np.isfinite(band.get_forces()).all()
    deviations = [committee.get_property("energy_std", image) for image in images]
    expected = [result["energy_std"] for result in committee.evaluate(images)]
    np.testing.assert_allclose(deviations, expected, rtol=0, atol=1e-11)
