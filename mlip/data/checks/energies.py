"""Whether energies and forces belong together: their units, signs, and energies that are total ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlip.data.checks.findings import Finding, Frames
from mlip.data.checks.nearby import Pairs
from mlip.data.checks.slopes import Slope, best_slope
from mlip.units import BOHR, HARTREE

KCAL, KJ = 1 / 23.060547830619, 1 / 96.48533212331  # per mol, eV (CODATA 2018; 1 cal = 4.184 J)

#: |log| of the factor that energies and forces may differ by and be right, and of the one that names a unit.
RIGHT, MATCHED = math.log(1.37), 0.3
#: Units whose factors differ by less can't be told apart.
ALIKE = 0.2


class Mistake(NamedTuple):
    """A mistake in a set, and what makes it right."""

    what: str
    remedy: str
    energy: float  # energies times this are eV
    forces: float  # forces times this are eV/Å
    per_atom: bool = False  # energies are to be multiplied by the number of atoms, too

    @property
    def slope(self) -> float:
        """Difference of energies over work of the forces, as labelled."""
        return self.forces / self.energy


NONE = Mistake("", "", 1, 1)
MISTAKES = (
    Mistake("forces have the wrong sign: they are gradients", "multiply the forces by -1", 1, -1),
    Mistake("energies are per atom, not total", "multiply each by its number of atoms", 1, 1, True),
    Mistake("energies are in Hartree", "multiply the energies by 27.211386", HARTREE, 1),
    Mistake("energies are in Rydberg", "multiply the energies by 13.605693", HARTREE / 2, 1),
    Mistake("energies are in kcal/mol", "divide the energies by 23.060548", KCAL, 1),
    Mistake("energies are in kJ/mol", "divide the energies by 96.485332", KJ, 1),
    Mistake("energies are in meV", "divide the energies by 1000", 1e-3, 1),
    Mistake("forces are in Hartree/Bohr", "multiply the forces by 51.422067", 1, HARTREE / BOHR),
    Mistake("forces are in Rydberg/Bohr", "multiply the forces by 25.711034", 1, HARTREE / BOHR / 2),
    Mistake("forces are in kcal/mol/Å", "divide the forces by 23.060548", 1, KCAL),
    Mistake("forces are in kJ/mol/Å", "divide the forces by 96.485332", 1, KJ),
    Mistake("forces are in kJ/mol/nm", "divide the forces by 964.85332", 1, KJ / 10),
    Mistake("forces are in meV/Å", "divide the forces by 1000", 1, 1e-3),
    Mistake(
        "energies and forces are in Hartree and Hartree/Bohr (or Rydberg and Rydberg/Bohr)",
        "multiply energies by 27.211386 and forces by 51.422067 (Rydberg: half of both)",
        HARTREE,
        HARTREE / BOHR,
    ),
    Mistake("positions are in Bohr", "multiply positions and cells by 0.52917721", 1, BOHR),
)


class Judged(NamedTuple):
    """The mistake that explains energies and forces, `NONE` if there is none or none is known."""

    mistake: Mistake
    findings: list[Finding]
    is_certain: bool  # whether there was evidence


def judge_forces(pairs: Pairs) -> Judged:
    """Differences of energies against the work of forces between nearby frames of one cell."""
    topic = "energy and forces"
    fixed = pairs.take(~pairs.strained & np.isfinite(pairs.force_work) & np.isfinite(pairs.energy))
    if not len(fixed):
        why = "cannot be judged against each other: no two nearby frames of the same system and cell with both"
        return Judged(NONE, [Finding("note", topic, why)], False)
    plain = best_slope(fixed.force_work, fixed.energy, fixed)
    whole = best_slope(fixed.force_work, fixed.energy * fixed.n_atoms, fixed)
    found = max((plain, whole), key=lambda s: abs(s.correlation))
    if not found.is_evidence:
        why = (
            f"cannot be judged against each other: the {len(fixed)} nearest pairs of frames are too far apart "
            f"(correlation of energy differences with the work of forces {found.correlation:.2f})"
        )
        return Judged(NONE, [Finding("note", topic, why)], False)
    names = _explanations(plain, whole)
    evidence = (
        f"energy differences are {plain.k:.3g} times the work of the forces between {found.n} pairs of frames closer "
        f"than {found.limit:g} Å (correlation {found.correlation:.3f}; expected 1)"
    )
    if names and names[0] is NONE:
        return Judged(NONE, [Finding("ok", topic, f"belong together: {evidence}")], True)
    if not names:
        text = f"contradict each other, by no unit that is known: {evidence}. Find out where both come from"
        return Judged(NONE, [Finding("error", topic, text)], False)
    also = "".join(f"; or {other.what} ({other.remedy})" for other in names[1:])
    text = f"{names[0].what}: {evidence}. To correct it, {names[0].remedy}{also}"
    return Judged(names[0], [Finding("error", topic, text)], True)


def _explanations(plain: Slope, whole: Slope) -> list[Mistake]:
    """What explains the slopes of energies and of energies times atoms, best first; empty: nothing does."""

    def off(mistake: Mistake) -> float:
        by = whole if mistake.per_atom else plain
        if not by.is_evidence or by.k * mistake.slope <= 0:
            return math.inf
        return abs(math.log(by.k / mistake.slope))

    if off(NONE) <= RIGHT and off(NONE) <= min(map(off, MISTAKES)):
        return [NONE]
    nearest = min(map(off, MISTAKES))
    return [m for m in MISTAKES if off(m) <= min(MATCHED, nearest + ALIKE)]  # the commonest first


def judge_scaling(frames: Frames) -> list[Finding]:
    """Whether energies grow with the number of atoms, by composition: sum of n E against sum of (n/N) e."""
    topic = "total energies"
    chosen = [s for s in frames.structures if s.energy is not None and len(s.atoms) > 1]
    sizes = np.array([len(s.atoms) for s in chosen], dtype=float)
    if len(chosen) < 4 or sizes.max() < 1.01 * sizes.min():
        return [Finding("note", topic, "cannot be judged by size: frames have one number of atoms")]
    energies = np.array([s.energy for s in chosen])
    counts = composition_counts([s.atoms.numbers for s in chosen])
    compositions = len(np.unique(counts, axis=0))
    if compositions < counts.shape[1] + 1:
        return [Finding("note", topic, f"cannot be judged by size: {compositions} compositions for these elements")]
    fractions = counts / sizes[:, None]
    total = _relative(fractions, energies / sizes)
    average = _relative(fractions, energies)
    evidence = (
        f"sums over the atoms leave {100 * total:.2g} % of energies per atom unexplained, means over the atoms "
        f"{100 * average:.2g} %, for {sizes.min():.0f} to {sizes.max():.0f} atoms"
    )
    if average < 0.3 * total and total > 2e-3:
        text = f"energies look like energies per atom: {evidence}. Multiply each by its number of atoms"
        return [Finding("error", topic, text)]
    if total < average / 2:
        return [Finding("ok", topic, f"energies grow with the number of atoms: {evidence}")]
    return [Finding("note", topic, f"cannot be judged by size: {evidence}")]


def composition_counts(numbers: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Atoms of each element (frames, elements)."""
    elements = sorted({int(z) for some in numbers for z in set(some.tolist())})
    place = {z: k for k, z in enumerate(elements)}
    counts = np.zeros((len(numbers), len(elements)))
    for row, some in zip(counts, numbers, strict=True):
        for z, n in zip(*np.unique(some, return_counts=True), strict=True):
            row[place[int(z)]] = n
    return counts


def _relative(features: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """Median error of a robust fit, relative to the values."""
    rest = values - features @ robust_fit(features, values)
    return float(np.median(np.abs(rest)) / max(np.median(np.abs(values)), 1e-12))


def robust_fit(features: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least absolute deviations, by least squares with new weights."""
    weights = np.ones(len(values))
    for _ in range(20):
        solution, *_ = np.linalg.lstsq(features * weights[:, None], values * weights, rcond=None)
        rest = np.abs(values - features @ solution)
        weights = 1 / np.sqrt(np.maximum(rest, 1e-3 * np.median(rest) + 1e-9))
    return np.asarray(solution)
