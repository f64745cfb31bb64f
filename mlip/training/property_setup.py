"""From a configuration and the data to the untrained property model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mlip.checkpoint import DTYPES
from mlip.models import DimeNet, DimeNetPlusPlus, EnergyModel
from mlip.property_model import PropertyModel
from mlip.training.config import TrainingConfig
from mlip.training.property_data import PropertyRunData
from mlip.training.setup import mace

DIRECTIONAL: dict[str, type[DimeNet | DimeNetPlusPlus]] = {"DimeNet": DimeNet, "DimeNet++": DimeNetPlusPlus}


def build_property_model(config: TrainingConfig, data: PropertyRunData) -> PropertyModel:
    """The untrained model, its weights drawn with the seed."""
    torch.manual_seed(config.seed)
    network = _network(config, tuple(data.standard.shifts), data)
    model = PropertyModel(network, data.learned, data.standard.shifts, data.standard.scale)
    return model.to(DTYPES[config.default_dtype])


def _network(config: TrainingConfig, elements: Sequence[int], data: PropertyRunData) -> EnergyModel:
    """The backbone; for dipoles with vectors, where the architecture has them.

    DimeNet++ keeps the published proportions: half the channels in its sums over triplets, twice as many in outputs.
    """
    if config.model not in DIRECTIONAL:
        return mace(config, elements, data.avg_num_neighbors)
    options: dict[str, Any] = {"num_blocks": config.num_interactions, "vectors": data.learned.is_dipole}
    if config.num_channels is not None:
        options["hidden_channels"] = config.num_channels
        if config.model == "DimeNet++":
            options |= {"int_emb_size": max(config.num_channels // 2, 1), "out_emb_channels": 2 * config.num_channels}
    return DIRECTIONAL[config.model](elements, config.r_max, **options)
