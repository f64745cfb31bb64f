"""The training step as Lightning sees it, and everything that makes up the state of a run."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

import lightning as L
import torch
from torch import Tensor

from mlip.data.batches import LabelledBatch
from mlip.data.loading import StandIn
from mlip.errors import MLIPError
from mlip.potential import Potential
from mlip.property_model import PropertyModel
from mlip.training.config import TrainingConfig
from mlip.training.data import TrainingData
from mlip.training.display import VALIDATION_ERRORS, ShownError
from mlip.training.ema import WeightAverage, cpu_copy
from mlip.training.loss import make_loss
from mlip.training.optimizer import make_optimizer
from mlip.training.processes import Group, OthersEnded, digest, parts_of_all
from mlip.training.schedule import Schedule
from mlip.training.schedule_free import ScheduleFreeAdamW
from mlip.training.stage_two import StageTwo
from mlip.training.sums import clip_norm
from mlip.training.validation import Best, Sums, ValidationSums


class TrainingModule(L.LightningModule):
    """One training step, one validation step; the state of the run by `run_state` and `load_run_state`.

    Args:
        potential: to be trained, in the precision wanted.
        config: of the run.
        properties: which of "forces", "stress" train.
        steps_per_epoch: batches in an epoch.
    """

    #: What the validation finds, as people are shown it.
    validation_errors: tuple[ShownError, ...] = VALIDATION_ERRORS

    def __init__(
        self,
        potential: Potential | PropertyModel,
        config: TrainingConfig,
        properties: frozenset[str],
        steps_per_epoch: int,
    ) -> None:
        super().__init__()
        self.potential, self.config = potential, config
        self.loss: Any = make_loss(config)  # as `mlip.training.loss.Loss`
        self.wanted = {"forces": "forces" in properties, "stress": "stress" in properties}
        self.total_steps = steps_per_epoch * config.max_num_epochs
        self.steps_per_epoch = steps_per_epoch
        self.average = WeightAverage(potential, config.ema_decay if config.ema else None)
        self.stage_two = StageTwo(potential, config)
        self.has_heads = isinstance(potential, Potential) and len(potential.heads) > 1
        self.best = Best()  # of the present stage
        self.group = Group()  # those that train together; given before the fit starts
        self.validation: Iterable[LabelledBatch] = ()  # given before the fit starts
        self.history: list[dict[str, Any]] = []
        self.first_epoch = 0  # completed before this process
        self.first_losses: list[float] = []  # of the steps of the next epoch that were done before this process
        self.epoch = 0  # the present one, counted from 1 over all restarts
        self.elapsed_before = 0.0
        self.started = time.monotonic()
        self._agreed = 0.0  # seconds that the first of several processes had spent, at the last step or validation
        self.last_atoms = 0  # of the last step, in all processes
        self._restored: dict[str, Any] | None = None
        self._losses: list[float] = []
        self._steps_before = 0
        self._sums = self._new_sums()

    @classmethod
    def of_run(cls, config: TrainingConfig, data: TrainingData, potential: Potential) -> TrainingModule:
        """The module of a run on its data."""
        return cls(potential, config, data.properties, data.plan.steps)

    def answer(self, batch: LabelledBatch, training: bool = False) -> Any:
        """What the model says of a batch, as the loss wants it."""
        heads = {"heads": batch.labels.head} if training and self.has_heads else {}
        return self.potential(batch.graph, **self.wanted, training=training, **heads)

    def _new_sums(self) -> Sums:
        return ValidationSums()

    # -- optimization ------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self.optimizer = make_optimizer(self.potential, self.config)
        self.schedule = Schedule(self.optimizer, self.config)
        self.schedule.in_stage_two = self.stage_two.is_on
        for average in (self.average, self.stage_two.average):
            average.to(self.device)
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
        # Lightning counts from the start of the process; with this it validates after this epoch, or not.
        is_due = self.epoch % self.config.eval_interval == 0
        self.trainer.check_val_every_n_epoch = 1 if is_due else self.current_epoch + 2
        if not self._losses and self.stage_two.is_due(self.epoch - 1, self.progress, self.is_stalled):
            self._begin_stage_two()

    def _begin_stage_two(self) -> None:
        self.stage_two.began = self.epoch - 1
        self.stage_two.first, self.best = self.best, Best()
        self.loss = make_loss(self.config, stage_two=True)
        self.schedule.in_stage_two = True
        if isinstance(self.optimizer, ScheduleFreeAdamW):
            self.optimizer.start_again()  # the large steps of the first stage would outweigh all of the second

    def on_train_batch_start(self, batch: LabelledBatch, batch_idx: int) -> None:
        self.schedule.before_step(self.progress, self.epoch - 1)

    def training_step(self, batch: LabelledBatch, batch_idx: int) -> Tensor:
        parts = self.loss.parts(batch, self.answer(batch, training=True))
        counts, n_atoms = not isinstance(batch, StandIn), batch.graph.numbers.shape[0]
        spent = self._elapsed_here if self.group.is_first else 0.0
        parts, (self._agreed, atoms) = parts_of_all(self.group, parts, counts, spent, n_atoms * counts)
        self.last_atoms = round(atoms)
        loss: Tensor = self.loss.of(parts)
        self._losses.append(self._finite(loss.item(), f"step {batch_idx + 1}"))
        return loss

    def _finite(self, value: float, where: str) -> float:
        if math.isfinite(value):
            return value
        if not self.group.is_first:
            raise OthersEnded(f"the loss is {value}")
        raise self._diverged(f"the loss is {value} in epoch {self.epoch}, {where}")

    @staticmethod
    def _diverged(what: str) -> MLIPError:
        return MLIPError(
            f"{what}; lower --lr or --clip_grad, or look for extreme forces in the data. "
            "The last checkpoint holds weights that were good"
        )

    def backward(self, loss: Tensor, *arguments: Any, **options: Any) -> None:
        """Gradients of the parameters alone: those by positions would take second derivatives."""
        loss.backward(inputs=[p for p in self.potential.parameters() if p.requires_grad])

    def on_after_backward(self) -> None:
        self.group.sum_gradients(self.potential.parameters())

    def configure_gradient_clipping(self, *arguments: Any, **options: Any) -> None:
        if self.config.clip_grad:
            clip_norm((p.grad for p in self.potential.parameters()), self.config.clip_grad)

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        self.average.update()

    def on_train_batch_end(self, outputs: Any, batch: LabelledBatch, batch_idx: int) -> None:
        if self.stage_two.is_on and self.epoch_is_complete and not self.is_schedule_free:
            self.stage_two.average.update()
        if self.time_is_up:
            self.trainer.should_stop = True

    # -- validation --------------------------------------------------------------------------------------------------

    @property
    def is_schedule_free(self) -> bool:
        """Whether the optimizer has an average of its own, all the time."""
        return self.config.optimizer == "schedulefree"

    def _swap_average(self) -> None:
        """Exchange the weights and what a user gets: the average of schedule-free training, or the exponential one."""
        if isinstance(self.optimizer, ScheduleFreeAdamW):
            self.optimizer.swap()
        else:
            self.average.swap()

    def on_validation_epoch_start(self) -> None:
        self._swap_average()
        self._sums = self._new_sums()

    def validation_step(self, batch: LabelledBatch, batch_idx: int) -> None:
        self.validate_batch(batch)

    def validate_batch(self, batch: LabelledBatch) -> None:
        """Add the errors on a batch to the sums of this validation."""
        if isinstance(batch, StandIn):
            return
        prediction = self.answer(batch)
        loss = self.loss(batch, prediction)
        self._sums.add(batch, loss, prediction)

    def on_validation_epoch_end(self) -> None:
        found = self._judge(self._found())
        self._swap_average()
        if self.stage_two.is_on:
            kind = "exponential average" if self.config.ema else "last"
            found |= {"stage": 2, "weights": "schedule-free average" if self.is_schedule_free else kind}
        if self.stage_two.average.steps > 1:
            equal = self._validate_equal_average()
            if equal["valid_loss"] < found["valid_loss"]:
                found |= equal | {"weights": "equal average"}
        record: dict[str, Any] = {"epoch": self.epoch, "loss": _mean(self._losses), "lr": self.schedule.rate}
        self.history.append(record | found | {"seconds": self.elapsed})
        self.schedule.after_validation(found["valid_loss"])
        if self._is_out_of_patience:
            self.trainer.should_stop = True

    def _found(self) -> dict[str, float]:
        """Loss and errors over the whole validation set."""
        if not self.group.is_alone:
            self.group.check_same({"result of the same steps": digest(self.potential)})
            shares = self.group.gathered((self._elapsed_here, self._sums.numbers()))
            self._agreed = shares[0][0]
            self._sums.take([numbers for _, numbers in shares])
        return self._sums.result()

    def _judge(self, found: dict[str, Any]) -> dict[str, Any]:
        """Keep the weights in place if they are the best of this stage; returns what was found."""
        if self._finite(found["valid_loss"], "validation") < self.best.loss:
            self.best = Best(found["valid_loss"], self.epoch, cpu_copy(dict(self.potential.named_parameters())))
        return found

    def _validate_equal_average(self) -> dict[str, Any]:
        """A second pass over the validation set, with the equal average of the second stage."""
        self.stage_two.average.swap()
        self._sums = self._new_sums()
        for batch in self.validation:
            self.validate_batch(batch.to(self.device))
        found = self._judge(self._found())
        self.stage_two.average.swap()
        return found

    @property
    def is_stalled(self) -> bool:
        """Whether `patience` is used up: so many validations of this stage since the best."""
        since = max(self.best.epoch, self.stage_two.began or 0)
        return sum(record["epoch"] > since for record in self.history) >= self.config.patience

    @property
    def _is_out_of_patience(self) -> bool:
        """Whether that ends the run, not only its first stage."""
        return self.is_stalled and (self.stage_two.is_on or not self.config.swa)

    @property
    def is_over(self) -> bool:
        """Whether a run that is continued has nothing left to train."""
        return self.first_epoch >= self.config.max_num_epochs or self.time_is_up or self._is_out_of_patience

    @property
    def is_validated(self) -> bool:
        """Whether there was a validation in the present epoch."""
        return self.epoch == (self.history[-1]["epoch"] if self.history else 0)

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def elapsed(self) -> float:
        """Seconds of training, restarts included; all processes have the same."""
        return self._elapsed_here if self.group.is_alone else self._agreed

    @property
    def _elapsed_here(self) -> float:
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
            "loss": _mean(self._losses),
            "elapsed": self.elapsed,
            "weights": weights,
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "best": self.best.as_dict(),
            "stage_two": self.stage_two.state_dict(),
            "history": self.history,
            "rng": torch.get_rng_state(),
        }

    def load_run_state(self, state: dict[str, Any]) -> None:
        """Continue from `run_state`; call before the fit starts."""
        self.first_epoch = state["epoch"]
        self.first_losses = list(state["losses"])
        # of the epoch that is to be validated if nothing is left to train
        self.epoch = self.first_epoch + bool(self.first_losses)
        self._losses = [state["loss"]] if "loss" in state else []
        self.elapsed_before = self._agreed = state["elapsed"]
        self.started = time.monotonic()
        load_weights(self.potential, state["weights"])
        self.average.load_state_dict(state["average"])
        self.best = Best(**state["best"])
        self.stage_two.load_state_dict(state["stage_two"])
        if self.stage_two.is_on:
            self.loss = make_loss(self.config, stage_two=True)
        self.history = list(state["history"])
        self._restored = {"optimizer": state["optimizer"], "schedule": state["schedule"]}
        torch.set_rng_state(state["rng"])


@torch.no_grad()
def load_weights(potential: Potential | PropertyModel, weights: dict[str, Tensor]) -> None:
    """Put weights by name into a model."""
    for name, parameter in potential.named_parameters():
        parameter.copy_(weights[name])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
