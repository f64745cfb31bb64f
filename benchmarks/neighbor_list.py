"""Speed of the neighbor list against matscipy and, where it is installed (extra `bench`), vesin, in the same run.

    OMP_NUM_THREADS=1 python benchmarks/neighbor_list.py [--json] [--repeats 5] [--cutoff 6.0] [--clock cpu]
        [--largest 1000000]

Every program makes i, j and S of the full list from the same positions: ours in new tensors and sorted by i (large
tensors may get memory that earlier ones left), vesin unsorted and without a copy of its own, reused arrays. Times are
medians; the programs take turns, so that a busy machine slows all of them alike. With one thread, the time of the
processor (`--clock cpu`) is the better measure on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from matscipy.neighbours import neighbour_list as matscipy_list

import mlip
from mlip.neighbors import neighbor_list

try:
    from vesin import NeighborList as VesinList
except ImportError:
    VesinList = None


#: More take matscipy many seconds and gigabytes.
MATSCIPY_ATOMS = 200_000


def molecule(generator: np.random.Generator) -> Atoms:
    """15 atoms on random sites of a 3x3x3 lattice of 1.5 Å."""
    sites = generator.permutation(np.argwhere(np.ones((3, 3, 3))))[:15] * 1.5
    return Atoms("C15", positions=sites + generator.normal(0, 0.1, (15, 3)), cell=np.eye(3) * 50)


def liquid(generator: np.random.Generator, per_axis: int) -> Atoms:
    """0.1 atoms per Å³ in random order."""
    n, step = per_axis**3, 0.1 ** (-1 / 3)
    sites = generator.permutation(np.argwhere(np.ones((per_axis,) * 3))) + generator.uniform(0, 0.7, (n, 3))
    return Atoms(numbers=np.full(n, 18), positions=sites * step, cell=np.eye(3) * per_axis * step, pbc=True)


def structures(largest: int) -> Iterator[tuple[str, list[Atoms]]]:
    """Batches of structures with their names."""
    for n in (1, 3, 5, 11, 23, 50):
        if 8 * n**3 <= largest:
            atoms = bulk("Si", cubic=True) * (n, n, n)
            atoms.rattle(0.1, seed=0)
            yield f"silicon, {len(atoms):,} atoms", [atoms]
    generator = np.random.default_rng(1)
    for n in (10, 22, 46, 100):
        if n**3 <= largest:
            yield f"liquid, {n**3:,} atoms", [liquid(generator, n)]
    yield "1,000 molecules of 15 atoms", [molecule(generator) for _ in range(1000)]


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

    calculator = VesinList(cutoff=cutoff, full_list=True, sorted=False) if VesinList else None

    def vesin() -> int:
        parts = ((a.positions, a.cell.array, bool(a.pbc.all())) for a in batch)
        return sum(len(calculator.compute(*part, quantities="ijS", copy=False)[0]) for part in parts)

    found: dict[str, Callable[[], int]] = {"mlip": ours}
    if len(positions) < MATSCIPY_ATOMS:
        found["matscipy"] = matscipy
    return found | ({"vesin": vesin} if VesinList else {})


def measure(
    functions: dict[str, Callable[[], int]], repeats: int, clock: Callable[[], float]
) -> tuple[int, dict[str, float]]:
    """Number of pairs, equal for all programs, and the median time of each in seconds.

    The programs take turns. Each turn begins with a call that is not timed, so that none pays for what another one
    left in the caches and in the system's free memory.
    """
    pairs: dict[str, int] = {}
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = clock()
            pairs[name] = function()
            seconds = clock() - start
            for _ in range(1 if seconds > 0.5 else min(100, int(3 + 0.02 / max(seconds, 1e-9)))):
                start = clock()
                function()
                times[name].append(clock() - start)
    if len(set(pairs.values())) != 1:
        raise SystemExit(f"the programs disagree about the number of pairs: {pairs}")
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
    parser.add_argument("--repeats", type=int, default=5, help="turns of each program")
    parser.add_argument("--largest", type=int, default=1_000_000, help="atoms")
    parser.add_argument("--cutoff", type=float, default=6.0, help="in Å")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64", help="of our positions")
    options = parser.parse_args()
    if not mlip.compiled:
        raise SystemExit("the extension is not built: there is nothing of ours to measure")
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    rows = []
    for name, batch in structures(options.largest):
        pairs, seconds = measure(programs(batch, options.cutoff, getattr(torch, options.dtype)), options.repeats, clock)
        rates = {program: pairs / value / 1e6 for program, value in seconds.items()}
        ratios = {program: value / seconds["mlip"] for program, value in seconds.items() if program != "mlip"}
        rows.append(
            {"case": name, "pairs": pairs, "milliseconds": {k: v * 1e3 for k, v in seconds.items()}}
            | {"million_pairs_per_second": rates, "times_faster_than": ratios}
        )
    report = {
        "machine": {
            "processor": processor(),
            "threads": torch.get_num_threads(),
            "simd": os.environ.get("MLIP_SIMD", "best"),
            "load": os.getloadavg()[0],
        },
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
        print(f"{row['case']:28s} {row['pairs']:9d} pairs  {rate:6.1f} Mpairs/s | " + " | ".join(parts))


if __name__ == "__main__":
    main()
