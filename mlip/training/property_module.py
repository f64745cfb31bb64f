"""Training of a property model: its answers, its loss and what its validation finds; all else is as for energies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlip.data.batches import LabelledBatch
from mlip.properties import Property
from mlip.property_model import PropertyModel, PropertyPrediction
from mlip.training.config import TrainingConfig
from mlip.training.module import TrainingModule
from mlip.training.sums import Fraction, fraction, total
from mlip.training.validation import Means


class PropertyModule(TrainingModule):
    """The loss is the mean size of the errors, of vectors their length, in units of the labels' spread.

    Args:
        model: to be trained.
        config: of the run.
        spread: of the training labels in the property's unit, so that losses are about 1 at the start.
        steps_per_epoch: batches in an epoch.
    """

    def __init__(self, model: PropertyModel, config: TrainingConfig, spread: float, steps_per_epoch: int) -> None:
        super().__init__(model, config, frozenset(), steps_per_epoch)
        self.loss = PropertyLoss(spread)
        key, learned = f"valid_{model.learned.name}", model.learned
        self.validation_errors = tuple(
            (f"{key}_{measure}", f"{learned.name} {measure.upper()}", learned.unit, 1.0) for measure in ("mae", "rmse")
        )

    def answer(self, batch: LabelledBatch, training: bool = False) -> PropertyPrediction:
        prediction = self.potential(batch.graph, charge=batch.labels.charge, training=training)
        assert isinstance(prediction, PropertyPrediction)
        return prediction

    def _new_sums(self) -> PropertySums:
        assert isinstance(self.potential, PropertyModel)
        return PropertySums(self.potential.learned)


@dataclass(frozen=True)
class PropertyLoss:
    """Mean size of the errors, of vectors their length, in units of `spread`."""

    spread: float

    def __call__(self, batch: LabelledBatch, prediction: PropertyPrediction) -> Tensor:
        """The loss, a float64 scalar."""
        return self.of(self.parts(batch, prediction))

    def of(self, parts: Mapping[str, Fraction]) -> Tensor:
        """The loss made of its part."""
        return parts["value"].mean / self.spread

    def parts(self, batch: LabelledBatch, prediction: PropertyPrediction) -> dict[str, Fraction]:
        """As `mlip.training.loss.Loss.parts`."""
        sizes = torch.linalg.vector_norm(prediction.value - batch.labels.value, dim=1)
        return {"value": fraction(batch.labels.value_weight * sizes)}


class PropertySums(Means):
    """Loss and errors of a property."""

    def __init__(self, learned: Property) -> None:
        super().__init__()
        self.learned = learned

    def add(self, batch: LabelledBatch, loss: Tensor, prediction: Any) -> None:
        graphs, error = batch.graph.n_graphs, prediction.value - batch.labels.value
        self._add("loss", loss * graphs, graphs)
        self._add("mae", total(error.abs()), error.numel())
        self._add("mse", total(error.square()), error.numel())

    def result(self) -> dict[str, float]:
        """`valid_loss`, and errors over all components in the property's unit."""
        means = self.means()
        name = self.learned.name
        return {
            "valid_loss": means["loss"],
            f"valid_{name}_mae": means["mae"],
            f"valid_{name}_rmse": means["mse"] ** 0.5,
        }
