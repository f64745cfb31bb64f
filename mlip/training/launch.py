"""`mlip train --processes N`: starts the processes of a run on this machine, and ends all of them when one fails."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from mlip.errors import MLIPError
from mlip.training.config import TrainingConfig
from mlip.training.processes import Launched, OthersEnded

#: Seconds that the others have to end by themselves when one process has failed, before they are made to.
GRACE = 20.0
#: Seconds after which Ctrl-C is passed on to those that run still; from a terminal they have had it themselves.
FROM_TERMINAL = 3.0


def launch(config: TrainingConfig, *more: str) -> int:
    """Run the command of a configuration in `config.processes` processes; returns the exit status of the first to fail.

    Args:
        config: of the run.
        more: words to be added to the command.

    Raises:
        KeyboardInterrupt: after Ctrl-C, when all have ended.
    """
    count = config.processes or 1
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=5))
    words = [sys.executable, "-m", "mlip", *shlex.split(config.command(portable=False))[1:], *more]
    threads = str(max(1, len(os.sched_getaffinity(0)) // count) if hasattr(os, "sched_getaffinity") else 1)
    shared = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # they meet in the store of this process
        "WORLD_SIZE": str(count),
        "MLIP_LAUNCHER": str(os.getpid()),
    }
    environment = {"OMP_NUM_THREADS": threads, **os.environ, **shared}
    processes: list[subprocess.Popen[bytes]] = []
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        for rank in range(count):
            own = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(subprocess.Popen(words, env=own))
        return _wait(processes)
    except KeyboardInterrupt:
        _wait_for_all(processes, FROM_TERMINAL)
        _end(processes, signal.SIGINT)
        raise
    finally:
        _end(processes, signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)


def _wait(processes: list[subprocess.Popen[bytes]]) -> int:
    """Until all have ended, or one has failed and the others have had time to end by themselves."""
    while (failed := next((p for p in processes if p.poll()), None)) is None:
        if all(p.poll() == 0 for p in processes):
            return 0
        time.sleep(0.1)
    rank, status = processes.index(failed), failed.returncode
    if status < 0:
        name = signal.Signals(-status).name
        print(f"mlip train: process {rank} of {len(processes)} was ended by {name}", file=sys.stderr)
    _wait_for_all(processes, GRACE)
    return status if status > 0 else 128 - status


def _wait_for_all(processes: list[subprocess.Popen[bytes]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(p.poll() is None for p in processes) and time.monotonic() < deadline:
        time.sleep(0.05)


def _end(processes: list[subprocess.Popen[bytes]], how: signal.Signals) -> None:
    """End those that still run, the hard way if they do not listen."""
    for number in (how, signal.SIGKILL):
        running = [p for p in processes if p.poll() is None]
        for process in running:
            process.send_signal(number)
        if running:
            _wait_for_all(running, GRACE)


def end_with_launcher() -> None:
    """Let this process end with the one that launched it, if one did and the system can do that (Linux)."""
    launcher = os.environ.get("MLIP_LAUNCHER")
    if launcher is None or not sys.platform.startswith("linux"):
        return
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != int(launcher):  # it ended before that
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def only_the_first_speaks(me: Launched | None) -> Iterator[None]:
    """What the first of several processes tells of, too, the others do not; they tell of errors of their own."""
    try:
        yield
    except (MLIPError, OSError, KeyboardInterrupt) as error:
        if me is None or me.rank == 0:
            raise
        if not isinstance(error, KeyboardInterrupt | OthersEnded):
            print(f"mlip train: process {me.rank}: error: {error}", file=sys.stderr)
        raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 1) from error
