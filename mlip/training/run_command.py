"""A run in words: the options that make its potential what it is, and the command line that gives them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlip.training.fine_tuning_options import OF_ARCHITECTURE, default_rates
from mlip.training.model_options import belongs

if TYPE_CHECKING:
    from mlip.training.config import TrainingConfig

#: Options that say where and how to run, not what to train.
_LOCAL = frozenset(
    {"work_dir", "restart_latest", "plot", "error_table", "tensorboard"}
    | {"wandb", "wandb_project", "wandb_entity", "wandb_name"}
    | {"dry_run", "keep_checkpoints", "save_all_checkpoints", "num_workers", "processes"}
)


def is_file_option(name: str) -> bool:
    """Whether an option names a file to read, whose content matters and not its path."""
    return name.endswith("_file") or name in ("symmetry_functions", "foundation_model")


def portable(config: TrainingConfig) -> dict[str, Any]:
    """The options that make the potential what it is; files by name, without their folder.

    Without those that a foundation model decides.
    """
    from mlip.data.reference_energies import is_E0s_file

    decided = OF_ARCHITECTURE if config.foundation_model is not None else ()
    left_out = {*_LOCAL, *decided}
    options = {n: v for n, v in config.as_dict().items() if n not in left_out and belongs(n, config.model)}
    files = {name for name in options if is_file_option(name)} | ({"E0s"} if is_E0s_file(config.E0s) else set())
    return {name: _file_names(v) if name in files and v else v for name, v in options.items()}


def _file_names(files: str | list[str]) -> str | list[str]:
    """Without their folders."""
    return [Path(file).name for file in files] if isinstance(files, list) else Path(files).name


def command(config: TrainingConfig, only_portable: bool = True) -> str:
    """The command line of a run, with the options that are not at their defaults; paths unless `only_portable`."""
    words = ["mlip", "train"]
    defaults = type(config)(train_file="-", model=config.model).as_dict() | {"model": "MACE"} | default_rates(config)
    for name, value in (portable(config) if only_portable else config.as_dict()).items():
        if value == defaults[name] or value is None:  # None: what is left to another option
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no_{name}")
        elif isinstance(value, list) and is_file_option(name):
            words += [f"--{name}", *value]
        else:
            words += [f"--{name}", str(value)]
    return shlex.join(words)
