"""The same bits whatever happens: killed at random instants and continued, with any number of threads."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from lj_data import E0, argon, isolated, write_xyz
from small_runs import assert_equal, run_state

import mlip
from mlip.training.config import TrainingConfig
from mlip.training.train import train

FAST = {"num_channels": 2, "max_L": 0, "max_ell": 1, "correlation": 2, "radial_MLP": "[4]", "r_max": 4.5}
FAST |= {"num_interactions": 1, "batch_size": 4, "plot": False, "device": "cpu"}

#: Continues a run in child processes, each killed after so many seconds, until one of them comes to the end.
KILLER = """
import json, os, signal, sys, time
import lightning, matplotlib, mlip.training.train  # here, so that the children begin at once
from mlip.training import engine
from mlip.training.config import TrainingConfig

options, delays = json.loads(sys.argv[1])
config = TrainingConfig(**options)
engine.CHECKPOINT_SECONDS = 0.0  # after every step: kills meet the writing of checkpoints
for delay in [*delays, None]:
    child = os.fork()
    if child == 0:
        mlip.training.train.train(config)
        os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    print("killed" if os.WIFSIGNALED(status) else f"ended {os.WEXITSTATUS(status)}", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize(
    "options",
    [
        {"swa": True, "start_swa": 5, "scheduler": "plateau", "scheduler_patience": 0},
        {"optimizer": "schedulefree", "warmup_steps": 7, "loss": "universal"},
        {"optimizer": "soap", "precondition_frequency": 3},
    ],
)
def test_killed_at_random_instants_and_continued(tmp_path: Path, options: dict[str, object]) -> None:
    data = write_xyz(tmp_path / "train.xyz", [*argon(12), isolated()])
    options = {"train_file": str(data), "max_num_epochs": 16, "restart_latest": True, **FAST, **options}
    delays = [random.uniform(0.1, 0.5) for _ in range(4)]  # of any seed: each run of the suite tries others
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    words = json.dumps([{**options, "work_dir": str(killed)}, delays])
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLER, words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    outcomes = done.stdout.split("\n")[:-1]
    assert outcomes[-1] == "ended 0" and set(outcomes) <= {"killed", "ended 0"}, (delays, outcomes, done.stderr)
    train(TrainingConfig(**{**options, "work_dir": str(whole)}))
    assert_equal(run_state(killed), run_state(whole))
    for path in whole.glob("*.safetensors"):
        assert_equal(dict(mlip.load(killed / path.name).state_dict()), dict(mlip.load(path).state_dict()))
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}, delays


def large_structures() -> list[Atoms]:
    """More force components in a batch than torch adds up on one thread."""
    structures = []
    for seed in range(4):
        atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * (10, 9, 9)
        atoms.rattle(0.1, seed=seed)
        atoms.info["REF_energy"] = E0 * len(atoms) - seed
        atoms.arrays["REF_forces"] = atoms.positions[::-1] % 1.0
        atoms.info["REF_stress"] = [0.01, 0.02, 0.03, 0.0, 0.0, 0.0]
        structures.append(atoms)
    return structures


@pytest.mark.parametrize("loss", ["universal", "l1l2"])
@pytest.mark.skipif(not mlip.compiled, reason="the compiled operators are not installed")
def test_threads_do_not_change_a_bit_of_a_batch_of_many_atoms(tmp_path: Path, loss: str) -> None:
    data = write_xyz(tmp_path / "train.xyz", large_structures())
    options = {"E0s": "{Ar: -1.5}", "batch_size": 4, "r_max": 4.0, "loss": loss, "scaling": "std_scaling"}
    options |= {"valid_file": str(data), "valid_batch_size": 4}
    assert_same_for_threads(tmp_path, data, options)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "schedulefree", "soap"])
@pytest.mark.skipif(not mlip.compiled, reason="the compiled operators are not installed")
def test_threads_do_not_change_a_bit_of_many_weights(tmp_path: Path, optimizer: str) -> None:
    """More numbers in a tensor of weights, and its gradient, than torch adds up on one thread; clipped gradients."""
    data = write_xyz(tmp_path / "train.xyz", [*argon(8), isolated()])
    options = {"num_channels": 192, "radial_MLP": "[128]", "clip_grad": 0.1, "optimizer": optimizer}
    potential = assert_same_for_threads(tmp_path, data, options)
    assert max(p.numel() for p in potential.parameters()) > 32768


def assert_same_for_threads(folder: Path, data: Path, options: dict[str, object]) -> mlip.Potential:
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            where = {"train_file": str(data), "work_dir": str(folder / str(threads)), "max_num_epochs": 3}
            results.append(train(TrainingConfig(**{**FAST, **where, **options})))
    finally:
        torch.set_num_threads(before)
    assert_equal(run_state(folder / "1"), run_state(folder / "2"))
    return results[0].potential
