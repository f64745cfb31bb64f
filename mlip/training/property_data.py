"""The data of a run that learns a property: read, split, described."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mlip.data.batches import make_plan, make_samples
from mlip.data.files import Given, in_words
from mlip.data.labels import LabelledStructure
from mlip.data.loading import InMemory
from mlip.data.property_labels import PropertyData, read_property
from mlip.data.reference_energies import least_squares
from mlip.data.splits import check_elements, split
from mlip.data.statistics import statistics
from mlip.data.weights import check_config_types, parse_config_type_weights, weighted
from mlip.errors import DataError
from mlip.properties import Property
from mlip.training.config import TrainingConfig
from mlip.training.data import DataSet, RunData
from mlip.training.hashes import file_hash


@dataclass(frozen=True)
class Standard:
    """What the labels are like, and so what the network's numbers are multiplied by and added to.

    Attributes:
        shifts: added for each atom, by atomic number, in the property's unit.
        scale: of the network's numbers, in the property's unit; of dipoles in e and e·Å.
        spread: how much labels differ from what the shifts alone give, in the property's unit.
        origin: of the shifts, in words.
    """

    shifts: dict[int, float]
    scale: float
    spread: float
    origin: str


@dataclass(frozen=True, kw_only=True)
class PropertyRunData(RunData):
    """Everything read from the files of a run that learns a property."""

    learned: Property
    key: str  # of the property in the training file
    standard: Standard
    avg_num_neighbors: float


def load_property_data(config: TrainingConfig) -> PropertyRunData:
    """Read, check, split and describe the data.

    Raises:
        DataError: unreadable files, unusable labels, nothing to train on, labels that are all the same.
        InputError: structures no model can evaluate, a readout that does not suit the property.
    """
    files = {option: path for option in ("train_file", "valid_file", "test_file") if (path := getattr(config, option))}
    hashed = files | ({"symmetry_functions": f} if (f := config.symmetry_functions) is not None else {})
    read = _read(config, files)
    learned = read["train_file"].learned
    for data in read.values():
        if data.learned != learned:
            of = in_words(config.train_file)
            raise DataError(f"{data.source} has {data.learned.label}, {of} has {learned.label}")
    parts = _parts(config, read)
    elements = sorted({int(z) for s in read["train_file"].structures for z in s.atoms.numbers})
    sets = {}
    for name, structures in parts.items():
        source = in_words(files.get(f"{name}_file", config.train_file))
        check_elements(structures, elements, source)
        sets[name] = DataSet(structures, make_samples(structures, config.r_max, source), source)
    described = statistics(sets["train"].samples, dict.fromkeys(elements, 0.0))
    if not described.n_edges:
        of = in_words(config.train_file)
        raise DataError(f"no two atoms of {of} are within --r_max {config.r_max:g} Å of each other")
    return PropertyRunData(
        sets=sets,
        sha256={option: file_hash(path) for option, path in hashed.items()},
        plan=make_plan(sets["train"].samples, config.batch_size, config.batch_atoms, config.batch_edges),
        trained=InMemory(sets["train"].samples),
        remarks=tuple(line for data in read.values() for line in data.remarks()),
        learned=learned,
        key=read["train_file"].key,
        standard=standard(parts["train"], learned, elements),
        avg_num_neighbors=described.avg_num_neighbors,
    )


def _read(config: TrainingConfig, files: Mapping[str, Given]) -> dict[str, PropertyData]:
    """The files with the property, structures weighted by `config_type`."""
    assert config.target is not None
    read = {o: read_property(path, config.target, config.readout, config.target_unit) for o, path in files.items()}
    weights = parse_config_type_weights(config.config_type_weights)
    judged = [read[option] for option in ("train_file", "valid_file") if option in read]
    check_config_types(weights, [s for d in judged for s in d.structures], " and ".join(d.source for d in judged))
    return {option: replace(data, structures=weighted(data.structures, weights)) for option, data in read.items()}


def _parts(config: TrainingConfig, read: Mapping[str, PropertyData]) -> dict[str, list[LabelledStructure]]:
    """Structures by set."""
    training = read["train_file"].structures
    if "valid_file" in read:
        validation = read["valid_file"].structures
    else:
        training, validation = split(training, config.valid_fraction, config.split_seed)
    parts = {"train": training, "valid": validation}
    for name, structures in parts.items():
        if not any(s.weight for s in structures):
            raise DataError(f"no structure of the {name} set has a weight that is not zero")
    return parts | ({"test": read["test_file"].structures} if "test_file" in read else {})


def standard(structures: Sequence[LabelledStructure], learned: Property, elements: Sequence[int]) -> Standard:
    """Scale and shifts of a model by its training set.

    Raises:
        DataError: the labels are all the same: there is nothing to learn.
    """
    values = np.array([s.value for s in structures])  # (n, 1 or 3)
    largest = float(np.abs(values).max())
    if float(np.ptp(values, axis=0).max()) <= 1e-12 * largest or not largest:
        raise DataError(
            f"{learned.name} is {values[0].tolist()} on all {len(values)} training structures: nothing to learn"
        )
    none = dict.fromkeys(elements, 0.0)
    if learned.is_dipole:
        component = math.sqrt(float(np.square(values).sum()) / (3 * len(values)))
        spread = component * math.sqrt(3) if learned.size == 3 else float(values.std())
        return Standard(none, component * learned.in_eA, spread, "none")
    spread = float(values.std())
    if learned.readout == "mean":
        return Standard(dict.fromkeys(elements, float(values.mean())), spread, spread, "mean of the training set")
    shifts, _ = least_squares(structures, values[:, 0], elements)
    counts = np.array([len(s.atoms) for s in structures])
    rest = values[:, 0] - [sum(shifts[int(z)] for z in s.atoms.numbers) for s in structures]
    # A set smaller than the number of elements is fitted exactly, and tells nothing about the rest.
    spread = max(float(rest.std()), 1e-3 * spread)
    origin = f"least squares over {len(values)} values"
    return Standard(shifts, spread / math.sqrt(float(counts.mean())), spread, origin)
