"""mlip and mace-torch learn the same data with the same architecture for the same time: error against time.

    MLIP_DATA=FOLDER python -m benchmarks.training_race --peer_python PYTHON [--minutes 20] [--threads 2]

One program after the other gets all cores. Both are started by their command lines with the same options, the defaults
of mace-torch for what is not said here: ours with the first word changed. A third run is ours with SOAP at twice the
rate instead of Adam, all else the same. --ours_minutes ends our runs earlier. The time runs from the start of the
process, imports and reading included; the error is the RMS of the forces on the validation structures, taken from the
logs as they grow, with averaged weights in both. Data: acetylacetone at 300 K (github.com/davkovacs/BOTNet-datasets),
validated on the first structures of the test trajectory. Writes training_race.json and training_race.png.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io

from benchmarks.machine import machine

RESULTS = Path(__file__).with_name("results")
#: What both programs are told.
OPTIONS = {
    "name": "race",
    "model": "MACE",
    "hidden_irreps": "64x0e + 64x1o",
    "r_max": 5.0,
    "max_ell": 3,
    "correlation": 3,
    "num_interactions": 2,
    "MLP_irreps": "16x0e",
    "num_radial_basis": 8,
    "num_cutoff_basis": 5,
    "scaling": "rms_forces_scaling",
    "energy_weight": 1.0,
    "forces_weight": 100.0,
    "batch_size": 5,
    "valid_batch_size": 50,
    "ema_decay": 0.99,
    "clip_grad": 10.0,
    "max_num_epochs": 100000,
    "default_dtype": "float32",
    "device": "cpu",
    "seed": 1,
    "energy_key": "REF_energy",
    "forces_key": "REF_forces",
}
FLAGS = ["--ema"]
#: The optimizer of mace-torch and of the first of our runs, and of the second one.
ADAM, SOAP = ["--amsgrad", "--lr=0.01"], ["--optimizer=soap", "--lr=0.02"]
COLORS = {"mace-torch": "tab:gray", "mlip": "tab:blue", "mlip, SOAP": "tab:orange"}
#: Validations between which the clock is read.
POLL_SECONDS = 0.5
Point = dict[str, float]
Reader = Callable[[dict[str, Any]], Point | None]


def write_data(data: Path, folder: Path, n_valid: int) -> None:
    """train.xyz, isolated atoms included, and valid.xyz, with the labels under names that ASE leaves alone."""
    files = {
        "train": [*ase.io.read(data / "isolated_atoms.xyz", ":"), *ase.io.read(data / "train_300K.xyz", ":")],
        "valid": ase.io.read(data / "test_MD_300K.xyz", f":{n_valid}"),
    }
    for name, structures in files.items():
        for atoms in structures:
            results, atoms.calc = atoms.calc.results, None
            atoms.info["REF_energy"] = results["energy"]
            if "forces" in results:
                atoms.arrays["REF_forces"] = results["forces"]
            if len(atoms) == 1:
                atoms.info["config_type"] = "IsolatedAtom"
        ase.io.write(folder / f"{name}.xyz", structures, format="extxyz")


def of_peer(line: dict[str, Any]) -> Point | None:
    """Errors in a line of mace-torch's results file: eV/atom and eV/Å."""
    if line.get("mode") != "eval" or line.get("epoch") is None:
        return None
    return {"epoch": line["epoch"], "energy": line["rmse_e_per_atom"], "forces": line["rmse_f"]}


def of_ours(line: dict[str, Any]) -> Point | None:
    return {"epoch": line["epoch"], "energy": line["valid_energy_rmse"], "forces": line["valid_forces_rmse"]}


def run(command: list[str], log: Path, point: Reader, seconds: float) -> list[Point]:
    """Errors by time while the command runs; it is ended when the time is up.

    Raises:
        RuntimeError: it ended before, with what it printed.
    """
    with open(log.with_name("output.txt"), "w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        points: list[Point] = []
        read = 0
        try:
            while (now := time.perf_counter() - start) < seconds:
                if process.poll() is not None:
                    output.seek(0)
                    raise RuntimeError(f"{command[0]} ended after {now:.0f} s:\n{output.read()[-3000:]}")
                text = log.read_text() if log.exists() else ""
                while "\n" in text[read:]:
                    line, read = text[read:].partition("\n")[0], text.index("\n", read) + 1
                    if found := point(json.loads(line)):
                        points.append({"seconds": now, **found})
                        print(
                            f"{now:7.1f} s  epoch {found['epoch']:.0f}  F {1e3 * found['forces']:.1f} meV/Å", flush=True
                        )
                time.sleep(POLL_SECONDS)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return points


def sooner(ours: list[Point], peer: list[Point]) -> float | None:
    """How many times sooner ours reached the best error of the forces that the peer reached."""
    best = min(peer, key=lambda point: point["forces"])
    reached = next((point["seconds"] for point in ours if point["forces"] <= best["forces"]), None)
    return None if reached is None else best["seconds"] / reached


def plot(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for axis, (name, label, factor) in zip(
        axes, (("forces", "RMSE of forces, meV/Å", 1e3), ("energy", "RMSE of energies, meV/atom", 1e3)), strict=True
    ):
        for program, color in COLORS.items():
            points = found["points"].get(program, [])
            axis.plot(
                [p["seconds"] for p in points],
                [factor * p[name] for p in points],
                color=color,
                marker=".",
                label=program,
            )
        axis.set(xscale="log", yscale="log", xlabel="time from the start of the process, s", ylabel=label)
        axis.grid(alpha=0.3, which="both")
    axes[0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer_python", required=True, help="interpreter of the environment that has mace-torch")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--ours_minutes", type=float, help="of our runs, instead of --minutes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--n_valid", type=int, default=50)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(options.threads)
    found: dict[str, Any] = {"machine": machine(), "options": OPTIONS, "threads": options.threads, "points": {}}
    found |= {"minutes": options.minutes, "ours_minutes": options.ours_minutes or options.minutes}
    found["optimizers"] = {"mlip": ADAM, "mlip, SOAP": SOAP, "mace-torch": ADAM}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(Path(os.environ["MLIP_DATA"]) / "acac", folder, options.n_valid)
        words = [f"--{option}={value}" for option, value in OPTIONS.items()] + FLAGS
        words += [f"--train_file={folder / 'train.xyz'}", f"--valid_file={folder / 'valid.xyz'}"]
        peer = folder / "peer"
        peer_log = peer / "results" / f"race_run-{OPTIONS['seed']}_train.txt"
        train = [sys.executable, "-m", "mlip", "train", *words]
        mace = [options.peer_python, "-m", "mace.cli.run_train", *words, *ADAM, f"--work_dir={peer}"]
        runs: dict[str, tuple[list[str], Path, Reader, float]] = {}
        for program, optimizer in (("mlip", ADAM), ("mlip, SOAP", SOAP)):
            ours = folder / optimizer[0].strip("-")
            command = [*train, *optimizer, f"--work_dir={ours}"]
            runs[program] = (command, ours / "race_log.jsonl", of_ours, options.ours_minutes or options.minutes)
        runs["mace-torch"] = (mace, peer_log, of_peer, options.minutes)
        for program, (command, log, point, minutes) in runs.items():
            print(program, flush=True)
            log.parent.mkdir(parents=True)
            found["points"][program] = run(command, log, point, 60 * minutes)
    peer_points = found["points"]["mace-torch"]
    found["times_sooner"] = {name: sooner(found["points"][name], peer_points) for name in ("mlip", "mlip, SOAP")}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "training_race.json").write_text(json.dumps(found, indent=1) + "\n")
    plot(found, options.output / "training_race.png")
    for name, times in found["times_sooner"].items():
        how = "did not reach it in its time" if times is None else f"{times:.1f} times sooner"
        print(f"the best error of mace-torch: {name} {how}")


if __name__ == "__main__":
    main()
