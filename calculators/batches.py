"""Many structures in batches that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from mlip.calculators.memory import Peak, available_memory, enough_memory, is_out_of_memory
from mlip.errors import InputError
from mlip.graph import AtomGraph

#: Atoms in a batch at most, unless a caller says how many. On a CPU larger ones leave the caches: float64 with exact
#: radial functions takes 1.6 times as long with 2048, float32 with a table stays the same (MACE-MP-0 small; 45 pairs
#: per atom, one core). A GPU has more to fill (not measured).
MOST = {"cpu": 512, "cuda": 2048}
#: Atoms of the first batch of a model, whose memory is measured, and how many times larger the next may be.
FIRST, GROWTH = 32, 4
#: Of the memory that is left when a batch starts, the part it may take by what is known from those before.
SHARE = 0.5

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batches:
    """Chooses batches for one model on one device, and learns from each what the next may be.

    The first one is small. The memory of the largest one so far gives bytes per atom and bytes per pair; the larger of
    both estimates counts, as structures differ in density. A batch that by this needs more than half of the memory
    there is, or that runs out of it, is halved and done again.

    Args:
        device: where the model is.
        available: bytes that are left there.
    """

    def __init__(self, device: torch.device, available: Callable[[torch.device], float] = available_memory) -> None:
        self.device, self.available = device, available
        self.bytes_per_atom = self.bytes_per_pair = 0.0
        self._measured = 0  # atoms of the largest batch whose memory is known

    def evaluated(
        self,
        items: Sequence[Item],
        sizes: Sequence[int],
        graph: Callable[[Sequence[Item]], AtomGraph],
        evaluate: Callable[[AtomGraph], Sequence[Answer]],
        atoms: int | None = None,
        count: int | None = None,
    ) -> Iterator[Answer]:
        """The answers for the items in their order.

        Args:
            items: structures in any form.
            sizes: number of atoms of each, not zero.
            graph: makes one batch of several.
            evaluate: the answers for the structures of a batch.
            atoms: most atoms in a batch (a larger structure goes alone), instead of what memory allows.
            count: likewise, most structures in a batch.

        Raises:
            TooLargeError: memory runs out on a structure by itself.
            InputError: `atoms` or `count` below 1; what `graph` and `evaluate` raise.
        """
        for name, value in (("atoms", atoms), ("structures", count)):
            if value is not None and value < 1:
                raise InputError(f"at most {value} {name} in a batch: expected at least 1")
        automatic = atoms is None and count is None
        most = MOST.get(self.device.type, MOST["cpu"]) if automatic else (atoms or sum(sizes))
        start = 0
        while start < len(items):
            allowed = min(most, GROWTH * self._measured or FIRST) if automatic else most
            answers = None
            while answers is None:
                stop = _stop(sizes, start, allowed, count)
                answers = self._attempt(items[start:stop], sum(sizes[start:stop]), graph, evaluate, automatic)
                if answers is None:
                    # Not more than this again, if memory ran out: what took it may still be there.
                    allowed = most = max(1, sum(sizes[start:stop]) // 2)
            yield from answers
            start = stop

    def _attempt(
        self,
        items: Sequence[Item],
        n_atoms: int,
        graph: Callable[[Sequence[Item]], AtomGraph],
        evaluate: Callable[[AtomGraph], Sequence[Answer]],
        automatic: bool,
    ) -> Sequence[Answer] | None:
        """The answers, or None if several structures are too large together."""
        if len(items) == 1:
            with enough_memory(n_atoms):
                return self._measure(graph(items), evaluate)
        try:
            made = graph(items)
            if automatic and self.estimate(made) > SHARE * self.available(self.device):
                return None
            return self._measure(made, evaluate)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Here the exception is gone, and with it the tensors in its traceback.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def estimate(self, graph: AtomGraph) -> float:
        """Bytes to evaluate a batch, 0 before the first."""
        return max(self.bytes_per_atom * len(graph.numbers), self.bytes_per_pair * graph.edge_index.shape[1])

    def _measure(self, graph: AtomGraph, evaluate: Callable[[AtomGraph], Sequence[Answer]]) -> Sequence[Answer]:
        n_atoms, n_pairs = len(graph.numbers), graph.edge_index.shape[1]
        if n_atoms <= self._measured:
            return evaluate(graph)
        with Peak(self.device) as peak:
            answers = evaluate(graph)
        self._measured = n_atoms
        self.bytes_per_atom, self.bytes_per_pair = peak.bytes / n_atoms, peak.bytes / max(1, n_pairs)
        return answers


def _stop(sizes: Sequence[int], start: int, atoms: int, count: int | None) -> int:
    """End of the batch that begins at `start`: at most `atoms` atoms and `count` structures, at least one structure."""
    stop, total = start + 1, sizes[start]
    while stop < len(sizes) and total + sizes[stop] <= atoms and (count is None or stop - start < count):
        total += sizes[stop]
        stop += 1
    return stop
