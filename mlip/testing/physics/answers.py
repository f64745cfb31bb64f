"""What a potential or calculator answers for some structures, and how far two answers are apart."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlip.convert import atoms_to_graph
from mlip.potential import Potential, Prediction

Array = NDArray[np.float64]

FORCE_FLOOR = 1e-3
"""eV/Å; errors are relative to the largest force, or to this where symmetry makes all forces vanish."""

STRESS_FLOOR = 1e-5
"""eV/Å³; as FORCE_FLOOR, for the stress."""

BATCH_ATOMS = 160
"""Atoms evaluated at once by `potential_energies`; bounds the memory of the finite differences."""


@dataclass(frozen=True)
class Answer:
    """Energies (B,) eV, forces (N, 3) eV/Å and stresses (B, 3, 3) eV/Å³ of B structures with N atoms in all."""

    energy: Array
    forces: Array
    stress: Array | None
    n_atoms: NDArray[np.int64]


Evaluate = Callable[[Sequence[Atoms]], Answer]


def deviation(got: Answer, expected: Answer, floor: float = FORCE_FLOOR) -> float:
    """Return the largest relative error of energy, forces and stress; NaN if anything is not finite.

    Forces are relative to the largest force of the expected answer, or to `floor` if that is larger, the energy per
    atom to that force times 1 Å (so that large atomic energies hide nothing), the stress to its largest component.
    """
    force = max(float(np.abs(expected.forces).max(initial=0)), floor)
    errors = [
        np.abs(got.forces - expected.forces).max(initial=0) / force,
        (np.abs(got.energy - expected.energy) / np.maximum(expected.n_atoms, 1)).max(initial=0) / force,
    ]
    if got.stress is not None and expected.stress is not None:
        scale = max(float(np.abs(expected.stress).max(initial=0)), STRESS_FLOOR)
        errors.append(np.abs(got.stress - expected.stress).max(initial=0) / scale)
    return float(np.max(errors))


def joined(answers: Sequence[Answer]) -> Answer:
    """Return the answers of several calls as that of one batch; the stress only if all have it."""
    stresses = [a.stress for a in answers if a.stress is not None]
    return Answer(
        energy=np.concatenate([a.energy for a in answers]),
        forces=np.concatenate([a.forces for a in answers]),
        stress=np.concatenate(stresses) if len(stresses) == len(answers) else None,
        n_atoms=np.concatenate([a.n_atoms for a in answers]),
    )


def predict(potential: Potential, structures: Sequence[Atoms], cutoff: float | None = None) -> Prediction:
    """Evaluate the structures as one batch with pairs up to ``cutoff`` (default: the potential's own).

    The stress is asked for only if every structure has a cell with a volume.
    """
    radius = potential.cutoff if cutoff is None else cutoff
    graph = atoms_to_graph(structures, radius, device=potential.device)
    return potential(graph, forces=True, stress=all(atoms.cell.rank == 3 for atoms in structures))


def evaluator(potential: Potential, cutoff: float | None = None) -> Evaluate:
    """Return the function from structures to `Answer`, evaluating them as one batch."""

    def evaluate(structures: Sequence[Atoms]) -> Answer:
        prediction = predict(potential, structures, cutoff)
        assert prediction.forces is not None
        stress = prediction.stress
        return Answer(
            energy=prediction.energy.detach().cpu().double().numpy(),
            forces=prediction.forces.detach().cpu().double().numpy(),
            stress=None if stress is None else stress.detach().cpu().double().numpy(),
            n_atoms=np.array([len(atoms) for atoms in structures]),
        )

    return evaluate


def without_references(potential: Potential) -> Potential:
    """Return a copy with all E0 zero: no derivative sees them, but their rounding would hide small errors."""
    bare = copy.deepcopy(potential)
    bare.energy_scale.E0s.zero_()
    return bare


def potential_energies(potential: Potential) -> Callable[[Sequence[Atoms]], Array]:
    """Return the function from structures to energies (eV) without E0s, in batches of bounded size."""
    potential = without_references(potential)

    def energies(structures: Sequence[Atoms]) -> Array:
        values: list[Array] = []
        size = max(1, BATCH_ATOMS // max(len(structures[0]), 1))
        for first in range(0, len(structures), size):
            batch = structures[first : first + size]
            graph = atoms_to_graph(batch, potential.cutoff, device=potential.device)
            energy = potential(graph, forces=False, stress=False).energy
            values.append(energy.detach().cpu().double().numpy())
        return np.concatenate(values)

    return energies
