"""Training sets in HDF5 files, of which no more than a window is in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlip.data.batches import LabelledBatch, make_batch
from mlip.data.blocks import Block
from mlip.data.labels import LabelKeys, LabelledStructure, label_structure
from mlip.data.loading import TrainingSet
from mlip.data.plan import WINDOW
from mlip.data.shards import Shard
from mlip.data.weights import weighted
from mlip.errors import DataError

#: Structures that are read together.
BLOCK = 128
#: Blocks in memory: those of a window, and of the one before it, of which structures may be left.
BLOCKS_KEPT = 2 * WINDOW
#: Files that are open at a time.
FILES_OPEN = 32
#: Names of the labels in these files.
STORED_KEYS = LabelKeys("REF_energy", "REF_forces", "REF_stress")


class Piece(NamedTuple):
    """Consecutive structures of a file."""

    path: Path
    start: int  # index of the first one in its file
    first: int  # and in the whole sequence
    block: Block


class Stream:
    """The structures of several HDF5 files as one sequence, read and given their labels when they are asked for.

    Args:
        paths: the files.
        weights: factors of the structures' weights by `config_type`.

    Raises:
        DataError: a file that is empty or that `mlip data convert` did not write.
        OSError: a file can't be read.
    """

    def __init__(self, paths: Sequence[Path], weights: Mapping[str, float] | None = None) -> None:
        self.paths, self.weights = list(paths), dict(weights or {})
        self._shards: list[Shard] = []
        for path in self.paths:
            self._shards.append(Shard(path))
            self._shards[-1].close()
            if not len(self._shards[-1]):
                raise DataError(f"{path} holds no structure")
        self.firsts = np.cumsum([0, *map(len, self._shards)])  # (files + 1,) the first structure of each
        blocks = [first + np.arange(0, len(s), BLOCK) for first, s in zip(self.firsts, self._shards, strict=False)]
        self.starts = np.concatenate([*blocks, self.firsts[-1:]])  # (blocks + 1,) likewise
        self._kept: OrderedDict[int, Piece] = OrderedDict()
        self._open: list[int] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict(), "_open": []}

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def place(self, index: int) -> tuple[str, int]:
        """Where a structure is from: the file, if there are several, and the index in it."""
        k = int(np.searchsorted(self.firsts, index, side="right")) - 1
        return self._file(self.paths[k]), index - int(self.firsts[k])

    def labelled(self, members: Sequence[int]) -> list[LabelledStructure]:
        """These structures with their labels.

        Raises:
            DataError: labels that can't be used, a file that can't be read.
        """
        return [self._structure(*self._piece_of(k)) for k in members]

    def sizes(self, members: Sequence[int]) -> list[int]:
        """Numbers of atoms of these structures."""
        return [int(piece.block.sizes[k]) for piece, k in map(self._piece_of, members)]

    def pieces(self, size: int) -> Iterator[Piece]:
        """All structures in their order, at most so many at once."""
        for file, shard in enumerate(self._shards):
            for start in range(0, len(shard), size):
                yield self._read(file, start, min(start + size, len(shard)))

    def close(self) -> None:
        """Nothing is open or in memory until structures are asked for again."""
        self._kept.clear()
        self._open.clear()
        for shard in self._shards:
            shard.close()

    def _structure(self, piece: Piece, k: int) -> LabelledStructure:
        found = label_structure(piece.block.atoms(k), STORED_KEYS, piece.start + k, str(piece.path))
        (found,) = weighted([found], self.weights)
        file = self._file(piece.path)
        return replace(found, file=file) if file else found

    def _file(self, path: Path) -> str:
        return str(path) if len(self.paths) > 1 else ""

    def _piece_of(self, member: int) -> tuple[Piece, int]:
        """The block that a structure is in, and its place there."""
        number = int(np.searchsorted(self.starts, member, side="right")) - 1
        if number in self._kept:
            self._kept.move_to_end(number)
        else:
            first, stop = int(self.starts[number]), int(self.starts[number + 1])
            file = int(np.searchsorted(self.firsts, first, side="right")) - 1
            begin = int(self.firsts[file])
            self._kept[number] = self._read(file, first - begin, stop - begin)
            while len(self._kept) > BLOCKS_KEPT:
                self._kept.popitem(last=False)
        piece = self._kept[number]
        return piece, member - piece.first

    def _read(self, file: int, start: int, stop: int) -> Piece:
        self._open = [*(k for k in self._open if k != file), file]
        if len(self._open) > FILES_OPEN:
            self._shards[self._open.pop(0)].close()
        return Piece(self.paths[file], start, int(self.firsts[file]) + start, self._shards[file].block(start, stop))


class Streamed(TrainingSet):
    """Structures of a stream that train; members are their places in it.

    Args:
        stream: all structures, those that do not train included.
        cutoff: of their graphs, Å.
        n: number of those that train.
        n_atoms: their atoms.
        heaviest: the largest of them, largest first.
    """

    def __init__(self, stream: Stream, cutoff: float, n: int, n_atoms: int, heaviest: NDArray[np.int64]) -> None:
        self.stream, self.cutoff, self.n, self._n_atoms, self._heaviest = stream, cutoff, n, n_atoms, heaviest

    def __len__(self) -> int:
        return self.n

    @property
    def n_atoms(self) -> int:
        return self._n_atoms

    def loads(self, members: Sequence[int]) -> list[int]:
        """Atoms."""
        return self.stream.sizes(members)

    def heaviest_first(self) -> list[int]:
        return [int(k) for k in self._heaviest]

    def batch(self, members: Sequence[int]) -> LabelledBatch:
        return make_batch(self.stream.labelled(members), self.cutoff, str(self.stream.paths[0]))
