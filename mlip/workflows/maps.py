"""Maps of descriptors: two coordinates for each point, by principal components or UMAP."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mlip.errors import InputError, MissingDependencyError

Method: TypeAlias = Literal["pca", "umap"]
METHODS = ("pca", "umap")
#: Points that a map needs at least.
FEWEST = 3
#: Rows of descriptors that are brought to float64 at a time.
_BLOCK = 65536


@dataclass(frozen=True)
class PrincipalComponents:
    """The directions in which descriptors vary most.

    Attributes:
        mean: (F,).
        directions: (2, F), of unit length; the largest component of each is positive.
        explained: (2,) parts of the variance along them.
    """

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]
    explained: NDArray[np.float64]

    def project(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Coordinates (n, 2) of descriptors (n, F), of these or of other structures."""
        out = np.empty((len(x), 2))
        for start in range(0, len(x), _BLOCK):
            out[start : start + _BLOCK] = (x[start : start + _BLOCK] - self.mean) @ self.directions.T
        return out


def principal_components(x: NDArray[Any]) -> PrincipalComponents:
    """Of descriptors (n, F), centered and not scaled, by a singular value decomposition in float64.

    That of the triangular matrix R of a QR decomposition, collected block by block, which has the same singular values
    and directions.

    Raises:
        InputError: fewer than 3 points, or all the same.
    """
    require_points(len(x))
    mean = sum(x[s : s + _BLOCK].sum(axis=0, dtype=np.float64) for s in range(0, len(x), _BLOCK)) / len(x)
    triangle: NDArray[Any] = np.empty((0, x.shape[1]))
    for start in range(0, len(x), _BLOCK):
        triangle = np.asarray(np.linalg.qr(np.concatenate([triangle, x[start : start + _BLOCK] - mean]), mode="r"))
    _, values, directions = np.linalg.svd(triangle, full_matrices=False)
    total = float(np.square(values).sum())
    if total <= x.size * (4 * np.finfo(x.dtype).eps * float(np.abs(mean).max())) ** 2:
        raise InputError(f"the {len(x)} points of the map have all the same descriptors; there is nothing to draw")
    two = np.zeros((2, x.shape[1]))
    two[: len(directions[:2])] = directions[:2]
    largest = np.abs(two).argmax(axis=1)
    two *= np.where(two[np.arange(2), largest] < 0, -1.0, 1.0)[:, None]
    explained = np.zeros(2)
    explained[: len(values[:2])] = np.square(values[:2]) / total
    return PrincipalComponents(mean, two, explained)


def umap_coordinates(x: NDArray[Any], seed: int) -> NDArray[np.float64]:
    """Coordinates (n, 2) by UMAP (McInnes, Healy and Melville, arXiv:1802.03426), reproducible.

    Raises:
        MissingDependencyError: no umap-learn.
        InputError: fewer than 3 points.
    """
    require_method("umap")
    require_points(len(x))
    import umap

    neighbors = min(15, len(x) - 1)
    init = "spectral" if len(x) >= 50 else "random"  # few points have too few eigenvectors
    made = umap.UMAP(n_components=2, n_neighbors=neighbors, random_state=seed, init=init, n_jobs=1)
    return np.asarray(made.fit_transform(np.asarray(x, dtype=np.float32)), dtype=np.float64)


def require_method(method: str) -> None:
    """Refuse a method that is not there.

    Raises:
        InputError: another name.
        MissingDependencyError: UMAP without umap-learn.
    """
    if method not in METHODS:
        raise InputError(f"method {method!r}: expected one of {', '.join(METHODS)}")
    if method == "umap" and importlib.util.find_spec("umap") is None:
        raise MissingDependencyError("--method umap needs umap-learn: pip install umap-learn; or take --method pca")


def require_points(n: int) -> None:
    """Refuse a map of too few points."""
    if n < FEWEST:
        raise InputError(f"a map needs at least {FEWEST} points; got {n}")
