"""Messages that cannot change any result are left out of an evaluation.

Weight decay wears down what training does not need: in MACE-MP-0a small all matrices behind the messages of l > 0 in
the second layer are below 1e-115. What they would add is far below the rounding of what it is added to.
"""

from __future__ import annotations

from dataclasses import replace

from e3nn import o3
from torch import nn

from mlip.models.mace_layer import Layer
from mlip.nn.constants import Constants
from mlip.nn.message import Message
from mlip.nn.product_basis import SymmetricContraction
from mlip.nn.radial import NormalizedMLP, RadialMLP

#: Largest weight behind a message that is left out, relative to the largest of the layer.
NEGLIGIBLE = 1e-30
#: The lowest l_max that the compiled messages have.
LOWEST = 1


def narrow(layer: Layer) -> None:
    """Take the highest degrees of the message from a layer, in place, where their weights are negligible.

    Layers that are not of the usual kind (scalars sent, a skip connection around the product) stay as they are.
    """
    message, irreps = layer.interaction.message, layer.options.message_irreps
    radial = message.radial
    if isinstance(radial, NormalizedMLP) or not layer.residual:
        return
    if message.dims_in != [1] or None in message.irreps_out:
        return
    sizes = [float(mix.abs().max()) * norm for mix, norm in zip(message.mix, message.norm, strict=True)]
    # A weight that is not a number is needed, too.
    needed = [ir.l for ir, size in zip(irreps, sizes, strict=True) if not size <= NEGLIGIBLE * max(sizes)]
    l_max = max([LOWEST, *needed])
    kept = tuple(ir for ir in irreps if ir.l <= l_max)
    if kept == irreps or kept != irreps[: len(kept)]:
        return
    layer.options = replace(layer.options, message_irreps=kept)
    _narrow_message(message, radial, l_max)
    _narrow_contraction(layer.contraction, sum(ir.dim for ir in kept))


def _narrow_message(message: Message, radial: RadialMLP, l_max: int) -> None:
    paths = [k for k, (out, _, _) in enumerate(message.paths) if out.l <= l_max]
    last = radial.weights[-1]
    columns = last.unflatten(1, (len(message.paths), message.channels))[:, paths].flatten(1)
    radial.weights[-1] = nn.Parameter(columns, requires_grad=False)
    message.couplings = Constants([message.couplings[k] for k in paths])
    message.paths = [message.paths[k] for k in paths]
    outputs: list[o3.Irrep | None] = [ir for ir in message.irreps_out if ir is not None and ir.l <= l_max]
    message.irreps_out, message.dims_out = outputs, message.dims_out[: len(outputs)]
    message.mix, message.norm = message.mix[: len(outputs)], message.norm[: len(outputs)]
    message.harmonics = message.harmonics[: 1 + max(j for _, _, j in message.paths)]
    message.dims_y = message.dims_y[: len(message.harmonics)]


def _narrow_contraction(contraction: SymmetricContraction, dim_in: int) -> None:
    """Only products of the first `dim_in` components."""
    terms, monomials, coefficients = [], [], []
    for t, term in enumerate(contraction.terms):
        left = (contraction.monomials[t] < dim_in).all(dim=1)
        if left.any():
            terms.append(term)
            monomials.append(contraction.monomials[t][left])
            coefficients.append(contraction.coefficients[t][..., left])
    contraction.dim_in, contraction.terms = dim_in, terms
    contraction.monomials, contraction.coefficients = Constants(monomials), Constants(coefficients)
    vars(contraction).pop("program", None)
