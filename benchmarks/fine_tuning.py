"""Fine-tuning MACE-MP-0a small on silicon: test errors against the number of structures, and what is forgotten.

    MLIP_DATA=FOLDER python -m benchmarks.fine_tuning [--sizes 20 50 200] [--methods naive scratch lora replay]

Trains with the command line of `mlip train`, one run after the other on one core, on the first structures of one random
order of mlearn's silicon, a tenth of which validate. Every run sees the same number of structures (`--seen`), those
from random weights (`scratch`, a network that suits few data, several times faster) as many times more as a step of
theirs takes less. Forgetting is measured against what the published model says of the crystals of
`reference_predictions`, which no run sees; of replay runs, by the head that keeps the old energies. Replay data are
crystals of two elements made here, labelled by the published model. Writes fine_tuning.json and fine_tuning.png.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii
from ase.io import read, write

from benchmarks.machine import machine
from benchmarks.qm9 import run

RESULTS = Path(__file__).with_name("results")
#: Structures that a fine-tuning run sees, and the factor of runs from random weights.
SEEN, FACTOR = 240, 5
#: Elements of the replay crystals.
ELEMENTS = (
    "Li Be B C N O F Na Mg Al Si P S Cl K Ca Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Rb Sr Zr Nb Mo Ru Pd Ag Cd In Sn "
    "Sb Te I Cs Ba La Hf W Pt Au Hg Pb Bi"
).split()
N_REPLAY = 100
COMMON: dict[str, Any] = {
    "batch_size": 5,
    "scheduler": "linear",
    "energy_weight": 1000,
    "seed": 1,
    "device": "cpu",
    "no_plot": None,
}
FOUNDATION: dict[str, Any] = {"E0s": "estimated", "foundation_model_elements": None}
METHODS: dict[str, dict[str, Any]] = {
    "naive": {**FOUNDATION, "lr": 1e-3},
    "scratch": {"model": "MACE", "hidden_irreps": "32x0e + 32x1o", "r_max": 5.0, "E0s": "average", "lr": 0.01},
    "lora": {**FOUNDATION, "lora": None, "lr": 0.01},
    "replay": {**FOUNDATION, "lr": 1e-3, "multiheads_finetuning": None, "pseudolabel_replay": None},
}
COLORS = {"naive": "#2f6db5", "lora": "#3c9d6b", "replay": "#8a5fb0", "scratch": "#d9822b"}


def prototypes(a: str, b: str, rng: np.random.Generator) -> Atoms:
    """A crystal of two elements, or of one of them, its lattice constant from the sum of covalent radii, disturbed."""
    contact = covalent_radii[atomic_numbers[a]] + covalent_radii[atomic_numbers[b]]
    lattices = {"rocksalt": 2.0, "zincblende": 4 / 3**0.5, "cesiumchloride": 2 / 3**0.5}
    name = str(rng.choice([*lattices, "fcc", "bcc"]))
    if name in lattices:
        atoms = bulk(a + b, name, a=float(lattices[name] * contact * rng.uniform(0.98, 1.12)))
    else:
        nearest = 2 * covalent_radii[atomic_numbers[a]] * rng.uniform(0.95, 1.1)
        atoms = bulk(a, name, a=float(nearest * (2**0.5 if name == "fcc" else 2 / 3**0.5)), cubic=True)
    atoms = atoms * (2, 1, 1)
    strain = rng.normal(scale=0.02, size=(3, 3))
    atoms.set_cell(atoms.cell @ (np.eye(3) + strain + strain.T), scale_atoms=True)
    atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    return atoms


def replay_crystals(n: int, path: Path) -> Path:
    """A file of `n` crystals, the same each time, without labels."""
    rng = np.random.default_rng(0)
    write(path, [prototypes(*rng.choice(ELEMENTS, 2, replace=False), rng) for _ in range(n)], format="extxyz")
    return path


def epochs(method: str, n: int, seen: int = SEEN) -> int:
    """Passes over the part of `n` structures that trains."""
    seen *= FACTOR if method == "scratch" else 1
    return max(1, round(seen / (n - max(1, round(0.1 * n)))))


def command(method: str, n: int, files: dict[str, Path], folder: Path, added: list[str], seen: int = SEEN) -> list[str]:
    """The command line of one run."""
    options = COMMON | METHODS[method] | {"train_file": files[str(n)], "test_file": files["test"]}
    passes = epochs(method, n, seen)
    options |= {"max_num_epochs": passes, "eval_interval": max(1, passes // 20)}
    options |= {"work_dir": folder, "name": f"{method}_{n}"}
    if method != "scratch":
        options |= {"foundation_model": files["foundation"], "forgetting_file": files["held_out"]}
    if method == "replay":
        options |= {"pt_train_file": files["replay"]}
    words = [f"--{name}" if value is None else f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "mlip", "train", *words, "--overwrite", "--json", *added]


def summary(method: str, result: dict[str, Any]) -> dict[str, Any]:
    """What a run is about, in meV/atom, meV/Å and GPa."""
    test = result["errors"]["test"]
    keys = ("energy_rmse_meV_per_atom", "energy_mae_meV_per_atom", "forces_rmse_meV_per_A", "stress_rmse_GPa")
    found = {key: test[key] for key in keys} | {name: result[name] for name in ("epochs", "seconds", "best_epoch")}
    if "forgetting" in result:
        after = result["forgetting"]["after"]
        found["forgetting"] = {head: {key: errors[key] for key in keys} for head, errors in after.items()}
    return found


def kept(found: dict[str, Any]) -> dict[str, float]:
    """Forgetting of the head that is to remember."""
    by_head = found["forgetting"]
    return by_head.get("pt_head", by_head["default"])


def draw(report: dict[str, Any], path: Path) -> None:
    """Errors of energies and forces against structures, and forgetting beside them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.5), layout="constrained")
    axes = figure.subplots(1, 3)
    panels = [("energy_rmse_meV_per_atom", "energy RMSE / meV/atom"), ("forces_rmse_meV_per_A", "force RMSE / meV/Å")]
    for method, runs in report["runs"].items():
        sizes = [int(n) for n in runs]
        for axis, (key, _) in zip(axes, panels, strict=False):
            axis.plot(sizes, [found[key] for found in runs.values()], "o-", color=COLORS[method], label=method)
        if method != "scratch":
            forgotten = [kept(found)["forces_rmse_meV_per_A"] for found in runs.values()]
            axes[2].plot(sizes, forgotten, "o-", color=COLORS[method], label=method)
    for axis, (key, label) in zip(axes, panels, strict=False):
        if "zero_shot" in report:
            axis.axhline(report["zero_shot"][key], color="#9aa5b1", linestyle="--", label="published model, E0 shifted")
        axis.set(ylabel=label)
    axes[2].set(ylabel="forgotten: force RMSE / meV/Å\nof other crystals, to the published model")
    for axis in axes:
        axis.set(xscale="log", xlabel="silicon structures", ylim=(0, None))
        numbers = sorted({int(n) for runs in report["runs"].values() for n in runs})
        axis.set_xticks(numbers, [str(n) for n in numbers])
        axis.minorticks_off()
        axis.grid(alpha=0.3, which="both")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def zero_shot(files: dict[str, Path]) -> dict[str, float | int | None]:
    """Test errors of the published model, its E0 of silicon shifted as in the run of the most structures."""
    from mlip.data.batches import batches, make_samples
    from mlip.data.labels import read_labelled
    from mlip.data.metrics import errors_of
    from mlip.data.predict import predict
    from mlip.energy_scale import Reference
    from mlip.potential import Potential
    from mlip.training.config import TrainingConfig
    from mlip.training.foundation import estimated_energies, load_foundation

    foundation = load_foundation(TrainingConfig(train_file="-", foundation_model=str(files["foundation"])))
    assert foundation is not None
    largest = max((name for name in files if name.isdigit()), key=int)
    shifted = estimated_energies(foundation, read_labelled(files[largest]).structures).E0s
    own: Reference = foundation.reference
    potential = Potential(foundation.model, references=[own._replace(E0s={**own.E0s, **shifted})])
    test = read_labelled(files["test"]).structures
    return errors_of(test, predict(potential, batches(make_samples(test, potential.cutoff), 5))).as_dict()


def prepare(data: Path, sizes: list[int], folder: Path) -> dict[str, Path]:
    """All files that runs read, by name; the published model in mlip's own format, which is read faster."""
    from mlip.zoo import load_potential

    structures = read(data / "mlearn/Si/train.extxyz", ":")
    order = np.random.default_rng(0).permutation(len(structures))
    files = {"test": data / "mlearn/Si/test.extxyz"}
    files["held_out"] = data / "reference_predictions/structures_periodic.extxyz"
    for n in sizes:
        files[str(n)] = folder / f"si_{n}.extxyz"
        write(files[str(n)], [structures[k] for k in order[:n]])
    files["foundation"] = folder / "mace_mp_small.safetensors"
    if not files["foundation"].exists():
        load_potential(data / "mace/mace_mp_small.model", dtype="float32").save(files["foundation"])
    files["replay"] = replay_crystals(N_REPLAY, folder / "replay.extxyz")
    return files


def main() -> None:
    """Parse, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MLIP_DATA", ".")), help="default: MLIP_DATA")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 50, 200])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seen", type=int, default=SEEN, help="structures that a fine-tuning run sees")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work_dir", type=Path, default=Path("fine_tuning_runs"))
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON and PNG files")
    parser.add_argument("added", nargs="*", help="options of mlip train, after --")
    options = parser.parse_args()
    for folder in (options.work_dir, options.output):
        folder.mkdir(parents=True, exist_ok=True)
    files = prepare(options.data, options.sizes, options.work_dir)
    report: dict[str, Any] = {"machine": machine(), "common": COMMON, "methods": METHODS, "added": options.added}
    report |= {"structures_seen": options.seen, "factor_of_scratch": FACTOR, "zero_shot": zero_shot(files), "runs": {}}
    for method in options.methods:
        for n in options.sizes:
            started = time.monotonic()
            words = command(method, n, files, options.work_dir, options.added, options.seen)
            found = summary(method, run(words, options.work_dir / f"{method}_{n}.log", options.threads))
            found["wall_seconds"] = round(time.monotonic() - started, 1)
            report["runs"].setdefault(method, {})[str(n)] = found
            print(method, n, found, flush=True)
            (options.output / "fine_tuning.json").write_text(json.dumps(report, indent=1) + "\n")
            draw(report, options.output / "fine_tuning.png")


if __name__ == "__main__":
    main()
