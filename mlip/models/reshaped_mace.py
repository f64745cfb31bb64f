"""A MACE for fewer elements, or with other heads, that gives the same energies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from mlip.errors import UnknownElementError
from mlip.models.mace import MACE
from mlip.nn.irreps import ElementLinear
from mlip.nn.message import PairEmbedding
from mlip.nn.readout import Readout


def reshaped(model: MACE, elements: Sequence[int], heads: Sequence[str], head: int = 0) -> MACE:
    """A copy that knows `elements` alone and gives the energies of one head under each name of `heads`.

    Args:
        model: the network.
        elements: atomic numbers, some or all of the model's.
        heads: names of the new heads.
        head: index of the head of `model` that they all begin with.

    Raises:
        UnknownElementError: elements that the model does not know.
    """
    unknown = sorted(set(elements) - set(model.elements))
    if unknown:
        symbols = ", ".join(chemical_symbols[z] for z in unknown)
        raise UnknownElementError(
            f"the model does not know {symbols}; it knows {', '.join(chemical_symbols[z] for z in model.elements)}"
        )
    kept = torch.tensor([k for k, z in enumerate(model.elements) if z in set(elements)])
    options = model.hyperparameters | {"elements": sorted(set(elements)), "heads": list(heads)}
    new = MACE(**options).to(device=model.embedding.device, dtype=model.dtype)
    state = dict(model.state_dict())
    _keep_elements(model, state, kept.to(model.embedding.device))
    _copy_head(model, state, head, len(heads))
    new.load_state_dict(state)
    return new


def _keep_elements(model: MACE, state: dict[str, Tensor], kept: Tensor) -> None:
    """Rows of the elements `kept`; what is divided by the root of their number in the network is scaled by it."""
    factor = math.sqrt(len(kept) / len(model.elements))

    def keep(name: str, scale: float = 1.0) -> None:
        if name in state:
            rows = state[name].index_select(0, kept)
            state[name] = rows if scale == 1.0 else (rows.double() * scale).to(rows.dtype)

    keep("embedding", factor)
    for name in ("radial.transform.covalent_radii", "repulsion.covalent_radii"):
        keep(name)
    for path, module in model.named_modules():
        if isinstance(module, ElementLinear | PairEmbedding):
            for name, _ in module.named_parameters():
                keep(f"{path}.{name}", factor)
    if not model.hyperparameters["agnostic_product"]:
        for name in [name for name in state if ".contraction.weights." in name]:
            keep(name)


def _copy_head(model: MACE, state: dict[str, Tensor], head: int, count: int) -> None:
    """Readouts of one head, `count` times; hidden units of all heads are counted in the norms of what follows them."""
    factor = math.sqrt(count / len(model.heads))
    for path, module in model.named_modules():
        if not isinstance(module, Readout):
            continue
        for kind in ("weights", "biases"):
            for k, tensor in enumerate(getattr(module, kind)):
                scale = factor if kind == "weights" and k else 1.0
                copied = tensor.detach()[head : head + 1].expand(count, *[-1] * (tensor.dim() - 1))
                state[f"{path}.{kind}.{k}"] = (copied.double() * scale).to(tensor.dtype).contiguous()


def parts(model: MACE) -> dict[str, list[nn.Parameter]]:
    """The parameters of the network in the order that a structure passes them, by the names of mace's parts.

    Together they are all parameters; those of the products are the contraction and the map after it.
    """
    found: dict[str, list[nn.Parameter]] = {"embedding": [model.embedding], "interactions": [], "products": []}
    for name, parameter in model.layers.named_parameters():
        product = name.split(".")[1] in ("contraction", "product")
        found["products" if product else "interactions"].append(parameter)
    return found | {"readouts": list(model.readouts.parameters())}
