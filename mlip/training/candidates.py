"""The symmetry functions that a choice is made from: for each element, of every scale and shape within the cutoff.

In the manner of Imbalzano et al., J. Chem. Phys. 148, 241730 (2018), section II.B, and Gastegger et al., J. Chem. Phys.
148, 241709 (2018): Gaussians around the center whose widths are a geometric series, and shells on a grid. Many
functions of angles share their part of the distances, which is what most of their time goes to.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple

from mlip.nn.symmetry_functions import SymmetryFunction

#: Numbers of Gaussians around the center and of shells, for functions of one neighbor and of two.
RADIAL, ANGULAR = (8, 12), (4, 6)
#: The narrowest Gaussian around the center has this part of the cutoff as its width η^(-1/2).
NARROWEST = 1 / 8
#: Shells begin at this part of the cutoff.
INNERMOST = 1 / 5
#: Exponents of the factor of the angle, with λ = 1 and -1.
ZETAS = (1.0, 2.0, 4.0, 16.0)


class Gaussian(NamedTuple):
    """exp(-η (r - shift)²)."""

    eta: float  # Å⁻²
    shift: float  # Å


def candidates(elements: Sequence[int], cutoff: float) -> list[SymmetryFunction]:
    """All candidates, by element of the center.

    Args:
        elements: atomic numbers.
        cutoff: in Å.
    """
    found = []
    for center in elements:
        for neighbor in elements:
            found += [SymmetryFunction(2, center, (neighbor,), cutoff, *g) for g in _gaussians(cutoff, *RADIAL)]
        for pair in combinations_with_replacement(elements, 2):
            for kind in (9, 3):
                found += [
                    SymmetryFunction(kind, center, pair, cutoff, *gaussian, lam, zeta)
                    for gaussian in _gaussians(cutoff, *ANGULAR)
                    for lam in (1.0, -1.0)
                    for zeta in ZETAS
                ]
    return found


def _gaussians(cutoff: float, centered: int, shells: int) -> list[Gaussian]:
    """Widest first; neighboring shells meet at 0.78 of their height."""
    ratio = NARROWEST ** (1 / (centered - 1))
    around = [Gaussian(1 / (cutoff * ratio**k) ** 2, 0.0) for k in range(centered)]
    step = cutoff * (1 - INNERMOST) / shells
    return around + [Gaussian(1 / step**2, cutoff * INNERMOST + k * step) for k in range(shells)]
