"""Lightning's Trainer, told to do only what a run needs and to stay quiet."""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from rich.console import Console

from mlip.data.batches import LabelledBatch
from mlip.training.display import Display
from mlip.training.logs import Logs
from mlip.training.module import TrainingModule
from mlip.training.timing import Timing

#: A checkpoint is written after every epoch, and inside an epoch when the last one is older than this.
CHECKPOINT_SECONDS = 600.0


class Progress(L.Callback):
    """Reports and saves: shows the run on the console, logs validations, writes checkpoints, takes the time."""

    def __init__(self, module: TrainingModule, console: Console, logs: Logs, save: Callable[[], None]) -> None:
        self.logs, self.save = logs, save
        self.display, self.timing = Display(module.config, console, module.validation_errors), Timing()
        self.saved = ""  # what the last checkpoint of this process holds
        self._last_save = self._validation_started = time.monotonic()

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        epoch = _as_ours(module).first_epoch + trainer.current_epoch + 1  # the module is asked after its callbacks
        self.display.start_epoch(epoch, int(trainer.num_training_batches))

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: LabelledBatch, batch_idx: int
    ) -> None:
        ours = _as_ours(module)
        self.timing.steps += 1
        self.timing.atoms += ours.last_atoms
        self.display.step(batch_idx + 1, ours.last_loss, ours.seconds_left)
        if time.monotonic() - self._last_save >= CHECKPOINT_SECONDS and not ours.epoch_is_complete:
            self._save(f"step {ours.steps_done} of epoch {ours.epoch}")

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._validation_started = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        ours = _as_ours(module)
        record = ours.history[-1]
        self.timing.validations += 1
        self.timing.validation += time.monotonic() - self._validation_started
        self.logs.append(record)
        self.display.validated(record, ours.seconds_left, ours.best.epoch == record["epoch"])

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.display.stop()
        if _as_ours(module).epoch_is_complete:
            self._save(f"the end of epoch {_as_ours(module).epoch}")

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self.display.stop()

    def _save(self, what: str) -> None:
        self.save()
        self.saved, self._last_save = what, time.monotonic()


def _as_ours(module: L.LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module


def fit(module: TrainingModule, training: Any, validation: Any, progress: Progress, device: str) -> None:
    """Train until the epochs, the time or the patience are used up.

    Raises:
        KeyboardInterrupt: on Ctrl-C.
        MLIPError: the loss is not finite.
    """
    config = module.config
    module.validation = validation
    left = 0 if module.is_over else config.max_num_epochs - module.first_epoch
    if not left and module.is_validated:
        return
    handler = signal.getsignal(signal.SIGINT)
    with quiet_lightning():
        trainer = L.Trainer(
            accelerator="gpu" if device == "cuda" else device,
            devices=[torch.cuda.current_device()] if device == "cuda" else 1,
            max_epochs=left,
            reload_dataloaders_every_n_epochs=1,  # the first epoch of a restart may be shorter than the others
            num_sanity_val_steps=0,
            callbacks=[progress],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            inference_mode=False,
            use_distributed_sampler=False,
            plugins=[LightningEnvironment()],  # others that train together are no business of Lightning's
        )
        try:
            trainer.fit(module, training, validation)
            if not module.is_validated:
                trainer.validate(module, validation, verbose=False)  # between two intervals, or out of time
        except SystemExit as stop:  # what Lightning makes of Ctrl-C, after disabling the key
            raise KeyboardInterrupt from stop
        finally:
            module.elapsed_before, module.started = module.elapsed, time.monotonic()
            if handler is not None and signal.getsignal(signal.SIGINT) is not handler:
                signal.signal(signal.SIGINT, handler)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's tips and remarks about hardware and workers, inside the context only."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
