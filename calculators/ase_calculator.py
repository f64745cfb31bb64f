"""The ASE calculator: a potential where a DFT calculator stood."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from os import PathLike, fspath
from typing import Any, TypeAlias

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from numpy.typing import NDArray
from torch import Tensor

from mlip.acceleration import Acceleration
from mlip.calculators.batches import Batches
from mlip.calculators.descriptors import Describing
from mlip.calculators.deviations import DEVIATIONS, DeviatingCalculator
from mlip.calculators.extrapolation import ExtrapolationCounter
from mlip.calculators.memory import enough_memory
from mlip.calculators.verlet import VerletList
from mlip.checkpoint import DTYPES, no_potential
from mlip.committee import Calibration, Committee, CommitteePrediction
from mlip.convert import atoms_to_graph
from mlip.errors import InputError, ModelFileError
from mlip.graph import AtomGraph
from mlip.potential import Potential, Prediction, usable_device
from mlip.property_model import PropertyModel
from mlip.units import full_3x3_to_voigt_6
from mlip.zoo import load

Model: TypeAlias = Potential | Committee | str | PathLike[str]


class MLIPCalculator(Describing, DeviatingCalculator):
    """ASE calculator of a `Potential`, or of a committee of several.

    Gives `energy`, `free_energy` (the same: there is no electronic entropy), `energies` per atom, `forces`, and
    `stress` (Voigt, eV/Å³, positive under tension) for structures with a three-dimensional cell. Only what is asked
    for is computed. Initial charges and magnetic moments play no part.

    A list of models is a committee: each result is the mean over its members, and the attributes `energy_std` (eV, of
    the total energy), `forces_std` (N, 3) (eV/Å) and `stress_std` (6,) (eV/Å³) are their standard deviations about it,
    √(Σ(x_m - x̄)² / M). A list of one model is that model.

    A model that knows the range of its descriptors in the training set (HDNNP) has its atoms outside of it counted,
    which is warned about once; `extrapolations`, `extrapolating_structures` and `extrapolations_total` tell more.

    Args:
        model: a potential, a name such as "silicon" or "mace-mpa-0-medium", the path of a weights file, ours or a
            MACE `.model`, or of a folder of n2p2; or a list of such. Or a committee, or the path of its file.
        device: "cpu", "cuda", ...; "auto" takes the GPU if there is one.
        dtype: precision of the network, "float64" or "float32"; positions and energies are float64 always.
        skin: extra radius in Å of the neighbor list; it is searched again only when atoms or cell moved too far.
        head: name of the head to use, of each model given; None takes a model's own choice.
        backend: "compiled" operators, or the plain-torch "reference"; None: the environment variable MLIP_BACKEND, else
            compiled where there are operators for the model.
        radial: radial functions "exact", or interpolated from a "table", several times faster, forces right to
            1e-6 eV/Å; None: exact in float64, the table in float32. `parameters["radial"]` names the one in use.

    Raises:
        ModelFileError: no such model.
        InputError: options that can't be, no head of that name; later, structures that can't be evaluated.
        UnknownElementError: when evaluated on an element the model, or a member of the committee, does not know.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012
    default_parameters: dict[str, Any] = {  # noqa: RUF012
        "device": "auto",
        "dtype": "float64",
        "skin": 0.5,
        "head": None,
        "backend": None,
        "radial": None,
    }
    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012

    def __init__(
        self,
        model: Model | Sequence[Model],
        device: str = "auto",
        dtype: str = "float64",
        skin: float = 0.5,
        head: str | None = None,
        backend: str | None = None,
        radial: str | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise InputError(f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
        models: list[Any] = list(model) if isinstance(model, list | tuple) else [model]
        if not models:
            raise InputError("an empty list of models; expected at least one")
        members, names, calibration = _members(models, head)
        committee = len(members) > 1
        options = {"device": device, "dtype": dtype, "skin": skin, "head": head, "backend": backend, "radial": radial}
        called = names if len(models) > 1 or isinstance(model, Committee) else _name(models[0])
        super().__init__(committee, model=called, **options)
        self.device = usable_device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.calibration = calibration
        for member in members:
            member.acceleration = Acceleration(backend, radial)
        self.potential: Potential | Committee = Committee(members, names, calibration) if committee else members[0]
        self.potential.requires_grad_(False).to(device=self.device, dtype=DTYPES[dtype])
        in_use = {member.acceleration.radial_functions(member.model) for member in members}
        self.parameters["radial"] = " and ".join(sorted(in_use))
        self._extrapolation = ExtrapolationCounter(self.potential.has_training_range)
        self._neighbors = VerletList(self.potential.cutoff, skin)
        self._batches = {derivatives: Batches(self.device) for derivatives in (False, True)}  # which need more memory

    @property
    def has_training_range(self) -> bool:
        """Whether the model, or a member of the committee, knows the range of its descriptors in the training set."""
        return self._extrapolation.possible

    @property
    def extrapolations(self) -> NDArray[np.int64] | None:
        """(N,) of the last calculation: how many descriptors of each atom lay outside the range of the training set.

        Of a committee the most that any member counts. None before the first calculation, and of a model that has no
        such range (`has_training_range`).
        """
        return self._extrapolation.last

    @property
    def extrapolating_structures(self) -> int:
        """How many calculations so far, structures given to `evaluate` included, had descriptors outside the range."""
        return self._extrapolation.structures

    @property
    def extrapolations_total(self) -> int:
        """Sum of `extrapolations` over the atoms of all calculations so far; n2p2 calls it extrapolation warnings."""
        return self._extrapolation.total

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
        """Compute `properties` of `atoms`; ASE's entry point, called when the cached results do not hold.

        Raises:
            TooLargeError: memory runs out.
        """
        super().calculate(atoms, properties, system_changes)
        self._extrapolation.last = None
        if self.atoms is None:
            raise InputError("no structure given; expected an ase.Atoms")
        stress = "stress" in properties
        if stress and self.atoms.cell.rank < 3:
            raise PropertyNotImplementedError(
                "stress needs a three-dimensional cell and this structure has none (a molecule?); "
                "ask for energy and forces only"
            )
        _require_atoms(self.atoms)
        with enough_memory(len(self.atoms)):
            graph = self._neighbors.graph(self.atoms, self.device)
            prediction = self.potential(graph, forces="forces" in properties or stress, stress=stress)
        (found,) = _by_structure(prediction, [len(self.atoms)])
        _require_finite(found)
        self._extrapolation.count(found.pop("extrapolations", None), self.atoms.numbers)
        self.deviations = {name: found.pop(name) for name in DEVIATIONS if name in found}
        self.results = {**found, "free_energy": found["energy"], "energies": prediction.atom_energies.cpu().numpy()}

    def evaluate(
        self, structures: Iterable[Atoms], forces: bool = True, stress: bool = False, batch_atoms: int | None = None
    ) -> list[dict[str, Any]]:
        """Results of many structures, evaluated in batches; they do not depend on these beyond rounding.

        Args:
            structures: any number of them.
            forces: also the forces.
            stress: also the stress.
            batch_atoms: most atoms in a batch (a larger structure goes alone). Default: what memory allows by what the
                batches before took, at most 512, or 2048 on a GPU. A batch that runs out of memory is halved.

        Returns:
            For each structure `energy`, and as asked `forces` (N, 3) and `stress` (6,), as in `results`; of a committee
            also `energy_std`, `forces_std`, `stress_std`. Of a model with a training range also `extrapolations` (N,).

        Raises:
            InputError, UnknownElementError: as for a single structure.
            TooLargeError: memory runs out on a single structure.
        """
        structures = _listed(structures, stress)

        def graph(batch: Sequence[Atoms]) -> AtomGraph:
            return atoms_to_graph(batch, self.potential.cutoff, device=self.device)

        def results(batch: AtomGraph) -> list[dict[str, Any]]:
            return _by_structure(self.potential(batch, forces=forces, stress=stress), batch.n_atoms.tolist())

        out: list[dict[str, Any]] = []
        batches, sizes = self._batches[forces or stress], [len(atoms) for atoms in structures]
        answers = batches.evaluated(structures, sizes, graph, results, batch_atoms)
        for atoms, result in zip(structures, answers, strict=True):
            _require_finite(result)
            self._extrapolation.count(result.get("extrapolations"), atoms.numbers)
            out.append(result)
        return out

    def _described(self) -> Sequence[Potential]:
        return self.potential.potentials if isinstance(self.potential, Committee) else [self.potential]

    def get_hessian(
        self,
        atoms: Atoms | None = None,
        indices: Sequence[int] | None = None,
        progress: Callable[[int, int, str], object] | None = None,
    ) -> NDArray[np.float64]:
        """Second derivatives ∂²E/∂x_i ∂x_jb of the energy, exact (no finite differences), as mace-torch gives them.

        Constraints play no part. The radial functions are exact, whatever those of the calculator are. Of a committee
        it is the mean over the members.

        Args:
            atoms: structure; default: the one of the last calculation.
            indices: atoms whose rows are wanted, all by default.
            progress: called with (done, total, "") as rows are done.

        Returns:
            (3N, N, 3) in eV/Å², or (3n, N, 3) for n indices. `.reshape(3 * N, 3 * N)` is the symmetric matrix,
            `.reshape(N, 3, N, 3)` what `ase.vibrations.VibrationsData` takes.

        Raises:
            InputError, UnknownElementError: as for energies; an index that is no atom's.
            TooLargeError: memory runs out.
        """
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise InputError("no structure given; expected an ase.Atoms")
        _require_atoms(atoms)
        with enough_memory(len(atoms)):
            graph = atoms_to_graph(atoms, self.potential.cutoff, device=self.device)
            hessian = self.potential.hessian(graph, indices, progress).flatten(0, 1).cpu().numpy()
        _require_finite({"Hessian": hessian})
        return np.asarray(hessian)


def _name(model: Model) -> str:
    return type(model.model).__name__ if isinstance(model, Potential) else str(model)


def _members(models: Sequence[Model], head: str | None) -> tuple[list[Potential], list[str], Calibration | None]:
    """Potentials of the calculator's own, their names, and the calibration of a committee's deviations."""
    owned = [_own(model, head) for model in models]
    if len(owned) == 1 and isinstance(owned[0], Committee):
        return list(owned[0].potentials), list(owned[0].names), owned[0].calibration
    members = [model for model in owned if isinstance(model, Potential)]
    if len(members) < len(owned):
        raise InputError("a committee is among several models; name its members instead")
    return members, [_name(model) for model in models], None


def _own(model: Model, head: str | None) -> Potential | Committee:
    """A model of the calculator's own: `Module.to` works in place, and must not on the caller's."""
    if isinstance(model, PropertyModel):
        raise InputError(f"the model is {no_potential(model)}")
    if not isinstance(model, Potential | Committee):
        loaded = load(model, head=head)
        if isinstance(loaded, PropertyModel):
            raise ModelFileError(f"{fspath(model)} is {no_potential(loaded)}")
        return loaded
    return deepcopy(model) if head is None else model.with_head(head)


def _by_structure(prediction: Prediction | CommitteePrediction, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Energy, forces and stress with their deviations, as far as there are any, of each structure of a batch."""
    results: list[dict[str, Any]] = [{} for _ in sizes]
    for name in ("energy", "forces", "stress", *DEVIATIONS):
        value: Tensor | None = getattr(prediction, name, None)
        if value is None:
            continue
        value = value.to(torch.float64).cpu()
        if name.startswith("energy"):
            parts: list[Any] = value.tolist()
        elif name.startswith("forces"):
            parts = [part.numpy() for part in value.split(list(sizes))]
        else:
            parts = [full_3x3_to_voigt_6(part.numpy()) for part in value]
        for result, part in zip(results, parts, strict=True):
            result[name] = part
    if prediction.extrapolations is not None:
        counts = prediction.extrapolations.cpu().split(list(sizes))
        for result, count in zip(results, counts, strict=True):
            result["extrapolations"] = count.numpy()
    return results


def _require_atoms(atoms: Atoms) -> None:
    if len(atoms) == 0:
        raise InputError("the structure has no atoms; expected at least one")


def _listed(structures: Iterable[Atoms], stress: bool) -> list[Atoms]:
    """Many structures, of which errors name the one that is wrong; in a batch it would have another number."""
    if isinstance(structures, Atoms):
        raise InputError("one structure; expected a list of structures")
    found = list(structures)
    for number, atoms in enumerate(found):
        if not isinstance(atoms, Atoms):
            raise InputError(f"structure {number} is a {type(atoms).__name__}; expected an ase.Atoms")
        if len(atoms) == 0:
            raise InputError(f"structure {number} has no atoms; expected at least one")
        if stress and atoms.cell.rank < 3:
            raise InputError(
                f"structure {number} has no three-dimensional cell (a molecule?), which stress needs; "
                "ask for energies and forces only"
            )
    return found


def _require_finite(results: dict[str, Any]) -> None:
    for name, value in results.items():
        if not np.isfinite(value).all():
            shown = f" ({value} eV)" if name == "energy" else ""
            raise InputError(
                f"the potential gives no finite {name}{shown}: the structure is far outside what it was trained for"
            )
