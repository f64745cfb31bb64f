"""DimeNet and DimeNet++ of PyTorch Geometric: a state dict as a model of ours, without PyTorch Geometric.

The state dict says everything about the network but the cutoff, the exponent of the envelope and the activation: those
are arguments of PyG's constructor, and so they are here. The elements are to be named too: PyG has an embedding for
every atomic number up to 94, trained or not.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlip.errors import InputError, MLIPError, ModelFileError
from mlip.importers.torch_archive import read_archive
from mlip.models.dimenet import DimeNet, DimeNetPlusPlus
from mlip.potential import Potential

#: Names of PyG's modules and of ours, from the first that fits.
RENAMED = (
    (r"^rbf\.freq$", "radial.frequencies"),
    (r"^emb\.emb\.weight$", "embedding.elements"),
    (r"^emb\.lin_rbf\.", "embedding.radial."),
    (r"^emb\.lin\.", "embedding.combine."),
    (r"^output_blocks\.(\d+)\.lin_rbf\.", r"outputs.\1.radial."),
    (r"^output_blocks\.(\d+)\.lin_up\.", r"outputs.\1.up."),
    (r"^output_blocks\.(\d+)\.lins\.", r"outputs.\1.hidden."),
    (r"^output_blocks\.(\d+)\.lin\.", r"outputs.\1.last."),
    (r"^interaction_blocks\.(\d+)\.W$", r"interactions.\1.bilinear"),
    (r"^interaction_blocks\.(\d+)\.lin_rbf\.", r"interactions.\1.radial."),
    (r"^interaction_blocks\.(\d+)\.lin_sbf\.", r"interactions.\1.spherical."),
    (r"^interaction_blocks\.(\d+)\.lin_rbf1\.", r"interactions.\1.radial.0."),
    (r"^interaction_blocks\.(\d+)\.lin_rbf2\.", r"interactions.\1.radial.1."),
    (r"^interaction_blocks\.(\d+)\.lin_sbf1\.", r"interactions.\1.spherical.0."),
    (r"^interaction_blocks\.(\d+)\.lin_sbf2\.", r"interactions.\1.spherical.1."),
    (r"^interaction_blocks\.(\d+)\.lin_kj\.", r"interactions.\1.incoming."),
    (r"^interaction_blocks\.(\d+)\.lin_ji\.", r"interactions.\1.own."),
    (r"^interaction_blocks\.(\d+)\.lin_down\.", r"interactions.\1.down."),
    (r"^interaction_blocks\.(\d+)\.lin_up\.", r"interactions.\1.up."),
    (r"^interaction_blocks\.(\d+)\.lin\.", r"interactions.\1.skip."),
    (r"^interaction_blocks\.(\d+)\.layers_(before|after)_skip\.(\d+)\.lin1\.", r"interactions.\1.\2_skip.\3.first."),
    (r"^interaction_blocks\.(\d+)\.layers_(before|after)_skip\.(\d+)\.lin2\.", r"interactions.\1.\2_skip.\3.second."),
)
#: Arguments of PyG's constructors that say nothing here: weights are given, and no neighbor is left out.
IGNORED = {"max_num_neighbors", "output_initializer"}
#: Of PyG's constructors, for what the state dict does not tell; the cutoff in Å.
DEFAULTS = {"cutoff": 5.0, "envelope_exponent": 5}
#: What a state dict of another network may raise.
_MISFITS = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError)


def dimenet_from_pyg(
    state: Mapping[str, Tensor],
    elements: Sequence[int],
    kwargs: Mapping[str, Any] | None = None,
    heads: Sequence[str] | None = None,
) -> DimeNet | DimeNetPlusPlus:
    """The network of a state dict, in its precision, with the published faults that it was trained with.

    PyG keeps the 32 nearest neighbors of an atom at most (`max_num_neighbors`), and so its energies jump where there
    are more; here all within the cutoff count.

    Args:
        state: `state_dict()` of a `torch_geometric.nn.DimeNet` or `DimeNetPlusPlus`.
        elements: atomic numbers that the model was trained for.
        kwargs: arguments of PyG's constructor. Those that the state dict does not tell have PyG's defaults: cutoff
            (5.0 Å), envelope_exponent (5) and act ("swish"). The others are compared with it.
        heads: names of the outputs; needed where there are several.

    Raises:
        ModelFileError: not such a state dict, numbers that are not finite, or arguments that it contradicts.
        InputError: elements beyond 94, or names that do not fit the number of outputs.
    """
    elements = sorted({int(z) for z in elements})
    kwargs = dict(kwargs or {})
    try:
        sizes = _sizes(state)
    except _MISFITS as error:
        raise ModelFileError(
            f"no state dict of PyTorch Geometric's DimeNet or DimeNetPlusPlus ({type(error).__name__}: {error})"
        ) from error
    options = sizes | _untold(kwargs, sizes)
    outputs, rows = options.pop("out_channels"), options.pop("num_elements")
    if not elements or not 1 <= elements[0] <= elements[-1] < rows:
        raise InputError(f"elements {elements}: the model has embeddings of the atomic numbers 1 to {rows - 1}")
    names = list(heads) if heads is not None else ["default"]
    if len(names) != outputs:
        raise InputError(f"heads {names}: the model has {outputs} outputs; give each a name")
    kind = DimeNet if "num_bilinear" in options else DimeNetPlusPlus
    tensors = _weights(state, elements, options["num_spherical"])
    model = kind(elements=elements, heads=names, faithful=True, **options).to(tensors["radial.frequencies"].dtype)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelFileError(f"the state dict does not fit a {kind.__name__} of its own sizes: {error}") from error
    return model


def load_pyg_dimenet(
    path: str | PathLike[str],
    elements: Sequence[int],
    kwargs: Mapping[str, Any] | None = None,
    E0s: Mapping[int, float] | None = None,
    scale: float = 1.0,
    shift: float = 0.0,
) -> Potential:
    """A potential from a file of `torch.save(model.state_dict(), path)`; nothing in it is executed.

    A dictionary with the state dict as `state_dict` and the arguments of the constructor as `kwargs` is read too.

    Args:
        path: the file.
        elements, kwargs: as in `dimenet_from_pyg`; `kwargs` given here come before those of the file.
        E0s: reference energies in eV by atomic number that were taken off before training; None: zero.
        scale: eV per unit of the network's output.
        shift: eV per atom.

    Raises:
        ModelFileError: not such a file, or a damaged or hostile one.
        InputError: elements or reference energies that do not fit.
        OSError: the file can't be read.
    """
    path = Path(path)
    return pyg_potential(read_archive(path, ()), path, elements, kwargs, E0s, scale, shift)


def is_pyg_dimenet(found: Any) -> bool:
    """Whether what `read_archive` found looks like weights of DimeNet or DimeNet++ of PyTorch Geometric."""
    state, _ = _parts(found)
    return isinstance(state, dict) and {"rbf.freq", "emb.emb.weight"} <= state.keys()


def pyg_potential(
    found: Any,
    path: Path,
    elements: Sequence[int],
    kwargs: Mapping[str, Any] | None = None,
    E0s: Mapping[int, float] | None = None,
    scale: float = 1.0,
    shift: float = 0.0,
) -> Potential:
    """As `load_pyg_dimenet`, of what `read_archive` found in the file.

    Warns of arguments of the constructor that neither the file nor `kwargs` tells, and that PyG's default is taken for.
    """
    state, stored = _parts(found)
    if not isinstance(state, dict) or not isinstance(stored, dict):
        raise ModelFileError(f"{path} holds a {type(found).__name__}; expected a state dict")
    given = {**stored, **(kwargs or {})}
    try:
        model = dimenet_from_pyg(state, elements, given)
    except InputError:
        raise
    except MLIPError as error:
        raise ModelFileError(f"{path}: {error}") from error
    untold = [f"{name} = {default}" for name, default in DEFAULTS.items() if name not in given]
    if untold:
        warnings.warn(
            f"{path} does not tell all arguments of the model; PyTorch Geometric's defaults are taken: "
            f"{', '.join(untold)}. If it was made with others, say so (--cutoff and --envelope_exponent of mlip "
            "convert, kwargs in Python): energies would be wrong",
            stacklevel=3,
        )
    references = dict.fromkeys(model.elements, 0.0) if E0s is None else E0s
    program = {"program": "PyTorch Geometric", "class": type(model).__name__, "file": path.name}
    return Potential(model, references, scale, shift, {"source": program}).requires_grad_(False)


def _parts(found: Any) -> tuple[Any, Any]:
    """State dict and arguments of the constructor, in whichever of both forms they are stored."""
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        return found["state_dict"], found.get("kwargs") or {}
    return found, {}


def _sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Arguments of the constructors, and the number of embeddings, from the shapes of the tensors."""
    radial = len(state["rbf.freq"])
    rows, channels = state["emb.emb.weight"].shape
    output, interaction = "output_blocks.0", "interaction_blocks.0"
    sizes = {
        "num_elements": rows,
        "hidden_channels": channels,
        "num_radial": radial,
        "out_channels": len(state[f"{output}.lin.weight"]),
        "num_blocks": _count(state, "interaction_blocks."),
        "num_before_skip": _count(state, f"{interaction}.layers_before_skip."),
        "num_after_skip": _count(state, f"{interaction}.layers_after_skip."),
        "num_output_layers": _count(state, f"{output}.lins."),
    }
    if f"{interaction}.W" in state:
        num_bilinear, basis = state[f"{interaction}.lin_sbf.weight"].shape
        return sizes | {"num_bilinear": num_bilinear, "num_spherical": basis // radial}
    between, basis = state[f"{interaction}.lin_sbf1.weight"].shape
    return sizes | {
        "num_spherical": basis // radial,
        "basis_emb_size": between,
        "int_emb_size": len(state[f"{interaction}.lin_down.weight"]),
        "out_emb_channels": len(state[f"{output}.lin_up.weight"]),
    }


def _count(state: Iterable[str], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def _untold(kwargs: dict[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Those arguments that the state dict does not tell; the others are compared with it."""
    untold = {name: kwargs.pop(name, default) for name, default in DEFAULTS.items()}
    activation = kwargs.pop("act", "swish")
    if activation not in ("swish", "silu", "SiLU", "Swish"):
        raise ModelFileError(f"activation {activation!r}; expected 'swish', the only one known here")
    for name, value in kwargs.items():
        if name not in IGNORED and (name not in sizes or sizes[name] != value):
            raise ModelFileError(f"{name} = {value!r}, but the state dict has {sizes.get(name, 'no such argument')}")
    return untold


def _weights(state: Mapping[str, Tensor], elements: Sequence[int], num_spherical: int) -> dict[str, Tensor]:
    """The state of our model. DimeNet++'s odd degrees change sign: its angle is π less ours, P_l(-x) = ±P_l(x)."""
    tensors = {}
    for name, tensor in state.items():
        pattern = next((pattern for pattern in RENAMED if re.search(pattern[0], name)), None)
        if pattern is None:
            raise ModelFileError(f"{name}: not a tensor of PyTorch Geometric's DimeNet or DimeNetPlusPlus")
        if not isinstance(tensor, Tensor) or tensor.dtype not in (torch.float32, torch.float64):
            raise ModelFileError(
                f"{name}: {getattr(tensor, 'dtype', type(tensor).__name__)}; expected float32 or float64"
            )
        if not bool(tensor.isfinite().all()):
            raise ModelFileError(f"{name}: numbers that are not finite")
        if name.endswith("emb.emb.weight"):
            tensor = tensor[list(elements)]
        elif name.endswith("lin_sbf1.weight"):
            signs = torch.tensor([(-1.0) ** degree for degree in range(num_spherical)], dtype=tensor.dtype)
            tensor = (tensor.view(len(tensor), num_spherical, -1) * signs.view(1, -1, 1)).view_as(tensor)
        tensors[re.sub(*pattern, name)] = tensor
    return tensors
