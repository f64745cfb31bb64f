"""What the symmetry functions of an untrained HDNNP are scaled with: their statistics over the training set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mlip.data.batches import LabelledBatch, collate_samples
from mlip.models.hdnnp import HDNNP
from mlip.training.choose_functions import Progress

#: Pairs of neighbors whose functions are evaluated at once.
PAIRS_AT_ONCE = 20_000
#: Functions with a smaller standard deviation are shifted and not scaled: the few atoms that they do reach would be
#: beyond all bounds.
CONSTANT = 1e-10


class Moments:
    """Number, mean, standard deviation and range of each column of what was added."""

    def __init__(self, width: int) -> None:
        self.n = 0
        self.mean, self.squares = np.zeros(width), np.zeros(width)
        self.lowest, self.highest = np.full(width, np.inf), np.full(width, -np.inf)

    def add(self, values: NDArray[np.float64]) -> None:
        """Rows (n, width), by the formula of Chan, Golub and LeVeque (1979), which loses no digits."""
        if not len(values):
            return
        n, mean = len(values), values.mean(axis=0)
        difference, total = mean - self.mean, self.n + len(values)
        self.squares += np.square(values - mean).sum(axis=0) + difference**2 * (self.n * n / total)
        self.mean += difference * (n / total)
        self.n = total
        self.lowest = np.minimum(self.lowest, values.min(axis=0))
        self.highest = np.maximum(self.highest, values.max(axis=0))

    @property
    def deviation(self) -> NDArray[np.float64]:
        return np.sqrt(self.squares / max(self.n, 1))


def scale_functions(model: HDNNP, samples: Sequence[LabelledBatch], progress: Progress | None = None) -> None:
    """Set the scaling of all elements: mean 0, standard deviation 1; and the range, by which a user is warned.

    Args:
        model: whose `scaling` is set.
        samples: the training set, one structure each.
        progress: called with structures done and in all.
    """
    found = [Moments(len(model.of_element("offset", k))) for k in range(len(model.elements))]
    done = 0
    for part in _parts(samples):
        with torch.no_grad():
            values = model.symmetry_functions(collate_samples(part).graph)
        for moments, (_, own) in zip(found, values, strict=True):
            moments.add(own.numpy())
        done += len(part)
        if progress is not None:
            progress(done, len(samples))
    for k, moments in enumerate(found):
        if not moments.n:  # an element of the validation set alone
            continue
        deviation = moments.deviation
        factor = np.where(deviation > CONSTANT, 1 / np.maximum(deviation, CONSTANT), 1.0)
        named = {"offset": moments.mean, "factor": factor, "lowest": moments.lowest, "highest": moments.highest}
        for name, value in named.items():
            model.of_element(name, k).copy_(torch.from_numpy(value))


def _parts(samples: Sequence[LabelledBatch]) -> list[list[LabelledBatch]]:
    parts: list[list[LabelledBatch]] = []
    pairs = PAIRS_AT_ONCE
    for sample in samples:
        count = sample.graph.edge_index.shape[1]
        if pairs + count > PAIRS_AT_ONCE:
            parts.append([])
            pairs = 0
        parts[-1].append(sample)
        pairs += count
    return parts
