"""The ASE calculator of a property model: dipole moments and other properties, without energies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from os import PathLike
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from numpy.typing import NDArray
from torch import Tensor

from mlip.calculators.batches import Batches
from mlip.calculators.descriptors import Describing
from mlip.checkpoint import DTYPES
from mlip.convert import atoms_to_graph
from mlip.errors import InputError
from mlip.graph import AtomGraph
from mlip.potential import usable_device
from mlip.property_model import PropertyModel
from mlip.zoo import load


class PropertyCalculator(Describing, Calculator):
    """ASE calculator of a `PropertyModel`.

    `results` holds the property under its name, in its unit: a number, or a vector (3,). Dipole moments stand under
    `dipole`, too, in e·Å, and `charges` (N,) in e, as ASE has them, so that `atoms.get_dipole_moment()` works; of a
    model of the length of the dipole only the `charges` do. Total charges are `atoms.info["charge"]`, else 0.

    A name that ASE does not know stays in `results`, for `calc.get_property("mu", atoms)`; ASE's writers leave it out.

    Args:
        model: a property model, or the path of its weights file.
        device: "cpu", "cuda", ...; "auto" takes the GPU if there is one.
        dtype: precision of the network, "float64" or "float32".

    Raises:
        ModelFileError: no such model.
        InputError: options that can't be, a potential; later, structures that can't be evaluated.
    """

    default_parameters: dict[str, Any] = {"device": "auto", "dtype": "float64"}  # noqa: RUF012
    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012

    def __init__(
        self, model: PropertyModel | str | PathLike[str], device: str = "auto", dtype: str = "float64"
    ) -> None:
        if dtype not in DTYPES:
            raise InputError(f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
        self.device = usable_device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        loaded = deepcopy(model) if isinstance(model, PropertyModel) else load(model)
        if not isinstance(loaded, PropertyModel):
            raise InputError(f"{model} is a potential; mlip.MLIPCalculator takes it")
        super().__init__(device=device, dtype=dtype)
        self.model = loaded.requires_grad_(False).to(device=self.device, dtype=DTYPES[dtype])
        self.learned = loaded.learned
        own = ["dipole", "charges"][self.learned.size == 1 :] if self.learned.is_dipole else []
        self.implemented_properties = list(dict.fromkeys([self.learned.name, *own]))
        self._batches = Batches(self.device)

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """ASE's way to a result.

        Raises:
            PropertyNotImplementedError: what the model does not predict, such as energies.
        """
        if name not in self.implemented_properties:
            raise PropertyNotImplementedError(
                f"no {name}: this is a model of {self.learned.label}, which gives "
                f"{', '.join(self.implemented_properties)}. A potential gives energies and forces"
            )
        return super().get_property(name, atoms, allow_calculation)

    def _described(self) -> Sequence[PropertyModel]:
        return [self.model]

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What differs from the structure of the last calculation; its charge counts, which ASE does not look at."""
        changes = list(super().check_state(atoms, tol))
        if self.atoms is not None and _charge(atoms, 0) != _charge(self.atoms, 0):
            changes.append("charge")
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = (),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute all that the model gives; ASE's entry point, called when the cached results do not hold."""
        super().calculate(atoms, list(properties), list(system_changes))
        if self.atoms is None:
            raise InputError("no structure given; expected an ase.Atoms")
        (self.results,) = self.evaluate([self.atoms])

    def evaluate(
        self, structures: Iterable[Atoms], batch_atoms: int | None = None, batch_size: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Results of many structures in their order, evaluated in batches as they are asked for.

        Args:
            structures: any number of them.
            batch_atoms: most atoms in a batch; default: what memory allows, as in `MLIPCalculator.evaluate`.
            batch_size: likewise, most structures.

        Raises:
            InputError, UnknownElementError: structures that can't be evaluated.
            TooLargeError: memory runs out on a single structure.
        """
        listed = list(structures)
        for number, atoms in enumerate(listed):
            if not isinstance(atoms, Atoms) or len(atoms) == 0:
                raise InputError(f"structure {number}: expected an ase.Atoms with at least one atom")
        charge = torch.tensor([_charge(atoms, number) for number, atoms in enumerate(listed)], dtype=torch.float64)
        done = 0

        def graph(part: Sequence[Atoms]) -> AtomGraph:
            return atoms_to_graph(part, self.model.cutoff, device=self.device)

        def results(batch: AtomGraph) -> list[dict[str, Any]]:
            return self._results(batch, charge[done : done + batch.n_graphs].to(self.device))

        sizes = [len(atoms) for atoms in listed]
        for result in self._batches.evaluated(listed, sizes, graph, results, batch_atoms, batch_size):
            done += 1
            yield result

    def _results(self, graph: AtomGraph, charge: Tensor) -> list[dict[str, Any]]:
        prediction = self.model(graph, charge=charge)
        values = prediction.value.cpu().numpy()
        parts = [part.numpy() for part in prediction.atoms.cpu().split(graph.n_atoms.tolist())]
        return [self._result(value, part) for value, part in zip(values, parts, strict=True)]

    def _result(self, value: NDArray[np.float64], part: NDArray[np.float64]) -> dict[str, Any]:
        if not np.isfinite(value).all():
            raise InputError(f"the model gives no finite {self.learned.name}: the structure is far outside its data")
        result: dict[str, Any] = {self.learned.name: value if self.learned.size > 1 else float(value.item())}
        if self.learned.is_dipole:
            result["charges"] = part
        if self.learned.size > 1:
            result["dipole"] = value * self.learned.in_eA
        return result


def _charge(atoms: Atoms, number: int) -> float:
    value = atoms.info.get("charge", 0.0)
    if isinstance(value, bool) or np.size(value) != 1 or not np.isfinite(float(np.asarray(value).item())):
        raise InputError(f"structure {number}: charge is {value!r}; expected one number in e")
    return float(np.asarray(value).item())
