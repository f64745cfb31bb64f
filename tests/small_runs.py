"""Small trainings: their options, processes that run them, and comparisons of what they leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch

from mlip.training.config import TrainingConfig

TINY = {
    "num_channels": 4,
    "max_L": 0,
    "max_ell": 1,
    "correlation": 2,
    "radial_MLP": "[8]",
    "r_max": 4.5,
    "num_interactions": 1,
    "batch_size": 4,
    "scheduler": "constant",
    "plot": False,
    "device": "cpu",
}
#: Smaller still, in a folder of their own beside the data.
FAST = TINY | {"num_channels": 2, "radial_MLP": "[4]"}
del FAST["scheduler"]


def config(data: Path, **options) -> TrainingConfig:
    defaults = {"train_file": str(data), "work_dir": str(data.parent), "overwrite": True, **TINY}
    return TrainingConfig(**(defaults | options))


def fast_config(data: Path, **options: object) -> TrainingConfig:
    defaults = {"train_file": str(data), "work_dir": str(data.parent / "run"), "overwrite": True, **FAST}
    return TrainingConfig(**(defaults | options))


def arguments(options: dict) -> list[str]:
    flags = [f"--{'no_' if v is False else ''}{k}" for k, v in options.items() if isinstance(v, bool)]
    return flags + [w for k, v in options.items() if not isinstance(v, bool) for w in (f"--{k}", str(v))]


def checkpoint(folder: Path, name: str = "mlip") -> dict:
    return torch.load(folder / f"{name}_checkpoint.pt", weights_only=True)


def start(options: dict) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "mlip", "train", *arguments(options)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        # a shell starts its background jobs, this suite perhaps, with Ctrl-C ignored, and children inherit that
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_epochs(folder: Path, n: int, process: subprocess.Popen[str]) -> None:
    log = folder / "mlip_log.jsonl"
    deadline = time.monotonic() + 90
    while not (log.exists() and len(log.read_text().splitlines()) > n):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def run_state(folder: Path) -> dict:
    """Everything in the checkpoint that the clock does not enter."""
    state = checkpoint(folder)
    for record in state["history"]:
        del record["seconds"]
    return {k: v for k, v in state.items() if k not in ("elapsed", "config", "data")}


def assert_equal(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def without_time(history: list[dict]) -> list[dict]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in history]
