"""Descriptors of many structures of files, their map, and the npz file that holds both."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

import mlip
from mlip.calculators.ase_calculator import MLIPCalculator
from mlip.calculators.property_calculator import PropertyCalculator
from mlip.convert import check_structure
from mlip.data.frames import Frames
from mlip.descriptors import descriptor_widths
from mlip.errors import InputError, UnknownElementError
from mlip.workflows.evaluation import Progress
from mlip.workflows.map_labels import as_column, check_label, require_label, values_of
from mlip.workflows.maps import (
    FEWEST,
    PrincipalComponents,
    principal_components,
    require_method,
    require_points,
    umap_coordinates,
)
from mlip.workflows.results import Result, hidden

PER = ("structure", "atom")


class Place(NamedTuple):
    """Where a structure is."""

    file: int  # which of the files
    number: int  # in it, from 0


@dataclass(frozen=True)
class DescriptorMap(Result):
    """Outcome of `describe`.

    Attributes:
        n: number of structures.
        n_atoms: of all of them.
        n_descriptors: of each atom.
        layers: how many of these come from each layer.
        files: what was read.
        available: structures in the files.
        per: what a point of the map is.
        method: of the map, None without one.
        explained: of principal components the parts of the variance along the two axes.
        color: what the points are labelled with.
        places: where each structure is.
        offsets: (n + 1,), the atoms of structure k are those from offsets[k] to before offsets[k + 1].
        numbers: (n_atoms,) atomic numbers.
        structures: (n, F), means over the atoms of each structure, in float64.
        atoms: (n_atoms, F) in the precision of the network, None where only means were asked for.
        labels: of the points.
        coordinates: (points, 2), the map.
        components: of the map by principal components.
    """

    n: int
    n_atoms: int
    n_descriptors: int
    layers: list[int]
    files: list[str]
    available: int
    per: str
    method: str | None
    explained: list[float] | None
    color: str | None
    places: list[Place] = hidden()
    offsets: NDArray[np.int64] = hidden()
    numbers: NDArray[np.int64] = hidden()
    structures: NDArray[np.float64] = hidden()
    atoms: NDArray[Any] | None = hidden()
    labels: NDArray[Any] | None = hidden()
    coordinates: NDArray[np.float64] | None = hidden()
    components: PrincipalComponents | None = hidden()


@dataclass(frozen=True)
class MapSettings:
    """What to compute.

    Attributes:
        sample: so many structures drawn at random from all files together; None: all.
        seed: of that, and of UMAP.
        num_layers: descriptors of the first layers only; -1: of all.
        per: a point of the map is a "structure" (its mean) or an "atom".
        method: "pca" or "umap".
        color: label of the points, see `mlip.workflows.map_labels`.
        means_only: keep no descriptors of atoms, so that memory does not grow with their number.
        batch_atoms: most atoms in a batch; None: what memory allows.
    """

    sample: int | None = None
    seed: int = 0
    num_layers: int = -1
    per: str = "structure"
    method: str = "pca"
    color: str | None = None
    means_only: bool = False
    batch_atoms: int | None = None

    def check(self) -> None:
        """Refuse what can't be.

        Raises:
            InputError: naming the option.
            MissingDependencyError: UMAP without umap-learn.
        """
        if self.per not in PER:
            raise InputError(f"per {self.per!r}: expected one of {', '.join(PER)}")
        require_method(self.method)
        if self.means_only and self.per == "atom":
            raise InputError("--means_only keeps no atoms, so that there is no map --per atom; leave out one of them")
        if self.sample is not None and self.sample < 1:
            raise InputError(f"--sample is {self.sample}; expected at least 1")
        if self.batch_atoms is not None and self.batch_atoms < 1:
            raise InputError(f"--batch_atoms is {self.batch_atoms}; expected at least 1")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed is {self.seed}; expected from 0 to below 2^32")
        if self.color is not None:
            check_label(self.color, self.per)


def choose(files: Sequence[Frames], sample: int | None, seed: int) -> list[Place]:
    """All structures of the files, or so many of them at random, in the order of the files.

    Raises:
        InputError: more than there are.
    """
    ends = np.cumsum([len(file) for file in files])
    total = int(ends[-1])
    if sample is not None and sample > total:
        raise InputError(f"--sample {sample}: the files hold {total} structures; leave it out to take them all")
    chosen = np.arange(total)
    if sample is not None:
        chosen = np.sort(np.random.default_rng(seed).choice(total, size=sample, replace=False))
    of = np.searchsorted(ends, chosen, side="right")
    starts = np.concatenate([[0], ends[:-1]])
    return [Place(int(k), int(i - starts[k])) for k, i in zip(of, chosen, strict=True)]


def describe(
    calculator: MLIPCalculator | PropertyCalculator,
    files: Sequence[Frames],
    settings: MapSettings = MapSettings(),  # noqa: B008 (frozen)
    map_needed: bool = False,
    progress: Progress | None = None,
) -> DescriptorMap:
    """Descriptors of the structures of files, which are read as they are needed, and their map.

    Args:
        calculator: of any model but a committee.
        files: where the structures are.
        settings: what to compute.
        map_needed: raise if no map can be made, of fewer than 3 points; else there is none then.
        progress: called with (done, total, note).

    Raises:
        InputError: settings that can't be, a committee, structures that can't be evaluated.
        UnknownElementError: an element the model does not know.
        DataError: a structure can't be read.
        TooLargeError: memory runs out on a single structure.
    """
    settings.check()
    places = choose(files, settings.sample, settings.seed)
    network = calculator._described()[0].model
    widths = descriptor_widths(network, settings.num_layers)
    if map_needed and settings.per == "structure":
        require_points(len(places))
    if settings.color is not None:
        require_label((atoms for atoms, _ in _read(files, places)), settings.color, settings.per)
    kept = _Kept(settings, [file.path.name for file in files])
    structures = _passing(_read(files, places), kept, set(network.elements), files)
    for done, found in enumerate(calculator.descriptors(structures, settings.num_layers, settings.batch_atoms), 1):
        kept.add(found)
        if progress:
            progress(done, len(places), "")
    return _result(kept, places, files, widths, map_needed)


@dataclass
class _Kept:
    """What is collected structure by structure."""

    settings: MapSettings
    names: list[str]
    means: list[NDArray[np.float64]] = field(default_factory=list)
    atoms: list[NDArray[Any]] = field(default_factory=list)
    numbers: list[NDArray[np.int64]] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)

    def saw(self, atoms: Atoms, place: Place) -> None:
        self.numbers.append(atoms.numbers.astype(np.int64))
        if self.settings.color is not None:
            self.labels += values_of(atoms, self.settings.color, self.settings.per, self.names[place.file])

    def add(self, found: NDArray[Any]) -> None:
        self.means.append(found.mean(axis=0, dtype=np.float64))
        if not self.settings.means_only:
            self.atoms.append(found)


def _read(files: Sequence[Frames], places: Sequence[Place]) -> Iterator[tuple[Atoms, Place]]:
    for k, group in groupby(places, key=lambda place: place.file):
        own = list(group)
        yield from zip(files[k].read(place.number for place in own), own, strict=True)


def _passing(
    structures: Iterator[tuple[Atoms, Place]], kept: _Kept, known: set[int], files: Sequence[Frames]
) -> Iterator[Atoms]:
    """Each structure, checked, on its way to the model."""
    for atoms, place in structures:
        where = f"structure {place.number} of {files[place.file].path}"
        if not len(atoms):
            raise InputError(f"{where} has no atoms")
        try:
            check_structure(atoms)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        unknown = {int(z) for z in atoms.numbers} - known
        if unknown:
            from ase.data import chemical_symbols

            symbols = ", ".join(chemical_symbols[z] for z in sorted(unknown))
            raise UnknownElementError(f"{where} holds {symbols}, which the model does not know")
        kept.saw(atoms, place)
        yield atoms


def _result(
    kept: _Kept, places: list[Place], files: Sequence[Frames], widths: Sequence[int], map_needed: bool
) -> DescriptorMap:
    settings = kept.settings
    structures = np.stack(kept.means)
    atoms = None if settings.means_only else np.concatenate(kept.atoms)
    kept.atoms.clear()
    points: NDArray[Any] = structures if settings.per == "structure" or atoms is None else atoms
    components, coordinates = None, None
    if map_needed or len(points) >= FEWEST:
        coordinates, components = _map(points, settings, map_needed)
    return DescriptorMap(
        n=len(places),
        n_atoms=sum(map(len, kept.numbers)),
        n_descriptors=structures.shape[1],
        layers=list(widths),
        files=[str(file.path) for file in files],
        available=sum(map(len, files)),
        per=settings.per,
        method=None if coordinates is None else settings.method,
        explained=None if components is None else components.explained.tolist(),
        color=settings.color,
        places=places,
        offsets=np.cumsum([0, *map(len, kept.numbers)]),
        numbers=np.concatenate(kept.numbers),
        structures=structures,
        atoms=atoms,
        labels=None if settings.color is None else as_column(kept.labels),
        coordinates=coordinates,
        components=components,
    )


def _map(
    points: NDArray[Any], settings: MapSettings, needed: bool
) -> tuple[NDArray[np.float64] | None, PrincipalComponents | None]:
    """Coordinates, and the components they are along."""
    if settings.method == "umap":
        return umap_coordinates(points, settings.seed), None
    try:
        components = principal_components(points)
    except InputError:  # all the same
        if needed:
            raise
        return None, None
    return components.project(points), components


def save_descriptors(result: DescriptorMap, path: Path, provenance: dict[str, Any]) -> None:
    """Write an npz file that `numpy.load` reads without pickle; it appears as a whole or not at all.

    Arrays: `structure_descriptors` (B, F), `atom_descriptors` (N, F) unless only means were kept, `offsets` (B + 1,),
    `numbers` (N,), `file_indices` (B,) and `indices` (B,) of the structures in `files`, `layers`, `map` (P, 2) and
    `labels` (P,) where there are some, of principal components `pca_mean` (F,), `pca_directions` (2, F),
    `pca_explained` (2,), and `provenance`, JSON.

    Raises:
        OSError: it can't be written.
    """
    facts = {"mlip_version": mlip.__version__, **provenance, **result.as_dict()}
    arrays: dict[str, Any] = {
        "structure_descriptors": result.structures,
        "offsets": result.offsets,
        "numbers": result.numbers,
        "file_indices": np.array([place.file for place in result.places]),
        "indices": np.array([place.number for place in result.places]),
        "files": np.array([Path(name).name for name in result.files]),
        "layers": np.array(result.layers),
        "provenance": np.array(json.dumps(facts, ensure_ascii=False)),
    }
    optional = {"atom_descriptors": result.atoms, "map": result.coordinates, "labels": result.labels}
    arrays |= {name: value for name, value in optional.items() if value is not None}
    if result.components is not None:
        found = result.components
        arrays |= {"pca_mean": found.mean, "pca_directions": found.directions, "pca_explained": found.explained}
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
