"""The logs of a run: JSON lines and CSV always, TensorBoard and Weights & Biases when asked for.

Every log starts from the history in the checkpoint, not from what the file held before. A run that was killed at any
instant and continued therefore has each validation once in each log, whatever was written before the kill.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import secrets
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from mlip.checkpoint import write_atomically
from mlip.errors import MissingDependencyError, MLIPError
from mlip.training.config import TrainingConfig
from mlip.training.display import VALIDATION_ERRORS, ShownError

Record = dict[str, Any]


class Log(Protocol):
    """One log.

    Attributes:
        errors: how the errors of a record are shown to people.
    """

    errors: tuple[ShownError, ...]

    def start(self, history: list[Record]) -> None:
        """Hold exactly these records."""

    def append(self, record: Record) -> None:
        """Add the record of a validation."""

    def close(self, summary: Record) -> None:
        """End; `summary` has the final errors, or nothing if the run did not get there."""


class Logs:
    """All logs of a run, as a context that closes them.

    Raises:
        MissingDependencyError: a log was asked for whose package is not installed.
    """

    def __init__(self, config: TrainingConfig, continued: bool, written: bool = True) -> None:
        self.summary: Record = {}
        self.logs: list[Log] = []
        if not written:  # one of several processes does
            return
        self.logs += [JsonLines(config.file("_log.jsonl")), Csv(config.file("_log.csv"))]
        if config.tensorboard:
            _require("tensorboard", "--tensorboard")
            self.logs.append(TensorBoard(config.file("_tensorboard")))
        if config.wandb:
            _require("wandb", "--wandb")
            self.logs.append(WeightsAndBiases(config, continued))

    def start(self, history: list[Record], errors: tuple[ShownError, ...] = VALIDATION_ERRORS) -> None:
        for log in self.logs:
            log.errors = errors
            log.start(history)

    def append(self, record: Record) -> None:
        for log in self.logs:
            log.append(record)

    def __enter__(self) -> Logs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for log in self.logs:
            log.close(self.summary)


def _require(package: str, option: str) -> None:
    if package in sys.modules or importlib.util.find_spec(package) is not None:
        return
    raise MissingDependencyError(f"{option} needs {package}, which is not installed: pip install {package}")


class JsonLines:
    """One JSON object per line."""

    errors = VALIDATION_ERRORS

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, history: list[Record]) -> None:
        write_atomically(self.path, "".join(json.dumps(record) + "\n" for record in history).encode())

    def append(self, record: Record) -> None:
        with open(self.path, "a") as stream:
            stream.write(json.dumps(record) + "\n")

    def close(self, summary: Record) -> None:
        """Nothing is open."""


class Csv:
    """One line per record under a header with the same names and units; a value that is not there is empty."""

    errors = VALIDATION_ERRORS

    def __init__(self, path: Path) -> None:
        self.path = path
        self.history: list[Record] = []
        self.columns: list[str] = []

    def start(self, history: list[Record]) -> None:
        self.history = list(history)
        self.columns = list(dict.fromkeys(key for record in history for key in record))
        text = self._lines(None, *self.history) if self.columns else ""
        write_atomically(self.path, text.encode())

    def append(self, record: Record) -> None:
        if not record.keys() <= set(self.columns):
            self.start([*self.history, record])  # the header grows
            return
        self.history.append(record)
        with open(self.path, "a", newline="") as stream:
            stream.write(self._lines(record))

    def close(self, summary: Record) -> None:
        """Nothing is open."""

    def _lines(self, *records: Record | None) -> str:
        """Lines of records; of the header for None."""
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, self.columns, restval="", lineterminator="\n")
        for record in records:
            if record is None:
                writer.writeheader()
            else:
                writer.writerow(record)
        return buffer.getvalue()


def scalars(record: Record, errors: tuple[ShownError, ...] = VALIDATION_ERRORS) -> dict[str, float]:
    """The values of a record in the units people read, by the names that TensorBoard and W&B show."""
    values = {"loss/train": record["loss"], "loss/valid": record["valid_loss"], "learning_rate": record["lr"]}
    for key, _, unit, factor in errors:
        if record.get(key) is not None:
            ending = "_" + unit.replace("/", "_per_").replace("Å", "A") if unit else ""
            values[f"valid/{key.removeprefix('valid_')}{ending}"] = record[key] * factor
    return values


class TensorBoard:
    """Event files in a folder of their own, written anew when a run is continued."""

    errors = VALIDATION_ERRORS

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, history: list[Record]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for file in self.folder.glob("events.out.tfevents.*"):
            file.unlink()
        self.writer = SummaryWriter(str(self.folder))
        now = time.time()
        for record in history:
            self._add(record, now - history[-1]["seconds"] + record["seconds"])
        self.writer.flush()

    def append(self, record: Record) -> None:
        self._add(record, time.time())
        self.writer.flush()

    def _add(self, record: Record, when: float) -> None:
        for name, value in scalars(record, self.errors).items():
            self.writer.add_scalar(name, value, record["epoch"], walltime=when)

    def close(self, summary: Record) -> None:
        if hasattr(self, "writer"):
            self.writer.close()


class WeightsAndBiases:
    """A run on Weights & Biases with the epoch as its step; a continued run goes on under its old id."""

    errors = VALIDATION_ERRORS

    def __init__(self, config: TrainingConfig, continued: bool) -> None:
        self.config, self.continued = config, continued
        self.run: Any = None

    def start(self, history: list[Record]) -> None:
        import wandb

        try:
            self.run = wandb.init(**self._options())
        except Exception as error:  # whatever it raises without a login or a network
            raise MLIPError(
                f"--wandb: no run could be started ({type(error).__name__}: {error}); log in with `wandb login`, set "
                "WANDB_MODE=offline, or leave out --wandb"
            ) from error
        first = self.run.step  # what is there already can't be written again, and would be the same
        for record in history:
            if record["epoch"] >= first:
                self.append(record)

    def _options(self) -> Record:
        return dict(
            project=self.config.wandb_project or None,
            entity=self.config.wandb_entity or None,
            name=self.config.wandb_name or self.config.name,
            id=self._id(),
            resume="allow",
            dir=self.config.work_dir,
            config=self.config.portable(),
        )

    def _id(self) -> str:
        file = self.config.file("_wandb_id")
        if not (self.continued and file.exists()):
            write_atomically(file, secrets.token_hex(4).encode())
        return file.read_text().strip()

    def append(self, record: Record) -> None:
        self.run.log(scalars(record, self.errors), step=record["epoch"], commit=True)

    def close(self, summary: Record) -> None:
        if self.run is not None:
            self.run.summary.update(summary)
            self.run.finish(exit_code=0 if summary else 1)
