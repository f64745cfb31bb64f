"""From files to the data of a run: reference energies of isolated atoms, weights, budgets, and clear refusals."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from lj_data import E0, argon, isolated, label, write_xyz

from mlip.errors import DataError, InputError
from mlip.training.config import TrainingConfig
from mlip.training.data import load_data
from mlip.training.report import data_table, describe
from mlip.training.setup import build_potential
from mlip.training.train import train

SMALL = {"hidden_irreps": "4x0e", "max_ell": 1, "correlation": 1, "num_interactions": 1, "r_max": 4.5}
FREE = {1: -13.6, 6: -1027.0, 8: -2042.0}


def config(path: Path, **options: object) -> TrainingConfig:
    return TrainingConfig(train_file=str(path), **(SMALL | options))  # type: ignore[arg-type]


def molecules(n: int = 6, atoms: bool = True) -> list[Atoms]:
    """As the AcAc files are: molecules in a box without periodic boundaries, plain names that ASE takes for results."""
    rng = np.random.default_rng(0)
    structures = []
    for number, energy in FREE.items() if atoms else ():
        structures.append(Atoms([number], info={"config_type": "isolated_atom"}))
        structures[-1].calc = SinglePointCalculator(structures[-1], energy=energy)
    for _ in range(n):
        positions = np.array([[0, 0, 0], [1.2, 0, 0], [-0.6, 0.9, 0], [-0.6, -0.9, 0]]) + rng.normal(
            scale=0.05, size=(4, 3)
        )
        molecule = Atoms("COH2", positions, cell=[50, 50, 50], info={"config_type": "300K_MD"})
        energy = FREE[6] + FREE[8] + 2 * FREE[1] - 15 + rng.normal()
        molecule.calc = SinglePointCalculator(molecule, energy=energy, forces=rng.normal(size=(4, 3)))
        structures.append(molecule)
    return structures


def test_a_file_as_that_of_AcAc_has_the_right_E0s(tmp_path):
    """mace-torch 0.3.16 trains such a file with E0 = 0: it knows no `isolated_atom` and no energies of ASE's."""
    settings = config(write_xyz(tmp_path / "a.xyz", molecules()))
    data = load_data(settings)
    assert data.reference.E0s == FREE and data.n_isolated == 3
    assert data.properties == {"energy", "forces"}
    potential = build_potential(settings, data)
    for number, energy in FREE.items():
        assert potential.isolated_energy(number) == pytest.approx(energy, abs=1e-9)
    lines = "\n".join(describe(settings, data, potential))
    assert "isolated atoms of the training file" in lines and "isolated atoms, which do not train: 3" in lines
    assert data_table(data).row_count == 2


def test_without_isolated_atoms_the_way_out_is_named(tmp_path):
    path = write_xyz(tmp_path / "a.xyz", molecules(atoms=False))
    with pytest.raises(DataError, match="no isolated atom of H, C, O.*--E0s average"):
        load_data(config(path))
    path = write_xyz(tmp_path / "b.xyz", molecules()[1:])
    with pytest.raises(DataError, match="no isolated atom of H to take"):
        load_data(config(path))


def test_isolated_atom_without_energy(tmp_path):
    structures = molecules()
    structures[0].calc = None
    with pytest.raises(DataError, match=r"no isolated atom of H to take .*\(H without an energy under the key"):
        load_data(config(write_xyz(tmp_path / "a.xyz", structures)))


def test_isolated_atoms_in_a_file_of_their_own(tmp_path):
    path = write_xyz(tmp_path / "a.xyz", molecules(atoms=False))
    atoms = write_xyz(tmp_path / "atoms.xyz", [*molecules(0), isolated("He", energy=-77.0)])
    del_marks = molecules(0)
    for structure in del_marks:
        del structure.info["config_type"]
    for file in (write_xyz(tmp_path / "marked.xyz", molecules(0)), write_xyz(tmp_path / "plain.xyz", del_marks)):
        data = load_data(config(path, E0s=str(file)))
        assert data.reference.E0s == FREE and data.reference.origin == f"isolated atoms of {file.name}"
        assert set(data.sha256) == {"train_file", "E0s"}
    with pytest.raises(DataError, match="structure 0 of .*a.xyz is no isolated atom"):
        load_data(config(path, E0s=str(path)))
    with pytest.raises(DataError, match="atoms.xyz holds no isolated atom"):
        load_data(config(path, E0s=str(atoms)))  # its helium has REF_energy, which is therefore the key of the file
    data = load_data(config(path, E0s=str(atoms), energy_key="energy"))
    assert data.reference.E0s == FREE


def test_a_crystal_of_one_atom_gives_no_E0(tmp_path):
    crystal = label(bulk("Ar"))
    path = write_xyz(tmp_path / "a.xyz", [*argon(4), crystal])
    with pytest.raises(DataError, match="no isolated atom of Ar"):
        load_data(config(path))
    with pytest.raises(DataError, match=r"no isolated atom but Ar with pbc \[True, True, True\]"):
        load_data(config(path, E0s=str(write_xyz(tmp_path / "one.xyz", [crystal]))))
    data = load_data(config(path, E0s="average"))
    assert sum(len(part.structures) for part in data.sets.values()) == 5


def test_E0s_in_json(tmp_path):
    path, file = write_xyz(tmp_path / "a.xyz", argon(4)), tmp_path / "E0s.json"
    for mapping in ({"18": E0, "2": -1.0}, {"Ar": E0, "He": -1.0}):
        file.write_text(json.dumps(mapping))
        reference = load_data(config(path, E0s=str(file))).reference
        assert reference.E0s == {18: E0}
        assert reference.origin == "given in E0s.json; 1 more are left out (He), since no training structure holds them"
    for text, message in (
        ("[1]", "holds a list"),
        ("{", "is not JSON"),
        ('{"Ar": "low"}', "the energy of Ar is 'low'"),
    ):
        file.write_text(text)
        with pytest.raises((DataError, InputError), match=message):
            load_data(config(path, E0s=str(file)))
    file.write_text('{"He": 1.0}')
    with pytest.raises(InputError, match="no energy for Ar"):
        load_data(config(path, E0s=str(file)))
    with pytest.raises(OSError):
        load_data(config(path, E0s=str(tmp_path / "none.json")))


def test_a_run_is_not_continued_with_other_E0s(tmp_path):
    path, file = write_xyz(tmp_path / "a.xyz", argon(4)), tmp_path / "E0s.json"
    file.write_text('{"Ar": -1.5}')
    options = {"E0s": str(file), "work_dir": str(tmp_path), "device": "cpu", "plot": False, "max_num_epochs": 1}
    result = train(config(path, **options))
    assert result.potential.metadata["data"]["E0s"]["file"] == "E0s.json"
    assert str(tmp_path) not in json.dumps(result.potential.metadata)
    file.write_text('{"Ar": -1.0}')
    with pytest.raises(InputError, match="content of --E0s"):
        train(config(path, restart_latest=True, **options))


def test_weights_by_config_type(tmp_path):
    structures = argon(6)
    for k, atoms in enumerate(structures):
        atoms.info["config_type"] = "surface" if k % 2 else "bulk"
    path = write_xyz(tmp_path / "a.xyz", structures)
    data = load_data(config(path, E0s="average", config_type_weights='{"surface": 5}'))
    weights = {s.index: s.weight for part in data.sets.values() for s in part.structures}
    assert weights == {k: 5.0 if k % 2 else 1.0 for k in range(6)}
    for part in data.sets.values():
        assert [s.labels.energy_weight.item() for s in part.samples] == [s.weight for s in part.structures]
    with pytest.raises(InputError, match="no structure of .*a.xyz has the config_type slab"):
        load_data(config(path, E0s="average", config_type_weights={"slab": 2.0}))


def test_virials_train_as_stresses(tmp_path):
    structures = argon(4)
    for atoms in structures:
        atoms.info["REF_virials"] = -atoms.get_volume() * atoms.info.pop("REF_stress")
    path = write_xyz(tmp_path / "a.xyz", structures)
    for loss in ("virials", "stress"):
        data = load_data(config(path, E0s="average", loss=loss))
        assert "stress" in data.properties and data.keys.virials == "REF_virials"
        assert data.sets["train"].count("stress") == 3


@pytest.mark.parametrize("name", ["forces", "energy"])
def test_labels_that_are_all_zero_are_refused(name, tmp_path):
    structures = argon(4)
    for atoms in structures:
        if name == "forces":
            atoms.arrays["REF_forces"][:] = 0.0
        else:
            atoms.info["REF_energy"] = 0.0
    path = write_xyz(tmp_path / "a.xyz", structures)
    with pytest.raises(DataError, match=rf"the {name} of all 3 training structures.*exactly zero.*--{name}_weight 0"):
        load_data(config(path, E0s="{Ar: 0.0}"))
    data = load_data(config(path, E0s="{Ar: 0.0}", **{f"{name}_weight": 0.0, "scaling": "no_scaling"}))
    assert name not in data.properties
    assert any(f"warning: the {name} of 3 structures of train" in line for line in data.remarks)


def test_weight_zero_on_every_label_is_no_label(tmp_path):
    structures = argon(4)
    for atoms in structures:
        atoms.info["config_forces_weight"] = 0.0
    data = load_data(config(write_xyz(tmp_path / "a.xyz", structures), E0s="average"))
    assert data.properties == {"energy"}


def test_batches_by_budget(tmp_path):
    path = write_xyz(tmp_path / "a.xyz", argon(10))
    data = load_data(config(path, E0s="average", batch_atoms=16))
    assert data.plan.steps == 3
    assert load_data(config(path, E0s="average", batch_atoms=16, batch_size=2)).plan.steps == 5
    assert load_data(config(path, E0s="average")).plan.steps == 1
    assert load_data(config(path, E0s="average", batch_size=4)).plan.steps == 3
    with pytest.raises(DataError, match="--batch_atoms 3 is less than the 4 of the largest structure"):
        load_data(config(path, E0s="average", batch_atoms=3))
    pairs = max(s.graph.edge_index.shape[1] for part in data.sets.values() for s in part.samples)
    assert load_data(config(path, E0s="average", batch_edges=pairs)).plan.steps == 9
    assert load_data(config(path, E0s="average", batch_edges=10 * pairs)).plan.steps == 1
    with pytest.raises(InputError, match="--batch_atoms and --batch_edges"):
        config(path, batch_atoms=100, batch_edges=1000)
    with pytest.raises(InputError, match="--batch_edges is 0"):
        config(path, batch_edges=0)
    command = config(path, E0s="average", batch_atoms=16).command()
    assert "--batch_atoms 16" in command and "--batch_size" not in command


needs_data = pytest.mark.skipif("MLIP_DATA" not in os.environ, reason="needs the data folder MLIP_DATA")


@needs_data
def test_AcAc_with_its_isolated_atoms(tmp_path):
    """In one file, and beside it; energies from isolated_atoms.xyz."""
    folder = Path(os.environ["MLIP_DATA"]) / "acac"
    expected = {1: -13.568422178253735, 6: -1026.8538996116154, 8: -2037.796869412825}
    whole = tmp_path / "whole.xyz"
    whole.write_text(
        (folder / "isolated_atoms.xyz").read_text().rstrip() + "\n" + (folder / "train_300K.xyz").read_text()
    )
    settings = config(whole)
    data = load_data(settings)
    assert data.reference.E0s == expected and data.n_isolated == 3
    assert sum(len(part.structures) for part in data.sets.values()) == 500
    assert -6.5 < data.statistics.interaction_mean < -3.5  # eV per atom: bonds, not total energies
    potential = build_potential(settings, data)
    assert potential.isolated_energy(6) == pytest.approx(expected[6], abs=1e-9)
    beside = load_data(config(folder / "train_300K.xyz", E0s=str(folder / "isolated_atoms.xyz")))
    assert beside.reference.E0s == expected and beside.n_isolated == 0


@needs_data
def test_mlearn_silicon():
    path = Path(os.environ["MLIP_DATA"]) / "mlearn" / "Si" / "train.extxyz"
    data = load_data(config(path, E0s="average", config_type_weights='{"Vacancy": 2}'))
    assert data.properties == {"energy", "forces"}
    assert data.sets["train"].count("stress") == len(data.sets["train"].structures)
    assert not data.remarks
