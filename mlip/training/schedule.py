"""Learning rate over the run."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mlip.training.config import TrainingConfig


class Schedule:
    """Sets the learning rate before every step.

    plateau: `lr_factor` after `scheduler_patience` validations without improvement. cosine and linear: from lr to zero
    over the run, whose progress is the larger of the part of the epochs and the part of `max_time` that are gone; with
    `max_time` the rate follows the clock, so such a run can't be repeated to the bit. All rise linearly over
    `warmup_steps`.
    """

    def __init__(self, optimizer: Optimizer, config: TrainingConfig) -> None:
        self.optimizer, self.config = optimizer, config
        self.plateau = ReduceLROnPlateau(optimizer, factor=config.lr_factor, patience=config.scheduler_patience)
        self.base = config.lr
        self.steps = 0

    def before_step(self, progress: float) -> None:
        """Set the rate for the next step; `progress` is the part of the run that is done, 0 to 1."""
        self.steps += 1
        warm = min(1.0, self.steps / (self.config.warmup_steps + 1))
        if self.config.scheduler == "cosine":
            factor = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
        elif self.config.scheduler == "linear":
            factor = 1 - min(progress, 1.0)
        else:
            factor = 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.base * warm * factor

    def after_validation(self, loss: float) -> None:
        """Tell the plateau scheduler how validation went."""
        if self.config.scheduler != "plateau":
            return
        for group in self.optimizer.param_groups:
            group["lr"] = self.base
        self.plateau.step(loss)
        self.base = float(self.optimizer.param_groups[0]["lr"])

    @property
    def rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        plateau = {name: getattr(self.plateau, name) for name in ("best", "num_bad_epochs", "last_epoch")}
        return {"base": self.base, "steps": self.steps, "plateau": plateau}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.base, self.steps = state["base"], state["steps"]
        self.plateau.load_state_dict(state["plateau"])
