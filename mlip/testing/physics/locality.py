"""The cutoff: nothing acts from beyond it, and an atom crossing it is not noticed, to the declared order."""

from __future__ import annotations

import itertools

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlip.potential import Potential
from mlip.testing.physics.answers import Answer, deviation, evaluator, without_references
from mlip.testing.physics.result import CheckResult
from mlip.testing.physics.structures import pair_distance, representative
from mlip.testing.physics.symmetry import Structures, structures_for, worst

Array = NDArray[np.float64]

LIST_FACTOR = 1.5
_DISTANCES_INSIDE = 0.16 / 2.0 ** np.arange(9)  # fractions of the cutoff, down to 6e-4
_CLOSE = 3  # index of 0.02
_NOISE = 1e-10  # relative size below which a force next to the cutoff is rounding


def check_larger_list(
    potential: Potential, structures: Structures | None = None, tolerance: float = 1e-10
) -> CheckResult:
    """Pairs beyond the cutoff in the list change nothing.

    The list is built at 1.5 times the cutoff.
    """
    evaluate, generous = evaluator(potential), evaluator(potential, LIST_FACTOR * potential.cutoff)
    errors = {k: deviation(generous([a]), evaluate([a])) for k, a in structures_for(potential, structures).items()}
    return worst(check_larger_list, errors, tolerance)


def check_no_force_beyond_cutoff(potential: Potential, tolerance: float = 1e-10) -> CheckResult:
    """No force at the cutoff and beyond it.

    An atom there adds its lone energy. The value is the largest force (eV/Å) or relative error of the energy.
    Pairs and triples of the elements at 1, 1.001, 1.1 and 1.4 times the cutoff, in lists of 1 and 1.5 times it.
    """
    generous = evaluator(potential, LIST_FACTOR * potential.cutoff)
    errors = {}
    for (name, atoms), factor in itertools.product(_approaches(potential), (1.0, 1.001, 1.1, 1.4)):
        apart = _at(atoms, factor * potential.cutoff)
        lone, rest = generous([apart[-1:]]), generous([apart[:-1]])
        expected = lone.energy + rest.energy
        got = generous([apart])
        force = np.abs(got.forces[-1]).max()
        energy = abs(float(got.energy[0] - expected[0])) / max(1.0, abs(float(expected[0])))
        errors[f"{name} at {factor:g} cutoffs"] = float(np.max([force, energy]))
    return worst(check_no_force_beyond_cutoff, errors, tolerance)


def check_cutoff_smoothness(potential: Potential, tolerance: float = 0.2) -> CheckResult:
    """The energy is smooth across the cutoff, to the declared order.

    With `model.cutoff_smoothness` = k the force of an atom at distance r_c - d falls as d^k and its energy as
    d^(k+1). Both exponents are measured from halvings of d; the value is the declared order less the one
    observed.
    """
    declared = potential.model.cutoff_smoothness
    shortfall = {}
    for name, atoms in _approaches(potential):
        observed = observed_smoothness(potential, atoms)
        shortfall[f"{name}: declared order {declared}, observed {observed:.2f}"] = declared - observed
    return worst(check_cutoff_smoothness, shortfall, tolerance)


def observed_smoothness(potential: Potential, atoms: Atoms) -> float:
    """Return the order of the last derivative that vanishes when the last atom leaves the reach of the first.

    NaN if no force at all is felt 2% inside the declared cutoff: then that is not the model's cutoff.
    """
    evaluate = evaluator(without_references(potential))
    near = evaluate([_at(atoms, (1 - d) * potential.cutoff) for d in _DISTANCES_INSIDE])
    far = evaluate([_at(atoms, 1.2 * potential.cutoff)])
    forces = np.linalg.norm(near.forces.reshape(len(_DISTANCES_INSIDE), len(atoms), 3)[:, -1], axis=1)
    energies = np.abs(near.energy - far.energy[0])
    rounding = 1e4 * np.finfo(float).eps * abs(float(far.energy[0]))
    if not forces[_CLOSE] > 0:
        return float("nan")
    return min(_exponent(forces, 0.0), _exponent(energies, rounding) - 1)


def _exponent(values: Array, rounding: float) -> float:
    """Return n of values ~ d^n for distances halving, from the smallest two that are above the noise."""
    clear = np.flatnonzero(values > max(_NOISE * values.max(), rounding))
    if len(clear) < 2:
        return float("inf")  # all rounding: smaller than any power would be
    last = clear[-1]
    return float(np.log2(values[last - 1] / values[last]))


def _approaches(potential: Potential) -> list[tuple[str, Atoms]]:
    """Return dimers and trimers whose last atom can be moved along x, in reach of the first atom only."""
    elements = representative(potential.elements, 2)
    d = pair_distance(elements, potential.cutoff)
    cases = []
    for a, b in itertools.product(elements, elements):
        dimer = Atoms([a, b], positions=[[0, 0, 0], [1, 0, 0]])
        trimer = Atoms([a, b, b], positions=[[0, 0, 0], [-0.8 * d, 0.5 * d, 0.3 * d], [1, 0, 0]])
        cases += [(f"{dimer.symbols} pair", dimer), (f"{trimer.symbols} triple", trimer)]
    return cases


def _at(atoms: Atoms, distance: float) -> Atoms:
    """Return a copy with the last atom at (distance, 0, 0); the first is at the origin."""
    copy = atoms.copy()
    copy.positions[-1] = (distance, 0.0, 0.0)
    return copy


def check_open_boundaries(
    potential: Potential, structures: Structures | None = None, tolerance: float = 1e-8
) -> CheckResult:
    """An open axis is a periodic one with vacuum.

    For every choice of open axes, also with no lattice vector at all along the open axes. The stress is not
    compared: it has another volume.
    """
    evaluate = evaluator(potential)
    atoms = structures_for(potential, structures)["bulk"]
    errors = {}
    for pbc in itertools.product((False, True), repeat=3):
        cell, padded = np.asarray(atoms.cell).copy(), np.asarray(atoms.cell).copy()
        opened = ~np.array(pbc)
        cell[opened] = 0
        padded[opened] *= 1 + 1.5 * (potential.cutoff / _height(padded))
        bare, with_cell, with_vacuum = atoms.copy(), atoms.copy(), atoms.copy()
        bare.set_cell(cell, scale_atoms=False)
        bare.pbc = with_cell.pbc = pbc
        with_vacuum.set_cell(padded, scale_atoms=False)
        reference = evaluate([with_vacuum])
        expected = Answer(reference.energy, reference.forces, None, reference.n_atoms)
        name = "pbc " + "".join("T" if on else "F" for on in pbc)
        errors[name] = float(np.max([deviation(evaluate([a]), expected) for a in (bare, with_cell)]))
    return worst(check_open_boundaries, errors, tolerance)


def _height(cell: Array) -> float:
    """Return the smallest distance between opposite faces of the cell."""
    return float((1 / np.linalg.norm(np.linalg.inv(cell), axis=0)).min())
