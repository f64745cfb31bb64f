"""Whole runs of `mlip train` on small Lennard-Jones data."""

from __future__ import annotations

import io
import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from lj_data import E0, argon, isolated, label, write_xyz
from rich.console import Console
from small_runs import TINY, arguments, checkpoint, config

import mlip
from mlip.cli import main
from mlip.errors import DataError, InputError, MLIPError, UnknownElementError
from mlip.training.module import TrainingModule
from mlip.training.train import train


@pytest.fixture
def data(tmp_path) -> Path:
    return write_xyz(tmp_path / "train.xyz", [*argon(16), isolated()])


def test_an_earlier_run_is_not_overwritten(data: Path) -> None:
    train(config(data, max_num_epochs=1, overwrite=False))
    before = {path.name: path.read_bytes() for path in data.parent.iterdir()}
    with pytest.raises(InputError, match="--restart_latest, replace it with --overwrite"):
        train(config(data, max_num_epochs=1, overwrite=False))
    assert {path.name: path.read_bytes() for path in data.parent.iterdir()} == before
    train(config(data, max_num_epochs=1, overwrite=True))


def test_nothing_of_an_overwritten_run_is_taken_for_the_new_one(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(config(data, max_num_epochs=2, swa=True, start_swa=1, save_all_checkpoints=True))
    assert {"mlip_stagetwo.safetensors", "mlip_epoch-2.pt"} <= {path.name for path in data.parent.iterdir()}
    with pytest.raises(DataError, match="r_max"):  # a run that can't begin replaces nothing
        train(config(data, r_max=0.1))
    assert (data.parent / "mlip_stagetwo.safetensors").exists()
    train(config(data, max_num_epochs=1))
    names = {path.name for path in data.parent.iterdir()}
    assert not {name for name in names if "stagetwo" in name or "epoch-" in name}

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingModule, "on_train_batch_start", stop)
        train(config(data, max_num_epochs=1))
    assert not (data.parent / "mlip_checkpoint.pt").exists()  # a restart would go on with the earlier run


def test_command_learns_and_writes_everything(tmp_path, data, capsys):
    test_file = write_xyz(tmp_path / "test.xyz", argon(5, seed=9))
    options = TINY | {"plot": True, "name": "ar", "max_num_epochs": 40, "scheduler": "cosine", "lr": 0.02}
    options |= {"train_file": data, "test_file": test_file, "work_dir": tmp_path / "out"}
    options |= {"loss": "stress", "stress_weight": 10}
    assert main(["train", "--json", *arguments(options)]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert set(result["errors"]) == {"train", "valid", "test"}
    rms = np.sqrt(np.mean(np.concatenate([a.arrays["REF_forces"] for a in argon(5, seed=9)]) ** 2))
    assert result["errors"]["test"]["forces_rmse_meV_per_A"] < 0.5 * 1000 * rms
    for line in ("Data", "E0s / eV: Ar -1.5 (isolated atoms", "isolated atoms, which do not train: 1", "epoch 40/40"):
        assert line in captured.err
    for noise in ("GPU available", "litlogger", "num_workers", "Warning", "`Trainer.fit` stopped"):
        assert noise not in captured.err
    written = {p.name for p in (tmp_path / "out").iterdir()}
    assert written == {
        *(f"ar{s}" for s in (".safetensors", "_checkpoint.pt", "_learning_curve.png", "_parity.png")),
        *("ar_log.jsonl", "ar_log.csv", "ar_report.html"),
    }
    log = [json.loads(line) for line in (tmp_path / "out" / "ar_log.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in log] == list(range(1, 41))
    assert log[-1]["valid_loss"] < 0.5 * log[0]["valid_loss"]

    potential = mlip.load(result["model"])
    metadata = potential.metadata
    assert metadata["config"]["train_file"] == "train.xyz" and metadata["config"]["seed"] == 123
    assert metadata["errors"]["test"] == pytest.approx(result["errors"]["test"])
    assert len(metadata["data"]["train_file"]["sha256"]) == 64
    assert str(tmp_path) not in json.dumps(metadata)
    assert metadata["command"].startswith("mlip train --train_file train.xyz --test_file test.xyz --name ar")
    assert main(["evaluate", str(test_file), "--model", result["model"], "--json", "--dtype", "float32"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["energy_rmse_meV_per_atom"] == pytest.approx(
        result["errors"]["test"]["energy_rmse_meV_per_atom"], rel=1e-3
    )


def test_result_holds_averaged_weights_of_the_best_validation(data):
    result = train(config(data, max_num_epochs=5, lr=0.3))
    best = min(result.history, key=lambda record: record["valid_loss"])
    assert result.best_epoch == best["epoch"]
    expected = best["valid_forces_rmse"]
    assert result.errors["valid"]["forces_rmse_meV_per_A"] == pytest.approx(1000 * expected, rel=1e-4)


def test_loss_that_is_not_a_number(data):
    with pytest.raises(MLIPError, match="the loss is nan.*lower --lr"):
        train(config(data, max_num_epochs=50, lr=1e30, clip_grad=0))


def test_weights_that_are_not_numbers_reach_no_checkpoint(data, monkeypatch):
    """A gradient that overflows spoils the weights of a step whose own loss is fine."""
    step = TrainingModule.optimizer_step

    def overflow(module, *arguments, **options):
        step(module, *arguments, **options)
        if module.epoch == 2 and module.epoch_is_complete:
            with torch.no_grad():
                next(module.potential.parameters()).fill_(math.nan)

    monkeypatch.setattr(TrainingModule, "optimizer_step", overflow)
    with pytest.raises(MLIPError, match="weights are not finite after step 4 of epoch 2.*checkpoint holds"):
        train(config(data, max_num_epochs=5, eval_interval=5))
    kept = checkpoint(data.parent)
    assert kept["epoch"] == 1 and all(w.isfinite().all() for w in kept["weights"].values())


def test_missing_labels_train_nothing(tmp_path):
    """Only one structure has forces, none of the others may pull towards zero forces."""
    structures = argon(8)
    for atoms in structures[1:]:
        del atoms.arrays["REF_forces"], atoms.info["REF_stress"]
    path = write_xyz(tmp_path / "some.xyz", structures)
    valid = write_xyz(tmp_path / "valid.xyz", argon(2, seed=4))
    console = Console(record=True, quiet=False, file=io.StringIO(), width=200)
    result = train(config(path, valid_file=str(valid), E0s="{Ar: -1.5}", loss="stress", max_num_epochs=2), console)
    assert "weight zero: forces of 7 in train, stress of 7 in train" in console.export_text()
    assert result.errors["train"]["n"] == 8
    assert result.errors["valid"]["stress_rmse_GPa"] is not None


def test_energies_alone(tmp_path):
    structures = argon(8)
    for atoms in structures:
        del atoms.arrays["REF_forces"], atoms.info["REF_stress"]
    path = write_xyz(tmp_path / "energies.xyz", structures)
    with pytest.raises(DataError, match="rms_forces_scaling needs forces"):
        train(config(path, E0s="average"))
    result = train(config(path, E0s="average", scaling="std_scaling", max_num_epochs=2))
    assert result.errors["train"]["forces_rmse_meV_per_A"] is None


def test_molecules_beside_crystals(tmp_path):
    molecules = [label(Atoms("Ar2", positions=[[0, 0, 0], [3.6 + 0.1 * k, 0, 0]])) for k in range(4)]
    path = write_xyz(tmp_path / "mixed.xyz", argon(6) + molecules)
    result = train(config(path, E0s="{Ar: -1.5}", max_num_epochs=2, valid_fraction=0.3, seed=2))
    assert result.errors["train"]["n"] + result.errors["valid"]["n"] == 10


def test_refused_data(tmp_path, data):
    without = write_xyz(tmp_path / "no_isolated.xyz", argon(4))
    with pytest.raises(DataError, match="--E0s average"):
        train(config(without))
    with pytest.raises(DataError, match="isolated atoms only"):
        train(config(write_xyz(tmp_path / "only.xyz", [isolated()])))
    weightless = argon(4)
    for atoms in weightless:
        atoms.info["config_weight"] = 0.0
    with pytest.raises(DataError, match="--E0s average needs energies whose weight is not zero"):
        train(config(write_xyz(tmp_path / "weightless.xyz", weightless), E0s="average"))
    with pytest.raises(DataError, match="no structure of the training set has a label whose weight is not zero"):
        train(config(write_xyz(tmp_path / "weightless.xyz", weightless), E0s="{Ar: -1.5}"))
    neon = write_xyz(tmp_path / "neon.xyz", [label(Atoms("Ne2", positions=[[0, 0, 0], [3, 0, 0]]))])
    for option in ("valid_file", "test_file"):
        with pytest.raises(UnknownElementError, match="Ne"):
            train(config(data, **{option: str(neon)}))


def test_gradients_are_clipped(data, monkeypatch):
    norms: list[float] = []

    def record(module, outputs, batch, batch_idx):
        norms.append(math.hypot(*(float(p.grad.norm()) for p in module.parameters() if p.grad is not None)))

    monkeypatch.setattr(TrainingModule, "on_train_batch_end", record)
    train(config(data, max_num_epochs=1, clip_grad=1e-3))
    clipped, norms[:] = norms.copy(), []
    train(config(data, max_num_epochs=1, clip_grad=0.0))
    assert max(clipped) == pytest.approx(1e-3, rel=1e-3) and min(norms) > 1e-2


def test_no_state_is_left_behind(data):
    dtype, handler = torch.get_default_dtype(), signal.getsignal(signal.SIGINT)
    random = torch.get_rng_state()
    train(config(data, max_num_epochs=1))
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_default_dtype() == dtype and signal.getsignal(signal.SIGINT) is handler
    assert torch.is_grad_enabled() and torch.get_float32_matmul_precision() == "highest"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_trains_as_the_cpu_does(tmp_path, data):
    options = {"max_num_epochs": 3, "default_dtype": "float64"}
    cpu, gpu = (train(config(data, name=d, **options | {"device": d})) for d in ("cpu", "cuda"))
    assert gpu.history[-1]["valid_loss"] == pytest.approx(cpu.history[-1]["valid_loss"], rel=1e-6)
    again = train(
        config(data, name="cuda", **options | {"device": "cuda", "restart_latest": True, "max_num_epochs": 4})
    )
    assert again.epochs == 4


def test_cli_refuses_and_explains(tmp_path, data, capsys):
    assert main(["train"]) == 1
    assert "--train_file is missing" in capsys.readouterr().err
    assert main(["train", "--trian_file", str(data)]) == 2
    assert "did you mean --train_file?" in capsys.readouterr().err
    assert main(["train", "--train_file", str(tmp_path / "none.xyz")]) == 1
    assert "No such file" in capsys.readouterr().err
    assert main(["train", "--train_file", str(data), "--energy_key", "dft"]) == 1
    assert "'dft'" in capsys.readouterr().err


def test_yaml_configuration(tmp_path, data):
    lines = [f"{k}: {json.dumps(v)}" for k, v in {**TINY, "train_file": str(data), "max_num_epochs": 1}.items()]
    file = tmp_path / "run.yaml"
    file.write_text("\n".join(lines))
    assert main(["train", "--config", str(file), "--work_dir", str(tmp_path / "y"), "--name", "y"]) == 0
    assert mlip.load(tmp_path / "y" / "y.safetensors").E0s == {18: E0}


@pytest.mark.skipif("MLIP_DATA" not in os.environ, reason="MLIP_DATA names no folder with the outside data")
def test_silicon_of_mlearn(tmp_path):
    folder = Path(os.environ["MLIP_DATA"]) / "mlearn" / "Si"
    options = {"loss": "stress", "E0s": "average", "max_num_epochs": 2, "batch_size": 16}
    result = train(
        config(folder / "train.extxyz", work_dir=str(tmp_path), test_file=str(folder / "test.extxyz"), **options)
    )
    assert result.errors["test"]["n"] == 25
    assert result.errors["test"]["stress_rmse_GPa"] is not None
