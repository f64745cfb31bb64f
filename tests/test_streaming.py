"""Sets on disk: the structures, batches and statistics of sets in memory, without being in memory."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from lj_data import argon, isolated, label

from mlip.data import plan, stream_scan, streams
from mlip.data.batches import collate_samples, make_samples
from mlip.data.blocks import Block
from mlip.data.labels import LabelKeys, LabelledStructure, label_structures, read_labelled
from mlip.data.loading import training_loader
from mlip.data.plan import EpochBatches, WindowPlan
from mlip.data.reference_energies import reference_energies
from mlip.data.shards import Shard, ShardWriter
from mlip.data.splits import set_apart_isolated_atoms
from mlip.data.statistics import statistics
from mlip.data.storing import write_structures
from mlip.data.stream_scan import Scan, scan
from mlip.data.streams import Stream, Streamed
from mlip.data.summary import count_by_group, exactly_zero, remarks
from mlip.data.weights import weighted
from mlip.errors import DataError, InputError

CUTOFF = 4.5
FACTORS = {"surface": 3.0, "Default": 0.5}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four structures in a block, two blocks in a window, six structures looked at together."""
    monkeypatch.setattr(streams, "BLOCK", 4)
    monkeypatch.setattr(streams, "BLOCKS_KEPT", 3)
    monkeypatch.setattr(streams, "FILES_OPEN", 1)
    monkeypatch.setattr(plan, "WINDOW", 2)
    monkeypatch.setattr(stream_scan, "AT_ONCE", 6)


def mixed() -> list[Atoms]:
    """Crystals, a slab, molecules, isolated atoms; some labels missing, some weights, several `config_type`s."""
    structures = [*argon(9), isolated(), *argon(8, seed=1)]
    slab = argon(1, seed=2)[0]
    slab.pbc[2] = False
    structures += [slab, molecule("H2O", info={"REF_energy": -14.2}), Atoms("Ne", info={"REF_energy": -1.25})]
    structures += [molecule("H2O", info={"REF_energy": -14.0}), Atoms("O", info={"REF_energy": -2.0})]
    structures += [Atoms("H", info={"REF_energy": -1.0, "config_type": "isolated atom"}), Atoms("Ar", cell=[5] * 3)]
    structures[-1].pbc = True
    structures[1].info["config_type"] = structures[12].info["config_type"] = "surface"
    structures[2].info |= {"config_weight": 2.0, "config_forces_weight": 0.0, "note": [1, 2]}
    structures[3].info["config_energy_weight"] = 0.25
    structures[4].info.pop("REF_energy")
    structures[5].arrays.pop("REF_forces")
    structures[6].info.pop("REF_stress")
    structures[-1].info["REF_energy"] = -1.6
    return structures


def in_memory(structures: list[Atoms]) -> list[LabelledStructure]:
    return weighted(label_structures(structures, LabelKeys(), strict=False).structures, FACTORS)


def written(folder: Path, structures: list[Atoms], *cuts: int) -> list[Path]:
    """Files of consecutive structures, as `mlip data convert` writes them."""
    found = label_structures(structures, LabelKeys(), strict=False).structures
    bounds = [0, *cuts, len(found)]
    paths = [folder / f"{k}.h5" for k in range(len(bounds) - 1)]
    for path, start, stop in zip(paths, bounds, bounds[1:], strict=False):
        write_structures(path, found[start:stop])
    return paths


def whole_scan(paths: list[Path], keep: int = 5) -> Scan:
    return scan(Stream(paths, FACTORS), keep)


# -- structures and batches --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [(), (7, 19)])
def test_batches_are_those_of_the_set_in_memory(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    structures = mixed()
    samples = make_samples(in_memory(structures), CUTOFF)
    trained = Streamed(Stream(written(tmp_path, structures, *cuts), FACTORS), CUTOFF, 0, 0, np.arange(3))
    rng = np.random.default_rng(0)
    for size in (1, 5, len(structures)):
        members = rng.permutation(len(structures))[:size].tolist()
        streamed, expected = trained.batch(members), collate_samples([samples[k] for k in members])
        for a, b in zip((*streamed.graph, *streamed.labels), (*expected.graph, *expected.labels), strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b)
        assert trained.loads(members) == [len(structures[k]) for k in members]
    assert trained.heaviest_first() == [0, 1, 2]
    assert len(trained.stream._kept) <= 3
    for k, s in enumerate(trained.stream.labelled(range(len(structures)))):
        assert (s.file, s.index) == trained.stream.place(k)
        assert s.index == k - max([c for c in (0, *cuts) if c <= k])
        assert bool(s.file) == bool(cuts)


def test_a_stream_in_other_processes(tmp_path: Path) -> None:
    """Workers make the same batches, forked with open files or sent as bytes."""
    structures = argon(20)
    stream = Stream(written(tmp_path, structures, 11))
    trained = Streamed(stream, CUTOFF, 20, 80, np.arange(4))
    windows = WindowPlan(stream.starts, np.empty(0, dtype=np.int64), 3)
    alone = list(training_loader(trained, windows, 1))
    helped = list(training_loader(trained, windows, 1, num_workers=1))
    again = pickle.loads(pickle.dumps(trained))
    assert not again.stream._kept and len(alone) == len(helped) == windows.steps == 7
    for a, b, members in zip(alone, helped, windows.batches(1, 0), strict=True):
        for x, y, z in zip(*((*batch.graph, *batch.labels) for batch in (a, b, again.batch(members))), strict=True):
            assert torch.equal(x, y) and torch.equal(x, z)
    stream.close()
    assert torch.equal(trained.batch([3]).labels.energy, again.batch([3]).labels.energy)


def test_blocks_are_written_and_read_as_they_are(tmp_path: Path) -> None:
    labelled = label_structures(mixed(), LabelKeys(), strict=False).structures
    path = tmp_path / "a.h5"
    with ShardWriter(path) as writer:
        writer.add(labelled[0])
        writer.add_block(Block.of(labelled[1:9]))
        writer.add_block(Block.of(labelled[9:]))
    read = read_labelled(path).structures
    assert [s.energy for s in read] == [s.energy for s in labelled]
    shard = Shard(path)
    block = shard.block(8, 12)
    assert len(block) == 4 and block.sizes.tolist() == [len(s.atoms) for s in labelled[8:12]]
    assert np.array_equal(block.atoms(2).positions, labelled[10].atoms.positions)
    assert shard.block(1, 3).info_of(1) == {"config_weight": 2.0, "config_forces_weight": 0.0, "note": [1, 2]}
    shard.close()
    assert len(shard[3]) == 4


# -- order -------------------------------------------------------------------------------------------------------------


def some_plan(n: int, size: int, left_out: list[int]) -> WindowPlan:
    return WindowPlan(np.array([*range(0, n, 4), n]), np.array(left_out, dtype=np.int64), size)


@pytest.mark.parametrize(("n", "size", "left_out"), [(30, 4, []), (31, 5, [0, 9, 30]), (8, 20, [3]), (41, 11, [40])])
def test_every_structure_once_in_an_epoch(n: int, size: int, left_out: list[int]) -> None:
    windows = some_plan(n, size, left_out)
    orders = []
    for epoch in range(3):
        batches = list(windows.batches(7, epoch))
        assert [len(b) for b in batches[:-1]] == [size] * (windows.steps - 1) and 0 < len(batches[-1]) <= size
        orders.append([k for batch in batches for k in batch])
        assert sorted(orders[-1]) == sorted(set(range(n)) - set(left_out))
        assert batches == list(windows.batches(7, epoch)) != list(windows.batches(8, epoch))
    assert orders[0] != orders[1] != orders[2]
    assert windows.worst(list(range(n))) == list(range(n))[:size]


def test_a_batch_comes_from_few_blocks() -> None:
    """Those of its window, and what was left over of the one before."""
    for batch in some_plan(400, 8, []).batches(0, 0):
        assert len({k // 4 for k in batch}) <= 2 * plan.WINDOW


def test_batches_are_made_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    class Counted:
        def __init__(self, rng: np.random.Generator) -> None:
            self.rng = rng

        def permutation(self, what: object) -> object:
            drawn.append(what)
            return self.rng.permutation(what)

    generator = plan._generator
    monkeypatch.setattr(plan, "_generator", lambda *key: Counted(generator(*key)))
    batches = iter(some_plan(400, 8, []).batches(0, 0))
    next(batches)
    assert len(drawn) == 2


@pytest.mark.parametrize("skip", [0, 1, 5])
def test_an_epoch_goes_on_where_it_was_left(skip: int) -> None:
    windows = some_plan(31, 5, [4])
    whole, resumed = EpochBatches(windows, seed=3), EpochBatches(windows, seed=3, first_epoch=1, skip=skip)
    whole.set_epoch(1)
    resumed.set_epoch(0)
    assert len(resumed) == windows.steps - skip
    assert list(resumed) == list(whole)[skip:]
    assert len(resumed) == windows.steps


# -- statistics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [(), (5, 6, 20)])
@pytest.mark.parametrize("E0s", ["isolated", "average"])
def test_statistics_are_those_of_the_set_in_memory(tmp_path: Path, cuts: tuple[int, ...], E0s: str) -> None:
    structures = mixed()
    found = whole_scan(written(tmp_path, structures, *cuts))
    training, apart = set_apart_isolated_atoms(in_memory(structures))
    assert found.n == len(training) and found.n_atoms == sum(len(s.atoms) for s in training)
    assert found.groups == count_by_group(training) and sum(found.present.values()) == len(structures)
    assert found.elements == [1, 8, 18] and found.labelled == {"energy", "forces", "stress"}
    assert found.isolated_members.tolist() == [k for k, s in enumerate(in_memory(structures)) if s.is_isolated_atom]
    assert found.keys == LabelKeys("REF_energy", "REF_forces", "REF_stress")
    assert len(found.isolated) == len(apart) == 4
    expected = reference_energies(E0s, training, apart)
    found_E0s = found.average() if E0s == "average" else reference_energies(E0s, training, found.isolated)
    assert found_E0s.origin == expected.origin
    assert found_E0s.E0s == pytest.approx(expected.E0s, rel=1e-12)
    members = found.sample()
    assert [found.stream.place(k) for k in members] == [
        found.stream.place(k) for k in range(len(structures)) if k not in found.isolated_members
    ]
    described = statistics(make_samples(training, CUTOFF), expected.E0s)
    sampled = statistics(make_samples(found.stream.labelled(members), CUTOFF), expected.E0s)
    assert found.statistics(sampled, expected.E0s).__dict__ == pytest.approx(described.__dict__, rel=1e-12)
    sizes = [len(structures[k]) for k in found.heaviest]
    assert sizes == sorted((len(s.atoms) for s in training), reverse=True)[:5]


def test_stresses_of_slabs_do_not_count(tmp_path: Path) -> None:
    structures = argon(3)
    structures[1].pbc[2] = False
    with ShardWriter(tmp_path / "a.h5") as writer:
        for atoms in structures:
            writer.add(LabelledStructure(atoms, stress=np.eye(3)))
    found = scan(Stream([tmp_path / "a.h5"]), 1)
    expected = read_labelled(tmp_path / "a.h5")
    assert found.ignored_stresses == expected.ignored_stresses == 1 and found.keys == expected.keys
    assert found.groups[0].labels == expected.counts == {"energy": 0, "forces": 0, "stress": 2}
    with pytest.raises(DataError, match="needs energies"):
        found.average()


def test_large_energies_lose_nothing(tmp_path: Path) -> None:
    """All electrons: -1e5 eV an atom, of which 0.01 eV matter."""
    rng = np.random.default_rng(0)
    structures = []
    for _ in range(60):
        atoms = bulk("Ar", "fcc", a=5.3, cubic=True)
        atoms.numbers = rng.choice([18, 36], size=4)
        energy = sum({18: -14_351.5, 36: -75_012.25}[int(z)] for z in atoms.numbers)
        atoms.info["REF_energy"] = energy + rng.normal(scale=0.01)
        structures.append(atoms)
    found = scan(Stream(written(tmp_path, structures)), 1)
    training = label_structures(structures, LabelKeys()).structures
    expected = reference_energies("average", training, [])
    assert found.average().E0s == pytest.approx(expected.E0s, rel=1e-13)
    samples = make_samples(training, CUTOFF)
    described = statistics(samples, expected.E0s)
    ours = found.statistics(described, expected.E0s)
    assert ours.interaction_std == pytest.approx(described.interaction_std, rel=1e-7)
    assert ours.interaction_mean == pytest.approx(described.interaction_mean, abs=1e-9)


def test_compositions_that_do_not_determine_the_energies(tmp_path: Path) -> None:
    structures = [molecule("H2O", info={"REF_energy": -9.0 + 0.1 * k}) for k in range(8)]
    found = scan(Stream(written(tmp_path, structures)), 1)
    expected = reference_energies("average", label_structures(structures, LabelKeys()).structures, [])
    assert found.average().E0s == pytest.approx(expected.E0s, rel=1e-12)
    assert found.average().origin == expected.origin and "fix only 1 of 2" in expected.origin


def test_a_sample_of_a_large_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    structures = [*argon(10), isolated(), *argon(20, seed=1), isolated()]
    found = scan(Stream(written(tmp_path, structures, 9)), 1)
    assert len(found.sample()) == 30
    monkeypatch.setattr(stream_scan, "SAMPLE", 12)
    members = found.sample()
    assert len(set(members)) == 12 and members == sorted(members) == found.sample()
    assert not set(members) & {10, 31} and max(members) < 32
    monkeypatch.setattr(stream_scan, "SAMPLE_ATOMS", 21)
    assert len(found.sample()) == 5


@pytest.mark.parametrize("kind", ["zeros", "outliers", "perfect", "none"])
def test_remarks_are_those_of_the_set_in_memory(tmp_path: Path, kind: str) -> None:
    structures = argon(14)
    if kind == "zeros":
        for k in range(0, 14, 2):
            structures[k].info["REF_energy"] = 0.0
            structures[k].arrays["REF_forces"][:] = 0.0
    elif kind == "outliers":
        structures[3].arrays["REF_forces"][1] = [0, 500.0, 0]
        structures[9].arrays["REF_forces"][1] = [0, 90.0, 0]
    elif kind == "perfect":
        structures[4] = label(bulk("Ar", "fcc", a=5.2, cubic=True))
        structures[4].arrays["REF_forces"][:] = 0.0
    found = scan(Stream(written(tmp_path, structures)), 1)
    training = label_structures(structures, LabelKeys()).structures
    expected = remarks("train", training)
    assert len(expected) == {"zeros": 2, "outliers": 1}.get(kind, 0)
    assert found.remarks("train") == expected
    for name, zeros in found.zeros.items():
        members, possible = exactly_zero(training, name)
        assert (zeros.members, zeros.n, zeros.possible) == ([s.index for s in members], len(members), possible)


# -- refusals ----------------------------------------------------------------------------------------------------------


def broken(change: Callable[[Atoms], None]) -> Callable[[Path], list[Path]]:
    """Files of which the 11th structure of the second one is changed, past all checks of the writer."""

    def write(folder: Path) -> list[Path]:
        structures = argon(20)
        change(structures[15])
        paths = [folder / "a.h5", folder / "b.h5"]
        for path, part in zip(paths, (structures[:4], structures[4:]), strict=True):
            with ShardWriter(path) as writer:
                for atoms in part:
                    forces, stress = atoms.arrays["REF_forces"], atoms.info.get("REF_stress")
                    full = None if stress is None else stress_of(stress)
                    writer.add(LabelledStructure(atoms, atoms.info["REF_energy"], forces, full))
        return paths

    return write


def stress_of(stress: np.ndarray) -> np.ndarray:
    from mlip.units import voigt_6_to_full_3x3

    return voigt_6_to_full_3x3(stress) if stress.shape == (6,) else stress


def put(name: str, value: object, *place: int) -> Callable[[Atoms], None]:
    def change(atoms: Atoms) -> None:
        if name in atoms.arrays:
            atoms.arrays[name][place] = value
        else:
            atoms.info[name] = value

    return change


def flatten(atoms: Atoms) -> None:
    atoms.cell[2] = atoms.cell[1]


def meet(atoms: Atoms) -> None:
    atoms.positions[3] = atoms.positions[0] + [0.01, 0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("REF_energy", np.inf), "energy is not finite"),
        (put("REF_energy", -1e14), "energy has 1e"),
        (put("REF_forces", -np.inf, 2, 1), "forces is not finite"),
        (put("REF_forces", 1e13, 0, 0), "forces has 1e"),
        (put("REF_stress", np.diag([0, 0, np.inf])), "stress is not finite"),
        (put("REF_stress", np.arange(9.0).reshape(3, 3)), "is not symmetric"),
        (put("positions", np.nan, 1, 0), "positions of 1 of 4 atoms are not finite"),
        (put("numbers", 0, 2), "are no elements"),
        (flatten, "linearly dependent"),
        (meet, "atoms 0 and 3 are 0.01 Å apart"),
        (put("config_weight", -1.0), "config_weight is -1"),
        (put("config_type", "IsolatedAtom"), "is marked IsolatedAtom but has 4 atoms"),
    ],
)
def test_what_is_wrong_names_file_and_index(tmp_path: Path, change: Callable[[Atoms], None], message: str) -> None:
    stream = Stream(broken(change)(tmp_path))
    with pytest.raises((DataError, InputError), match=rf"structure 11 of \S*b\.h5.*{message}"):
        scan(stream, 1)


def test_labels_that_are_partly_missing_are_missing(tmp_path: Path) -> None:
    stream = Stream(broken(put("REF_forces", np.nan, 2, 1))(tmp_path))
    assert scan(stream, 1).groups[0].labels == {"energy": 20, "forces": 19, "stress": 20}
    assert stream.labelled([15])[0].forces is None


def test_files_that_are_none(tmp_path: Path) -> None:
    import h5py

    with ShardWriter(tmp_path / "empty.h5"):
        pass
    with pytest.raises(DataError, match=r"empty\.h5 holds no structure"):
        Stream([tmp_path / "empty.h5"])
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(DataError, match="did not write; it holds x"):
        Stream([tmp_path / "other.h5"])
    (path,) = written(tmp_path, argon(9))
    with h5py.File(path, "r+") as file:
        file["info"][5] = ord("x")
    with pytest.raises(DataError, match=r"structure 2 of .*its info is not JSON"):
        scan(Stream([path]), 1)
    with h5py.File(path, "r+") as file:
        file["positions"].resize(20, axis=0)
    with pytest.raises(DataError, match=r"0\.h5 is damaged: arrays end before structure 5; write it again"):
        scan(Stream([path]), 1)
