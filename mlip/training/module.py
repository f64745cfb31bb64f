"""The training step as Lightning sees it, and everything that makes up the state of a run."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from torch import Tensor

from mlip.data.batches import LabelledBatch
from mlip.errors import MLIPError
from mlip.potential import Potential
from mlip.training.config import TrainingConfig
from mlip.training.ema import WeightAverage, cpu_copy
from mlip.training.loss import Loss
from mlip.training.optimizer import make_optimizer
from mlip.training.schedule import Schedule


@dataclass
class Best:
    """The best validation so far and the weights it was reached with."""

    loss: float = float("inf")
    epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)


class TrainingModule(L.LightningModule):
    """One training step, one validation step; the state of the run by `run_state` and `load_run_state`.

    Args:
        potential: to be trained, in the precision wanted.
        loss: of a batch.
        config: of the run.
        properties: which of "forces", "stress" train.
        steps_per_epoch: batches in an epoch.
    """

    def __init__(
        self,
        potential: Potential,
        loss: Loss,
        config: TrainingConfig,
        properties: frozenset[str],
        steps_per_epoch: int,
    ) -> None:
        super().__init__()
        self.potential, self.loss, self.config = potential, loss, config
        self.wanted = {"forces": "forces" in properties, "stress": "stress" in properties}
        self.total_steps = steps_per_epoch * config.max_num_epochs
        self.steps_per_epoch = steps_per_epoch
        self.average = WeightAverage(potential, config.ema_decay if config.ema else None)
        self.best = Best()
        self.history: list[dict[str, Any]] = []
        self.first_epoch = 0  # completed before this process
        self.first_losses: list[float] = []  # of the steps of the next epoch that were done before this process
        self.epoch = 0  # the present one, counted from 1 over all restarts
        self.elapsed_before = 0.0
        self.started = time.monotonic()
        self._restored: dict[str, Any] | None = None
        self._losses: list[float] = []
        self._steps_before = 0
        self._sums = ValidationSums()

    # -- optimization ------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self.optimizer = make_optimizer(self.potential, self.config)
        self.schedule = Schedule(self.optimizer, self.config)
        self.average.to(self.device)
        if self._restored is not None:
            self.optimizer.load_state_dict(self._restored["optimizer"])
            self.schedule.load_state_dict(self._restored["schedule"])
            self._steps_before = self.schedule.steps
            self._restored = None
        return self.optimizer

    def on_train_start(self) -> None:
        self.started = time.monotonic()

    def on_train_epoch_start(self) -> None:
        self.epoch = self.first_epoch + self.current_epoch + 1
        self._losses, self.first_losses = self.first_losses, []

    def on_train_batch_start(self, batch: LabelledBatch, batch_idx: int) -> None:
        self.schedule.before_step(self.progress)

    def training_step(self, batch: LabelledBatch, batch_idx: int) -> Tensor:
        prediction = self.potential(batch.graph, **self.wanted, training=True)
        loss = self.loss(batch, prediction)
        self._losses.append(self._finite(loss.item(), f"step {batch_idx + 1}"))
        return loss

    def _finite(self, value: float, where: str) -> float:
        if math.isfinite(value):
            return value
        raise self._diverged(f"the loss is {value} in epoch {self.epoch}, {where}")

    @staticmethod
    def _diverged(what: str) -> MLIPError:
        return MLIPError(
            f"{what}; lower --lr or --clip_grad, or look for extreme forces in the data. "
            "The last checkpoint holds weights that were good"
        )

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        self.average.update()

    def on_train_batch_end(self, outputs: Any, batch: LabelledBatch, batch_idx: int) -> None:
        if self.time_is_up:
            self.trainer.should_stop = True

    # -- validation --------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self.average.swap()
        self._sums = ValidationSums()

    def validation_step(self, batch: LabelledBatch, batch_idx: int) -> None:
        prediction = self.potential(batch.graph, **self.wanted)
        loss = self.loss(batch, prediction)
        self._sums.add(batch, loss, prediction)

    def on_validation_epoch_end(self) -> None:
        record: dict[str, Any] = {"epoch": self.epoch, "loss": _mean(self._losses), "lr": self.schedule.rate}
        record |= self._sums.result() | {"seconds": self.elapsed}
        if self._finite(record["valid_loss"], "validation") < self.best.loss:
            weights = dict(self.potential.named_parameters())
            self.best = Best(record["valid_loss"], record["epoch"], cpu_copy(weights))
        self.average.swap()
        self.history.append(record)
        self.schedule.after_validation(record["valid_loss"])
        since_best = sum(r["epoch"] > self.best.epoch for r in self.history)
        if since_best >= self.config.patience:
            self.trainer.should_stop = True

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def elapsed(self) -> float:
        """Seconds of training, restarts included."""
        return self.elapsed_before + time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """Part of the run that is done: of its steps, or of `max_time` if that is more."""
        steps = self.schedule.steps / self.total_steps
        return max(steps, self.elapsed / (60 * self.config.max_time)) if self.config.max_time else steps

    @property
    def time_is_up(self) -> bool:
        return self.config.max_time is not None and self.elapsed >= 60 * self.config.max_time

    @property
    def steps_done(self) -> int:
        """Steps of the present epoch, restarts included."""
        return len(self._losses)

    @property
    def last_loss(self) -> float:
        """Of the last step."""
        return self._losses[-1]

    @property
    def epoch_is_complete(self) -> bool:
        """Whether the present epoch has taken all its steps."""
        return self.steps_done == self.steps_per_epoch

    @property
    def seconds_left(self) -> float:
        """Estimate from the speed so far."""
        done = self.schedule.steps - self._steps_before
        rate = (self.elapsed - self.elapsed_before) / max(done, 1)
        left = rate * (self.total_steps - self.schedule.steps)
        return min(left, 60 * self.config.max_time - self.elapsed) if self.config.max_time else left

    def run_state(self) -> dict[str, Any]:
        """All that the rest of the run depends on, between two steps: `losses` holds those of an unfinished epoch.

        Raises:
            MLIPError: weights that are not finite; nothing could continue from them.
        """
        complete = self.epoch_is_complete
        weights = cpu_copy(dict(self.potential.named_parameters()))
        if not all(bool(w.isfinite().all()) for w in weights.values()):
            raise self._diverged(f"the weights are not finite after step {self.steps_done} of epoch {self.epoch}")
        return {
            "epoch": self.epoch if complete else self.epoch - 1,
            "losses": [] if complete else self._losses,
            "elapsed": self.elapsed,
            "weights": weights,
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "best": {"loss": self.best.loss, "epoch": self.best.epoch, "weights": self.best.weights},
            "history": self.history,
            "rng": torch.get_rng_state(),
        }

    def load_run_state(self, state: dict[str, Any]) -> None:
        """Continue from `run_state`; call before the fit starts."""
        self.first_epoch = self.epoch = state["epoch"]
        self.first_losses = list(state["losses"])
        self.elapsed_before = state["elapsed"]
        self.started = time.monotonic()
        load_weights(self.potential, state["weights"])
        self.average.load_state_dict(state["average"])
        self.best = Best(**state["best"])
        self.history = list(state["history"])
        self._restored = {"optimizer": state["optimizer"], "schedule": state["schedule"]}
        torch.set_rng_state(state["rng"])


@torch.no_grad()
def load_weights(potential: Potential, weights: dict[str, Tensor]) -> None:
    """Put weights by name into a potential."""
    for name, parameter in potential.named_parameters():
        parameter.copy_(weights[name])


class ValidationSums:
    """Loss and squared errors over the validation set; on the device, in float64, one transfer at the end."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, batch: LabelledBatch, loss: Tensor, prediction: Any) -> None:
        graph, labels = batch
        self._add("loss", loss * graph.n_graphs, graph.n_graphs)
        known = labels.energy_weight > 0
        error = (prediction.energy.double() - labels.energy) / graph.n_atoms
        self._add("energy", error[known].square().sum(), known.sum())
        if prediction.forces is not None:
            known = (labels.forces_weight > 0)[graph.batch]
            self._add("forces", (prediction.forces - labels.forces)[known].double().square().sum(), 3 * known.sum())
        if prediction.stress is not None:
            known = labels.stress_weight > 0
            self._add("stress", (prediction.stress - labels.stress)[known].double().square().sum(), 9 * known.sum())

    def _add(self, name: str, total: Tensor, count: Tensor | int) -> None:
        pair = torch.stack([total.detach(), torch.as_tensor(count, dtype=torch.float64, device=total.device)])
        self.sums[name] = self.sums[name] + pair if name in self.sums else pair

    def result(self) -> dict[str, float]:
        """`valid_loss`, and root mean squared errors in eV/atom, eV/Å, eV/Å³ of what is labelled."""
        means = {name: float(pair[0] / pair[1]) for name, pair in self.sums.items() if pair[1] > 0}
        return {"valid_loss": means.pop("loss")} | {f"valid_{name}_rmse": mean**0.5 for name, mean in means.items()}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
