"""Measures mlip and its peers in one run, on one thread but for the case `threads`, and writes JSON, a table and plots.

    python -m benchmarks.run [--cases neighbor_list mace ...] [--peer_python PYTHON] [--output DIR]
    python -m benchmarks.run --quick

PYTHON is the interpreter of an environment that has mace-torch; without it only mlip is measured. Models of others, and
what they are trained on, are looked for in the folder MLIP_DATA; models with random weights are made by the peer. Each
case writes its own file, row by row, so that a run can be stopped. `python -m benchmarks.report DIR` makes the table
and the plots anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

CASES = ("neighbor_list", "mace", "md", "phonons", "training", "memory", "threads", "stages")
RESULTS = Path(__file__).with_name("results")
OUTSIDE = {"mace_mp_small": "mace/mace_mp_small.model", "autoplex_Si_L1": "mace/autoplex_Si_L1.model"}
RANDOM = "128x0e+128x1o"


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--models", nargs="+", default=["mace_mp_small", RANDOM, "autoplex_Si_L1"], help="names, paths")
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "float64"], default=["float32", "float64"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[8, 64, 216, 512, 1000, 2000, 10000])
    parser.add_argument("--memory_sizes", nargs="+", type=int, default=[1000, 10000, 50000], help="of the case memory")
    parser.add_argument("--simd", nargs="+", choices=["avx512", "avx2", "baseline"], help="default: the machine's best")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each program")
    parser.add_argument("--peer_python", help="interpreter of the environment that has mace-torch")
    parser.add_argument("--peer_largest", type=int, default=2000, help="atoms up to which the peer is run")
    parser.add_argument("--peer_seconds", type=float, default=30.0, help="of the peer's calls on one structure")
    parser.add_argument("--core", type=int, help="run everything but threads on this core")
    parser.add_argument("--name", default="", help="appended to the names of the result files")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="the smallest of everything, without peers")
    return parser.parse_args(arguments)


def models(names: list[str], peer_python: str | None, folder: Path) -> dict[str, Path]:
    """Weights files by name; what is not at hand is left out with a line on stderr."""
    from mlip.zoo import bundled_models

    found: dict[str, Path] = {}
    for name in names:
        path: Path | None = None
        if name == RANDOM and peer_python:
            from benchmarks.worker import Client

            path = folder / "random.model"
            maker = Client(peer_python, "mace")
            maker.ask("make_model", path=str(path), hidden=RANDOM)
            maker.close()
        elif name in OUTSIDE and "MLIP_DATA" in os.environ:
            path = Path(os.environ["MLIP_DATA"]) / OUTSIDE[name]
        elif name not in OUTSIDE and name != RANDOM:
            path = bundled_models().get(name, Path(name))
        if path and path.is_file():
            found[name] = path
        else:
            print(f"{name}: not at hand, left out", file=sys.stderr)
    return found


def neighbor_list(options: argparse.Namespace) -> dict[str, Any]:
    """The report of benchmarks/neighbor_list.py."""
    command = [sys.executable, str(Path(__file__).with_name("neighbor_list.py")), "--json"]
    command += ["--repeats", str(options.repeats), "--largest", "1000" if options.quick else "1000000"]
    root = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)


def rows_of(case: str, options: argparse.Namespace, settings: Any) -> Iterator[dict[str, Any]]:
    from benchmarks import calls
    from benchmarks.memory import memory
    from benchmarks.phonons import phonons
    from benchmarks.stages import stages
    from benchmarks.threads import threads
    from benchmarks.training import training

    small = options.quick
    if case == "mace":
        return calls.calls(settings)
    if case == "md":
        return calls.dynamics(settings, (8,) if small else (216, 1000), 5 if small else 200)
    if case == "phonons":
        knows_oxide = {8, 40} <= set(_elements(settings))
        return phonons(settings, (1, 1, 1) if small else (2, 2, 2)) if knows_oxide else iter(())
    if case == "training":
        return training(settings)
    if case == "memory":
        return memory(settings, (8,), (8,)) if small else memory(settings, tuple(options.memory_sizes))
    if case == "threads":
        return threads(settings, 8, 8) if small else threads(settings)
    return stages(settings, (8,) if small else (216, 1000), 2 if small else 10)


def _elements(settings: Any) -> tuple[int, ...]:
    from mlip import load

    return load(next(iter(settings.models.values()))).elements


def write(path: Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> None:
    options = parsed(arguments)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"  # before torch is imported, and for all processes
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # torch's profiler is silent then
    pinned = options.core is not None
    cores = os.sched_getaffinity(0) if pinned else set()
    if pinned:
        os.sched_setaffinity(0, {options.core})
    if options.quick:
        options.models, options.sizes, options.repeats = ["silicon"], [8], 1

    from benchmarks.calls import Settings
    from benchmarks.machine import machine
    from benchmarks.report import report
    from benchmarks.worker import Worker

    described = machine()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            models=models(options.models, options.peer_python, Path(folder)),
            dtypes=tuple(options.dtypes),
            sizes=tuple(options.sizes),
            simd=tuple(options.simd or [described["simd"]]),
            repeats=options.repeats,
            peer_python=options.peer_python,
            peer_largest=options.peer_largest,
            peer_seconds=options.peer_seconds,
        )
        versions = {"ours": Worker("mlip").versions()}
        if options.peer_python:
            versions["peer"] = peer_versions(options.peer_python)
        for case in options.cases:
            path = options.output / f"{case}{options.name}.json"
            if case == "neighbor_list":
                write(path, neighbor_list(options))
                continue
            if not settings.models:
                raise SystemExit("none of the models is at hand: set MLIP_DATA, or give the path of a weights file")
            chosen = replace(settings, models=dict(list(settings.models.items())[:1])) if case == "md" else settings
            rows: list[dict[str, Any]] = []
            start = time.perf_counter()
            if pinned:
                os.sched_setaffinity(0, cores if case == "threads" else {options.core})
            for row in rows_of(case, options, chosen):
                rows.append(row)
                done = described | {"load_after": os.getloadavg()[0], "seconds": time.perf_counter() - start}
                write(path, {"machine": done, "versions": versions, "rows": rows})
                print(case, json.dumps({k: v for k, v in row.items() if k not in ("programs", "stages")}), flush=True)
    report(options.output)


def peer_versions(python: str) -> dict[str, str]:
    from benchmarks.worker import Client

    client = Client(python, "mace")
    try:
        return client.ask("versions")
    finally:
        client.close()


if __name__ == "__main__":
    main()
