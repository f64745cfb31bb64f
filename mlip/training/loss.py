"""Losses over energies per atom, forces and stresses; missing labels have weight zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mlip.data.batches import LabelledBatch
from mlip.potential import Prediction


def squared(error: Tensor) -> Tensor:
    """Squared error, elementwise."""
    return error.square()


def huber(error: Tensor, delta: float) -> Tensor:
    """Huber's function: quadratic up to `delta`, then linear (Huber 1964), normalized as in torch."""
    return torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta)


PENALTIES: dict[str, Callable[[float], Callable[[Tensor], Tensor]]] = {
    "weighted": lambda delta: squared,
    "huber": lambda delta: partial(huber, delta=delta),
}


@dataclass(frozen=True)
class Loss:
    """Weighted sum of the mean penalties of energy per atom, force components and stress components.

    The means run over all entries of the batch, labelled or not, as in MACE's weighted loss: a structure without
    forces takes nothing from the weight of the others' energies.
    """

    penalty: Callable[[Tensor], Tensor]
    energy_weight: float
    forces_weight: float
    stress_weight: float

    def __call__(self, batch: LabelledBatch, prediction: Prediction) -> Tensor:
        """The loss, a float64 scalar."""
        graph, labels = batch
        per_atom = (prediction.energy - labels.energy) / graph.n_atoms
        loss = self.energy_weight * (labels.energy_weight * self.penalty(per_atom)).mean()
        if prediction.forces is not None:
            penalty = self.penalty(prediction.forces - labels.forces)
            loss = loss + self.forces_weight * (labels.forces_weight[graph.batch].unsqueeze(1) * penalty).mean()
        if prediction.stress is not None:
            penalty = self.penalty(prediction.stress - labels.stress)
            loss = loss + self.stress_weight * (labels.stress_weight.view(-1, 1, 1) * penalty).mean()
        return loss
