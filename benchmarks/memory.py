"""Peak memory per atom of energy, forces and stress, and of a training step.

Every measurement has a process of its own. It loads the model, works on 8 atoms once, and takes the structure; what is
resident then is the baseline. The peak above it is the system's (`VmHWM`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.calls import RADIALS, Settings, options_of, silicon
from benchmarks.machine import memory_available
from benchmarks.training import labelled
from benchmarks.worker import Client

#: Bytes of address space that a process gets at most.
LIMIT = 12 * 10**9


def memory(
    settings: Settings,
    sizes: tuple[int, ...] = (1000, 10000, 50000),
    sizes_training: tuple[int, ...] = (216, 512, 1000),
) -> Iterator[dict[str, Any]]:
    """Bytes per atom of the first model: a row for each purpose, precision and number of atoms."""
    name, path = next(iter(settings.models.items()))
    programs = {radial: sys.executable for radial in RADIALS}
    if settings.peer_python:
        programs = {"mace-torch": settings.peer_python, **programs}
    for what, numbers in (("call", sizes), ("step", sizes_training)):
        for dtype in settings.dtypes:
            left = dict(programs)
            for n_atoms in sorted(numbers):
                row: dict[str, Any] = {"what": what, "model": name, "dtype": dtype, "atoms": n_atoms}
                row |= {"programs": {}, "failed": {}}
                if n_atoms > settings.peer_largest:
                    left.pop("mace-torch", None)
                for program, python in list(left.items()):
                    try:
                        found = peak(program, python, what, str(path), dtype, n_atoms)
                    except RuntimeError as error:
                        row["failed"][program] = str(error)
                        del left[program]  # more atoms will not do either
                        continue
                    above = found["peak"] - found["before"]
                    row["programs"][program] = found | {"bytes_per_atom": above / n_atoms}
                yield row | {"load": os.getloadavg()[0]}


def peak(program: str, python: str, what: str, model: str, dtype: str, n_atoms: int) -> dict[str, Any]:
    """Bytes resident before and at the peak of a "call" or a training "step".

    Raises:
        RuntimeError: it needs more than the limit, or it is not what was asked for.
    """
    limit = min(LIMIT, int(0.85 * memory_available()))
    client = Client(python, "mlip" if program in RADIALS else "mace", memory=limit)
    try:
        if what == "call":
            client.ask("load", model=model, dtype=dtype, **options_of(program))
        else:
            radial = client.ask("load_training", model=model, dtype=dtype, **options_of(program))["radial"]
            if program in RADIALS and radial != program:
                raise RuntimeError(f"trained with radial functions {radial}")
        for atoms in (silicon(8), silicon(n_atoms)):
            if what == "call":
                shape = {"numbers": atoms.numbers.tolist(), "cell": atoms.cell.tolist()}
                client.ask("structure", positions=atoms.positions.tolist(), **shape)
            else:
                client.ask("batch", structures=[labelled(atoms)])
            found = client.ask("peak_memory", what=what)
        return found
    finally:
        client.close()
