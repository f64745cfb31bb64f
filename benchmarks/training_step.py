"""The training step of each program: forward with forces, loss, backward, optimizer, on one batch made beforehand.

Both take the loss of mace-torch, its default weights and its default optimizer (Adam with amsgrad), without weight
decay and clipping. Like `benchmarks/worker.py`, which imports it in the peer's environment, this file imports nothing
of mlip's or mace-torch's at its top.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

ENERGY_WEIGHT, FORCES_WEIGHT = 1.0, 100.0
LEARNING_RATE = 1e-5
Structure = dict[str, Any]


def atoms_of(structure: Structure) -> Atoms:
    return Atoms(structure["numbers"], structure["positions"], cell=structure["cell"], pbc=structure["pbc"])


class Trained:
    """A model that learns one batch."""

    #: Radial functions in use.
    radial = "exact"
    #: Adam in one pass over the weights, as `mlip train` takes it; None: torch's default, as mace-torch does.
    fused: bool | None = None

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        self.parameters = {name: p.requires_grad_(True) for name, p in parameters.items()}
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=LEARNING_RATE, amsgrad=True, fused=self.fused)

    def take(self, structures: list[Structure]) -> int:
        """Make the batch; number of pairs."""
        raise NotImplementedError

    def loss(self) -> Tensor:
        raise NotImplementedError

    def backward(self) -> float:
        """Gradients of the loss in the parameters; the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        return loss.item()

    def steps(self, count: int) -> dict[str, Any]:
        """Seconds of each step, and a digest of the parameters after the last."""
        wall, processor = [], []
        for _ in range(count):
            start, used = time.perf_counter(), time.process_time()
            self.backward()
            self.optimizer.step()
            wall.append(time.perf_counter() - start)
            processor.append(time.process_time() - used)
        digest = hashlib.sha256()
        for parameter in self.parameters.values():
            digest.update(parameter.detach().numpy().tobytes())
        return {"wall": wall, "processor": processor, "digest": digest.hexdigest()}

    def gradients(self) -> dict[str, NDArray[np.float64]]:
        """Those of the last loss, by mace-torch's names."""
        return {name: p.grad.double().numpy() for name, p in self.parameters.items() if p.grad is not None}


class OursTrained(Trained):
    """A potential of mlip's."""

    fused = True

    def __init__(self, model: str, dtype: str, radial: str = "exact") -> None:
        import mlip

        self.path = model
        self.potential = mlip.load(model, dtype=getattr(torch, dtype))
        self.potential.acceleration.radial = radial
        super().__init__(dict(self.potential.model.named_parameters()))
        self.radial = getattr(self.potential.acceleration.trainer(self.potential.model), "radial_functions", "none")

    def take(self, structures: list[Structure]) -> int:
        from mlip.data.batches import collate_samples, make_samples
        from mlip.data.labels import LabelledStructure

        labelled = [LabelledStructure(atoms_of(s), s["energy"], np.array(s["forces"])) for s in structures]
        self.batch = collate_samples(make_samples(labelled, self.potential.cutoff))
        return self.batch.graph.edge_index.shape[1]

    def loss(self) -> Tensor:
        from mlip.training.loss import Loss, penalties

        prediction = self.potential(self.batch.graph, forces=True, stress=False, training=True)
        weights = {"energy": ENERGY_WEIGHT, "forces": FORCES_WEIGHT}
        return Loss(penalties("weighted", delta=0.01), weights)(self.batch, prediction)

    def gradients(self) -> dict[str, NDArray[np.float64]]:
        return of_file(self.path, self.potential.model, super().gradients())


def places(root: Any) -> dict[str, dict[str, Tensor]]:
    """Where the parameters of a file of mace-torch are: by full name, the dictionary that has them by their last name.

    `root` is what `mlip.importers.torch_archive.read_archive` found.
    """
    found = {}
    modules = [("", root)]
    while modules:
        prefix, module = modules.pop()
        state = getattr(module, "state", None)
        if not (isinstance(state, dict) and "_parameters" in state):
            continue  # a compiled function
        parameters = state["_parameters"]
        found.update((prefix + name, parameters) for name, value in parameters.items() if isinstance(value, Tensor))
        modules += [(f"{prefix}{name}.", part) for name, part in state["_modules"].items()]
    return found


def of_file(path: str, model: Any, gradients: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Gradients in the parameters of a file of mace-torch from those in our parameters, both by name.

    The importer makes our parameters of theirs by a linear map; gradients go back by its transpose.
    """
    from mlip.importers.mace import ADMITTED, weights
    from mlip.importers.modules import ForeignModule
    from mlip.importers.torch_archive import read_archive

    root = read_archive(path, ADMITTED)
    theirs: dict[str, Tensor] = {}
    for full, parameters in places(root).items():
        name = full.rpartition(".")[2]
        theirs[full] = parameters[name] = parameters[name].detach().double().requires_grad_(True)
    ours = weights(ForeignModule(root), model)
    mapped = [(ours[name] * torch.from_numpy(gradient)).sum() for name, gradient in gradients.items()]
    found = torch.autograd.grad(torch.stack(mapped).sum(), list(theirs.values()), allow_unused=True)
    return {name: g.numpy() for name, g in zip(theirs, found, strict=True) if g is not None}


class PeerTrained(Trained):
    """A model of mace-torch's."""

    def __init__(self, model: str, dtype: str) -> None:
        from mace.calculators import MACECalculator
        from mace.modules import WeightedEnergyForcesLoss

        torch.set_default_dtype(getattr(torch, dtype))
        calculator = MACECalculator(model_paths=model, device="cpu", default_dtype=dtype)
        self.model = calculator.models[0]
        self.heads = calculator.available_heads
        self.weighted = WeightedEnergyForcesLoss(ENERGY_WEIGHT, FORCES_WEIGHT)
        super().__init__(dict(self.model.named_parameters()))

    def take(self, structures: list[Structure]) -> int:
        from mace import data
        from mace.tools import AtomicNumberTable, torch_geometric

        keys = data.KeySpecification(info_keys={"energy": "energy"}, arrays_keys={"forces": "forces"})
        table = AtomicNumberTable(self.model.atomic_numbers.tolist())
        samples = []
        for structure in structures:
            atoms = atoms_of(structure)
            atoms.info["energy"], atoms.arrays["forces"] = structure["energy"], np.array(structure["forces"])
            configuration = data.config_from_atoms(atoms, keys, head_name=self.heads[0])
            cutoff = float(self.model.r_max)
            samples.append(data.AtomicData.from_config(configuration, table, cutoff, heads=self.heads))
        self.batch = torch_geometric.Batch.from_data_list(samples)
        return self.batch.edge_index.shape[1]

    def loss(self) -> Tensor:
        output = self.model(self.batch.to_dict(), training=True, compute_force=True)
        return self.weighted(ref=self.batch, pred=output)
