"""Phonons, elastic constants, plots and the tour, against published values of Stillinger-Weber silicon."""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io import read
from stillinger_weber import LATTICE_CONSTANT, silicon, stillinger_weber

from mlip.errors import InputError
from mlip.workflows.elastic import elastic, voigt_reuss_hill
from mlip.workflows.phonons import phonons
from mlip.workflows.plots import plot_bands, plot_dos
from mlip.workflows.relax import relax
from mlip.workflows.tour import silicon_tour, strained_silicon


def odd_primitive_silicon():
    """A rotated, skewed primitive cell of the same crystal."""
    atoms = bulk("Si", a=LATTICE_CONSTANT)
    atoms.rotate(30, (1, 1, 0.3), rotate_cell=True)
    atoms.set_cell(np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]]) @ atoms.cell)
    return atoms


@pytest.fixture(scope="module")
def vibrations():
    return phonons(silicon(), stillinger_weber())


def test_silicon_phonons(vibrations):
    """Optical mode at Γ, 17.83 THz: the force constant of the potential at Γ, here from finite differences."""
    atoms, step = silicon(), 1e-4
    sublattice = np.arange(8) % 2 == 1
    atoms.positions[sublattice, 0] += step
    atoms.calc = stillinger_weber()
    stiffness = -atoms.get_forces()[sublattice, 0].mean() / step
    reduced = atoms.get_masses()[0] / 2
    optical = 15.633302 * np.sqrt(stiffness / reduced)
    assert vibrations.frequencies_gamma_THz[:3] == pytest.approx(0, abs=1e-3)
    assert vibrations.frequencies_gamma_THz[3:] == pytest.approx(optical, rel=1e-3)
    assert vibrations.imaginary == 0
    assert vibrations.supercell == (2, 2, 2) and vibrations.displacements == 1
    assert vibrations.n_atoms_primitive == 2


def test_thermal_properties_obey_dulong_petit_and_the_third_law(vibrations):
    assert vibrations.thermal["heat_capacity"][-1] == pytest.approx(6 * 8.314, rel=0.04)
    assert vibrations.thermal["entropy"][0] == 0
    assert 0 < vibrations.heat_capacity_300K < 6 * 8.314
    frequency, dos = vibrations.dos
    assert np.trapezoid(dos, frequency) == pytest.approx(6, rel=0.01)


def test_left_handed_cell(vibrations):
    atoms = silicon()
    atoms.set_cell(atoms.cell[[1, 0, 2]])
    assert phonons(atoms, stillinger_weber()).heat_capacity_300K == pytest.approx(vibrations.heat_capacity_300K)
    assert elastic(atoms, stillinger_weber()).C44 == pytest.approx(56.4, abs=0.1)


def test_phonons_do_not_depend_on_the_cell_they_are_given_in(vibrations):
    other = phonons(odd_primitive_silicon(), stillinger_weber())
    assert [label for _, label in other.bands.ticks] == [label for _, label in vibrations.bands.ticks]
    assert [label for _, label in other.bands.ticks] == ["Γ", "X", "U|K", "Γ", "L", "W", "X"]
    for ours, theirs in zip(vibrations.bands.frequencies, other.bands.frequencies, strict=True):
        assert np.allclose(ours, theirs, atol=2e-3)
    assert other.heat_capacity_300K == pytest.approx(vibrations.heat_capacity_300K, rel=1e-3)


def test_what_a_relaxation_leaves_of_disorder_does_not_hide_the_symmetry():
    relaxed = relax(strained_silicon(), stillinger_weber(), cell=True, fmax=0.01).atoms
    result = phonons(relaxed, stillinger_weber())
    assert result.n_atoms_primitive == 2 and result.displacements == 1
    assert [label for _, label in result.bands.ticks] == ["Γ", "X", "U|K", "Γ", "L", "W", "X"]
    assert elastic(relaxed, stillinger_weber()).C44 == pytest.approx(56.4, abs=0.1)


def test_displaced_supercells_are_evaluated_in_batches():
    batches = []

    def evaluate(structures):
        batches.append(len(structures))
        calculator = EMT()
        return [calculator.get_forces(atoms) for atoms in structures]

    atoms = bulk("Cu", a=3.5915)
    batched = phonons(atoms, EMT(), supercell=(3, 3, 3), evaluate=evaluate)
    assert batches == [2]
    one_by_one = phonons(atoms, EMT(), supercell=(3, 3, 3))
    assert np.allclose(batched.bands.frequencies, one_by_one.bands.frequencies)


def test_unstable_crystal_has_imaginary_modes():
    with pytest.warns(UserWarning, match="not relaxed"):
        result = phonons(bulk("Cu", "bcc", a=3.1, cubic=True), EMT(), supercell=(3, 3, 3), mesh_length=40)
    assert result.imaginary > 0
    assert min(frequencies.min() for frequencies in result.bands.frequencies) < -0.1


def test_a_relaxed_crystal_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        phonons(bulk("Cu", a=3.5915), EMT(), supercell=(2, 2, 2), mesh_length=20)


def test_elastic_constants_of_stillinger_weber_silicon():
    """C11, C12, C44 = 151.4, 76.4, 56.4 GPa (Cowley, Phys. Rev. Lett. 60, 2379, 1988)."""
    result = elastic(silicon(), stillinger_weber())
    assert [result.C11, result.C12, result.C44] == pytest.approx([151.4, 76.4, 56.4], abs=0.1)
    assert result.bulk_modulus == pytest.approx((151.4 + 2 * 76.4) / 3, abs=0.1)
    assert result.stable and "227" in result.spacegroup
    json.dumps(result.as_dict())


def test_elastic_constants_do_not_depend_on_the_cell():
    result, other = elastic(silicon(), stillinger_weber()), elastic(odd_primitive_silicon(), stillinger_weber())
    assert [other.C11, other.C12, other.C44] == pytest.approx([result.C11, result.C12, result.C44], abs=0.05)
    assert not np.allclose(result.C, other.C, atol=1)


def test_voigt_reuss_hill_of_an_isotropic_solid():
    bulk_modulus, shear = 100.0, 40.0
    stiffness = np.diag([2 * shear] * 3 + [shear] * 3)
    stiffness[:3, :3] += bulk_modulus - 2 * shear / 3
    assert voigt_reuss_hill(stiffness) == pytest.approx((bulk_modulus, shear))


def test_strained_crystal_is_warned_of():
    with pytest.warns(UserWarning, match="under stress"):
        elastic(silicon(5.3), stillinger_weber())


@pytest.mark.parametrize(
    ("workflow", "atoms", "options", "message"),
    [
        (phonons, molecule("CO"), {}, "periodic"),
        (elastic, molecule("CO"), {}, "periodic"),
        (phonons, silicon(), {"supercell": (0, 1, 1)}, "supercell"),
        (phonons, silicon(), {"supercell": (2, 2)}, "supercell"),
        (phonons, silicon(), {"displacement": 0.0}, "displacement"),
        (phonons, silicon(), {"mesh_length": 0.0}, "mesh_length"),
        (elastic, silicon(), {"strain": 0.5}, "strain"),
    ],
)
def test_bad_input(workflow, atoms, options, message):
    with pytest.raises(InputError, match=message):
        workflow(atoms, EMT(), **options)


def test_tour(tmp_path):
    stages = []

    @contextmanager
    def stage(title):
        stages.append(title)
        yield lambda done, total, note: None

    result = silicon_tour(stillinger_weber(), tmp_path / "demo", stage, md_steps=20)
    assert result.lattice_constant == pytest.approx(LATTICE_CONSTANT, abs=1e-3)
    assert [result.C11, result.C12, result.C44] == pytest.approx([151.4, 76.4, 56.4], abs=0.2)
    assert len(stages) == 4 and len(result.comparisons()) == 7
    for name in ("phonon_bands.png", "phonon_dos.png", "md.png"):
        assert (tmp_path / "demo" / name).read_bytes()[:4] == b"\x89PNG"
    assert len(read(tmp_path / "demo" / "md.traj", ":")) == 5
    silicon_tour(stillinger_weber(), tmp_path / "demo", stage, md_steps=5)


def test_plots_leave_pyplot_alone(vibrations, tmp_path):
    plot_bands(vibrations, tmp_path / "bands.png")
    plot_dos(vibrations, tmp_path / "dos.png")
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
