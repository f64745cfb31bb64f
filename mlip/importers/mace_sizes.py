"""Are the sizes a file of mace-torch declares those of the numbers it holds? Asked before memory is taken for them."""

from __future__ import annotations

from typing import Any

from e3nn import o3

from mlip.errors import ModelFileError
from mlip.importers.mace_weights import couplings, edge_irreps, weights_by_order
from mlip.importers.modules import ForeignModule
from mlip.nn.irreps import Irreps, spherical_irreps


def check_sizes(module: ForeignModule, options: dict[str, Any]) -> None:
    """Refuse options of `MACE` that the tensors of the file do not bear out.

    A few bytes can declare a million channels or degrees up to 100; the tables for them would fill any memory.
    """
    available = module.count()
    widths = [*options["radial_mlp"], options["num_bessel"], *(o3.Irreps(s)[0].mul for s in options["hidden_irreps"])]
    largest = max(a * b for a in widths for b in options["radial_mlp"] + widths[-1:])
    if min(widths) < 1 or max(largest, widths[-1] ** 2) > available:
        raise ModelFileError(f"layers of {max(widths)} units do not fit the {available} numbers in the file")
    _expect("basis functions", options["num_bessel"], _first_width(module.child("interactions").children()[0]))
    blocks = zip(module.child("interactions").children(), module.child("products").children(), strict=True)
    for interaction, product in blocks:
        message = tuple(ir for _, ir in interaction.irreps("target_irreps"))
        _check_messages(interaction, message)
        _check_products(product, message)


def _expect(what: str, declared: int, found: int) -> None:
    if declared != found:
        raise ModelFileError(f"{declared} {what} are declared, but there are numbers for {found}")


def _first_width(interaction: ForeignModule) -> int:
    """Basis functions that the first matrix of the radial perceptron takes."""
    perceptron = interaction.child("conv_tp_weights")
    if perceptron.kind != "RadialMLP":
        return perceptron.children()[0].tensor("weight").shape[0]
    first = perceptron.child("net").children()[0].tensor("weight").shape[1]
    return first - 2 * sum(mul for mul, ir in interaction.irreps("node_feats_irreps") if ir == o3.Irrep("0e"))


def _check_messages(interaction: ForeignModule, message: Irreps) -> None:
    """The paths of the convolution are those of its irreps, and the message's irreps those of the harmonics."""
    left, harmonics = edge_irreps(interaction), [ir for _, ir in interaction.irreps("edge_attrs_irreps")]
    top = max(ir.l for ir in harmonics)
    both = tuple(sorted(o3.Irrep(degree, parity) for degree in range(top + 1) for parity in (1, -1)))
    if message not in (spherical_irreps(top), spherical_irreps(top, so3=True), both) or len(harmonics) != top + 1:
        raise ModelFileError(f"{interaction.name}: messages {message} of harmonics up to degree {top}")
    paths = sum(out in message for _, a in left for b in harmonics for out in a * b)
    _expect(f"paths of {interaction.name}", paths, len(interaction.child("conv_tp").get("instructions") or []))


def _check_products(product: ForeignModule, message: Irreps) -> None:
    """The tables of couplings have the shapes of the irreps."""
    contraction = product.child("symmetric_contractions")
    dim = sum(ir.dim for ir in message)
    _expect(f"components of {contraction.name}", sum(ir.dim for _, ir in contraction.irreps("irreps_in")), dim)
    outputs, blocks = contraction.irreps("irreps_out"), contraction.child("contractions").children()
    _expect(f"outputs of {contraction.name}", len(outputs), len(blocks))
    for (_, ir), block in zip(outputs, blocks, strict=True):
        for order in weights_by_order(block):
            table = couplings(block, order)
            shape = ((ir.dim,) if ir.l else ()) + (dim,) * order
            if not 1 <= order <= 8 or tuple(table.shape[:-1]) != shape:
                raise ModelFileError(f"{block.name}: a table {tuple(table.shape)} of order {order}, expected {shape}")
