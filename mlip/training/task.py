"""What a run learns: energies with their derivatives, or another property. The rest of a run does not know which."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import RenderableType

from mlip.potential import Potential
from mlip.property_model import PropertyModel
from mlip.training.architectures import Shown
from mlip.training.config import TrainingConfig
from mlip.training.data import RunData
from mlip.training.display import work_unseen
from mlip.training.forgetting import Forgetting
from mlip.training.module import TrainingModule
from mlip.training.report_numbers import Outcome

#: By set: structures with predictions; errors; errors by config_type.
Pairs: TypeAlias = dict[str, list[tuple[Any, Any]]]
Errors: TypeAlias = dict[str, dict[str, float | int | None]]
Groups: TypeAlias = dict[str, Errors]


@dataclass(frozen=True)
class Task(ABC):
    """Data and untrained model of a run, and how both are shown and judged."""

    config: TrainingConfig
    data: RunData
    model: Potential | PropertyModel

    @abstractmethod
    def introduction(self) -> list[RenderableType]:
        """Tables and lines about data and model."""

    @abstractmethod
    def module(self) -> TrainingModule:
        """The training of the model."""

    @abstractmethod
    def predictions(self) -> Pairs:
        """All structures with what the model says of them."""

    @abstractmethod
    def errors(self, pairs: Pairs) -> tuple[Errors, Groups]:
        """By set, and by set and `config_type`."""

    @abstractmethod
    def error_table(self, errors: Errors, groups: Groups) -> RenderableType:
        """For the console."""

    @abstractmethod
    def plot_parity(self, pairs: Pairs, path: Path) -> None:
        """Predicted against reference values."""

    @abstractmethod
    def write_report(self, outcome: Outcome, path: Path) -> Path:
        """The page about the run; returns its path."""

    def forgetting(self) -> Forgetting | None:
        """What fine-tuning has forgotten, where that is measured; of the model as users get it."""
        return None

    @abstractmethod
    def provenance(self) -> Mapping[str, Any]:
        """What the weights file says of this task's data, beside what it says of all."""


def task_of(config: TrainingConfig, shown: Shown = work_unseen) -> Task:
    """The task of a run: reads the data, builds the model.

    Args:
        config: of the run.
        shown: how work that takes long is shown, not at all by default.

    Raises:
        DataError, InputError, UnknownElementError: the data or options can't be used.
    """
    if config.target is not None:
        from mlip.training.property_task import PropertyTask

        return PropertyTask.of(config, shown)
    from mlip.training.energy_task import EnergyTask

    return EnergyTask.of(config, shown)
