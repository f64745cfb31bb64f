"""Energy and forces of DimeNet and DimeNet++ of the published sizes, compiled and in plain torch, on rattled silicon.

    python -m benchmarks.dimenet [--cells 2] [--repeats 5] [--output FILE]

With random weights, on one thread; ms per atom, the median and the least, by turns, and the largest difference of the
forces, relative to the largest force.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.hdnnp import silicon
from benchmarks.machine import machine
from mlip.convert import atoms_to_graph
from mlip.graph import AtomGraph
from mlip.models import DimeNet, DimeNetPlusPlus
from mlip.models.base import Evaluator

CUTOFF = 5.0


def gradient(evaluate: Evaluator, graph: AtomGraph) -> Tensor:
    moved = graph._replace(positions=graph.positions.clone().requires_grad_(True))
    return torch.autograd.grad(evaluate(moved).energy.sum(), moved.positions)[0]


def measure(kind: type[DimeNet | DimeNetPlusPlus], dtype: torch.dtype, cells: int, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = kind([14], CUTOFF).to(dtype).requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("last.weight"):  # energies are zero at first
            torch.nn.init.normal_(parameter)
    compiled = model.compiled("exact")
    assert compiled is not None
    graph = atoms_to_graph(silicon(cells, 14), CUTOFF)
    evaluators: dict[str, Evaluator] = {"compiled": compiled, "plain_torch": model}
    forces = {name: gradient(evaluate, graph) for name, evaluate in evaluators.items()}
    wall: dict[str, list[float]] = {name: [] for name in evaluators}
    for _ in range(repeats):
        for name, evaluate in evaluators.items():
            start = time.perf_counter()
            gradient(evaluate, graph)
            wall[name].append((time.perf_counter() - start) / len(graph.numbers) * 1e3)
    return {
        "model": kind.__name__,
        "dtype": str(dtype).removeprefix("torch."),
        "atoms": len(graph.numbers),
        "neighbors": graph.edge_index.shape[1] / len(graph.numbers),
        "ms_per_atom": {name: {"median": statistics.median(t), "least": min(t)} for name, t in wall.items()},
        "difference": float(
            (forces["compiled"] - forces["plain_torch"]).abs().max() / forces["plain_torch"].abs().max()
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=2, help="cubic cells along each axis")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="a file for the JSON that is printed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    where = machine()
    rows = [
        measure(kind, dtype, options.cells, options.repeats)
        for kind in (DimeNetPlusPlus, DimeNet)
        for dtype in (torch.float32, torch.float64)
    ]
    text = json.dumps({"machine": where, "rows": rows}, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
