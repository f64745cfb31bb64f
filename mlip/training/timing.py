"""Where the time of a run went."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Timing:
    """Seconds of this process (a restarted run has had others before) and what was done in them."""

    total: float = 0.0  # of training, earlier processes of the run included
    start_up: float = 0.0  # reading data, neighbor lists, building the model
    fit: float = 0.0  # steps, validations and checkpoints
    validation: float = 0.0  # part of `fit`
    final_errors: float = 0.0  # predictions for all sets with the final weights
    validations: int = 0
    steps: int = 0
    atoms: int = 0  # over all steps

    @property
    def atoms_per_second(self) -> float | None:
        """Speed of training, validations left out."""
        seconds = self.fit - self.validation
        return self.atoms / seconds if self.atoms and seconds > 0 else None

    def seconds_per_epoch(self, atoms_in_set: int) -> float | None:
        """Time of one pass over a training set of so many atoms, validation left out."""
        speed = self.atoms_per_second
        return atoms_in_set / speed if speed else None
