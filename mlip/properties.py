"""What a property model learns: a name, a unit, and how the atoms' numbers become the property."""

from __future__ import annotations

from dataclasses import dataclass

from mlip.errors import InputError
from mlip.units import BOHR, DEBYE

#: How the property of a structure comes from its atoms.
READOUTS = ("sum", "mean", "dipole", "dipole_norm")
#: Units of dipole moments in e·Å.
DIPOLE_UNITS = {"e·Å": 1.0, "D": DEBYE, "e·a0": BOHR}
#: Units by the endings that names of properties carry in files, such as mu_D.
UNIT_ENDINGS = {
    "D": "D",
    "eA": "e·Å",
    "ea0": "e·a0",
    "a02": "a0²",
    "a03": "a0³",
    "A3": "Å³",
    "eV": "eV",
    "meV": "meV",
    "Ha": "Ha",
    "kcal_mol": "kcal/mol",
    "kJ_mol": "kJ/mol",
    "cal_molK": "cal/(mol K)",
}
_SPELLINGS = {"e*A": "e·Å", "eA": "e·Å", "eÅ": "e·Å", "debye": "D", "Debye": "D", "ea0": "e·a0", "au": "e·a0"}


@dataclass(frozen=True)
class Property:
    """A property of whole structures.

    Args:
        name: what it is called in files and results.
        readout: "sum" or "mean" over the atoms, "dipole" (a vector, from charges and atomic dipoles), or "dipole_norm"
            (the length of that vector).
        unit: of its values, here and in files; "" if nobody said.

    Raises:
        InputError: no such readout; a dipole in no unit of dipoles.
    """

    name: str
    readout: str = "sum"
    unit: str = ""

    def __post_init__(self) -> None:
        if self.readout not in READOUTS:
            raise InputError(f"readout {self.readout!r}: expected one of {', '.join(READOUTS)}")
        if self.is_dipole and self.unit not in DIPOLE_UNITS:
            raise InputError(
                f"the unit of {self.name} is {self.unit or 'not known'}; a dipole is in {', '.join(DIPOLE_UNITS)}: "
                "say which with --target_unit, or take --readout sum or mean, which know nothing of dipoles"
            )

    @property
    def is_dipole(self) -> bool:
        """Whether it comes from charges and atomic dipoles."""
        return self.readout in ("dipole", "dipole_norm")

    @property
    def size(self) -> int:
        """Numbers of a value: 1, or 3 for a vector."""
        return 3 if self.readout == "dipole" else 1

    @property
    def in_eA(self) -> float:
        """e·Å per unit, of a dipole."""
        return DIPOLE_UNITS[self.unit]

    @property
    def label(self) -> str:
        """Name with unit, for tables and axes."""
        return f"{self.name} / {self.unit}" if self.unit else self.name


def split_key(key: str) -> tuple[str, str]:
    """Name and unit of a key such as mu_D; unit "" where the ending is none."""
    for ending, unit in UNIT_ENDINGS.items():
        if key.endswith(f"_{ending}") and len(key) > len(ending) + 1:
            return key.removesuffix(f"_{ending}"), unit
    return key, ""


def spelled(unit: str) -> str:
    """A unit as it is written here: D for Debye, e·Å for eA."""
    return _SPELLINGS.get(unit, unit)


def property_of(key: str, readout: str | None, unit: str | None, found_unit: str = "") -> Property:
    """The property that a name given by a user and a key found in a file stand for.

    Args:
        key: name of the property, perhaps with its unit (mu_D).
        readout: None: "dipole" for one called dipole, "dipole_norm" for mu, else "sum".
        unit: as the user gives it; None: that of the key, else e·Å for a vector of dipole and D for mu.
        found_unit: of the key in the file.

    Raises:
        InputError: two different units; what `Property` raises.
    """
    name, own = split_key(key)
    known = own or found_unit
    if unit is not None and known and spelled(unit) != known:
        raise InputError(f"{name} is in {known} in the file, and not in {unit} (--target_unit)")
    chosen = readout or {"dipole": "dipole", "mu": "dipole_norm"}.get(name, "sum")
    usual = {"dipole": "e·Å", "mu": "D"}.get(name, "") if chosen in ("dipole", "dipole_norm") else ""
    return Property(name, chosen, spelled(unit) if unit is not None else known or usual)
