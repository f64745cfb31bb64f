"""A training run from configuration to potential: `train(config)`."""

from __future__ import annotations

import datetime
import re
import time
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import mlip
from mlip.data.loading import training_loader, validation_loader
from mlip.errors import InputError, MLIPError
from mlip.potential import Potential
from mlip.property_model import PropertyModel
from mlip.training import report
from mlip.training.checkpointing import load_checkpoint, remove_leftovers, save_checkpoint
from mlip.training.config import TrainingConfig
from mlip.training.data import RunData
from mlip.training.determinism import deterministic
from mlip.training.display import work_shown
from mlip.training.engine import Progress, fit
from mlip.training.error_tables import forgetting_table
from mlip.training.forgetting import Forgetting
from mlip.training.logs import Logs
from mlip.training.lora import as_users_get_it
from mlip.training.module import TrainingModule, load_weights
from mlip.training.plots import plot_learning_curve
from mlip.training.processes import Group, digest, process_group
from mlip.training.report_numbers import Outcome
from mlip.training.setup import device_of
from mlip.training.task import Errors, Groups, Task, task_of
from mlip.training.timing import Timing


@dataclass(frozen=True)
class TrainingResult:
    """Outcome of a run."""

    potential: Potential | PropertyModel
    path: Path
    best_epoch: int
    epochs: int
    seconds: float
    errors: Errors  # by set
    history: list[dict[str, Any]]
    groups: Groups  # the errors by set and config_type
    report: Path
    forgetting: Forgetting | None = None

    def as_dict(self) -> dict[str, Any]:
        forgetting = {} if self.forgetting is None else {"forgetting": self.forgetting.as_dict()}
        return {
            "model": str(self.path),
            "report": str(self.report),
            "best_epoch": self.best_epoch,
            "epochs": self.epochs,
            "seconds": self.seconds,
            "errors": self.errors,
            **forgetting,
        }


def train(config: TrainingConfig, console: Console | None = None) -> TrainingResult:
    """Train a potential, or a property model, and write it with its logs, plots and report into the work folder.

    Args:
        config: what to do.
        console: where to report; nowhere by default.

    Raises:
        DataError, InputError, UnknownElementError: the data or options can't be used.
        MLIPError: the loss is not finite.
        MissingDependencyError: a log was asked for whose package is not installed.
        KeyboardInterrupt: after Ctrl-C, with the checkpoint of the last epoch written.
    """
    if config.committee is not None:
        raise InputError("train does no --committee, which is mlip.training.committee.train_committee(config)")
    if config.dry_run:
        raise InputError("train does no --dry_run, which is mlip.training.dry_run.rehearse(config)")
    # The seed and the choice of algorithms are the run's, not the caller's.
    with (
        torch.random.fork_rng(devices=[]),
        deterministic(config.deterministic),
        process_group(device_of(config), config.processes) as g,
    ):
        if config.processes not in (None, g.count):
            raise InputError(
                f"--processes {config.processes}, but {g.count} started together; mlip train --processes "
                f"{config.processes} starts them, or torchrun"
            )
        return _train(config, console if console is not None and g.is_first else report.quiet_console(), g)


def _train(config: TrainingConfig, console: Console, group: Group) -> TrainingResult:
    continued = config.restart_latest and config.file("_checkpoint.pt").exists()
    with Logs(config, continued, written=group.is_first) as logs:
        result = _run(config, logs, console, group)
        logs.summary = {"best_epoch": result.best_epoch, "errors": result.errors}
    return result


def _run(config: TrainingConfig, logs: Logs, console: Console, group: Group) -> TrainingResult:
    started = time.monotonic()
    with group.agreed():
        Path(config.work_dir).mkdir(parents=True, exist_ok=True)
        _keep_earlier_run(config)
        task = task_of(config, partial(work_shown, console))
    for part in task.introduction():
        console.print(part)
    module = task.module()
    module.group = group
    with group.agreed():
        _start(config, task.data, module, console)
    _check_same(config, task.data, module)
    logs.start(module.history, module.validation_errors)
    start_up = time.monotonic() - started
    timing = _fit(config, task.data, module, logs, console)
    timing.start_up, timing.total = start_up, module.elapsed
    if not module.best.weights:
        raise MLIPError(f"no validation in {module.elapsed:.0f} s; allow more --max_time or a smaller --eval_interval")
    task.model.to(device_of(config))
    if group.is_first:
        _save_first_stage(task, module)
    load_weights(task.model, module.best.weights)
    task.model.requires_grad_(False)
    task = replace(task, model=as_users_get_it(task.model))
    result = _finish(task, module, timing, console) if group.is_first else None
    return _same_result(result, task, group)


def _check_same(config: TrainingConfig, data: RunData, module: TrainingModule) -> None:
    """Raise if several processes do not begin the same run at the same place."""
    start = (module.first_epoch, module.first_losses, digest(module.potential))
    files = {f"content of --{option}": sha for option, sha in data.sha256.items()}
    versions = {"version of mlip": mlip.__version__, "version of torch": torch.__version__}
    module.group.check_same(
        {
            "command": config.command(),
            "device": device_of(config),
            **versions,
            **files,
            "start (checkpoint, weights)": start,
        }
    )


def _same_result(result: TrainingResult | None, task: Task, group: Group) -> TrainingResult:
    """What the first process found, in all of them."""
    if result is not None and group.is_alone:
        return result
    names = [field.name for field in fields(TrainingResult) if field.name != "potential"]
    found = group.from_first({name: getattr(result, name) for name in names} if result is not None else {})
    task.model.metadata = group.from_first(task.model.metadata)
    return TrainingResult(potential=task.model, **found)


def _keep_earlier_run(config: TrainingConfig) -> None:
    """Refuse to begin afresh over the checkpoint of an earlier run."""
    checkpoint = config.file("_checkpoint.pt")
    if checkpoint.exists() and not (config.restart_latest or config.overwrite):
        raise InputError(
            f"{checkpoint} is of an earlier run; continue it with --restart_latest, replace it with --overwrite, "
            "or take another --name or --work_dir"
        )


def _start(config: TrainingConfig, data: RunData, module: TrainingModule, console: Console) -> None:
    """Begin afresh, or continue from the latest checkpoint."""
    checkpoint = config.file("_checkpoint.pt")
    if module.group.is_first:
        remove_leftovers(checkpoint)
    if config.restart_latest and checkpoint.exists():
        module.load_run_state(load_checkpoint(checkpoint, config.as_dict(), data.sha256))
        step = f", step {len(module.first_losses)} of the next" if module.first_losses else ""
        console.print(f"continuing after epoch {module.first_epoch}{step} from {checkpoint}")
    elif config.restart_latest:
        console.print(f"no checkpoint {checkpoint} to continue from; starting afresh")
    elif config.overwrite and module.group.is_first:
        _remove_earlier_run(config)


def _remove_earlier_run(config: TrainingConfig) -> None:
    """What could be taken for this run's: checkpoints, for a restart, and a second stage, which this may not have."""
    earlier = re.compile(re.escape(config.name) + r"_(checkpoint\.pt|epoch-\d+\.pt|stagetwo\.safetensors)")
    for file in Path(config.work_dir).iterdir():
        if earlier.fullmatch(file.name):
            file.unlink(missing_ok=True)


def _fit(config: TrainingConfig, data: RunData, module: TrainingModule, logs: Logs, console: Console) -> Timing:
    checkpoint = config.file("_checkpoint.pt")
    identity = {"config": config.as_dict(), "data": data.sha256}

    def save() -> None:
        if not module.group.is_first:
            return
        state = {**identity, **module.run_state()}
        save_checkpoint(state, checkpoint)
        is_best = config.keep_checkpoints and module.best.epoch == module.epoch
        if module.epoch_is_complete and (config.save_all_checkpoints or is_best):
            save_checkpoint(state, config.file(f"_epoch-{module.epoch}.pt"))

    start = (module.first_epoch, len(module.first_losses))
    share = module.group.share
    loader = training_loader(data.trained, data.plan, config.seed, *start, config.num_workers, share)
    validation = validation_loader(data.sets["valid"].samples, config.valid_batch_size, share)
    progress = Progress(module, console, logs, save)
    started = time.monotonic()
    try:
        fit(module, loader, validation, progress, device_of(config))
    except KeyboardInterrupt:
        console.print(
            f"interrupted; {checkpoint} holds the run up to {progress.saved}. "
            "The same command with --restart_latest continues it"
            if progress.saved
            else "interrupted before the first checkpoint; nothing to continue from"
        )
        raise
    progress.timing.fit = time.monotonic() - started
    return progress.timing


def _save_first_stage(task: Task, module: TrainingModule) -> None:
    """Of a run in two stages, the best potential of the first one: NAME.safetensors, as in mace."""
    first = module.stage_two.first
    if first.weights:
        load_weights(module.potential, first.weights)
        model = as_users_get_it(task.model)
        model.metadata = _provenance(task, module, {}) | {"best_epoch": first.epoch, "stage": 1}
        model.save(task.config.file(".safetensors"))


def _finish(task: Task, module: TrainingModule, timing: Timing, console: Console) -> TrainingResult:
    """Final errors, model with provenance, plots, report."""
    config, model = task.config, task.model
    path = config.file(f"{'_stagetwo' * module.stage_two.is_on}.safetensors")
    started = time.monotonic()
    pairs = task.predictions()
    errors, groups = task.errors(pairs)
    forgetting = task.forgetting()
    timing.final_errors = time.monotonic() - started
    model.metadata = _provenance(task, module, errors)
    if forgetting is not None:
        model.metadata["forgetting"] = forgetting.as_dict()
    model.save(path)
    console.print(task.error_table(errors, groups))
    if forgetting is not None:
        console.print(forgetting_table(forgetting, config.error_table))
    if config.plot:
        plot_learning_curve(module.history, module.validation_errors, config.file("_learning_curve.png"))
        task.plot_parity(pairs, config.file("_parity.png"))
    epochs = max((r["epoch"] for r in module.history), default=0)
    best, began = module.best.epoch, module.stage_two.began
    outcome = Outcome(pairs, errors, groups, module.history, best, timing, began, forgetting)
    written = task.write_report(outcome, config.file("_report.html"))
    console.print(
        f"{path}: weights of epoch {best} of {epochs}, {timing.total:.0f} s of training, "
        f"{timing.final_errors:.0f} s for the final errors\n{written}: the report"
    )
    history = module.history
    return TrainingResult(model, path, best, epochs, timing.total, errors, history, groups, written, forgetting)


def _provenance(task: Task, module: TrainingModule, errors: Errors) -> dict[str, Any]:
    """What a reader of the weights needs to know, or to train it again."""
    return run_provenance(task.config, task.data) | {
        **task.provenance(),
        "errors": errors,
        "best_epoch": module.best.epoch,
        "training_seconds": round(module.elapsed, 1),
    }


def run_provenance(config: TrainingConfig, data: RunData) -> dict[str, Any]:
    """Command, options, data and versions of a run; file names without folders."""
    options = config.portable()
    return {
        "command": config.command(),
        "config": options,
        "data": {option: {"file": options[option], "sha256": sha} for option, sha in data.sha256.items()},
        "sets": {name: len(part) for name, part in data.sets.items()},
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "mlip_version": mlip.__version__,
        "torch_version": torch.__version__,
    }
