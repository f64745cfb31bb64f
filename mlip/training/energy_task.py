"""A potential is trained: energies, forces, stresses."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from mlip.data.batches import batches
from mlip.data.metrics import errors_by_group, errors_of
from mlip.data.predict import predict
from mlip.potential import Potential
from mlip.training import report
from mlip.training.architectures import Shown
from mlip.training.config import TrainingConfig
from mlip.training.data import TrainingData, load_data
from mlip.training.error_tables import default_table, error_table
from mlip.training.forgetting import Forgetting, measure
from mlip.training.foundation import REPLAY_HEAD, Foundation, load_foundation
from mlip.training.module import TrainingModule
from mlip.training.plots import plot_parity
from mlip.training.report_html import write_report
from mlip.training.report_numbers import Outcome
from mlip.training.setup import build_potential, device_of
from mlip.training.task import Errors, Groups, Pairs, Task


@dataclass(frozen=True)
class EnergyTask(Task):
    """Data with energies, forces and stresses, and the potential that learns them."""

    data: TrainingData
    model: Potential
    foundation: Foundation | None = None  # the model that is fine-tuned

    @classmethod
    def of(cls, config: TrainingConfig, shown: Shown) -> EnergyTask:
        """Reads the data, builds the potential."""
        with shown("foundation model") if config.foundation_model else nullcontext():
            foundation = load_foundation(config)
        data = load_data(config, foundation, shown)
        model = build_potential(config, data, shown, foundation).to(device_of(config))
        return cls(config, data, model, foundation)

    def introduction(self) -> list[RenderableType]:
        return [report.data_table(self.data), *report.describe(self.config, self.data, self.model)]

    def module(self) -> TrainingModule:
        return TrainingModule.of_run(self.config, self.data, self.model)

    def predictions(self) -> Pairs:
        """With stresses wherever there are labels, trained or not."""
        pairs = {}
        for name, part in self.data.sets.items():
            whole = batches(part.samples, self.config.valid_batch_size)
            model = self.model.with_head(REPLAY_HEAD) if name == "replay" else self.model
            pairs[name] = list(zip(part.structures, predict(model, whole, part.count("stress") > 0), strict=True))
        return pairs

    def errors(self, pairs: Pairs) -> tuple[Errors, Groups]:
        errors, groups = {}, {}
        for name, part in pairs.items():
            structures, predicted = [s for s, _ in part], [p for _, p in part]
            errors[name] = errors_of(structures, predicted).as_dict()
            by_group = errors_by_group(structures, predicted)
            groups[name] = {group: values.as_dict() for group, values in by_group.items()}
        return errors, groups

    def error_table(self, errors: Errors, groups: Groups) -> RenderableType:
        return error_table(self.config.error_table or default_table(errors), errors, groups)

    def plot_parity(self, pairs: Pairs, path: Path) -> None:
        plot_parity(pairs, path)

    def write_report(self, outcome: Outcome, path: Path) -> Path:
        return write_report(self.config, self.data, self.model, outcome, path)

    def provenance(self) -> Mapping[str, Any]:
        found: dict[str, Any] = {"E0s_origin": self.data.reference.origin}
        return found if self.foundation is None else found | {"foundation": self.foundation.provenance()}

    def forgetting(self) -> Forgetting | None:
        if self.foundation is None or self.data.held_out is None:
            return None
        return measure(self.config, self.data.held_out, self.foundation, self.model)
