"""Least squares over more rows than fit into memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class StackedRows:
    """The triangular factor R of a tall matrix A = QR whose rows come a few at a time: |A v| = |R v| for any v.

    That is as good numerically as all rows at once, which sums of their products (the normal equations) are not.
    """

    def __init__(self, width: int) -> None:
        self.n = 0  # rows so far
        self.factor = np.zeros((0, width))

    def add(self, rows: Array) -> None:
        """More rows (n, width)."""
        if not len(rows):
            return
        stacked = np.concatenate([self.factor, rows])
        used = stacked.any(axis=0)
        triangle = np.linalg.qr(stacked[:, used], mode="r")
        self.n += len(rows)
        self.factor = np.zeros((len(triangle), stacked.shape[1]))
        self.factor[:, used] = triangle

    def least_squares(self, columns: list[int], values: int) -> tuple[Array, int]:
        """What to multiply columns with to come closest to column `values`, of smallest norm; and the rank."""
        tolerance = np.finfo(float).eps * max(self.n, len(columns))  # that of all rows at once
        solution, _, rank, _ = np.linalg.lstsq(self.factor[:, columns], self.factor[:, values], rcond=tolerance)
        return np.asarray(solution, dtype=np.float64), int(rank)

    def mean_and_deviation(self, combination: Array) -> tuple[float, float]:
        """Mean and standard deviation of A v over the rows, where the first column of A holds ones."""
        combined = self.factor @ combination
        mean = float(combined[0] * self.factor[0, 0]) / self.n
        return mean, float(np.square(combined[1:]).sum() / self.n) ** 0.5
