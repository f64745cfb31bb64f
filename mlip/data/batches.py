"""Labelled batches: graphs built once, concatenated for every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip.convert import atoms_to_graph
from mlip.data.labels import LabelledStructure
from mlip.data.plan import BatchPlan, CountPlan, budget_plan
from mlip.errors import InputError
from mlip.graph import AtomGraph, collate
from mlip.neighbors.reference import complete_cell

#: Atoms whose neighbor lists are made in one call: enough to forget the call, few enough to forget the memory.
ATOMS_AT_ONCE = 20_000


class Labels(NamedTuple):
    """Labels of a batch. A missing label has weight zero; its value (zero) is never looked at."""

    energy: Tensor  # (B,) float64, eV
    forces: Tensor  # (N, 3) float64, eV/Å
    stress: Tensor  # (B, 3, 3) float64, eV/Å³
    energy_weight: Tensor  # (B,) float64, weight of the structure x of its label, zero without label
    forces_weight: Tensor  # (B,)
    stress_weight: Tensor  # (B,)
    value: Tensor  # (B, size) float64, of a property in its unit
    value_weight: Tensor  # (B,)
    charge: Tensor  # (B,) float64, e
    head: Tensor  # (B,) int64, index of the head that the labels are of


class LabelledBatch(NamedTuple):
    """A batch of structures and their labels."""

    graph: AtomGraph
    labels: Labels

    def to(self, device: str | torch.device) -> LabelledBatch:
        return LabelledBatch(self.graph.to(device), Labels(*(t.to(device) for t in self.labels)))


def make_samples(structures: Sequence[LabelledStructure], cutoff: float, name: str = "the data") -> list[LabelledBatch]:
    """One batch of one structure each, neighbor lists included, to be kept in memory and collated.

    Everything is float64: a model casts pair vectors to its own precision, which keeps it for large coordinates too.
    The lattice vectors of open axes, which may be zero or dependent on others, are replaced by orthogonal ones; that
    changes nothing but lets a molecule stand in one batch with crystals whose stress trains.

    Args:
        structures: labelled structures.
        cutoff: in Å.
        name: of the data in errors.

    Raises:
        InputError: two atoms at one point, with the index of the structure in its file.
    """
    samples: list[LabelledBatch] = []
    start = 0
    while start < len(structures):
        stop, atoms = start, 0
        while stop < len(structures) and (stop == start or atoms + len(structures[stop].atoms) <= ATOMS_AT_ONCE):
            atoms += len(structures[stop].atoms)
            stop += 1
        part = structures[start:stop]
        samples += _taken_apart(make_batch(part, cutoff, name))
        start = stop
    return samples


def make_batch(structures: Sequence[LabelledStructure], cutoff: float, name: str = "the data") -> LabelledBatch:
    """Structures as one batch; arguments and errors as in `make_samples`."""
    return LabelledBatch(_graph(structures, cutoff, name), _labels(structures))


def _graph(structures: Sequence[LabelledStructure], cutoff: float, name: str) -> AtomGraph:
    """Structures as one batch, in one call of the neighbor list."""
    try:
        graph = atoms_to_graph([s.atoms for s in structures], cutoff)
    except InputError:
        for structure in structures:  # which one is it?
            try:
                atoms_to_graph(structure.atoms, cutoff)
            except InputError as error:
                raise type(error)(f"structure {structure.index} of {structure.file or name}: {error}") from error
        raise
    return graph._replace(cell=torch.from_numpy(_complete_cells(structures)))


def _complete_cells(structures: Sequence[LabelledStructure]) -> NDArray[np.float64]:
    """Cells (B, 3, 3) with vectors along open axes that span space."""
    nothing = complete_cell(np.zeros((3, 3)), np.zeros(3, dtype=bool))
    cells = np.array([s.atoms.cell.array for s in structures])
    pbc = np.array([s.atoms.pbc for s in structures])
    cells[~pbc.any(axis=1)] = nothing
    for k in np.flatnonzero(pbc.any(axis=1) & ~pbc.all(axis=1)):
        cells[k] = complete_cell(cells[k], pbc[k])
    return cells


def _labels(structures: Sequence[LabelledStructure]) -> Labels:
    def weights(name: str) -> Tensor:
        return torch.tensor([s.label_weight(name) for s in structures], dtype=torch.float64)

    forces = [np.zeros((len(s.atoms), 3)) if s.forces is None else s.forces for s in structures]
    values = [np.zeros(1) if s.value is None else s.value for s in structures]
    stresses = [np.zeros((3, 3)) if s.stress is None else s.stress for s in structures]
    return Labels(
        energy=torch.tensor([s.energy or 0.0 for s in structures], dtype=torch.float64),
        forces=torch.from_numpy(np.concatenate(forces)),
        stress=torch.from_numpy(np.array(stresses)),
        energy_weight=weights("energy"),
        forces_weight=weights("forces"),
        stress_weight=weights("stress"),
        value=torch.from_numpy(np.array(values)),
        value_weight=weights("value"),
        charge=torch.tensor([s.charge for s in structures], dtype=torch.float64),
        head=torch.tensor([s.head for s in structures], dtype=torch.int64),
    )


def _taken_apart(batch: LabelledBatch) -> Iterator[LabelledBatch]:
    """Batches of one structure each; most of their tensors are views into those of the whole."""
    graph, labels = batch
    sizes, ones = graph.n_atoms.tolist(), [1] * graph.n_graphs
    owner = graph.batch[graph.edge_index[0]]
    pairs = torch.bincount(owner, minlength=graph.n_graphs).tolist()
    edge_index = graph.edge_index - (graph.n_atoms.cumsum(0) - graph.n_atoms)[owner]
    graphs = zip(
        graph.numbers.split(sizes),
        graph.positions.split(sizes),
        graph.cell.split(ones),
        graph.pbc.split(ones),
        (part.contiguous() for part in edge_index.split(pairs, dim=1)),
        graph.edge_shift.split(pairs),
        torch.zeros_like(graph.batch).split(sizes),
        graph.n_atoms.split(ones),
        strict=True,
    )
    columns = (t.split(sizes if name == "forces" else ones) for name, t in labels._asdict().items())
    for fields, values in zip(graphs, zip(*columns, strict=True), strict=True):
        yield LabelledBatch(AtomGraph(*fields), Labels(*values))


def collate_samples(samples: Sequence[LabelledBatch]) -> LabelledBatch:
    """Concatenate batches into one."""
    if len(samples) == 1:
        return samples[0]
    labels = Labels(*(torch.cat(column) for column in zip(*(s.labels for s in samples), strict=True)))
    return LabelledBatch(collate([s.graph for s in samples]), labels)


def batches(samples: Sequence[LabelledBatch], batch_size: int) -> list[LabelledBatch]:
    """All samples in their order, in batches of at most `batch_size`, collated once."""
    return [collate_samples(samples[start : start + batch_size]) for start in range(0, len(samples), batch_size)]


def make_plan(
    samples: Sequence[LabelledBatch], size: int | None, atoms: int | None = None, edges: int | None = None
) -> BatchPlan:
    """How samples become batches: by number, or within a budget of atoms or pairs (`size` is then the most structures).

    Raises:
        DataError: a structure larger than the budget.
    """
    if atoms is not None:
        return budget_plan([s.graph.numbers.shape[0] for s in samples], atoms, "batch_atoms", size)
    if edges is not None:
        return budget_plan([s.graph.edge_index.shape[1] for s in samples], edges, "batch_edges", size)
    if size is None:
        raise InputError("expected a number of structures, atoms or pairs per batch")
    return CountPlan(len(samples), size)
