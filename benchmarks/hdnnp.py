"""HDNNP: energy and forces of rattled silicon, on one core, by mlip, by plain torch, and by n2p2.

    python -m benchmarks.hdnnp FOLDER [--nnp_predict PROGRAM] [--repeats 7] [--output FILE]

FOLDER is a potential of n2p2 for one element with the lattice of diamond, such as that of mlearn's silicon. PROGRAM is
n2p2's `nnp-predict`; its time is that of the whole process, which reads the potential and one structure and writes
files, as there is no other way to call it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import chemical_symbols

from benchmarks.machine import machine
from mlip import MLIPCalculator, ops
from mlip.convert import atoms_to_graph
from mlip.models import HDNNP
from mlip.nn.symmetry_functions import KINDS, RADIAL
from mlip.nn.triplets import pairs_of_neighbors
from mlip.ops import row_offsets
from mlip.potential import Potential
from mlip.units import BOHR, HARTREE
from mlip.zoo import load_potential

RATTLE = 0.1  # Å
#: Operations of one pair of neighbors, values and gradient together, counted in kernels/symmetry_functions.cpp: of the
#: geometry; of each part of its distance, most of it an exponential; of each function.
OF_PAIR, OF_PART, OF_FUNCTION = 120, 90, 8


def silicon(cells: int, number: int) -> Atoms:
    atoms = bulk(chemical_symbols[number], "diamond", a=5.43, cubic=True).repeat(cells)
    atoms.rattle(RATTLE, seed=0)
    return atoms


def microseconds(call: Callable[[], object], atoms: int, repeats: int) -> dict[str, float]:
    """Median and least per atom, after one call that is not timed."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) / atoms * 1e6)
    return {"median": statistics.median(times), "least": min(times)}


def counts(potential: Potential, atoms: Atoms) -> dict[str, float]:
    """What the cost depends on, per atom, and the operations of the angular functions."""
    model = potential.model
    assert isinstance(model, HDNNP)
    graph = atoms_to_graph(atoms, model.cutoff)
    vectors = graph.edge_vectors()
    pairs = pairs_of_neighbors(graph.edge_index[0], len(atoms))
    close = (vectors[pairs.first] - vectors[pairs.second]).norm(dim=1) < model.cutoff
    angular = [f for f in model.hyperparameters["symmetry_functions"] if KINDS[f["kind"]].shape != RADIAL]
    parts = len({(f.get("eta"), f.get("shift"), f["cutoff"]) for f in angular})
    found = int(close.sum()) / len(atoms)
    return {
        "symmetry_functions": len(model.hyperparameters["symmetry_functions"]),
        "neighbors": graph.edge_index.shape[1] / len(atoms),
        "pairs_of_neighbors": len(pairs.first) / len(atoms),
        "pairs_within_cutoff": found,
        "kiloflop": found * (OF_PAIR + OF_PART * parts + OF_FUNCTION * len(angular)) / 1e3,
    }


class Moving:
    """Forces of a structure that moves before every call, so that nothing can be kept."""

    def __init__(self, potential: Potential, atoms: Atoms, backend: str = "compiled") -> None:
        self.atoms = atoms.copy()
        self.atoms.calc = MLIPCalculator(potential, backend=backend)
        self.rng = np.random.default_rng(0)

    def __call__(self) -> None:
        self.atoms.positions += self.rng.uniform(-1e-3, 1e-3, self.atoms.positions.shape)
        self.atoms.get_forces()


def stages(potential: Potential, atoms: Atoms, repeats: int) -> dict[str, Any]:
    """Parts of a call, and what training adds: derivatives along force errors, without and with those by positions."""
    model = potential.model
    assert isinstance(model, HDNNP)
    graph, tables = atoms_to_graph(atoms, model.cutoff), model.tables
    species, (center, neighbor) = model.species(graph.numbers), graph.edge_index
    given = (graph.edge_vectors(), row_offsets(center, len(atoms)), species[neighbor], species)
    grad = torch.randn(len(atoms), tables.columns, dtype=torch.float64)
    direction = torch.randn_like(given[0])
    calls: dict[str, Callable[[], object]] = {
        "neighbor_list": lambda: atoms_to_graph(atoms, model.cutoff),
        "values": lambda: ops.symmetry_functions(*given, tables),
        "gradient": lambda: ops.symmetry_functions_gradient(grad, *given, tables),
    }
    for name, second in (("tangent", False), ("tangent_with_second_derivatives", True)):
        calls[name] = partial(torch.ops.mlip.symmetry_functions_tangent, direction, grad, *given, *tables, second)
    return {name: microseconds(call, len(atoms), repeats) for name, call in calls.items()}


def n2p2(program: str, folder: Path, atoms: Atoms, repeats: int) -> dict[str, Any]:
    """Its energy (eV) and forces (eV/Å), and the time of the process per atom."""
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        for file in folder.iterdir():
            if file.is_file():
                shutil.copy(file, place / file.name)
        lines = ["begin", *(" ".join(["lattice", *map(str, row / BOHR)]) for row in atoms.cell.array)]
        for symbol, position in zip(atoms.symbols, atoms.positions / BOHR, strict=True):
            lines.append(" ".join(["atom", *map(repr, map(float, position)), symbol, "0 0 0 0 0"]))
        (place / "input.data").write_text("\n".join([*lines, "energy 0", "charge 0", "end", ""]))

        def run() -> None:
            subprocess.run([program, "0"], cwd=place, check=True, capture_output=True)

        timed = microseconds(run, len(atoms), repeats)
        energy = [line.split()[1] for line in (place / "output.data").read_text().splitlines() if line[:6] == "energy"]
        forces = [line.split()[7:10] for line in (place / "output.data").read_text().splitlines() if line[:4] == "atom"]
    return {
        "microseconds": timed,
        "energy": float(energy[0]) * HARTREE,
        "forces": np.array(forces, float) * HARTREE / BOHR,
    }


def measure(folder: Path, program: str | None, repeats: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    potential = load_potential(folder)
    (number,) = potential.elements
    large, small = silicon(5, number), silicon(3, number)
    report: dict[str, Any] = {"machine": machine(), "potential": folder.name, **counts(potential, large)}
    report["floor_us"] = report["kiloflop"] / report["machine"]["peaks"]["gemm_float64"]
    timed = {
        "mlip": microseconds(Moving(potential, large), len(large), repeats),
        "plain_torch": microseconds(Moving(potential, small, "reference"), len(small), max(1, repeats // 3)),
    }
    if program:
        theirs = n2p2(program, folder, large, repeats)
        ours = MLIPCalculator(potential)
        ours.calculate(large, ("energy", "forces"))
        timed["n2p2_process"] = theirs["microseconds"]
        report["largest_force_difference"] = float(np.abs(ours.results["forces"] - theirs["forces"]).max())
        report["energy_difference_per_atom"] = abs(ours.results["energy"] - theirs["energy"]) / len(large)
    return report | {"microseconds_per_atom": timed, "stages": stages(potential, large, repeats)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nnp_predict", help="n2p2's program")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, help="a file for the JSON that is printed")
    options = parser.parse_args(arguments)
    report = json.dumps(measure(options.folder, options.nnp_predict, options.repeats), indent=1)
    print(report)
    if options.output:
        options.output.write_text(report + "\n")


if __name__ == "__main__":
    main()
