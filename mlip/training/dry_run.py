"""What a run would need (`--dry_run`): the data is read and a few steps are taken; nothing is written."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from rich.console import Console

from mlip.data.batches import LabelledBatch
from mlip.data.loading import training_loader, validation_loader
from mlip.training import report
from mlip.training.config import TrainingConfig
from mlip.training.data import RunData
from mlip.training.determinism import deterministic
from mlip.training.display import work_shown
from mlip.training.module import TrainingModule
from mlip.training.processes import refuse_several
from mlip.training.setup import device_of
from mlip.training.task import task_of

#: Steps that are timed, after one that is not.
STEPS = 3


@dataclass(frozen=True)
class Estimate:
    """What a run would need; times are those of a few steps, on this machine as busy as it is."""

    parameters: int
    steps_per_epoch: int
    seconds_per_step: float
    seconds_per_epoch: float  # validation included
    hours: float  # for all epochs, or `max_time`
    memory_GB: float | None  # the most that the largest batch takes, of the GPU or of the process

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        memory = "unknown" if self.memory_GB is None else f"{self.memory_GB:.2f} GB"
        return (
            f"{self.parameters} parameters, {self.steps_per_epoch} steps per epoch, about "
            f"{self.seconds_per_step:.3g} s per step, {self.seconds_per_epoch:.3g} s per epoch, {self.hours:.3g} h in "
            f"all; memory {memory}"
        )


def rehearse(config: TrainingConfig, console: Console | None = None) -> Estimate:
    """Do everything up to training, and a few steps to measure them; write nothing.

    Args:
        config: of the run.
        console: where to report; nowhere by default.

    Raises:
        DataError, InputError, UnknownElementError: the data or options can't be used.
    """
    refuse_several("--dry_run", config.processes)
    console = console or report.quiet_console()
    with torch.random.fork_rng(devices=[]), deterministic(config.deterministic):
        task = task_of(config, partial(work_shown, console))
        for part in task.introduction():
            console.print(part)
        estimate = _measure(config, task.data, task.module())
    console.print(f"{estimate}\ndry run: nothing was trained or written")
    return estimate


def _measure(config: TrainingConfig, data: RunData, module: TrainingModule) -> Estimate:
    device = device_of(config)
    module.configure_optimizers()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    _step(module, _largest(data).to(device))
    memory = _peak_memory(device)
    loader = training_loader(data.trained, data.plan, config.seed)
    step = _seconds_each(lambda batch: _step(module, batch), list(islice(loader, STEPS)), device)
    validation = validation_loader(data.sets["valid"].samples, config.valid_batch_size)
    check = _seconds_each(lambda batch: module.validate_batch(batch), list(islice(validation, STEPS)), device)
    epoch = step * module.steps_per_epoch + check * len(validation) / config.eval_interval
    hours = config.max_num_epochs * epoch / 3600
    return Estimate(
        parameters=sum(p.numel() for p in module.potential.parameters()),
        steps_per_epoch=module.steps_per_epoch,
        seconds_per_step=step,
        seconds_per_epoch=epoch,
        hours=min(hours, config.max_time / 60) if config.max_time else hours,
        memory_GB=memory,
    )


def _largest(data: RunData) -> LabelledBatch:
    """The batch that takes most memory: of the heaviest structures, as far as one batch may hold them."""
    return data.trained.batch(data.plan.worst(data.trained.heaviest_first()))


def _step(module: TrainingModule, batch: LabelledBatch) -> None:
    """A training step without the bookkeeping of a run."""
    module.optimizer.zero_grad()
    loss = module.loss(batch, module.answer(batch, training=True))
    module.backward(loss)
    module.configure_gradient_clipping()
    module.optimizer.step()


def _seconds_each(work: Any, batches: Sequence[LabelledBatch], device: str) -> float:
    """Mean time of `work` on a batch, the first of several left out."""
    times = []
    for batch in batches:
        started = time.monotonic()
        work(batch.to(device))
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.monotonic() - started)
    counted = times[1:] or times
    return sum(counted) / len(counted)


def _peak_memory(device: str) -> float | None:
    """The most memory so far in GB, of the GPU or of this process; None where the system does not tell."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9
