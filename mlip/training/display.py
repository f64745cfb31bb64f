"""What a person sees while a run trains: a bar on a terminal, lines in a pipe, one line per validation in both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from mlip.training.config import TrainingConfig
from mlip.units import EV_PER_A3_TO_GPA

#: Without a terminal, an epoch that takes longer shows a line this often.
PLAIN_SECONDS = 60.0
#: Work that takes longer shows a bar.
BAR_AFTER = 2.0
#: Validation errors of a record: key, letter or name, unit, factor from eV and Å.
ShownError = tuple[str, str, str, float]
VALIDATION_ERRORS: tuple[ShownError, ...] = (
    ("valid_energy_rmse", "E", "meV/atom", 1e3),
    ("valid_forces_rmse", "F", "meV/Å", 1e3),
    ("valid_stress_rmse", "S", "GPa", EV_PER_A3_TO_GPA),
)


@contextmanager
def work_unseen(title: str) -> Iterator[Callable[[int, int], object]]:
    """Takes the place of `work_shown` where nobody looks."""
    yield lambda done, total: None


@contextmanager
def work_shown(console: Console, title: str) -> Iterator[Callable[[int, int], object]]:
    """Yields `update(done, total)` for long work before the training: a bar on a terminal, lines in a pipe."""
    started = last = time.monotonic()
    bar = Bar(TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), console=console, transient=True)
    task = bar.add_task(title)

    def update(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if console.quiet or now - started < BAR_AFTER:
            return
        if console.is_terminal:
            bar.start()
            bar.update(task, completed=done, total=total)
        elif now - last >= PLAIN_SECONDS:
            last = now
            console.print(f"{title}: {done}/{total}", markup=False, highlight=False)

    try:
        yield update
    finally:
        bar.stop()


class Display:
    """Shows epochs, steps and validations on a console."""

    def __init__(
        self, config: TrainingConfig, console: Console, errors: tuple[ShownError, ...] = VALIDATION_ERRORS
    ) -> None:
        self.config, self.console, self.errors = config, console, errors
        self.bar: Bar | None = None
        self._epoch, self._total, self._loss_sum, self._losses = 0, 0, 0.0, 0
        self._last_line = time.monotonic()

    def start_epoch(self, epoch: int, steps: int) -> None:
        """`steps` are those of this process, fewer than an epoch has after a restart inside one."""
        self._epoch, self._total, self._loss_sum, self._losses = epoch, steps, 0.0, 0
        if not self.console.is_terminal or self.console.quiet:
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.bar = Bar(*columns, console=self.console, transient=True, refresh_per_second=4)
        self.bar.add_task(_epoch_of(epoch, self.config), total=steps, note="")
        self.bar.start()

    def step(self, done: int, loss: float, seconds_left: float) -> None:
        """After a step: `done` steps of the epoch in this process, the loss of this one."""
        self._loss_sum, self._losses = self._loss_sum + loss, self._losses + 1
        if not self.bar and (self.console.quiet or time.monotonic() - self._last_line < PLAIN_SECONDS):
            return
        note = f"loss {self._loss_sum / self._losses:.4g}  {clock(seconds_left)} left"
        if self.bar:
            self.bar.update(self.bar.task_ids[0], completed=done, note=note)
        else:
            self._print(f"{_epoch_of(self._epoch, self.config)}  step {done}/{self._total}  {note}")

    def validated(self, record: dict[str, Any], seconds_left: float, improved: bool) -> None:
        """After a validation."""
        self.stop()
        self._print(validation_line(record, self.config, seconds_left, improved, self.errors))

    def stop(self) -> None:
        """Take the bar away."""
        if self.bar:
            self.bar.stop()
            self.bar = None

    def _print(self, line: str) -> None:
        self._last_line = time.monotonic()
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def validation_line(
    record: dict[str, Any],
    config: TrainingConfig,
    seconds_left: float,
    improved: bool,
    errors: tuple[ShownError, ...] = VALIDATION_ERRORS,
) -> str:
    """One line about an epoch with its validation; the star marks the best so far."""
    parts = [_epoch_of(record["epoch"], config), f"loss {record['loss']:<9.4g} valid {record['valid_loss']:<9.4g}"]
    for key, letter, unit, factor in errors:
        if record.get(key) is not None:
            parts.append(f"{letter} {record[key] * factor:5.4g} {unit}".rstrip())
    parts.append(f"lr {record['lr']:<7.2g} {clock(record['seconds'])} gone, {clock(seconds_left)} left")
    return "  ".join(parts) + (" *" if improved else "")


def _epoch_of(epoch: int, config: TrainingConfig) -> str:
    return f"epoch {epoch:{len(str(config.max_num_epochs))}d}/{config.max_num_epochs}"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, "?" if unknown."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
