"""The second stage of a run (`--swa`): when it begins, and what it adds to the state of the run."""

from __future__ import annotations

from typing import Any

from torch import nn

from mlip.training.config import TrainingConfig
from mlip.training.ema import EqualAverage
from mlip.training.validation import Best

#: Part of the run that is the first stage, unless `start_swa` says otherwise.
FIRST_STAGE = 0.75


class StageTwo:
    """Began or not, the equal average of its weights, the outcome of the first stage.

    Args:
        module: whose weights are averaged.
        config: of the run.
    """

    def __init__(self, module: nn.Module, config: TrainingConfig) -> None:
        self.config = config
        self.average = EqualAverage(module)
        self.first = Best()  # of the first stage, once that is over
        self.began: int | None = None  # epochs that were done then

    @property
    def is_on(self) -> bool:
        return self.began is not None

    def is_due(self, epochs: int, progress: float, stalled: bool) -> bool:
        """Whether it begins now.

        Args:
            epochs: done so far.
            progress: part of the run that is done, of its epochs or its time.
            stalled: `patience` is used up; then the first stage is over early, as in mace.
        """
        config = self.config
        if not config.swa or self.is_on:
            return False
        if config.start_swa is not None:
            return epochs >= config.start_swa or stalled
        if config.max_time is not None:
            return epochs > 0 and progress >= FIRST_STAGE or stalled
        return epochs >= max(1, config.max_num_epochs // 4 * 3) or stalled

    def state_dict(self) -> dict[str, Any]:
        return {"began": self.began, "average": self.average.state_dict(), "first": self.first.as_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.began = state["began"]
        self.average.load_state_dict(state["average"])
        self.first = Best(**state["first"])
