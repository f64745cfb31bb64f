"""Phonons of silicon: bands, density of states and heat capacity. Any ASE calculator would do in place of ours."""

from pathlib import Path

from ase.build import bulk

from mlip import MLIPCalculator
from mlip.workflows.phonons import phonons
from mlip.workflows.plots import plot_bands, plot_dos
from mlip.workflows.relax import relax

calculator = MLIPCalculator("silicon")
crystal = relax(bulk("Si", "diamond", a=5.47), calculator, cell=True, fmax=0.001).atoms
result = phonons(crystal, calculator, supercell=(3, 3, 3))

print("frequencies at Γ", result.frequencies_gamma_THz.round(2), "THz (PBE: 15.1)")
print(f"heat capacity at 300 K {result.heat_capacity_300K:.2f} J/K/mol (PBE: 40.06)")
print(f"{result.imaginary} imaginary modes")

output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
plot_bands(result, output / "phonon_bands.png", "silicon")
plot_dos(result, output / "phonon_dos.png", "silicon")
