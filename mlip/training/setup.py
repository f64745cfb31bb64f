"""From a configuration and the data to the untrained potential."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from mlip.checkpoint import DTYPES
from mlip.data.statistics import Statistics
from mlip.errors import DataError, InputError
from mlip.models.mace import MACE
from mlip.models.mace_layer import INTERACTIONS
from mlip.potential import Potential
from mlip.training.config import TrainingConfig
from mlip.training.data import TrainingData

#: mace's names of the kinds of layers -> ours.
KINDS = {name: kind for kind, name in INTERACTIONS.items()}


def device_of(config: TrainingConfig) -> str:
    """ "cpu" or "cuda".

    Raises:
        InputError: a GPU is wanted and there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no CUDA device; use --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device


def build_potential(config: TrainingConfig, data: TrainingData) -> Potential:
    """The untrained potential, its weights drawn with the seed."""
    stats = data.statistics
    scale, shift = scale_and_shift(config, stats)
    torch.manual_seed(config.seed)
    model = mace(config, tuple(data.reference.E0s), stats.avg_num_neighbors)
    potential = Potential(model, E0s=data.reference.E0s, scale=scale, shift=shift)
    return potential.to(DTYPES[config.default_dtype])


def mace(config: TrainingConfig, elements: Sequence[int], avg_num_neighbors: float) -> MACE:
    """The network of `--model MACE` or `ScaleShiftMACE`."""
    return MACE(
        elements=elements,
        cutoff=config.r_max,
        hidden_irreps=config.feature_irreps(),
        l_max=config.max_ell,
        correlation=config.correlation,
        num_interactions=config.num_interactions or 2,
        num_bessel=config.num_radial_basis,
        num_polynomial_cutoff=config.num_cutoff_basis,
        radial_mlp=config.radial_widths(),
        avg_num_neighbors=config.avg_num_neighbors or max(avg_num_neighbors, 1.0),
        mlp_irreps=config.MLP_irreps,
        interaction=KINDS[config.interaction],
        interaction_first=KINDS[config.first_interaction()],
        radial_basis=config.radial_type,
        distance_transform=None if config.distance_transform == "None" else config.distance_transform,
        pair_repulsion=config.pair_repulsion,
        gate=config.gate,
    )


def scale_and_shift(config: TrainingConfig, stats: Statistics) -> tuple[float, float]:
    """Scale and shift in eV, as `mace_run_train` chooses them; `MACE` has no shift."""
    choices = {
        "rms_forces_scaling": stats.forces_rms,
        "std_scaling": stats.interaction_std,
        "no_scaling": 1.0,
    }
    scale = choices[config.scaling]
    if not (math.isfinite(scale) and scale > 0):
        what = "forces" if config.scaling == "rms_forces_scaling" else "energies that differ"
        raise DataError(f"--scaling {config.scaling} needs {what} in the training set; use another --scaling")
    shifted = config.model == "ScaleShiftMACE" and config.scaling != "no_scaling"
    return scale, stats.interaction_mean if shifted else 0.0
