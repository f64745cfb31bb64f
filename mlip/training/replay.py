"""Structures of what a foundation model was trained on: learned again beside new ones, or only looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mlip.convert import check_structures
from mlip.data.batches import LabelledBatch, batches, make_samples
from mlip.data.labels import LabelKeys, LabelledStructure, label_structures
from mlip.data.n2p2 import Units
from mlip.data.predict import predict
from mlip.data.reading import read_structures
from mlip.data.splits import set_apart_isolated_atoms
from mlip.data.weights import label_weights, parse_config_type_weights, structure_weight, weighted
from mlip.errors import DataError
from mlip.potential import Potential
from mlip.training.config import TrainingConfig
from mlip.training.foundation import REPLAY_HEAD, Foundation, check_known

#: Structures that a potential labels at once.
AT_ONCE = 10


def replay_structures(
    config: TrainingConfig, foundation: Foundation, units: Units | None
) -> tuple[list[LabelledStructure], str]:
    """The replay data of a run, labels of the head `pt_head`, weighted; and a line about it.

    Raises:
        DataError: no labels, nothing but isolated atoms.
        InputError: elements that the foundation model does not know.
    """
    source = str(config.pt_train_file)
    if config.pseudolabel_replay:
        found = unlabelled_structures(source, units)
    else:
        found = label_structures(read_structures(source, units), keys_of(config), source, strict=False).structures
    found = weighted(set_apart_isolated_atoms(found).structures, parse_config_type_weights(config.config_type_weights))
    if not found:
        raise DataError(f"{source} holds isolated atoms only; nothing to train on")
    check_known(foundation, found, source)
    chosen = found
    if config.num_samples_pt < len(found):
        picked = np.random.default_rng(config.seed).permutation(len(found))[: config.num_samples_pt]
        chosen = [found[k] for k in sorted(picked.tolist())]
    if config.pseudolabel_replay:
        chosen = pseudolabelled(foundation.potential, chosen, make_samples(chosen, foundation.potential.cutoff, source))
    replayed = [replace(s, weight=s.weight * config.weight_pt_head, head=0) for s in chosen]
    labels = f", labelled by {foundation.name}" if config.pseudolabel_replay else ""
    return replayed, f"replay data: {len(chosen)} of {len(found)} structures of {source}, head {REPLAY_HEAD}{labels}"


def keys_of(config: TrainingConfig) -> LabelKeys:
    """Names of the labels in the files of a run."""
    return LabelKeys(config.energy_key, config.forces_key, config.stress_key, config.virials_key)


def unlabelled_structures(source: str, units: Units | None = None) -> list[LabelledStructure]:
    """The structures of a file without their labels, with the weights that those would have.

    Raises:
        DataError: the file can't be read, a structure has no atoms, or a weight is none.
        InputError: a structure that no potential can evaluate.
    """
    structures = read_structures(source, units)
    check_structures(structures, lambda index: f"structure {index} of {source}: ")
    groups = [str(atoms.info.get("config_type", atoms.info.get("group", ""))) for atoms in structures]
    places = [f"structure {k} of {source}" for k in range(len(structures))]
    return [
        LabelledStructure(
            atoms,
            weight=structure_weight(atoms.info, places[k]),
            group=groups[k],
            index=k,
            weights=label_weights(atoms.info, places[k]),
        )
        for k, atoms in enumerate(structures)
    ]


def pseudolabelled(
    potential: Potential, structures: Sequence[LabelledStructure], samples: Sequence[LabelledBatch]
) -> list[LabelledStructure]:
    """The structures with what the potential says of them as labels."""
    predicted = predict(potential, batches(samples, AT_ONCE))
    return [
        replace(s, energy=p.energy, forces=p.forces, stress=p.stress)
        for s, p in zip(structures, predicted, strict=True)
    ]


def repeats(n_new: int, n_replay: int, threshold: float) -> int:
    """How often an epoch has each new structure: several times where they are less than `threshold` of the replay data.

    mace's rule: once, and as often again as `threshold` is more than the ratio.
    """
    ratio = n_new / n_replay
    return 1 + int(threshold / ratio) if ratio < threshold else 1
