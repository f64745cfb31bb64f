"""Which structures make which batch of which epoch: a function of the seed and the epoch alone."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from mlip.errors import DataError

#: Structures whose sizes differ by less than one part in this many are taken for each other in a plan by budget.
RESOLUTION = 8

#: Blocks of a set on disk whose structures are permuted together.
WINDOW = 64

Slots = tuple[tuple[int, ...], ...]  # class of each member, by batch


class BatchPlan(Protocol):
    """Batches of any epoch; every epoch has all structures once, in the same number of batches."""

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        ...

    def batches(self, seed: int, epoch: int) -> Iterable[list[int]]:
        """Structures of each batch of an epoch, in the order of training."""
        ...

    def worst(self, by_size: Sequence[int]) -> list[int]:
        """Structures of the heaviest batch that an epoch may hold, given all structures, heaviest first."""
        ...


@dataclass(frozen=True)
class CountPlan:
    """Batches of `size` structures, cut from a random permutation; the last one may be smaller."""

    n: int
    size: int

    @property
    def steps(self) -> int:
        return -(-self.n // self.size)

    def batches(self, seed: int, epoch: int) -> list[list[int]]:
        order = _generator(seed, epoch).permutation(self.n).tolist()
        return [order[start : start + self.size] for start in range(0, self.n, self.size)]

    def worst(self, by_size: Sequence[int]) -> list[int]:
        return list(by_size[: self.size])


@dataclass(frozen=True)
class WindowPlan:
    """Batches of `size` structures of a set on disk, which is read in blocks of consecutive ones.

    The blocks come in random order, `WINDOW` at a time; the structures of these are permuted and cut into batches, and
    what is left over goes into the next window. A set that is smaller than a window is thus permuted as in `CountPlan`.
    """

    starts: NDArray[np.int64]  # (blocks + 1,) the first structure of each block, and the end of the last
    left_out: NDArray[np.int64]  # structures that do not train, ascending
    size: int

    @property
    def n(self) -> int:
        """Structures in an epoch."""
        return int(self.starts[-1]) - len(self.left_out)

    @property
    def steps(self) -> int:
        return -(-self.n // self.size)

    def batches(self, seed: int, epoch: int) -> Iterator[list[int]]:
        rng = _generator(seed, epoch)
        order = rng.permutation(len(self.starts) - 1)
        rest = np.empty(0, dtype=np.int64)
        for first in range(0, len(order), WINDOW):
            blocks = [np.arange(self.starts[b], self.starts[b + 1]) for b in order[first : first + WINDOW]]
            window = np.concatenate([rest, rng.permutation(self._without_left_out(np.concatenate(blocks)))])
            stop = len(window) - len(window) % self.size
            for start in range(0, stop, self.size):
                yield window[start : start + self.size].tolist()
            rest = window[stop:]
        if len(rest):
            yield rest.tolist()

    def _without_left_out(self, members: NDArray[np.int64]) -> NDArray[np.int64]:
        if not len(self.left_out):
            return members
        place = np.searchsorted(self.left_out, members)
        return members[self.left_out[np.minimum(place, len(self.left_out) - 1)] != members]

    def worst(self, by_size: Sequence[int]) -> list[int]:
        return list(by_size[: self.size])


@dataclass(frozen=True)
class BudgetPlan:
    """Batches of at most so many atoms (or pairs), about equally large, as many in every epoch.

    Structures are sorted into classes of about one size. Which classes a batch takes its members from is fixed once,
    so that the number of batches is too; which structures of a class they are is drawn anew for every epoch, as is
    the order of the batches.
    """

    classes: tuple[NDArray[np.int64], ...]  # structures of each class
    slots: Slots

    @property
    def steps(self) -> int:
        return len(self.slots)

    def batches(self, seed: int, epoch: int) -> list[list[int]]:
        rng = _generator(seed, epoch)
        drawn = [iter(rng.permutation(members).tolist()) for members in self.classes]
        filled = [[next(drawn[k]) for k in slot] for slot in self.slots]
        return [filled[k] for k in rng.permutation(len(filled))]

    def worst(self, by_size: Sequence[int]) -> list[int]:
        place = {member: rank for rank, member in enumerate(by_size)}
        heaviest = [iter(sorted(members.tolist(), key=place.__getitem__)) for members in self.classes]
        return [next(heaviest[k]) for k in self.slots[0]]


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch])


def budget_plan(sizes: Sequence[int], budget: int, what: str, most: int | None = None) -> BudgetPlan:
    """A plan with as few batches as sorting by size finds.

    The largest structures are dealt out first, each to the batch with the smallest load (Graham 1969: at most 4/3 of
    the best possible load). All members of a class count as its largest, so that any of them fits wherever one does.

    Args:
        sizes: of the structures, in atoms or pairs.
        budget: most of these in a batch.
        what: name of the option, for errors.
        most: structures in a batch at most.

    Raises:
        DataError: a structure larger than the budget.
    """
    array = np.maximum(np.asarray(sizes, dtype=np.int64), 1)
    if array.max() > budget:
        raise DataError(f"--{what} {budget} is less than the {array.max()} of the largest structure; raise it to that")
    rounding = 2 ** np.floor(np.log2(np.maximum(array / RESOLUTION, 1))).astype(np.int64)
    rounded = -(-array // rounding) * rounding
    classes = [np.flatnonzero(rounded == size) for size in np.unique(rounded)[::-1]]
    loads = [int(array[members].max()) for members in classes]
    dealt = [k for k, members in enumerate(classes) for _ in members]
    total = sum(loads[k] for k in dealt)
    fewest = max(-(-total // budget), -(-len(array) // (most or len(array))))
    slots = _fewest_batches(lambda count: _deal(dealt, loads, count, budget, most or len(array)), fewest, len(array))
    return BudgetPlan(tuple(classes), slots)


def _fewest_batches(deal: Callable[[int], Slots | None], low: int, high: int) -> Slots:
    """What `deal` makes of the smallest number of batches, from `low` to `high`, that it manages with.

    Steps grow until it succeeds, then the last step is halved down: few attempts, and the least number but for the
    quirks of a rule of thumb.
    """
    failed, step, count = low - 1, 1, low
    while (slots := deal(count)) is None:
        failed, step = count, 2 * step
        count = min(count + step, high)  # one structure in each batch always fits
    while count - failed > 1:
        middle = (failed + count) // 2
        better = deal(middle)
        if better is None:
            failed = middle
        else:
            slots, count = better, middle
    return slots


def _deal(dealt: Sequence[int], loads: Sequence[int], count: int, budget: int, most: int) -> Slots | None:
    """Members, largest first, each to the batch with the smallest load; None if one exceeds the budget."""
    slots: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, batch) for batch in range(count)]
    for k in dealt:
        if not heap:
            return None
        load, batch = heap[0]
        load += loads[k]
        if load > budget:
            return None
        slots[batch].append(k)
        if len(slots[batch]) < most:
            heapq.heapreplace(heap, (load, batch))
        else:
            heapq.heappop(heap)
    return tuple(tuple(slot) for slot in slots)


class EpochBatches(Sampler[list[int]]):
    """Batches of a plan, epoch by epoch, as lists of structures.

    Lightning calls `set_epoch` with the epoch counted from the start of the process; `first_epoch` is that of a
    restarted run, whose first pass leaves out the `skip` batches that were seen before.
    """

    def __init__(self, plan: BatchPlan, seed: int, first_epoch: int = 0, skip: int = 0) -> None:
        self.plan, self.seed, self.first_epoch, self.skip = plan, seed, first_epoch, skip
        self.epoch = first_epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = self.first_epoch + epoch

    def __len__(self) -> int:
        return self.plan.steps - self.skip

    def __iter__(self) -> Iterator[list[int]]:
        # A loader with workers makes two iterators, of which it asks the second one only: nothing happens before that.
        skipped, self.skip = self.skip, 0
        yield from islice(self.plan.batches(self.seed, self.epoch), skipped, None)
