"""Energies, forces and stress together, for sets whose frames all differ in their cells."""

from __future__ import annotations

import numpy as np

from mlip.data.checks.energies import MISTAKES, NONE, Judged, Mistake, judge_forces
from mlip.data.checks.findings import Finding
from mlip.data.checks.nearby import Pairs
from mlip.data.checks.slopes import FEWEST
from mlip.data.checks.stresses import BETTER, READINGS, percent, strain_evidence

#: What a pair of mistakes may leave unexplained to be believed.
EXPLAINED = 0.3


def judge_energies(pairs: Pairs) -> Judged:
    """By frames of one cell if there are enough, else by what energies, forces and stresses say together."""
    fixed = judge_forces(pairs)
    if fixed.is_certain or fixed.findings[0].level == "error":
        return fixed
    strained = pairs.take(np.isfinite(pairs.force_work))
    scores = {mistake: _unexplained(strained, mistake) for mistake in (NONE, *MISTAKES)}
    best = min(scores, key=lambda m: scores[m][0])
    left, n = scores[best]
    right = scores[NONE][0]
    if left > EXPLAINED or n < FEWEST:
        return fixed
    topic = "energy and forces"
    evidence = (
        f"{n} pairs of frames strained against each other leave {percent(right)} of the differences unexplained "
        "by forces and stress"
    )
    if right <= BETTER * left:
        return Judged(NONE, [Finding("ok", topic, f"belong together: {evidence}")], True)
    also = [m for m in scores if m not in (best, NONE) and scores[m][0] < 1.3 * left]
    others = "".join(f"; or {m.what} ({m.remedy})" for m in also)
    text = f"{best.what}: {evidence}, {percent(left)} when corrected. To correct it, {best.remedy}{others}"
    return Judged(best, [Finding("error", topic, text)], True)


def _unexplained(pairs: Pairs, mistake: Mistake) -> tuple[float, int]:
    """What the best reading of the stress leaves unexplained at the best limit on distances, and of how many pairs."""
    found = [
        (min(reading.unexplained(evidence) for reading in READINGS), len(evidence.y))
        for evidence in strain_evidence(pairs, mistake)
        if len(evidence.y) >= FEWEST
    ]
    return min(found, default=(float("inf"), 0))
