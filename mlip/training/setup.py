"""From a configuration and the data to the untrained potential."""

from __future__ import annotations

import math

import torch

from mlip.checkpoint import DTYPES
from mlip.data.statistics import Statistics
from mlip.errors import DataError, InputError
from mlip.potential import Potential
from mlip.training.architectures import Blueprint, Shown, build_model
from mlip.training.config import TrainingConfig
from mlip.training.data import TrainingData
from mlip.training.display import work_unseen
from mlip.training.foundation import Foundation, start_of_fine_tuning


def device_of(config: TrainingConfig) -> str:
    """ "cpu" or "cuda".

    Raises:
        InputError: a GPU is wanted and there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no CUDA device; use --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device


def build_potential(
    config: TrainingConfig, data: TrainingData, shown: Shown = work_unseen, foundation: Foundation | None = None
) -> Potential:
    """The potential before training, its weights drawn with the seed or those of a foundation model.

    Args:
        config: of the run.
        data: of the run.
        shown: how work that takes long is shown, not at all by default.
        foundation: the model that is fine-tuned, if one is.
    """
    if foundation is not None:
        return start_of_fine_tuning(config, foundation, data.reference.E0s)
    scale, shift = scale_and_shift(config, data.statistics)
    blueprint = Blueprint(tuple(data.reference.E0s), data.statistics.avg_num_neighbors, data.sets["train"].samples)
    potential = Potential(build_model(config, blueprint, shown), E0s=data.reference.E0s, scale=scale, shift=shift)
    return potential.to(DTYPES[config.default_dtype])


def scale_and_shift(config: TrainingConfig, stats: Statistics) -> tuple[float, float]:
    """Scale and shift in eV, as `mace_run_train` chooses them; `MACE` has no shift, all others have."""
    choices = {
        "rms_forces_scaling": stats.forces_rms,
        "std_scaling": stats.interaction_std,
        "no_scaling": 1.0,
    }
    scale = choices[config.scaling]
    if not (math.isfinite(scale) and scale > 0):
        what = "forces" if config.scaling == "rms_forces_scaling" else "energies that differ"
        raise DataError(f"--scaling {config.scaling} needs {what} in the training set; use another --scaling")
    shifted = config.model != "MACE" and config.scaling != "no_scaling"
    return scale, stats.interaction_mean if shifted else 0.0
