"""What fine-tuning forgets: errors on structures of before, of the foundation model and of what became of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from mlip.checkpoint import DTYPES
from mlip.data.batches import LabelledBatch, batches, make_samples
from mlip.data.labels import LabelledStructure, is_labelled, label_structures
from mlip.data.metrics import errors_of
from mlip.data.n2p2 import Units
from mlip.data.predict import predict
from mlip.data.reading import read_structures
from mlip.errors import InputError
from mlip.potential import Potential
from mlip.training.config import TrainingConfig
from mlip.training.data_set import DataSet
from mlip.training.foundation import Foundation, check_known
from mlip.training.replay import AT_ONCE, keys_of, pseudolabelled, unlabelled_structures

#: What errors are relative to: labels of the file, or what the foundation model says of structures without any.
LABELS, FOUNDATION = "labels", "foundation model"

Errors = dict[str, float | int | None]


@dataclass(frozen=True)
class HeldOut:
    """Structures on which forgetting is measured."""

    structures: list[LabelledStructure]
    samples: list[LabelledBatch]
    source: str
    relative_to: str  # LABELS or FOUNDATION


@dataclass(frozen=True)
class Forgetting:
    """Errors before and after, as `mlip.data.metrics.Errors.as_dict` has them."""

    source: str
    relative_to: str
    before: Errors
    after: dict[str, Errors]  # by head

    def as_dict(self) -> dict[str, Any]:
        return {
            "file": self.source,
            "relative_to": self.relative_to,
            "structures": self.before["n"],
            "before": self.before,
            "after": self.after,
        }

    def rows(self) -> dict[str, Errors]:
        """Rows of a table of errors, by name."""
        of_heads = len(self.after) > 1
        after = {f"after, {head}" if of_heads else "after": errors for head, errors in self.after.items()}
        return {"before": self.before} | after

    @property
    def title(self) -> str:
        against = "its labels" if self.relative_to == LABELS else "what the foundation model says"
        return f"Forgetting on {self.source}, errors against {against}"


def held_out(
    config: TrainingConfig,
    foundation: Foundation,
    replay: DataSet | None,
    kept: Collection[int],
    units: Units | None,
) -> HeldOut | None:
    """The structures of `--forgetting_file`, else the replay data, if there are any.

    Raises:
        DataError: a file that can't be read.
        InputError: elements that the foundation model does not know, or that the result will not (`kept`).
    """
    if config.forgetting_file is None:
        if replay is None:
            return None
        relative_to = FOUNDATION if config.pseudolabel_replay else LABELS
        return HeldOut(
            replay.structures, replay.samples, f"{Path(str(config.pt_train_file)).name} (replayed)", relative_to
        )
    source = config.forgetting_file
    structures = read_structures(source, units)
    labelled = is_labelled(structures, keys_of(config))
    if labelled:
        found = label_structures(structures, keys_of(config), source, strict=False).structures
    else:
        found = unlabelled_structures(source, units)
    check_known(foundation, found, source)
    for structure in found:
        lost = sorted({int(z) for z in structure.atoms.numbers} - set(kept))
        if lost:
            raise InputError(
                f"structure {structure.index} of {source} holds {', '.join(chemical_symbols[z] for z in lost)}, which "
                "the result will not know: no structure that trains holds it. Add --foundation_model_elements to keep "
                "all elements"
            )
    samples = make_samples(found, foundation.potential.cutoff, source)
    return HeldOut(found, samples, Path(source).name, LABELS if labelled else FOUNDATION)


def measure(config: TrainingConfig, held: HeldOut, foundation: Foundation, result: Potential) -> Forgetting:
    """Errors of the foundation model and of each head of the result, both in the precision of the run."""
    dtype = DTYPES[config.default_dtype]
    original = foundation.potential
    before = original.with_head(original.head).to(device=result.device, dtype=dtype)
    structures = held.structures
    if held.relative_to == FOUNDATION:
        structures = pseudolabelled(before, structures, held.samples)
    return Forgetting(
        held.source,
        held.relative_to,
        _errors(before, structures, held.samples),
        {head: _errors(result.with_head(head), structures, held.samples) for head in result.heads},
    )


def _errors(
    potential: Potential, structures: Sequence[LabelledStructure], samples: Sequence[LabelledBatch]
) -> dict[str, float | int | None]:
    return errors_of(structures, predict(potential, batches(samples, AT_ONCE))).as_dict()
