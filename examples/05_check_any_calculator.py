"""Check the physics of any ASE calculator: are forces and stress derivatives of the energy, is the energy the same
after a rotation, in a supercell, with atoms wrapped into the cell, ...?

The same from the command line: mlip check --calculator ase.calculators.emt:EMT
"""

from ase.calculators.emt import EMT

from mlip.testing.physics import check_calculator


class WrongForces(EMT):
    """EMT with forces one percent too large, an error that relaxations and short MD would not show."""

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results["forces"] = 1.01 * self.results["forces"]


for calculator in (EMT, WrongForces):
    print(calculator.__name__)
    for result in check_calculator(calculator):
        print("  ", result)
