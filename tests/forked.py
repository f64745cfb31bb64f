"""Functions run by processes that find each other, as torchrun would start them; forked, so that none imports."""

from __future__ import annotations

import faulthandler
import os
import traceback
from collections.abc import Callable, Mapping
from datetime import timedelta
from multiprocessing import get_context
from typing import Any

import torch
import torch.distributed as dist

#: Seconds after which processes are taken to hang.
LONG = 60


def together(function: Callable[..., Any], count: int = 2, variables: Mapping[str, str] | None = None) -> list[Any]:
    """What `function(rank)` returns, or raises, in each process; plain data only.

    Args:
        function: called in each process.
        count: of processes.
        variables: of the environment instead of torchrun's, with {rank} where it goes.
    """
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=LONG))
    if variables is None:
        variables = {
            "RANK": "{rank}",
            "LOCAL_RANK": "{rank}",
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
    context = get_context("fork")
    results: Any = context.Queue()
    processes = [context.Process(target=_run, args=(function, rank, variables, results)) for rank in range(count)]
    try:
        for process in processes:
            process.start()
        found = dict(results.get(timeout=LONG) for _ in processes)
        for process in processes:
            process.join(LONG)
            assert not process.is_alive()
    finally:
        for process in processes:
            process.kill()
    return [found[rank] for rank in range(count)]


def _run(function: Callable[..., Any], rank: int, variables: Mapping[str, str], results: Any) -> None:
    torch.set_num_threads(1)  # the pool of the parent's threads is not here, and waiting for it would be for ever
    faulthandler.dump_traceback_later(LONG / 2)  # one that hangs says where
    os.environ.update({name: value.format(rank=rank) for name, value in variables.items()})
    try:
        results.put((rank, function(rank)))
    except KeyboardInterrupt:
        results.put((rank, KeyboardInterrupt("interrupted")))
    except Exception as error:
        traceback.print_exc()
        results.put((rank, RuntimeError(f"{type(error).__name__}: {error}")))
