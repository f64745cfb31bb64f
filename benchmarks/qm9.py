"""Learning curve of a property of QM9: test error against the number of training molecules, each run of one length.

    MLIP_DATA=FOLDER python -m benchmarks.qm9 --minutes 18 [--sizes 1000 3000 10000] [--target mu] [-- TRAIN OPTIONS]

Trains with the command line of `mlip train`, one run after the other, on the first molecules of one random order;
1,000 validate and 2,000 test, the same in all runs and in no training set. The network is smaller and shorter-sighted
than the published one (`OPTIONS`), so that a core gets somewhere in minutes; options after `--` are added and win. A
run that was interrupted goes on, one that is done is not trained again, as long as `--work_dir` is there. Writes
qm9_TARGET.json and qm9_TARGET.png: the errors, a power law fitted through them, and what it says of 110,000 molecules
beside the published errors of DimeNet (arXiv:2003.03123) and DimeNet++ (arXiv:2011.14115), which had those many
molecules and no such limit of time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.machine import machine

RESULTS = Path(__file__).with_name("results")
N_TEST, N_VALID = 2000, 1000
#: Molecules that the published errors were reached with, and these errors in D.
PUBLISHED_SIZE = 110_000
PUBLISHED = {"mu": {"DimeNet": 0.0286, "DimeNet++": 0.0297}}
OPTIONS = {
    "model": "DimeNet++",
    "num_channels": 64,
    "num_interactions": 3,
    "int_emb_size": 32,
    "out_emb_channels": 128,
    "r_max": 3.0,
    "batch_size": 16,
    "valid_batch_size": 50,
    "optimizer": "soap",
    "lr": 0.005,
    "scheduler": "linear",
    "warmup_steps": 50,
    "max_num_epochs": 100_000,
    "device": "cpu",
    "seed": 1,
}
#: Molecules that train between two validations, at least.
BETWEEN_VALIDATIONS = 5000


class Fit(NamedTuple):
    """error = factor · n^exponent."""

    exponent: float
    factor: float

    def at(self, n: float) -> float:
        """The error with n molecules."""
        return self.factor * n**self.exponent


def power_law(sizes: Sequence[int], errors: Sequence[float]) -> Fit:
    """Least squares of logarithms."""
    exponent, logarithm = np.polyfit(np.log(sizes), np.log(errors), 1)
    return Fit(float(exponent), math.exp(float(logarithm)))


def subset(data: dict[str, Any], chosen: np.ndarray, path: Path) -> Path:
    """Some molecules of a data set in a file of their own."""
    ends = np.cumsum(data["n_atoms"].astype(np.int64))
    atoms = np.concatenate([np.arange(ends[k] - data["n_atoms"][k], ends[k]) for k in chosen])
    rows: dict[str, Any] = {}
    for name, array in data.items():
        whole = name == "property_names"
        rows[name] = array if whole else array[atoms] if name in ("Z", "R") else array[chosen]
    np.savez(path, **rows)
    return path


def split(file: Path, sizes: Sequence[int], folder: Path) -> dict[str, Path]:
    """Files of the sets, by name; a training set is called by its size and holds all smaller ones."""
    with np.load(file, allow_pickle=False) as arrays:
        data = {name: arrays[name] for name in arrays.files}
    good = np.flatnonzero(data.get("characterized", np.ones(len(data["n_atoms"]), dtype=bool)))
    order = np.random.default_rng(0).permutation(good)
    left = len(order) - N_TEST - N_VALID
    if max(sizes) > left:
        raise SystemExit(f"{file} leaves {left} molecules to train on, --sizes asks for {max(sizes)}")
    parts = {"test": order[:N_TEST], "valid": order[N_TEST : N_TEST + N_VALID]}
    parts |= {str(n): order[N_TEST + N_VALID :][:n] for n in sizes}
    return {name: subset(data, np.sort(chosen), folder / f"{name}.npz") for name, chosen in parts.items()}


def command(files: dict[str, Path], n: int, target: str, minutes: float, folder: Path, added: list[str]) -> list[str]:
    """The command line of one run."""
    options = OPTIONS | {
        "train_file": files[str(n)],
        "valid_file": files["valid"],
        "test_file": files["test"],
        "target": target,
        "max_time": minutes,
        "eval_interval": max(1, round(BETWEEN_VALIDATIONS / n)),
        "work_dir": folder,
        "name": f"{target}_{n}",
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "mlip", "train", *words, "--restart_latest", "--json", *added]


def run(words: list[str], log: Path, threads: int) -> dict[str, Any]:
    """What a run says of itself, without the names of its files; its messages go into a log."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with open(log, "a") as stream:
        done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, stderr=stream, text=True)
    if done.returncode:
        raise SystemExit(f"a run failed; see {log}")
    return {name: value for name, value in json.loads(done.stdout).items() if name not in ("model", "report")}


def report(
    runs: dict[int, dict[str, Any]], target: str, minutes: float, added: list[str], where: dict[str, Any]
) -> dict[str, Any]:
    """Errors by size, the fit, and the published errors."""
    sizes = sorted(runs)
    found: dict[str, Any] = {
        "target": target,
        "minutes": minutes,
        "machine": where,
        "options": OPTIONS,
        "added_options": added,
        "runs": {str(n): runs[n] for n in sizes},
        "published_at_110000": PUBLISHED.get(target, {}),
    }
    if len(sizes) > 1:
        fit = power_law(sizes, [runs[n]["errors"]["test"]["mae"] for n in sizes])
        found["fit"] = {"exponent": fit.exponent, "factor": fit.factor, "mae_at_110000": fit.at(PUBLISHED_SIZE)}
    return found


def draw(found: dict[str, Any], path: Path) -> None:
    """Errors against training molecules, both logarithmic, with the fit."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.9), layout="constrained")
    axes = figure.subplots()
    sizes = [int(n) for n in found["runs"]]
    for name, marker in (("test", "o"), ("valid", ".")):
        errors = [run["errors"][name]["mae"] for run in found["runs"].values()]
        axes.plot(sizes, errors, marker, color="#2f6db5", label=name)
    if "fit" in found:
        fit = Fit(found["fit"]["exponent"], found["fit"]["factor"])
        ends = [min(sizes), PUBLISHED_SIZE]
        label = f"n^{fit.exponent:.2f}; {fit.at(PUBLISHED_SIZE):.3g} with {PUBLISHED_SIZE:,}"
        axes.plot(ends, [fit.at(n) for n in ends], "--", color="#9aa5b1", label=label)
    for (name, error), marker in zip(found["published_at_110000"].items(), "sD", strict=False):
        axes.plot([PUBLISHED_SIZE], [error], marker, color="#d9822b", label=f"{name}, published: {error:g}")
    axes.set(xscale="log", yscale="log", xlabel="training molecules", ylabel=f"MAE of {found['target']}")
    axes.set_title(f"{found['minutes']:g} minutes each, {found['machine']['processor']}", fontsize=8)
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Parse, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="npz; default: qm9/qm9_sample15k_f32.npz in MLIP_DATA")
    parser.add_argument("--target", default="mu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 3000, 10000])
    parser.add_argument("--minutes", type=float, default=18.0, help="of training, for each run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work_dir", type=Path, default=Path("qm9_runs"))
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON and PNG files")
    parser.add_argument("added", nargs="*", help="options of mlip train, after --")
    options = parser.parse_args()
    data = options.data or Path(os.environ.get("MLIP_DATA", ".")) / "qm9" / "qm9_sample15k_f32.npz"
    for folder in (options.work_dir, options.output):
        folder.mkdir(parents=True, exist_ok=True)
    files = split(data, options.sizes, options.work_dir)
    runs: dict[int, dict[str, Any]] = {}
    where = machine()
    for n in options.sizes:
        words = command(files, n, options.target, options.minutes, options.work_dir, options.added)
        runs[n] = run(words, options.work_dir / f"{options.target}_{n}.log", options.threads)
        errors = {name: round(errors["mae"], 5) for name, errors in runs[n]["errors"].items()}
        print(f"{n} molecules: MAE {errors}, {runs[n]['epochs']} epochs", flush=True)
        found = report(runs, options.target, options.minutes, options.added, where)
        (options.output / f"qm9_{options.target}.json").write_text(json.dumps(found, indent=1) + "\n")
        draw(found, options.output / f"qm9_{options.target}.png")


if __name__ == "__main__":
    main()
