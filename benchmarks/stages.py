"""Where the time of one call goes, stage by stage, against the least time the arithmetic or the memory traffic takes.

The kernels are timed by torch's profiler; what remains of the call without the profiler is Python, autograd, ASE and
small tensors. Each is the shortest of several, since other work on the machine only adds. Operations are counted as the
formulas need them, bytes as inputs read and outputs written once.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.calls import RADIALS, Settings, moved, silicon
from benchmarks.ops_message import flops as message_flops
from mlip import MLIPCalculator
from mlip.models.compiled_mace import CompiledMACE
from mlip.ops.message import message_paths

OURS = re.compile(r"GeneratedBackwardFor_mlip_(\w+?)_default(Backward)?\d*$|mlip::(\w+)$")
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm")
STAGE = {
    "pairs_within": "neighbor list",
    "furthest_move": "neighbor list",
    "shortest_pair": "neighbor list",
    "neighbor_list": "neighbor list",
    "edge_vectors": "geometry",
    "spherical_harmonics": "geometry",
    "cubic_weights": "geometry",
    "cubic_slopes": "geometry",
    "row_offsets": "geometry",
    "neighbor_outer": "message, first layer",
    "message_interpolated": "message",
    "message_exact": "message",
    "symmetric_contraction": "contraction",
    "matmul": "mixing",
}


class Work:
    """Operations and bytes of each stage of one call."""

    def __init__(self, network: CompiledMACE, n_atoms: int, n_edges: int, item: int) -> None:
        self.flops: dict[str, float] = defaultdict(float)
        self.bytes: dict[str, float] = defaultdict(float)
        for t, layer in enumerate(network.layers):
            self._message(layer, t, n_atoms, n_edges, item, network.tables is not None)
            self._contraction(layer, n_atoms, item)
        harmonics = network.layers[0].message.coupling.shape[0]
        self.bytes["geometry, forward"] = n_edges * (16 + 12 + 24 + 8 + harmonics * (8 + item))
        self.bytes["geometry, backward"] = n_edges * (16 + 24 * 2 + 8 + harmonics * (8 + item))
        self.bytes["neighbor list, forward"] = n_edges * (16 + 12) * 2

    def _message(self, layer: Any, t: int, n_atoms: int, n_edges: int, item: int, table: bool) -> None:
        message = layer.message
        if message.degrees is None:  # paths of run time
            return
        degree, top = message.degrees
        paths = message_paths(degree, top)
        width, columns = message.radial.shape
        channels = columns // len(paths)
        rows = sum(2 * l3 + 1 for _, _, l3 in paths)
        interpolation, forward, backward = (f * n_edges * channels for f in message_flops(degree, top))
        if not table:  # the last matrix of the radial perceptron instead
            interpolation = 2 * n_edges * width * len(paths) * channels
        if not table and t == 0:
            work = 2 * n_edges * (top + 1) ** 2 * width
            self.flops["message, first layer, forward"] += work
            self.flops["message, first layer, backward"] += 2 * work
            return
        self.flops["message, forward"] += interpolation + forward
        self.flops["message, backward"] += 2 * interpolation + backward
        edge = n_edges * (message.coupling.shape[1] * item + 8 + (16 + 4 * item if table else width * item))
        features = n_atoms * channels * item * ((degree + 1) ** 2 + rows)
        self.bytes["message, forward"] += edge + features
        self.bytes["message, backward"] += 2 * edge + features + n_atoms * channels * item * (degree + 1) ** 2 * t

    def _contraction(self, layer: Any, n_atoms: int, item: int) -> None:
        program = layer.program
        channels = layer.message.mix.matrices[0].shape[-1]
        inner = sum(_inner_nodes(tree) for tree in program.trees)
        # Value: a multiply-add per term and inner node; gradient: two products more per node, a sum per factor.
        self.flops["contraction, forward"] += 2 * (program.n_terms + inner) * n_atoms * channels
        self.flops["contraction, backward"] += 2 * (2 * program.n_terms + 3 * inner) * n_atoms * channels
        self.bytes["contraction, forward"] += (program.dim_in + program.dim_out) * n_atoms * channels * item
        self.bytes["contraction, backward"] += (2 * program.dim_in + program.dim_out) * n_atoms * channels * item

    def product(self, stage: str, shapes: list[list[int]], count: float, item: int) -> None:
        """Matrix products of this shape, as the profiler saw them."""
        a, b = shapes[-2:]
        if len(a) == len(b) == 2:
            self.flops[stage] += 2 * a[0] * a[1] * b[1] * count
            self.bytes[stage] += (a[0] * a[1] + a[0] * b[1]) * item * count


def _inner_nodes(tree: list[int]) -> int:
    """Nodes of a tree below its root that are no leaves (mlip/ops/contraction_program.py)."""

    def walk(at: int) -> tuple[int, int]:
        _, leaves, inner = tree[at : at + 3]
        at, found = at + 3 + leaves, inner
        for _ in range(inner):
            at, below = walk(at + 1)
            found += below
        return at, found

    return walk(0)[1]


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
    wall, profilers = [], []
    for k in range(repeats):
        wall.append(call(k))
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            call(k)
        profilers.append(profiler)
    potential = calculator.potential
    network = potential.acceleration.evaluator(potential.model)
    if not isinstance(network, CompiledMACE):
        raise SystemExit("the model is not evaluated by the compiled operators")
    graph = calculator._neighbors.graph(atoms, "cpu")
    n_edges = graph.edge_index.shape[1]
    item = potential.dtype.itemsize
    work = Work(network, n_atoms, n_edges, item)
    times: dict[str, list[float]] = defaultdict(lambda: [0.0] * repeats)
    for k, profiler in enumerate(profilers):
        for event in profiler.key_averages(group_by_input_shape=True):
            shapes = [s for s in event.input_shapes if s]
            stage = _stage(event.key, shapes, n_atoms, network.layers[0].message.coupling.shape[0])
            if stage is None:
                continue
            times[stage][k] += event.self_cpu_time_total * 1e-6
            if event.key in ("mlip::matmul", "mlip::matmul_backward", *PRODUCTS):
                work.product(stage, shapes, event.count / repeats, item)
    whole = min(wall)
    seconds = {stage: min(each) for stage, each in times.items()}
    seconds["Python, autograd, ASE, plain torch on atoms"] = whole - math.fsum(seconds.values())
    found = {
        stage: {"milliseconds": 1e3 * s, "gflop": work.flops[stage] * 1e-9, "megabytes": work.bytes[stage] * 1e-6}
        for stage, s in seconds.items()
    }
    return {"milliseconds": 1e3 * whole, "edges": n_edges, "stages": found}


def _stage(name: str, shapes: list[list[int]], n_atoms: int, harmonics: int) -> str | None:
    """Stage of a profiled function, None for what is not a kernel of ours or a matrix product."""
    if name in PRODUCTS:
        return "other matrix products"
    found = OURS.match(name)
    if not found:
        on_edges = name.startswith("aten::") and shapes and shapes[0][0] > 10 * n_atoms
        return "plain torch on edges (radial basis, SiLU)" if on_edges else None
    if found[2]:  # autograd's wrapper of the operator that follows
        return None
    operator = found[1] or found[3]
    stage = STAGE.get(operator.removesuffix("_backward"), "other operators")
    if stage == "mixing" and shapes[0][0] % n_atoms:  # rows are edges, not components of atoms
        stage = "geometry" if shapes[-1][0] == harmonics else "radial perceptron"
    return f"{stage}, {'backward' if operator.endswith('_backward') else 'forward'}"


def floor(stage: dict[str, float], dtype: str, peaks: dict[str, float]) -> float:
    """Least milliseconds of a stage: operations at the speed of matrix products, or bytes at that of a copy."""
    return max(1e3 * stage["gflop"] / peaks[f"gemm_{dtype}"], stage["megabytes"] / peaks["copy"])
