"""From a configuration to the data of a run: read, checked, split, described."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlip.data.batches import make_plan, make_samples
from mlip.data.files import Given, find_files, in_words
from mlip.data.labels import PROPERTIES, LabelKeys, LabelledData, LabelledStructure, read_labelled
from mlip.data.loading import InMemory, TrainingSet
from mlip.data.n2p2 import Units, data_units, is_n2p2_data
from mlip.data.plan import BatchPlan
from mlip.data.reference_energies import ReferenceEnergies, is_E0s_file, reference_energies
from mlip.data.splits import check_elements, set_apart_isolated_atoms, split
from mlip.data.statistics import Statistics, statistics
from mlip.data.summary import exactly_zero, file_remarks, remarks
from mlip.data.weights import check_config_types, parse_config_type_weights, weighted
from mlip.errors import DataError
from mlip.training.config import TrainingConfig
from mlip.training.data_set import DataSet as DataSet
from mlip.training.fine_tuning_data import add_replay, energies_of_new_head
from mlip.training.forgetting import HeldOut, held_out
from mlip.training.foundation import Foundation
from mlip.training.hashes import file_hash
from mlip.training.loss import trained_properties
from mlip.training.replay import keys_of, repeats


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What the data of every run has."""

    sets: dict[str, DataSet]  # train, valid, and test if there is one
    sha256: dict[str, str]  # by option: train_file, valid_file, test_file, and E0s if it is a file
    plan: BatchPlan  # how the structures that train become batches
    trained: TrainingSet  # these structures: those of the training set, with replay data if there are any
    remarks: tuple[str, ...] = ()  # what people should know, a line each


@dataclass(frozen=True, kw_only=True)
class TrainingData(RunData):
    """Everything read from the files of a run that learns energies."""

    n_isolated: int
    reference: ReferenceEnergies
    statistics: Statistics
    properties: frozenset[str]  # what the loss is about
    keys: LabelKeys  # as found in the training file
    held_out: HeldOut | None = None  # on what forgetting is measured


def load_data(config: TrainingConfig, foundation: Foundation | None = None) -> TrainingData:
    """Read, check, split and describe the data.

    Args:
        config: of the run.
        foundation: the model that is fine-tuned, if one is.

    Raises:
        DataError: unreadable files, unusable labels, nothing to train on.
        InputError: structures no potential can evaluate, elements the training file does not have.
    """
    files = {option: path for option in ("train_file", "valid_file", "test_file") if (path := getattr(config, option))}
    hashed = files | ({"E0s": str(config.E0s)} if is_E0s_file(config.E0s) else {})
    others = ("pt_train_file", "forgetting_file", "symmetry_functions")
    given = [*hashed.values(), *(path for option in others[:2] if (path := getattr(config, option)))]
    units = _units(config, [path for files_of in given for path in find_files(files_of)])
    hashed |= {option: path for option in others if (path := getattr(config, option))}
    read = _read(config, files, units)
    parts, isolated = _parts(config, read)
    whole = set_apart_isolated_atoms(read["train_file"].structures).structures
    lines = []
    if foundation is None:
        # E0s do not depend on the split, so that an element of the validation part is never unknown.
        reference = reference_energies(config.E0s, whole, isolated, config.energy_key, units)
    else:
        lines = add_replay(config, foundation, parts, files, units)
        reference = energies_of_new_head(config, foundation, (whole, isolated, parts.get("replay", [])), units)
    properties = _trained_properties(config, [*parts["train"], *parts.get("replay", [])], parts["valid"])
    cutoff = config.r_max if foundation is None else foundation.potential.cutoff
    sets = _sets(config, parts, files, reference, cutoff)
    described = statistics(sets["train"].samples, reference.E0s)
    if not described.n_edges:
        raise DataError(f"no two atoms of {in_words(config.train_file)} are within --r_max {cutoff:g} Å of each other")
    trained = sets["train"].samples
    if "replay" in sets:
        again = repeats(len(trained), len(sets["replay"].samples), config.real_pt_data_ratio_threshold)
        trained = trained * again + sets["replay"].samples
        lines.append(f"an epoch has each training structure {again} times, each replay structure once")
    return TrainingData(
        sets=sets,
        n_isolated=len(isolated),
        reference=reference,
        statistics=described,
        properties=properties,
        keys=read["train_file"].keys,
        sha256=_hashes(hashed, foundation),
        plan=make_plan(trained, config.batch_size, config.batch_atoms, config.batch_edges),
        trained=InMemory(trained),
        remarks=(*_remarks(files, read, parts), *lines),
        held_out=None if foundation is None else held_out(config, foundation, sets.get("replay"), reference.E0s, units),
    )


def _sets(
    config: TrainingConfig,
    parts: Mapping[str, list[LabelledStructure]],
    files: Mapping[str, Given],
    reference: ReferenceEnergies,
    cutoff: float,
) -> dict[str, DataSet]:
    """The parts with their graphs."""
    sets = {}
    for name, structures in parts.items():
        source = (
            str(config.pt_train_file) if name == "replay" else in_words(files.get(f"{name}_file", config.train_file))
        )
        check_elements(structures, reference.E0s, source)
        sets[name] = DataSet(structures, make_samples(structures, cutoff, source), source)
    return sets


def _remarks(
    files: Mapping[str, Given], read: Mapping[str, LabelledData], parts: Mapping[str, list[LabelledStructure]]
) -> list[str]:
    keys = read["train_file"].keys
    lines = [line for option, data in read.items() for line in file_remarks(in_words(files[option]), data, keys)]
    lines += [line for name, structures in parts.items() for line in remarks(name, structures)]
    if "valid_file" in read and (left_out := len(read["valid_file"].structures) - len(parts["valid"])):
        lines.append(f"{in_words(files['valid_file'])}: isolated atoms, which do not validate: {left_out}")
    return lines


def _hashes(files: Mapping[str, Given], foundation: Foundation | None) -> dict[str, str]:
    """SHA-256 by option."""
    found = {option: file_hash(path) for option, path in files.items()}
    return found if foundation is None else found | {"foundation_model": foundation.sha256}


def _units(config: TrainingConfig, paths: Iterable[Path]) -> Units | None:
    """Those of the data; a unit of length alone may be that of an `input.nn`."""
    only_functions = config.symmetry_functions is not None and config.energy_unit is None
    if only_functions and not any(is_n2p2_data(path) for path in paths):
        return None
    return data_units(config.length_unit, config.energy_unit, paths)


def _read(config: TrainingConfig, files: Mapping[str, Given], units: Units | None) -> dict[str, LabelledData]:
    """The files with their labels, structures weighted by `config_type`."""
    keys = keys_of(config)
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
        raise DataError(f"{in_words(config.train_file)} holds isolated atoms only; nothing to train on")
    if "valid_file" in read:
        validation = set_apart_isolated_atoms(read["valid_file"].structures).structures
        if not validation:
            raise DataError(f"{in_words(config.valid_file or '')} holds isolated atoms only; nothing to validate on")
    else:
        training, validation = split(training, config.valid_fraction, config.split_seed)
    parts = {"train": training, "valid": validation}
    if "test_file" in read:
        parts["test"] = read["test_file"].structures
    return parts, isolated


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
