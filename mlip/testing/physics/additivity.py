"""What does not interact adds up: supercells, batches, far fragments, lone atoms."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from mlip.convert import atoms_to_graph
from mlip.potential import Potential
from mlip.testing.physics.answers import FORCE_FLOOR, Answer, deviation, evaluator, joined, predict
from mlip.testing.physics.invariances import supercell_error
from mlip.testing.physics.result import CheckResult, result
from mlip.testing.physics.structures import moved, one_atom_cell, pair_distance, representative
from mlip.testing.physics.symmetry import TOLERANCE, Structures, structures_for, worst


def check_supercell(
    potential: Potential, structures: Structures | None = None, tolerance: float = TOLERANCE
) -> CheckResult:
    """n cells have n times the energy, and the same stress."""
    evaluate, cases = evaluator(potential), structures_for(potential, structures)
    errors = {
        "bulk x (2, 1, 1)": supercell_error(evaluate, cases["bulk"], (2, 1, 1)),
        "small x (2, 3, 1)": supercell_error(evaluate, cases["small"], (2, 3, 1)),
        "slab x (1, 2, 1)": supercell_error(evaluate, cases["slab"], (1, 2, 1)),
    }
    return worst(check_supercell, errors, tolerance)


def check_one_atom_cell(potential: Potential, tolerance: float = TOLERANCE) -> CheckResult:
    """One atom among its own images feels no force.

    And it agrees with its supercell. By symmetry there is no force to compare with: errors are relative to the virial
    over 1 Å, the size of the forces between the images, which balance.
    """
    evaluate, rng = evaluator(potential), np.random.default_rng(6)
    errors = {}
    for z in representative(potential.elements):
        atoms = one_atom_cell(z, potential.cutoff, rng)
        answer = evaluate([atoms])
        virial = 0.0 if answer.stress is None else float(np.abs(answer.stress).max()) * atoms.get_volume()
        floor = max(virial, FORCE_FLOOR)
        force = float(np.abs(answer.forces).max() / floor)
        errors[chemical_symbols[z]] = float(np.max([force, supercell_error(evaluate, atoms, (2, 2, 1), floor)]))
    return worst(check_one_atom_cell, errors, tolerance)


def check_batch(
    potential: Potential, structures: Structures | None = None, tolerance: float = TOLERANCE
) -> CheckResult:
    """A batch gives what each structure gives alone."""
    evaluate, cases = evaluator(potential), structures_for(potential, structures)
    lone = Atoms([potential.elements[0]], positions=[[1.0, 2.0, 3.0]])
    crystals = [a for a in cases.values() if a.cell.rank == 3]
    batches = {
        "crystals": crystals,
        "crystals in reverse": crystals[::-1],
        "all kinds and a lone atom": [lone, *cases.values(), lone],
    }
    errors = {
        name: deviation(evaluate(batch), joined([evaluate([a]) for a in batch])) for name, batch in batches.items()
    }
    return worst(check_batch, errors, tolerance)


def check_fragments(
    potential: Potential, structures: Structures | None = None, tolerance: float = TOLERANCE
) -> CheckResult:
    """Fragments out of reach of each other add up."""
    evaluate = evaluator(potential)
    first = structures_for(potential, structures)["molecule"]
    second = structures_for(potential, None, seed=1)["molecule"]
    reach = np.ptp(first.positions, axis=0)[0] + np.ptp(second.positions, axis=0)[0]
    offset = first.positions[:, 0].max() - second.positions[:, 0].min()
    errors = {}
    for gap in (1.001 * potential.cutoff, 10 * potential.cutoff + reach):
        together = first + moved(second, np.array([offset + gap, 0.0, 0.0]))
        a, b = evaluate([first]), evaluate([second])
        expected = Answer(
            energy=a.energy + b.energy,
            forces=np.concatenate([a.forces, b.forces]),
            stress=None,
            n_atoms=a.n_atoms + b.n_atoms,
        )
        errors[f"{gap:.1f} Å apart"] = deviation(evaluate([together]), expected)
    return worst(check_fragments, errors, tolerance)


def check_isolated_atom(potential: Potential, tolerance: float = 1e-9) -> CheckResult:
    """A lone atom has the declared energy.

    And no force and no stress, in a cell or without one. The declared energy is `potential.isolated_energy(Z)`;
    for a model with `isolated_is_E0` that must be E0 itself. The value is in eV relative to the larger of 1 eV
    and the energy's size.
    """
    errors: dict[str, float] = {}
    for z in potential.elements:
        width = 4 * potential.cutoff
        declared = potential.isolated_energy(z)
        scale = max(1.0, abs(declared))
        free = predict(potential, [Atoms([z], positions=[[5.0, -3.0, 1e3]])])
        boxed = predict(potential, [Atoms([z], positions=[[1.0, 2.0, 3.0]], cell=[width] * 3, pbc=True)])
        assert free.forces is not None and boxed.forces is not None and boxed.stress is not None
        wrong = [abs(float(free.energy) - declared) / scale, abs(float(boxed.energy) - declared) / scale]
        wrong += [float(t.abs().max()) for t in (free.forces, boxed.forces, boxed.stress)]
        if potential.isolated_is_E0:
            wrong.append(abs(potential.E0s[z] - declared) / scale)
        errors[chemical_symbols[z]] = float(np.max(wrong))
    return worst(check_isolated_atom, errors, tolerance)


def check_no_neighbors(potential: Potential, tolerance: float = 1e-9) -> CheckResult:
    """Without neighbors: lone energies, no force, no NaN."""
    chosen = representative(potential.elements)
    spacing = max(3 * potential.cutoff, 4 * pair_distance(chosen))
    positions = spacing * np.arange(len(chosen) + 1)[:, None] * np.array([[1.0, 0.0, 0.0]])
    numbers = [*chosen, chosen[0]]
    cell = [spacing * len(numbers), spacing, spacing]
    prediction = predict(potential, [Atoms(numbers, positions=positions, cell=cell, pbc=True)])
    assert prediction.forces is not None and prediction.stress is not None
    expected = sum(potential.isolated_energy(z) for z in numbers)
    error = abs(float(prediction.energy) - expected) / max(1.0, abs(expected))
    value = np.max([error, float(prediction.forces.abs().max()), float(prediction.stress.abs().max())])
    return result(check_no_neighbors, float(value), tolerance, f"{len(numbers)} atoms, {spacing:.0f} Å apart")


def check_energy_parts(
    potential: Potential, structures: Structures | None = None, tolerance: float = 1e-10
) -> CheckResult:
    """Atom energies sum to the energy.

    And the numbers are the same whatever else is asked for.
    """
    errors = {}
    for kind, atoms in structures_for(potential, structures).items():
        graph = atoms_to_graph(atoms, potential.cutoff, device=potential.device)
        full = predict(potential, [atoms])
        bare = potential(graph, forces=False, stress=False)
        only_forces = potential(graph, forces=True, stress=False)
        assert full.forces is not None and only_forces.forces is not None
        scale = max(1.0, abs(float(full.energy)))
        wrong = [abs(float(full.atom_energies.sum() - full.energy)), abs(float(bare.energy - full.energy))]
        force = float((only_forces.forces - full.forces).abs().max())
        errors[kind] = float(np.max([*(error / scale for error in wrong), force]))
    return worst(check_energy_parts, errors, tolerance)
