"""Sign, unit and order of the stress, by what is true of it: work of a strain, or the forces on what has vacuum around.

Evidence of both kinds has one form: y = sum_k A_k σ_k, with y in eV known without the stress. Every mistake is a linear
map of the labelled stress, so that the one that fits is found by trying all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlip.data.checks.energies import Mistake
from mlip.data.checks.findings import Finding, Frames
from mlip.data.checks.nearby import Pairs
from mlip.data.checks.slopes import FEWEST, limits_of, noise
from mlip.data.labels import LabelledStructure
from mlip.units import EV_PER_A3_TO_GPA, full_3x3_to_voigt_6

Array = NDArray[np.float64]

#: What is left unexplained by labels that are right, relative; and how much better a mistake must explain.
EXPLAINED, BETTER = 0.5, 2.5
#: Energies of different cells are this far off each other in eV per atom, by their k-points and plane waves.
ENERGY_NOISE = 5e-4
#: Empty space (Å) that separates a slab or molecule from its images.
VACUUM = 6.0
#: Stress that is plausible without any evidence, eV/Å³: 480 GPa.
LARGE = 3.0


class Evidence(NamedTuple):
    """Equations y = sum over ends and components of coefficients x stress, in eV."""

    y: Array  # (P,)
    stress: Array  # (P, 2, 6) as labelled, Voigt
    coefficients: Array  # (P, 2, 6)
    volume: Array  # (P, 2)
    weights: Array  # (P,)
    what: str

    def take(self, chosen: NDArray[np.bool_]) -> Evidence:
        return Evidence(
            self.y[chosen],
            self.stress[chosen],
            self.coefficients[chosen],
            self.volume[chosen],
            self.weights[chosen],
            self.what,
        )


class Reading(NamedTuple):
    """The stress is `sign x unit x labelled`, its shear columns those that `order` names; `is_virial`: by volume."""

    sign: int
    unit: float
    unit_name: str
    order: tuple[int, ...]  # place, among the labelled columns yz xz xy, of the true yz, xz and xy
    is_virial: bool = False

    def same_but_order(self, other: Reading) -> bool:
        return self._replace(order=other.order) == other

    def true(self, evidence: Evidence) -> Array:
        stress = evidence.stress[:, :, [0, 1, 2, *(3 + k for k in self.order)]] * (self.sign * self.unit)
        return stress / evidence.volume[:, :, None] if self.is_virial else stress

    def unexplained(self, evidence: Evidence) -> float:
        """Sum of errors relative to what is to be explained, the worst tenth left out."""
        predicted = (self.true(evidence) * evidence.coefficients).sum(axis=(1, 2))
        off = np.abs(evidence.y - predicted) * evidence.weights
        kept = np.argsort(off)[: max(1, int(np.ceil(0.9 * len(off))))]
        return float(off[kept].sum() / max((np.abs(evidence.y) * evidence.weights)[kept].sum(), 1e-300))


AS_IS = (0, 1, 2)
UNITS = ((1.0, "eV/Å³"), (0.1 / EV_PER_A3_TO_GPA, "kbar"), (1 / EV_PER_A3_TO_GPA, "GPa"))
RIGHT = Reading(1, 1.0, "eV/Å³", AS_IS)
READINGS = [Reading(s, u, name, o) for s in (1, -1) for u, name in UNITS for o in permutations(range(3))] + [
    Reading(s, 1.0, "eV", o, True) for s in (-1, 1) for o in permutations(range(3))
]
#: Shear columns of Voigt's order.
NAMES = ("yz", "xz", "xy")


class Verdict(NamedTuple):
    """What one kind of evidence says."""

    reading: Reading
    tells_order: bool
    doubt: float
    finding: Finding


def judge_stress(frames: Frames, pairs: Pairs, mistake: Mistake) -> list[Finding]:
    """Sign, unit and order, or why they can't be judged."""
    labelled = [s.stress for s in frames.structures if s.stress is not None]
    if not labelled:
        return []
    kinds = [*strain_evidence(pairs, mistake), *_of_vacuum(frames.structures, mistake)]
    verdicts = [found for evidence in kinds if (found := _judged(evidence))]
    if verdicts:
        verdicts.sort(key=lambda v: v.doubt)
        same = [v for v in verdicts if v.reading.same_but_order(verdicts[0].reading)]
        return [next((v for v in same if v.tells_order), verdicts[0]).finding]
    median = float(np.median([np.abs(stress).max() for stress in labelled]))
    size = f"largest components have a median of {median:.3g} eV/Å³ ({median * EV_PER_A3_TO_GPA:.3g} GPa)"
    if median > LARGE:
        text = (
            f"is too large for eV/Å³: {size}. 1 eV/Å³ is 160.2 GPa, 1602 kbar: convert it. No strained copies of "
            "a frame tell the unit"
        )
        return [Finding("error", "stress", text)]
    text = (
        "sign, unit and order of columns cannot be judged: no strained copies of a frame near enough, and none with "
        f"vacuum around it; {size}"
    )
    return [Finding("note", "stress", text)]


def strain_evidence(pairs: Pairs, mistake: Mistake) -> Iterator[Evidence]:
    """Work of the strain between nearby frames: what of the energy the forces do not explain."""
    use = pairs.strained & np.isfinite(pairs.strain_work).all(axis=1)
    pairs = pairs.take(use)
    per_atom = pairs.n_atoms if mistake.per_atom else 1.0
    still = np.nan_to_num(pairs.force_work) * mistake.forces  # no forces: frames without, as perfect crystals have
    y = pairs.energy * mistake.energy * per_atom - still
    scale = noise(pairs) + ENERGY_NOISE * pairs.n_atoms
    whole = Evidence(y, pairs.stress, pairs.strain_ends / 2, pairs.volume, 1 / scale, "")
    strain = np.abs(pairs.strain)
    sheared = strain[:, 3:].max(axis=1, initial=0) > strain[:, :3].max(axis=1, initial=0)
    for limit in limits_of(pairs):
        near = pairs.size < limit
        yield whole.take(near)._replace(what=f"{int(near.sum())} pairs of frames strained against each other")
        near &= sheared
        yield whole.take(near)._replace(what=f"{int(near.sum())} pairs of frames sheared against each other")


def _of_vacuum(structures: Sequence[LabelledStructure], mistake: Mistake) -> Iterator[Evidence]:
    """V n·σ·u = -sum (F·u) (n·r) for each direction u, along a normal n with vacuum."""
    y, stresses, coefficients, volumes = [], [], [], []
    frames = 0
    for s in structures:
        if s.stress is None or s.forces is None or len(s.atoms) < 2:
            continue
        found = 0
        for normal, heights in _vacuums(s):
            found = 1
            forces = s.forces * mistake.forces
            forces = forces - forces.mean(axis=0)
            for u in np.eye(3):
                y.append(-float(((forces @ u) * heights).sum()))
                tensor = full_3x3_to_voigt_6(np.outer(normal, u)) * [1, 1, 1, 2, 2, 2]
                volumes.append(s.atoms.get_volume())
                stresses.append(full_3x3_to_voigt_6(s.stress))
                coefficients.append(tensor * volumes[-1])
        frames += found
    if frames < FEWEST or float(np.median(np.abs(y))) < 0.2:
        return
    halves = [np.repeat(np.array(a)[:, None] * f, 2, axis=1) for a, f in ((stresses, 1), (coefficients, 0.5))]
    volume = np.repeat(np.array(volumes)[:, None], 2, axis=1)
    yield Evidence(
        np.array(y), halves[0], halves[1], volume, np.ones(len(y)), f"the forces on {frames} frames with vacuum around"
    )


def _vacuums(structure: LabelledStructure) -> Iterator[tuple[Array, Array]]:
    """Normals (3,) of periodic planes with vacuum between them, and heights (N,) of the atoms across."""
    cell = structure.atoms.cell.array
    fractional = structure.atoms.get_scaled_positions(wrap=True)
    reciprocal = np.linalg.inv(cell).T
    for axis in range(3):
        height = 1 / float(np.linalg.norm(reciprocal[axis]))
        x = np.sort(fractional[:, axis])
        gaps = np.diff([*x, x[0] + 1])
        widest = int(np.argmax(gaps))
        if gaps[widest] * height > VACUUM:
            begin = x[(widest + 1) % len(x)]
            normal = reciprocal[axis] * height
            yield normal, ((fractional[:, axis] - begin + 1e-9) % 1.0) * height


def _judged(evidence: Evidence) -> Verdict | None:
    """What one kind of evidence says, None if it proves nothing."""
    if len(evidence.y) < FEWEST:
        return None
    scores = {reading: reading.unexplained(evidence) for reading in READINGS}
    best = min(READINGS, key=lambda r: scores[r])
    if scores[best] > EXPLAINED:
        return None
    if scores[RIGHT] <= BETTER * scores[best]:
        best = RIGHT
    others = [r for r in READINGS if r.same_but_order(best) and r.order != best.order]
    told = min(scores[r] for r in others) > BETTER * scores[best]
    numbers = f"{evidence.what} leave {percent(scores[RIGHT])} unexplained as it is"
    slopes = f"; energy over work of the labelled stress, expected 1: {_slopes(evidence)}"
    if best is RIGHT:
        order = "" if told else "; the order of the shear columns cannot be judged: no sheared copies"
        text = f"sign and unit are right{', and the order' if told else ''}: {numbers}{slopes}{order}"
        return Verdict(RIGHT, told, _doubt(scores[RIGHT], evidence), Finding("ok", "stress", text))
    if not told:
        best = min((r for r in READINGS if r.order == AS_IS), key=lambda r: scores[r])
        if scores[best] > EXPLAINED:
            return None
    near = [r for r in READINGS if scores[r] <= min(EXPLAINED, 5 * scores[best]) and r.order == best.order]
    numbers += f", {percent(scores[best])} when corrected{slopes}"
    return Verdict(near[0], told, _doubt(scores[best], evidence), _mistakes(near, numbers))


def _slopes(evidence: Evidence) -> str:
    """Least squares of all components at once, of those that do some work; a tenth that fits worst is left out."""
    work = (evidence.stress * evidence.coefficients).sum(axis=1) * evidence.weights[:, None]
    y = evidence.y * evidence.weights
    share = np.abs(work).sum(axis=0)
    used = share > 0.02 * share.sum()
    kept = np.ones(len(y), dtype=bool)
    for _ in range(2):
        slopes, *_ = np.linalg.lstsq(work[kept][:, used], y[kept], rcond=None)
        off = np.abs(y - work[:, used] @ slopes)
        kept = off <= np.quantile(off, 0.9)
    names = [name for name, is_used in zip(("xx", "yy", "zz", *NAMES), used, strict=True) if is_used]
    return ", ".join(f"{name} {k:.3g}" for name, k in zip(names, slopes, strict=True))


def _doubt(unexplained: float, evidence: Evidence) -> float:
    """The less the better: few equations are explained easily."""
    return (unexplained + 0.02) * (1 + 2 * FEWEST / len(evidence.y))


def _mistakes(readings: Sequence[Reading], numbers: str) -> Finding:
    """What is wrong and what to do, of readings that all explain the evidence, the likeliest first."""
    wrong, remedy = _in_words(readings[0])
    others = "".join(f"; or {what} ({how})" for what, how in map(_in_words, readings[1:]))
    return Finding("error", "stress", f"{wrong}: {numbers}. To correct it, {remedy}{others}")


def _in_words(reading: Reading) -> tuple[str, str]:
    wrong, remedies = [], []
    if reading.is_virial:
        wrong.append("it is a virial (eV), not a stress")
        remedies.append("name it with --virials_key" if reading.sign < 0 else "divide it by the volume")
    else:
        if reading.sign < 0:
            wrong.append("its sign is wrong (it must be positive under tension)")
        if reading.unit != 1:
            wrong.append(f"it is in {reading.unit_name}, not eV/Å³")
        if reading.sign * reading.unit != 1:
            remedies.append(f"multiply it by {reading.sign * reading.unit:.6g}")
    if reading.order != AS_IS:
        true = [NAMES[reading.order.index(k)] for k in range(3)]
        wrong.append(f"its shear columns are in the order {' '.join(true)}, not yz xz xy")
        remedies.append("sort them" + (" (VASP writes xx yy zz xy yz zx)" if true == ["xy", "yz", "xz"] else ""))
    return " and ".join(wrong), " and ".join(remedies)


def percent(share: float) -> str:
    """0.0123 as 1.2 %."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:,.0f} %"
