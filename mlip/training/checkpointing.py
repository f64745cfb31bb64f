"""Checkpoints that survive a kill at any instant: written beside, flushed, then renamed."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import torch

from mlip.checkpoint import write_atomically
from mlip.errors import InputError, ModelFileError
from mlip.training.config import TrainingConfig
from mlip.training.run_command import is_file_option

VERSION = 2
#: Options that may differ between a run and its continuation.
FREE_OPTIONS = frozenset(
    {"max_num_epochs", "max_time", "patience", "restart_latest", "overwrite", "plot", "device", "work_dir"}
    | {"keep_checkpoints", "save_all_checkpoints", "dry_run", "num_workers", "processes"}
    | {"error_table", "tensorboard", "wandb", "wandb_project", "wandb_entity", "wandb_name"}
)


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state` (tensors, numbers, strings and containers of them) atomically."""
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def remove_leftovers(path: Path) -> None:
    """Delete what kills during the writing of this checkpoint, or of other files of its run, left beside it."""
    run = re.escape(path.name.removesuffix("_checkpoint.pt"))
    files = r"(_checkpoint|_epoch-\d+)\.pt|(_stagetwo)?\.safetensors|_report\.html|_log\.(csv|jsonl)|_\w+\.png"
    leftover = re.compile(rf"\.{run}({files})\.[0-9a-f]{{16}}")
    for file in path.parent.iterdir():
        if leftover.fullmatch(file.name):
            file.unlink(missing_ok=True)


def load_checkpoint(path: Path, config: dict[str, Any], data: dict[str, str]) -> dict[str, Any]:
    """Read a checkpoint for continuing a run.

    Args:
        path: the file.
        config: options of the run; all but a few must be those of the checkpoint.
        data: SHA-256 of the data files by option; those that train and validate must be those of the checkpoint.

    Raises:
        ModelFileError: not a checkpoint of ours, damaged, or of a newer version.
        InputError: options or data differ.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        version, read = int(state["version"]), dict(state.get("data", {}))
    except OSError:
        raise
    except Exception as error:  # torch raises many types on a file that is not its own
        raise ModelFileError(f"{path} is not a training checkpoint or is damaged: {type(error).__name__}") from error
    if version > VERSION:
        raise ModelFileError(f"{path} has checkpoint version {version}, this mlip reads up to {VERSION}; update mlip")
    if version == 1:
        state = _from_version_1(state)
    trained = dict(state.get("config", {}))
    trained = _defaults(trained.get("model", "MACE")) | trained  # options that came later were at their defaults
    changed = [
        f"--{name} {trained.get(name)} -> {value}"
        for name, value in config.items()
        if name not in FREE_OPTIONS and not is_file_option(name) and trained.get(name) != value
    ]
    trained_on = ("train_file", "valid_file", "E0s", "symmetry_functions", "foundation_model", "pt_train_file")
    changed += [f"content of --{name}" for name in trained_on if read.get(name) != data.get(name)]
    if changed:
        raise InputError(
            f"{path} belongs to a different run ({'; '.join(changed)}); use the same options, another --name, or "
            "leave out --restart_latest"
        )
    return dict(state)


def _from_version_1(state: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had no second stage and fewer options; its "weighted" loss had stresses where there were any."""
    config = dict(state.get("config", {}))
    if config.get("loss") == "weighted" and any("valid_stress_rmse" in record for record in state.get("history", [])):
        config["loss"] = "stress"
    if config.get("hidden_irreps"):
        config |= {"num_channels": None, "max_L": None}
    nothing = {"loss": float("inf"), "epoch": 0, "weights": {}}
    stage_two = {"began": None, "average": {"steps": 0, "average": []}, "first": nothing}
    return {**state, "config": config, "stage_two": stage_two}


def _defaults(model: Any) -> dict[str, Any]:
    return TrainingConfig(train_file="-", model=model).as_dict()
