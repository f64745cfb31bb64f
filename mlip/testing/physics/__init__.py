"""Physics checks: laws that every interatomic potential obeys, each a function ``check_xxx(potential) -> CheckResult``.

A model's test file is a short subclass::

    from mlip.testing.physics import PotentialPhysics

    class TestMyModel(PotentialPhysics):
        @pytest.fixture
        def potential(self):
            return Potential(MyModel(elements=[6, 8], cutoff=5.0).double(), E0s={6: -1.0, 8: -2.0})

`check_potential` runs all of them, `check_calculator` what applies to any ASE calculator; `mlip check` prints both.
docs/physics-checks.md says what each check proves.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlip.testing.physics.additivity import (
    check_batch,
    check_energy_parts,
    check_fragments,
    check_isolated_atom,
    check_no_neighbors,
    check_one_atom_cell,
    check_supercell,
)
from mlip.testing.physics.calculator import CALCULATOR_CHECKS, check_calculator
from mlip.testing.physics.derivatives import (
    check_forces_are_gradient,
    check_second_derivatives,
    check_stress_is_derivative,
    check_training_gradient,
)
from mlip.testing.physics.interface import (
    check_empty_structure,
    check_float32,
    check_inputs_unchanged,
    check_save_and_load,
)
from mlip.testing.physics.locality import (
    check_cutoff_smoothness,
    check_larger_list,
    check_no_force_beyond_cutoff,
    check_open_boundaries,
)
from mlip.testing.physics.result import CheckResult
from mlip.testing.physics.structures import check_structures
from mlip.testing.physics.suite import POTENTIAL_CHECKS, check_potential
from mlip.testing.physics.symmetry import (
    check_high_symmetry,
    check_inversion,
    check_left_handed_cell,
    check_permutation,
    check_rotation,
    check_translation,
    check_wrapping,
)

if TYPE_CHECKING:
    from mlip.testing.physics.mixin import CalculatorPhysics as CalculatorPhysics
    from mlip.testing.physics.mixin import PotentialPhysics as PotentialPhysics

__all__ = [
    "CALCULATOR_CHECKS",
    "POTENTIAL_CHECKS",
    "CalculatorPhysics",
    "CheckResult",
    "PotentialPhysics",
    "check_batch",
    "check_calculator",
    "check_cutoff_smoothness",
    "check_empty_structure",
    "check_energy_parts",
    "check_float32",
    "check_forces_are_gradient",
    "check_fragments",
    "check_high_symmetry",
    "check_inputs_unchanged",
    "check_inversion",
    "check_isolated_atom",
    "check_larger_list",
    "check_left_handed_cell",
    "check_no_force_beyond_cutoff",
    "check_no_neighbors",
    "check_one_atom_cell",
    "check_open_boundaries",
    "check_permutation",
    "check_potential",
    "check_rotation",
    "check_save_and_load",
    "check_second_derivatives",
    "check_stress_is_derivative",
    "check_structures",
    "check_supercell",
    "check_training_gradient",
    "check_translation",
    "check_wrapping",
]


def __getattr__(name: str) -> Any:
    """Import the test classes on first use: they need pytest, the checks do not."""
    if name in ("CalculatorPhysics", "PotentialPhysics"):
        return getattr(import_module("mlip.testing.physics.mixin"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
