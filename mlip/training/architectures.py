"""The untrained network of each model: a builder for each architecture."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mlip.data.batches import LabelledBatch
from mlip.errors import InputError
from mlip.importers.n2p2_settings import FUNCTION, Settings, symmetry_function
from mlip.models.base import EnergyModel
from mlip.models.dimenet import DimeNet, DimeNetPlusPlus
from mlip.models.hdnnp import HDNNP
from mlip.models.mace import MACE
from mlip.models.mace_layer import INTERACTIONS
from mlip.nn.symmetry_functions import SymmetryFunction
from mlip.training.choose_functions import Progress, choose_functions
from mlip.training.config import TrainingConfig
from mlip.training.function_scaling import scale_functions
from mlip.training.model_options import widths
from mlip.units import atomic_units

#: mace's names of the kinds of layers -> ours.
KINDS = {name: kind for kind, name in INTERACTIONS.items()}

#: Shows the progress of work with this title.
Shown = Callable[[str], AbstractContextManager[Progress]]


class Blueprint(NamedTuple):
    """What a network depends on beside the options."""

    elements: tuple[int, ...]  # atomic numbers
    avg_num_neighbors: float  # within the cutoff, over the training set
    samples: Sequence[LabelledBatch]  # the training set, one structure each
    vectors: bool = False  # each atom has a vector too, for dipole moments, where the architecture has them


def build_model(config: TrainingConfig, blueprint: Blueprint, shown: Shown) -> EnergyModel:
    """The untrained network, its weights drawn with the seed, in float32.

    Args:
        config: of the run.
        blueprint: what its data and its purpose ask for.
        shown: how work that takes long is shown.
    """
    return BUILDERS[config.model](config, blueprint, shown)


def _mace(config: TrainingConfig, blueprint: Blueprint, shown: Shown) -> EnergyModel:
    torch.manual_seed(config.seed)
    return MACE(
        elements=blueprint.elements,
        cutoff=config.r_max,
        hidden_irreps=config.feature_irreps(),
        l_max=config.max_ell,
        correlation=config.correlation,
        num_interactions=_given(config.num_interactions),
        num_bessel=_given(config.num_radial_basis),
        num_polynomial_cutoff=config.num_cutoff_basis,
        radial_mlp=widths("radial_MLP", config.radial_MLP or ""),
        avg_num_neighbors=config.avg_num_neighbors or max(blueprint.avg_num_neighbors, 1.0),
        mlp_irreps=config.MLP_irreps,
        interaction=KINDS[config.interaction],
        interaction_first=KINDS[config.first_interaction()],
        radial_basis=config.radial_type,
        distance_transform=None if config.distance_transform == "None" else config.distance_transform,
        pair_repulsion=config.pair_repulsion,
        gate=config.gate,
    )


def _dimenet(config: TrainingConfig, blueprint: Blueprint, shown: Shown) -> EnergyModel:
    torch.manual_seed(config.seed)
    return DimeNet(num_bilinear=_given(config.num_bilinear), **_common(config, blueprint))


def _dimenet_plus_plus(config: TrainingConfig, blueprint: Blueprint, shown: Shown) -> EnergyModel:
    torch.manual_seed(config.seed)
    return DimeNetPlusPlus(
        int_emb_size=_given(config.int_emb_size),
        basis_emb_size=_given(config.basis_emb_size),
        out_emb_channels=_given(config.out_emb_channels),
        **_common(config, blueprint),
    )


def _common(config: TrainingConfig, blueprint: Blueprint) -> dict[str, Any]:
    """Arguments that both networks have."""
    return {
        "elements": blueprint.elements,
        "cutoff": config.r_max,
        "hidden_channels": config.num_channels,
        "num_blocks": config.num_interactions,
        "num_spherical": config.num_spherical,
        "num_radial": config.num_radial_basis,
        "envelope_exponent": config.envelope_exponent,
        "num_before_skip": config.num_before_skip,
        "num_after_skip": config.num_after_skip,
        "num_output_layers": config.num_output_layers,
        "vectors": blueprint.vectors,
    }


def _hdnnp(config: TrainingConfig, blueprint: Blueprint, shown: Shown) -> EnergyModel:
    elements, samples = blueprint.elements, blueprint.samples
    cutoff_function = config.cutoff_function or ""
    if config.symmetry_functions is None:
        with shown("symmetry functions") as progress:
            count = _given(config.num_symmetry_functions)
            functions = choose_functions(elements, config.r_max, count, cutoff_function, samples, config.seed, progress)
    else:
        functions = read_functions(config.symmetry_functions, config.length_unit, config.energy_unit is not None)
        reach = max(function.cutoff for function in functions)
        if reach > config.r_max:
            raise InputError(
                f"{config.symmetry_functions}: the symmetry functions reach to {reach:.6g} Å, beyond --r_max "
                f"{config.r_max:g}; raise it to that"
            )
    hidden = widths("hidden_layers", config.hidden_layers or "")
    torch.manual_seed(config.seed)
    model = HDNNP(
        elements,
        config.r_max,
        functions,
        hidden=hidden,
        activations=[*[config.activation or ""] * len(hidden), "identity"],
        cutoff_function=cutoff_function,
    )
    with shown("their scaling") as progress:
        scale_functions(model, samples, progress)
    return model


def read_functions(path: str, length_unit: str | None, of_data: bool = False) -> list[SymmetryFunction]:
    """Symmetry functions from an `input.nn`, or a list of what `SymmetryFunction.to_json` gives, in Å.

    Args:
        path: the file.
        length_unit: of the `input.nn`, "Bohr" (also None) or "Angstrom"; of a list None.
        of_data: the unit is that of an `input.data` too.

    Raises:
        InputError, ModelFileError: neither, or functions that can't be; none at all.
        OSError: the file can't be read.
    """
    text = Path(path).read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        if length_unit is not None and not of_data:
            raise InputError(
                f"--length_unit {length_unit} would do nothing: {path} is a list in JSON, in Å; leave it out"
            )
        try:
            functions = [SymmetryFunction.of(given) for given in json.loads(text)]
        except (json.JSONDecodeError, TypeError) as error:
            raise InputError(f"{path}: expected a list of symmetry functions in JSON: {error}") from error
    else:
        unit, _ = atomic_units(length_unit)
        functions = [symmetry_function(line, unit) for line in Settings(Path(path)).all(FUNCTION)]
    if not functions:
        raise InputError(f"{path}: no symmetry functions; expected lines {FUNCTION} of an input.nn, or a list in JSON")
    return functions


def _given(value: int | None) -> int:
    """A number that the configuration has set for this model."""
    assert value is not None
    return value


BUILDERS: dict[str, Callable[[TrainingConfig, Blueprint, Shown], EnergyModel]] = {
    "MACE": _mace,
    "ScaleShiftMACE": _mace,
    "HDNNP": _hdnnp,
    "DimeNet": _dimenet,
    "DimeNet++": _dimenet_plus_plus,
}


def fine_tuning_in_words(config: TrainingConfig) -> str:
    """Of which foundation model what is trained; empty without one."""
    if config.foundation_model is None:
        return ""
    ways = []
    if config.lora:
        ways.append(f"low-rank adapters (rank {config.lora_rank}, alpha {config.lora_alpha:g})")
    if config.freeze:
        frozen = "the embedding"
        if config.freeze >= 5:
            frozen += " and the interactions" if config.freeze == 5 else ", the interactions and the products"
        ways.append(f"{frozen} frozen")
    if config.multiheads_finetuning:
        ways.append("a second head beside replay data")
    return ", ".join([f"{Path(str(config.foundation_model)).name} fine-tuned", *ways])


def in_words(config: TrainingConfig, model: EnergyModel) -> str:
    """What a report says of the network: its name and sizes."""
    if config.foundation_model is not None:
        return fine_tuning_in_words(config)
    if isinstance(model, HDNNP):
        counts = [len(model.of_element("offset", k)) for k in range(len(model.elements))]
        per_element = " to ".join(map(str, sorted({min(counts), max(counts)})))
        layers = ", ".join(map(str, model.hyperparameters["hidden"]))
        functions = f"{per_element} symmetry functions per element"
        return f"{config.model}, {functions}, hidden layers {layers} ({config.activation})"
    size = config.feature_irreps() if isinstance(model, MACE) else f"{config.num_channels} channels"
    return f"{config.model}, {size}, {config.num_interactions} layers"
