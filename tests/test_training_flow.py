"""Options that say how a run goes: devices, workers, algorithms, checkpoints that are kept, dry runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from lj_data import argon, isolated, write_xyz
from small_runs import FAST
from small_runs import fast_config as config

from mlip.cli import main
from mlip.data import loading
from mlip.data.loading import validation_loader
from mlip.errors import InputError
from mlip.training.checkpointing import load_checkpoint
from mlip.training.data import load_data
from mlip.training.dry_run import rehearse
from mlip.training.module import TrainingModule
from mlip.training.setup import build_potential, device_of
from mlip.training.train import train
from mlip.units import voigt_6_to_full_3x3

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_xyz(tmp_path / "train.xyz", [*argon(12), isolated()])


def test_keys_of_labels(tmp_path: Path) -> None:
    """Labels of other names, which nothing would find, beside wrong ones of the usual names."""
    structures = argon(4)
    for atoms in structures:
        atoms.info |= {"e": atoms.info["REF_energy"], "s": atoms.info["REF_stress"], "REF_energy": 0.5}
        atoms.arrays["f"] = atoms.arrays["REF_forces"].copy()
        atoms.arrays["REF_forces"][:] = 7.0
        atoms.info["REF_stress"] = [1.0] * 6
        atoms.info["v"] = -atoms.get_volume() * voigt_6_to_full_3x3(atoms.info["s"])
    path = write_xyz(tmp_path / "named.xyz", structures)
    named = {"energy_key": "e", "forces_key": "f", "E0s": "average", "loss": "stress", "valid_fraction": 0.5}
    usual = load_data(
        config(write_xyz(tmp_path / "usual.xyz", argon(4)), **{k: named[k] for k in named if "key" not in k})
    )
    for key, value in (("stress_key", "s"), ("virials_key", "v")):
        if key == "virials_key":
            for atoms in structures:
                del atoms.info["REF_stress"], atoms.info["s"]
            write_xyz(path, structures)
        found = load_data(config(path, **named, **{key: value}))
        for ours, theirs in zip(found.sets["train"].structures, usual.sets["train"].structures, strict=True):
            assert ours.energy == pytest.approx(theirs.energy)
            assert ours.forces == pytest.approx(theirs.forces) and ours.stress == pytest.approx(theirs.stress, abs=1e-7)


def test_device(data: Path) -> None:
    assert device_of(config(data)) == "cpu"
    assert device_of(config(data, device="auto")) == ("cuda" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="--device cuda: torch finds no CUDA device"):
            device_of(config(data, device="cuda"))


def test_structures_at_once_in_validation(data: Path) -> None:
    samples = load_data(config(data, valid_fraction=0.5)).sets["valid"].samples
    assert [batch.graph.n_graphs for batch in validation_loader(samples, 4)] == [4, 2]


def test_deterministic_algorithms_inside_a_run_only(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(
        TrainingModule,
        "on_train_epoch_end",
        lambda module: seen.append(torch.are_deterministic_algorithms_enabled()),
    )
    before = dict(os.environ)
    train(config(data, max_num_epochs=1))
    train(config(data, max_num_epochs=1, deterministic=True))
    assert seen == [False, True] and not torch.are_deterministic_algorithms_enabled()
    assert dict(os.environ) == before and torch.utils.deterministic.fill_uninitialized_memory


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has cores
def test_workers_put_batches_together(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In other processes, whose batches, and so the weights, are those of one process."""
    places = data.parent / "places"
    collate = loading.collate_samples

    def recorded(samples):
        with open(places, "a") as stream:
            stream.write(f"{os.getpid()}\n")
        return collate(samples)

    monkeypatch.setattr(loading, "collate_samples", recorded)
    results = []
    for workers in (0, 2):
        places.write_text("")
        results.append(train(config(data, max_num_epochs=2, num_workers=workers, name=f"w{workers}")).potential)
        processes = set(places.read_text().split()) - {str(os.getpid())}
        assert len(processes) == workers  # the same ones in both epochs
    assert all(torch.equal(p, q) for p, q in zip(results[0].parameters(), results[1].parameters(), strict=True))


def kept(folder: Path) -> list[int]:
    return sorted(int(path.stem.rpartition("-")[2]) for path in folder.glob("mlip_epoch-*.pt"))


def test_checkpoints_that_are_kept(data: Path, tmp_path: Path) -> None:
    """The weights get worse from the second epoch on, because the learning rate is absurd."""
    bad = {"max_num_epochs": 4, "lr": 5.0, "ema": False, "scheduler": "constant"}
    none, best, every = (tmp_path / name for name in ("none", "best", "every"))
    train(config(data, work_dir=str(none), **bad))
    result = train(config(data, work_dir=str(best), keep_checkpoints=True, **bad))
    train(config(data, work_dir=str(every), save_all_checkpoints=True, **bad))
    losses = [record["valid_loss"] for record in result.history]
    improved = [n for n, loss in enumerate(losses, start=1) if loss == min(losses[:n])]
    assert kept(none) == [] and kept(best) == improved and kept(every) == [1, 2, 3, 4]
    assert len(improved) < 4, "no epoch was worse than one before; choose a worse learning rate"

    whole = torch.load(every / "mlip_checkpoint.pt", weights_only=True)
    (every / "mlip_epoch-2.pt").rename(every / "mlip_checkpoint.pt")
    train(config(data, work_dir=str(every), restart_latest=True, **bad))
    again = torch.load(every / "mlip_checkpoint.pt", weights_only=True)
    assert all(torch.equal(again["weights"][name], weight) for name, weight in whole["weights"].items())


def test_dry_run_measures_and_writes_nothing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = config(data, dry_run=True, max_num_epochs=100)
    words = [f"--{name}={value}" for name, value in {**FAST, "train_file": data}.items() if name != "plot"]
    folder = data.parent / "run"
    assert main(["train", "--dry_run", "--json", f"--work_dir={folder}", "--max_num_epochs=100", *words]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert "train.xyz" in captured.err and "dry run: nothing was trained or written" in captured.err
    potential = build_potential(wanted, load_data(wanted))
    assert found["parameters"] == sum(p.numel() for p in potential.parameters())
    assert found["steps_per_epoch"] == 3 and found["seconds_per_epoch"] > found["seconds_per_step"] > 0
    assert found["hours"] == pytest.approx(100 * found["seconds_per_epoch"] / 3600)
    assert found["memory_GB"] > 0.05
    assert [path.name for path in data.parent.iterdir()] == ["train.xyz"]
    assert rehearse(config(data, dry_run=True, max_time=0.6, max_num_epochs=10**9)).hours == pytest.approx(0.01)
    with pytest.raises(InputError, match="rehearse"):
        train(wanted)


def test_checkpoints_from_before_an_option_continue(data: Path) -> None:
    """Options that came later, as those of SOAP, were at their defaults; other values of them are another run."""
    train(config(data, name="early", max_num_epochs=1))
    path = config(data, name="early").file("_checkpoint.pt")
    state = torch.load(path, weights_only=True)
    for option in ("beta1_soap", "beta2_soap", "precondition_frequency"):
        del state["config"][option]
    torch.save(state, path)
    options = config(data, name="early", max_num_epochs=2, restart_latest=True, overwrite=False)
    assert len(train(options).history) == 2
    with pytest.raises(InputError, match="--optimizer adam -> soap; --beta1_soap 0.95 -> 0.5"):
        load_checkpoint(path, options.as_dict() | {"optimizer": "soap", "beta1_soap": 0.5}, state["data"])


def test_checkpoints_of_version_1_continue(data: Path) -> None:
    """Written by the trainer before it had second stages; its weighted loss had stresses where there were any."""
    path = FIXTURES / "training_checkpoint_v1.pt"
    stored = torch.load(path, weights_only=True)
    options = config(data, loss="stress", work_dir=stored["config"]["work_dir"], max_num_epochs=3)
    state = load_checkpoint(path, options.as_dict(), stored["data"])
    training = load_data(options)
    module = TrainingModule.of_run(options, training, build_potential(options, training))
    module.load_run_state(state)
    module.configure_optimizers()
    assert module.first_epoch == 2 and module.schedule.steps == stored["schedule"]["steps"]
    weights = dict(module.potential.named_parameters())
    assert all(torch.equal(weights[name], weight) for name, weight in stored["weights"].items())
    with pytest.raises(InputError, match="--loss stress -> weighted"):
        load_checkpoint(path, config(data).as_dict(), stored["data"])
