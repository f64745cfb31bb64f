"""Atom-centered symmetry functions of HDNNP: the kinds, cutoffs and parameters of n2p2.

Behler, J. Chem. Phys. 134, 074106 (2011) (radial G2, angular G4 and G5, kinds 2, 3 and 9 here); Gastegger et al.,
J. Chem. Phys. 148, 241709 (2018) (weighted, 12 and 13); Bircher et al., Mach. Learn.: Sci. Technol. 2, 035026 (2021)
(compact support, 20 to 25). With r, the distance to neighbor j, s = r - r_s, and the angle θ at the center between
neighbors j and k:

    2   Σ_j exp(-η s²) f(r)
    3   2^(1-ζ) Σ_{j<k} (1 + λ cos θ)^ζ exp(-η (s_ij² + s_ik² + s_jk²)) f(r_ij) f(r_ik) f(r_jk)
    9   2^(1-ζ) Σ_{j<k} (1 + λ cos θ)^ζ exp(-η (s_ij² + s_ik²)) f(r_ij) f(r_ik)
    12, 13   as 2 and 3 of neighbors of all elements, each weighted by its atomic number
    20  Σ_j C(r)
    21  Σ_{j<k} C(r_ij) C(r_ik) C(r_jk) A(θ)
    22  Σ_{j<k} C(r_ij) C(r_ik) A(θ)
    23, 24, 25   as 20, 21 and 22 of neighbors of all elements, each weighted by its atomic number

f is a cutoff function, C and A are bumps: a core function of the distance from the middle of an interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mlip.errors import InputError

RADIAL, NARROW, WIDE = "radial", "narrow", "wide"


@dataclass(frozen=True)
class Kind:
    """What a number of n2p2 stands for."""

    shape: str  # RADIAL, or angular: NARROW (with the distance between the neighbors) or WIDE
    weighted: bool
    compact: bool

    @property
    def n_neighbors(self) -> int:
        """Elements of neighbors that are to be named."""
        return 0 if self.weighted else 1 if self.shape == RADIAL else 2


KINDS: dict[int, Kind] = {
    2: Kind(RADIAL, False, False),
    3: Kind(NARROW, False, False),
    9: Kind(WIDE, False, False),
    12: Kind(RADIAL, True, False),
    13: Kind(NARROW, True, False),
    20: Kind(RADIAL, False, True),
    21: Kind(NARROW, False, True),
    22: Kind(WIDE, False, True),
    23: Kind(RADIAL, True, True),
    24: Kind(NARROW, True, True),
    25: Kind(WIDE, True, True),
}


@dataclass(frozen=True)
class SymmetryFunction:
    """One symmetry function. Lengths in Å, angles in degrees; what its kind does not use keeps its default.

    Attributes:
        kind: a key of `KINDS`.
        center: atomic number of the center.
        neighbors: atomic numbers of one or two neighbors, ascending; none if weighted.
        cutoff: r_c.
        eta: η in 1/Å².
        shift: r_s.
        lam: λ, 1 or -1.
        zeta: ζ.
        lowest: where a bump C begins; it may be negative.
        angles: where a bump A begins and ends.
        core: core function of the bumps, a key of `CORES`, with "a" behind it for the asymmetric form of C.
    """

    kind: int
    center: int
    neighbors: tuple[int, ...]
    cutoff: float
    eta: float = 0.0
    shift: float = 0.0
    lam: float = 1.0
    zeta: float = 1.0
    lowest: float = 0.0
    angles: tuple[float, float] = (-180.0, 180.0)
    core: str = "p2"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"symmetry function of kind {self.kind}: expected one of {', '.join(map(str, KINDS))}")
        kind = KINDS[self.kind]
        object.__setattr__(self, "neighbors", tuple(sorted(self.neighbors)))
        object.__setattr__(self, "angles", tuple(self.angles))
        if len(self.neighbors) != kind.n_neighbors:
            raise InputError(
                f"symmetry function of kind {self.kind}: {len(self.neighbors)} elements of neighbors, "
                f"expected {kind.n_neighbors}"
            )
        numbers = (self.cutoff, self.eta, self.shift, self.lam, self.zeta, self.lowest, *self.angles)
        if not all(math.isfinite(number) for number in numbers):
            raise InputError(f"symmetry function {self}: expected finite numbers")
        if self.cutoff <= 0 or self.eta < 0 or self.zeta <= 0:
            raise InputError(f"symmetry function {self}: expected a positive cutoff, η not negative, ζ positive")
        if kind.compact:
            self._check_bumps(kind)

    def _check_bumps(self, kind: Kind) -> None:
        if self.core.removesuffix("a") not in CORES or self.core == "ea":
            raise InputError(f"core function {self.core!r}: expected p1, p2, p3, p4, these with a behind, or e")
        if self.lowest >= self.cutoff:
            raise InputError(f"symmetry function from {self.lowest} to {self.cutoff} Å: it begins beyond its end")
        left, right = self.angles
        if kind.shape != RADIAL and not (
            left < right <= left + 360 and (left >= 0 or left == -right) and (right <= 180 or left + right == 360)
        ):
            raise InputError(
                f"symmetry function from {left} to {right} degrees: expected an interval within 0 to 180, or one with "
                "its middle at 0 or 180"
            )

    def to_json(self) -> dict[str, Any]:
        """As it stands in a weights file."""
        kind = KINDS[self.kind]
        used = {"kind", "center", "neighbors", "cutoff"}
        used |= {"lowest", "core"} if kind.compact else {"eta", "shift"}
        if kind.shape != RADIAL:
            used |= {"angles"} if kind.compact else {"lam", "zeta"}
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        return {name: value for name, value in plain.items() if name in used}

    @classmethod
    def of(cls, given: SymmetryFunction | Mapping[str, Any]) -> SymmetryFunction:
        """Back from `to_json`.

        Raises:
            InputError: a name that is none of the attributes, or one that is missing.
        """
        if isinstance(given, cls):
            return given
        try:
            return cls(**given)  # type: ignore[arg-type]
        except TypeError as error:
            raise InputError(f"symmetry function {dict(given)}: {error}") from error  # type: ignore[arg-type]


def _poly1(x: Tensor) -> Tensor:
    return (2 * x - 3) * x * x + 1


def _poly2(x: Tensor) -> Tensor:
    return ((15 - 6 * x) * x - 10) * x * x * x + 1


def _poly3(x: Tensor) -> Tensor:
    square = x * x
    return (x * (x * (20 * x - 70) + 84) - 35) * square * square + 1


def _poly4(x: Tensor) -> Tensor:
    square = x * x
    return (x * (x * ((315 - 70 * x) * x - 540) + 420) - 126) * square * square * x + 1


def _exponential(x: Tensor) -> Tensor:
    return torch.exp(1 - 1 / (1 - x * x))


#: Functions of x from 0 to 1 that fall from 1 to 0, by n2p2's names.
CORES: dict[str, Callable[[Tensor], Tensor]] = {
    "p1": _poly1,
    "p2": _poly2,
    "p3": _poly3,
    "p4": _poly4,
    "e": _exponential,
}
#: Derivatives of them that vanish at 1.
CORE_SMOOTHNESS = {"p1": 1, "p2": 2, "p3": 3, "p4": 4, "e": 99}


def _cosine(x: Tensor) -> Tensor:
    return 0.5 * (torch.cos(math.pi * x) + 1)


def _tanh_cubed(x: Tensor) -> Tensor:
    value = torch.tanh(1 - x)
    return value * value * value


def _tanh_cubed_from_one(x: Tensor) -> Tensor:
    return _tanh_cubed(x) / math.tanh(1.0) ** 3


#: Cutoff functions of x = (r - r_inner) / (r_c - r_inner), in the order of n2p2's numbers, and their smoothness.
CUTOFFS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "hard": (torch.ones_like, -1),
    "cos": (_cosine, 1),
    "tanhu": (_tanh_cubed, 2),
    "tanh": (_tanh_cubed_from_one, 2),
    "exp": (_exponential, 99),
    "poly1": (_poly1, 1),
    "poly2": (_poly2, 2),
    "poly3": (_poly3, 3),
    "poly4": (_poly4, 4),
}
#: Those that know no inner cutoff.
WITHOUT_INNER = ("hard", "tanhu", "tanh")


@dataclass(frozen=True)
class CutoffFunction:
    """f of the functions with a Gaussian: 1 up to `inner` · r_c, 0 from r_c on.

    Attributes:
        name: a key of `CUTOFFS`.
        inner: n2p2's α, from 0 to below 1.
    """

    name: str = "cos"
    inner: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in CUTOFFS:
            raise InputError(f"cutoff function {self.name!r}: expected one of {', '.join(CUTOFFS)}")
        if not 0 <= self.inner < 1:
            raise InputError(f"inner cutoff {self.inner}: expected a part of the cutoff, from 0 to below 1")
        if self.inner and self.name in WITHOUT_INNER:
            raise InputError(f"cutoff function {self.name!r} has no inner cutoff; leave it out")

    def __call__(self, length: Tensor, cutoff: Tensor) -> Tensor:
        """Values for distances and cutoffs in Å that can be broadcast."""
        inner = self.inner * cutoff
        x = (length - inner) / (cutoff - inner)
        inside = length < cutoff
        value = CUTOFFS[self.name][0](torch.where(inside, x.clamp(min=0), torch.zeros_like(x)))
        return torch.where(inside, value, torch.zeros_like(value))


def bump(x: Tensor, left: Tensor, right: Tensor, core: str) -> Tensor:
    """C or A: the core function of |x - middle| in half lengths of the interval, 0 outside it."""
    distance = ((x - 0.5 * (left + right)) / (0.5 * (right - left))).abs()
    inside = (x > left) & (x < right)
    distance = torch.where(inside, distance, torch.zeros_like(distance))
    if core.endswith("a"):
        distance = (2 - distance) * distance
    value = CORES[core.removesuffix("a")](distance)
    return torch.where(inside, value, torch.zeros_like(value))


def smoothness(functions: Sequence[SymmetryFunction], cutoff: CutoffFunction) -> int:
    """Number of derivatives of all functions that are continuous across their cutoffs; 99 stands for all."""
    found = [99]
    for function in functions:
        if not KINDS[function.kind].compact:
            found.append(CUTOFFS[cutoff.name][1])
            continue
        flat = CORE_SMOOTHNESS[function.core.removesuffix("a")]
        found.append(min(99, 2 * flat + 1 if function.core.endswith("a") else flat))
    return min(found)
