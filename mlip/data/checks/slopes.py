"""A robust slope through the origin, of pairs whose errors grow with their distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlip.data.checks.nearby import Pairs

Array = NDArray[np.float64]

#: Pairs up to these sizes (Å) are tried in turn: the path between nearer frames is straighter, but there are fewer.
LIMITS = (0.1, 0.25, 0.35, 0.5, 0.8, 1.2, 2.0)
#: Pairs that prove something, at least; and that are enough not to look further.
FEWEST, ENOUGH = 4, 12
#: A correlation that proves something.
CORRELATED = 0.85


class Slope(NamedTuple):
    """y = k x."""

    k: float
    correlation: float
    n: int
    limit: float = 0.0  # on the size of pairs, Å

    @property
    def is_evidence(self) -> bool:
        return self.n >= FEWEST and abs(self.correlation) >= CORRELATED


def noise(pairs: Pairs) -> Array:
    """About how far the mean work of both ends may be from the difference of energies, eV, up to a factor."""
    return pairs.bend * pairs.size + 1e-3


def slope(x: Array, y: Array, scale: Array) -> Slope:
    """Least squares weighted with 1/scale², without the pairs that are far off a first, robust slope.

    The slope is that of x on y, inverted: y, a difference of labels, has no noise here, and x has.
    """
    good = np.isfinite(x) & np.isfinite(y) & (np.abs(x) > 1e-9)
    x, y, weights = x[good], y[good], 1 / scale[good]
    if len(x) < 2:
        return Slope(float("nan"), 0.0, len(x))
    order = np.argsort(y / x)
    running = np.cumsum((np.abs(x) * weights)[order])
    first = (y / x)[order][int(np.searchsorted(running, running[-1] / 2))]
    off = np.abs(y - first * x) * weights
    kept = off <= 8 * np.median(off) + 1e-12 * np.abs(y * weights).max()
    x, y, w = x[kept], y[kept], np.square(weights[kept])
    xx, xy, yy = float((w * x * x).sum()), float((w * x * y).sum()), float((w * y * y).sum())
    if not xx * yy or not xy:
        return Slope(float("nan"), 0.0, len(x))
    return Slope(yy / xy, xy / (xx * yy) ** 0.5, len(x))


def best_slope(x: Array, y: Array, pairs: Pairs) -> Slope:
    """The slope of the nearest pairs that are enough, else of those that correlate best."""
    best = Slope(float("nan"), 0.0, 0)
    for limit in LIMITS:
        near = pairs.size < limit
        found = slope(x[near], y[near], noise(pairs)[near])._replace(limit=limit)
        if found.n >= FEWEST and abs(found.correlation) > abs(best.correlation):
            best = found
        if best.n >= ENOUGH and best.is_evidence:
            break
    return best


def limits_of(pairs: Pairs) -> Sequence[float]:
    """Those limits that leave enough pairs, each with more than the one before."""
    counts = [int((pairs.size < limit).sum()) for limit in LIMITS]
    return [limit for k, limit in enumerate(LIMITS) if counts[k] >= FEWEST and (k == 0 or counts[k] > counts[k - 1])]
