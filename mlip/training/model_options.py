"""Which options of training belong to which model, and their defaults there. Imports nothing heavy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from mlip.errors import InputError

if TYPE_CHECKING:
    from mlip.training.config import TrainingConfig

Model = Literal["MACE", "ScaleShiftMACE", "HDNNP", "DimeNet", "DimeNet++"]
Interaction = Literal[
    "RealAgnosticInteractionBlock",
    "RealAgnosticResidualInteractionBlock",
    "RealAgnosticDensityInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
    "RealAgnosticResidualNonLinearInteractionBlock",
]
#: Those of `mlip.models.hdnnp.ACTIVATIONS`.
Activation = Literal[
    "identity", "tanh", "logistic", "softplus", "relu", "gaussian", "cos", "revlogistic", "exp", "harmonic"
]
#: Those of `mlip.nn.symmetry_functions.CUTOFFS` with which the energy is continuous.
CutoffName = Literal["cos", "tanhu", "tanh", "exp", "poly1", "poly2", "poly3", "poly4"]

MACE = ("MACE", "ScaleShiftMACE")
DIMENET = ("DimeNet", "DimeNet++")

#: Option -> models that have it; all others are of every model.
MODELS_WITH: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("num_radial_basis", "num_channels", "num_interactions"), (*MACE, *DIMENET)),
    **dict.fromkeys(
        (
            *("radial_type", "num_cutoff_basis", "distance_transform", "pair_repulsion", "hidden_irreps", "max_L"),
            *("max_ell", "correlation", "interaction", "interaction_first", "MLP_irreps", "gate", "radial_MLP"),
            "avg_num_neighbors",
        ),
        MACE,
    ),
    **dict.fromkeys(
        ("num_spherical", "envelope_exponent", "num_before_skip", "num_after_skip", "num_output_layers"), DIMENET
    ),
    "num_bilinear": ("DimeNet",),
    **dict.fromkeys(("int_emb_size", "basis_emb_size", "out_emb_channels"), ("DimeNet++",)),
    **dict.fromkeys(
        ("hidden_layers", "activation", "cutoff_function", "num_symmetry_functions", "symmetry_functions"), ("HDNNP",)
    ),
}

_OF_MACE = {"num_radial_basis": 8, "num_interactions": 2, "radial_MLP": "[64, 64, 64]"}
_OF_DIMENET = {
    "num_radial_basis": 6,
    "num_channels": 128,
    "num_interactions": 4,
    "num_spherical": 7,
    "envelope_exponent": 5,
    "num_before_skip": 1,
    "num_after_skip": 2,
    "num_output_layers": 3,
}
#: Defaults of options that have none of their own.
DEFAULTS: dict[str, dict[str, Any]] = {
    "MACE": _OF_MACE,
    "ScaleShiftMACE": _OF_MACE,
    "HDNNP": {"hidden_layers": "[32, 32]", "activation": "tanh", "cutoff_function": "poly2"},
    "DimeNet": {**_OF_DIMENET, "num_bilinear": 8},
    "DimeNet++": {**_OF_DIMENET, "int_emb_size": 64, "basis_emb_size": 8, "out_emb_channels": 256},
}
#: Symmetry functions of each element that are chosen, unless a file has them.
NUM_SYMMETRY_FUNCTIONS = 64


def model_defaults(config: TrainingConfig) -> dict[str, Any]:
    """Values of the options of this model that were not given."""
    if config.foundation_model is not None:
        return {}  # it has its own
    found = dict(DEFAULTS.get(config.model, {}))
    if config.model == "HDNNP" and config.symmetry_functions is None:
        found["num_symmetry_functions"] = NUM_SYMMETRY_FUNCTIONS
    return {name: value for name, value in found.items() if getattr(config, name) is None}


def belongs(option: str, model: str) -> bool:
    """Whether the model has this option."""
    return model in MODELS_WITH.get(option, (model,))


def widths(option: str, value: str | list[int]) -> tuple[int, ...]:
    """Sizes of layers, from [64, 64], "[64, 64]", "64 64" or "64,64".

    Raises:
        InputError: not such a list.
    """
    words = re.sub(r"[\[\](),]", " ", str(value)).split()
    if not words or not all(word.isdigit() and int(word) > 0 for word in words):
        raise InputError(f"--{option} {value!r} is not a list of widths such as [64, 64, 64]")
    return tuple(map(int, words))


def one_of(names: tuple[str, ...]) -> str:
    """ "A", "A or B", "A, B or C"."""
    return " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
