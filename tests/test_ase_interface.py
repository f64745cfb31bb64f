"""What ASE asks of a calculator: its own tests that apply to any potential, on ours, and its ways to find it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.constraints import FixAtoms, FixCom, FixSymmetry
from ase.filters import FrechetCellFilter, StrainFilter, UnitCellFilter
from ase.io import Trajectory, read, write
from ase.mep import NEB
from ase.optimize import BFGS, FIRE, LBFGS

import mlip


@pytest.fixture
def calculator() -> mlip.MLIPCalculator:
    return mlip.MLIPCalculator("silicon")


@pytest.fixture
def silicon(calculator: mlip.MLIPCalculator) -> Atoms:
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.08, seed=2)
    atoms.calc = calculator
    return atoms


def test_found_by_name() -> None:
    plugins = pytest.importorskip("ase._4.plugins").plugins
    found = {plugin.name: plugin for plugin in plugins.calculators}
    assert found["mlip"].implementation is mlip.MLIPCalculator
    assert found["mlip"].version == mlip.__version__
    assert "mlip" in found["mlip"].display()


def test_numerical_derivatives_of_ase(silicon: Atoms) -> None:
    """As ase.test.calculator.test_fd."""
    np.testing.assert_allclose(silicon.get_forces(), calculate_numerical_forces(silicon, eps=1e-4), atol=1e-5)
    np.testing.assert_allclose(silicon.get_stress(), calculate_numerical_stress(silicon, eps=1e-4), atol=1e-6)


def test_written_and_read(silicon: Atoms, tmp_path: Path) -> None:
    """As ase.test.calculator.test_traj."""
    energy = silicon.get_potential_energy()
    assert not silicon.calc.calculation_required(silicon, ["energy"])
    forces = silicon.get_forces()
    assert not silicon.calc.calculation_required(silicon, ["energy", "forces"])
    assert silicon.calc.calculation_required(silicon, ["stress"])
    write(tmp_path / "a.traj", silicon)
    stored = read(tmp_path / "a.traj")
    assert abs(stored.get_potential_energy() - energy) < 1e-12
    assert abs(stored.get_forces() - forces).max() < 1e-12


def test_potential_energies(silicon: Atoms) -> None:
    """As ase.test.test_potential_energies."""
    perfect = bulk("Si", cubic=True)
    perfect.calc = silicon.calc
    energies = perfect.get_potential_energies()
    assert abs(energies.sum() - perfect.get_potential_energy()) < 1e-8
    np.testing.assert_allclose(energies, energies[0], rtol=1e-8)
    assert abs(silicon.get_potential_energies().sum() - silicon.get_potential_energy()) < 1e-8


@pytest.mark.parametrize("optimizer", [BFGS, LBFGS, FIRE])
@pytest.mark.parametrize("cell", [None, FrechetCellFilter, UnitCellFilter, StrainFilter])
def test_optimizers_and_filters(silicon: Atoms, optimizer: type, cell: type | None) -> None:
    if cell is StrainFilter:
        silicon.positions = bulk("Si", cubic=True).positions
    silicon.set_cell(silicon.cell * 1.01, scale_atoms=True)
    before = silicon.get_potential_energy()
    assert optimizer(silicon if cell is None else cell(silicon), logfile=None).run(fmax=0.02, steps=200)
    assert silicon.get_potential_energy() < before
    assert abs(silicon.get_forces()).max() < 0.03
    if cell is not None:
        assert abs(silicon.get_stress()).max() < 1e-3


def test_constraints(silicon: Atoms) -> None:
    silicon.set_constraint([FixAtoms([0, 1]), FixCom()])
    start = silicon.positions[:2].copy()
    BFGS(silicon, logfile=None).run(fmax=0.05, steps=50)
    silicon.set_constraint(FixAtoms([0, 1]))
    assert not silicon.get_forces()[:2].any()
    assert abs(silicon.positions[:2] - start).max() < 0.2
    perfect = bulk("Si")
    perfect.calc = silicon.calc
    perfect.set_constraint(FixSymmetry(perfect))
    assert abs(perfect.get_forces()).max() < 1e-8


def test_band_of_images_on_one_calculator(calculator: mlip.MLIPCalculator) -> None:
    """As ase.test.neb.test_shared_calculator_neb: a vacancy's hop, the same barrier seen from both ends."""
    perfect = bulk("Si", cubic=True) * (2, 1, 1)
    first, last = perfect.copy(), perfect.copy()
    del first[0], last[1]
    last = last[[0, *range(1, len(last))]]
    images = [first, *(first.copy() for _ in range(3)), last]
    for image in images:
        image.calc = calculator
    band = NEB(images, allow_shared_calculator=True)
    band.interpolate(mic=True)
    forces = band.get_forces()
    assert np.isfinite(forces).all() and abs(forces).max() > 0.01


def test_trajectory_of_a_relaxation(silicon: Atoms, tmp_path: Path) -> None:
    with Trajectory(tmp_path / "relax.traj", "w", silicon) as trajectory:
        BFGS(silicon, trajectory=trajectory, logfile=None).run(fmax=0.05, steps=20)
    frames = read(tmp_path / "relax.traj", ":")
    assert frames[0].get_potential_energy() > frames[-1].get_potential_energy()
