"""Loss and errors over a validation set, and the best of them so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from mlip.data.batches import LabelledBatch
from mlip.training.sums import total


@dataclass
class Best:
    """The best validation so far and the weights it was reached with."""

    loss: float = float("inf")
    epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {"loss": self.loss, "epoch": self.epoch, "weights": self.weights}


class Sums(Protocol):
    """What a validation adds up over its batches."""

    def add(self, batch: LabelledBatch, loss: Tensor, prediction: Any) -> None:
        """A batch, its loss and what the model says of it."""

    def result(self) -> dict[str, float]:
        """`valid_loss`, and errors by name."""
        ...

    def numbers(self) -> dict[str, list[float]]:
        """What was added up, as plain data."""
        ...

    def take(self, shares: Sequence[dict[str, list[float]]]) -> None:
        """The numbers of several processes in place of its own."""


class Means:
    """Means over a validation set; on the device, in float64, one transfer at the end."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def _add(self, name: str, sum_: Tensor, count: Tensor | float) -> None:
        pair = torch.stack([sum_.detach(), torch.as_tensor(count, dtype=torch.float64, device=sum_.device)])
        self.sums[name] = self.sums[name] + pair if name in self.sums else pair

    def numbers(self) -> dict[str, list[float]]:
        """Sum and count by name, as plain data."""
        return {name: pair.tolist() for name, pair in self.sums.items()}

    def take(self, shares: Sequence[dict[str, list[float]]]) -> None:
        """The numbers of several processes, in their order, in place of its own."""
        self.sums = {}
        for share in shares:
            for name, (sum_, count) in share.items():
                self._add(name, torch.tensor(sum_, dtype=torch.float64), count)

    def means(self) -> dict[str, float]:
        """By name, where anything was added."""
        return {name: float(pair[0] / pair[1]) for name, pair in self.sums.items() if pair[1] > 0}


class ValidationSums(Means):
    """Loss and squared errors of energies, forces and stresses."""

    def add(self, batch: LabelledBatch, loss: Tensor, prediction: Any) -> None:
        graph, labels = batch
        self._add("loss", loss * graph.n_graphs, graph.n_graphs)
        known = labels.energy_weight > 0
        error = (prediction.energy.double() - labels.energy) / graph.n_atoms
        self._add("energy", total(error[known].square()), known.sum())
        if prediction.forces is not None:
            known = (labels.forces_weight > 0)[graph.batch]
            error = (prediction.forces - labels.forces)[known].double()
            self._add("forces", total(error.square()), 3 * known.sum())
        if prediction.stress is not None:
            known = labels.stress_weight > 0
            error = (prediction.stress - labels.stress)[known].double()
            self._add("stress", total(error.square()), 9 * known.sum())

    def result(self) -> dict[str, float]:
        """`valid_loss`, and root mean squared errors in eV/atom, eV/Å, eV/Å³ of what is labelled."""
        means = self.means()
        return {"valid_loss": means.pop("loss")} | {f"valid_{name}_rmse": mean**0.5 for name, mean in means.items()}
