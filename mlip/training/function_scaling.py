"""What the symmetry functions of an untrained HDNNP are scaled with: their statistics over the training set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mlip.data.batches import LabelledBatch, collate_samples
from mlip.models.hdnnp import HDNNP
from mlip.training.choose_functions import Progress, filled

#: Pairs of neighbors whose functions are evaluated at once.
PAIRS_AT_ONCE = 20_000
#: Functions with a smaller range are shifted and not scaled: a new atom that they do reach would be beyond all bounds.
CONSTANT = 1e-10


class Ranges:
    """Number, mean and range of each column of what was added."""

    def __init__(self, width: int) -> None:
        self.n = 0
        self.mean = np.zeros(width)
        self.lowest, self.highest = np.full(width, np.inf), np.full(width, -np.inf)

    def add(self, values: NDArray[np.float64]) -> None:
        """Rows (n, width)."""
        if not len(values):
            return
        self.n += len(values)
        self.mean += (values.mean(axis=0) - self.mean) * (len(values) / self.n)
        self.lowest = np.minimum(self.lowest, values.min(axis=0))
        self.highest = np.maximum(self.highest, values.max(axis=0))


def scale_functions(model: HDNNP, samples: Sequence[LabelledBatch], progress: Progress | None = None) -> None:
    """Set the scaling of all elements: mean 0, largest minus smallest 2; and the range, by which a user is warned.

    Functions of rare events (two atoms very close) are 15 to 30 standard deviations away at times. With all standard
    deviations 1, errors of forces were a tenth larger (silicon of mlearn, 64 functions, equal times).

    Args:
        model: whose `scaling` is set.
        samples: the training set, one structure each.
        progress: called with structures done and in all.
    """
    found = [Ranges(len(model.of_element("offset", k))) for k in range(len(model.elements))]
    done = 0
    for part in filled([sample.graph.edge_index.shape[1] for sample in samples], PAIRS_AT_ONCE):
        with torch.no_grad():
            values = model.symmetry_functions(collate_samples([samples[k] for k in part]).graph)
        for ranges, (_, own) in zip(found, values, strict=True):
            ranges.add(own.numpy())
        done += len(part)
        if progress is not None:
            progress(done, len(samples))
    for k, ranges in enumerate(found):
        if not ranges.n:  # an element of the validation set alone
            continue
        width = ranges.highest - ranges.lowest
        factor = np.where(width > CONSTANT, 2 / np.maximum(width, CONSTANT), 1.0)
        named = {"offset": ranges.mean, "factor": factor, "lowest": ranges.lowest, "highest": ranges.highest}
        for name, value in named.items():
            model.of_element(name, k).copy_(torch.from_numpy(value))
