"""Batches as they are fed to a run: of structures in memory or on disk, whole or shared by several processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from mlip.data.batches import LabelledBatch, Labels, batches, collate_samples
from mlip.data.plan import BatchPlan, EpochBatches
from mlip.graph import AtomGraph


@dataclass(frozen=True)
class Share:
    """Which of several processes this is; each takes its part of every batch."""

    rank: int = 0
    count: int = 1

    def of(self, members: Sequence[int], loads: Sequence[int]) -> list[int]:
        """This process's part of a batch, in the order of the batch; the parts of all processes are the batch.

        The heaviest structures are dealt out first, each to the process with the smallest load.
        """
        if self.count == 1:
            return list(members)
        sums, owners = [0] * self.count, {}
        for k in sorted(range(len(members)), key=lambda k: (-loads[k], k)):
            owner = min(range(self.count), key=lambda rank: (sums[rank], rank))
            owners[k] = owner
            sums[owner] += max(loads[k], 1)
        return [member for k, member in enumerate(members) if owners[k] == self.rank]


class StandIn(LabelledBatch):
    """A batch that counts for nothing, where a process has no share: all processes take all steps."""

    def to(self, device: str | torch.device) -> StandIn:
        return StandIn(*super().to(device))


class TrainingSet(ABC):
    """The structures that train."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of structures."""

    @property
    @abstractmethod
    def n_atoms(self) -> int:
        """Atoms of all structures."""

    @abstractmethod
    def loads(self, members: Sequence[int]) -> list[int]:
        """How much work each of these structures is, in any unit."""

    @abstractmethod
    def heaviest_first(self) -> Sequence[int]:
        """Structures by falling load; the beginning, where there are too many."""

    @abstractmethod
    def batch(self, members: Sequence[int]) -> LabelledBatch:
        """These structures as one batch."""


class InMemory(TrainingSet):
    """Structures with their graphs, kept in memory."""

    def __init__(self, samples: Sequence[LabelledBatch]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def n_atoms(self) -> int:
        return sum(len(sample.graph.numbers) for sample in self.samples)

    def loads(self, members: Sequence[int]) -> list[int]:
        """Pairs of neighbors."""
        return [self.samples[k].graph.edge_index.shape[1] for k in members]

    def heaviest_first(self) -> list[int]:
        loads = self.loads(range(len(self)))
        return sorted(range(len(self)), key=loads.__getitem__, reverse=True)

    def batch(self, members: Sequence[int]) -> LabelledBatch:
        graph, labels = collate_samples([self.samples[k] for k in members])
        if len(members) == 1:  # views into many structures, all of which a worker would send
            return LabelledBatch(AtomGraph(*(t.clone() for t in graph)), Labels(*(t.clone() for t in labels)))
        return LabelledBatch(graph, labels)


class _Shares(Dataset[LabelledBatch]):
    """Parts of batches by the list of the whole batch's structures."""

    def __init__(self, trained: TrainingSet, share: Share) -> None:
        self.trained, self.share = trained, share

    def __getitem__(self, members: Sequence[int]) -> LabelledBatch:
        if self.share.count == 1:
            return self.trained.batch(members)
        own = self.share.of(members, self.trained.loads(members))
        return self.trained.batch(own) if own else StandIn(*self.trained.batch(members[:1]))

    def __len__(self) -> int:
        return len(self.trained)


def _as_it_is(batch: Any) -> Any:
    return batch


def training_loader(
    trained: TrainingSet,
    plan: BatchPlan,
    seed: int,
    first_epoch: int = 0,
    first_batch: int = 0,
    num_workers: int = 0,
    share: Share = Share(),  # noqa: B008 (frozen)
) -> DataLoader[LabelledBatch]:
    """This process's parts of the batches of a plan.

    Every epoch sees every structure once, the first one from `first_batch` on.
    """
    return DataLoader(
        _Shares(trained, share),
        batch_size=None,
        sampler=EpochBatches(plan, seed, first_epoch, first_batch),
        collate_fn=_as_it_is,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        generator=torch.Generator(),  # else each pass draws a number from the global one
    )


def validation_loader(
    samples: Sequence[LabelledBatch],
    batch_size: int,
    share: Share = Share(),  # noqa: B008 (frozen)
) -> DataLoader[LabelledBatch]:
    """The samples in their order, in batches collated once and for all, of which each process has its part."""
    starts = range(0, len(samples), batch_size)[share.rank :: share.count]
    own = [batch for start in starts for batch in batches(samples[start : start + batch_size], batch_size)]
    return DataLoader(
        own or [StandIn(*collate_samples(samples[:1]))],  # type: ignore[arg-type]
        batch_size=None,
        generator=torch.Generator(),
    )
