"""What lives at the peak of a call: torch's allocations by size, each with the function that made it.

    python -m benchmarks.live_memory MODEL [--atoms 1000] [--dtype float64] [--radial table] [--training] [--list 25]

Bytes are per atom. Memory that kernels take beside torch's allocator is not seen; compare with the case `memory`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.calls import RADIALS, silicon
from benchmarks.training import labelled
from benchmarks.training_step import OursTrained
from mlip import MLIPCalculator


@dataclass(frozen=True)
class Live:
    """An allocation that lives at the peak."""

    bytes: int
    made_by: str
    when: float  # as a part of the call


def trace(function: Callable[[], object]) -> list[dict[str, Any]]:
    """Events of torch's profiler: functions and allocations."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, record_shapes=True) as profiler:
        function()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return json.loads(path.read_text())["traceEvents"]


def at_peak(events: list[dict[str, Any]]) -> tuple[int, list[Live]]:
    """The most bytes that were allocated at once since the start, and what they were."""
    changes = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"])
    functions = sorted((e for e in events if e.get("cat") in ("cpu_op", "user_annotation")), key=lambda e: e["ts"])
    starts = [e["ts"] for e in functions]
    start, end = changes[0]["ts"], changes[-1]["ts"]
    live: dict[int, tuple[int, float]] = {}
    used = most = 0
    peak: list[tuple[int, float]] = []
    for change in changes:
        address, size = change["args"]["Addr"], change["args"]["Bytes"]
        if size > 0:
            live[address] = (size, change["ts"])
            used += size
            if used > most:
                most, peak = used, list(live.values())
        elif address in live:  # else it is older than the trace
            used -= live.pop(address)[0]

    def maker(at: float) -> str:
        for k in range(bisect_right(starts, at) - 1, max(-1, bisect_right(starts, at) - 300), -1):
            event = functions[k]
            if event["ts"] + event["dur"] >= at:
                shapes = [shape for shape in event["args"].get("Input Dims", []) if shape]
                outer = [f for f in functions[max(0, k - 40) : k] if f["ts"] + f["dur"] >= at]
                names = [f["name"] for f in [*outer, event]]
                inside = next((n for n in reversed(names) if "mlip" in n), names[0])
                name = names[-1] if inside in (names[-1], "") else f"{names[-1]} in {inside}"
                return f"{name} {shapes[:4]}"
        return "outside of torch's functions"

    return most, [Live(size, maker(at), (at - start) / (end - start)) for size, at in peak]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--atoms", type=int, default=1000)
    parser.add_argument("--dtype", default="float64", choices=["float32", "float64"])
    parser.add_argument("--radial", default="table", choices=RADIALS)
    parser.add_argument("--training", action="store_true", help="a training step instead of energy, forces and stress")
    parser.add_argument("--list", type=int, default=25, help="lines")
    options = parser.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")
    torch.set_num_threads(1)
    atoms = silicon(options.atoms)
    if options.training:
        trained = OursTrained(options.model, options.dtype, options.radial)
        trained.take([labelled(atoms)])
        work: Callable[[], object] = lambda: trained.steps(1)  # noqa: E731
    else:
        calculator = MLIPCalculator(options.model, device="cpu", dtype=options.dtype, radial=options.radial)
        work = lambda: calculator.calculate(atoms, ["energy", "forces", "stress"])  # noqa: E731
    work()
    atoms.rattle(0.01, seed=1)
    most, live = at_peak(trace(work))
    print(f"{options.dtype}, {options.radial}, {options.atoms} atoms: {most / options.atoms * 1e-3:.1f} kB per atom")
    sums: dict[tuple[str, int], list[Live]] = defaultdict(list)
    for one in live:
        sums[one.made_by, one.bytes].append(one)
    for (made_by, _), ones in sorted(sums.items(), key=lambda item: -sum(o.bytes for o in item[1]))[: options.list]:
        size = sum(one.bytes for one in ones) / options.atoms * 1e-3
        times = ", ".join(f"{one.when:.0%}" for one in ones[:4])
        print(f"{size:8.2f} kB  {len(ones)} x {made_by}  (made at {times})")


if __name__ == "__main__":
    main()
