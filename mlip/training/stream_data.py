"""The data of a run whose training structures stay on disk (`--stream`)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from mlip.data.files import Given, find_files, in_words
from mlip.data.labels import KEYS, LabelledData, read_labelled
from mlip.data.plan import WindowPlan
from mlip.data.reference_energies import energies_of_elements
from mlip.data.shards import SUFFIXES
from mlip.data.statistics import statistics
from mlip.data.stream_scan import Scan, scan
from mlip.data.streams import Stream, Streamed
from mlip.data.weights import DEFAULT_GROUP, check_names, parse_config_type_weights, weighted
from mlip.errors import DataError
from mlip.training.architectures import Shown
from mlip.training.config import TrainingConfig
from mlip.training.data import (
    TrainingData,
    files_of,
    hashes,
    labelled,
    make_sets,
    properties_of,
    refuse_zeros,
    remarks_on,
    validating,
)
from mlip.training.replay import keys_of


def load_streamed_data(config: TrainingConfig, shown: Shown) -> TrainingData:
    """Look at the training files once, read the others; arguments and errors as in `load_data`.

    The training set of the result holds a sample of the structures that train, all of a small set.
    """
    source = in_words(config.train_file)
    weights = parse_config_type_weights(config.config_type_weights)
    stream = Stream(_hdf5_files(config.train_file), weights)
    files, hashed, units = files_of(config)
    read = {o: read_labelled(path, keys_of(config), False, units) for o, path in files.items() if o != "train_file"}
    assert config.batch_size is not None
    with shown("structures on disk") as progress:
        found = scan(stream, config.batch_size, progress)
    _check_scan(config, found, source)
    present = found.present + Counter(s.group or DEFAULT_GROUP for s in read["valid_file"].structures)
    check_names(weights, present, f"{source} and {read['valid_file'].source}")
    read = {option: replace(data, structures=weighted(data.structures, weights)) for option, data in read.items()}
    reference = energies_of_elements(
        config.E0s, found.elements, found.isolated, found.average, config.energy_key, units
    )
    validation = validating(config, read["valid_file"])
    properties = properties_of(config, found.labelled, labelled(validation))
    for name in sorted(properties):
        refuse_zeros(name, found.zeros[name].n, found.zeros[name].possible)
    parts = {"train": stream.labelled(found.sample()), "valid": validation}
    if "test_file" in read:
        parts["test"] = read["test_file"].structures
    sets = make_sets(config, parts, files, reference, config.r_max)
    sets["train"] = replace(sets["train"], counted=tuple(found.groups))
    described = found.statistics(statistics(sets["train"].samples, reference.E0s), reference.E0s)
    if not described.n_edges:
        raise DataError(f"no two atoms of {source} are within --r_max {config.r_max:g} Å of each other")
    read["train_file"] = LabelledData([], found.keys, source, ignored_stresses=found.ignored_stresses)
    others = {name: structures for name, structures in parts.items() if name != "train"}
    remarks = [*remarks_on(files, read, others), *found.remarks("train"), *_sampling(found, len(parts["train"]))]
    stream.close()
    return TrainingData(
        sets=sets,
        n_isolated=len(found.isolated_members),
        reference=reference,
        statistics=described,
        properties=properties,
        keys=found.keys,
        sha256=hashes(hashed),
        plan=WindowPlan(stream.starts, found.isolated_members, config.batch_size),
        trained=Streamed(stream, config.r_max, found.n, found.n_atoms, found.heaviest),
        remarks=tuple(remarks),
    )


def _hdf5_files(given: Given) -> list[Path]:
    """The files to train on.

    Raises:
        DataError: one that is of another format.
    """
    files = find_files(given)
    for file in files:
        if file.suffix not in SUFFIXES:
            raise DataError(
                f"--stream reads HDF5 files, {file} is none; mlip data convert {file.name} -o {file.stem}.h5 makes one"
            )
    return files


def _check_scan(config: TrainingConfig, found: Scan, source: str) -> None:
    if not found.n:
        raise DataError(f"{source} holds isolated atoms only; nothing to train on")
    for name in KEYS:
        if getattr(config, f"{name}_key") and not getattr(found.keys, name):
            raise DataError(f"{source}: no structure has the {name} key REF_{name} (--{name}_key)")


def _sampling(found: Scan, n: int) -> list[str]:
    """What comes from a sample, if it is not the whole set."""
    lines = [f"{found.n} structures are read from disk as they train"]
    if n < found.n:
        lines[0] += (
            f"; neighbors per atom, and the errors and plots of train at the end, are those of {n} of them, drawn at "
            "random"
        )
    return lines
