"""How many steps of a run leave the range that the model's descriptors had in its training set."""

from __future__ import annotations

from typing import Any

from ase.calculators.calculator import BaseCalculator

from mlip.errors import InputError


class ExtrapolatedSteps:
    """Counts steps; each once, also where a resumed run begins again with the step that its state is of.

    Attributes:
        possible: whether the calculator knows a range; ours says so, others have none.
        steps: steps so far with any descriptor outside the range.
        last: descriptors outside, summed over the atoms, at the step counted last.
    """

    def __init__(self, calculator: BaseCalculator) -> None:
        self.calculator: Any = calculator
        self.possible = self.known_by(calculator)
        self.steps = self.last = 0
        self._step = -1

    @staticmethod
    def known_by(calculator: BaseCalculator) -> bool:
        return bool(getattr(calculator, "has_training_range", False))

    def count(self, step: int) -> None:
        """Take in the calculator's last calculation, which is of this step."""
        if not self.possible:
            return
        self.last = int(self.calculator.extrapolations.sum())
        if step > self._step:
            self._step = step
            self.steps += self.last > 0

    def state(self) -> dict[str, Any]:
        """What a state file holds of it."""
        return {"extrapolated_steps": [self._step, self.steps] if self.possible else None}

    def restore(self, values: dict[str, Any]) -> None:
        """Take up the count of a state file.

        Raises:
            InputError: the run began with a model of another kind.
        """
        stored = values.get("extrapolated_steps")
        if (stored is not None) != self.possible:
            raise InputError("can't resume: the run began with another model; only one knows its training set's range")
        if stored is not None:
            self._step, self.steps = stored
