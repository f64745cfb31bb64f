"""MACE by mlip and by mace-torch's own calculator: single calls and molecular dynamics.

Every program is a process of its own (`benchmarks.worker`). The programs take turns, so that a busy machine slows all
of them alike, and evaluate the same structures. In each turn all atoms move before every call, so that no result can be
kept; a first call of a turn is not timed where calls are fast.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from numpy.typing import NDArray

from benchmarks.machine import memory_available
from benchmarks.worker import Client

#: Unit cells of silicon along the axes, by number of atoms.
SILICON = {
    8: (1, 1, 1),
    64: (2, 2, 2),
    216: (3, 3, 3),
    512: (4, 4, 4),
    1000: (5, 5, 5),
    2000: (5, 5, 10),
    10000: (5, 10, 25),
    50000: (10, 25, 25),
}
RADIALS = ("exact", "table")
#: Variables that keep torch to an instruction set, too.
TORCH_SIMD = {
    "avx512": {},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "baseline": {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}
#: Seconds that the calls of one turn take, if there are to be several.
TURN = 0.2


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        models: weights files by name.
        dtypes: of the networks.
        sizes: atoms of silicon, keys of `SILICON`.
        simd: instruction sets.
        repeats: turns.
        peer_python: interpreter of the environment of mace-torch, None: mlip alone.
        peer_largest: atoms up to which the peer is run.
        peer_seconds: time for the peer's calls on one structure, beyond which there are fewer turns, at least two.
    """

    models: dict[str, Path]
    dtypes: tuple[str, ...] = ("float32", "float64")
    sizes: tuple[int, ...] = (8, 64, 216, 512, 1000, 2000)
    simd: tuple[str, ...] = ("avx512",)
    repeats: int = 5
    peer_python: str | None = None
    peer_largest: int = 2000
    peer_seconds: float = 30.0


def silicon(n_atoms: int) -> Atoms:
    """A crystal with atoms 0.05 Å off their sites."""
    atoms = bulk("Si", cubic=True).repeat(SILICON[n_atoms])
    atoms.rattle(0.05, seed=n_atoms)
    return atoms


def moved(atoms: Atoms, seed: int) -> list[list[float]]:
    """The positions, each off by 0.01 Å."""
    return (atoms.positions + np.random.default_rng(seed).normal(0, 0.01, atoms.positions.shape)).tolist()


def workers(settings: Settings, simd: str) -> Iterator[tuple[str, Client]]:
    """Processes by program: "mace-torch" if there is a peer, "exact" and "table" of mlip."""
    environment = {"MLIP_SIMD": simd, **TORCH_SIMD[simd]}
    if settings.peer_python:
        yield "mace-torch", Client(settings.peer_python, "mace", environment, int(0.85 * memory_available()))
    for radial in RADIALS:
        yield radial, Client(sys.executable, "mlip", environment)


def options_of(program: str) -> dict[str, str]:
    """Those of a calculator."""
    return {"radial": program} if program in RADIALS else {}


@dataclass
class Measured:
    """Calls of one program on one structure."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    first: float = 0.0
    forces: NDArray[np.float64] | None = None
    energy: float = 0.0

    def as_dict(self, n_atoms: int) -> dict[str, float]:
        return {
            "milliseconds": 1e3 * statistics.median(self.wall),
            "ms_per_atom": 1e3 * statistics.median(self.wall) / n_atoms,
            "processor_milliseconds": 1e3 * statistics.median(self.processor),
            "processor_share": sum(self.processor) / sum(self.wall),
            "first_call_s": self.first,
            "calls": len(self.wall),
        }


def calls(settings: Settings) -> Iterator[dict[str, Any]]:
    """Energy, forces and stress: a row for each instruction set, model, precision and number of atoms."""
    for simd in settings.simd:
        for name, path in settings.models.items():
            programs = dict(workers(settings, simd))
            try:
                yield from _calls_of_model(settings, simd, name, path, programs)
            finally:
                for client in programs.values():
                    client.close()


def _calls_of_model(
    settings: Settings, simd: str, name: str, path: Path, programs: dict[str, Client]
) -> Iterator[dict[str, Any]]:
    exact: dict[int, Measured] = {}  # results in float64, of the peer if there is one
    for dtype in sorted(settings.dtypes, reverse=True):  # float64 first
        loading = {
            program: client.ask("load", model=str(path), dtype=dtype, **options_of(program))
            for program, client in programs.items()
        }
        for n_atoms in settings.sizes:
            atoms = silicon(n_atoms)
            row: dict[str, Any] = {"simd": simd, "model": name, "dtype": dtype, "atoms": n_atoms}
            measured, failed = _turns(settings, atoms, programs)
            row |= {"load_s": loading, "load": os.getloadavg()[0], "failed": failed}
            row["programs"] = {program: m.as_dict(n_atoms) for program, m in measured.items()}
            best = measured.get("mace-torch") or measured["exact"]
            if dtype == "float64":
                exact[n_atoms] = best
            reference = exact.get(n_atoms, best)
            row["deviations"] = {program: _deviations(m, reference, n_atoms) for program, m in measured.items()}
            row["largest_force"] = float(np.abs(reference.forces).max())
            if "mace-torch" in measured:
                peer = statistics.median(measured["mace-torch"].wall)
                used = statistics.median(measured["mace-torch"].processor)
                row["ratios"] = {radial: peer / statistics.median(measured[radial].wall) for radial in RADIALS}
                row["ratios_processor"] = {r: used / statistics.median(measured[r].processor) for r in RADIALS}
            yield row


def _deviations(measured: Measured, reference: Measured, n_atoms: int) -> dict[str, float]:
    assert measured.forces is not None and reference.forces is not None
    return {
        "force": float(np.abs(measured.forces - reference.forces).max()),
        "energy_per_atom": abs(measured.energy - reference.energy) / n_atoms,
    }


def _turns(settings: Settings, atoms: Atoms, programs: dict[str, Client]) -> tuple[dict[str, Measured], dict[str, str]]:
    """Measurements, and why a program could not do it."""
    measured: dict[str, Measured] = {}
    failed: dict[str, str] = {}
    turns = {program: settings.repeats for program in programs}
    typical = {}
    for program, client in programs.items():
        if program == "mace-torch" and len(atoms) > settings.peer_largest:
            continue
        try:
            client.ask("structure", numbers=atoms.numbers.tolist(), cell=atoms.cell.tolist(), positions=moved(atoms, 0))
            start = time.perf_counter()
            first = client.ask("call", positions=[moved(atoms, 1)])["wall"][0]
            found = client.ask("call", positions=[moved(atoms, 2)], results=True)
            if program == "mace-torch":
                each = (time.perf_counter() - start) / 2
                turns[program] = max(2, min(settings.repeats, int(settings.peer_seconds / each)))
        except RuntimeError as error:
            failed[program] = str(error)
            continue
        typical[program] = found["wall"][0]
        measured[program] = Measured(first=first, forces=np.array(found["forces"]), energy=found["energy"])
    for turn in range(max(turns.values())):
        for program, result in measured.items():
            if turn >= turns[program]:
                continue
            extra = int(min(20, TURN / typical[program]))
            wanted = [moved(atoms, 100 * turn + k) for k in range(extra + 1)]
            found = programs[program].ask("call", positions=wanted)
            drop = 1 if extra else 0  # the caches belong to another program before it
            result.wall += found["wall"][drop:]
            result.processor += found["processor"][drop:]
    return measured, failed


def dynamics(settings: Settings, sizes: tuple[int, ...] = (216, 1000), steps: int = 200) -> Iterator[dict[str, Any]]:
    """Molecular dynamics of silicon at 600 K: steps per second, for each precision and number of atoms."""
    for simd in settings.simd:
        name, path = next(iter(settings.models.items()))
        programs = dict(workers(settings, simd))
        try:
            for dtype in settings.dtypes:
                for program, client in programs.items():
                    client.ask("load", model=str(path), dtype=dtype, **options_of(program))
                for n_atoms in sizes:
                    seconds = {
                        program: _seconds_per_step(client, n_atoms, steps if program in RADIALS else 4)
                        for program, client in programs.items()
                    }
                    rates = {program: 1 / wall for program, (wall, _) in seconds.items()}
                    row: dict[str, Any] = {"simd": simd, "model": name, "dtype": dtype, "atoms": n_atoms}
                    row |= {"steps_per_second": rates, "load": os.getloadavg()[0]}
                    row["processor_share"] = {program: used / wall for program, (wall, used) in seconds.items()}
                    if "mace-torch" in rates:
                        wall, used = seconds["mace-torch"]
                        row["ratios"] = {radial: wall / seconds[radial][0] for radial in RADIALS}
                        row["ratios_processor"] = {radial: used / seconds[radial][1] for radial in RADIALS}
                    yield row
        finally:
            for client in programs.values():
                client.close()


def _seconds_per_step(client: Client, n_atoms: int, steps: int) -> tuple[float, float]:
    """Of wall and of processor time."""
    atoms = silicon(n_atoms)
    MaxwellBoltzmannDistribution(atoms, temperature_K=600, rng=np.random.default_rng(0))
    client.ask(
        "structure", numbers=atoms.numbers.tolist(), cell=atoms.cell.tolist(), positions=atoms.positions.tolist()
    )
    momenta = atoms.get_momenta().tolist()
    client.ask("md", momenta=momenta, steps=1)
    # The forces of the first structure are one call more than there are steps.
    wall, used = client.ask("md", momenta=momenta, steps=steps)
    return wall / (steps + 1), used / (steps + 1)
