"""Memory of `mlip train --stream` against the number of structures, beside that of a training set in memory.

    python -m benchmarks.streaming [--sizes 10000 100000 1000000] [--in_memory 10000 100000]
    python -m benchmarks.streaming --add --sizes 20000000 --in_memory -- --max_time 1

Writes sets of clusters of 8 argon atoms with Lennard-Jones labels as HDF5 files of at most 250,000 structures into a
temporary folder, trains a small MACE for one epoch on each with the command line of `mlip train`, on one thread, one
run after the other, and looks five times a second at how much of it is resident (Linux). Writes streaming.json and
streaming.png.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine
from mlip.data.blocks import Block
from mlip.data.shards import ShardWriter

RESULTS = Path(__file__).with_name("results")
#: Structures in a file, and in one go of making them.
FILE, AT_ONCE = 250_000, 10_000
EPSILON, SIGMA = 0.0104, 3.4  # argon, eV and Å
SECONDS, POINTS = 0.2, 100  # between two looks; of a curve that are kept
OPTIONS: dict[str, Any] = {
    "model": "MACE",
    "hidden_irreps": "8x0e",
    "max_ell": 1,
    "correlation": 2,
    "num_interactions": 1,
    "radial_MLP": "[16]",
    "r_max": 5.0,
    "E0s": "{Ar: 0.0}",
    "batch_size": 256,
    "valid_batch_size": 256,
    "max_num_epochs": 1,
    "device": "cpu",
    "no_plot": None,
}
COLORS = {"stream": "#2f6db5", "in memory": "#d9822b"}


def clusters(n: int, rng: np.random.Generator) -> Block:
    """Argon atoms at the corners of a cube of 3.8 Å, displaced, with their Lennard-Jones energies and forces."""
    corners = 3.8 * np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, 8).T
    positions = corners + rng.normal(scale=0.15, size=(n, 8, 3))
    vectors = positions[:, None] - positions[:, :, None]  # (n, center, neighbor, 3)
    squares = np.square(vectors).sum(axis=3) + np.where(np.eye(8, dtype=bool), np.inf, 0.0)
    sixth = (SIGMA**2 / squares) ** 3
    pull = 24 * EPSILON * (sixth - 2 * sixth**2) / squares  # along the vector to the neighbor
    return Block(
        numbers=np.full(8 * n, 18, dtype=np.uint8),
        positions=positions.reshape(-1, 3),
        forces=np.einsum("bij,bijx->bix", pull, vectors).reshape(-1, 3),
        cells=np.zeros((n, 3, 3)),
        pbc=np.zeros((n, 3), dtype=bool),
        energies=2 * EPSILON * (sixth**2 - sixth).sum(axis=(1, 2)),
        stresses=np.full((n, 3, 3), np.nan),
        info=b"{}" * n,
        ends=8 * np.arange(n + 1),
        info_ends=2 * np.arange(n + 1),
    )


def write(n: int, folder: Path, seed: int = 0) -> list[Path]:
    """Files of `n` structures."""
    rng = np.random.default_rng(seed)
    paths = []
    for start in range(0, n, FILE):
        paths.append(folder / f"{n}_{seed}_{len(paths)}.h5")
        with ShardWriter(paths[-1]) as writer:
            for first in range(start, min(n, start + FILE), AT_ONCE):
                writer.add_block(clusters(min(AT_ONCE, min(n, start + FILE) - first), rng))
    return paths


def resident(process: int) -> tuple[float, float]:
    """MB of a process now, and at most so far; zeros when it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    now, most = (float(found.get(name, 0)) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
    return now, most


def watched(words: list[str], folder: Path, threads: int) -> dict[str, Any]:
    """What a run says of itself, and its memory over time.

    Raises:
        SystemExit: the run failed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    started, peak = time.monotonic(), 0.0
    curve: list[tuple[float, float]] = []
    with open(folder / "out.json", "w") as out, open(folder / "log", "w") as log:
        process = subprocess.Popen(words, env=environment, stdout=out, stderr=log)
        while process.poll() is None:
            now, most = resident(process.pid)
            peak = max(peak, most)
            if now:
                curve.append((round(time.monotonic() - started, 1), round(now, 1)))
            time.sleep(SECONDS)
    if process.returncode:
        raise SystemExit(f"a run failed:\n{(folder / 'log').read_text()}")
    found = json.loads((folder / "out.json").read_text())
    seconds = round(time.monotonic() - started, 1)
    errors = found["errors"]["valid"]
    return {
        "peak_MB": round(peak, 1),
        "seconds": seconds,
        "training_seconds": round(found["seconds"], 1),
        "valid_forces_rmse_meV_per_A": errors["forces_rmse_meV_per_A"],
        "curve": curve[:: max(1, len(curve) // POINTS)],
    }


def command(paths: list[Path], valid: Path, folder: Path, stream: bool, added: list[str]) -> list[str]:
    """The command line of one run."""
    options = OPTIONS | {"valid_file": valid, "work_dir": folder, "overwrite": None, "json": None}
    options |= {"stream": None} if stream else {}
    words = [f"--{name}" if value is None else f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "mlip", "train", "--train_file", *map(str, paths), *words, *added]


def draw(report: dict[str, Any], path: Path) -> None:
    """Memory over time, and its peak against the number of structures."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    over_time, peaks = figure.subplots(1, 2)
    for kind, color in COLORS.items():
        runs = [row for row in report["rows"] if row["kind"] == kind]
        for row, style in zip(runs, ("-", "--", "-.", ":"), strict=False):
            seconds, megabytes = np.array(row["curve"]).T
            label = f"{kind}, {row['structures']:,}"
            over_time.plot(seconds, megabytes, style, color=color, label=label, linewidth=1.2)
        peaks.plot([r["structures"] for r in runs], [r["peak_MB"] for r in runs], "o-", color=color, label=kind)
    over_time.set(xlabel="time / s", ylabel="resident memory / MB", xscale="log", xlim=(1, None), ylim=(0, None))
    peaks.set(xlabel="structures", ylabel="peak of resident memory / MB", xscale="log", ylim=(0, None))
    for axis in (over_time, peaks):
        axis.legend(frameon=False, fontsize=8)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Parse, write, train, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--in_memory", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON and PNG files")
    parser.add_argument("--add", action="store_true", help="to the rows of streaming.json that are there")
    parser.add_argument("added", nargs="*", help="options of mlip train, after --")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"machine": machine(), "options": OPTIONS, "rows": []}
    if options.add:
        report = json.loads((options.output / "streaming.json").read_text())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (valid,) = write(500, folder, seed=1)
        for n in options.sizes:
            started = time.monotonic()
            paths = write(n, folder)
            row = {"structures": n, "atoms": 8 * n, "file_MB": round(sum(p.stat().st_size for p in paths) / 1e6, 1)}
            row["added"] = options.added
            row["writing_seconds"] = round(time.monotonic() - started, 1)
            for kind in ("stream", *(["in memory"] if n in options.in_memory else [])):
                words = command(paths, valid, folder / "run", kind == "stream", options.added)
                report["rows"].append(row | {"kind": kind} | watched(words, folder, options.threads))
                shown = {name: value for name, value in report["rows"][-1].items() if name != "curve"}
                print(shown, flush=True)
                (options.output / "streaming.json").write_text(json.dumps(report, indent=1) + "\n")
                draw(report, options.output / "streaming.png")
            for path in paths:
                path.unlink()


if __name__ == "__main__":
    main()
