"""Averages of the weights: exponential over all steps, equal over the epochs of a second stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """An average of a module's trainable weights that can change places with them."""

    def __init__(self, module: nn.Module) -> None:
        self.parameters: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
        self.average: list[Tensor] = []
        self.steps = 0  # updates so far

    def swap(self) -> None:
        """Exchange the weights and their average; nothing is copied."""
        for index, average in enumerate(self.average):
            weight = self.parameters[index]
            weight.data, self.average[index] = average, weight.data

    def to(self, device: torch.device) -> None:
        self.average = [a.to(device) for a in self.average]

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "average": [a.cpu() for a in self.average]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = int(state["steps"])
        self.average = [a.clone() for a in state["average"]]


class WeightAverage(Average):
    """Exponential average, decay min(decay, (1 + n) / (10 + n)) at step n as in torch_ema.

    With `decay` None the average is the weights themselves and costs nothing.
    """

    def __init__(self, module: nn.Module, decay: float | None) -> None:
        super().__init__(module)
        self.decay = decay
        self.average = [p.detach().clone() for p in self.parameters] if decay else []

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after a step into the average."""
        if self.decay is None:
            return
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.average, self.parameters, 1 - decay)


class EqualAverage(Average):
    """Mean of all weights given to `update` (stochastic weight averaging, Izmailov et al., UAI 2018)."""

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights into the average."""
        self.steps += 1
        if self.steps == 1:
            self.average = [p.detach().clone() for p in self.parameters]
        else:
            torch._foreach_lerp_(self.average, self.parameters, 1 / self.steps)


def cpu_copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, independent of the originals."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
