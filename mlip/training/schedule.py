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
    `max_time` the rate follows the clock, so such a run can't be repeated to the bit. exponential: `lr_scheduler_gamma`
    after each epoch. All rise linearly over `warmup_steps`. In the second stage of a run the rate is `swa_lr`.
    """

    def __init__(self, optimizer: Optimizer, config: TrainingConfig) -> None:
        self.optimizer, self.config = optimizer, config
        self.plateau = ReduceLROnPlateau(optimizer, factor=config.lr_factor, patience=config.scheduler_patience)
        assert config.lr is not None  # which the configuration has set
        self.base = config.lr
        self.steps = 0
        self.in_stage_two = False

    def before_step(self, progress: float, epochs: int) -> None:
        """Set the rate for the next step, `epochs` and the part `progress` (0 to 1) of the run being done."""
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.swa_lr if self.in_stage_two else self._rate(progress, epochs)

    def _rate(self, progress: float, epochs: int) -> float:
        warm = min(1.0, self.steps / (self.config.warmup_steps + 1))
        if self.config.scheduler == "cosine":
            factor = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
        elif self.config.scheduler == "linear":
            factor = 1 - min(progress, 1.0)
        elif self.config.scheduler == "exponential":
            factor = self.config.lr_scheduler_gamma**epochs
        else:
            factor = 1.0
        return self.base * warm * factor

    def after_validation(self, loss: float) -> None:
        """Tell the plateau scheduler how validation went."""
        if self.config.scheduler != "plateau" or self.in_stage_two:
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
