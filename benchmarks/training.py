"""A training step of mlip and of mace-torch: energy and force loss, backward, Adam, on the same batch and weights.

The batch, neighbor lists included, is made beforehand, as both programs do it for a whole training. Before the steps
are timed, the gradients of the loss in all parameters are compared, under mace-torch's names.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from benchmarks.calls import RADIALS, TORCH_SIMD, TURN, Measured, Settings, silicon
from benchmarks.machine import memory_available
from benchmarks.worker import Client
from mlip.neighbors import neighbor_list

Gradients = dict[str, NDArray[np.float64]]
#: Least number of pairs of the batch of silicon.
SILICON_EDGES = 20_000
#: As in the scripts of mace-torch, with the features of the runner's other random model.
MOLECULE = {"hidden": "128x0e+128x1o", "cutoff": 5.0, "num_bessel": 8}
#: Steps before the timed ones: torch optimizes mace-torch's functions during the first.
WARM_UP = 3


@dataclass(frozen=True)
class Batch:
    """A model file and the labelled structures that it learns."""

    name: str
    model_name: str
    model: Path
    structures: list[dict[str, Any]]

    @property
    def n_atoms(self) -> int:
        return sum(len(s["numbers"]) for s in self.structures)


def labelled(atoms: Atoms) -> dict[str, Any]:
    """What a worker needs of a structure; without labels they are zero."""
    known = atoms.calc is not None
    return {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.tolist(),
        "pbc": atoms.pbc.tolist(),
        "energy": atoms.get_potential_energy() if known else 0.0,
        "forces": (atoms.get_forces() if known else np.zeros((len(atoms), 3))).tolist(),
    }


def count_pairs(atoms: Atoms, cutoff: float) -> int:
    return neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)[0].shape[1]


def batches(settings: Settings, folder: Path) -> list[Batch]:
    """Those that data and models are at hand for; rattled silicon without labels if none."""
    found = []
    data = Path(os.environ.get("MLIP_DATA", ""))
    if "MLIP_DATA" in os.environ and settings.peer_python:
        alone = sorted(ase.io.read(data / "acac/isolated_atoms.xyz", ":"), key=lambda atoms: atoms.numbers[0])
        molecules = ase.io.read(data / "acac/train_300K.xyz", ":20")
        path = folder / "molecule.model"
        maker = Client(settings.peer_python, "mace")
        try:
            energies = {str(atoms.numbers[0]): atoms.get_potential_energy() for atoms in alone}
            neighbors = sum(count_pairs(a, 5.0) for a in molecules) / sum(map(len, molecules))
            maker.ask("make_model", path=str(path), energies=energies, neighbors=neighbors, **MOLECULE)
        finally:
            maker.close()
        for size in (5, 20):
            structures = [labelled(atoms) for atoms in molecules[:size]]
            found.append(Batch(f"acetylacetone, batch {size}", MOLECULE["hidden"], path, structures))
    if "MLIP_DATA" in os.environ and "mace_mp_small" in settings.models:
        structures, pairs = [], 0
        for atoms in ase.io.iread(data / "mlearn/Si/train.extxyz"):
            structures.append(labelled(atoms))
            pairs += count_pairs(atoms, 6.0)
            if pairs >= SILICON_EDGES:
                break
        model = settings.models["mace_mp_small"]
        found.append(Batch(f"mlearn Si, batch {len(structures)}", "mace_mp_small", model, structures))
    if not found:
        name, path = next(iter(settings.models.items()))
        found.append(Batch("rattled silicon, batch 2", name, path, [labelled(silicon(8))] * 2))
    return found


def training(settings: Settings) -> Iterator[dict[str, Any]]:
    """A row for each batch and precision."""
    environment = {"MLIP_SIMD": settings.simd[0], **TORCH_SIMD[settings.simd[0]]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        programs = {radial: Client(sys.executable, "mlip", environment) for radial in RADIALS}
        if settings.peer_python:
            limit = int(0.85 * memory_available())
            programs = {"mace-torch": Client(settings.peer_python, "mace", environment, limit), **programs}
        try:
            for batch in batches(settings, folder):
                reference: Gradients = {}
                for dtype in sorted(settings.dtypes, reverse=True):  # float64 first
                    row, gradients = _row(settings, batch, dtype, programs, folder)
                    reference = reference or gradients.get("mace-torch", {})
                    if reference:
                        row["gradients"] = {p: deviation(g, reference) for p, g in gradients.items()}
                    yield row
        finally:
            for client in programs.values():
                client.close()


def _row(
    settings: Settings, batch: Batch, dtype: str, programs: dict[str, Client], folder: Path
) -> tuple[dict[str, Any], dict[str, Gradients]]:
    """Measurements of one batch, and the gradients of each program, if mace-torch is one of them."""
    row: dict[str, Any] = {"batch": batch.name, "model": batch.model_name, "dtype": dtype, "simd": settings.simd[0]}
    row |= {"atoms": batch.n_atoms, "structures": len(batch.structures), "failed": {}}
    measured: dict[str, Measured] = {}
    gradients: dict[str, Gradients] = {}
    for program, client in programs.items():
        options = {} if program == "mace-torch" else {"radial": program}
        try:
            loaded = client.ask("load_training", model=str(batch.model), dtype=dtype, **options)
            if program in RADIALS and loaded["radial"] != program:
                row["failed"][program] = f"trained with radial functions {loaded['radial']}"
                continue
            row["pairs"] = client.ask("batch", structures=batch.structures)
            if "mace-torch" in programs:
                path = folder / f"{program}.npz"
                row.setdefault("loss", {})[program] = client.ask("gradients", path=str(path))
                with np.load(path) as stored:
                    gradients[program] = dict(stored)
            first = client.ask("train", steps=WARM_UP)["wall"]
        except RuntimeError as error:
            row["failed"][program] = str(error)
            continue
        row.setdefault("parameters", {})[program] = loaded["parameters"]
        measured[program] = Measured(first=first[0])
    _turns(settings, {program: (programs[program], m) for program, m in measured.items()})
    row["programs"] = {program: m.as_dict(batch.n_atoms) for program, m in measured.items()}
    row["load"] = os.getloadavg()[0]
    if "mace-torch" in measured:
        peer, ours = measured["mace-torch"], {r: measured[r] for r in RADIALS if r in measured}
        row["ratios"] = {r: statistics.median(peer.wall) / statistics.median(m.wall) for r, m in ours.items()}
        row["ratios_processor"] = {
            r: statistics.median(peer.processor) / statistics.median(m.processor) for r, m in ours.items()
        }
    return row, gradients


def _turns(settings: Settings, programs: dict[str, tuple[Client, Measured]]) -> None:
    """Steps of the programs in turn; where they are short, several a turn, after one that is not timed."""
    for turn in itertools.count():
        waiting = [p for p, (_, m) in programs.items() if turn < _turns_of(settings, p, m)]
        if not waiting:
            return
        for program in waiting:
            client, result = programs[program]
            typical = statistics.median(result.wall) if result.wall else result.first
            extra = int(min(20, TURN / typical))
            found = client.ask("train", steps=extra + 1)
            drop = 1 if extra else 0
            result.wall += found["wall"][drop:]
            result.processor += found["processor"][drop:]


def _turns_of(settings: Settings, program: str, result: Measured) -> int:
    """Of mace-torch fewer, at least two, if its steps are long."""
    if program != "mace-torch" or not result.wall:
        return settings.repeats
    return max(2, min(settings.repeats, int(settings.peer_seconds / statistics.median(result.wall))))


def deviation(gradients: Gradients, reference: Gradients) -> dict[str, Any]:
    """Largest deviation of a parameter tensor's gradient from the reference, relative to its largest component there,
    and that tensor; tensors that only one of the two has."""
    found = {}
    for name in gradients.keys() & reference.keys():
        scale = np.abs(reference[name]).max(initial=0.0)
        difference = np.abs(gradients[name] - reference[name]).max(initial=0.0)
        found[name] = float(difference / scale) if scale else (0.0 if difference == 0 else float("inf"))
    worst = max(found, key=lambda name: found[name])
    unmatched = sorted(gradients.keys() ^ reference.keys())
    return {"largest": found[worst], "tensor": worst, "tensors": len(found), "unmatched": unmatched}
