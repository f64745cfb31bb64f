"""What fine-tuning makes of the data of a run: heads, replay data, reference energies of the new head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mlip.data.files import Given, in_words
from mlip.data.labels import LabelledStructure
from mlip.data.n2p2 import Units
from mlip.data.reference_energies import ReferenceEnergies, reference_energies
from mlip.training.config import TrainingConfig
from mlip.training.fine_tuning_options import OF_FOUNDATION
from mlip.training.foundation import Foundation, check_known, estimated_energies, foundation_energies
from mlip.training.replay import replay_structures


def add_replay(
    config: TrainingConfig,
    foundation: Foundation,
    parts: dict[str, list[LabelledStructure]],
    files: Mapping[str, Given],
    units: Units | None,
) -> list[str]:
    """Give the structures their heads, and add replay data if there are to be any; returns lines about that.

    Raises:
        DataError: replay data that can't be used.
        InputError: elements that the foundation model does not know.
    """
    for name, structures in parts.items():
        check_known(foundation, structures, in_words(files.get(f"{name}_file", config.train_file)))
        parts[name] = [replace(s, head=int(config.multiheads_finetuning)) for s in structures]
    if not config.multiheads_finetuning:
        return []
    parts["replay"], line = replay_structures(config, foundation, units)
    return [line]


def energies_of_new_head(
    config: TrainingConfig,
    foundation: Foundation,
    structures: tuple[Sequence[LabelledStructure], Sequence[LabelledStructure], Sequence[LabelledStructure]],
    units: Units | None,
) -> ReferenceEnergies:
    """E0s of the elements that the result knows; those that no new structure has keep the foundation model's.

    Args:
        config: of the run.
        foundation: the model.
        structures: those of the training file, its isolated atoms, and the replay data.
        units: of files of n2p2.
    """
    whole, isolated, replay = structures
    own = dict(foundation.reference.E0s)
    kept = set(own) if config.foundation_model_elements else {int(z) for s in replay for z in s.atoms.numbers}
    others = kept - {int(z) for s in whole for z in s.atoms.numbers}
    if config.E0s == OF_FOUNDATION[0]:
        reference = foundation_energies(foundation, whole)
    elif config.E0s == OF_FOUNDATION[1]:
        reference = estimated_energies(foundation, whole)
    else:
        reference = reference_energies(config.E0s, whole, isolated, config.energy_key, units, others)
    others -= set(reference.E0s)
    origin = reference.origin + (f"; of {len(others)} others those of {foundation.name}" if others else "")
    return ReferenceEnergies(dict(sorted((reference.E0s | {z: own[z] for z in others}).items())), origin)
