"""Labelled batches: graphs built once, concatenated for every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from mlip.convert import atoms_to_graph
from mlip.data.labels import LabelledStructure
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
    structures: Sequence[LabelledStructure], cutoff: float, source: str = "the data"
) -> list[LabelledBatch]:
    """One batch of one structure each, neighbor lists included, to be kept in memory and collated.

    Everything is float64: a model casts pair vectors to its own precision, which keeps it for large coordinates too.
    The lattice vectors of open axes, which may be zero or dependent on others, are replaced by orthogonal ones; that
    changes nothing but lets a molecule stand in one batch with crystals whose stress trains.

    Args:
        structures: labelled structures.
        cutoff: in Å.
        source: name of the data in errors.

    Raises:
        InputError: two atoms at one point, with the index of the structure in its file.
    """
    samples = []
    for structure in structures:
        try:
            graph = atoms_to_graph(structure.atoms, cutoff)
        except InputError as error:
            raise type(error)(f"structure {structure.index} of {source}: {error}") from error
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


class EpochSampler(Sampler[int]):
    """A permutation of 0..n-1 that depends on seed and epoch alone, so that any epoch can be run again.

    Lightning calls `set_epoch` with the epoch counted from the start of the process; `first_epoch` is that of a
    restarted run, whose first pass leaves out the `skip` samples that were seen before.
    """

    def __init__(self, n: int, seed: int, first_epoch: int = 0, skip: int = 0) -> None:
        self.n, self.seed, self.first_epoch, self.skip = n, seed, first_epoch, skip
        self.epoch = first_epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = self.first_epoch + epoch

    def __len__(self) -> int:
        return self.n - self.skip

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n)[self.skip :]
        self.skip = 0
        return iter(order.tolist())


def training_loader(
    samples: Sequence[LabelledBatch], batch_size: int, seed: int, first_epoch: int = 0, first_batch: int = 0
) -> DataLoader[LabelledBatch]:
    """Shuffled batches of the samples; every epoch sees every sample once, the first one from `first_batch` on."""
    return DataLoader(
        samples,  # type: ignore[arg-type]  # a list is a map-style dataset
        batch_size=batch_size,
        sampler=EpochSampler(len(samples), seed, first_epoch, first_batch * batch_size),
        collate_fn=collate_samples,
        generator=torch.Generator(),  # else each pass draws a number from the global one
    )


def validation_loader(samples: Sequence[LabelledBatch], batch_size: int) -> DataLoader[LabelledBatch]:
    """The samples in their order, in batches collated once and for all."""
    whole = batches(samples, batch_size)
    return DataLoader(whole, batch_size=None, generator=torch.Generator())  # type: ignore[arg-type]
