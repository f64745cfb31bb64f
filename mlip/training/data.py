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
from mlip.training.architectures import Shown
from mlip.training.config import TrainingConfig
from mlip.training.data_set import DataSet as DataSet
from mlip.training.display import work_unseen
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


def load_data(config: TrainingConfig, foundation: Foundation | None = None, shown: Shown = work_unseen) -> TrainingData:
    """Read, check, split and describe the data.

    Args:
        config: of the run.
        foundation: the model that is fine-tuned, if one is.
        shown: how work that takes long is shown, not at all by default.

    Raises:
        DataError: unreadable files, unusable labels, nothing to train on.
        InputError: structures no potential can evaluate, elements the training file does not have.
    """
    if config.stream:
        from mlip.training.stream_data import load_streamed_data  # which gives the same

        return load_streamed_data(config, shown)
    files, hashed, units = files_of(config)
    read = {
        option: read_labelled(path, keys_of(config), option == "train_file", units) for option, path in files.items()
    }
    weights = parse_config_type_weights(config.config_type_weights)
    judged = [read[option] for option in ("train_file", "valid_file") if option in read]
    check_config_types(weights, [s for d in judged for s in d.structures], " and ".join(d.source for d in judged))
    read = {option: replace(data, structures=weighted(data.structures, weights)) for option, data in read.items()}
    parts, isolated = _parts(config, read)
    whole = set_apart_isolated_atoms(read["train_file"].structures).structures
    lines = []
    if foundation is None:
        # E0s do not depend on the split, so that an element of the validation part is never unknown.
        reference = reference_energies(config.E0s, whole, isolated, config.energy_key, units)
    else:
        lines = add_replay(config, foundation, parts, files, units)
        reference = energies_of_new_head(config, foundation, (whole, isolated, parts.get("replay", [])), units)
    properties = _trained_properties(config, parts["train"], parts["valid"])
    if "replay" in parts:
        properties |= _replayed_properties(config, parts["replay"])
    cutoff = config.r_max if foundation is None else foundation.potential.cutoff
    sets = make_sets(config, parts, files, reference, cutoff)
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
        sha256=hashes(hashed, foundation),
        plan=make_plan(trained, config.batch_size, config.batch_atoms, config.batch_edges),
        trained=InMemory(trained),
        remarks=(*remarks_on(files, read, parts), *lines),
        held_out=None if foundation is None else held_out(config, foundation, sets.get("replay"), reference.E0s, units),
    )


def files_of(config: TrainingConfig) -> tuple[dict[str, Given], dict[str, Given], Units | None]:
    """By option, the files of structures and all whose content a run depends on; units of those of n2p2."""
    files = {option: path for option in ("train_file", "valid_file", "test_file") if (path := getattr(config, option))}
    hashed = files | ({"E0s": str(config.E0s)} if is_E0s_file(config.E0s) else {})
    others = ("pt_train_file", "forgetting_file", "symmetry_functions")
    given = [*hashed.values(), *(path for option in others[:2] if (path := getattr(config, option)))]
    units = _units(config, [path for named in given for path in find_files(named)])
    return files, hashed | {option: path for option in others if (path := getattr(config, option))}, units


def make_sets(
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


def remarks_on(
    files: Mapping[str, Given], read: Mapping[str, LabelledData], parts: Mapping[str, list[LabelledStructure]]
) -> list[str]:
    """What people should know of the files and of the parts of them that are in memory."""
    keys = read["train_file"].keys
    lines = [line for option, data in read.items() for line in file_remarks(in_words(files[option]), data, keys)]
    lines += [line for name, structures in parts.items() for line in remarks(name, structures)]
    if "valid_file" in read and (left_out := len(read["valid_file"].structures) - len(parts["valid"])):
        lines.append(f"{in_words(files['valid_file'])}: isolated atoms, which do not validate: {left_out}")
    return lines


def hashes(files: Mapping[str, Given], foundation: Foundation | None = None) -> dict[str, str]:
    """SHA-256 by option."""
    found = {option: file_hash(path) for option, path in files.items()}
    return found if foundation is None else found | {"foundation_model": foundation.sha256}


def _units(config: TrainingConfig, paths: Iterable[Path]) -> Units | None:
    """Those of the data; a unit of length alone may be that of an `input.nn`."""
    only_functions = config.symmetry_functions is not None and config.energy_unit is None
    if only_functions and not any(is_n2p2_data(path) for path in paths):
        return None
    return data_units(config.length_unit, config.energy_unit, paths)


def _parts(
    config: TrainingConfig, read: Mapping[str, LabelledData]
) -> tuple[dict[str, list[LabelledStructure]], list[LabelledStructure]]:
    """Structures by set, and the isolated atoms of the training file."""
    training, isolated = set_apart_isolated_atoms(read["train_file"].structures)
    if not training:
        raise DataError(f"{in_words(config.train_file)} holds isolated atoms only; nothing to train on")
    if "valid_file" in read:
        validation = validating(config, read["valid_file"])
    else:
        training, validation = split(training, config.valid_fraction, config.split_seed)
    parts = {"train": training, "valid": validation}
    if "test_file" in read:
        parts["test"] = read["test_file"].structures
    return parts, isolated


def validating(config: TrainingConfig, read: LabelledData) -> list[LabelledStructure]:
    """Structures of --valid_file that validate."""
    validation = set_apart_isolated_atoms(read.structures).structures
    if not validation:
        raise DataError(f"{in_words(config.valid_file or '')} holds isolated atoms only; nothing to validate on")
    return validation


def _trained_properties(
    config: TrainingConfig, training: Sequence[LabelledStructure], validation: Sequence[LabelledStructure]
) -> frozenset[str]:
    """Labels that are there and weigh something.

    Raises:
        DataError: none, or none in the validation set; labels that are all exactly zero.
    """
    properties = properties_of(config, labelled(training), labelled(validation))
    for name in sorted(properties):
        zeros, n = exactly_zero(training, name)
        refuse_zeros(name, len(zeros), n)
    return properties


def _replayed_properties(config: TrainingConfig, replay: Sequence[LabelledStructure]) -> frozenset[str]:
    """Labels of the replay data that weigh something in the loss.

    Raises:
        DataError: none; labels that are all exactly zero.
    """
    trained = trained_properties(config)
    properties = labelled(replay) & trained
    if not properties:
        raise DataError(
            f"--pt_train_file {config.pt_train_file}: no structure has a label that trains "
            f"({', '.join(sorted(trained))}) with a weight above zero"
        )
    for name in sorted(properties):
        zeros, n = exactly_zero(replay, name)
        refuse_zeros(name, len(zeros), n, f"replay structures of --pt_train_file {config.pt_train_file}")
    return properties


def properties_of(config: TrainingConfig, labelled: frozenset[str], validated: frozenset[str]) -> frozenset[str]:
    """What the loss is about, given the labels of the training and of the validation set that weigh something.

    Raises:
        DataError: nothing, or nothing in the validation set.
    """
    trained = trained_properties(config)
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
    return properties


def labelled(structures: Sequence[LabelledStructure]) -> frozenset[str]:
    """Labels that weigh something."""
    return frozenset(p for p in PROPERTIES if any(s.label_weight(p) > 0 for s in structures))


def refuse_zeros(name: str, n_zeros: int, n: int, what: str = "training structures") -> None:
    """Raise `DataError` for a label that is zero in every bit on every one of `n` structures: it was never computed."""
    if n and n_zeros == n:
        of = " of more than one atom" if name == "forces" else ""
        raise DataError(
            f"the {name} of all {n} {what}{of} is exactly zero, which is what placeholders look like; "
            f"remove the label, name another with --{name}_key, or leave it out of the loss with --{name}_weight 0"
        )
