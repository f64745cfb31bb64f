"""A foreign calculator for the workflow tests: Stillinger-Weber silicon of matscipy."""

from __future__ import annotations

from ase import Atoms
from ase.build import bulk
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms import StillingerWeber
from matscipy.calculators.manybody.explicit_forms.stillinger_weber import Stillinger_Weber_PRB_31_5262_Si

LATTICE_CONSTANT = 5.430949777


def stillinger_weber() -> Manybody:
    return Manybody(**StillingerWeber(Stillinger_Weber_PRB_31_5262_Si))


def silicon(a: float = LATTICE_CONSTANT) -> Atoms:
    return bulk("Si", a=a, cubic=True)
