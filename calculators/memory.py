"""How much memory there is, how much a piece of work took, and what running out of it looks like."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import torch

from mlip.errors import TooLargeError

#: Parts of messages: torch on a CPU, CUDA and torch on it, C++, our neighbor list.
_RAN_OUT = ("can't allocate memory", "out of memory", "bad_alloc", "than memory can hold")
_INTERVAL = 1e-3
"""Seconds between two looks at the memory of the process."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | ValueError) and any(text in str(error) for text in _RAN_OUT)


@contextmanager
def enough_memory(n_atoms: int) -> Iterator[None]:
    """Turn running out of memory into a `TooLargeError` that tells what to do.

    Raises:
        TooLargeError: memory ran out within.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, TooLargeError) or not is_out_of_memory(error):
            raise
        raise TooLargeError(
            f"a structure of {n_atoms} atoms needs more memory than there is; take dtype='float32', radial='table', "
            "a smaller model, or a machine with more memory"
        ) from error


def available_memory(
    device: torch.device,
    meminfo: str = "/proc/meminfo",
    groups: str = "/sys/fs/cgroup",
    own_group: str = "/proc/self/cgroup",
) -> float:
    """Bytes that can still be allocated on `device`; infinite where nothing tells.

    Of a CPU that is what the machine, and the control groups of the process (a container, a batch job), have left.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return float(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type != "cpu":
        return math.inf
    return min(_of_machine(Path(meminfo)), *map(_of_group, _groups(Path(groups), Path(own_group))))


def _of_machine(meminfo: Path) -> float:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return 1024.0 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        pass
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return math.inf


def _groups(root: Path, own: Path) -> list[Path]:
    """The control group of the process and all that it is in (version 2); a container sees its own as the root."""
    try:
        (path,) = (line[4:] for line in own.read_text().splitlines() if line.startswith("0::/"))
    except (OSError, ValueError):
        return [root]
    parts = [part for part in path.split("/") if part]
    return [root.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]


def _of_group(group: Path) -> float:
    try:
        limit = int((group / "memory.max").read_text())  # "max" where there is none
        used = int((group / "memory.current").read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return math.inf
    # Cached files and kernel caches are given back when memory is needed.
    reclaimable = sum(int(statistics.get(name, 0)) for name in ("active_file", "inactive_file", "slab_reclaimable"))
    return float(max(0, limit - used + reclaimable))


class Peak:
    """Measures how far memory rises while the block of a `with` statement runs: `bytes`, 0 where nothing tells.

    Of a CPU the memory of the process is looked at every millisecond. What the process had free from before, for the
    C library to hand out again, does not show. On CUDA torch counts, and its peak statistics start anew.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes = device, 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            self._before = self._highest = _resident()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            self._highest = torch.cuda.max_memory_allocated(self.device)
        else:
            self._done.set()
            self._thread.join()
        self.bytes = self._highest - self._before

    def _watch(self) -> None:
        while not self._done.wait(_INTERVAL):
            self._highest = max(self._highest, _resident())


def _resident() -> int:
    """Bytes of the process that are in memory, 0 where /proc does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
