"""Writing structures with labels: extended xyz, HDF5 shards, LMDB, ASE's data base, by the suffix."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mlip.data.labels import LabelledStructure
from mlip.data.records import info_of, to_atoms, with_labels
from mlip.data.shards import SUFFIXES, ShardWriter
from mlip.errors import DataError, InputError, MissingDependencyError

WRITTEN = (".extxyz", ".xyz", *SUFFIXES, ".lmdb", ".db")
Update = Callable[[int, int, str], None]
_AT_ONCE = 1000
_MAP_SIZE = 1 << 40  # of addresses, not of memory or disk


def check_suffix(path: Path) -> None:
    """Raise `InputError` for a suffix that names no format."""
    if path.suffix not in WRITTEN:
        raise InputError(f"can't write {path}: expected a name that ends in {', '.join(WRITTEN)}")


def write_structures(path: Path, structures: Iterable[LabelledStructure]) -> None:
    """Write structures with their labels; a file that is there is replaced once all are written.

    Raises:
        InputError: a suffix that names no format.
        MissingDependencyError: h5py or lmdb is needed.
        OSError: the file can't be written.
    """
    check_suffix(path)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    part.unlink(missing_ok=True)
    writer = {".lmdb": _write_lmdb, ".db": _write_db} | dict.fromkeys(SUFFIXES, _write_shard)
    try:
        writer.get(path.suffix, _write_extxyz)(part, iter(structures))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
        part.with_name(part.name + "-lock").unlink(missing_ok=True)


def reported(structures: Sequence[LabelledStructure], progress: Update | None) -> Iterator[LabelledStructure]:
    """The structures, while `progress` is told how many of them are done."""
    for k, structure in enumerate(structures, 1):
        yield structure
        if progress and (k % _AT_ONCE == 0 or k == len(structures)):
            progress(k, len(structures), "")


def _write_extxyz(path: Path, structures: Iterator[LabelledStructure]) -> None:
    from ase.io import write

    with open(path, "w") as stream:
        for structure in structures:
            write(stream, with_labels(structure), format="extxyz")


def _write_shard(path: Path, structures: Iterator[LabelledStructure]) -> None:
    with ShardWriter(path) as writer:
        for structure in structures:
            writer.add(structure)


def _write_db(path: Path, structures: Iterator[LabelledStructure]) -> None:
    """ASE's: labels as results, where every reader of it looks; the rest as JSON."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.db import connect

    from mlip.units import full_3x3_to_voigt_6

    with connect(str(path)) as base:
        for s in structures:
            atoms = Atoms(s.atoms.numbers, s.atoms.positions, cell=s.atoms.cell, pbc=s.atoms.pbc)
            stress = None if s.stress is None else full_3x3_to_voigt_6(s.stress)
            results = {"energy": s.energy, "forces": s.forces, "stress": stress}
            atoms.calc = SinglePointCalculator(atoms, **{k: v for k, v in results.items() if v is not None})
            base.write(atoms, data={"info": json.dumps(info_of(s))})


def read_db(path: Path) -> list[Atoms]:
    """Structures of an ASE data base, key-value pairs as info."""
    from ase.db import connect

    structures = []
    for row in connect(str(path)).select():
        atoms = row.toatoms()
        atoms.info = dict(row.key_value_pairs)
        text = (row.data or {}).get("info")
        if isinstance(text, str):
            atoms.info |= json.loads(text)
        structures.append(atoms)
    return structures


def _lmdb() -> Any:
    try:
        import lmdb
    except ModuleNotFoundError as error:
        raise MissingDependencyError("LMDB files need lmdb: pip install 'mlip-torch[train]'") from error
    return lmdb


def _write_lmdb(path: Path, structures: Iterator[LabelledStructure]) -> None:
    """Records numbered from 0: arrays as npz, without pickle; `length` and `format` beside them."""
    base = _lmdb().open(str(path), subdir=False, map_size=_MAP_SIZE, meminit=False, sync=False)
    waiting: list[tuple[bytes, bytes]] = []
    n = 0

    def put() -> None:
        with base.begin(write=True) as transaction:
            for key, value in (*waiting, (b"length", str(n).encode()), (b"format", b"mlip structures 1")):
                transaction.put(key, value)
        waiting.clear()

    for s in structures:
        waiting.append((str(n).encode(), _record(s)))
        n += 1
        if len(waiting) == _AT_ONCE:
            put()
    put()
    base.sync(True)
    base.close()


def _record(s: LabelledStructure) -> bytes:
    optional = {"energy": s.energy, "forces": s.forces, "stress": s.stress}
    stream = io.BytesIO()
    np.savez(
        stream,
        numbers=s.atoms.numbers,
        positions=s.atoms.positions,
        cell=s.atoms.cell.array,
        pbc=s.atoms.pbc,
        info=np.frombuffer(json.dumps(info_of(s)).encode(), dtype="u1"),
        **{name: np.asarray(value) for name, value in optional.items() if value is not None},  # type: ignore[arg-type]
    )
    return stream.getvalue()


def read_lmdb(path: Path) -> list[Atoms]:
    """All structures of a file that `mlip data convert` wrote.

    Raises:
        DataError: another LMDB, or one that is not complete.
        MissingDependencyError: lmdb is not installed.
    """
    lmdb = _lmdb()
    try:
        base = lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False)
    except lmdb.Error as error:
        raise DataError(f"{path} is no LMDB file: {error}") from error
    with base, base.begin() as transaction:
        if transaction.get(b"format") != b"mlip structures 1":
            raise DataError(f"{path} is an LMDB that mlip data convert did not write; convert it to extended xyz first")
        records = [transaction.get(str(k).encode()) for k in range(int(transaction.get(b"length")))]
    return [_from_record(record) for record in records]


def _from_record(record: bytes) -> Atoms:
    with np.load(io.BytesIO(record), allow_pickle=False) as a:
        return to_atoms(
            a["numbers"],
            a["positions"],
            a["cell"],
            a["pbc"],
            float(a["energy"]) if "energy" in a else np.nan,
            a["forces"] if "forces" in a else np.full((1, 3), np.nan),
            a["stress"] if "stress" in a else np.full((3, 3), np.nan),
            json.loads(a["info"].tobytes()),
        )
