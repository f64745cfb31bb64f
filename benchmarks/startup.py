"""Start of a training run: from a file of structures to neighbor lists in memory, ours and mace-torch's in one run.

    python benchmarks/startup.py [--structures 10000] [--atoms 15] [--peer-python /path/with/mace-torch/bin/python]

Molecules with energies and forces, in extended xyz as ASE writes it. Reported are processor seconds (one thread; other
programs on the machine do not count) of each part: reading, beside ASE's reader, labels and checks, neighbor lists,
statistics, and of all that `mlip.training.data.load_data` does. The peer reads the same file with `mace.data` and makes
its `AtomicData`, which hold the neighbor lists. Imports are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

CUTOFF = 5.0

PEER = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
from mace import data, tools
from mace.data.utils import KeySpecification
path, cutoff = sys.argv[1], float(sys.argv[2])
keys = KeySpecification.from_defaults()
start = time.process_time()
_, configs = data.load_from_xyz(path, keys)
read = time.process_time() - start
table = tools.AtomicNumberTable([1, 6, 8])
made = [data.AtomicData.from_config(c, z_table=table, cutoff=cutoff) for c in configs]
print(json.dumps({"reading and labels": read, "all": time.process_time() - start, "structures": len(made)}))
"""


def molecules(n: int, atoms: int, seed: int = 0) -> list[Atoms]:
    """Random arrangements of H, C and O, no two closer than 0.9 Å, with labels."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(np.ceil(atoms ** (1 / 3)))] * 3), -1).reshape(-1, 3)[:atoms] * 1.5
    structures = []
    for _ in range(n):
        molecule = Atoms(rng.choice([1, 6, 8], size=atoms), grid + rng.uniform(-0.3, 0.3, size=(atoms, 3)))
        molecule.info |= {"config_type": "300K_MD", "REF_energy": float(rng.normal())}
        molecule.arrays["REF_forces"] = rng.normal(size=(atoms, 3))
        structures.append(molecule)
    return structures


def with_calculators(structures: list[Atoms]) -> list[Atoms]:
    """The same with the labels under ASE's own names."""
    changed = []
    for original in structures:
        atoms = original.copy()
        atoms.calc = SinglePointCalculator(
            atoms, energy=atoms.info.pop("REF_energy"), forces=atoms.arrays.pop("REF_forces")
        )
        changed.append(atoms)
    return changed


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def ours(path: Path) -> dict[str, float]:
    """Seconds of each part."""
    from mlip.data.batches import make_samples
    from mlip.data.labels import LabelKeys, label_structures
    from mlip.data.reading import read_structures
    from mlip.data.statistics import statistics
    from mlip.training.config import TrainingConfig
    from mlip.training.data import load_data

    seconds = {}
    seconds["reading"], atoms = timed(lambda: read_structures(path))
    seconds["labels and checks"], labelled = timed(lambda: label_structures(atoms, LabelKeys()).structures)
    seconds["neighbor lists"], samples = timed(lambda: make_samples(labelled, CUTOFF))
    seconds["statistics"], _ = timed(lambda: statistics(samples, {1: 0.0, 6: 0.0, 8: 0.0}))
    config = TrainingConfig(train_file=str(path), r_max=CUTOFF, E0s="average")
    seconds["all (load_data)"], _ = timed(lambda: load_data(config))
    return seconds


def peer(python: str, path: Path) -> dict[str, float]:
    """The same of mace-torch, in a process of its own."""
    run = subprocess.run(
        [python, "-c", PEER, str(path), str(CUTOFF)], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    return dict(json.loads(run.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--structures", type=int, default=10_000)
    parser.add_argument("--atoms", type=int, default=15)
    parser.add_argument("--peer-python")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    structures = molecules(options.structures, options.atoms)
    rows: dict[str, Any] = {"structures": options.structures, "atoms": options.atoms}
    with tempfile.TemporaryDirectory() as folder:
        warm, named, plain = Path(folder, "warm.xyz"), Path(folder, "named.xyz"), Path(folder, "plain.xyz")
        write(warm, structures[:50], format="extxyz")
        write(named, structures, format="extxyz")
        write(plain, with_calculators(structures), format="extxyz")
        ours(warm)
        for name, path in (("REF_energy, REF_forces", named), ("energy, forces", plain)):
            parts = ours(path)
            rows[name] = parts | {"ASE's reader": timed(lambda p=path: read(p, ":", format="extxyz"))[0]}  # type: ignore[misc]
            rows[name]["reading, times faster than ASE"] = rows[name]["ASE's reader"] / rows[name]["reading"]
        if options.peer_python:
            rows["mace-torch"] = peer(options.peer_python, named)
            rows["times faster than mace-torch"] = (
                rows["mace-torch"]["all"] / rows["REF_energy, REF_forces"]["all (load_data)"]
            )
    json.dump(rows, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
