"""Virials as stresses, weights of labels, and what a set of structures is warned of."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal
from lj_data import argon, isolated, label

from mlip.data.batches import collate_samples, make_samples
from mlip.data.labels import LabelKeys, LabelledStructure, label_structures, read_labelled
from mlip.data.summary import count, count_by_group, exactly_zero, file_remarks, remarks, total
from mlip.data.symmetry import forces_vanish
from mlip.data.weights import check_config_types, parse_config_type_weights, weighted
from mlip.errors import DataError, InputError
from mlip.units import full_3x3_to_voigt_6, voigt_6_to_full_3x3


def only(atoms: Atoms, **keys: str) -> LabelledStructure:
    return label_structures([atoms], LabelKeys(**keys)).structures[0]


def with_virials(form: str = "nine", sign: float = -1.0, keep_stress: bool = False) -> tuple[Atoms, np.ndarray]:
    """A strained crystal whose stress is given as virials; and the stress (3, 3)."""
    atoms = argon(1)[0]
    stress = voigt_6_to_full_3x3(atoms.info["REF_stress"])
    virials = sign * atoms.get_volume() * stress
    forms = {"full": virials, "nine": virials.ravel(), "voigt": full_3x3_to_voigt_6(virials)}
    atoms.info["dft_virial"] = forms[form]
    if not keep_stress:
        del atoms.info["REF_stress"]
    return atoms, stress


@pytest.mark.parametrize("form", ["full", "nine", "voigt"])
def test_virials_become_stress(form):
    atoms, stress = with_virials(form)
    np.testing.assert_allclose(only(atoms, virials="dft_virial").stress, stress, rtol=1e-12)
    with pytest.raises(DataError, match=r"no structure has the virials key 'virials' \(--virials_key\).*dft_virial"):
        only(atoms, virials="virials")


def test_virials_have_the_sign_of_mace():
    """W = -dE/d(strain): a crystal under tension has a positive stress and negative virials."""
    atoms = bulk("Ar", "fcc", a=5.5, cubic=True)
    label(atoms)
    assert atoms.info["REF_stress"][0] > 0
    atoms.info["REF_virials"] = -atoms.get_volume() * voigt_6_to_full_3x3(atoms.info.pop("REF_stress"))
    found = label_structures([atoms], LabelKeys())
    assert found.keys.virials == "REF_virials" and found.keys.stress is None
    assert found.structures[0].stress[0, 0] > 0
    assert found.counts["stress"] == 1


def test_virials_through_a_file(tmp_path):
    from ase.io import write

    atoms, stress = with_virials()
    atoms.info["virial"] = voigt_6_to_full_3x3(full_3x3_to_voigt_6(atoms.info.pop("dft_virial").reshape(3, 3)))
    write(tmp_path / "a.xyz", atoms, format="extxyz")
    read = read_labelled(tmp_path / "a.xyz", LabelKeys(virials="virial")).structures[0]
    np.testing.assert_allclose(read.stress, stress, rtol=1e-6)
    assert read_labelled(tmp_path / "a.xyz").structures[0].stress is None  # QUIP's name is taken only when asked for


def test_both_that_agree():
    atoms, stress = with_virials(keep_stress=True)
    np.testing.assert_allclose(only(atoms, virials="dft_virial").stress, stress, atol=1e-15)


def test_both_that_contradict():
    atoms, _ = with_virials(keep_stress=True)
    atoms.info["dft_virial"] = atoms.info["dft_virial"] * 1.1
    with pytest.raises(DataError, match="structure 0 of the data: the stress .* contradicts the virials"):
        only(atoms, virials="dft_virial")
    atoms, _ = with_virials(sign=+1.0, keep_stress=True)
    with pytest.raises(DataError, match="agree but for the sign"):
        only(atoms, virials="dft_virial")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones(5), r"virial tensor has shape \(5,\); expected 3x3, 9 or 6"),
        (np.arange(9.0), "virial tensor .* is not symmetric"),
        (np.full(6, np.nan), "virials is not finite"),
        ("text", "not numeric"),
    ],
)
def test_bad_virials(value, message):
    atoms, _ = with_virials()
    atoms.info["dft_virial"] = value
    with pytest.raises(DataError, match=message):
        only(atoms, virials="dft_virial")


def test_stress_without_volume_is_ignored_and_counted():
    atoms, _ = with_virials()
    atoms.pbc = (True, True, False)
    other = Atoms("Ar2", positions=[[0, 0, 0], [3.8, 0, 0]], info={"REF_stress": np.zeros(6), "REF_energy": 1.0})
    data = label_structures([atoms, other], LabelKeys(virials="dft_virial"), "f.xyz")
    assert data.ignored_stresses == 2 and data.counts["stress"] == 0
    assert file_remarks("f.xyz", data, data.keys) == [
        "f.xyz: the stress of 2 structures is ignored, since they are not periodic in three dimensions"
    ]
    with pytest.raises(DataError, match="1 stresses of structures not periodic in three dimensions are none"):
        del other.info["REF_energy"]
        label_structures([other], LabelKeys())


def test_a_test_set_need_not_have_the_stress_that_trains():
    structures = argon(1)
    label_structures(structures, LabelKeys(stress="dft_stress"), strict=False)
    with pytest.raises(DataError, match="stress key 'dft_stress'"):
        label_structures(structures, LabelKeys(stress="dft_stress"))
    with pytest.raises(DataError, match="energy key 'dft'"):
        label_structures(structures, LabelKeys(energy="dft"), strict=False)


def test_a_key_without_value_is_no_number():
    atoms = argon(1)[0]
    atoms.info["REF_energy"] = True  # what `REF_energy` alone in a comment line reads as
    with pytest.raises(DataError, match="energy True is not numeric"):
        only(atoms)


def test_weights_by_label():
    atoms = argon(1)[0]
    atoms.info |= {
        "config_weight": 2,
        "config_energy_weight": 3.0,
        "config_forces_weight": 0,
        "config_stress_weight": 0.5,
    }
    labels = collate_samples(make_samples([only(atoms)], 5.0)).labels
    assert labels.energy_weight.tolist() == [6.0]
    assert labels.forces_weight.tolist() == [0.0]
    assert labels.stress_weight.tolist() == [1.0]


def test_weight_of_virials_is_that_of_the_stress():
    atoms, _ = with_virials()
    atoms.info["config_virials_weight"] = 4.0
    assert only(atoms, virials="dft_virial").label_weight("stress") == 4.0
    atoms.info["config_stress_weight"] = 5.0
    with pytest.raises(DataError, match="config_stress_weight and config_virials_weight differ"):
        only(atoms, virials="dft_virial")


@pytest.mark.parametrize("key", ["config_weight", "config_energy_weight", "config_virials_weight"])
@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, "heavy", [1.0, 2.0]])
def test_bad_weights(key, value):
    atoms = argon(1)[0]
    atoms.info[key] = value
    with pytest.raises(DataError, match=f"structure 0 of the data: {key} is .*expected one number, zero or more"):
        only(atoms)


def grouped() -> list[LabelledStructure]:
    structures = argon(4)
    for atoms, group in zip(structures, ("bulk", "surface", "bulk", None), strict=True):
        if group:
            atoms.info["config_type"] = group
    del structures[1].info["REF_energy"]
    return label_structures(structures, LabelKeys()).structures


def test_weights_by_config_type():
    weights = parse_config_type_weights('{"Default": 2.0, "surface": 5}')
    assert weights == {"Default": 2.0, "surface": 5.0}
    assert [s.weight for s in weighted(grouped(), weights)] == [1.0, 5.0, 1.0, 2.0]
    check_config_types(weights, grouped(), "f.xyz")
    with pytest.raises(InputError, match=r"f.xyz has the config_type slab; present are bulk \(2\), .*Default"):
        check_config_types({"slab": 1.0}, grouped(), "f.xyz")
    check_config_types({"Default": 1.0}, grouped()[:2], "f.xyz")


@pytest.mark.parametrize(
    "text", ["5", "{surface: 5}", '{"surface": -1}', '{"surface": "much"}', "{1: 1.0}", '{"a": True}']
)
def test_bad_weights_by_config_type(text):
    with pytest.raises(InputError, match="--config_type_weights"):
        parse_config_type_weights(text)


def test_counts_by_config_type():
    structures = grouped()
    assert count(structures) == ("", 4, 16, {"energy": 3, "forces": 4, "stress": 4})
    assert [(c.group, c.structures, c.labels["energy"]) for c in count_by_group(structures)] == [
        ("Default", 1, 1),
        ("bulk", 2, 2),
        ("surface", 1, 0),
    ]
    assert count(structures).cell("energy") == "3 of 4" and count(structures).cell("forces") == "4"
    assert total(count_by_group(structures)) == count(structures)


def test_zeros_are_pointed_out():
    structures = argon(3)
    structures[1].arrays["REF_forces"][:] = 0.0
    lone = bulk("Ar")
    lone.info["REF_energy"], lone.arrays["REF_forces"] = -1.0, np.zeros((1, 3))
    labelled = label_structures([*structures, lone], LabelKeys()).structures
    zeros, could = exactly_zero(labelled, "forces")
    assert [s.index for s in zeros] == [1] and could == 3  # forces on one atom in its cell are zero by symmetry
    (line,) = remarks("train", labelled)
    assert line.startswith("warning: the forces of 1 structures of train are exactly zero (structures 1).")


def test_outlying_forces_are_pointed_out():
    structures = argon(4)
    for atoms in structures:
        atoms.arrays["REF_forces"][:] = 0.5
    structures[2].arrays["REF_forces"][1, 1] = -49.0
    assert remarks("train", label_structures(structures, LabelKeys()).structures) == []
    structures[2].arrays["REF_forces"][1, 1] = -900.0
    (line,) = remarks("valid", label_structures(structures, LabelKeys()).structures)
    assert line.startswith("warning: forces up to 900 eV/Å on 1 structures of valid (structures 2), over 50 times")
    structures[2].info["config_forces_weight"] = 0.0
    assert remarks("train", label_structures(structures, LabelKeys()).structures) == []


def test_forces_that_are_zero_by_symmetry():
    salt = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    rutile = crystal(["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.6, 4.6, 2.95, 90, 90, 90])
    stretched = bulk("Si", cubic=True)
    stretched.set_cell(stretched.cell.array * [[1.02], [1.0], [1.0]], scale_atoms=True)
    sheared = bulk("Si", cubic=True)
    sheared.set_cell(sheared.cell.array + [[0, 0.1, 0], [0.1, 0, 0], [0, 0, 0]], scale_atoms=True)
    rattled = salt.copy()
    rattled.rattle(0.05)
    assert forces_vanish(salt) and forces_vanish(stretched)
    assert not forces_vanish(rutile)  # oxygen may move along its diagonal
    assert not forces_vanish(sheared) and not forces_vanish(rattled)
    assert not forces_vanish(Atoms("H2", positions=[[0, 0, 0], [5, 0, 0]]))


def test_other_keys_than_the_training_file():
    data = label_structures(argon(1), LabelKeys())
    lines = file_remarks("valid.xyz", data, LabelKeys("energy", "REF_forces"))
    assert lines == ["warning: valid.xyz has its energy under REF_energy, the training file under energy"]


def test_isolated_atoms():
    marked = [
        isolated(config_type=name) for name in ("IsolatedAtom", "isolated_atom", "Isolated Atom", "isolated-atom")
    ]
    free = Atoms("Ar", info={"REF_energy": -1.5})
    wire = Atoms("Ar", cell=[4, 0, 0], pbc=(True, False, False), info={"REF_energy": -1.5})
    crystal = Atoms(bulk("Ar"), info={"REF_energy": -1.5})
    labelled = label_structures([*marked, free, wire, crystal], LabelKeys()).structures
    assert [s.is_isolated_atom for s in labelled] == [True] * 5 + [False] * 2
    pair = Atoms("Ar2", positions=[[0, 0, 0], [4, 0, 0]], info={"REF_energy": -3.0, "config_type": "IsolatedAtom"})
    with pytest.raises(DataError, match="structure 0 of the data is marked IsolatedAtom but has 2 atoms"):
        only(pair)
