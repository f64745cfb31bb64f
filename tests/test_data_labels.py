"""Reading labels: every spelling that users have, and clear refusals."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from lj_data import argon, isolated, write_xyz

from mlip.data.labels import LabelKeys, label_structures, read_labelled
from mlip.errors import DataError, InputError
from mlip.units import full_3x3_to_voigt_6


@pytest.fixture
def structures() -> list[Atoms]:
    return argon(3)


def test_ref_keys_from_file(tmp_path, structures):
    data = read_labelled(write_xyz(tmp_path / "a.xyz", structures))
    assert data.keys == LabelKeys("REF_energy", "REF_forces", "REF_stress")
    assert data.counts == {"energy": 3, "forces": 3, "stress": 3}
    for read, original in zip(data.structures, structures, strict=True):
        assert read.energy == pytest.approx(original.info["REF_energy"], abs=1e-9)
        np.testing.assert_allclose(read.forces, original.arrays["REF_forces"], atol=1e-7)
        np.testing.assert_allclose(full_3x3_to_voigt_6(read.stress), original.info["REF_stress"], atol=1e-9)


def test_plain_names_that_ase_moves_into_the_calculator(tmp_path, structures):
    for atoms in structures:
        results = {name: store.pop(f"REF_{name}") for name, store in (("energy", atoms.info), ("stress", atoms.info))}
        atoms.calc = SinglePointCalculator(atoms, forces=atoms.arrays.pop("REF_forces"), **results)
    data = read_labelled(write_xyz(tmp_path / "a.xyz", structures))
    assert data.keys == LabelKeys("energy", "forces", "stress")
    for read, original in zip(data.structures, structures, strict=True):
        assert read.energy == pytest.approx(original.calc.results["energy"])
        np.testing.assert_allclose(read.forces, original.calc.results["forces"], atol=1e-7)
        np.testing.assert_allclose(full_3x3_to_voigt_6(read.stress), original.calc.results["stress"], atol=1e-9)


def test_ref_keys_come_before_plain_names(structures):
    for atoms in structures:
        atoms.calc = SinglePointCalculator(atoms, energy=99.0)
    data = label_structures(structures, LabelKeys())
    assert data.keys.energy == "REF_energy"
    assert data.structures[0].energy == structures[0].info["REF_energy"]


def test_explicit_key_must_be_there_and_present_keys_are_named(tmp_path, structures):
    path = write_xyz(tmp_path / "a.xyz", structures)
    with pytest.raises(DataError, match=r"'dft_energy'.*REF_energy \(3 of 3\)"):
        read_labelled(path, LabelKeys(energy="dft_energy"))
    with pytest.raises(DataError, match="stress key 'virial'"):
        read_labelled(path, LabelKeys(stress="virial"))


@pytest.mark.parametrize("form", ["full", "nine", "voigt"])
def test_stress_in_every_form(form, structures):
    full = np.array([[1.0, 0.3, 0.2], [0.3, 2.0, 0.1], [0.2, 0.1, 3.0]])
    structures[0].info["REF_stress"] = {"full": full, "nine": full.ravel(), "voigt": full_3x3_to_voigt_6(full)}[form]
    np.testing.assert_allclose(label_structures(structures, LabelKeys()).structures[0].stress, full)


def test_stress_of_few_digits_is_made_symmetric(structures):
    structures[0].info["REF_stress"] = np.array([[1.0, 0.301, 0.2], [0.3, 2.0, 0.1], [0.2, 0.1, 3.0]])
    stress = label_structures(structures, LabelKeys()).structures[0].stress
    np.testing.assert_array_equal(stress, stress.T)
    assert stress[0, 1] == pytest.approx(0.3005)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("REF_energy", np.nan, "structure 1.*energy is not finite"),
        ("REF_energy", np.array([1.0, 2.0]), r"structure 1.*energy has shape \(2,\)"),
        ("REF_energy", "low", "structure 1.*not numeric"),
        ("REF_forces", np.full((4, 3), np.nan), "structure 1.*forces is not finite"),
        ("REF_forces", np.full((4, 3), 1e30), "structure 1.*forces has 1e.30, which no calculation gives"),
        ("REF_forces", np.zeros((4, 2)), r"structure 1.*forces have shape \(4, 2\)"),
        ("REF_stress", np.zeros(5), r"structure 1.*stress has shape \(5,\)"),
        ("REF_stress", np.triu(np.ones((3, 3))), "structure 1.*not symmetric"),
        ("config_weight", -1.0, "structure 1.*config_weight"),
    ],
)
def test_bad_labels_are_refused_with_the_index(structures, name, value, message):
    store = structures[1].arrays if name == "REF_forces" else structures[1].info
    store[name] = value
    with pytest.raises(DataError, match=message):
        label_structures(structures, LabelKeys())


def test_missing_labels_stay_missing(structures):
    del structures[0].info["REF_energy"], structures[1].arrays["REF_forces"], structures[2].info["REF_stress"]
    data = label_structures(structures, LabelKeys())
    assert data.counts == {"energy": 2, "forces": 2, "stress": 2}
    first, second, third = data.structures
    assert first.energy is None and second.forces is None and third.stress is None


def test_stress_of_a_molecule_is_no_label(structures):
    molecule = structures[0]
    molecule.pbc = False
    molecule.info["REF_stress"] = np.zeros(6)
    assert label_structures(structures, LabelKeys()).structures[0].stress is None


def test_nothing_labelled():
    with pytest.raises(DataError, match="no structure has a label.*--energy_key"):
        label_structures([bulk("Si")], LabelKeys())


def test_bad_structures_and_files(tmp_path, structures):
    structures[2].positions[0, 0] = np.nan
    with pytest.raises(InputError, match="structure 2.*not finite"):
        label_structures(structures, LabelKeys())
    (tmp_path / "empty.xyz").touch()
    with pytest.raises(DataError, match="is empty"):
        read_labelled(tmp_path / "empty.xyz")
    (tmp_path / "text.xyz").write_text("not a structure\n")
    with pytest.raises(DataError, match="can't be read as structures"):
        read_labelled(tmp_path / "text.xyz")
    with pytest.raises(OSError):
        read_labelled(tmp_path / "none.xyz")


def test_isolated_atoms_are_recognised(structures):
    lone = Atoms("Ar")
    lone.info["REF_energy"] = -1.0
    periodic = bulk("Ar")
    periodic.info["REF_energy"] = -1.0
    marked = [isolated(), isolated(config_type="isolated_atom"), lone]
    flags = [s.is_isolated_atom for s in label_structures([*marked, periodic, *structures], LabelKeys()).structures]
    assert flags == [True] * 3 + [False] * 4


def test_results_of_other_positions_are_no_labels():
    """One live calculator holds the results of the last structure only."""
    shared, structures = EMT(), []
    for seed in range(2):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=seed)
        atoms.calc = shared
        atoms.get_forces()
        structures.append(atoms)
    with pytest.raises(DataError, match="structure 0 of the data: the calculator holds results of other positions"):
        label_structures(structures, LabelKeys())
    last = label_structures(structures[1:], LabelKeys()).structures[0]
    assert last.energy == structures[1].get_potential_energy()
    last.atoms.rattle(0.1)
    with pytest.raises(DataError, match="other positions"):
        label_structures([last.atoms], LabelKeys())


def test_weight_that_is_not_one_number(structures):
    structures[2].info["config_weight"] = np.array([1.0, 2.0])
    with pytest.raises(DataError, match="structure 2 of the data: config_weight is"):
        label_structures(structures, LabelKeys())
