"""Relax the cell and the atoms of a strained, rattled silicon crystal with the bundled potential."""

from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.io import write

from mlip import MLIPCalculator
from mlip.workflows.relax import relax

atoms = bulk("Si", "diamond", a=5.43, cubic=True)
atoms.set_cell(atoms.cell @ np.diag([0.98, 1.03, 1.01]), scale_atoms=True)
atoms.rattle(0.1, seed=1)

result = relax(atoms, MLIPCalculator("silicon"), cell=True, fmax=0.001)

print(f"converged: {result.converged} in {result.steps} steps, largest force {result.forces_max:.4f} eV/Å")
print(f"energy {result.initial_energy:.4f} -> {result.energy:.4f} eV")
print("cell lengths", result.atoms.cell.lengths().round(3), "Å (PBE: 5.469)")

output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
write(output / "silicon.extxyz", result.atoms)
