"""Speed of the neighbor list against matscipy and, where it is installed (extra `bench`), vesin, in the same run.

    OMP_NUM_THREADS=1 python benchmarks/neighbor_list.py [--json] [--repeats 7] [--cutoff 6.0] [--clock cpu]

Every program makes i, j and S of the full list from the same positions. Times are medians, the repeats of the programs
interleaved, so that a busy machine slows all of them alike. With one thread, the time of the processor (`--clock cpu`)
is the better measure on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from matscipy.neighbours import neighbour_list as matscipy_list

import mlip
from mlip.neighbors import neighbor_list

try:
    from vesin import NeighborList as VesinList
except ImportError:
    VesinList = None


def structures() -> dict[str, list[Atoms]]:
    """Batches of structures by name."""
    silicon = bulk("Si", cubic=True)
    ethanol = [molecule("CH3CH2OH", vacuum=5.0) for _ in range(500)]  # matscipy wants a box around open structures
    cases = {f"Si, {8 * n**3} atoms": [silicon * (n, n, n)] for n in (1, 5, 10, 23)}
    cases["500 molecules of 9 atoms"] = ethanol
    for batch in cases.values():
        for seed, atoms in enumerate(batch):
            atoms.rattle(0.05, seed=seed)
    return cases


def programs(batch: list[Atoms], cutoff: float, dtype: torch.dtype) -> dict[str, Callable[[], int]]:
    """Functions that make the list of a batch and return the number of pairs."""
    positions = torch.tensor(np.concatenate([atoms.positions for atoms in batch]), dtype=dtype)
    cell = torch.tensor(np.array([atoms.cell.array for atoms in batch]))
    pbc = torch.tensor(np.array([atoms.pbc for atoms in batch]))
    sizes = torch.tensor([len(atoms) for atoms in batch])
    index = torch.repeat_interleave(torch.arange(len(batch)), sizes)

    def ours() -> int:
        return neighbor_list(positions, cell, pbc, cutoff, index)[0].shape[1]

    def matscipy() -> int:
        return sum(len(matscipy_list("ijS", atoms, cutoff)[0]) for atoms in batch)

    def vesin() -> int:
        calculator = VesinList(cutoff=cutoff, full_list=True, sorted=True)
        return sum(len(calculator.compute(a.positions, a.cell.array, bool(a.pbc.all()), "ijS")[0]) for a in batch)

    return {"mlip": ours, "matscipy": matscipy} | ({"vesin": vesin} if VesinList else {})


def measure(
    functions: dict[str, Callable[[], int]], repeats: int, clock: Callable[[], float]
) -> tuple[int, dict[str, float]]:
    """Number of pairs, equal for all programs, and the median time of each in seconds."""
    pairs = {name: function() for name, function in functions.items()}  # warms up
    if len(set(pairs.values())) != 1:
        raise SystemExit(f"the programs disagree about the number of pairs: {pairs}")
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = clock()
            function()
            times[name].append(clock() - start)
    return pairs["mlip"], {name: statistics.median(values) for name, values in times.items()}


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--cutoff", type=float, default=6.0, help="in Å")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64", help="of our positions")
    options = parser.parse_args()
    if not mlip.compiled:
        raise SystemExit("the extension is not built: there is nothing of ours to measure")
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    rows = []
    for name, batch in structures().items():
        pairs, seconds = measure(programs(batch, options.cutoff, getattr(torch, options.dtype)), options.repeats, clock)
        rates = {program: pairs / value / 1e6 for program, value in seconds.items()}
        ratios = {program: value / seconds["mlip"] for program, value in seconds.items() if program != "mlip"}
        rows.append(
            {"case": name, "pairs": pairs, "milliseconds": {k: v * 1e3 for k, v in seconds.items()}}
            | {"million_pairs_per_second": rates, "times_faster_than": ratios}
        )
    report = {
        "machine": {"processor": processor(), "threads": torch.get_num_threads(), "load": os.getloadavg()[0]},
        "versions": {name: metadata.version(name) for name in ("torch", "matscipy", *(["vesin"] if VesinList else []))},
        "cutoff": options.cutoff,
        "dtype": options.dtype,
        "repeats": options.repeats,
        "clock": options.clock,
        "rows": rows,
    }
    if options.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{report['machine']}, cutoff {options.cutoff} Å, {options.dtype}")
    print(f"median of {options.repeats}, {options.clock} time")
    for row in rows:
        parts = [f"{program} {value:9.2f} ms" for program, value in row["milliseconds"].items()]
        parts += [f"{value:5.1f}x {program}" for program, value in row["times_faster_than"].items()]
        rate = row["million_pairs_per_second"]["mlip"]
        print(f"{row['case']:26s} {row['pairs']:9d} pairs  {rate:6.1f} Mpairs/s | " + " | ".join(parts))


if __name__ == "__main__":
    main()
