"""From a configuration to the data and the untrained potential."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mlip.checkpoint import DTYPES
from mlip.data.batches import LabelledBatch, make_samples
from mlip.data.labels import PROPERTIES, LabelKeys, LabelledData, LabelledStructure, read_labelled
from mlip.data.reference_energies import ReferenceEnergies, reference_energies
from mlip.data.splits import check_elements, set_apart_isolated_atoms, split
from mlip.data.statistics import Statistics, statistics
from mlip.errors import DataError
from mlip.models.mace import MACE
from mlip.potential import Potential
from mlip.training.config import TrainingConfig


@dataclass(frozen=True)
class DataSet:
    """Structures of one purpose and their graphs."""

    structures: list[LabelledStructure]
    samples: list[LabelledBatch]
    source: str

    def count(self, name: str) -> int:
        """Number of structures with the label `name`."""
        return sum(getattr(s, name) is not None for s in self.structures)


@dataclass(frozen=True)
class TrainingData:
    """Everything read from the files of a run."""

    sets: dict[str, DataSet]  # train, valid, and test if there is one
    n_isolated: int
    reference: ReferenceEnergies
    statistics: Statistics
    properties: frozenset[str]  # what the loss is about
    keys: LabelKeys  # as found in the training file
    sha256: dict[str, str]  # by option: train_file, valid_file, test_file


def load_data(config: TrainingConfig) -> TrainingData:
    """Read, check, split and describe the data.

    Raises:
        DataError: unreadable files, unusable labels, nothing to train on.
        InputError: structures no potential can evaluate, elements the training file does not have.
    """
    keys = LabelKeys(config.energy_key, config.forces_key, config.stress_key)
    files = {option: path for option in ("train_file", "valid_file", "test_file") if (path := getattr(config, option))}
    read = {option: read_labelled(path, keys) for option, path in files.items()}
    training, isolated = set_apart_isolated_atoms(read["train_file"].structures)
    if not training:
        raise DataError(f"{config.train_file} holds isolated atoms only; nothing to train on")
    if "valid_file" in read:
        validation = set_apart_isolated_atoms(read["valid_file"].structures).structures
        if not validation:
            raise DataError(f"{config.valid_file} holds isolated atoms only; nothing to validate on")
    else:
        training, validation = split(training, config.valid_fraction, config.seed)
    reference = reference_energies(config.E0s, _all_training(read["train_file"]), isolated)
    properties = _trained_properties(config, training, validation)
    parts = {"train": (training, config.train_file), "valid": (validation, config.valid_file or config.train_file)}
    if "test_file" in read:
        parts["test"] = (read["test_file"].structures, str(config.test_file))
    sets = {}
    for name, (structures, source) in parts.items():
        check_elements(structures, reference.E0s, source)
        sets[name] = DataSet(structures, make_samples(structures, config.r_max, source), source)
    described = statistics(sets["train"].samples, reference.E0s)
    if not described.n_edges:
        raise DataError(f"no two atoms of {config.train_file} are within --r_max {config.r_max:g} Å of each other")
    return TrainingData(
        sets=sets,
        n_isolated=len(isolated),
        reference=reference,
        statistics=described,
        properties=properties,
        keys=read["train_file"].keys,
        sha256={option: _sha256(path) for option, path in files.items()},
    )


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _all_training(data: LabelledData) -> list[LabelledStructure]:
    """Every structure that may train: E0s do not depend on the split, so that a validation element is never unknown."""
    return set_apart_isolated_atoms(data.structures).structures


def _trained_properties(
    config: TrainingConfig, training: Sequence[LabelledStructure], validation: Sequence[LabelledStructure]
) -> frozenset[str]:
    """Labels that are there and weigh something.

    Raises:
        DataError: none, or none in the validation set.
    """
    for name, structures in (("training", training), ("validation", validation)):
        labelled = {p for p in PROPERTIES for s in structures if getattr(s, p) is not None and s.weight > 0}
        wanted = frozenset(p for p in labelled if getattr(config, f"{p}_weight"))
        if not wanted:
            raise DataError(f"no structure of the {name} set has a label whose weight is not zero")
        if name == "training":
            properties = wanted
        elif not wanted & properties:
            raise DataError(f"the validation set has none of the labels that train ({', '.join(sorted(properties))})")
    return properties


def build_potential(config: TrainingConfig, data: TrainingData) -> Potential:
    """The untrained potential, its weights drawn with the seed."""
    stats = data.statistics
    scale, shift = scale_and_shift(config, stats)
    torch.manual_seed(config.seed)
    model = MACE(
        elements=tuple(data.reference.E0s),
        cutoff=config.r_max,
        hidden_irreps=config.feature_irreps(),
        l_max=config.max_ell,
        correlation=config.correlation,
        num_interactions=config.num_interactions,
        num_bessel=config.num_radial_basis,
        num_polynomial_cutoff=config.num_cutoff_basis,
        radial_mlp=config.radial_widths(),
        avg_num_neighbors=config.avg_num_neighbors or max(stats.avg_num_neighbors, 1.0),
        mlp_irreps=config.MLP_irreps,
        interaction_first="residual" if config.model == "ScaleShiftMACE" else "agnostic",
    )
    potential = Potential(model, E0s=data.reference.E0s, scale=scale, shift=shift)
    return potential.to(DTYPES[config.default_dtype])


def scale_and_shift(config: TrainingConfig, stats: Statistics) -> tuple[float, float]:
    """Scale and shift in eV, as `mace_run_train` chooses them; `MACE` has no shift."""
    choices = {
        "rms_forces_scaling": stats.forces_rms,
        "std_scaling": stats.interaction_std,
        "no_scaling": 1.0,
    }
    scale = choices[config.scaling]
    if not (math.isfinite(scale) and scale > 0):
        what = "forces" if config.scaling == "rms_forces_scaling" else "energies that differ"
        raise DataError(f"--scaling {config.scaling} needs {what} in the training set; use another --scaling")
    shifted = config.model == "ScaleShiftMACE" and config.scaling != "no_scaling"
    return scale, stats.interaction_mean if shifted else 0.0
