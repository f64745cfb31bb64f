"""Stress and virials from a file, in every form that files have, as one symmetric tensor in ASE's convention."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlip.errors import DataError
from mlip.units import voigt_6_to_full_3x3

#: A tensor may be this asymmetric, and a stress this far from the virials beside it, relative to its largest
#: component: what is written with few digits is.
TOLERANCE = 1e-2
#: Differences of stress and virials below this (eV/Å³; 0.2 MPa) are rounding, whatever the stress.
ROUNDING = 1e-6

Array = NDArray[np.float64]


def full_tensor(values: Array, what: str, unit: str) -> Array:
    """3x3, 9 or 6 (Voigt: xx yy zz yz xz xy) numbers as a symmetric (3, 3) tensor.

    Raises:
        DataError: another shape; a tensor that is not symmetric.
    """
    if values.shape == (6,):
        full = voigt_6_to_full_3x3(values)
    elif values.size == 9:
        full = values.reshape(3, 3)
    else:
        raise DataError(f"{what} has shape {values.shape}; expected 3x3, 9 or 6 (Voigt) numbers, {unit}")
    if np.abs(full - full.T).max() > TOLERANCE * np.abs(full).max():
        raise DataError(f"{what} {full.tolist()} is not symmetric; expected a tensor with xy = yx, {unit}")
    return (full + full.T) / 2


def stress_label(stress: Array | None, virials: Array | None, atoms: Atoms, where: str) -> Array | None:
    """The stress (3, 3) in eV/Å³, positive under tension, from the stress or the virials of a file.

    Virials are those of mace and QUIP: W = -dE/d(strain) in eV, so that stress = -W / volume, exactly. A structure
    that is not periodic in three dimensions has no volume and no stress, whatever the file says.

    Raises:
        DataError: wrong shape, not symmetric, or a stress and virials that contradict each other.
    """
    direct = None if stress is None else full_tensor(stress, f"{where}: the stress", "eV/Å³")
    tensor = None if virials is None else full_tensor(virials, f"{where}: the virial tensor", "eV")
    if not atoms.pbc.all():
        return None
    if tensor is None:
        return direct
    converted = -tensor / atoms.get_volume()
    if direct is None:
        return converted
    if not _agree(direct, converted):
        hint = (
            " They agree but for the sign: mace's virials are -volume x stress." if _agree(direct, -converted) else ""
        )
        raise DataError(
            f"{where}: the stress {direct.tolist()} eV/Å³ contradicts the virials, which are {converted.tolist()} "
            f"as -virials / volume.{hint} Correct one of them, or choose it with --stress_key or --virials_key "
            "and remove the other"
        )
    return direct


def _agree(a: Array, b: Array) -> bool:
    return bool(np.abs(a - b).max() <= ROUNDING + TOLERANCE * max(np.abs(a).max(), np.abs(b).max()))
