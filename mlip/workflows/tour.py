"""The guided tour: a strained, rattled silicon crystal is relaxed, stretched, made to vibrate and heated."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import BaseCalculator
from ase.io import write

from mlip.workflows.elastic import elastic
from mlip.workflows.evaluation import Progress
from mlip.workflows.md import MDResult, run_md
from mlip.workflows.md_integrators import MDSettings, thermal_momenta
from mlip.workflows.phonons import PhononResult, phonons
from mlip.workflows.plots import plot_bands, plot_dos, plot_md
from mlip.workflows.relax import RelaxResult, relax
from mlip.workflows.results import Result, hidden

_ZUO, _PHONOPY = "Zuo et al. 2020", "phonopy, VASP"
REFERENCES = {
    _ZUO: "PBE; Y. Zuo et al., J. Phys. Chem. A 124, 731 (2020); bulk modulus = (C11 + 2 C12) / 3",
    _PHONOPY: "PBE; from the VASP forces in phonopy's repository, example/Si-gruneisen/orig",
}
"""What the short names of sources in `Comparison` stand for."""
_TEMPERATURE = 300.0
STRAINED, RELAXED = "strained.extxyz", "relaxed.extxyz"
Stage = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Comparison:
    """One line of the final table.

    Attributes:
        name: of the property.
        unit: of both values.
        value: of the model.
        reference: PBE value.
        source: where the reference is from.
    """

    name: str
    unit: str
    value: float
    reference: float
    source: str


@dataclass(frozen=True)
class TourResult(Result):
    """Outcome of `silicon_tour`.

    Attributes:
        lattice_constant: Å.
        bulk_modulus: GPa, as the elastic constants.
        C11, C12, C44: GPa.
        gamma_optical: highest frequency at Γ, THz.
        heat_capacity_300K: J/K/mol of primitive cells.
        imaginary: number of imaginary modes.
        md_temperature: mean temperature of the second half of the MD, K.
        relaxation, phonons, md: the full results.
    """

    lattice_constant: float
    bulk_modulus: float
    C11: float
    C12: float
    C44: float
    gamma_optical: float
    heat_capacity_300K: float
    imaginary: int
    md_temperature: float
    relaxation: RelaxResult = hidden()
    phonons: PhononResult = hidden()
    md: MDResult = hidden()

    def comparisons(self) -> list[Comparison]:
        """The properties beside their values in density-functional theory (PBE).

        The last two references follow from the 64-atom PBE forces (PAW_PBE Si 05Jan2001) in phonopy's repository,
        example/Si-gruneisen/orig, by phonopy 4.8 on a mesh of length 100 Å.
        """
        return [
            Comparison("lattice constant", "Å", self.lattice_constant, 5.469, _ZUO),
            Comparison("bulk modulus", "GPa", self.bulk_modulus, 95.0, _ZUO),
            Comparison("C11", "GPa", self.C11, 156.0, _ZUO),
            Comparison("C12", "GPa", self.C12, 65.0, _ZUO),
            Comparison("C44", "GPa", self.C44, 76.0, _ZUO),
            Comparison("Γ optical frequency", "THz", self.gamma_optical, 15.10, _PHONOPY),
            Comparison("heat capacity, 300 K", "J/K/mol", self.heat_capacity_300K, 40.06, _PHONOPY),
        ]


def strained_silicon(seed: int = 1) -> Atoms:
    """Eight-atom diamond cell, strained by up to 4 % and rattled by 0.06 Å."""
    atoms = bulk("Si", a=5.43, cubic=True)
    strain = np.array([[0.04, 0.02, 0.0], [0.02, -0.03, 0.01], [0.0, 0.01, 0.02]])
    atoms.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
    atoms.rattle(0.06, seed=seed)
    return atoms


def silicon_tour(calculator: BaseCalculator, folder: Path, stage: Stage, md_steps: int = 600) -> TourResult:
    """Run the tour and write structures and plots into ``folder``.

    Args:
        calculator: any ASE calculator for silicon.
        folder: made if missing; files in it are replaced.
        stage: called with a title at each stage, gives the progress callback of that stage.
        md_steps: steps of 2 fs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    strained = strained_silicon()
    write(folder / STRAINED, strained)
    with stage("relax cell and atoms") as update:
        relaxed = relax(strained, calculator, cell=True, fmax=5e-4, progress=update)
    write(folder / RELAXED, relaxed.atoms)
    with stage("elastic constants") as update:
        moduli = elastic(relaxed.atoms, calculator, progress=update)
    with stage("phonons") as update:
        vibrations = phonons(relaxed.atoms, calculator, progress=update)
    plot_bands(vibrations, folder / "phonon_bands.png", "silicon: phonon bands")
    plot_dos(vibrations, folder / "phonon_dos.png", "silicon: phonon density of states and heat capacity")
    with stage("molecular dynamics") as update:
        heated = _heat(relaxed.atoms, calculator, folder / "md.traj", md_steps, update)
    plot_md(heated, folder / "md.png", f"silicon: {heated.n_atoms} atoms, NVT at {_TEMPERATURE:.0f} K")
    assert relaxed.volume is not None
    return TourResult(
        lattice_constant=relaxed.volume ** (1 / 3),
        bulk_modulus=moduli.bulk_modulus,
        C11=moduli.C11 if moduli.C11 is not None else float("nan"),
        C12=moduli.C12 if moduli.C12 is not None else float("nan"),
        C44=moduli.C44 if moduli.C44 is not None else float("nan"),
        gamma_optical=float(vibrations.frequencies_gamma_THz[-1]),
        heat_capacity_300K=vibrations.heat_capacity_300K,
        imaginary=vibrations.imaginary,
        md_temperature=heated.temperature_mean,
        relaxation=relaxed,
        phonons=vibrations,
        md=heated,
    )


def _heat(cell: Atoms, calculator: BaseCalculator, trajectory: Path, steps: int, progress: Progress) -> MDResult:
    atoms = cell * (2, 2, 2)
    # Half of the kinetic energy of a crystal at rest goes into its springs: start at twice the temperature.
    atoms.set_momenta(thermal_momenta(atoms, 2 * _TEMPERATURE, np.random.default_rng(0)))
    settings = MDSettings("nvt", _TEMPERATURE, timestep=2.0, interval=5)
    return run_md(atoms, calculator, settings, steps=steps, trajectory=trajectory, overwrite=True, progress=progress)
