"""Phonons of a crystal of low symmetry: forces by mlip in batches, by mace-torch's calculator one by one."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from ase import Atoms
from ase.spacegroup import crystal

from benchmarks.calls import RADIALS, Settings
from benchmarks.worker import Client
from mlip import MLIPCalculator
from mlip.workflows.phonons import PhononResult
from mlip.workflows.phonons import phonons as run
from mlip.workflows.relax import relax


def baddeleyite() -> Atoms:
    """Monoclinic ZrO2, P2_1/c, 12 atoms (Howard, Hill, Reichert, Acta Cryst. B 44, 116, 1988)."""
    return crystal(
        ["Zr", "O", "O"],
        [(0.2754, 0.0395, 0.2083), (0.0700, 0.3317, 0.3447), (0.4496, 0.7569, 0.4792)],
        spacegroup=14,
        cellpar=[5.1505, 5.2116, 5.3173, 90, 99.23, 90],
    )


class Forces:
    """Forces of structures, with the seconds they took; what `mlip.workflows.phonons` calls."""

    def __init__(self, source: MLIPCalculator | Client) -> None:
        self.source, self.seconds = source, 0.0

    def __call__(self, structures: list[Atoms]) -> list[Any]:
        if isinstance(self.source, MLIPCalculator):
            start = time.perf_counter()
            results = self.source.evaluate(structures, forces=True, stress=False)
            self.seconds += time.perf_counter() - start
            return [result["forces"] for result in results]
        wanted = [
            {"numbers": a.numbers.tolist(), "positions": a.positions.tolist(), "cell": a.cell.tolist()}
            for a in structures
        ]
        found = self.source.ask("forces", structures=wanted)
        self.seconds += found["seconds"]
        return [np.array(forces) for forces in found["forces"]]


def phonons(settings: Settings, supercell: tuple[int, int, int] = (2, 2, 2)) -> Iterator[dict[str, Any]]:
    """Finite displacements, force constants, bands and density of states: a row for each precision.

    phonopy does the same for all; the seconds of the forces alone are given apart.
    """
    name, path = next(iter(settings.models.items()))
    client = Client(settings.peer_python, "mace") if settings.peer_python else None
    relaxed = relax(baddeleyite(), MLIPCalculator(path, device="cpu"), fmax=0.001, cell=True).atoms
    for dtype in settings.dtypes:
        sources: dict[str, MLIPCalculator | Client] = {
            radial: MLIPCalculator(path, device="cpu", dtype=dtype, radial=radial) for radial in RADIALS
        }
        checking = sources["exact"]
        if client:
            client.ask("load", model=str(path), dtype=dtype)
            sources["mace-torch"] = client
        results: dict[str, PhononResult] = {}
        seconds, seconds_forces = {}, {}
        for program, source in sources.items():
            Forces(source)([relaxed] * 3)  # the first calls are not those that are compared
            forces = Forces(source)
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                results[program] = run(relaxed, checking, evaluate=forces, supercell=supercell, mesh_length=20.0)
            seconds[program], seconds_forces[program] = time.perf_counter() - start, forces.seconds
        best = results.get("mace-torch", results["exact"])
        row: dict[str, Any] = {"crystal": "ZrO2, P2_1/c", "model": name, "dtype": dtype, "load": os.getloadavg()[0]}
        row |= {"displacements": best.displacements, "atoms": len(relaxed) * int(np.prod(supercell))}
        row |= {"seconds": seconds, "seconds_forces": seconds_forces}
        row["deviation_THz"] = {
            program: float(np.abs(result.frequencies_gamma_THz - best.frequencies_gamma_THz).max())
            for program, result in results.items()
        }
        if client:
            row["ratios"] = {radial: seconds["mace-torch"] / seconds[radial] for radial in RADIALS}
            row["ratios_forces"] = {r: seconds_forces["mace-torch"] / seconds_forces[r] for r in RADIALS}
        yield row
    if client:
        client.close()
