"""Structures of HDF5 files looked at many at once: which labels and weights they have, and whether all is right."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlip.convert import COINCIDENT, are_plain, check_structures
from mlip.data.batches import make_batch
from mlip.data.labels import LARGEST_LABEL, PROPERTIES, is_isolated_mark, label_structure
from mlip.data.streams import STORED_KEYS, Piece
from mlip.data.stress import TOLERANCE
from mlip.data.weights import DEFAULT_GROUP, label_weights, structure_weight
from mlip.errors import DataError
from mlip.neighbors import ListInput, list_of

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Looked:
    """What the structures of a piece have.

    Attributes:
        piece: the structures, B of them.
        groups: every `config_type` there is among them; "" stands for none.
        group: (B,) index of each one's.
        is_isolated: (B,) as `LabelledStructure.is_isolated_atom`.
        has: (B,) by property, where there is a label.
        weights: (B,) by property, as `LabelledStructure.label_weight`.
        ignored_stresses: of structures that are not periodic in three dimensions.
    """

    piece: Piece
    groups: list[str]
    group: NDArray[np.int64]
    is_isolated: Mask
    has: dict[str, Mask]
    weights: dict[str, NDArray[np.float64]]
    ignored_stresses: int


def look_at(piece: Piece, factors: Mapping[str, float]) -> Looked:
    """Labels and weights of the structures of a piece.

    Args:
        piece: the structures.
        factors: of the weights, by `config_type`.

    Raises:
        DataError, InputError: a structure or label that can't be used, named by file and index; as `read_labelled`.
    """
    block = piece.block
    if (block.sizes < 1).any():
        raise DataError(f"structure {piece.start + int(np.argmax(block.sizes < 1))} of {piece.path} has no atoms")
    if not are_plain(block.numbers, block.positions, block.cells, block.pbc):
        check_structures([block.atoms(k) for k in range(len(block))], lambda k: f"{_where(piece, k)}: ")
    has, is_wrong = _labels(piece)
    ignored = int((has["stress"] & ~block.pbc.all(axis=1)).sum())
    has["stress"] &= block.pbc.all(axis=1)
    groups, group, weights = _info(piece, factors)
    is_marked = np.array([is_isolated_mark(name) for name in groups])[group]
    is_wrong |= is_marked & (block.sizes > 1)
    for k in np.flatnonzero(is_wrong).tolist():  # what is wrong in which way?
        label_structure(block.atoms(k), STORED_KEYS, piece.start + k, str(piece.path))
    _refuse_coincident(piece)
    return Looked(
        piece=piece,
        groups=groups,
        group=group,
        is_isolated=(block.sizes == 1) & (is_marked | ~block.pbc.any(axis=1)),
        has=has,
        weights={name: np.where(has[name], weights[name], 0.0) for name in PROPERTIES},
        ignored_stresses=ignored,
    )


def _where(piece: Piece, k: int) -> str:
    return f"structure {piece.start + k} of {piece.path}"


def _labels(piece: Piece) -> tuple[dict[str, Mask], Mask]:
    """(B,) which structures have which label, and which have one that looks wrong."""
    block = piece.block
    has: dict[str, Mask] = {
        "energy": ~np.isnan(block.energies),
        "forces": ~np.logical_or.reduceat(np.isnan(block.forces).any(axis=1), block.ends[:-1]),
        "stress": np.logical_not(np.isnan(block.stresses).any(axis=(1, 2))),
    }
    with np.errstate(invalid="ignore"):  # of infinite ones
        largest = {
            "energy": np.abs(block.energies),
            "forces": largest_forces(piece),
            "stress": np.abs(block.stresses).max(axis=(1, 2)),
        }
        asymmetry = np.abs(block.stresses - block.stresses.transpose(0, 2, 1)).max(axis=(1, 2))
        is_wrong = has["stress"] & (asymmetry > TOLERANCE * largest["stress"])
        for name, values in largest.items():
            is_wrong |= has[name] & ~(values <= LARGEST_LABEL)
    return has, is_wrong


def largest_forces(piece: Piece) -> NDArray[np.float64]:
    """(B,) largest component of a force on each structure, eV/Å; NaN where one is missing."""
    found: NDArray[np.float64] = np.maximum.reduceat(np.abs(piece.block.forces).max(axis=1), piece.block.ends[:-1])
    return found


def _info(
    piece: Piece, factors: Mapping[str, float]
) -> tuple[list[str], NDArray[np.int64], dict[str, NDArray[np.float64]]]:
    """Every `config_type`, the place of each structure's among them, and (B,) weights of labels by property."""
    block = piece.block
    places = {"": 0}
    group = np.zeros(len(block), dtype=np.int64)
    weights = {name: np.full(len(block), factors.get(DEFAULT_GROUP, 1.0)) for name in PROPERTIES}
    for k in range(len(block)):
        if block.info[block.info_ends[k] : block.info_ends[k + 1]] == b"{}":
            continue
        info = _parsed(piece, k)
        name = str(info.get("config_type", info.get("group", "")))
        group[k] = places.setdefault(name, len(places))
        factor = structure_weight(info, _where(piece, k)) * factors.get(name or DEFAULT_GROUP, 1.0)
        own = label_weights(info, _where(piece, k))
        for label in PROPERTIES:
            weights[label][k] = factor * getattr(own, label)
    return list(places), group, weights


def _parsed(piece: Piece, k: int) -> dict[str, Any]:
    try:
        return piece.block.info_of(k)
    except json.JSONDecodeError as error:
        raise DataError(f"{_where(piece, k)}: its info is not JSON: {error}") from error


def _refuse_coincident(piece: Piece) -> None:
    """Two atoms at one point would end a training hours later."""
    block = piece.block
    positions, cells, pbc, ends = map(torch.from_numpy, (block.positions, block.cells, block.pbc, block.ends))
    edge_index, _ = list_of(ListInput(positions, cells, pbc, ends, COINCIDENT))
    if not edge_index.shape[1]:
        return
    owners = np.searchsorted(block.ends, edge_index[0].numpy(), side="right") - 1
    for k in np.unique(owners).tolist():
        structure = label_structure(block.atoms(k), STORED_KEYS, piece.start + k, str(piece.path))
        make_batch([structure], COINCIDENT, str(piece.path))
