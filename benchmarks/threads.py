"""Neighbor list, inference and training step of mlip on one and on two threads: speed, and whether the bits are equal.

Each number of threads has a process of its own; they take turns. Compared are all results, and of training steps all
parameters after them.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.calls import RADIALS, Settings, moved, options_of, silicon
from benchmarks.training import batches
from benchmarks.worker import Client

COUNTS = (1, 2)
#: Seconds of calls of one turn, and what has to be equal.
Timed = Callable[[Client, int], tuple[list[float], object]]


def threads(settings: Settings, n_atoms: int = 1000, n_listed: int = 50000) -> Iterator[dict[str, Any]]:
    """A row for each operation, precision and kind of radial functions, of the first model."""
    name, path = next(iter(settings.models.items()))
    with tempfile.TemporaryDirectory() as folder:
        batch = batches(replace(settings, peer_python=None), Path(folder))[-1]
    clients = {n: Client(sys.executable, "mlip", {"MLIP_SIMD": settings.simd[0]}, threads=n) for n in COUNTS}
    try:
        _take(clients, n_listed)
        yield {"what": "neighbor list, 6 Å", "atoms": n_listed} | _compared(settings, clients, _lists)
        for dtype in settings.dtypes:
            for radial in RADIALS:
                row = {"model": name, "dtype": dtype, "radial": radial}
                _ask_all(clients, "load", model=str(path), dtype=dtype, **options_of(radial))
                _take(clients, n_atoms)
                row |= {"what": "energy, forces, stress", "atoms": n_atoms}
                yield row | _compared(settings, clients, _calls_at(n_atoms))
            for radial in RADIALS:
                row = {"model": batch.model_name, "dtype": dtype, "radial": radial}
                loaded = _ask_all(clients, "load_training", model=str(batch.model), dtype=dtype, radial=radial)
                if any(answer["radial"] != radial for answer in loaded):
                    continue
                _ask_all(clients, "batch", structures=batch.structures)
                row |= {"what": "training step", "atoms": batch.n_atoms}
                yield row | _compared(settings, clients, _steps)
    finally:
        for client in clients.values():
            client.close()


def _ask_all(clients: dict[int, Client], request: str, **arguments: Any) -> list[Any]:
    return [client.ask(request, **arguments) for client in clients.values()]


def _take(clients: dict[int, Client], n_atoms: int) -> None:
    atoms = silicon(n_atoms)
    shape = {"numbers": atoms.numbers.tolist(), "cell": atoms.cell.tolist()}
    _ask_all(clients, "structure", positions=atoms.positions.tolist(), **shape)


def _lists(client: Client, turn: int) -> tuple[list[float], object]:
    found = client.ask("neighbors", cutoff=6.0, repeats=6)
    return found["wall"][1:], found["digest"]


def _calls_at(n_atoms: int) -> Timed:
    atoms = silicon(n_atoms)

    def calls(client: Client, turn: int) -> tuple[list[float], object]:
        found = client.ask("call", positions=[moved(atoms, 10 * turn + k) for k in range(4)], results=True)
        return found["wall"][1:], (found["energy"], found["forces"], found["stress"])

    return calls


def _steps(client: Client, turn: int) -> tuple[list[float], object]:
    found = client.ask("train", steps=3)
    return found["wall"][1:], found["digest"]


def _compared(settings: Settings, clients: dict[int, Client], timed: Timed) -> dict[str, Any]:
    """Medians by number of threads, the speed-up, and whether all results were equal."""
    seconds: dict[int, list[float]] = {count: [] for count in clients}
    identical = True
    for turn in range(settings.repeats):
        results = []
        for count, client in clients.items():
            wall, result = timed(client, turn)
            seconds[count] += wall
            results.append(result)
        identical = identical and all(result == results[0] for result in results)
    medians = {count: statistics.median(wall) for count, wall in seconds.items()}
    return {
        "milliseconds": {str(count): 1e3 * median for count, median in medians.items()},
        "speed_up": medians[COUNTS[0]] / medians[COUNTS[-1]],
        "identical": identical,
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
    }
