"""The commands with a model file: defaults, errors, precision, batches. The model is small and untrained."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.io import read, write

from mlip.calculators import MLIPCalculator
from mlip.cli import main
from mlip.models import MACE
from mlip.potential import Potential
from mlip.workflows.md import run_md
from mlip.workflows.md_integrators import MDSettings
from mlip.workflows.phonons import phonons
from mlip.workflows.relax import relax
from mlip.workflows.tour import strained_silicon


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    torch.manual_seed(0)
    network = MACE((14,), 4.0, "4x0e+4x1o", l_max=2, correlation=2, radial_mlp=(8,), avg_num_neighbors=10.0)
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    Potential(network, {14: -5.0}, metadata={"command": "none"}).save(path)
    return str(path)


@pytest.fixture
def silicon(tmp_path) -> str:
    write(tmp_path / "si.cif", bulk("Si", cubic=True))
    return str(tmp_path / "si.cif")


def test_info(model, capsys):
    assert main(["info", model, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["architecture"] == "MACE" and facts["elements"] == ["Si"] and facts["E0s"] == {"Si": -5.0}
    assert facts["cutoff"] == 4.0 and facts["parameters"] > 100 and facts["metadata"] == {"command": "none"}
    assert main(["info", model]) == 0
    assert "MACE" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_relax_agrees_with_the_calculator(model, silicon, capsys, dtype):
    assert main(["relax", silicon, "--model", model, "--steps", "0", "--dtype", dtype, "--json"]) in (0, 1)
    result = json.loads(capsys.readouterr().out)
    atoms = read(silicon)
    atoms.calc = MLIPCalculator(model, device="cpu")
    tolerance = {"float64": 1e-9, "float32": 1e-4}[dtype]
    assert result["energy"] == pytest.approx(atoms.get_potential_energy(), abs=tolerance)
    assert np.allclose(result["stress"], atoms.get_stress(), atol=tolerance)


def test_displaced_supercells_go_through_the_calculators_batches(model, monkeypatch):
    batches = []
    evaluate = MLIPCalculator.evaluate

    def spy(self, structures, **options):
        batches.append(len(structures))
        return evaluate(self, structures, **options)

    monkeypatch.setattr(MLIPCalculator, "evaluate", spy)
    atoms = bulk("Si")
    atoms.set_cell(atoms.cell @ [[1, 0.03, 0], [0, 1.02, 0.05], [0, 0, 0.98]], scale_atoms=True)
    with pytest.warns(UserWarning, match="not relaxed"):
        result = phonons(atoms, MLIPCalculator(model, device="cpu"), supercell=(2, 2, 2), mesh_length=10)
    assert batches == [1 + result.displacements] and result.displacements > 1


def test_md_resumes_with_a_model(model, tmp_path):
    """The neighbor list is rebuilt at other steps after a resume: equal up to rounding."""
    settings = MDSettings("nvt", 300.0, interval=5)
    atoms = bulk("Si", cubic=True)
    whole = run_md(atoms, MLIPCalculator(model), settings, steps=30, trajectory=tmp_path / "a.traj")
    run_md(atoms, MLIPCalculator(model), settings, steps=13, trajectory=tmp_path / "b.traj")
    parts = run_md(atoms, MLIPCalculator(model), settings, steps=30, trajectory=tmp_path / "b.traj", resume=True)
    assert np.allclose(whole.atoms.positions, parts.atoms.positions, rtol=0, atol=1e-9)
    assert parts.frames == whole.frames == 7


def test_nve_conserves_energy_with_a_model(model):
    settings = MDSettings("nve", 300.0, interval=1)
    result = run_md(bulk("Si", cubic=True), MLIPCalculator(model), settings, steps=50)
    assert np.ptp(result.log["total_eV"]) < 0.02 * np.ptp(result.log["kinetic_eV"])


def test_one_evaluation_per_step(model, monkeypatch):
    """A calculator that computes only what it is asked for is asked once per step, in npt and cell relaxation too."""
    asked = []
    calculate = MLIPCalculator.calculate

    def spy(self, atoms, properties, changes):
        asked.append(properties)
        calculate(self, atoms, properties, changes)

    monkeypatch.setattr(MLIPCalculator, "calculate", spy)
    for ensemble in ("nve", "nvt", "npt"):
        asked.clear()
        run_md(bulk("Si", cubic=True), MLIPCalculator(model), MDSettings(ensemble, 300.0, interval=2), steps=20)
        assert len(asked) <= 22
        assert ensemble == "npt" or all("stress" not in properties for properties in asked)
    asked.clear()
    result = relax(strained_silicon(), MLIPCalculator(model), cell=True, steps=5)
    assert len(asked) <= result.steps + 1


def _fails(capsys, arguments: list[str], pattern: str) -> None:
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.strip().splitlines()) == 1 and re.search(pattern, err), err


def test_bad_models(model, silicon, tmp_path, capsys):
    text, short = tmp_path / "text.safetensors", tmp_path / "short.safetensors"
    text.write_text("these are no weights")
    content = open(model, "rb").read()
    short.write_bytes(content[: len(content) // 2])
    for command in (["info"], ["relax", silicon, "--model"]):
        _fails(capsys, [*command, str(text)], "text.safetensors")
        _fails(capsys, [*command, str(short)], "short.safetensors")
        _fails(capsys, [*command, "nosuch"], "nosuch")
        _fails(capsys, [*command, str(tmp_path)], "folder")


def test_bad_structures(model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("cu.cif", bulk("Cu"))
    _fails(capsys, ["relax", "cu.cif", "--model", model], "does not know Cu; it knows Si")
    _fails(capsys, ["relax", "cu.cif"], "covers Cu.*--model")
    twice = bulk("Si", cubic=True)
    twice.positions[1] = twice.positions[0]
    write("twice.extxyz", twice)
    for command in ("relax", "md", "phonon", "elastic"):
        _fails(capsys, [command, "twice.extxyz", "--model", model], "atoms 0 and 1")
    pair = molecule("Si2")
    write("pair.xyz", pair)
    _fails(capsys, ["relax", "pair.xyz", "--cell", "--model", model], "periodic")


@pytest.mark.parametrize("device", ["tpu", "cuda:99"])
def test_bad_device(model, silicon, capsys, device):
    _fails(capsys, ["relax", silicon, "--model", model, "--device", device], f"device.*{device}")
