"""From a configuration to the data of a run: read, checked, split, described."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mlip.data.batches import LabelledBatch, make_plan, make_samples
from mlip.data.labels import PROPERTIES, LabelKeys, LabelledData, LabelledStructure, read_labelled
from mlip.data.n2p2 import Units, data_units, is_n2p2_data
from mlip.data.plan import BatchPlan
from mlip.data.reference_energies import ReferenceEnergies, is_E0s_file, reference_energies
from mlip.data.splits import check_elements, set_apart_isolated_atoms, split
from mlip.data.statistics import Statistics, statistics
from mlip.data.summary import exactly_zero, file_remarks, remarks
from mlip.data.weights import check_config_types, parse_config_type_weights, weighted
from mlip.errors import DataError
from mlip.training.config import TrainingConfig
from mlip.training.loss import trained_properties


@dataclass(frozen=True)
class DataSet:
    """Structures of one purpose and their graphs."""

    structures: list[LabelledStructure]
    samples: list[LabelledBatch]
    source: str

    def count(self, name: str) -> int:
        """Number of structures with the label `name`."""
        return sum(getattr(s, name) is not None for s in self.structures)


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What the data of every run has."""

    sets: dict[str, DataSet]  # train, valid, and test if there is one
    sha256: dict[str, str]  # by option: train_file, valid_file, test_file, and E0s if it is a file
    plan: BatchPlan  # how the training set becomes batches
    remarks: tuple[str, ...] = ()  # what people should know, a line each


@dataclass(frozen=True, kw_only=True)
class TrainingData(RunData):
    """Everything read from the files of a run that learns energies."""

    n_isolated: int
    reference: ReferenceEnergies
    statistics: Statistics
    properties: frozenset[str]  # what the loss is about
    keys: LabelKeys  # as found in the training file


def load_data(config: TrainingConfig) -> TrainingData:
    """Read, check, split and describe the data.

    Raises:
        DataError: unreadable files, unusable labels, nothing to train on.
        InputError: structures no potential can evaluate, elements the training file does not have.
    """
    files = {option: path for option in ("train_file", "valid_file", "test_file") if (path := getattr(config, option))}
    hashed = files | ({"E0s": str(config.E0s)} if is_E0s_file(config.E0s) else {})
    units = _units(config, hashed.values())
    if config.symmetry_functions is not None:
        hashed["symmetry_functions"] = config.symmetry_functions
    read = _read(config, files, units)
    parts, isolated = _parts(config, read)
    whole = set_apart_isolated_atoms(read["train_file"].structures).structures
    # E0s do not depend on the split, so that an element of the validation part is never unknown.
    reference = reference_energies(config.E0s, whole, isolated, config.energy_key, units)
    properties = _trained_properties(config, parts["train"], parts["valid"])
    sets = {}
    for name, structures in parts.items():
        source = files.get(f"{name}_file", config.train_file)
        check_elements(structures, reference.E0s, source)
        sets[name] = DataSet(structures, make_samples(structures, config.r_max, source), source)
    described = statistics(sets["train"].samples, reference.E0s)
    if not described.n_edges:
        raise DataError(f"no two atoms of {config.train_file} are within --r_max {config.r_max:g} Å of each other")
    keys = read["train_file"].keys
    lines = [line for option, data in read.items() for line in file_remarks(files[option], data, keys)]
    lines += [line for name, structures in parts.items() for line in remarks(name, structures)]
    if "valid_file" in read and (left_out := len(read["valid_file"].structures) - len(parts["valid"])):
        lines.append(f"{files['valid_file']}: isolated atoms, which do not validate: {left_out}")
    return TrainingData(
        sets=sets,
        n_isolated=len(isolated),
        reference=reference,
        statistics=described,
        properties=properties,
        keys=keys,
        sha256={option: file_hash(path) for option, path in hashed.items()},
        plan=make_plan(sets["train"].samples, config.batch_size, config.batch_atoms, config.batch_edges),
        remarks=tuple(lines),
    )


def _units(config: TrainingConfig, paths: Iterable[str]) -> Units | None:
    """Those of the data; a unit of length alone may be that of an `input.nn`."""
    only_functions = config.symmetry_functions is not None and config.energy_unit is None
    if only_functions and not any(is_n2p2_data(path) for path in paths):
        return None
    return data_units(config.length_unit, config.energy_unit, paths)


def _read(config: TrainingConfig, files: Mapping[str, str], units: Units | None) -> dict[str, LabelledData]:
    """The files with their labels, structures weighted by `config_type`."""
    keys = LabelKeys(config.energy_key, config.forces_key, config.stress_key, config.virials_key)
    read = {option: read_labelled(path, keys, option == "train_file", units) for option, path in files.items()}
    weights = parse_config_type_weights(config.config_type_weights)
    judged = [read[option] for option in ("train_file", "valid_file") if option in read]
    check_config_types(weights, [s for d in judged for s in d.structures], " and ".join(d.source for d in judged))
    return {option: replace(data, structures=weighted(data.structures, weights)) for option, data in read.items()}


def _parts(
    config: TrainingConfig, read: Mapping[str, LabelledData]
) -> tuple[dict[str, list[LabelledStructure]], list[LabelledStructure]]:
    """Structures by set, and the isolated atoms of the training file."""
    training, isolated = set_apart_isolated_atoms(read["train_file"].structures)
    if not training:
        raise DataError(f"{config.train_file} holds isolated atoms only; nothing to train on")
    if "valid_file" in read:
        validation = set_apart_isolated_atoms(read["valid_file"].structures).structures
        if not validation:
            raise DataError(f"{config.valid_file} holds isolated atoms only; nothing to validate on")
    else:
        training, validation = split(training, config.valid_fraction, config.split_seed)
    parts = {"train": training, "valid": validation}
    if "test_file" in read:
        parts["test"] = read["test_file"].structures
    return parts, isolated


def file_hash(path: str) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _trained_properties(
    config: TrainingConfig, training: Sequence[LabelledStructure], validation: Sequence[LabelledStructure]
) -> frozenset[str]:
    """Labels that are there and weigh something.

    Raises:
        DataError: none, or none in the validation set; labels that are all exactly zero.
    """
    trained = trained_properties(config)
    labelled, validated = _labelled(training), _labelled(validation)
    for name, found in (("training", labelled), ("validation", validated)):
        if not found & trained:
            raise DataError(f"no structure of the {name} set has a label whose weight is not zero")
    if config.loss in ("stress", "virials") and "stress" in trained - labelled:
        raise DataError(
            f"--loss {config.loss}, but no structure of the training set has a stress or virials; use another "
            "--loss, or name them with --stress_key or --virials_key"
        )
    properties = labelled & trained
    if not properties & validated:
        raise DataError(f"the validation set has none of the labels that train ({', '.join(sorted(properties))})")
    for name in sorted(properties):
        _refuse_zeros(training, name)
    return properties


def _labelled(structures: Sequence[LabelledStructure]) -> frozenset[str]:
    return frozenset(p for p in PROPERTIES if any(s.label_weight(p) > 0 for s in structures))


def _refuse_zeros(structures: Sequence[LabelledStructure], name: str) -> None:
    """A label that is zero in every bit on every structure was never computed."""
    zeros, n = exactly_zero(structures, name)
    if n and len(zeros) == n:
        of = " of more than one atom" if name == "forces" else ""
        raise DataError(
            f"the {name} of all {n} training structures{of} is exactly zero, which is what placeholders look like; "
            f"remove the label, name another with --{name}_key, or leave it out of the loss with --{name}_weight 0"
        )
