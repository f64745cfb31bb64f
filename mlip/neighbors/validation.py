"""What every neighbor-list backend may take for granted about its input."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mlip.errors import InputError

SMALLEST_RELATIVE_VOLUME = 1e-13  # below it periodic lattice vectors count as linearly dependent


class ListInput(NamedTuple):
    """Checked input of a neighbor list: B structures, the atoms of structure b are ``offsets[b]:offsets[b+1]``."""

    positions: Tensor  # (N,3) float32 or float64, contiguous, any device
    cell: Tensor  # (B,3,3) float64, CPU
    pbc: Tensor  # (B,3) bool, CPU
    offsets: Tensor  # (B+1,) int64, CPU
    cutoff: float


def check_input(positions: Tensor, cell: Tensor, pbc: Tensor, cutoff: float, batch: Tensor | None) -> ListInput:
    """Check shapes and types of the arguments of :func:`mlip.neighbors.neighbor_list` and bring them to one form.

    Raises:
        InputError: naming what was expected and what was got.
    """
    positions = torch.as_tensor(positions).detach()
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise InputError(f"positions: expected shape (N, 3), got {tuple(positions.shape)}")
    if positions.dtype not in (torch.float32, torch.float64):
        raise InputError(f"positions: expected float32 or float64, got {positions.dtype}")
    cutoff = float(cutoff)
    _check_cutoff(cutoff)
    cell, pbc = _canonical_cell(cell, pbc)
    offsets = _offsets(batch, len(positions), len(cell))
    return ListInput(positions.contiguous(), cell, pbc, offsets, cutoff)


def check_values(data: ListInput) -> None:
    """Check what takes a look at every number; the compiled operator does it on the fly, with less detailed messages.

    Raises:
        InputError: positions not finite; a cutoff not positive and finite; lattice vectors of periodic axes not finite
            or linearly dependent.
    """
    finite = data.positions.isfinite().all(dim=1)
    if not finite.all():
        atom = int((~finite).nonzero()[0])
        raise InputError(f"positions: expected finite numbers, got {data.positions[atom].tolist()} for atom {atom}")
    _check_cutoff(data.cutoff)
    _check_lattice(data.cell, data.pbc)


def _check_cutoff(cutoff: float) -> None:
    if not (math.isfinite(cutoff) and cutoff > 0):
        raise InputError(f"cutoff: expected a positive, finite length in Å, got {cutoff}")


def _canonical_cell(cell: Tensor, pbc: Tensor) -> tuple[Tensor, Tensor]:
    cell = torch.as_tensor(cell).detach().to("cpu", torch.float64)
    if cell.ndim == 2:
        cell = cell[None]
    if cell.ndim != 3 or cell.shape[1:] != (3, 3):
        raise InputError(f"cell: expected shape (3, 3) or (B, 3, 3), got {tuple(cell.shape)}")
    pbc = torch.as_tensor(pbc).to("cpu", torch.bool)
    if pbc.ndim == 1:
        pbc = pbc[None]
    if pbc.shape == (1, 3):
        pbc = pbc.expand(len(cell), 3)
    if pbc.shape != (len(cell), 3):
        raise InputError(f"pbc: expected shape (3,) or ({len(cell)}, 3) to go with the cell, got {tuple(pbc.shape)}")
    return cell.contiguous(), pbc.contiguous()


def _offsets(batch: Tensor | None, n_atoms: int, n_structures: int) -> Tensor:
    if batch is None:
        if n_structures != 1:
            raise InputError(
                f"batch: expected the structure of each atom since there are {n_structures} cells, got None"
            )
        return torch.tensor([0, n_atoms])
    batch = torch.as_tensor(batch).to("cpu")
    if batch.shape != (n_atoms,) or batch.is_floating_point() or batch.dtype == torch.bool:
        raise InputError(f"batch: expected {n_atoms} integers, got shape {tuple(batch.shape)} of {batch.dtype}")
    if n_atoms and (batch[1:] < batch[:-1]).any():
        raise InputError("batch: expected structure numbers in ascending order, got them unsorted")
    if n_atoms and not (batch[0] >= 0 and batch[-1] < n_structures):
        got = f"{int(batch[0])} ... {int(batch[-1])}"
        raise InputError(f"batch: expected structure numbers from 0 to {n_structures - 1}, got {got}")
    return torch.searchsorted(batch.long(), torch.arange(n_structures + 1))


def _check_lattice(cell: Tensor, pbc: Tensor) -> None:
    """Periodic lattice vectors must be finite and linearly independent; open axes may hold anything finite."""
    for pattern in torch.unique(pbc, dim=0) if len(pbc) else []:
        members = (pbc == pattern).all(dim=1).nonzero().flatten()
        vectors = cell[members][:, pattern]  # (b, p, 3)
        lengths = vectors.norm(dim=2)
        good = vectors.isfinite().flatten(1).all(dim=1) & (lengths > 0).all(dim=1)
        if good.all() and vectors.shape[1] > 1:
            triangle = torch.linalg.qr((vectors / lengths[:, :, None]).transpose(1, 2), mode="r").R
            good &= triangle.diagonal(dim1=1, dim2=2).prod(dim=1).abs() > SMALLEST_RELATIVE_VOLUME
        if not good.all():
            bad = int(members[int((~good).nonzero()[0])])
            raise InputError(
                f"cell: expected linearly independent, finite lattice vectors along the periodic axes "
                f"(pbc {pbc[bad].tolist()}), got {cell[bad].tolist()} for structure {bad}"
            )
