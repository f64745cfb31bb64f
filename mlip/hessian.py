"""Second derivatives of the energy by positions, from derivatives of the forces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mlip.errors import InputError
from mlip.graph import AtomGraph, collate

if TYPE_CHECKING:
    from mlip.potential import Potential

#: Atoms in a block of copies. On a CPU structures of a few atoms gain up to a factor two by it, and larger blocks lose
#: what they gained to the caches (measured from 2 to 64 atoms). A GPU has more to fill (not measured).
BLOCK = {"cpu": 32, "cuda": 2048}


def hessian(
    potential: Potential,
    graph: AtomGraph,
    indices: Sequence[int] | None = None,
    progress: Callable[[int, int, str], object] | None = None,
) -> Tensor:
    """∂²E/∂x_ia ∂x_jb = -∂F_ia/∂x_jb of one structure; see `Potential.hessian`.

    A row is a product of the forces' Jacobian with a unit vector, by one backward pass. Copies of the structure stand
    in one batch, each with a row of its own, and keep what the pass needs from one block of rows to the next.
    """
    if graph.n_graphs != 1:
        raise InputError(f"the Hessian of a batch of {graph.n_graphs} structures; expected one, take each by itself")
    count = len(graph.numbers)
    rows = _rows(count, indices)
    copies = max(1, min(len(rows), BLOCK.get(graph.positions.device.type, BLOCK["cpu"]) // max(1, count)))
    smooth = copy(potential)  # of tables the second derivatives are rough
    smooth.acceleration = potential.acceleration.exact()
    with torch.inference_mode(False), torch.enable_grad():
        result = torch.zeros(len(rows), count, 3, dtype=torch.float64, device=graph.positions.device)
        batch = collate([AtomGraph(*(t.clone() for t in graph.to(dtype=torch.float64)))] * copies)
        positions = batch.positions.detach().requires_grad_(True)
        forces = smooth(batch._replace(positions=positions), stress=False, training=True).forces
        needed = rows if forces.requires_grad else rows[:0]  # else nothing depends on the positions
        for start in range(0, len(needed), copies):
            block = rows[start : start + copies]
            unit = torch.zeros_like(forces).view(copies, -1)
            unit[torch.arange(len(block)), block] = -1
            (found,) = torch.autograd.grad(forces, positions, unit.view_as(forces), retain_graph=True)
            result[start : start + copies] = found.view(copies, count, 3)[: len(block)]
            if progress:
                progress(start + len(block), len(rows), "")
    return result.view(len(rows) // 3, 3, count, 3)


def _rows(count: int, indices: Sequence[int] | None) -> Tensor:
    """Components (3n,) of the flattened forces of `count` atoms that belong to the atoms `indices`, all if None."""
    if indices is None:
        return torch.arange(3 * count)
    numbers = list(indices)
    whole = all(isinstance(index, int | np.integer) and not isinstance(index, bool) for index in numbers)
    if not whole or not all(0 <= index < count for index in numbers):
        raise InputError(f"indices {numbers}: expected numbers of atoms from 0 to {count - 1}")
    chosen = torch.tensor([int(index) for index in numbers], dtype=torch.int64)
    return (3 * chosen.unsqueeze(1) + torch.arange(3)).flatten()
