"""Heat silicon: molecular dynamics at 300 K, with a trajectory that ASE reads and a plot of temperature and energy."""

from pathlib import Path

from ase.build import bulk
from ase.io import read

from mlip import MLIPCalculator
from mlip.workflows.md import run_md
from mlip.workflows.md_integrators import MDSettings
from mlip.workflows.plots import plot_md

output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
trajectory = output / "md.traj"

atoms = bulk("Si", "diamond", a=5.47, cubic=True) * (2, 2, 2)
settings = MDSettings(ensemble="nvt", temperature=300.0, timestep=2.0, seed=0)
# A killed run goes on where it stopped with resume=True.
result = run_md(atoms, MLIPCalculator("silicon"), settings, steps=100, trajectory=trajectory, overwrite=True)

print(f"{result.n_atoms} atoms, {result.time_ps} ps, mean temperature {result.temperature_mean:.0f} K")
print(f"drift of the conserved energy {result.drift:.1e} eV/atom/ps")
print(f"{len(read(trajectory, ':'))} frames in {trajectory.name}")
plot_md(result, output / "md.png", "silicon at 300 K")
