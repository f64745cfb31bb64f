"""Descriptors from a calculator: of one structure as mace-torch gives them, of many in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from mlip.calculators.batches import MOST, Batches
from mlip.convert import atoms_to_graph
from mlip.descriptors import descriptor_widths, descriptors
from mlip.errors import InputError
from mlip.graph import AtomGraph
from mlip.potential import Potential
from mlip.property_model import PropertyModel

#: Largest batches that are in memory at a time as structures.
_BATCHES_READ = 8


class Describing:
    """Part of a calculator: the descriptors of its model."""

    atoms: Atoms | None
    device: torch.device

    def _described(self) -> Sequence[Potential | PropertyModel]:
        """The models, of which there are several in a committee."""
        raise NotImplementedError

    def get_descriptors(
        self, atoms: Atoms | None = None, invariants_only: bool = True, num_layers: int = -1
    ) -> NDArray[Any] | list[NDArray[Any]]:
        """Invariant descriptors (N, F) of the atoms; arguments and result as of mace-torch's method of that name.

        Args:
            atoms: structure; default: the one of the last calculation.
            invariants_only: there are no others here.
            num_layers: of the first layers only; -1: of all.

        Returns:
            (N, F) in the precision of the network, and of a committee a list of such, one for each member.

        Raises:
            InputError: no structure, equivariant descriptors, a model without descriptors or with fewer layers.
            UnknownElementError: an element the model does not know.
            TooLargeError: memory runs out.
        """
        if not invariants_only:
            raise InputError("invariants_only=False: expected True; there are no others than invariant features")
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise InputError("no structure given; expected an ase.Atoms")
        models = self._described()
        found = [next(_in_batches(model, self.device, [atoms], num_layers, None)) for model in models]
        return found if len(models) > 1 else found[0]

    def descriptors(
        self, structures: Iterable[Atoms], num_layers: int = -1, batch_atoms: int | None = None
    ) -> Iterator[NDArray[Any]]:
        """Those of many structures in their order, computed in batches as they are asked for.

        Args:
            structures: any number of them, of which a few are taken at a time.
            num_layers: as in `get_descriptors`.
            batch_atoms: most atoms in a batch, as in `evaluate`; default: what memory allows.

        Raises:
            InputError, UnknownElementError, TooLargeError: as `get_descriptors`; a committee.
        """
        models = self._described()
        if len(models) > 1:
            raise InputError(
                f"a committee of {len(models)} has the descriptors of each of its members; name one of them"
            )
        descriptor_widths(models[0].model, num_layers)
        return _in_batches(models[0], self.device, structures, num_layers, batch_atoms)


def _in_batches(
    model: Potential | PropertyModel,
    device: torch.device,
    structures: Iterable[Atoms],
    num_layers: int,
    batch_atoms: int | None,
) -> Iterator[NDArray[Any]]:
    batches = Batches(device)

    def graph(part: Sequence[Atoms]) -> AtomGraph:
        return atoms_to_graph(part, model.cutoff, device=device)

    def results(batch: AtomGraph) -> list[NDArray[Any]]:
        found = descriptors(model, batch, num_layers).cpu().numpy()
        return np.split(found, np.cumsum(batch.n_atoms.cpu().numpy())[:-1])

    number = 0
    for part in _parts(structures, _BATCHES_READ * (batch_atoms or MOST.get(device.type, MOST["cpu"]))):
        for found in batches.evaluated(part, [len(atoms) for atoms in part], graph, results, batch_atoms):
            if not np.isfinite(found).all():
                raise InputError(f"structure {number}: the model gives no finite descriptors")
            yield found
            number += 1


def _parts(structures: Iterable[Atoms], most: int) -> Iterator[list[Atoms]]:
    """Lists of so many atoms or a little more."""
    part: list[Atoms] = []
    size = 0
    for number, atoms in enumerate(structures):
        if not isinstance(atoms, Atoms) or len(atoms) == 0:
            raise InputError(f"structure {number}: expected an ase.Atoms with at least one atom")
        part.append(atoms)
        size += len(atoms)
        if size >= most:
            yield part
            part, size = [], 0
    if part:
        yield part
