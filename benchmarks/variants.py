"""Accuracy, speed and memory of potentials for one element side by side, each in a process of its own.

    python -m benchmarks.variants TEST_FILE MODEL [MODEL ...] [--cells 5] [--repeats 5] [--output FILE]

Errors are those on TEST_FILE; time and memory are of energy and forces of a rattled crystal of diamond structure with
8 · cells³ atoms, on one thread, neighbor list included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.worker import peak_memory


def measure(test_file: str, model: str, cells: int, repeats: int) -> dict[str, Any]:
    """Of one model, in this process."""
    import torch

    from benchmarks.hdnnp import Moving, microseconds, silicon
    from mlip.data.labels import read_labelled
    from mlip.workflows.evaluate import evaluate
    from mlip.zoo import load_potential

    torch.set_num_threads(1)
    potential = load_potential(model)
    Moving(potential, silicon(1, potential.elements[0]))()  # what is loaded once
    moving = Moving(potential, silicon(cells, potential.elements[0]))
    atoms = len(moving.atoms)
    memory = peak_memory(moving)
    result = evaluate(moving.atoms.calc, read_labelled(test_file))
    return {
        "model": type(potential.model).__name__,
        "file": Path(model).name,
        "cutoff": potential.cutoff,
        "parameters": sum(p.numel() for p in potential.parameters()),
        "atoms": atoms,
        "microseconds_per_atom": microseconds(moving, atoms, repeats),
        "kilobytes_per_atom": (memory["peak"] - memory["before"]) / 1e3 / atoms,
        "errors": {name: value for name, value in vars(result).items() if name.endswith(("_atom", "_A", "_GPa"))},
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("test_file")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--cells", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="a file for the JSON that is printed")
    parser.add_argument("--alone", action="store_true", help="measure in this process")
    options = parser.parse_args(arguments)
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
