"""Low-rank adaptation (LoRA, Hu et al., arXiv:2106.09685) of a MACE: only adapters of its linear maps are trained.

    W = W0 + (alpha / rank) c A B

W0 is the frozen matrix of an irrep, of a layer of a radial network, or of a readout; a map of the channels of each
irrep commutes with rotations whatever its matrix is, so that any A and B keep the model equivariant. c is 1/√rank for
maps between irreps and readouts, whose adapters in mace-torch are e3nn's linear layers with their norm of the fan-in,
and 1 for radial networks. As in mace-torch A begins with a standard deviation of 0.001 and B with zero, and what
depends on the element in other ways than the embedding (skip connections, products) is not adapted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mlip.errors import InputError
from mlip.graph import AtomGraph
from mlip.models.base import AtomOutputs, Derivatives, EnergyModel, Evaluator, Head
from mlip.models.compiled_mace import is_covered
from mlip.models.mace import MACE
from mlip.nn.irreps import IrrepsLinear
from mlip.nn.message import Message, PairEmbedding
from mlip.nn.radial import NormalizedMLP, RadialMLP
from mlip.nn.readout import Readout
from mlip.potential import Potential
from mlip.property_model import PropertyModel

#: Standard deviation of the first numbers of A, mace-torch's.
FIRST = 1e-3


def adapted_weights(model: MACE, rank: int) -> dict[str, float]:
    """Names of the weights that have adapters, and the factor c of each."""
    between_irreps = 1 / math.sqrt(rank)
    found = {"embedding": between_irreps}
    for path, module in model.named_modules():
        if isinstance(module, IrrepsLinear):
            found |= {f"{path}.weights.{k}": between_irreps for k in range(len(module.weights))}
        elif isinstance(module, Message):
            found |= {f"{path}.mix.{k}": between_irreps for k in range(len(module.mix))}
        elif isinstance(module, Readout):
            found |= {f"{path}.weights.{k}": between_irreps for k in range(len(module.weights))}
        elif isinstance(module, PairEmbedding):
            found |= {f"{path}.{name}": between_irreps for name in ("neighbor", "center")}
        elif isinstance(module, RadialMLP):
            found |= {f"{path}.weights.{k}": 1.0 for k in range(len(module.weights))}
        elif isinstance(module, NormalizedMLP):
            found |= {f"{path}.linears.{k}.weight": 1.0 for k in range(len(module.linears))}
    return found


class LowRank(EnergyModel):
    """A frozen MACE with adapters; `merged` is the MACE that it amounts to.

    Args:
        base: the network; its parameters are frozen, in place.
        rank: columns of A and rows of B.
        alpha: the update is multiplied by alpha / rank.
        seed: of the first numbers of A.

    Raises:
        InputError: a rank that is no positive whole number, an alpha that is not positive and finite.
    """

    def __init__(self, base: MACE, rank: int, alpha: float, seed: int = 0) -> None:
        if rank < 1 or not 0 < alpha < math.inf:
            raise InputError(f"rank {rank}, alpha {alpha}: expected at least 1, and a positive number")
        super().__init__(**base.hyperparameters)
        self.isolated_is_E0, self.cutoff_smoothness = base.isolated_is_E0, base.cutoff_smoothness
        self.base = base.requires_grad_(False)
        self.rank, self.alpha = rank, alpha
        self.factors = {name: alpha / rank * c for name, c in adapted_weights(base, rank).items()}
        self.names = list(self.factors)
        self.a, self.b = nn.ParameterList(), nn.ParameterList()
        generator = torch.Generator().manual_seed(seed)
        for name in self.names:
            weight = base.get_parameter(name)
            *stack, rows, columns = weight.shape
            first = FIRST * torch.randn(*stack, rows, rank, generator=generator, dtype=torch.float64)
            self.a.append(nn.Parameter(first.to(weight)))
            self.b.append(nn.Parameter(weight.new_zeros(*stack, rank, columns)))

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    def effective(self) -> dict[str, Tensor]:
        """The adapted weights W by name, as functions of the adapters."""
        terms = zip(self.names, self.a, self.b, strict=True)
        return {name: self.base.get_parameter(name) + self.factors[name] * (a @ b) for name, a, b in terms}

    def forward(self, graph: AtomGraph, head: Head = 0) -> AtomOutputs:
        found: AtomOutputs = functional_call(self.base, self.effective(), (graph, head))
        return found

    def compiled(self, radial: str, trained: bool = False) -> Evaluator | None:
        if not trained:
            return self.merged().compiled(radial)
        return _Trained(self, radial) if is_covered(self.base) else None

    def merged(self) -> MACE:
        """A MACE of its own with the present weights W, added up in float64."""
        with torch.no_grad():
            merged = deepcopy(self.base)
            for name, a, b in zip(self.names, self.a, self.b, strict=True):
                weight = merged.get_parameter(name)
                weight.copy_(weight.double() + self.factors[name] * (a.double() @ b.double()))
        return merged


class _Trained:
    """The compiled operators with the weights W; derivatives go to the adapters.

    They are made of the weights of the moment that this is made, as those of MACE itself are.
    """

    def __init__(self, model: LowRank, radial: str) -> None:
        self._weights: Mapping[str, Tensor] = {f"base.{name}": w for name, w in model.effective().items()}
        self._call = _Compiled(model.base, radial)

    def __call__(self, graph: AtomGraph, head: Head = 0) -> AtomOutputs:
        found: AtomOutputs = functional_call(self._call, dict(self._weights), (graph, head))
        return found

    def first_derivatives(self, graph: AtomGraph, head: int = 0, strain: bool = True) -> Derivatives:
        """As those of the compiled operators."""
        found: Derivatives = functional_call(self._call, dict(self._weights), (graph, head, strain))
        return found


class _Compiled(nn.Module):
    """Makes the compiled operators anew and calls them, while `functional_call` has put other weights into the base."""

    def __init__(self, base: MACE, radial: str) -> None:
        super().__init__()
        self.base, self.radial = base, radial

    def forward(self, graph: AtomGraph, head: Head, strain: bool | None = None) -> AtomOutputs | Derivatives:
        evaluate = self.base.compiled(self.radial, trained=True)
        assert evaluate is not None
        if strain is None:
            return evaluate(graph, head)
        found: Derivatives = evaluate.first_derivatives(graph, head, strain)  # type: ignore[attr-defined]
        return found


def as_users_get_it(potential: Potential | PropertyModel) -> Potential | PropertyModel:
    """The model itself or, of a potential with adapters, one whose weights have them added."""
    if not isinstance(potential, Potential) or not isinstance(potential.model, LowRank):
        return potential
    merged = Potential(
        potential.model.merged(),
        references=potential.energy_scale.references(),
        metadata=potential.metadata,
        head=potential.head,
    )
    return merged.to(potential.device)
