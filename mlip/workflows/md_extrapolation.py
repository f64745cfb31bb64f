"""How many steps of a run leave the range that the model's descriptors had in its training set."""

from __future__ import annotations

from typing import Any

from ase.calculators.calculator import BaseCalculator

from mlip.errors import InputError


def check_stop(limit: int | None, calculator: BaseCalculator) -> None:
    """Refuse a limit that can't be, or that would do nothing.

    Raises:
        InputError: which.
    """
    if limit is None:
        return
    if limit < 1:
        raise InputError(f"stop_on_extrapolation is {limit}; expected at least 1")
    if not ExtrapolatedSteps.known_by(calculator):
        raise InputError(
            "stop_on_extrapolation: the model does not know the range of its training set, as those of n2p2 and HDNNP "
            "do, so that it can't tell when it extrapolates; leave the option out"
        )


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

    def reason(self, limit: int | None) -> str | None:
        """Why the run ends here, None if it does not."""
        if limit is None or self.last < limit:
            return None
        return f"symmetry functions outside the range of the training set: {self.last}, allowed are fewer than {limit}"

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
