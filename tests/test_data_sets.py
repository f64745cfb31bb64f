"""Reference energies, splits, samples, statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from lj_data import E0, argon, isolated, label

from mlip.data.batches import batches, collate_samples, make_samples
from mlip.data.labels import LabelKeys, LabelledStructure, label_structures
from mlip.data.reference_energies import parse_E0s, reference_energies
from mlip.data.splits import check_elements, set_apart_isolated_atoms, split
from mlip.data.statistics import statistics
from mlip.errors import DataError, InputError, UnknownElementError


def labelled(structures: list[Atoms]) -> list[LabelledStructure]:
    return label_structures(structures, LabelKeys()).structures


def with_energy(formula: str, energy: float) -> LabelledStructure:
    return LabelledStructure(Atoms(formula, positions=np.arange(len(Atoms(formula)))[:, None] * [3.0, 0, 0]), energy)


def test_E0s_from_isolated_atoms():
    parts = set_apart_isolated_atoms(labelled([*argon(2), isolated(energy=-3.25)]))
    assert len(parts.structures) == 2 and len(parts.isolated) == 1
    assert reference_energies("isolated", *parts).E0s == {18: -3.25}


def test_incomplete_isolated_atoms_name_the_way_out():
    parts = set_apart_isolated_atoms(labelled([*argon(1), isolated("Ne")]))
    with pytest.raises(DataError, match="no isolated atom of Ar.*--E0s average"):
        reference_energies("isolated", *parts)


def test_contradicting_isolated_atoms():
    parts = set_apart_isolated_atoms(labelled([*argon(1), isolated(energy=-1), isolated(energy=-2)]))
    with pytest.raises(DataError, match="different energies"):
        reference_energies("isolated", *parts)


def test_average_is_least_squares():
    data = [with_energy("H2O", 2 * -1.0 - 5.0), with_energy("H2", -2.0), with_energy("OH", -6.0)]
    E0s, origin = reference_energies("average", data, [])
    assert E0s == pytest.approx({1: -1.0, 8: -5.0})
    assert "3 energies" in origin and "fix only" not in origin


def test_average_of_one_composition_says_so():
    E0s, origin = reference_energies("average", [with_energy("H2O", -9.0), with_energy("H2O", -9.0)], [])
    assert 2 * E0s[1] + E0s[8] == pytest.approx(-9.0)
    assert "fix only 1 of 2" in origin


def test_average_needs_energies():
    with pytest.raises(DataError, match="needs energies"):
        reference_energies("average", [LabelledStructure(Atoms("H2"))], [])


@pytest.mark.parametrize(
    "text", ["{14: -0.8, 8: 2e-1}", "{Si: -0.8, O: 0.2}", '{"14":-0.8,"8":.2}', "{'Si':-.8,'O':0.2}"]
)
def test_given_E0s(text):
    assert parse_E0s(text) == {14: -0.8, 8: 0.2}


def test_given_E0s_as_mapping():
    E0s, origin = reference_energies({"Ar": -1.0, 8: -2.0}, labelled(argon(1)), [])
    assert E0s == {18: -1.0} and "1 more are left out (O)" in origin


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{Si: low}", "'Si: low' is not ELEMENT: ENERGY"),
        ("{}", "is not ELEMENT"),
        ("{Xx: 1.0}", "'Xx' is no element"),
        ("{14: 1.0, Si: 2.0}", "given twice"),
        ("mean", "expected isolated, average"),
        ("{8: 1.0}", "no energy for Ar"),
    ],
)
def test_bad_E0s(text, message):
    with pytest.raises(InputError, match=message):
        reference_energies(text, labelled(argon(1)), [])


def test_split_is_seeded_disjoint_and_complete():
    data = labelled(argon(10))
    train, valid = split(data, 0.2, seed=1)
    assert (len(train), len(valid)) == (8, 2)
    assert {id(s) for s in train} | {id(s) for s in valid} == {id(s) for s in data}
    assert [id(s) for s in split(data, 0.2, seed=1)[1]] == [id(s) for s in valid]
    assert any([id(s) for s in split(data, 0.2, seed=k)[1]] != [id(s) for s in valid] for k in range(2, 6))


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.9, -0.1])
def test_split_that_leaves_nothing(fraction):
    with pytest.raises(DataError, match="--valid_fraction"):
        split(labelled(argon(3)), fraction, seed=0)


def test_unknown_element_is_named():
    neon = label(Atoms("Ne2", positions=[[0, 0, 0], [3.0, 0, 0]]))
    with pytest.raises(UnknownElementError, match="structure 1 of f.xyz holds Ne.*has Ar"):
        check_elements(labelled([*argon(1), neon]), [18], "f.xyz")


def test_missing_label_has_weight_zero():
    structures = argon(2)
    del structures[0].info["REF_energy"], structures[1].arrays["REF_forces"]
    structures[0].info["config_weight"] = 2.5
    batch = collate_samples(make_samples(labelled(structures), 5.0))
    assert batch.labels.energy_weight.tolist() == [0.0, 1.0]
    assert batch.labels.forces_weight.tolist() == [2.5, 0.0]
    assert batch.labels.stress_weight.tolist() == [2.5, 1.0]


def test_molecule_and_crystal_in_one_batch():
    """A molecule without a cell must not stop the stress of the crystal beside it."""
    molecule = label(Atoms("Ar2", positions=[[0, 0, 0], [3.8, 0, 0]]))
    samples = make_samples(labelled([molecule, *argon(1)]), 5.0)
    graph = collate_samples(samples).graph
    assert (torch.linalg.det(graph.cell).abs() > 0).all()
    lengths = graph.edge_vectors().norm(dim=1)
    assert lengths[graph.batch[graph.edge_index[0]] == 0].tolist() == pytest.approx([3.8, 3.8])


def test_coincident_atoms_name_the_structure():
    structures = argon(3)
    structures[2].positions[1] = structures[2].positions[0]
    with pytest.raises(InputError, match=r"structure 2 of f\.xyz.*apart"):
        make_samples(labelled(structures), 5.0, "f.xyz")


def test_batches_keep_order_and_everything():
    samples = make_samples(labelled(argon(5)), 5.0)
    parts = batches(samples, 2)
    assert [b.graph.n_graphs for b in parts] == [2, 2, 1]
    energies = torch.cat([b.labels.energy for b in parts])
    assert torch.equal(energies, torch.cat([s.labels.energy for s in samples]))


def test_statistics_count_only_what_is_there():
    structures = argon(4)
    plain = statistics(make_samples(labelled(structures), 4.5), {18: E0})
    energies = [a.info["REF_energy"] / 4 - E0 for a in structures]
    forces = np.concatenate([a.arrays["REF_forces"] for a in structures])
    assert plain.interaction_mean == pytest.approx(np.mean(energies))
    assert plain.interaction_std == pytest.approx(np.std(energies))
    assert plain.forces_rms == pytest.approx(np.sqrt(np.mean(forces**2)))
    assert plain.avg_num_neighbors == pytest.approx(plain.n_edges / plain.n_atoms)
    del structures[0].info["REF_energy"], structures[0].arrays["REF_forces"]
    less = statistics(make_samples(labelled(structures), 4.5), {18: E0})
    assert less.interaction_mean == pytest.approx(np.mean(energies[1:]))
    assert less.forces_rms == pytest.approx(np.sqrt(np.mean(forces[4:] ** 2)))


def test_errors_name_the_place_in_the_file_after_a_split():
    structures = [isolated(), *argon(6)]
    structures[5].positions[1] = structures[5].positions[0]
    structures[6] = label(Atoms("Ne2", positions=[[0, 0, 0], [3.0, 0, 0]]))
    training = set_apart_isolated_atoms(labelled(structures)).structures[3:]
    with pytest.raises(InputError, match=r"structure 5 of f\.xyz.*apart"):
        make_samples(training, 5.0, "f.xyz")
    with pytest.raises(UnknownElementError, match=r"structure 6 of f\.xyz holds Ne"):
        check_elements(training, [18], "f.xyz")


def test_open_axis_along_another_lattice_vector():
    slab = argon(1)[0]
    slab.pbc = (True, True, False)
    slab.cell[2] = slab.cell[0]
    samples = make_samples(labelled([slab, *argon(1)]), 5.0)
    graph = collate_samples(samples).graph
    assert (torch.linalg.det(graph.cell).abs() > 1e-3).all()
    np.testing.assert_array_equal(graph.cell[0, :2], slab.cell[:2])
