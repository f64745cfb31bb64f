"""Which code evaluates a model: the compiled operators, checked once against plain torch, or plain torch."""

from __future__ import annotations

import math
import os
import warnings
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.data import covalent_radii
from torch import Tensor

from mlip.convert import atoms_to_graph
from mlip.derivatives import differentiable
from mlip.errors import InputError
from mlip.graph import AtomGraph
from mlip.models.base import EnergyModel, Evaluator
from mlip.ops import only_by_positions
from mlip.ops.dispatch import full_precision, in_forward_mode

BACKENDS = ("compiled", "reference")
RADIALS = ("exact", "table")
#: Largest deviation of energies and forces on the probe, relative to the largest force (at least 1): of exact radial
#: functions by the precision, and what a table may add.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
TABLE_TOLERANCE = 1e-6
#: Of the gradients of a force loss, relative to the largest: by positions and parameters with exact radial functions,
#: by parameters alone with a table, whose second derivatives by distances are rough.
TRAINING_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-2}
TABLE_TRAINING_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-2}


def chosen_backend(backend: str | None) -> str:
    """The backend of this name; None asks the environment variable MLIP_BACKEND, then takes "compiled".

    Raises:
        InputError: another name.
    """
    name = backend or os.environ.get("MLIP_BACKEND") or "compiled"
    if name not in BACKENDS:
        raise InputError(f"backend {name!r}: expected one of {', '.join(BACKENDS)}")
    return name


class _Parts:
    """The modules and tensors that a model is made of."""

    def __init__(self, model: EnergyModel) -> None:
        self.model = model
        self.parameters = list(model.parameters())
        self._tensors = [*self.parameters, *model.buffers()]
        self._places: list[tuple[dict[str, Any], str, object]] = [
            (place, name, part)
            for module in model.modules()
            for place in (module._modules, module._parameters, module._buffers)
            for name, part in place.items()
        ]

    def are_those_of(self, model: EnergyModel) -> bool:
        """Whether nothing was replaced."""
        return self.model is model and all(place.get(name) is part for place, name, part in self._places)

    def versions(self) -> list[tuple[int, int]]:
        """Where the tensors are, and the count of their changes in place."""
        return [(tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version) for tensor in self._tensors]

    def memory(self) -> list[Tensor]:
        """What keeps the memory of the tensors from being used for others."""
        return [tensor.detach() for tensor in self._tensors]


class _Kept(NamedTuple):
    """An evaluator, and what it was made from."""

    parts: _Parts
    versions: list[tuple[int, int]] | None = None
    memory: list[Tensor] | None = None
    evaluator: Evaluator | None = None


class _Learning(NamedTuple):
    """With which radial functions the compiled operators train a model, if they do."""

    model: EnergyModel
    dtype: torch.dtype
    device: torch.device
    radial: str | None


class Acceleration:
    """Chooses and keeps the evaluator of one model.

    Args:
        backend: "compiled" or "reference"; None: `chosen_backend`, at each evaluation.
        radial: radial functions "exact" or from a "table"; None: exact in float64, the table in float32. The reference
            is always exact.

    Raises:
        InputError: other names.
    """

    def __init__(self, backend: str | None = None, radial: str | None = None) -> None:
        if backend is not None:
            chosen_backend(backend)
        if radial not in (None, *RADIALS):
            raise InputError(f"radial {radial!r}: expected one of {', '.join(RADIALS)}")
        self.backend, self.radial = backend, radial
        self._kept: _Kept | None = None
        self._learning: _Learning | None = None
        self._exact: Acceleration | None = None

    def exact(self) -> Acceleration:
        """The same with exact radial functions: second derivatives of tables are rough."""
        if self.radial == "exact":
            return self
        if self._exact is None:
            self._exact = Acceleration(self.backend, "exact")
        return self._exact

    def forget(self) -> None:
        """Make the evaluator anew at the next evaluation: after changes through `parameter.data`, which leave no trace.

        All other changes of a model are noticed; those by a fused optimizer, which leave none either, because the model
        was evaluated with parameters to train.
        """
        self._kept = self._learning = self._exact = None

    def __getstate__(self) -> dict[str, object]:
        """Copies and pickles make their own evaluator."""
        return {"backend": self.backend, "radial": self.radial}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _kept=None, _learning=None, _exact=None)

    def radial_functions(self, model: EnergyModel) -> str:
        """ "exact" or "table", as the evaluator of `model` takes them."""
        return getattr(self.evaluator(model), "radial_functions", "exact")

    def evaluator(self, model: EnergyModel) -> Evaluator:
        """What gives the energies of `model` and their first derivatives by positions and cell.

        For a model whose parameters need gradients it is what trains it. A model made in inference mode, which has no
        derivatives, is its own, and so is any model while derivatives are taken in forward mode. Several threads may
        ask at the same time.
        """
        if chosen_backend(self.backend) == "reference" or in_forward_mode():
            return model
        kept = self._kept
        if kept is None or not kept.parts.are_those_of(model):
            kept = _Kept(_Parts(model))
        if any(parameter.is_inference() for parameter in kept.parts.parameters):
            evaluator: Evaluator | None = None
        elif any(parameter.requires_grad for parameter in kept.parts.parameters):
            kept, evaluator = _Kept(kept.parts), self.trainer(model)
        elif kept.versions != (versions := kept.parts.versions()):
            evaluator = self._verified(model)
            kept = _Kept(kept.parts, versions, kept.parts.memory(), evaluator)
        else:
            evaluator = kept.evaluator
        self._kept = kept
        return evaluator or model

    def trainer(self, model: EnergyModel) -> Evaluator:
        """What gives the energies of `model` with all derivatives up to the second, by its parameters too.

        It is made of the present parameters: ask again after each step of an optimizer. With a table, which large
        batches are trained with, second derivatives by positions alone are rough: see `exact`.
        """
        kept, first = self._kept, next(model.parameters())
        if kept and kept.versions and any(parameter.requires_grad for parameter in kept.parts.parameters):
            self._kept = _Kept(kept.parts)  # fused optimizers do not count their changes
        if chosen_backend(self.backend) == "reference" or in_forward_mode() or first.is_inference():
            return model
        learning = self._learning
        if learning is None or learning[:3] != (model, first.dtype, first.device):
            learning = _Learning(model, first.dtype, first.device, self._learns(model))
            self._learning = learning
        with full_precision(first):
            return (model.compiled(learning.radial, trained=True) if learning.radial else None) or model

    def _learns(self, model: EnergyModel) -> str | None:
        """The radial functions with which the derivatives that training needs are those of plain torch; None: none."""
        if not _trains(model, "exact", TRAINING_TOLERANCE[model.dtype]):
            return None
        tables = self._radial_of(model) == "table"
        return "either" if tables and _trains(model, "table", TABLE_TRAINING_TOLERANCE[model.dtype]) else "exact"

    def _radial_of(self, model: EnergyModel) -> str:
        return self.radial or ("table" if model.dtype == torch.float32 else "exact")

    def _verified(self, model: EnergyModel) -> Evaluator | None:
        radial = self._radial_of(model)
        with torch.no_grad(), full_precision(next(model.parameters())):
            fast = model.compiled(radial)
        if fast is None:
            return None
        tolerance = TOLERANCE[model.dtype] + (TABLE_TOLERANCE if radial == "table" else 0)
        for atoms in probes(model):
            with full_precision(next(model.parameters())):
                deviation = np.max([disagreement(model, fast, atoms, head) for head in range(len(model.heads))])
            if not deviation <= tolerance:
                _warn(atoms, f"{deviation:.1e} of the largest force, allowed {tolerance:.0e}")
                return None
        return fast


def _trains(model: EnergyModel, radial: str, tolerance: float) -> bool:
    """Whether the compiled operators give the gradients of plain torch."""
    with full_precision(next(model.parameters())):
        if model.compiled(radial, trained=True) is None:
            return False
    for atoms in probes(model):
        with full_precision(next(model.parameters())):
            deviation = np.max([gradient_disagreement(model, radial, atoms, head) for head in range(len(model.heads))])
        if not deviation <= tolerance:
            _warn(atoms, f"{deviation:.1e} of the largest gradient of a force loss, allowed {tolerance:.0e}")
            return False
    return True


def _warn(atoms: Atoms, deviation: str) -> None:
    warnings.warn(
        f"the compiled operators disagree with plain torch on this machine ({atoms.get_chemical_formula()}: "
        f"{deviation}); plain torch is used, many times slower. Please report this with the output of `mlip info`",
        RuntimeWarning,
        stacklevel=5,
    )


def probes(model: EnergyModel) -> list[Atoms]:
    """Small periodic structures of a few and of many of the model's elements, the same each time."""
    rng = np.random.default_rng(0)
    structures = []
    for kinds, nearest in ((2, 0.8), (7, 0.55)):  # the second dense, too, whatever the size of the atoms
        picked = np.unique(np.linspace(0, len(model.elements) - 1, kinds).round().astype(int))
        numbers = np.resize([model.elements[k] for k in picked], 8)
        spacing = min(2.2 * covalent_radii[numbers].mean(), nearest * model.cutoff)
        grid = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1]), axis=-1).reshape(-1, 3)
        positions = spacing * (grid + rng.uniform(-0.15, 0.15, (8, 3)))
        cell = 2 * spacing * (np.eye(3) + rng.uniform(-0.05, 0.05, (3, 3)))
        structures.append(Atoms(numbers, positions=positions, cell=cell, pbc=True))
    return structures


def disagreement(model: EnergyModel, fast: Evaluator, atoms: Atoms, head: int) -> float:
    """Largest difference of energies (eV), forces (eV/Å) and virial (eV), each relative to its largest or 1."""
    graph = atoms_to_graph(atoms, model.cutoff, device=next(model.parameters()).device)
    found, expected = (_first_derivatives(evaluate, graph, head) for evaluate in (fast, model))
    force, virial = (max(1.0, part.abs().max().item()) for part in expected[1:])
    scales = (force, force, virial)
    return float(np.max([(a - b).abs().max() / s for a, b, s in zip(found, expected, scales, strict=True)]))


def _first_derivatives(evaluate: Evaluator, graph: AtomGraph, head: int) -> list[Tensor]:
    """Energies and the gradients by positions and strain, in float64."""
    if hasattr(evaluate, "first_derivatives"):
        found = evaluate.first_derivatives(graph, head)
        parts = [found.energy, found.positions, found.strain]
    else:
        with torch.enable_grad():
            moved, inputs = differentiable(graph, forces=True, stress=True)
            energy = evaluate(moved, head).energy
            parts = [energy, *torch.autograd.grad(energy.sum(), inputs)]
    return [part.detach().double() for part in parts]


def gradient_disagreement(model: EnergyModel, radial: str, atoms: Atoms, head: int) -> float:
    """Largest difference of the gradients of Σ F² + Σ E² by parameters and, if exact, positions, to the largest one.

    Of a model that begins with zero energies, as DimeNet does, a copy is compared whose zeros are random numbers.
    """
    found = _gradient_disagreement(model, radial, atoms, head)
    if found is None:
        found = _gradient_disagreement(_without_zeros(model), radial, atoms, head)
    return math.nan if found is None else found


def _gradient_disagreement(model: EnergyModel, radial: str, atoms: Atoms, head: int) -> float | None:
    """None where all gradients are zero, and there is nothing to compare."""
    with torch.enable_grad():  # whoever asks first may not want gradients
        fast = model.compiled(radial, trained=True)
    assert fast is not None
    graph = atoms_to_graph(atoms, model.cutoff, device=next(model.parameters()).device)
    expected, got = (_loss_gradients(evaluate, graph, head, list(model.parameters())) for evaluate in (model, fast))
    scale = max(float(tensor.abs().max()) for tensor in expected)
    pairs = list(zip(expected, got, strict=True))[0 if radial == "exact" else 1 :]
    difference = float(np.max([(a - b).abs().max() for a, b in pairs], initial=0.0))
    return difference / scale if scale else difference or None


def _without_zeros(model: EnergyModel) -> EnergyModel:
    """A copy, with random numbers for those of its parameters that are zero."""
    copied, random = deepcopy(model), np.random.default_rng(0)
    with torch.no_grad():
        for parameter in copied.parameters():
            if not parameter.any():
                parameter.copy_(torch.from_numpy(random.normal(scale=0.1, size=parameter.shape)))
    return copied


def _loss_gradients(evaluate: Evaluator, graph: AtomGraph, head: int, parameters: list[Tensor]) -> list[Tensor]:
    with torch.enable_grad():
        positions = graph.positions.detach().requires_grad_(True)
        energy = evaluate(graph._replace(positions=positions), head).energy
        with only_by_positions():
            (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
        loss = gradient.square().sum() + energy.square().sum()
        inputs = [positions, *(parameter for parameter in parameters if parameter.requires_grad)]
        return [g.double() for g in torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)]
