"""`evaluate` and `mlip evaluate`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.io import read
from ase.stress import voigt_6_to_full_3x3_stress
from lj_data import E0, argon, isolated, label, write_xyz

from mlip.calculators import MLIPCalculator
from mlip.cli import main
from mlip.data.labels import LabelKeys, read_labelled
from mlip.errors import DataError, InputError, UnknownElementError
from mlip.models.mace import MACE
from mlip.potential import Potential
from mlip.workflows.evaluate import evaluate, with_predictions


@pytest.fixture(scope="module")
def potential() -> Potential:
    import torch

    torch.manual_seed(0)
    model = MACE((18,), cutoff=4.5, hidden_irreps="2x0e", l_max=1, correlation=1, num_interactions=1, radial_mlp=(4,))
    return Potential(model.double(), E0s={18: E0}, scale=0.1)


class Teacher(LennardJones):
    """The potential that made the labels, without E0."""

    def __init__(self) -> None:
        super().__init__(sigma=3.4, epsilon=0.05, rc=5.0, smooth=True)


def test_errors_by_hand_for_any_calculator():
    """Labels of the teacher itself: forces and stress agree, energies are off by E0 per atom."""
    result = evaluate(Teacher(), argon(3))
    assert result.n == 3
    assert result.energy_rmse_meV_per_atom == pytest.approx(1500, abs=1e-6)
    assert result.energy_mae_meV_per_atom == pytest.approx(1500, abs=1e-6)
    assert result.energy_rmse_meV == result.energy_mae_meV == pytest.approx(6000, abs=1e-6)  # of four atoms
    assert result.forces_rmse_meV_per_A == pytest.approx(0, abs=1e-9)
    assert result.stress_rmse_GPa == pytest.approx(0, abs=1e-9)


def test_rmse_and_mae_of_components():
    structures = argon(2)
    structures[0].arrays["REF_forces"][0] += [0.3, 0.0, 0.0]
    result = evaluate(Teacher(), structures)
    assert result.forces_rmse_meV_per_A == pytest.approx(1000 * np.sqrt(0.09 / 24))
    assert result.forces_mae_meV_per_A == pytest.approx(1000 * 0.3 / 24)
    labels = np.stack([atoms.arrays["REF_forces"] for atoms in structures])
    assert result.forces_rmse_percent == pytest.approx(100 * np.sqrt(0.09 / 24 / np.mean(labels**2)))
    assert result.forces_mae_percent == pytest.approx(100 * 0.3 / 24 / np.mean(np.abs(labels)))
    structures[1].info["REF_stress"][3] += 0.01
    assert evaluate(Teacher(), structures).stress_rmse_GPa == pytest.approx(160.2176634 * np.sqrt(2 * 1e-4 / 18))


def test_constraints_hide_no_forces():
    frozen = argon(1)
    frozen[0].set_constraint(FixAtoms([0, 1, 2]))
    result = evaluate(Teacher(), frozen)
    assert result.forces_rmse_meV_per_A == pytest.approx(0, abs=1e-9)
    assert np.abs(result.predictions[0].forces[:3]).max() > 1e-3
    assert frozen[0].constraints


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_batches_equal_the_calculator(potential, batch_size):
    molecule = label(Atoms("Ar2", positions=[[0, 0, 0], [3.6, 0, 0]]))
    structures = [*argon(3), molecule, isolated()]
    batched = evaluate(potential, structures, batch_size=batch_size)
    calculator = MLIPCalculator(potential)
    for atoms, predicted in zip(structures, batched.predictions, strict=True):
        probe = atoms.copy()
        probe.calc = calculator
        assert predicted.energy == pytest.approx(probe.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(predicted.forces, probe.get_forces(), atol=1e-9)
        assert (predicted.stress is None) == (not atoms.pbc.any())
    assert batched.predictions[3].stress is None


def test_calculator_gives_what_its_potential_gives(potential):
    a, b = evaluate(potential, argon(3)), evaluate(MLIPCalculator(potential), argon(3))
    for name, value in a.as_dict().items():
        assert name == "groups" or value == pytest.approx(getattr(b, name))


def test_unlabelled_is_none_not_zero(potential):
    structures = argon(2)
    for atoms in structures:
        del atoms.arrays["REF_forces"], atoms.info["REF_stress"]
    result = evaluate(potential, structures)
    assert result.forces_rmse_meV_per_A is None and result.stress_rmse_GPa is None
    assert result.energy_rmse_meV_per_atom > 0


def test_calculator_without_stress():
    class NoStress(Teacher):
        def get_stress(self, atoms):
            raise PropertyNotImplementedError("stress")

    assert evaluate(NoStress(), argon(1)).stress_rmse_GPa is None


def test_groups(potential):
    structures = argon(4)
    for atoms, name in zip(structures, "aabb", strict=True):
        atoms.info["config_type"] = name
    result = evaluate(potential, structures)
    assert {name: errors["n"] for name, errors in result.groups.items()} == {"a": 2, "b": 2}
    mean = sum(errors["energy_mae_meV_per_atom"] for errors in result.groups.values()) / 2
    assert result.energy_mae_meV_per_atom == pytest.approx(mean)


def test_input_stays_as_it_was(potential):
    structures = argon(2)
    before = [(a.copy(), dict(a.info)) for a in structures]
    evaluate(potential, structures)
    with_predictions(evaluate(Teacher(), structures))
    for atoms, (copy, info) in zip(structures, before, strict=True):
        assert atoms == copy and atoms.calc is None and atoms.info.keys() == info.keys()


def test_refused(potential):
    neon = label(Atoms("Ne2", positions=[[0, 0, 0], [3, 0, 0]]))
    with pytest.raises(UnknownElementError, match="structure 1.*Ne"):
        evaluate(potential, [*argon(1), neon])
    with pytest.raises(DataError, match="'dft'"):
        evaluate(potential, argon(1), LabelKeys(forces="dft"))
    with pytest.raises(InputError, match="batch_size"):
        evaluate(potential, argon(1), batch_size=0)
    close = argon(2)
    close[1].positions[0] = close[1].positions[1]
    with pytest.raises(InputError, match="structure 1"):
        evaluate(potential, close, batch_size=1)


def test_command(tmp_path, potential, capsys):
    potential.save(model := tmp_path / "m.safetensors")
    data = write_xyz(tmp_path / "d.xyz", argon(3))
    out, plot = tmp_path / "p.extxyz", tmp_path / "p.png"
    words = ["evaluate", str(data), "--model", str(model)]
    assert main([*words, "--json", "-o", str(out), "--plot", str(plot)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n"] == 3 and plot.stat().st_size > 1000
    expected = evaluate(potential, read_labelled(data)).as_dict()
    no_numbers = {"groups", "n_extrapolating", "deviations"}
    assert result["n_extrapolating"] is None
    assert {k: v for k, v in result.items() if k not in no_numbers} == pytest.approx(
        {k: v for k, v in expected.items() if k not in no_numbers}, rel=1e-6
    )
    predicted = read(out, ":")
    assert predicted[0].info["MLIP_energy"] == pytest.approx(evaluate(potential, argon(3)).predictions[0].energy)
    keys = ["--energy_key", "MLIP_energy", "--forces_key", "MLIP_forces", "--stress_key", "MLIP_stress"]
    assert main(["evaluate", str(out), "--model", str(model), "--json", *keys]) == 0
    itself = json.loads(capsys.readouterr().out)
    assert max(itself["energy_mae_meV_per_atom"], itself["stress_rmse_GPa"]) < 1e-5
    assert main(words) == 0
    assert "Errors on d.xyz" in capsys.readouterr().out
    assert main([*words, "--energy_key", "nothing"]) == 1
    assert "'nothing'" in capsys.readouterr().err


def test_virials_by_their_key(tmp_path, potential, capsys):
    potential.save(model := tmp_path / "m.safetensors")
    structures = argon(2)
    words = ["evaluate", str(write_xyz(tmp_path / "stress.xyz", structures)), "--model", str(model), "--json"]
    assert main(words) == 0
    by_stress = json.loads(capsys.readouterr().out)["stress_rmse_GPa"]
    for atoms in structures:
        stress = voigt_6_to_full_3x3_stress(atoms.info.pop("REF_stress"))
        atoms.info["virial"] = -atoms.get_volume() * stress
    words[1] = str(write_xyz(tmp_path / "virials.xyz", structures))
    assert main(words) == 0 and json.loads(capsys.readouterr().out)["stress_rmse_GPa"] is None
    assert main([*words, "--virials_key", "virial"]) == 0
    assert json.loads(capsys.readouterr().out)["stress_rmse_GPa"] == pytest.approx(by_stress, rel=1e-6)


def test_table_shows_what_there_is_and_names_as_text(tmp_path, potential, capsys):
    model = tmp_path / "m.safetensors"
    potential.save(model)
    structures = argon(2)
    for atoms, name in zip(structures, ("[red]", "\x1b[2J"), strict=True):
        atoms.info["config_type"] = name
        del atoms.info["REF_stress"]
    assert main(["evaluate", str(write_xyz(tmp_path / "d.xyz", structures)), "--model", str(model)]) == 0
    shown = capsys.readouterr().out
    assert "[red]" in shown and "\x1b" not in shown and "E total rmse" in shown and "S rmse" not in shown


@pytest.mark.skipif("MLIP_DATA" not in os.environ, reason="MLIP_DATA names no folder with the outside data")
def test_labels_of_mlearn_are_found():
    data = read_labelled(Path(os.environ["MLIP_DATA"]) / "mlearn" / "Si" / "test.extxyz")
    assert data.counts == {"energy": 25, "forces": 25, "stress": 25}
    assert {s.group for s in data.structures} == {"AIMD-NVT", "Elastic", "Surface", "Vacancy"}
