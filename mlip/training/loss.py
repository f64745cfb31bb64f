"""Losses over energies per atom, forces, stresses and virials; missing labels have weight zero.

The terms and what they measure are those of mace-torch's losses of the same names. What differs: every structure's
weight multiplies its errors in every loss (mace's `huber` knows no weights, so that missing labels train towards zero
there, its `universal` puts the weight inside Huber's function), and all sums are float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mlip.data.batches import LabelledBatch
from mlip.derivatives import volumes
from mlip.potential import Prediction
from mlip.training.config import TrainingConfig
from mlip.training.option_checks import LOSS_TERMS
from mlip.training.sums import Fraction, fraction

#: Lengths of a force (eV/Å) from which `universal` turns linear earlier, and the factors of huber_delta below, between
#: and above them.
LARGE_FORCES = (100.0, 200.0, 300.0)
FACTORS = (1.0, 0.7, 0.4, 0.1)

#: Penalties of errors, given the labels that they are errors of.
Penalty = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Penalties:
    """How errors count: of each entry, of forces (N, 3), and what is made of the mean."""

    entry: Penalty
    forces: Penalty
    finish: Callable[[Tensor], Tensor]


def squared(error: Tensor, label: Tensor) -> Tensor:
    """Squared error, elementwise."""
    return error.square()


def absolute(error: Tensor, label: Tensor) -> Tensor:
    """Size of the error, elementwise."""
    return error.abs()


def length(error: Tensor, label: Tensor) -> Tensor:
    """Lengths (N, 1) of error vectors (N, 3)."""
    return torch.linalg.vector_norm(error, dim=-1, keepdim=True)


def huber(error: Tensor, label: Tensor, delta: float | Tensor) -> Tensor:
    """Huber's function: quadratic up to `delta`, then linear (Huber 1964), normalized as in torch."""
    size = error.abs()
    return torch.where(size <= delta, 0.5 * size.square(), delta * (size - 0.5 * delta))


def conditional_huber(error: Tensor, label: Tensor, delta: float) -> Tensor:
    """Huber's function with a smaller `delta` for atoms whose labelled force is large."""
    bounds = torch.tensor(LARGE_FORCES, dtype=label.dtype, device=label.device)
    factors = torch.tensor(FACTORS, dtype=label.dtype, device=label.device)
    factor = factors[torch.bucketize(label.norm(dim=-1, keepdim=True), bounds, right=True)]
    return huber(error, label, delta * factor)


def _same(x: Tensor) -> Tensor:
    return x


def _root(x: Tensor) -> Tensor:
    """Square root; without slope where there is no error at all."""
    return x.clamp(min=1e-30).sqrt()


def penalties(loss: str, delta: float) -> Penalties:
    """Of a loss by its name; `delta` is that of the Huber functions."""
    linear_far_out = partial(huber, delta=delta)
    others = {
        "huber": Penalties(linear_far_out, linear_far_out, _same),
        "universal": Penalties(linear_far_out, partial(conditional_huber, delta=delta), _same),
        "l1l2": Penalties(absolute, length, _same),
        "rmse": Penalties(squared, squared, _root),
    }
    return others.get(loss, Penalties(squared, squared, _same))


@dataclass(frozen=True)
class Loss:
    """Weighted sum of the mean penalties of energy per atom, force components, stress or virial components.

    The means run over all entries of the batch, labelled or not, as in MACE's losses: a structure without forces
    takes nothing from the weight of the others' energies.
    """

    penalties: Penalties
    weights: Mapping[str, float]  # by term, those that are not zero

    def __call__(self, batch: LabelledBatch, prediction: Prediction) -> Tensor:
        """The loss, a float64 scalar."""
        return self.of(self.parts(batch, prediction))

    def of(self, parts: Mapping[str, Fraction]) -> Tensor:
        """The loss made of its parts."""
        loss = torch.zeros((), dtype=torch.float64)
        for name, part in parts.items():
            loss = loss.to(part.sum.device) + self.weights[name] * self.penalties.finish(part.mean)
        return loss

    def parts(self, batch: LabelledBatch, prediction: Prediction) -> dict[str, Fraction]:
        """The sums of penalties, and of how many, by term; those of a batch are the sums of those of its parts."""
        graph, labels = batch
        parts = {}
        if "energy" in self.weights:
            error = (prediction.energy - labels.energy) / graph.n_atoms
            parts["energy"] = fraction(labels.energy_weight * self.penalties.entry(error, labels.energy))
        if "forces" in self.weights and prediction.forces is not None:
            weight = labels.forces_weight[graph.batch].unsqueeze(1)
            error = prediction.forces - labels.forces
            parts["forces"] = fraction(weight * self.penalties.forces(error, labels.forces))
        if prediction.stress is None:
            return parts
        error, weight = prediction.stress - labels.stress, labels.stress_weight.view(-1, 1, 1)
        if "stress" in self.weights:
            parts["stress"] = fraction(weight * self.penalties.entry(error, labels.stress))
        if "virials" in self.weights:
            # The virial is -V times the stress.
            volume_per_atom = volumes(graph) / graph.n_atoms
            error = volume_per_atom.view(-1, 1, 1) * error
            parts["virials"] = fraction(weight * self.penalties.entry(error, labels.stress))
        return parts


def make_loss(config: TrainingConfig, stage_two: bool = False) -> Loss:
    """The loss of a run, or of its second stage."""
    stage = "swa_" if stage_two else ""
    weights = {term: getattr(config, f"{stage}{term}_weight") for term in LOSS_TERMS[config.loss]}
    return Loss(penalties(config.loss, config.huber_delta), {term: w for term, w in weights.items() if w})


def trained_properties(config: TrainingConfig) -> frozenset[str]:
    """Which labels the loss is about, in any stage; virials are compared as stresses."""
    stages = [make_loss(config)] + [make_loss(config, stage_two=True)] * config.swa
    return frozenset("stress" if term == "virials" else term for loss in stages for term in loss.weights)
