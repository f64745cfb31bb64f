"""Weights of mace-torch's layers under our names."""

from __future__ import annotations

import math

import torch
from e3nn import o3
from torch import Tensor

from mlip.errors import ModelFileError
from mlip.importers.modules import ForeignModule, MulIr, element_linear, linear
from mlip.models.mace_layer import SCALAR, Layer, NonLinearInteraction
from mlip.nn.activation import ACTIVATIONS
from mlip.nn.irreps import Irreps
from mlip.nn.message import Message
from mlip.nn.product_basis import polynomial, symmetrised
from mlip.nn.radial import NormalizedMLP

#: Largest deviation of a file's coupling coefficients from a combination of ours, relative to the largest: above the
#: rounding of float32.
COUPLING_TOLERANCE = 1e-5
PARTS = ("linear_up", "conv_tp", "conv_tp_weights", "linear", "skip_tp", "reshape", "density_fn")
NONLINEAR_PARTS = (
    *("linear_up", "conv_tp", "conv_tp_weights", "linear_1", "linear_2", "linear_res", "skip_tp", "reshape"),
    *("density_fn", "source_embedding", "target_embedding", "equivariant_nonlin"),
)
Path = tuple[o3.Irrep, o3.Irrep, o3.Irrep]


def layer_weights(
    interaction: ForeignModule, product: ForeignModule, layer: Layer, elements: Tensor
) -> dict[str, Tensor]:
    """The state of one `Layer` from an interaction block and a product block; `elements` is their order."""
    interaction.expect_children(*(NONLINEAR_PARTS if layer.nonlinear else PARTS))
    product.expect_children("symmetric_contractions", "linear")
    if layer.residual and not product.get("use_sc", True):
        raise ModelFileError(f"{product.name} does not add what {interaction.name} keeps of the features")
    state = listed("interaction.up.weights", linear(interaction.child("linear_up")))
    if layer.nonlinear:
        state |= nonlinear_weights(interaction, layer, elements)
    else:
        state |= message_weights(interaction, layer.interaction.message, linear(interaction.child("linear")))
        state |= listed("skip.weights", element_linear(interaction.child("skip_tp"), elements))
    if "density_fn" in interaction:
        density = perceptron_weights(interaction.child("density_fn"))
        state |= {f"interaction.density.radial.{name}": tensor for name, tensor in density.items()}
    state |= listed("product.weights", linear(product.child("linear")))
    contraction = product.child("symmetric_contractions")
    names = [ir for _, ir in contraction.irreps("irreps_out")]
    irreps_in = tuple(ir for _, ir in contraction.irreps("irreps_in"))
    for ir, block in zip(names, contraction.child("contractions").children(), strict=True):
        for order, tensor in contraction_weights(block, irreps_in, ir).items():
            state[f"contraction.weights.{ir}_{order}"] = tensor if layer.agnostic_product else tensor[elements]
    return state


def nonlinear_weights(interaction: ForeignModule, layer: Layer, elements: Tensor) -> dict[str, Tensor]:
    """Those of a `RealAgnosticResidualNonLinearInteractionBlock` that the other kinds do not have."""
    gated = layer.interaction
    assert isinstance(gated, NonLinearInteraction)
    columns = 1 + gated.n_gates
    state = message_weights(interaction, gated.message, linear(interaction.child("linear_1")), columns)
    state |= listed("interaction.residual.weights", linear(interaction.child("linear_res")), columns)
    state |= listed("interaction.mix.weights", linear(interaction.child("linear_2")))
    state |= listed("skip.weights", linear(interaction.child("skip_tp")))
    for ours, theirs in (("neighbor", "source_embedding"), ("center", "target_embedding")):
        embedding = interaction.child(theirs).tensor("weight").view(len(elements), -1)
        state[f"interaction.pair.{ours}"] = embedding[elements]
    return state | {f"interaction.{name}": interaction.tensor(name) for name in ("alpha", "beta")}


def message_weights(
    interaction: ForeignModule, message: Message, mix: dict[o3.Irrep, Tensor], scalar_columns: int = 1
) -> dict[str, Tensor]:
    """Radial network and mixing of the paths, brought from the file's order of irreps to the ascending one."""
    ours, radial_order, mixed_order = message.named_paths(), *path_orders(interaction.child("conv_tp"))
    perceptron = perceptron_weights(interaction.child("conv_tp_weights"))
    columns = [radial_order.index(path) for path in ours]
    if isinstance(message.radial, NormalizedMLP):
        for name in (f"linears.{len(message.radial.linears) - 1}.{part}" for part in ("weight", "bias")):
            perceptron[name] = reordered(perceptron[name], columns, dim=0)
    else:
        last = f"weights.{len(message.radial.weights) - 1}"
        perceptron[last] = reordered(perceptron[last], columns, dim=1)
    for ir in mix:
        into = [path for path in mixed_order if path[-1] == ir]
        mix[ir] = reordered(mix[ir], [into.index(path) for path in ours if path[-1] == ir], dim=0)
    state = {f"interaction.message.radial.{name}": tensor for name, tensor in perceptron.items()}
    return state | listed("interaction.message.mix", mix, scalar_columns)


def path_orders(conv_tp: ForeignModule) -> tuple[list[Path], list[Path]]:
    """Paths (irrep of the neighbor, of the harmonics, of the message) in the order of the radial network's columns and
    in that of the message's components: models of 2022 have two orders."""
    left, right, out = ([ir for _, ir in conv_tp.irreps(name)] for name in ("irreps_in1", "irreps_in2", "irreps_out"))
    columns, components = [], {}
    for i, j, k, mode, has_weight, scale, _ in (record.args for record in conv_tp.get("instructions") or []):
        if mode != "uvu" or not has_weight or not math.isclose(scale, out[k].dim ** 0.5, rel_tol=1e-6):
            raise ModelFileError(f"{conv_tp.name}: a path {mode}, weighted {has_weight}, scaled by {scale}")
        components[k] = (left[i], right[j], out[k])
        columns.append(components[k])
    return columns, [components[k] for k in sorted(components)]


def reordered(tensor: Tensor, order: list[int], dim: int) -> Tensor:
    """Blocks of equal length along `dim` in another order."""
    return tensor.unflatten(dim, (len(order), -1)).index_select(dim, torch.tensor(order)).flatten(dim, dim + 1)


def listed(prefix: str, blocks: dict[o3.Irrep, Tensor], scalar_columns: int = 1) -> dict[str, Tensor]:
    """Matrices of irreps as the ascending list we keep; that of the scalars may hold several, column after column."""
    matrices: list[Tensor] = []
    for ir in sorted(blocks):
        matrices += blocks[ir].chunk(scalar_columns, dim=-1) if ir == SCALAR else [blocks[ir]]
    return {f"{prefix}.{k}": matrix for k, matrix in enumerate(matrices)}


def edge_irreps(interaction: ForeignModule) -> list[MulIr]:
    """Features that are sent to neighbors; files older than that option send all."""
    return interaction.irreps("edge_irreps" if interaction.get("edge_irreps") is not None else "node_feats_irreps")


def perceptron_weights(module: ForeignModule) -> dict[str, Tensor]:
    """The state of a `RadialMLP` or, for MACE's perceptron with LayerNorm, a `NormalizedMLP`."""
    if module.kind == "RadialMLP":
        layers = module.child("net").children()
        parts = {"linears": "Linear", "norms": "LayerNorm"}
        if any(layer.kind not in ("Linear", "LayerNorm", "SiLU") for layer in layers) or any(
            layer.get("eps", 1e-5) != 1e-5 for layer in layers
        ):
            raise ModelFileError(f"{module.name}: layers {', '.join(layer.kind for layer in layers)}")
        return {
            f"{ours}.{k}.{name}": layer.tensor(name)
            for ours, kind in parts.items()
            for k, layer in enumerate(layer for layer in layers if layer.kind == kind)
            for name in ("weight", "bias")
        }
    if module.kind != "FullyConnectedNet":
        raise ModelFileError(f"{module.name} is a {module.kind}; expected a perceptron of mace-torch or e3nn")
    layers = module.children()
    for layer in layers:
        if layer.get("var_in") != 1 or layer.get("var_out") != 1:
            raise ModelFileError(f"{layer.name}: variances other than one")
        if "act" in layer and activation(layer.child("act")) != "silu":
            raise ModelFileError(f"{layer.name}: an activation other than silu")
    return {f"weights.{k}": layer.tensor("weight") for k, layer in enumerate(layers)}


def activation(act: ForeignModule) -> str:
    """Name of an activation normalised by e3nn, which stores the factor."""
    one = torch.ones((), dtype=torch.float64)
    plain = {"silu": torch.nn.functional.silu(one), "tanh": one.tanh(), "abs": one}
    for name, value in plain.items():
        if abs((ACTIVATIONS[name](one) / value).item() - act.get("cst")) < 1e-12:
            return name
    raise ModelFileError(f"{act.name}: an activation normalised by {act.get('cst')} is not known")


def contraction_weights(block: ForeignModule, irreps_in: Irreps, ir: o3.Irrep) -> dict[int, Tensor]:
    """Weights (elements, paths, C) of each order of one output irrep, for our paths."""
    found = {}
    for order, tensor in weights_by_order(block).items():
        ours = polynomial(irreps_in, ir, order)
        if ours is not None:
            found[order] = _for_our_paths(tensor, couplings(block, order), ours, order, block.name)
    return found


def weights_by_order(block: ForeignModule) -> dict[int, Tensor]:
    """Weights of a `Contraction`; the first models keep them all by order, later ones the highest order apart."""
    listed = block.child("weights").tensors()
    if "weights_max" not in block:
        return {int(order): tensor for order, tensor in listed.items()}
    highest = 1 + len(listed)
    return {highest: block.tensor("weights_max")} | {highest - 1 - int(k): tensor for k, tensor in listed.items()}


def couplings(block: ForeignModule, order: int) -> Tensor:
    """The U matrix of an order: a buffer, in the first models in a dictionary."""
    early = block.get("U_tensors")
    return early[order] if isinstance(early, dict) else block.tensor(f"U_matrix_{order}")


def _for_our_paths(weights: Tensor, u_matrix: Tensor, ours: tuple[Tensor, Tensor], order: int, name: str) -> Tensor:
    """Weights of the file's paths as weights of ours.

    Usually the two are the same. Models made with cuequivariance have a reduced basis of the symmetric couplings; each
    of its paths is a combination of ours.
    """
    dense = u_matrix.double().movedim(-1, 0)  # (paths, [dim_out,] dim_in, ..., dim_in)
    dense = (dense.unsqueeze(1) if dense.dim() == order + 1 else dense).transpose(0, 1)
    theirs = symmetrised(dense, zero=COUPLING_TOLERANCE)
    if theirs is None:
        raise ModelFileError(f"{name}: the couplings of order {order} are all zero")
    monomials, coefficients = ours
    if not torch.equal(theirs[0], monomials):
        raise ModelFileError(f"{name}: the couplings of order {order} are of other monomials")
    if theirs[1].shape == coefficients.shape and torch.allclose(theirs[1], coefficients, atol=COUPLING_TOLERANCE):
        return weights
    flat, wanted = (c.transpose(0, 1).flatten(1).T for c in (coefficients, theirs[1]))  # (dim_out * M, paths)
    combination = torch.linalg.lstsq(flat, wanted, driver="gelsd").solution
    deviation = (flat @ combination - wanted).abs().max() / wanted.abs().max()
    if not deviation < COUPLING_TOLERANCE:
        raise ModelFileError(f"{name}: couplings of order {order} that are no combination of ours ({deviation:.1e})")
    return torch.einsum("pq,zqc->zpc", combination.to(weights.dtype), weights)


def readout_weights(readout: ForeignModule, num_heads: int) -> dict[str, Tensor]:
    """The state of a `Readout`: of layers over all heads' hidden units the blocks that MACE's mask leaves."""
    h = num_heads
    if readout.kind == "LinearReadoutBlock":
        return {"weights.0": linear(readout.child("linear"))[SCALAR].T.unsqueeze(2)}
    readout.expect_children("linear_1", "non_linearity", "linear_mid", "linear_2")
    first = linear(readout.child("linear_1"))[SCALAR]
    last = linear(readout.child("linear_2"), biased=readout.kind == "NonLinearBiasReadoutBlock")[SCALAR]
    own = torch.arange(h)
    state = {
        "weights.0": first.unflatten(1, (h, -1)).transpose(0, 1),
        "weights.1": last.unflatten(0, (h, -1))[own, :, own].unsqueeze(2),
    }
    if readout.kind == "NonLinearBiasReadoutBlock":
        middle = linear(readout.child("linear_mid"), biased=True)[SCALAR]
        state["weights.2"] = state["weights.1"]
        state["weights.1"] = middle.unflatten(0, (h, -1)).unflatten(2, (h, -1))[own, :, own]
        state["biases.0"] = readout.child("linear_mid").tensor("bias").view(h, -1)
        state["biases.1"] = readout.child("linear_2").tensor("bias").view(h, 1)
    return state
