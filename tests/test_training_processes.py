"""Several processes that train one model are one process, up to rounding; what ends one of them ends all."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ase.build import bulk, molecule
from ase.io import write
from forked import together
from lj_data import argon, isolated, label, write_xyz
from small_runs import FAST, arguments, assert_equal, run_state, start, wait_for_epochs, without_time
from small_runs import fast_config as config

from mlip.cli.main import main
from mlip.data.batches import make_samples
from mlip.data.labels import LabelKeys, label_structures
from mlip.data.loading import InMemory, Share, StandIn, training_loader, validation_loader
from mlip.data.plan import CountPlan
from mlip.data.storing import write_structures
from mlip.errors import InputError, MLIPError
from mlip.training import train as module
from mlip.training.committee import train_committee
from mlip.training.config import TrainingConfig
from mlip.training.dry_run import rehearse
from mlip.training.module import TrainingModule
from mlip.training.processes import Group, launched
from mlip.training.train import train

DOUBLE = {"default_dtype": "float64", "max_num_epochs": 3}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eleven structures that train in batches of four: the last one has three, and one process of four none."""
    return write_xyz(tmp_path / "argon.xyz", [isolated(), *argon(12)])


def weights(options: TrainingConfig) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in train(options).potential.named_parameters()}


def by_processes(options: TrainingConfig, count: int = 2) -> list[dict[str, np.ndarray]]:
    """Weights that each of several processes ends with."""
    found = together(lambda rank: {name: p.numpy() for name, p in weights(options).items()}, count)
    for one in found:
        assert isinstance(one, dict), one
    return found


# --- shares


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_are_the_batch(count: int) -> None:
    members, loads = [7, 3, 9, 1, 4], [10, 1, 6, 5, 3]
    parts = [Share(rank, count).of(members, loads) for rank in range(count)]
    assert sorted(m for part in parts for m in part) == sorted(members)
    for part in parts:
        assert part == [m for m in members if m in part]
    if count == 2:
        assert {sum(loads[members.index(m)] for m in part) for part in parts} == {12, 13}


def test_loaders_of_several_processes() -> None:
    samples = make_samples(label_structures(argon(5), LabelKeys()).structures, 4.5)
    whole = list(training_loader(InMemory(samples), CountPlan(5, 2), 3))
    parts = [list(training_loader(InMemory(samples), CountPlan(5, 2), 3, share=Share(rank, 2))) for rank in (0, 1)]
    assert [len(part) for part in parts] == [3, 3]
    for batch, one, other in zip(whole, *parts, strict=True):
        assert batch.graph.n_graphs == sum(b.graph.n_graphs for b in (one, other) if not isinstance(b, StandIn))
    assert isinstance(parts[1][2], StandIn) and isinstance(parts[1][2].to("cpu"), StandIn)
    found = [list(validation_loader(samples[:3], 2, Share(rank, 3))) for rank in range(3)]
    assert [b.graph.n_graphs for part in found for b in part if not isinstance(b, StandIn)] == [2, 1]
    assert isinstance(found[2][0], StandIn)


# --- the same as one process


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "rmse", "clip_grad": 0.1},
        {"loss": "universal", "swa": True, "start_swa": 1, "scheduler": "plateau", "eval_interval": 2},
        {"optimizer": "schedulefree"},
        {"optimizer": "adamw", "batch_size": None, "batch_atoms": 12, "loss": "stress"},
    ],
    ids=["weighted", "rmse", "universal-swa", "schedulefree", "adamw-atoms"],
)
def test_as_one_process(options: dict, data: Path) -> None:
    alone = weights(config(data, name="one", **(DOUBLE | options)))
    found = by_processes(config(data, name="two", **(DOUBLE | options)))
    for name, value in alone.items():
        np.testing.assert_array_equal(found[0][name], found[1][name])
        np.testing.assert_allclose(found[0][name], value, rtol=1e-9, atol=1e-11, err_msg=name)
    logs = [(data.parent / "run" / f"{name}_log.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert len(logs[0]) == len(logs[1])
    for one, two in zip(*(map(json.loads, log) for log in logs), strict=True):
        assert one.keys() == two.keys() and {"loss", "valid_loss", "valid_forces_rmse"} <= one.keys()
        for key in one.keys() - {"seconds", "weights"}:
            assert two[key] == pytest.approx(one[key], rel=1e-9), key


def test_more_processes_than_structures(data: Path) -> None:
    alone = weights(config(data, name="one", **DOUBLE))
    for one in by_processes(config(data, name="four", **DOUBLE), 4):
        for name, value in alone.items():
            np.testing.assert_allclose(one[name], value, rtol=1e-9, atol=1e-11, err_msg=name)


def test_networks_of_elements_that_a_share_lacks(tmp_path: Path) -> None:
    """HDNNP has weights of each element; where no process has one in its batch, they stay as they are."""
    rng = np.random.default_rng(0)
    structures = []
    for k in range(8):
        atoms = bulk("NaCl", "rocksalt", 5.6) if k % 4 == 0 else bulk("Ar", a=5.3, cubic=True)
        atoms.rattle(0.1, rng=rng)
        structures.append(label(atoms))
    path = write_xyz(tmp_path / "mixed.xyz", structures)
    keys = {"model": "HDNNP", "hidden_layers": "[4]", "r_max": 5.0, "num_symmetry_functions": 6, "E0s": "average"}
    common = DOUBLE | keys | {"batch_size": 2, "plot": False, "device": "cpu", "train_file": str(path)}
    common |= {"valid_file": str(path), "work_dir": str(tmp_path)}
    alone = weights(TrainingConfig(name="one", **common))
    for one in by_processes(TrainingConfig(name="two", **common)):
        for name, value in alone.items():
            np.testing.assert_allclose(one[name], value, rtol=1e-9, atol=1e-11, err_msg=name)


def test_property_models(tmp_path: Path) -> None:
    molecules = [molecule(name) for name in ("H2O", "CH4", "NH3", "CO2", "C2H4", "C2H6", "HCN", "CH3OH")]
    for k, atoms in enumerate(molecules):
        atoms.info["gap_eV"] = 0.3 * k + len(atoms)
    write(tmp_path / "gaps.xyz", molecules)
    options = FAST | DOUBLE | {"train_file": str(tmp_path / "gaps.xyz"), "target": "gap", "work_dir": str(tmp_path)}
    alone = weights(TrainingConfig(name="one", **options))
    for one in by_processes(TrainingConfig(name="two", **options)):
        for name, value in alone.items():
            np.testing.assert_allclose(one[name], value, rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_sets_on_disk_and_workers(data: Path) -> None:
    structures = label_structures(argon(11, seed=4), LabelKeys()).structures
    write_structures(data.parent / "a.h5", structures)
    files = {"train_file": str(data.parent / "a.h5"), "valid_file": str(data), "stream": True, "E0s": "average"}
    alone = weights(config(data, name="one", **DOUBLE, **files))
    for one in by_processes(config(data, name="two", num_workers=1, **DOUBLE, **files)):
        for name, value in alone.items():
            np.testing.assert_allclose(one[name], value, rtol=1e-9, atol=1e-11, err_msg=name)


def test_another_number_of_processes_goes_on(data: Path) -> None:
    alone = weights(config(data, name="one", **DOUBLE))
    again = {"max_num_epochs": 2, "name": "two", "default_dtype": "float64"}
    together(lambda rank: train(config(data, **again)).epochs)
    found = weights(config(data, **(again | DOUBLE), overwrite=False, restart_latest=True))
    for name, value in alone.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11)


def test_results_are_everywhere(data: Path) -> None:
    options = config(data, **DOUBLE)
    one, other = together(lambda rank: train(options).as_dict())
    assert one == other and one["epochs"] == 3 and Path(one["model"]).exists()


# --- when it ends


def test_all_stop_early_together(data: Path) -> None:
    patient = config(data, patience=1, lr=1e-9, max_num_epochs=50, name="patient")
    one, other = together(lambda rank: train(patient).epochs)
    assert one == other < 50
    hurried = config(data, max_time=0.02, max_num_epochs=100_000, name="hurried")
    one, other = together(lambda rank: without_time(train(hurried).history))
    assert one == other and len(one) < 100_000


def test_exact_restart(data: Path) -> None:
    folder = data.parent / "run"
    together(lambda rank: train(config(data, max_num_epochs=4)).epochs)
    whole = run_state(folder)
    together(lambda rank: train(config(data, max_num_epochs=2)).epochs)
    again = config(data, max_num_epochs=4, overwrite=False, restart_latest=True)
    assert together(lambda rank: train(again).epochs) == [4, 4]
    assert_equal(run_state(folder), whole)


def interrupted(options: TrainingConfig, rank: int, victim: int, step: int) -> object:
    """A run in which one process gets Ctrl-C after a step."""
    after = TrainingModule.on_train_batch_end

    def and_then(self: TrainingModule, *arguments: object) -> None:
        after(self, *arguments)
        if rank == victim and self.schedule.steps == step:
            os.kill(os.getpid(), signal.SIGINT)

    TrainingModule.on_train_batch_end = and_then  # type: ignore[method-assign]  # in a process of its own
    return train(options).epochs


@pytest.mark.parametrize("victim", [0, 1])
def test_an_interrupt_reaches_all(victim: int, data: Path) -> None:
    folder = data.parent / "run"
    together(lambda rank: train(config(data, max_num_epochs=4)).epochs)
    whole = run_state(folder)
    ended = together(lambda rank: interrupted(config(data, max_num_epochs=4), rank, victim, 8))
    assert all(isinstance(end, KeyboardInterrupt) for end in ended)
    assert run_state(folder)["epoch"] == 2
    again = config(data, max_num_epochs=4, overwrite=False, restart_latest=True)
    together(lambda rank: train(again).epochs)
    assert_equal(run_state(folder), whole)


def test_errors_reach_all(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = write_xyz(data.parent / "other.xyz", argon(12, seed=5))
    files = [str(data), str(data.parent / "missing.xyz")]
    one, two = map(str, together(lambda rank: train(config(data, train_file=files[rank])).epochs))
    assert "process 1" in one and "missing.xyz" in one and "missing.xyz" in two
    files[1] = str(other)
    for error in together(lambda rank: train(config(data, train_file=files[rank], E0s="average")).epochs):
        assert "process 1 has another command, content of --train_file" in str(error)
    for error in together(lambda rank: train(config(data, lr=1e30)).epochs):
        assert "the loss is" in str(error) or "not finite" in str(error)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "checkpoint")

    monkeypatch.setattr(module, "save_checkpoint", full)
    one, two = map(str, together(lambda rank: train(config(data)).epochs))
    assert "No space" in one and "process 0 of 2 ended: " in two and "No space" in two


def test_weights_that_differ_are_noticed(data: Path) -> None:
    def drifting(rank: int) -> int:
        after = TrainingModule.on_after_backward

        def wrong(self: TrainingModule) -> None:
            after(self)
            if rank == 1:
                next(p for p in self.potential.parameters() if p.grad is not None).grad *= 1 + 1e-6

        TrainingModule.on_after_backward = wrong  # type: ignore[method-assign]
        return train(config(data)).epochs

    for error in together(drifting):
        assert "process 1 has another result of the same steps than process 0" in str(error)


def test_killed_and_continued(data: Path) -> None:
    """`--processes 2` by the command line: one process is killed, all end, and the run goes on to the same bits."""
    folder = data.parent / "run"
    options = FAST | {"train_file": str(data), "work_dir": str(folder), "max_num_epochs": 400, "processes": 2}
    process = start(options)
    wait_for_epochs(folder, 3, process)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL, output
    assert "process 1 of 2 was ended by SIGKILL" in output and "another of the 2 processes ended" in output
    assert "Traceback" not in output
    done = run_state(folder)["epoch"]
    again = config(data, max_num_epochs=done + 2, overwrite=False, restart_latest=True)
    together(lambda rank: train(again).epochs)
    continued = run_state(folder)
    together(lambda rank: train(config(data, max_num_epochs=done + 2)).epochs)
    assert_equal(continued, run_state(folder))


def test_a_launcher_that_is_terminated_ends_all(data: Path) -> None:
    folder = data.parent / "run"
    options = FAST | {"train_file": str(data), "work_dir": str(folder), "max_num_epochs": 400, "processes": 2}
    process = start(options)
    wait_for_epochs(folder, 3, process)
    started = children(process.pid)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "--restart_latest continues it" in output, output
    assert "Traceback" not in output and not any(Path(f"/proc/{pid}").exists() for pid in started.values())


def children(pid: int) -> dict[int, int]:
    """Processes by rank that a launcher has started."""
    found: dict[int, int] = {}
    deadline = time.monotonic() + 30
    while len(found) < 2 and time.monotonic() < deadline:
        for entry in Path("/proc").iterdir():
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
            except (OSError, ValueError):
                continue
            if f"MLIP_LAUNCHER={pid}".encode() in variables:
                found[next(int(v[5:]) for v in variables if v.startswith(b"RANK="))] = int(entry.name)
    return found


def test_launched_by_the_command_line(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = FAST | {"train_file": str(data), "work_dir": str(data.parent / "run"), "max_num_epochs": 2}
    command = ["train", *arguments(options | {"processes": 2}), "--json"]
    assert main(command) == 0
    output, errors = capfd.readouterr()
    assert output.count('"best_epoch"') == 1 and output.lstrip().startswith("{") and errors.count("epoch 2/2") == 1
    assert main(command) == 1  # over the earlier run
    assert capfd.readouterr().err.count("is of an earlier run") == 1


# --- how they are started


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [n for n in os.environ if n.startswith(("SLURM_", "MASTER_")) or n in ("RANK", "WORLD_SIZE")]:
        monkeypatch.delenv(name)
    return monkeypatch


def test_alone(environment: pytest.MonkeyPatch) -> None:
    assert launched() is None
    environment.setenv("RANK", "0")
    environment.setenv("WORLD_SIZE", "1")
    assert launched() is None
    environment.delenv("RANK")
    environment.delenv("WORLD_SIZE")
    environment.setenv("SLURM_NTASKS", "4")  # a batch job that starts one process without srun
    assert launched() is None
    group = Group()
    assert group.is_alone and group.is_first and group.gathered(3) == [3] and group.from_first("a") == "a"
    with pytest.raises(MLIPError, match="own"), group.agreed():
        raise MLIPError("own")


def test_environments_that_can_not_be(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RANK", "0")
    environment.setenv("WORLD_SIZE", "2")
    environment.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(InputError, match="'LOCAL_RANK'"):
        launched()
    environment.setenv("LOCAL_RANK", "0")
    environment.setenv("RANK", "2")
    with pytest.raises(InputError, match="RANK is 2 of WORLD_SIZE 2"):
        launched()


def test_processes_that_are_in_use(data: Path) -> None:
    def used(rank: int) -> None:
        dist.init_process_group("gloo")
        train(config(data))

    for error in together(used):
        assert "torch.distributed is initialized already" in str(error)


def test_slurm(environment: pytest.MonkeyPatch, data: Path) -> None:
    job = str(random.Random(os.getpid()).randrange(10_000, 99_999))
    variables = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_PROCID": "{rank}",
        "SLURM_LOCALID": "{rank}",
        "SLURM_JOB_ID": job,
        "SLURM_STEP_ID": "1",
        "SLURM_NODELIST": "elsewhere[1-4]",
        "SLURM_STEP_NODELIST": "127.0.0.1",
    }
    assert together(lambda rank: train(config(data, max_num_epochs=1)).epochs, variables=variables) == [1, 1]


def test_what_one_process_does(data: Path, environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--processes 2, but 1 started together"):
        train(config(data, processes=2))
    with pytest.raises(InputError, match="--committee is done by one process; leave out --processes 2"):
        config(data, processes=2, committee=2)
    with pytest.raises(InputError, match="--processes is 0"):
        config(data, processes=0)
    for name, value in {"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "1"}.items():
        environment.setenv(name, value)
    assert train(config(data, processes=1, max_num_epochs=1)).epochs == 1  # each of them by itself
    assert rehearse(config(data, dry_run=True, processes=1)).steps_per_epoch == 3
    with pytest.raises(InputError, match="--dry_run is done by one process; 3 were started together"):
        rehearse(config(data, dry_run=True))
    with pytest.raises(InputError, match="--committee is done by one process; 3 were started"):
        train_committee(config(data, committee=2))
