"""From a configuration and the data to the untrained property model."""

from __future__ import annotations

from mlip.checkpoint import DTYPES
from mlip.property_model import PropertyModel
from mlip.training.architectures import Blueprint, Shown, build_model
from mlip.training.config import TrainingConfig
from mlip.training.display import work_unseen
from mlip.training.property_data import PropertyRunData


def build_property_model(config: TrainingConfig, data: PropertyRunData, shown: Shown = work_unseen) -> PropertyModel:
    """The untrained model, its weights drawn with the seed; arguments as in `build_potential`."""
    standard = data.standard
    blueprint = Blueprint(
        tuple(standard.shifts), data.avg_num_neighbors, data.sets["train"].samples, vectors=data.learned.is_dipole
    )
    model = PropertyModel(build_model(config, blueprint, shown), data.learned, standard.shifts, standard.scale)
    return model.to(DTYPES[config.default_dtype])
