"""Accuracy, speed and memory of potentials for one element side by side, each in a process of its own.

    python -m benchmarks.variants TEST_FILE MODEL [MODEL ...] [--cells 5] [--repeats 5] [--output FILE]

Errors are those on TEST_FILE; time and memory are of energy and forces of a rattled crystal of diamond structure with
8 · cells³ atoms, on one thread, neighbor list included.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def status(name: str) -> int:
    """Bytes of this process, as Linux names them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))


def measure(test_file: str, model: str, cells: int, repeats: int) -> dict[str, Any]:
    """Of one model, in this process."""
    import numpy as np
    import torch
    from ase.build import bulk
    from ase.data import chemical_symbols

    from mlip import MLIPCalculator
    from mlip.convert import atoms_to_graph
    from mlip.data.labels import read_labelled
    from mlip.data.metrics import errors_of
    from mlip.data.predict import predict_batch

    torch.set_num_threads(1)
    calculator = MLIPCalculator(model)
    potential = calculator.potential
    atoms = bulk(chemical_symbols[potential.elements[0]], "diamond", a=5.43, cubic=True).repeat(cells)
    atoms.rattle(0.1, seed=0)
    atoms.calc = calculator
    rng = np.random.default_rng(0)
    small = atoms[:8]
    small.calc = calculator
    small.get_forces()  # what is loaded once
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    before, times = status("VmRSS"), []
    for _ in range(repeats + 1):
        atoms.positions += rng.uniform(-1e-3, 1e-3, atoms.positions.shape)
        start = time.perf_counter()
        atoms.get_forces()
        times.append((time.perf_counter() - start) / len(atoms) * 1e6)
    used = status("VmHWM") - before
    data = read_labelled(test_file)
    graphs = (atoms_to_graph([s.atoms], potential.cutoff) for s in data.structures)
    predicted = [found for graph in graphs for found in predict_batch(potential, graph)]
    return {
        "model": type(potential.model).__name__,
        "file": Path(model).name,
        "dtype": str(potential.dtype)[6:],
        "cutoff": potential.cutoff,
        "parameters": sum(p.numel() for p in potential.parameters()),
        "atoms": len(atoms),
        "microseconds_per_atom": statistics.median(times[1:]),
        "kilobytes_per_atom": used / 1e3 / len(atoms),
        "errors": errors_of(data.structures, predicted).as_dict(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("test_file")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--cells", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="a file for the JSON that is printed")
    parser.add_argument("--alone", action="store_true", help="measure in this process")
    options = parser.parse_args()
    given = ["--cells", str(options.cells), "--repeats", str(options.repeats)]
    if options.alone:
        (model,) = options.models
        print(json.dumps(measure(options.test_file, model, options.cells, options.repeats)))
        return
    from benchmarks.machine import machine

    rows = []
    for model in options.models:
        command = [sys.executable, "-m", "benchmarks.variants", options.test_file, model, "--alone", *given]
        rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    report = json.dumps({"machine": machine(), "rows": rows}, indent=1)
    print(report)
    if options.output:
        options.output.write_text(report + "\n")


if __name__ == "__main__":
    main()
