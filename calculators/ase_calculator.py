"""The ASE calculator: a potential where a DFT calculator stood."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from os import PathLike
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from mlip.calculators.verlet import VerletList
from mlip.checkpoint import DTYPES
from mlip.convert import atoms_to_graph
from mlip.errors import InputError
from mlip.potential import Potential, usable_device
from mlip.units import full_3x3_to_voigt_6
from mlip.zoo import load

#: Atoms evaluated in one batch by `MLIPCalculator.evaluate`, a bound on memory.
BATCH_ATOMS = 2048


class MLIPCalculator(Calculator):
    """ASE calculator of a `Potential`.

    Gives `energy`, `free_energy` (the same: there is no electronic entropy), `energies` per atom, `forces`, and
    `stress` (Voigt, eV/Å³, positive under tension) for structures with a three-dimensional cell. Only what is asked
    for is computed. Initial charges and magnetic moments play no part.

    Args:
        model: a potential, a bundled name such as "silicon", or a weights file.
        device: "cpu", "cuda", ...; "auto" takes the GPU if there is one.
        dtype: precision of the network, "float64" or "float32"; positions and energies are float64 always.
        skin: extra radius in Å of the neighbor list; it is searched again only when atoms or cell moved too far.

    Raises:
        ModelFileError: no such model.
        InputError: options that can't be; later, structures that can't be evaluated.
        UnknownElementError: when evaluated on an element the model does not know.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012
    default_parameters: dict[str, Any] = {"device": "auto", "dtype": "float64", "skin": 0.5}  # noqa: RUF012
    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012

    def __init__(
        self,
        model: Potential | str | PathLike[str],
        device: str = "auto",
        dtype: str = "float64",
        skin: float = 0.5,
    ) -> None:
        if dtype not in DTYPES:
            raise InputError(f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
        name = type(model.model).__name__ if isinstance(model, Potential) else str(model)
        super().__init__(model=name, device=device, dtype=dtype, skin=skin)
        self.device = usable_device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        # `Module.to` works in place: never on the caller's potential.
        potential = deepcopy(model) if isinstance(model, Potential) else load(model)
        self.potential = potential.requires_grad_(False).to(device=self.device, dtype=DTYPES[dtype])
        self._neighbors = VerletList(self.potential.cutoff, skin)

    def set(self, **options: Any) -> dict[str, Any]:
        """ASE's way to change options; those of a made calculator are fixed, as they are in its loaded model.

        Raises:
            InputError: an option would change.
        """
        changed = {name: value for name, value in options.items() if self.parameters.get(name) != value}
        if changed and hasattr(self, "potential"):
            raise InputError(f"{', '.join(changed)} of an existing MLIPCalculator can't be changed; make a new one")
        return super().set(**options)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute `properties` of `atoms`; ASE's entry point, called when the cached results do not hold."""
        super().calculate(atoms, list(properties), list(system_changes))
        assert self.atoms is not None  # the copy that ASE's base class has just made
        self.results = {}  # an error below leaves none behind that are of other atoms
        stress = "stress" in properties
        if stress and self.atoms.cell.rank < 3:
            raise PropertyNotImplementedError(
                "stress needs a three-dimensional cell and this structure has none (a molecule?); "
                "ask for energy and forces only"
            )
        _require_atoms(self.atoms)
        graph = self._neighbors.graph(self.atoms, self.device)
        prediction = self.potential(graph, forces="forces" in properties or stress, stress=stress)
        energy = prediction.energy.item()
        results: dict[str, Any] = {
            "energy": energy,
            "free_energy": energy,
            "energies": prediction.atom_energies.cpu().numpy(),
        }
        if prediction.forces is not None:
            results["forces"] = prediction.forces.to(torch.float64).cpu().numpy()
        if prediction.stress is not None:
            results["stress"] = full_3x3_to_voigt_6(prediction.stress[0].cpu().numpy())
        _require_finite(results)
        self.results = results

    def evaluate(
        self, structures: Sequence[Atoms], forces: bool = True, stress: bool = False, batch_atoms: int = BATCH_ATOMS
    ) -> list[dict[str, Any]]:
        """Results of many structures, in batches of at most `batch_atoms` atoms (a larger structure goes alone).

        Returns:
            For each structure `energy`, and as asked `forces` (N, 3) and `stress` (6,), as in `results`.

        Raises:
            InputError, UnknownElementError: as for a single structure.
        """
        for atoms in structures:
            _require_atoms(atoms)
        out: list[dict[str, Any]] = []
        for batch in _batches(structures, batch_atoms):
            graph = atoms_to_graph(batch, self.potential.cutoff, device=self.device)
            prediction = self.potential(graph, forces=forces, stress=stress)
            sizes = [len(atoms) for atoms in batch]
            split_forces = None if prediction.forces is None else prediction.forces.to(torch.float64).cpu().split(sizes)
            for k, energy in enumerate(prediction.energy.tolist()):
                result: dict[str, Any] = {"energy": energy}
                if split_forces is not None:
                    result["forces"] = split_forces[k].numpy()
                if prediction.stress is not None:
                    result["stress"] = full_3x3_to_voigt_6(prediction.stress[k].cpu().numpy())
                _require_finite(result)
                out.append(result)
        return out


def _require_atoms(atoms: Atoms) -> None:
    if len(atoms) == 0:
        raise InputError("the structure has no atoms; expected at least one")


def _require_finite(results: dict[str, Any]) -> None:
    for name, value in results.items():
        if not np.isfinite(value).all():
            shown = f" ({value} eV)" if name == "energy" else ""
            raise InputError(
                f"the potential gives no finite {name}{shown}: the structure is far outside what it was trained for"
            )


def _batches(structures: Sequence[Atoms], batch_atoms: int) -> Iterator[list[Atoms]]:
    batch: list[Atoms] = []
    for atoms in structures:
        if batch and sum(map(len, batch)) + len(atoms) > batch_atoms:
            yield batch
            batch = []
        batch.append(atoms)
    if batch:
        yield batch
