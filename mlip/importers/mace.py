"""Models of mace-torch: its pickled `.model` files as a `Potential`, without mace-torch and without running them."""

from __future__ import annotations

import hashlib
import math
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlip.energy_scale import Reference
from mlip.errors import MLIPError, ModelFileError
from mlip.importers.mace_sizes import check_sizes
from mlip.importers.mace_weights import activation, edge_irreps, layer_weights, readout_weights, weights_by_order
from mlip.importers.modules import ForeignModule, MulIr
from mlip.importers.torch_archive import Record, read_archive
from mlip.models import MACE
from mlip.models.mace_layer import INTERACTIONS, Layer
from mlip.nn.constants import double
from mlip.potential import Potential

ADMITTED = ("mace", "e3nn", "torch.nn", "torch.fx", "opt_einsum_fx")
BASES = {"BesselBasis": "bessel", "GaussianBasis": "gaussian", "ChebychevBasis": "chebyshev"}
PARTS = (
    *("node_embedding", "radial_embedding", "spherical_harmonics", "atomic_energies_fn", "interactions", "products"),
    *("readouts", "scale_shift", "pair_repulsion_fn"),
)


def load_mace(path: str | PathLike[str], head: str | None = None) -> Potential:
    """A potential from a `MACE` or `ScaleShiftMACE` that mace-torch saved, in the precision of the file.

    Args:
        path: a `.model` file.
        head: which head of a model of several; None takes the only one, or the one called "default".

    Raises:
        ModelFileError: not such a file, a damaged or hostile one, or a model with parts that mlip does not know.
        InputError: several heads and none chosen, or no such head.
        OSError: the file can't be read.
    """
    path = Path(path)
    return mace_potential(read_archive(path, ADMITTED), path, head)


def mace_potential(root: Any, path: Path, head: str | None = None) -> Potential:
    """The same of what `read_archive` found in the file."""
    if not isinstance(root, Record):
        raise ModelFileError(
            f"{path} holds a {type(root).__name__}, not a model: a checkpoint of a training? Expected the .model file "
            "that mace-torch writes when it has finished, or the state dict of a DimeNet or DimeNetPlusPlus of "
            "PyTorch Geometric"
        )
    try:
        module = ForeignModule(root)
        if module.kind not in ("MACE", "ScaleShiftMACE"):
            raise ModelFileError(f"a {root.kind}; expected a MACE or ScaleShiftMACE of mace-torch")
        model, references = build(module)
    except (MLIPError, LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError) as error:
        reason = str(error) if isinstance(error, MLIPError) else f"{type(error).__name__}: {error}"
        raise ModelFileError(f"{path} is no model of mace-torch that mlip can run: {reason}") from error
    source = {"program": "mace-torch", "class": module.kind, "file": path.name, "sha256": sha256(path)}
    potential = Potential(model, references=references, metadata={"source": source}, head=head)
    return potential.requires_grad_(False)


def sha256(path: Path) -> str:
    """Of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def build(module: ForeignModule) -> tuple[MACE, list[Reference]]:
    """The network and, for each head, the energies it is relative to."""
    module.expect_children(*PARTS)
    module.child("radial_embedding").expect_children("bessel_fn", "cutoff_fn", "distance_transform")
    harmonics = module.child("spherical_harmonics")
    if (harmonics.get("normalize"), harmonics.get("normalization")) != (True, "component"):
        raise ModelFileError(f"spherical harmonics normalised by {harmonics.get('normalization')!r}")
    options = hyperparameters(module)
    numbers = sorted(options["elements"])
    embedding = module.child("node_embedding").child("linear")
    if embedding.kind != "Linear":
        raise ModelFileError(
            f"its matrices are {embedding.kind}: merge adapters, and convert to e3nn, in mace-torch first"
        )
    dtype = embedding.tensor("weight").dtype
    if dtype not in (torch.float32, torch.float64):
        raise ModelFileError(f"weights of {dtype}; expected float32 or float64")
    check_sizes(module, options)
    model = MACE(**options).to(dtype)
    state = weights(module, model)
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise ModelFileError(f"{name}: numbers that are not finite")
    model.load_state_dict(state)
    E0s = torch.atleast_2d(module.child("atomic_energies_fn").tensor("atomic_energies")).double()[:, in_order(module)]
    scale, shift = torch.ones(len(model.heads)), torch.zeros(len(model.heads))
    if module.kind == "ScaleShiftMACE":
        scale, shift = (torch.atleast_1d(module.child("scale_shift").tensor(name)) for name in ("scale", "shift"))
    if E0s.shape != (len(model.heads), len(numbers)) or not len(model.heads) == len(scale) == len(shift):
        raise ModelFileError(
            f"reference energies {tuple(E0s.shape)}, {len(scale)} scales and {len(shift)} shifts do not fit "
            f"{len(model.heads)} heads and {len(numbers)} elements"
        )
    if not all(bool(values.isfinite().all()) for values in (E0s, scale, shift)):
        raise ModelFileError("reference energies, scale or shift that are not finite")
    rows = zip(E0s.tolist(), scale.double().tolist(), shift.double().tolist(), strict=True)
    return model, [Reference(dict(zip(numbers, row, strict=True)), *rest) for row, *rest in rows]


def hyperparameters(module: ForeignModule) -> dict[str, Any]:
    """Arguments of `MACE` for the network."""
    interactions, products = module.child("interactions").children(), module.child("products").children()
    readouts = module.child("readouts").children()
    n_layers = len(interactions)
    if len(products) != n_layers or len(readouts) not in {n_layers, 1}:
        raise ModelFileError(f"{n_layers} interactions, {len(products)} products, {len(readouts)} readouts")
    kinds = [interaction_kind(block) for block in interactions]
    if len(set(kinds[1:])) > 1:
        raise ModelFileError(f"layers of different kinds after the first ({', '.join(kinds)})")
    radial = module.child("radial_embedding")
    options: dict[str, Any] = {
        "elements": elements(module),
        "cutoff": cutoff(module),
        "hidden_irreps": [spec(block.irreps("hidden_irreps")) for block in interactions],
        "edge_irreps": sent_features(interactions),
        "l_max": one_or_all([max(ir.l for _, ir in block.irreps("edge_attrs_irreps")) for block in interactions]),
        "correlation": one_or_all([correlation(product) for product in products]),
        "num_interactions": n_layers,
        "avg_num_neighbors": same("avg_num_neighbors", [float(b.get("avg_num_neighbors")) for b in interactions]),
        "radial_mlp": same("radial perceptrons", [radial_sizes(block) for block in interactions]),
        "interaction_first": kinds[0],
        "interaction": kinds[-1],
        "pair_repulsion": "pair_repulsion_fn" in module,
        "agnostic_product": same("use_agnostic_product", [bool(p.get("use_agnostic_product")) for p in products]),
        "last_readout_only": len(readouts) < n_layers,
        "so3": any(ir.l == 1 and ir.p == 1 for block in interactions for _, ir in block.irreps("edge_attrs_irreps")),
        "heads": [str(head) for head in module.get("heads") or ["default"]],
    }
    if not isinstance(module.get("heads") or [], list | tuple):
        raise ModelFileError("heads are no list of names")
    if len(options["heads"]) > 1 and readouts[-1].kind == "NonLinearBiasReadoutBlock" and _is_0_3_14(module):
        warnings.warn(
            "a model of several heads with biased readouts saved by mace-torch 0.3.14, which mixed the heads' hidden "
            "units; its numbers here are those of mace-torch 0.3.15 and later, which do not",
            stacklevel=2,
        )
    return options | radial_options(module, radial) | readout_options(readouts[-1], len(options["heads"]))


def _is_0_3_14(module: ForeignModule) -> bool:
    """Whether the model has all options of mace-torch 0.3.14, but not those that came with 0.3.15."""
    return module.get("use_agnostic_product") is not None and module.get("use_edge_irreps_first") is None


def cutoff(module: ForeignModule) -> float:
    """Where the envelope ends: in some float32 models rounded, while the radius for the list of neighbors is not."""
    envelope = module.child("radial_embedding").child("cutoff_fn").tensor("r_max").item()
    listed = float(module.plain("r_max"))
    if not math.isclose(envelope, listed, rel_tol=1e-6):
        raise ModelFileError(f"neighbors up to the cutoff {listed}, but an envelope that ends at {envelope}")
    return envelope


def radial_options(module: ForeignModule, radial: ForeignModule) -> dict[str, Any]:
    basis = radial.child("bessel_fn")
    if basis.kind not in BASES:
        raise ModelFileError(f"radial functions {basis.kind}; expected one of {', '.join(BASES)}")
    transform = distance_transform(radial.child("distance_transform")) if "distance_transform" in radial else None
    p = {"radial_embedding.cutoff_fn": radial.child("cutoff_fn").tensor("p").item()}
    if "pair_repulsion_fn" in module:
        p["pair_repulsion_fn"] = module.child("pair_repulsion_fn").tensor("p").item()
    return {
        "num_bessel": radial.get("out_dim"),
        "num_polynomial_cutoff": int(same("orders of the envelopes", list(p.values()))),
        "radial_basis": BASES[basis.kind],
        "distance_transform": transform,
        "apply_cutoff": bool(radial.get("apply_cutoff", True)),
    }


def distance_transform(transform: ForeignModule) -> str:
    """Its name here; two functions were called `SoftTransform`."""
    if transform.kind == "AgnesiTransform":
        return "Agnesi"
    if transform.kind == "SoftTransform":
        return "Soft" if "alpha" in transform else "early Soft"
    raise ModelFileError(f"distances transformed by {transform.kind}; expected AgnesiTransform or SoftTransform")


def readout_options(readout: ForeignModule, num_heads: int) -> dict[str, Any]:
    if readout.kind == "LinearReadoutBlock":
        return {}
    if readout.kind not in ("NonLinearReadoutBlock", "NonLinearBiasReadoutBlock"):
        raise ModelFileError(f"readout {readout.kind}")
    if num_heads != readout.get("num_heads", 1):
        raise ModelFileError(f"a readout of {readout.get('num_heads', 1)} heads in a model of {num_heads}")
    width = sum(mul for mul, _ in readout.irreps("hidden_irreps")) // num_heads
    acts = readout.child("non_linearity").child("acts").children()
    return {
        "mlp_irreps": f"{width}x0e",
        "gate": activation(acts[0]) if acts else "None",
        "readout_bias": readout.kind == "NonLinearBiasReadoutBlock",
    }


def interaction_kind(block: ForeignModule) -> str:
    for kind, name in INTERACTIONS.items():
        if name == block.kind:
            return kind
    raise ModelFileError(f"interaction {block.kind}; expected one of {', '.join(INTERACTIONS.values())}")


def radial_sizes(block: ForeignModule) -> list[int]:
    """Hidden sizes of the perceptron of an interaction."""
    perceptron = block.child("conv_tp_weights")
    sizes = perceptron.get("hs")
    if not isinstance(sizes, list) or not all(isinstance(n, int) for n in sizes):
        raise ModelFileError(f"{perceptron.name}: no sizes of layers")
    return sizes[1:-1]


def correlation(product: ForeignModule) -> int:
    contractions = product.child("symmetric_contractions").child("contractions").children()
    return same(f"orders of {product.name}", [len(weights_by_order(contraction)) for contraction in contractions])


def same(what: str, values: list[Any]) -> Any:
    """The one value of all; layers that differ where ours can't are refused."""
    if any(value != values[0] for value in values):
        raise ModelFileError(f"{what} differ between layers: {values}")
    return values[0]


def one_or_all(values: list[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else values


def sent_features(interactions: list[ForeignModule]) -> list[str] | None:
    """Irreps of the edges by layer, None where they are those of the atoms."""
    edges = [edge_irreps(block) for block in interactions]
    return None if edges == [block.irreps("node_feats_irreps") for block in interactions] else [*map(spec, edges)]


def spec(irreps: list[MulIr]) -> str:
    """Irreps in e3nn's notation."""
    return " + ".join(f"{mul}x{ir}" for mul, ir in irreps)


def elements(module: ForeignModule) -> list[int]:
    """Atomic numbers in the order of the file."""
    numbers = torch.as_tensor(module.plain("atomic_numbers")).tolist()
    if not all(isinstance(z, int) for z in numbers) or len(set(numbers)) < len(numbers):
        raise ModelFileError(f"elements {numbers}; expected atomic numbers, each once")
    return numbers


def in_order(module: ForeignModule) -> Tensor:
    """Where the elements, which may stand in any order in the file, are found in ascending order."""
    return torch.tensor(elements(module)).argsort()


def weights(module: ForeignModule, model: MACE) -> dict[str, Tensor]:
    """The state of `model` from the tensors of the file."""
    order = in_order(module)
    embedding = module.child("node_embedding").child("linear").tensor("weight")
    state = {"embedding": embedding.view(len(order), -1)[order]}
    state |= {f"radial.{name}": t for name, t in radial_weights(module.child("radial_embedding"), model).items()}
    if "pair_repulsion_fn" in module:
        zbl = module.child("pair_repulsion_fn")
        state["repulsion.coefficients"] = zbl.tensor("c")
        state |= {f"repulsion.{name}": zbl.tensor(name) for name in ("a_exp", "a_prefactor")}
        state["repulsion.covalent_radii"] = zbl.tensor("covalent_radii")[list(model.elements)]
    blocks = zip(module.child("interactions").children(), module.child("products").children(), strict=True)
    for t, (interaction, product) in enumerate(blocks):
        layer = model.layers[t]
        assert isinstance(layer, Layer)
        tensors = layer_weights(interaction, product, layer, order)
        state |= {f"layers.{t}.{name}": tensor for name, tensor in tensors.items()}
    for k, readout in enumerate(module.child("readouts").children()):
        tensors = readout_weights(readout, len(model.heads))
        state |= {f"readouts.{k}.{name}": tensor for name, tensor in tensors.items()}
    return state


def radial_weights(radial: ForeignModule, model: MACE) -> dict[str, Tensor]:
    """Constants of the radial functions as the file has them: in a float32 model they are rounded."""
    basis = radial.child("bessel_fn")
    names = {
        "BesselBasis": {"frequencies": "bessel_weights", "prefactor": "prefactor"},
        "GaussianBasis": {"centers": "gaussian_weights"},
    }
    state = {f"basis.{ours}": basis.tensor(theirs) for ours, theirs in names.get(basis.kind, {}).items()}
    if basis.kind == "GaussianBasis":
        state["basis.width"] = double(math.sqrt(-0.5 / basis.get("coeff")))
    if "distance_transform" in radial:
        transform = radial.child("distance_transform")
        for name, tensor in transform.tensors().items():
            picked = tensor[list(model.elements)] if name == "covalent_radii" else tensor
            state[f"transform.{name}"] = picked
    return state
