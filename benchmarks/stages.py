"""Where the time of one call goes, stage by stage, against the least time the arithmetic or the memory traffic takes.

Every operator is timed as torch dispatches it; what remains of a call without that is Python, ASE and dispatch itself.
Each is the shortest of several, since other work on the machine only adds. Operations are counted as the formulas need
them, bytes as inputs read and outputs written once.
"""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.calls import RADIALS, Settings, moved, silicon
from benchmarks.ops_message import flops as message_flops
from mlip import MLIPCalculator

GEOMETRY = ("edge_vectors", "spherical_harmonics", "cubic_weights", "row_offsets", "transposed_product")
STAGE = {
    **dict.fromkeys(("pairs_within", "furthest_move", "shortest_pair", "neighbor_list"), "neighbor list"),
    **dict.fromkeys(GEOMETRY, "geometry"),
    **dict.fromkeys(
        ("distinct", "bessel_basis", "radial_activations", "take_rows", "rowwise_dot"), "radial perceptron"
    ),
    **dict.fromkeys(("message_interpolated", "message_exact"), "message"),
    "neighbor_outer": "message, first layer",
    "symmetric_contraction": "contraction",
    "irreps_linear": "linear maps",
    **dict.fromkeys(("matmul", "silu"), "readouts, couplings"),
}
#: Operators that are part of the reverse pass without being the derivative of another one.
REVERSE = ("rowwise_dot", "transposed_product")
REST = "Python, ASE"


class Timer(TorchDispatchMode):
    """Seconds, operations and bytes by stage of what is called meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)
        self.flops: dict[str, float] = defaultdict(float)
        self.bytes: dict[str, float] = defaultdict(float)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.perf_counter()
        out = function(*args, **(kwargs or {}))
        seconds = time.perf_counter() - start
        namespace, name = function.name().split("::")
        if namespace != "mlip":
            self.seconds["plain torch"] += seconds
            return out
        operator = name.removesuffix("_backward")
        backward = name != operator or operator in REVERSE
        stage = f"{STAGE.get(operator, 'other operators')}, {'backward' if backward else 'forward'}"
        self.seconds[stage] += seconds
        self.flops[stage] += operations(operator, name != operator, args)
        tensors = [t for t in (*args, *(out if isinstance(out, tuple) else (out,))) if isinstance(t, Tensor)]
        self.bytes[stage] += sum(t.numel() * t.element_size() for t in tensors)
        return out


def operations(operator: str, backward: bool, args: Sequence[Any]) -> float:
    """Those of a call of `mlip::operator`, or of its backward operator; 0 of what moves data more than it computes."""
    if backward:  # the first argument is the gradient
        args = args[1:]
    if operator in ("message_interpolated", "message_exact"):
        interpolated = operator == "message_interpolated"
        x, coupling, degrees = args[0], args[1], args[7:9] if interpolated else args[6:8]
        interpolation, forward, reverse = message_flops(*degrees)
        radial = interpolation * x.shape[2] if interpolated else 2 * args[3].numel()
        return float(len(coupling) * (2 * radial + reverse * x.shape[2] if backward else radial + forward * x.shape[2]))
    if operator == "neighbor_outer":
        return 2.0 * len(args[0]) * args[0].shape[1] * args[1].shape[1] * (2 if backward else 1)
    if operator == "irreps_linear":
        x, weight, dims_in, channels_in, sources, dims_out = args[:6]
        products = sum(dim * channels_in[s] for s, dim in zip(sources, dims_out, strict=True) if s >= 0)
        rows = sum(channels_in[s] for s in sources if s >= 0)  # of all matrices
        n_atoms = x.numel() // sum(map(math.prod, zip(dims_in, channels_in, strict=True)))
        return 2.0 * n_atoms * products * (weight.shape[1] // rows) * (sum(args[7:9]) if backward else 1)
    if operator == "symmetric_contraction":
        x, coefficients, (_, _, n_terms, *trees) = args[0], args[2], args[3].tolist()
        inner, points = _inner_nodes(trees), x.shape[1] * coefficients.shape[1] * coefficients.shape[3]
        # Value: a multiply-add per term and inner node; gradient: two products more per node, a sum per factor.
        return 2.0 * points * (2 * n_terms + 3 * inner if backward else n_terms + inner)
    if operator == "radial_activations":  # values and derivatives
        return 4.0 * len(args[0]) * args[2].numel()
    if operator == "matmul":
        return 2.0 * args[0].numel() * args[1].shape[1] * (sum(args[2:4]) if backward else 1)
    return 0.0


def _inner_nodes(trees: list[int]) -> int:
    """Nodes below the roots that are no leaves, of all trees (mlip/ops/contraction_program.py)."""

    def walk(at: int) -> tuple[int, int]:
        _, leaves, inner = trees[at : at + 3]
        at, found = at + 3 + leaves, inner
        for _ in range(inner):
            at, below = walk(at + 1)
            found += below
        return at, found

    at, total = 0, 0
    while at < len(trees):
        at, found = walk(at)
        total += found
    return total


def stages(settings: Settings, sizes: tuple[int, ...] = (216, 1000), repeats: int = 10) -> Iterator[dict[str, Any]]:
    """Milliseconds per call of each stage with operations and bytes: a row for each model, precision, radial, size."""
    torch.set_num_threads(1)
    for name, path in settings.models.items():
        for dtype in settings.dtypes:
            for radial in RADIALS:
                calculator = MLIPCalculator(path, device="cpu", dtype=dtype, radial=radial)
                for n_atoms in sizes:
                    row = {"model": name, "dtype": dtype, "radial": radial, "atoms": n_atoms}
                    yield row | _of_call(calculator, n_atoms, repeats) | {"load": os.getloadavg()[0]}


def _of_call(calculator: MLIPCalculator, n_atoms: int, repeats: int) -> dict[str, Any]:
    atoms = silicon(n_atoms)
    positions = [np.array(moved(atoms, k)) for k in range(repeats)]

    def call(k: int) -> float:
        atoms.positions = positions[k]
        start = time.perf_counter()
        calculator.calculate(atoms, ["energy", "forces", "stress"])
        return time.perf_counter() - start

    call(0), call(1)
    wall, timers = [], []
    for k in range(repeats):
        wall.append(call((k + 1) % repeats))
        with Timer() as timer:
            call(k)
        timers.append(timer)
    n_edges = calculator._neighbors.graph(atoms, "cpu").edge_index.shape[1]
    whole, last = min(wall), timers[-1]
    seconds = {stage: min(timer.seconds[stage] for timer in timers) for stage in last.seconds}
    seconds[REST] = whole - math.fsum(seconds.values())
    found = {
        stage: {"milliseconds": 1e3 * s, "gflop": last.flops[stage] * 1e-9, "megabytes": last.bytes[stage] * 1e-6}
        for stage, s in seconds.items()
    }
    return {"milliseconds": 1e3 * whole, "edges": n_edges, "stages": found}


def floor(stage: dict[str, float], dtype: str, peaks: dict[str, float]) -> float:
    """Least milliseconds of a stage: operations at the speed of matrix products, or bytes at that of a copy."""
    return max(1e3 * stage["gflop"] / peaks[f"gemm_{dtype}"], stage["megabytes"] / peaks["copy"])
