"""Times of the message operators on silicon (about 45 neighbors), µs per atom and GFLOP/s of the arithmetic needed.

OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/ops_message.py [--atoms 216] [--channels 128] [--knots 513]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from ase.build import bulk

from mlip.neighbors import neighbor_list
from mlip.nn.irreps import wigner_3j
from mlip.ops import message as ops


def seconds(call: Callable[[], object], repeats: int = 25) -> float:
    """Best time of a call: other work on the machine only adds to it."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


CUTOFF = 6.0


def silicon(atoms: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Neighbors, offsets and distances of a crystal of about so many atoms."""
    repeat = max(1, round((atoms / 8) ** (1 / 3)))
    crystal = bulk("Si", cubic=True) * (repeat, repeat, repeat)
    crystal.rattle(0.1, seed=1)
    positions, cell = torch.tensor(crystal.positions), torch.tensor(crystal.cell.array)
    edge_index, shift = neighbor_list(positions, cell, torch.tensor(crystal.pbc), CUTOFF)
    distances = (positions[edge_index[1]] - positions[edge_index[0]] + shift.to(cell) @ cell).norm(dim=1)
    counts = torch.bincount(edge_index[0], minlength=len(crystal))
    return edge_index[1].contiguous(), torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]), distances


def flops(hidden: int, harmonics: int) -> tuple[int, int, int]:
    """Multiply-adds per edge and channel, times two: radial interpolation, forward, backward."""
    interpolation = forward = backward = 0
    for l1, l2, l3 in ops.message_paths(hidden, harmonics):
        pairs = 2 * l1 + 1 if l2 == 0 else (2 * l1 + 1) * (2 * l3 + 1)
        interpolation += 8
        forward += 2 * (2 * l1 + 1 + pairs)
        backward += 2 * (3 * (2 * l1 + 1) + 2 * pairs)
    return interpolation, forward, backward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atoms", type=int, default=216)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--knots", type=int, default=513)
    parser.add_argument("--width", type=int, default=64, help="of the hidden layer of the exact radial functions")
    parser.add_argument("--degrees", default="0,3 1,3 2,3")
    options = parser.parse_args()
    neighbor, offsets, distances = silicon(options.atoms)
    n, e, c = len(offsets) - 1, len(neighbor), options.channels
    print(f"{n} atoms, {e / n:.1f} neighbors, {c} channels, {options.knots} knots")
    for dtype in (torch.float32, torch.float64):
        for degrees in options.degrees.split():
            hidden, harmonics = map(int, degrees.split(","))
            paths = len(ops.message_paths(hidden, harmonics))
            size = ops.coupling_matrix(hidden, harmonics, wigner_3j).shape[1]
            x = torch.randn(n, (hidden + 1) ** 2, c, dtype=dtype)
            coupling = torch.randn(e, size, dtype=dtype)
            table = ops.pack_table(*torch.randn(2, options.knots, paths, c, dtype=dtype), dtype)
            weights, knot = torch.randn(e, 4, dtype=dtype), (distances / CUTOFF * (options.knots - 1)).long()
            graph = (neighbor, offsets, hidden, harmonics)
            name = f"{str(dtype)[6:]} H={hidden} L={harmonics}"
            interpolation, forward, backward = (f * e * c for f in flops(hidden, harmonics))

            def report(label: str, work: float, call: Callable[[], object], name: str = name) -> None:
                taken = seconds(call)
                print(
                    f"{name} {label:32s} {taken / n * 1e6:8.2f} us/atom {work / taken * 1e-9:7.1f} GFLOP/s", flush=True
                )

            table_arguments = (x, coupling, weights, table, knot, *graph)
            report(
                "table forward",
                interpolation + forward,
                lambda a=table_arguments: torch.ops.mlip.message_interpolated(*a),
            )
            grad = torch.randn_like(torch.ops.mlip.message_interpolated(*table_arguments))
            for need_x, need_table in ((False, False), (True, False), (True, True)):
                report(
                    f"table backward{', x too' if need_x else ''}{', table too' if need_table else ''}",
                    2 * interpolation + backward + need_table * (interpolation + forward),
                    lambda a=(grad, *table_arguments, need_x, need_table): torch.ops.mlip.message_interpolated_backward(
                        *a
                    ),
                )

            activations = torch.randn(e, options.width, dtype=dtype)
            matrix = torch.randn(options.width, paths * c, dtype=dtype)
            product = 2 * e * options.width * paths * c
            exact_arguments = (x, coupling, activations, matrix, *graph)
            report("exact forward", product + forward, lambda a=exact_arguments: torch.ops.mlip.message_exact(*a))
            for need_matrix in (False, True):
                report(
                    f"exact backward, x too{', matrix too' if need_matrix else ''}",
                    (2 + need_matrix) * product + backward,
                    lambda a=(grad, *exact_arguments, True, need_matrix): torch.ops.mlip.message_exact_backward(*a),
                )


if __name__ == "__main__":
    main()
