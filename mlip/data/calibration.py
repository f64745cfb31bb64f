"""Deviations of a committee against its errors on labelled structures: factors that calibrate them, how good they are.

With errors Δ of the committee's mean and deviations σ of its members about it, the factor is α = √(Σ Δ² / Σ σ²), the
ratio of their root mean squares, of energies per atom, force components and stress components.

Musil et al. (J. Chem. Theory Comput. 15, 906 (2019)) take the mean of Δ²/σ² instead, the maximum of a Gaussian
likelihood. Of M members σ² varies as a χ² of M - 1 degrees of freedom: that mean overestimates by (M - 1)/(M - 3),
which Imbalzano et al. (J. Chem. Phys. 154, 074102 (2021)) correct for, and it has no value at all for M = 2 and 3. The
ratio of sums needs no correction, for any M.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip.committee import Calibration
from mlip.data.labels import PROPERTIES, LabelledStructure
from mlip.data.predict import Predicted
from mlip.errors import DataError

Pairs = Iterable[tuple[LabelledStructure, Predicted]]
#: Errors and deviations up to here (eV per atom, eV/Å, eV/Å³) are rounding: of forces that vanish by symmetry, say.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Deviations:
    """Errors and deviations of one property over a set, in the order of structures and atoms.

    Attributes:
        errors: (n,) predicted - label; of energies per atom.
        stds: (n,) deviations of the members, not calibrated.
    """

    errors: NDArray[np.float64]
    stds: NDArray[np.float64]

    @property
    def factor(self) -> float | None:
        """α; None without labels, and where errors or deviations are nothing but rounding."""
        rmse, deviation = (float(np.square(x).mean() ** 0.5) if len(x) else 0.0 for x in (self.errors, self.stds))
        return rmse / deviation if min(rmse, deviation) > ROUNDING else None

    def by_atom(self) -> Deviations:
        """Lengths of vectors (n / 3,), for forces."""
        lengths = [np.linalg.norm(values.reshape(-1, 3), axis=1) for values in (self.errors, self.stds)]
        return Deviations(*lengths)


@dataclass(frozen=True)
class Reliability:
    """How well deviations tell errors, of one property over a set; eV/atom, eV/Å, eV/Å³.

    Attributes:
        n: numbers compared; components of forces and stresses.
        rmse: of the committee's mean.
        deviation: root mean square of the deviations, not calibrated.
        ratio: rmse / deviation: what the factor would be if it came from these data.
        factor: of the calibration that is looked at, None without one.
        rank_correlation: Spearman's, of absolute errors and deviations; of forces of the lengths by atom.
        within_1, within_2: parts of the errors below one and two calibrated deviations (of a Gaussian 0.68, 0.95).
    """

    n: int
    rmse: float
    deviation: float
    ratio: float | None
    factor: float | None
    rank_correlation: float | None
    within_1: float | None
    within_2: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def deviations_of(pairs: Pairs) -> dict[str, Deviations]:
    """By property, of those that have labels and deviations; without labels of weight zero."""
    found: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {name: [] for name in PROPERTIES}
    for structure, predicted in pairs:
        for name in PROPERTIES:
            label, value = getattr(structure, name), getattr(predicted, name)
            std = getattr(predicted, f"{name}_std")
            if label is None or value is None or std is None or not structure.label_weight(name):
                continue
            per = len(structure.atoms) if name == "energy" else 1
            found[name].append((np.ravel(value - label) / per, np.ravel(std) / per))
    return {
        name: Deviations(*(np.concatenate(parts) for parts in zip(*values, strict=True)))
        for name, values in found.items()
        if values
    }


def calibrate(pairs: Sequence[tuple[LabelledStructure, Predicted]]) -> Calibration:
    """Factors from structures that trained no member.

    Raises:
        DataError: no labels.
    """
    factors = {name: deviations.factor for name, deviations in deviations_of(pairs).items()}
    if not factors:
        raise DataError("no structure to calibrate on has a label of something that the committee predicts")
    return Calibration(**factors, structures=len(pairs))


def reliability(deviations: dict[str, Deviations], calibration: Calibration | None = None) -> dict[str, dict[str, Any]]:
    """`Reliability.as_dict` by property."""
    return {
        name: _reliability(name, values, None if calibration is None else getattr(calibration, name)).as_dict()
        for name, values in deviations.items()
    }


def _reliability(name: str, values: Deviations, factor: float | None) -> Reliability:
    compared = values.by_atom() if name == "forces" else values
    sizes = np.abs(values.errors)
    within = [None if factor is None else float((sizes <= k * factor * values.stds).mean()) for k in (1, 2)]
    return Reliability(
        n=len(values.errors),
        rmse=float(np.square(values.errors).mean() ** 0.5),
        deviation=float(np.square(values.stds).mean() ** 0.5),
        ratio=values.factor,
        factor=factor,
        rank_correlation=rank_correlation(np.abs(compared.errors), compared.stds),
        within_1=within[0],
        within_2=within[1],
    )


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Spearman's, equal values with their mean rank; None of fewer than three values or of equal ones."""
    if len(a) < 3:
        return None
    ranks = [_ranks(values) for values in (a, b)]
    if not all(np.ptp(rank) > 0 for rank in ranks):
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[place])
