"""The checks as inheritable test classes: a subclass gives the fixture and gets one test per law.

Needs pytest, which the package does not depend on; so nothing else in the package imports this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import pytest

from mlip.potential import Potential
from mlip.testing.physics.calculator import CALCULATOR_CHECKS, Subject, subject_of
from mlip.testing.physics.result import Check, name_of
from mlip.testing.physics.structures import check_structures
from mlip.testing.physics.suite import POTENTIAL_CHECKS, bound
from mlip.testing.physics.symmetry import Structures


@lru_cache
def _structures(elements: tuple[int, ...], cutoff: float) -> Structures:
    return check_structures(elements, cutoff)


class PotentialPhysics:
    """All checks of a potential; a subclass overrides the fixture `potential` (float64).

    Attributes:
        tolerances: by name of a check, where a model's own accuracy justifies another tolerance.
        excused: by name of a check, the reason why it does not apply.
    """

    tolerances: Mapping[str, float] = {}
    excused: Mapping[str, str] = {}

    @pytest.fixture
    def potential(self) -> Potential:
        """The potential under test, in float64."""
        raise NotImplementedError("a subclass of PotentialPhysics overrides the fixture `potential`")

    @pytest.fixture
    def structures(self, potential: Potential) -> Structures:
        """The structures it is tested on."""
        return _structures(potential.elements, potential.cutoff)

    @pytest.mark.parametrize("check", POTENTIAL_CHECKS, ids=name_of)
    def test_physics(self, check: Check, potential: Potential, structures: Structures) -> None:
        """Each law holds within its tolerance."""
        name = name_of(check)
        if name in self.excused:
            pytest.skip(self.excused[name])
        options = {"tolerance": self.tolerances[name]} if name in self.tolerances else {}
        outcome = bound(check, structures)(potential, **options)
        assert outcome.passed, str(outcome)


class CalculatorPhysics:
    """All checks of an ASE calculator; a subclass overrides the fixture `calculator`.

    Attributes:
        tolerance: relative, for all comparisons; None fits it to the precision of the calculator.
        excused: by name of a check, the reason why it does not apply.
    """

    tolerance: float | None = None
    excused: Mapping[str, str] = {}

    @pytest.fixture
    def calculator(self) -> Any:
        """The calculator under test, or a class or function that makes one."""
        raise NotImplementedError("a subclass of CalculatorPhysics overrides the fixture `calculator`")

    @pytest.fixture
    def subject(self, calculator: Any) -> Subject:
        """The calculator with structures of elements that it supports."""
        return subject_of(calculator, tolerance=self.tolerance)

    @pytest.mark.parametrize("check", CALCULATOR_CHECKS, ids=name_of)
    def test_physics(self, check: Check, subject: Subject) -> None:
        """Each law holds within the tolerance."""
        if name_of(check) in self.excused:
            pytest.skip(self.excused[name_of(check)])
        outcome = check(subject)
        if outcome.skipped:
            pytest.skip(outcome.detail)
        assert outcome.passed, str(outcome)
