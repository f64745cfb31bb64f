"""The benchmarks run."""

from __future__ import annotations

import json
import lzma
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

import mlip
from benchmarks.training import deviation, labelled
from benchmarks.training_step import OursTrained, places
from mlip.importers.mace import ADMITTED, build
from mlip.importers.modules import ForeignModule
from mlip.importers.torch_archive import read_archive
from mlip.potential import Potential

ROOT = Path(__file__).resolve().parent.parent
REFERENCES = Path(__file__).parent / "fixtures" / "mace_references"


@pytest.mark.slow
@pytest.mark.skipif(not mlip.compiled, reason="the compiled operators are not there")
def test_quick_run_writes_results_of_all_cases(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.run", "--quick", "--output", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run(command, check=True, cwd=ROOT, env=environment)
    written = {path.name for path in tmp_path.iterdir()}
    cases = ("neighbor_list", "mace", "md", "training", "memory", "threads", "stages")
    assert written >= {*(f"{case}.json" for case in cases), "report.md", "mace.png", "training.png", "memory.png"}
    rows = {case: json.loads((tmp_path / f"{case}.json").read_text())["rows"] for case in cases}
    assert all(row["programs"]["exact"]["milliseconds"] > 0 for row in rows["training"])
    assert all(row["programs"]["exact"]["peak"] >= row["programs"]["exact"]["before"] > 0 for row in rows["memory"])
    assert {row["what"] for row in rows["memory"]} == {"call", "step"}
    assert len(rows["threads"]) > 1 and all(row["identical"] for row in rows["threads"])
    assert "| silicon, float32, " in (tmp_path / "report.md").read_text()


def molecule(seed: int, numbers: tuple[int, ...]) -> Atoms:
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1]), axis=-1).reshape(-1, 3)
    return Atoms(np.resize(numbers, 8), positions=1.5 * grid + rng.normal(0, 0.1, (8, 3)))


@pytest.mark.parametrize("name", ["05_residual_bessel", "16_nonlinear_bessel"])
def test_gradients_go_back_to_the_parameters_of_the_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / "a.model"
    file.write_bytes(lzma.decompress((REFERENCES / f"{name}.model.xz").read_bytes()))
    trained = OursTrained(str(file), "float64")
    structures = [labelled(molecule(seed, trained.potential.elements)) for seed in range(2)]
    trained.take(structures)
    trained.backward()
    gradients = trained.gradients()

    rng = np.random.default_rng(0)
    directions = {full: rng.normal(size=gradients[full].shape) for full in gradients}
    losses = []
    for step in (1e-5, -1e-5):
        start = read_archive(file, ADMITTED)
        for full, parameters in places(start).items():
            own = full.rpartition(".")[2]
            shift = step * torch.as_tensor(directions[full]) if full in directions else 0.0
            parameters[own] = parameters[own].detach().double() + shift
        model, references = build(ForeignModule(start))
        trained.potential = Potential(model.double(), references=references)
        trained.potential.acceleration.backend = "reference"
        losses.append(trained.loss().item())
    assert set(places(start)) == set(gradients)
    expected = sum(float((gradients[full] * directions[full]).sum()) for full in gradients)
    assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(expected, rel=1e-5)


def test_deviation_is_that_of_the_worst_tensor() -> None:
    reference = {"a": np.array([1.0, -4.0]), "b": np.zeros(2), "empty": np.zeros(0)}
    found = deviation({**reference, "a": np.array([1.0, -3.0]), "c": np.ones(1)}, reference)
    assert found == {"largest": 0.25, "tensor": "a", "tensors": 3, "unmatched": ["c"]}
    assert deviation({"b": np.ones(2)}, {"b": np.zeros(2)})["largest"] == float("inf")
