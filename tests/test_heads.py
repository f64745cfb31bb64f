"""The choice of a head, through the calculator and the commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import write

from mlip.calculators import MLIPCalculator
from mlip.cli import main
from mlip.committee import Calibration, Committee
from mlip.energy_scale import Reference
from mlip.errors import InputError
from mlip.models import MACE
from mlip.potential import Potential

COMMANDS = ("relax", "md", "phonon", "elastic", "evaluate", "check")
UNKNOWN = r"no head 'HSE'; expected one of 'PBE', 'r2SCAN'"


@pytest.fixture(scope="module")
def potential() -> Potential:
    torch.manual_seed(0)
    options = {"l_max": 2, "correlation": 2, "radial_mlp": (8,), "avg_num_neighbors": 10.0}
    network = MACE((14,), 4.0, "4x0e+4x1o", heads=("PBE", "r2SCAN"), **options)
    return Potential(network, references=[Reference({14: -5.0}), Reference({14: -7.0}, 1.5)], head="PBE")


@pytest.fixture
def model(potential: Potential, tmp_path: Path) -> str:
    potential.save(tmp_path / "heads.safetensors")
    return str(tmp_path / "heads.safetensors")


@pytest.fixture
def silicon() -> Atoms:
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


def test_calculator_of_a_head(potential: Potential, model: str, silicon: Atoms) -> None:
    own = MLIPCalculator(potential.with_head("r2SCAN")).get_forces(silicon)
    for given in (potential, model):
        default, chosen = MLIPCalculator(given), MLIPCalculator(given, head="r2SCAN")
        assert default.potential.head == "PBE" and chosen.potential.head == "r2SCAN"
        np.testing.assert_array_equal(chosen.get_forces(silicon), own)
        assert abs(default.get_forces(silicon) - own).max() > 1e-3
        assert chosen.todict()["head"] == "r2SCAN" and "head" not in default.todict()
        with pytest.raises(InputError, match=UNKNOWN):
            MLIPCalculator(given, head="HSE")
    assert potential.head == "PBE"


def test_head_of_a_committee(potential: Potential, model: str, silicon: Atoms) -> None:
    committee = MLIPCalculator([potential, model], head="r2SCAN")
    assert committee.get_property("energy_std", silicon) == 0
    assert committee.get_potential_energy(silicon) == MLIPCalculator(model, head="r2SCAN").get_potential_energy(silicon)
    with pytest.raises(InputError, match=UNKNOWN):
        MLIPCalculator([potential, model], head="HSE")
    heads = MLIPCalculator([potential.with_head(name) for name in potential.heads])
    alone = [MLIPCalculator(potential, head=name).get_forces(silicon) for name in potential.heads]
    np.testing.assert_allclose(heads.get_property("forces_std", silicon), np.std(alone, axis=0), rtol=0, atol=1e-12)


def test_factors_are_of_one_head(potential: Potential) -> None:
    factors = Calibration(energy=2.0, forces=3.0, structures=7)
    committee = Committee([potential, potential], calibration=factors)
    assert committee.with_head("PBE").calibration == factors
    assert committee.with_head("r2SCAN").calibration is None


def test_command_with_a_head(
    potential: Potential, model: str, silicon: Atoms, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "si.extxyz", silicon)
    for head in (None, "PBE", "r2SCAN"):
        chosen = ["--head", head] if head else []
        assert main(["relax", f"{tmp_path}/si.extxyz", "--model", model, "--steps", "0", "--json", *chosen]) == 1
        energy = MLIPCalculator(potential, head=head).get_potential_energy(silicon)
        assert json.loads(capsys.readouterr().out)["energy"] == pytest.approx(energy, abs=1e-6)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_a_head(
    command: str, model: str, silicon: Atoms, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silicon.info["REF_energy"] = 0.0
    write(tmp_path / "si.extxyz", silicon)
    arguments = [model] if command == "check" else [f"{tmp_path}/si.extxyz", "--model", model]
    assert main([command, *arguments, "--head", "HSE"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "no head 'HSE'; expected one of 'PBE', 'r2SCAN'" in err
    assert main([command, "--help"]) == 0
    assert "which head of a model that has several, by name" in " ".join(capsys.readouterr().out.split())


def test_check_of_a_head(model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    monkeypatch.setattr("mlip.testing.physics.check_potential", lambda p, progress: checked.append(p.head) or [])
    monkeypatch.setattr(
        "mlip.testing.physics.check_calculator", lambda make, progress: checked.append(make().potential.head) or []
    )
    assert main(["check", model, "--head", "r2SCAN"]) == 0
    assert checked == ["r2SCAN", "r2SCAN"]
    assert main(["check", "--calculator", "ase.calculators.emt:EMT", "--head", "PBE"]) == 1
    assert "--head goes with a MODEL" in capsys.readouterr().err
