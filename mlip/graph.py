"""AtomGraph: atoms and the pairs within the cutoff, always as a batch of structures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mlip.neighbors.pairs import pairs_within


class AtomGraph(NamedTuple):
    """A batch of B structures with N atoms and E directed pairs in all. Immutable; a single structure has B = 1.

    `edge_index[0]` is the center i, `edge_index[1]` the neighbor j; pairs are sorted by center. A pair's vector
    points from the center to the neighbor's image: r_ij = r_j - r_i + S·cell.
    """

    numbers: Tensor  # (N,) int64, atomic numbers
    positions: Tensor  # (N, 3) float, Å
    cell: Tensor  # (B, 3, 3) float, Å, rows are lattice vectors
    pbc: Tensor  # (B, 3) bool
    edge_index: Tensor  # (2, E) int64
    edge_shift: Tensor  # (E, 3) int32, cell translations S
    batch: Tensor  # (N,) int64, structure of each atom, ascending
    n_atoms: Tensor  # (B,) int64

    @property
    def n_graphs(self) -> int:
        return self.n_atoms.shape[0]

    def edge_vectors(self) -> Tensor:
        """Vectors (E, 3) in Å from center to neighbor image, differentiable in positions and cell."""
        center, neighbor = self.edge_index
        cell = self.cell[self.batch[center]] if self.n_graphs > 1 else self.cell
        shift = self.edge_shift.to(self.positions.dtype)
        translation = (shift.unsqueeze(1) @ cell).squeeze(1) if self.n_graphs > 1 else shift @ cell[0]
        return self.positions[neighbor] - self.positions[center] + translation

    def pairs(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What distances need: positions, cell, batch, edge_index, edge_shift."""
        return self.positions, self.cell, self.batch, self.edge_index, self.edge_shift

    def within(self, cutoff: float) -> AtomGraph:
        """The graph with only the pairs closer than `cutoff` (Å)."""
        edge_index, edge_shift, _ = pairs_within(*self.pairs(), cutoff)
        return self._replace(edge_index=edge_index, edge_shift=edge_shift)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> AtomGraph:
        """Copy on `device`, with positions and cell in `dtype`."""
        moved = (t.to(device) for t in self) if device is not None else iter(self)
        graph = AtomGraph(*moved)
        if dtype is None:
            return graph
        return graph._replace(positions=graph.positions.to(dtype), cell=graph.cell.to(dtype))


def collate(graphs: Sequence[AtomGraph]) -> AtomGraph:
    """Concatenate batches into one; atoms and structures keep their order."""
    if len(graphs) == 1:
        return graphs[0]
    atoms_before = structures_before = 0
    edge_index, batch = [], []
    for graph in graphs:
        edge_index.append(graph.edge_index + atoms_before)
        batch.append(graph.batch + structures_before)
        atoms_before += graph.numbers.shape[0]
        structures_before += graph.n_graphs
    return AtomGraph(
        numbers=torch.cat([g.numbers for g in graphs]),
        positions=torch.cat([g.positions for g in graphs]),
        cell=torch.cat([g.cell for g in graphs]),
        pbc=torch.cat([g.pbc for g in graphs]),
        edge_index=torch.cat(edge_index, dim=1),
        edge_shift=torch.cat([g.edge_shift for g in graphs]),
        batch=torch.cat(batch),
        n_atoms=torch.cat([g.n_atoms for g in graphs]),
    )
