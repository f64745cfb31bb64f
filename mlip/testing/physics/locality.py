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
_DISTANCES_INSIDE: Array = np.array([0.16 / 2**n for n in range(9)])  # fractions of the cutoff, down to 6e-4
_CLOSE = 3  # index of 0.02
_NOISE = 1e-10  # relative size below which a force next to the cutoff is rounding
_RESOLVED, _POINTS = 1e-4, 5  # noise up to which a value is used, relative; how many are extrapolated from


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


def check_cutoff_smoothness(potential: Potential, tolerance: float = 1e-3) -> CheckResult:
    """The energy is smooth across the cutoff, to the declared order.

    With `model.cutoff_smoothness` = k the force F of an atom at distance r_c - d falls as d^k, so that F / d^(k-1)
    vanishes at the cutoff, and so does its energy. (That forces are the derivatives of energies is another check.)
    The value is the larger of both limits, extrapolated from d > 0, relative to the largest values within 16% of the
    cutoff. The exponent itself says little where the leading term is small: the next one may cancel it at some d.
    """
    declared = potential.model.cutoff_smoothness
    remainders = {name: cutoff_remainder(potential, atoms, declared) for name, atoms in _approaches(potential)}
    named = {f"{name}: declared order {declared}": value for name, value in remainders.items()}
    return worst(check_cutoff_smoothness, named, tolerance)


def cutoff_remainder(potential: Potential, atoms: Atoms, order: int) -> float:
    """What is left of F / d^(order-1) and of E when the last atom leaves the reach of the first, relative.

    NaN if no force at all is felt 2% inside the declared cutoff: then that is not the model's cutoff.
    """
    evaluate = evaluator(without_references(potential))
    near = evaluate([_at(atoms, (1 - d) * potential.cutoff) for d in _DISTANCES_INSIDE])
    far = evaluate([_at(atoms, 1.2 * potential.cutoff)])
    forces = near.forces.reshape(len(_DISTANCES_INSIDE), len(atoms), 3)[:, -1]
    energies = (near.energy - far.energy[0]).reshape(-1, 1)
    rounding = 1e4 * np.finfo(float).eps * abs(float(far.energy[0]))
    if not np.abs(forces[_CLOSE]).max() > 0:
        return float("nan")
    jump = _remainder(energies, 0, rounding) if order >= 0 else 0.0
    return max(_remainder(forces, order - 1, 0.0), jump)


def _remainder(values: Array, power: int, rounding: float) -> float:
    """Limit of values (distances, components) / d^power for d to zero, relative to the largest of them."""
    scaled = values / _DISTANCES_INSIDE[:, None] ** power
    largest = np.abs(scaled).max()
    noise = max(_NOISE * np.abs(values).max(), rounding) / _DISTANCES_INSIDE**power
    usable = np.flatnonzero(noise <= _RESOLVED * largest)[-_POINTS:]
    if len(usable) < 2:
        return 0.0  # all rounding: smaller than can be seen
    return float(np.abs(_extrapolated(scaled[usable], _DISTANCES_INSIDE[usable])).max() / largest)


def _extrapolated(values: Array, nodes: Array) -> Array:
    """The polynomial through values (n, components) at nodes (n,), at zero (Neville's scheme)."""
    for gap in range(1, len(nodes)):
        left, right = nodes[:-gap, None], nodes[gap:, None]
        values = (left * values[1:] - right * values[:-1]) / (left - right)
    return values[0]


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
