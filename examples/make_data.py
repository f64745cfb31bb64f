r"""Make examples/data: silicon cells labelled by DFT, for a training that runs from a bare clone.

Eight-atom cells of diamond silicon, strained and rattled at random (seeded), and the isolated atom, computed by
PBE plane-wave PAW with GPAW 26.7.0 and its datasets gpaw-data 1.2.1. To repeat it (about half an hour on one core):

    printf 'nolibxc = True\nnoblas = True\nlibraries = []\n' > siteconfig.py
    GPAW_CONFIG=$PWD/siteconfig.py pip install gpaw==26.7.0 gpaw-data==1.2.1
    python examples/make_data.py

Settings: 300 eV plane waves, 4 x 4 x 4 Monkhorst-Pack points, Fermi smearing 0.05 eV; the energy is the free energy,
which the forces and the stress are derivatives of. Units eV, eV/Å, eV/Å^3; stress positive under tension.
"""

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import write
from gpaw import GPAW, PW, FermiDirac

OUT = Path(__file__).parent / "data"
LATTICE_CONSTANT = 5.47  # Å, near the PBE minimum
N_TRAIN, N_TEST = 40, 10


def distorted(rng: np.random.Generator) -> Atoms:
    """A silicon cell with a random volume, shear and displacements; the equilibrium is the densest region."""
    atoms = bulk("Si", "diamond", a=LATTICE_CONSTANT, cubic=True)
    strain = rng.uniform(-0.04, 0.05) * np.eye(3) + 0.015 * rng.standard_normal((3, 3))
    atoms.set_cell(atoms.cell @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    atoms.positions += rng.uniform(0.0, 0.2) * rng.standard_normal((len(atoms), 3))
    return atoms


def label(atoms: Atoms, **settings: object) -> Atoms:
    """A copy of `atoms` with REF_energy, REF_forces and, for a crystal, REF_stress."""
    dft = atoms.copy()
    convergence = {"energy": 1e-6, "density": 1e-5}
    dft.calc = GPAW(mode=PW(300), xc="PBE", convergence=convergence, txt=None, **settings)
    labelled = atoms.copy()
    labelled.info["REF_energy"] = dft.get_potential_energy(force_consistent=True)
    labelled.arrays["REF_forces"] = dft.get_forces()
    if atoms.pbc.all():
        labelled.info["REF_stress"] = dft.get_stress(voigt=False).ravel()  # nine numbers, as other programs write them
    return labelled


def main() -> None:
    rng = np.random.default_rng(2024)
    atom = Atoms("Si", cell=[9.0, 9.1, 9.2], pbc=False)
    atom.center()
    free_atom = label(atom, hund=True, occupations=FermiDirac(0.0, fixmagmom=True))
    free_atom.info["config_type"] = "IsolatedAtom"
    frames = []
    for i in range(N_TRAIN + N_TEST):
        settings = {"kpts": (4, 4, 4), "symmetry": {"point_group": False}, "occupations": FermiDirac(0.05)}
        frames.append(label(distorted(rng), **settings))
        print(f"{i + 1}/{N_TRAIN + N_TEST}: {frames[-1].info['REF_energy'] / 8:.4f} eV/atom", flush=True)
    OUT.mkdir(exist_ok=True)
    write(OUT / "silicon_train.extxyz", [free_atom, *frames[:N_TRAIN]])
    write(OUT / "silicon_test.extxyz", frames[N_TRAIN:])


if __name__ == "__main__":
    main()
