"""Labelled batches: graphs built once, concatenated for every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mlip.convert import atoms_to_graph
from mlip.data.labels import LabelledStructure
from mlip.data.plan import BatchPlan, CountPlan, EpochBatches, budget_plan
from mlip.errors import InputError
from mlip.graph import AtomGraph, collate
from mlip.neighbors.reference import complete_cell


class Labels(NamedTuple):
    """Labels of a batch. A missing label has weight zero; its value (zero) is never looked at."""

    energy: Tensor  # (B,) float64, eV
    forces: Tensor  # (N, 3) float64, eV/Å
    stress: Tensor  # (B, 3, 3) float64, eV/Å³
    energy_weight: Tensor  # (B,) float64, weight of the structure x of its label, zero without label
    forces_weight: Tensor  # (B,)
    stress_weight: Tensor  # (B,)


class LabelledBatch(NamedTuple):
    """A batch of structures and their labels."""

    graph: AtomGraph
    labels: Labels

    def to(self, device: str | torch.device) -> LabelledBatch:
        return LabelledBatch(self.graph.to(device), Labels(*(t.to(device) for t in self.labels)))


def make_samples(
    structures: Sequence[LabelledStructure], cutoff: float, name: str = "the data"
) -> list[LabelledBatch]:
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
    samples = []
    for structure in structures:
        try:
            graph = atoms_to_graph(structure.atoms, cutoff)
        except InputError as error:
            raise type(error)(f"structure {structure.index} of {name}: {error}") from error
        cell = complete_cell(np.asarray(structure.atoms.cell), structure.atoms.pbc)
        graph = graph._replace(cell=torch.from_numpy(cell).unsqueeze(0))
        samples.append(LabelledBatch(graph, _labels(structure)))
    return samples


def _labels(structure: LabelledStructure) -> Labels:
    def weight(name: str) -> Tensor:
        return torch.tensor([structure.label_weight(name)], dtype=torch.float64)

    forces = np.zeros((len(structure.atoms), 3)) if structure.forces is None else structure.forces
    stress = np.zeros((3, 3)) if structure.stress is None else structure.stress
    return Labels(
        energy=torch.tensor([structure.energy or 0.0], dtype=torch.float64),
        forces=torch.from_numpy(forces),
        stress=torch.from_numpy(stress).unsqueeze(0),
        energy_weight=weight("energy"),
        forces_weight=weight("forces"),
        stress_weight=weight("stress"),
    )


def collate_samples(samples: Sequence[LabelledBatch]) -> LabelledBatch:
    """Concatenate batches into one."""
    if len(samples) == 1:
        return samples[0]
    labels = Labels(*(torch.cat(column) for column in zip(*(s.labels for s in samples), strict=True)))
    return LabelledBatch(collate([s.graph for s in samples]), labels)


def batches(samples: Sequence[LabelledBatch], batch_size: int) -> list[LabelledBatch]:
    """All samples in their order, in batches of at most `batch_size`, collated once."""
    return [collate_samples(samples[start : start + batch_size]) for start in range(0, len(samples), batch_size)]


class _Batches(Dataset[LabelledBatch]):
    """Batches by the list of their structures."""

    def __init__(self, samples: Sequence[LabelledBatch]) -> None:
        self.samples = samples

    def __getitem__(self, members: Sequence[int]) -> LabelledBatch:
        return collate_samples([self.samples[k] for k in members])

    def __len__(self) -> int:
        return len(self.samples)


def _as_it_is(batch: Any) -> Any:
    return batch


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


def training_loader(
    samples: Sequence[LabelledBatch],
    plan: BatchPlan,
    seed: int,
    first_epoch: int = 0,
    first_batch: int = 0,
    num_workers: int = 0,
) -> DataLoader[LabelledBatch]:
    """The batches of a plan; every epoch sees every sample once, the first one from `first_batch` on."""
    return DataLoader(
        _Batches(samples),
        batch_size=None,
        sampler=EpochBatches(plan, seed, first_epoch, first_batch),
        collate_fn=_as_it_is,
        num_workers=num_workers,
        generator=torch.Generator(),  # else each pass draws a number from the global one
    )


def validation_loader(samples: Sequence[LabelledBatch], batch_size: int) -> DataLoader[LabelledBatch]:
    """The samples in their order, in batches collated once and for all."""
    whole = batches(samples, batch_size)
    return DataLoader(whole, batch_size=None, generator=torch.Generator())  # type: ignore[arg-type]
