"""The vibrations workflow and command: exact second derivatives, differences, values known otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms, FixBondLength, FixCartesian
from ase.io import read, write
from ase.optimize import BFGS
from toy_potentials import Toy

from mlip.calculators import MLIPCalculator
from mlip.cli import main
from mlip.errors import InputError
from mlip.potential import Potential
from mlip.workflows.phonons import phonons
from mlip.workflows.relax import relax
from mlip.workflows.vibrations import vibrations


def toy() -> MLIPCalculator:
    return MLIPCalculator(Potential(Toy(), {6: 0.0, 14: 0.0}), device="cpu")


@pytest.fixture(scope="module")
def cluster() -> Atoms:
    """A relaxed cluster of the toy potential."""
    atoms = Atoms("CSi3C", positions=[[0, 0, 0], [2, 0, 0.2], [0, 2, 0], [0.3, 0, 2], [1.5, 1.5, 1.5]])
    atoms.calc = toy()
    BFGS(atoms, logfile=None).run(fmax=1e-5, steps=500)
    atoms.calc = None
    return atoms


def test_exact_equals_differences(cluster: Atoms) -> None:
    exact = vibrations(cluster, toy())
    differences = vibrations(cluster, toy(), method="displacements", displacement=1e-3)
    assert exact.method == "hessian" and len(exact.frequencies_per_cm) == 3 * 5 - 6
    assert exact.forces_max < 1e-4 and exact.imaginary == differences.imaginary == 0
    assert differences.frequencies_per_cm == pytest.approx(exact.frequencies_per_cm, rel=1e-4)
    assert exact.frequencies_THz == pytest.approx(exact.frequencies_per_cm * units._c * 1e2 / 1e12)
    # ASE, of the same Hessian, has the rigid motions as six modes of nearly zero besides.
    assert exact.vibrations.get_frequencies().real[6:] == pytest.approx(exact.frequencies_per_cm, rel=1e-5)
    assert exact.zero_point_energy == pytest.approx(exact.vibrations.get_zero_point_energy(), abs=1e-4)
    json.dumps(exact.as_dict())


def test_a_dimer_by_hand() -> None:
    """Lennard-Jones: k = 72 ε / (2^(1/3) σ²) at the minimum, one mode besides five rigid motions."""
    sigma, epsilon = 3.4, 0.05
    pair = Atoms("Ar2", positions=[[0, 0, 0], [2 ** (1 / 6) * sigma / np.sqrt(3)] * 3])
    calculator = LennardJones(sigma=sigma, epsilon=epsilon, rc=50.0)
    result = vibrations(pair, calculator, displacement=1e-3)
    stiffness, reduced = 72 * epsilon / (2 ** (1 / 3) * sigma**2), pair.get_masses()[0] / 2
    expected = units._hbar * 1e10 / np.sqrt(units._e * units._amu) * np.sqrt(stiffness / reduced) / units.invcm
    assert result.method == "displacements" and result.frequencies_per_cm == pytest.approx([expected], rel=1e-4)
    assert not len(vibrations(Atoms("Ar"), calculator).frequencies_per_cm)
    linear = Atoms("Ar3", positions=[[0, 0, 0], [3.8, 0, 0], [7.6, 0, 0]])
    assert len(vibrations(linear, calculator).frequencies_per_cm) == 4
    linear.positions[1, 1] += 0.002  # as a relaxation leaves it
    assert len(vibrations(linear, calculator).frequencies_per_cm) == 4
    linear.positions[1, 1] += 1.0
    with pytest.warns(UserWarning, match="not relaxed"):
        assert len(vibrations(linear, calculator).frequencies_per_cm) == 3
    linear.positions[1] -= (0.4, 1.002, 0)
    with pytest.warns(UserWarning, match="not relaxed"):
        vibrations(linear, calculator)


def test_saddle_points_have_imaginary_modes() -> None:
    """Four atoms as two triangles in a plane, which fold to a tetrahedron."""
    flat = Atoms("Ar4", positions=3.8 * np.array([[0, 0, 0], [1, 0, 0], [0.5, 0.87, 0], [1.5, 0.87, 0]]))
    flat.calc = calculator = LennardJones(sigma=3.4, epsilon=0.05, rc=50.0)
    BFGS(flat, logfile=None).run(fmax=1e-6)
    result = vibrations(flat, calculator, displacement=1e-3)
    assert result.imaginary == 1 and result.frequencies_per_cm[0] < -1 < 1 < result.frequencies_per_cm[1]
    assert result.zero_point_energy == pytest.approx(result.frequencies_per_cm[1:].sum() * units.invcm / 2)


def test_a_crystal_at_gamma() -> None:
    calculator = MLIPCalculator("silicon", device="cpu")
    crystal = relax(bulk("Si", a=5.47), calculator, cell=True, fmax=1e-4).atoms
    result = vibrations(crystal, calculator)
    expected = phonons(crystal, calculator, supercell=(2, 2, 2), mesh_length=10.0, displacement=1e-3)
    assert result.frequencies_THz == pytest.approx(expected.frequencies_gamma_THz[3:], abs=2e-3)


def test_a_wire_turns_about_its_axis() -> None:
    calculator = MLIPCalculator("silicon", device="cpu")
    wire = Atoms("Si2", [[0, 0, 0], [1.7, 0, 1.7]], cell=[0, 0, 3.4], pbc=[False, False, True])  # zigzag
    wire = relax(wire, calculator, fmax=1e-5).atoms
    result = vibrations(wire, calculator)
    every = result.vibrations.get_frequencies()
    still = np.sort(np.abs(every))[:4]
    assert len(result.frequencies_per_cm) == 2 and still.max() < 1 < np.abs(result.frequencies_per_cm).min()


def test_fixed_atoms_stay(cluster: Atoms) -> None:
    held = cluster.copy()
    held.set_constraint(FixAtoms([0, 3]))
    exact, differences = (vibrations(held, toy(), method=m, displacement=1e-3) for m in ("hessian", "displacements"))
    assert exact.n_atoms == 3 and len(exact.frequencies_per_cm) == 9
    assert differences.frequencies_per_cm == pytest.approx(exact.frequencies_per_cm, rel=1e-4, abs=0.1)
    held.set_constraint(FixCartesian([0, 3]))
    assert vibrations(held, toy()).frequencies_per_cm == pytest.approx(exact.frequencies_per_cm)
    for part in (FixCartesian([0], (True, False, False)), FixBondLength(0, 1)):
        held.set_constraint(part)
        with pytest.raises(InputError, match=f"constraint {type(part).__name__}; expected FixAtoms"):
            vibrations(held, toy())
    held.set_constraint(FixAtoms(range(5)))
    with pytest.raises(InputError, match="all atoms are held"):
        vibrations(held, toy())


def test_bad_input(cluster: Atoms) -> None:
    with pytest.raises(InputError, match="expected one of hessian, displacements"):
        vibrations(cluster, toy(), method="dfpt")
    with pytest.raises(InputError, match="needs an MLIPCalculator, not EMT"):
        vibrations(molecule("N2"), EMT(), method="hessian")
    with pytest.raises(InputError, match="displacement must be positive"):
        vibrations(cluster, toy(), displacement=0.0)
    with pytest.raises(InputError, match="no atoms"):
        vibrations(Atoms(), toy())
    weightless = cluster.copy()
    weightless.set_masses([0, 1, 1, 1, 1])
    with pytest.raises(InputError, match="expected positive ones"):
        vibrations(weightless, toy())


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    calculator = MLIPCalculator("silicon", device="cpu")
    crystal = relax(bulk("Si", a=5.47), calculator, cell=True, fmax=1e-4).atoms
    write(tmp_path / "si.extxyz", crystal)
    words = ["vibrations", str(tmp_path / "si.extxyz"), "--device", "cpu"]
    assert main([*words, "--json", "-o", str(tmp_path / "modes.xyz")]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = vibrations(crystal, calculator)
    assert found["frequencies_per_cm"] == pytest.approx(expected.frequencies_per_cm, rel=1e-5)
    assert {"frequencies_THz", "imaginary", "zero_point_energy", "forces_max", "n_atoms", "method"} <= set(found)
    assert len(read(tmp_path / "modes.xyz", ":")) == 6
    assert main([*words, "--method", "displacements"]) == 0
    assert "zero-point energy" in capsys.readouterr().out
