"""All checks of a `Potential`, in the order in which a failure is easiest to understand."""

from __future__ import annotations

from functools import partial

import torch

from mlip.errors import InputError
from mlip.potential import Potential
from mlip.testing.physics import additivity, derivatives, interface, locality, symmetry
from mlip.testing.physics.result import Check, CheckResult, Progress, run_checks
from mlip.testing.physics.structures import check_structures
from mlip.testing.physics.symmetry import Structures

#: Checks that take the structures to test on.
STRUCTURE_CHECKS: tuple[Check, ...] = (
    derivatives.check_forces_are_gradient,
    derivatives.check_stress_is_derivative,
    derivatives.check_second_derivatives,
    derivatives.check_training_gradient,
    symmetry.check_rotation,
    symmetry.check_inversion,
    symmetry.check_translation,
    symmetry.check_wrapping,
    symmetry.check_permutation,
    symmetry.check_left_handed_cell,
    additivity.check_supercell,
    additivity.check_batch,
    additivity.check_fragments,
    additivity.check_energy_parts,
    locality.check_larger_list,
    locality.check_open_boundaries,
    interface.check_save_and_load,
    interface.check_inputs_unchanged,
    interface.check_float32,
)

#: Checks that make their own structures.
OWN_STRUCTURE_CHECKS: tuple[Check, ...] = (
    symmetry.check_high_symmetry,
    additivity.check_one_atom_cell,
    additivity.check_isolated_atom,
    additivity.check_no_neighbors,
    interface.check_empty_structure,
    locality.check_no_force_beyond_cutoff,
    locality.check_cutoff_smoothness,
)


POTENTIAL_CHECKS = STRUCTURE_CHECKS + OWN_STRUCTURE_CHECKS


def bound(check: Check, structures: Structures) -> Check:
    """Return the check with the structures to test on, if it takes any."""
    return partial(check, structures=structures) if check in STRUCTURE_CHECKS else check


def check_potential(potential: Potential, progress: Progress | None = None, seed: int = 0) -> list[CheckResult]:
    """Run every check on a potential in float64.

    Args:
        potential: any potential of this package.
        progress: called as ``progress(done, total, name)``.
        seed: of the random structures.

    Raises:
        InputError: the potential is not in float64, which finite differences need.
    """
    if potential.dtype != torch.float64:
        raise InputError(
            f"the checks need a potential in float64, got {potential.dtype}: mlip.load(..., dtype=torch.float64)"
        )
    structures = check_structures(potential.elements, potential.cutoff, seed)
    return run_checks([bound(check, structures) for check in POTENTIAL_CHECKS], potential, progress)
