"""Constants and the stress convention: eV, Å, amu, fs; stress positive under tension (ASE's sign).

Voigt order is ASE's: xx, yy, zz, yz, xz, xy. See docs/conventions.md.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlip.errors import InputError

#: 1 eV/Å³ in GPa (CODATA 2018: e = 1.602176634e-19 C, exact).
EV_PER_A3_TO_GPA = 160.2176634
#: Atomic units in ours (CODATA 2018).
BOHR, HARTREE = 0.529177210903, 27.211386245988  # Å, eV
DEBYE = 0.20819433270935  # e·Å (10^-21 C m² / c, CODATA 2018)
#: Units that files of n2p2 may be in, by name in small letters.
LENGTHS, ENERGIES = {"bohr": BOHR, "angstrom": 1.0}, {"hartree": HARTREE, "ev": 1.0}
VOIGT_INDICES = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def atomic_units(length: str | None = None, energy: str | None = None) -> tuple[float, float]:
    """Units of length in Å and energy in eV by their names, Bohr and Hartree by default.

    Raises:
        InputError: a name of no unit, as given with --length_unit or --energy_unit.
    """
    found = []
    for option, given, known in (
        ("length_unit", length or "Bohr", LENGTHS),
        ("energy_unit", energy or "Hartree", ENERGIES),
    ):
        if given.lower() not in known:
            raise InputError(f"--{option} {given}: expected one of {', '.join(known)}")
        found.append(known[given.lower()])
    return found[0], found[1]


def full_3x3_to_voigt_6(tensor: ArrayLike) -> NDArray[np.float64]:
    """Symmetric (..., 3, 3) tensor to its six Voigt components (..., 6); the off-diagonal pairs are averaged."""
    t = np.asarray(tensor, dtype=float)
    return np.stack([(t[..., i, j] + t[..., j, i]) / 2 for i, j in VOIGT_INDICES], axis=-1)


def voigt_6_to_full_3x3(voigt: ArrayLike) -> NDArray[np.float64]:
    """Six Voigt components (..., 6) to the symmetric tensor (..., 3, 3); of stress, so without a factor 2."""
    v = np.asarray(voigt, dtype=float)
    full = np.empty((*v.shape[:-1], 3, 3))
    for k, (i, j) in enumerate(VOIGT_INDICES):
        full[..., i, j] = full[..., j, i] = v[..., k]
    return full
