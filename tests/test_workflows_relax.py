from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from stillinger_weber import LATTICE_CONSTANT, silicon, stillinger_weber

from mlip.errors import InputError, MLIPError
from mlip.workflows.relax import relax
from mlip.workflows.tour import strained_silicon


@pytest.mark.parametrize("optimizer", ["lbfgs", "bfgs", "fire"])
def test_cell_and_atoms_reach_the_diamond_lattice(optimizer):
    start = strained_silicon()
    before = start.copy()
    result = relax(start, stillinger_weber(), cell=True, fmax=1e-3, optimizer=optimizer)
    assert result.converged
    assert result.forces_max < 1e-3
    assert result.volume ** (1 / 3) == pytest.approx(LATTICE_CONSTANT, abs=1e-3)
    assert np.abs(result.stress).max() < 1e-4
    assert result.energy < result.initial_energy
    assert start == before and start.calc is None


def test_pressure_is_minus_the_stress():
    result = relax(silicon(), stillinger_weber(), cell=True, pressure=5.0, fmax=1e-4)
    assert np.allclose(result.stress[:3] * 160.21766, -5.0, atol=0.01)


def test_a_molecule_keeps_its_cell_and_has_no_stress():
    result = relax(molecule("CO"), EMT(), fmax=0.01)
    assert result.converged and result.stress is None and result.volume is None


def test_result_is_json():
    keys = {"energy", "forces_max", "stress", "cell", "volume", "steps", "converged"}
    assert keys <= set(json.loads(json.dumps(relax(bulk("Cu"), EMT()).as_dict())))


def test_too_few_steps_is_not_converged():
    result = relax(strained_silicon(), stillinger_weber(), cell=True, steps=2)
    assert not result.converged and result.steps == 2


def test_constraints_hold():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.set_constraint(FixAtoms([0]))
    result = relax(atoms, EMT())
    assert np.array_equal(result.atoms.positions[0], atoms.positions[0])
    assert result.atoms.constraints


def test_the_relaxed_structure_carries_its_own_results_and_no_old_labels():
    start = bulk("Cu", a=3.7)
    start.info["REF_energy"] = 1.0
    start.set_array("REF_forces", np.ones((1, 3)))
    result = relax(start, EMT(), cell=True)
    assert result.atoms.get_potential_energy() == result.energy
    assert np.array_equal(result.atoms.get_stress(), result.stress)
    assert not result.atoms.info and "REF_forces" not in result.atoms.arrays
    assert "REF_forces" in start.arrays and start.info


def test_the_relaxed_structure_is_at_rest():
    hot = strained_silicon()
    hot.set_momenta(np.ones((len(hot), 3)))
    assert not relax(hot, stillinger_weber()).atoms.get_momenta().any()
    assert hot.get_momenta().all()


def test_progress_is_reported():
    steps = []
    relax(strained_silicon(), stillinger_weber(), cell=True, progress=lambda done, total, note: steps.append(done))
    assert steps == sorted(steps) and len(steps) > 3


class NotANumber(Calculator):
    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results = {"energy": 0.0, "forces": np.full((len(self.atoms), 3), np.nan)}


def test_forces_that_are_no_numbers_stop_it():
    with pytest.raises(MLIPError, match="not finite"):
        relax(bulk("Cu"), NotANumber())


@pytest.mark.parametrize(
    ("atoms", "options", "message"),
    [
        (Atoms(), {}, "no atoms"),
        (Atoms("Cu", positions=[[np.nan, 0, 0]]), {}, "finite"),
        (molecule("CO"), {"cell": True}, "periodic"),
        (bulk("Cu"), {"pressure": 1.0}, "cell"),
        (bulk("Cu"), {"fmax": -1.0}, "fmax"),
        (bulk("Cu"), {"steps": -1}, "steps"),
        (bulk("Cu"), {"optimizer": "magic"}, "optimizer"),
    ],
)
def test_bad_input(atoms, options, message):
    with pytest.raises(InputError, match=message):
        relax(atoms, EMT(), **options)
