"""The benchmarks run."""

from __future__ import annotations

import importlib
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
from ase.io import write

import mlip
from benchmarks import dimenet, fine_tuning, hdnnp, qm9, streaming, variants
from benchmarks.training import deviation, labelled
from benchmarks.training_step import OursTrained, places
from mlip.cli.parser import make_parser, parse
from mlip.data.npz import read_npz
from mlip.data.shards import Shard
from mlip.importers.mace import ADMITTED, build
from mlip.importers.modules import ForeignModule
from mlip.importers.n2p2_export import save_n2p2
from mlip.importers.torch_archive import read_archive
from mlip.models import HDNNP, DimeNetPlusPlus
from mlip.nn.symmetry_functions import SymmetryFunction
from mlip.potential import Potential
from mlip.training.config import TrainingConfig

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


@pytest.mark.skipif(not mlip.compiled, reason="the compiled operators are not there")
def test_hdnnp_beside_plain_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [SymmetryFunction(2, 14, (14,), 4.0, 0.2), SymmetryFunction(3, 14, (14, 14), 4.0, 0.1)]
    save_n2p2(Potential(HDNNP((14,), 4.0, made, hidden=(2,), activations=("tanh", "identity")), {14: 0.0}), tmp_path)
    small = hdnnp.silicon(1, 14)
    monkeypatch.setattr(hdnnp, "machine", lambda: {"peaks": {"gemm_float64": 50.0}})
    monkeypatch.setattr(hdnnp, "silicon", lambda cells, number: small)
    report = hdnnp.measure(tmp_path, None, 1)
    assert report["symmetry_functions"] == 2 and 0 < report["pairs_within_cutoff"] <= report["pairs_of_neighbors"]
    assert report["floor_us"] > 0 and len(report["stages"]) == 5
    assert all(t["median"] > 0 for part in ("microseconds_per_atom", "stages") for t in report[part].values())


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of the memory is Linux's")
def test_dimenet_beside_plain_torch() -> None:
    row = dimenet.measure(DimeNetPlusPlus, torch.float64, cells=1, repeats=1)
    assert row["atoms"] == 8 and row["difference"] < 1e-10
    assert set(row["ms_per_atom"]) == {"compiled", "plain_torch"}


def test_variants_side_by_side(tmp_path: Path) -> None:
    """Of labels that are the model's own there are no errors."""
    labelled_by_it = hdnnp.silicon(1, 14)
    labelled_by_it.calc = mlip.MLIPCalculator("silicon")
    labelled_by_it.get_stress()
    labelled_by_it.get_forces()
    write(tmp_path / "test.xyz", labelled_by_it)
    row = variants.measure(str(tmp_path / "test.xyz"), "silicon", 1, 1)
    assert row["atoms"] == 8 and row["microseconds_per_atom"]["median"] > 0 and row["kilobytes_per_atom"] >= 0
    assert len(row["errors"]) == 6 and max(row["errors"].values()) < 1e-4


def test_learning_curve_of_qm9(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets without a molecule in common, nested training sets, options that mlip train takes, a known power law."""
    rng, n = np.random.default_rng(0), 14
    sizes = rng.integers(1, 4, n)
    numbers = np.arange(n)
    arrays = {"n_atoms": sizes, "Z": np.repeat(1 + numbers, sizes), "R": rng.normal(size=(sizes.sum(), 3))}
    columns = {"properties": numbers[:, None] + 0.5, "property_names": ["mu_D"], "characterized": numbers != 3}
    np.savez(tmp_path / "all.npz", **arrays, **columns)
    monkeypatch.setattr(qm9, "N_TEST", 3)
    monkeypatch.setattr(qm9, "N_VALID", 2)
    files = qm9.split(tmp_path / "all.npz", [2, 6], tmp_path)
    held = {}
    for name, file in files.items():
        molecules = read_npz(file).structures
        assert all(a.info["mu_D"] == a.numbers[0] - 0.5 and len(a) == sizes[a.numbers[0] - 1] for a in molecules)
        held[name] = {int(a.numbers[0]) - 1 for a in molecules}
    assert [len(held[name]) for name in ("test", "valid", "2", "6")] == [3, 2, 2, 6]
    assert held["2"] < held["6"] and 3 not in set.union(*held.values())
    assert not held["test"] & held["valid"] and not (held["test"] | held["valid"]) & held["6"]

    words = qm9.command(files, 6, "mu", 1.0, tmp_path, ["--lr=0.01"])
    given = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
    parsed = parse(make_parser("train", importlib.import_module("mlip.cli.train")), words[4:])
    assert parsed["lr"] == 0.01 and parsed["restart_latest"] and given["eval_interval"] == "833"

    runs = {n: {"errors": {part: {"mae": 3.0 * n**-0.5} for part in ("test", "valid")}} for n in (1000, 4000)}
    found = qm9.report(runs, "mu", 1.0, [], {"processor": "one"})
    assert np.isclose(found["fit"]["exponent"], -0.5) and np.isclose(found["fit"]["mae_at_110000"], 3.0 / 110000**0.5)
    qm9.draw(found, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_fine_tuning_commands_and_picture(tmp_path: Path) -> None:
    """The commands are understood, replay crystals are structures, and the picture can be drawn."""
    crystals = fine_tuning.replay_crystals(6, tmp_path / "replay.extxyz")
    names = ("20", "test", "held_out", "foundation", "replay")
    files = {name: crystals for name in names}
    for method in fine_tuning.METHODS:
        words = fine_tuning.command(method, 20, files, tmp_path, ["--seed=3"])
        options = parse(make_parser("train", importlib.import_module("mlip.cli.train")), words[4:])
        fields = TrainingConfig.__dataclass_fields__
        config = TrainingConfig(**{name: value for name, value in options.items() if name in fields})
        assert config.seed == 3 and config.max_num_epochs == fine_tuning.epochs(method, 20)
        assert (config.foundation_model is None) == (method == "scratch")
    errors = {"energy_rmse_meV_per_atom": 1.0, "forces_rmse_meV_per_A": 2.0}
    found = {**errors, "forgetting": {"default": errors}}
    runs = {method: {"20": found, "50": found} for method in fine_tuning.METHODS}
    fine_tuning.draw({"runs": runs, "zero_shot": errors}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").exists()


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


def test_structures_of_the_streaming_benchmark(tmp_path: Path) -> None:
    """The forces are the derivatives of the energies; files of all sizes; options that there are."""
    block = streaming.clusters(2, np.random.default_rng(0))
    from ase.calculators.lj import LennardJones

    for k in range(2):
        atoms = block.atoms(k)
        atoms.calc = LennardJones(sigma=streaming.SIGMA, epsilon=streaming.EPSILON, rc=1e3)
        assert atoms.info["REF_energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(atoms.arrays["REF_forces"], atoms.get_forces(), atol=1e-9)
    (path,) = streaming.write(5, tmp_path)
    assert len(Shard(path)) == 5
    words = streaming.command([path], path, tmp_path, stream=True, added=["--max_time", "1"])
    options = parse(make_parser("train", importlib.import_module("mlip.cli.train")), words[4:])
    assert options["stream"] and options["batch_size"] == 256
    now, most = streaming.resident(os.getpid())
    assert 50 < now <= most
