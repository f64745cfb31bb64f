"""`mlip train --stream`: runs on sets on disk are those on sets in memory, and go on where they were left."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from lj_data import argon, isolated, write_xyz
from small_runs import FAST, TINY, arguments, assert_equal, checkpoint, run_state

from mlip.cli.main import main
from mlip.data import plan, stream_scan, streams
from mlip.data.labels import LabelKeys, label_structures
from mlip.data.plan import CountPlan, WindowPlan
from mlip.data.storing import write_structures
from mlip.data.stream_scan import scan
from mlip.data.streams import Stream
from mlip.errors import DataError, InputError
from mlip.training import data as training_data
from mlip.training import engine
from mlip.training.committee import train_committee
from mlip.training.config import TrainingConfig
from mlip.training.data import load_data
from mlip.training.data_set import DataSet
from mlip.training.dry_run import rehearse
from mlip.training.module import TrainingModule
from mlip.training.report import data_table, describe
from mlip.training.setup import build_potential
from mlip.training.train import train


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four structures in a block, two blocks in a window."""
    monkeypatch.setattr(streams, "BLOCK", 4)
    monkeypatch.setattr(streams, "BLOCKS_KEPT", 4)
    monkeypatch.setattr(plan, "WINDOW", 2)
    monkeypatch.setattr(stream_scan, "AT_ONCE", 6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """22 structures and an isolated atom in two HDF5 files; six others validate."""
    structures = [*argon(22), isolated()]
    for k in (3, 5, 8):
        structures[k].info["config_type"] = "surface"
    del structures[4].info["REF_energy"]
    write_xyz(tmp_path / "valid.xyz", argon(6, seed=9))
    labelled = label_structures(structures, LabelKeys()).structures
    write_structures(tmp_path / "train_1.h5", labelled[:9])
    write_structures(tmp_path / "train_2.h5", labelled[9:])
    return tmp_path


def options(folder: Path, **others: object) -> dict[str, object]:
    """Of a run on disk."""
    files = {"train_file": str(folder / "train_*.h5"), "valid_file": str(folder / "valid.xyz"), "stream": True}
    return FAST | files | {"work_dir": str(folder / "run"), "overwrite": True, "max_num_epochs": 2} | others


def config(folder: Path, **others: object) -> TrainingConfig:
    return TrainingConfig(**options(folder, **others))  # type: ignore[arg-type]


def beside(folder: Path, **others: object) -> TrainingConfig:
    """The same run in memory."""
    return config(folder, stream=False, **others)


def texts(run: TrainingConfig) -> str:
    """What people are told before it trains."""
    data = load_data(run)
    lines = describe(run, data, build_potential(run, data))
    cells = [list(column.cells) for column in data_table(data).columns]
    return "\n".join([*lines, *(" ".join(map(str, row)) for row in zip(*cells, strict=True))])


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"E0s": "average"},
        {"E0s": "{Ar: -1.25}", "model": "ScaleShiftMACE", "config_type_weights": '{"surface": 3.0}'},
    ],
)
def test_a_set_on_disk_is_described_as_in_memory(folder: Path, others: dict[str, object]) -> None:
    streamed, kept = load_data(config(folder, **others)), load_data(beside(folder, **others))
    assert streamed.statistics.__dict__ == pytest.approx(kept.statistics.__dict__, rel=1e-12)
    assert streamed.reference.E0s == pytest.approx(kept.reference.E0s, rel=1e-12)
    assert streamed.reference.origin == kept.reference.origin
    assert streamed.properties == kept.properties and streamed.keys == kept.keys
    assert streamed.n_isolated == kept.n_isolated == 1 and len(streamed.trained) == len(kept.trained) == 22
    assert streamed.trained.n_atoms == kept.trained.n_atoms and streamed.plan.steps == kept.plan.steps == 6
    for a, b in zip(streamed.sets.values(), kept.sets.values(), strict=True):
        assert a.rows() == b.rows() and len(a) == len(b) and a.count("energy") == b.count("energy")
    told = texts(config(folder, **others))
    left = "22 structures are read from disk as they train\n"
    assert left in told and told.replace(left, "") == texts(beside(folder, **others))


def test_the_same_batches_train_the_same_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, where scale and shift do not come from sums."""
    run = {"scaling": "no_scaling", "config_type_weights": '{"surface": 3.0}'}
    ours = train(config(folder, **run))
    planned = load_data(config(folder, **run)).plan
    assert isinstance(planned, WindowPlan)
    monkeypatch.setattr(training_data, "make_plan", lambda *_: planned)
    kept = train(beside(folder, **run, name="kept"))
    assert_equal(dict(ours.potential.state_dict()), dict(kept.potential.state_dict()))
    assert ours.errors == kept.errors and ours.groups == kept.groups


@pytest.mark.parametrize("others", [{}, {"swa": True, "start_swa": 2, "num_workers": 1}])
def test_a_stream_continues_bit_for_bit(folder: Path, others: dict[str, object]) -> None:
    runs = [str(folder / name) for name in ("whole", "parts")]
    train(config(folder, work_dir=runs[0], max_num_epochs=4, **others | {"num_workers": 0}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "time_is_up", property(lambda module: module.epoch == 2))
        train(config(folder, work_dir=runs[1], max_num_epochs=4, **others))
    result = train(config(folder, work_dir=runs[1], max_num_epochs=4, restart_latest=True, **others))
    assert [r["epoch"] for r in result.history] == [1, 2, 3, 4]
    assert_equal(*(run_state(Path(run)) for run in runs))


@pytest.mark.parametrize(("steps", "kept"), [(1, 1), (8, 2), (17, 5)])
def test_a_stream_stopped_inside_an_epoch_continues_at_the_step(
    folder: Path, monkeypatch: pytest.MonkeyPatch, steps: int, kept: int
) -> None:
    """Six steps an epoch, a checkpoint after each of them but the last."""
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 0.0)
    taken = []

    def stop(module: TrainingModule, *_: object) -> None:
        taken.append(module.epoch)
        if len(taken) == steps:
            raise KeyboardInterrupt

    parts, whole = folder / "parts", folder / "whole"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingModule, "on_train_batch_end", stop)
        train(config(folder, work_dir=str(parts), max_num_epochs=4))
    assert len(checkpoint(parts)["losses"]) == kept
    train(config(folder, work_dir=str(parts), max_num_epochs=4, restart_latest=True, num_workers=1))
    train(config(folder, work_dir=str(whole), max_num_epochs=4))
    assert_equal(run_state(parts), run_state(whole))
    with pytest.raises(InputError, match="different run .*--stream True -> False"):
        train(beside(folder, work_dir=str(whole), max_num_epochs=5, restart_latest=True))


def test_command_trains_from_disk(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the report of it, a restart, and without writing in a dry run."""
    words = arguments(options(folder))
    assert main(["train", "--dry_run", "--json", *words]) == 0
    assert json.loads(capsys.readouterr().out)["steps_per_epoch"] == 6
    assert not (folder / "run").exists()
    assert main(["train", "--json", *words]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert "22 structures are read from disk as they train" in shown.err
    assert {name: errors["n"] for name, errors in found["errors"].items()} == {"train": 22, "valid": 6}
    page = Path(found["report"]).read_text()
    assert "22 structures are read from disk as they train" in page and "train_*.h5" in page
    assert main(["train", "--json", *words, "--restart_latest", "--max_num_epochs=3"]) == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == 3


def test_a_sample_stands_for_the_set_at_the_end_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_scan, "SAMPLE", 8)
    result = train(config(folder, plot=True))
    assert {name: errors["n"] for name, errors in result.errors.items()} == {"train": 8, "valid": 6}
    metadata = result.potential.metadata
    assert metadata["sets"] == {"train": 22, "valid": 6} and metadata["config"]["stream"]
    page = result.report.read_text()
    line = (
        "22 structures are read from disk as they train; neighbors per atom, and the errors and plots of train at the"
    )
    assert f"{line} end, are those of 8 of them, drawn at random" in page
    data = load_data(config(folder))
    assert data.sets["train"].rows()[0].structures == 22 and len(data.sets["train"].structures) == 8
    assert data.statistics.n_structures == 22 and data.statistics.n_atoms == 88
    exact = load_data(beside(folder)).statistics
    assert data.statistics.forces_rms == pytest.approx(exact.forces_rms, rel=1e-12)
    assert data.statistics.avg_num_neighbors == pytest.approx(exact.avg_num_neighbors, rel=0.1)


def test_a_committee_from_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All members have the same sample, and so the same hyperparameters."""
    monkeypatch.setattr(stream_scan, "SAMPLE", 8)
    result = train_committee(config(folder, committee=2, max_num_epochs=1))
    first, second = (member.potential.model for member in result.members)
    assert first.hyperparameters == second.hyperparameters
    assert result.errors["train"]["n"] == 8 and result.path.exists()


def test_symmetry_functions_are_chosen_by_the_sample(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_scan, "SAMPLE", 8)
    only = {key: value for key, value in options(folder).items() if key not in TINY or key in ("r_max", "plot")}
    result = train(TrainingConfig(**only, model="HDNNP", num_symmetry_functions=4, hidden_layers="[3]"))  # type: ignore[arg-type]
    assert np.isfinite(result.errors["valid"]["energy_rmse_meV_per_atom"])


def test_dry_run_takes_the_largest_structures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    batch = streams.Streamed.batch
    monkeypatch.setattr(
        streams.Streamed, "batch", lambda self, members: batches.append(members) or batch(self, members)
    )
    found = rehearse(config(folder, dry_run=True, batch_size=5))
    assert found.steps_per_epoch == 5 and batches[0] == [0, 1, 2, 3, 4]


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"valid_file": None}, "--stream needs --valid_file, .* mlip data split"),
        ({"batch_atoms": 100}, "--stream with --batch_atoms is not possible; give --batch_size"),
        ({"batch_edges": 100}, "--stream with --batch_edges"),
        ({"foundation_model": "mace_mp_small"}, "--stream with --foundation_model"),
        ({"target": "mu", "E0s": "isolated"}, "--stream with --target"),
        ({"energy_key": "dft"}, "energy can't be under 'dft' .* leave out --energy_key"),
        ({"virials_key": "REF_virials"}, "leave out --virials_key"),
    ],
)
def test_options_that_do_not_go_with_it(others: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingConfig(train_file="a.h5", stream=True, **{"valid_file": "b.xyz"} | others)  # type: ignore[arg-type]


def test_data_that_can_not_be_streamed(folder: Path) -> None:
    with pytest.raises(DataError, match=r"valid\.xyz is none; mlip data convert valid\.xyz -o valid\.h5 makes one"):
        load_data(config(folder, train_file=str(folder / "valid.xyz")))
    with pytest.raises(InputError, match="no structure of .* has the config_type slab"):
        load_data(config(folder, config_type_weights='{"slab": 2.0}'))
    with pytest.raises(DataError, match="no two atoms of .* are within --r_max 0.5"):
        load_data(config(folder, r_max=0.5))
    with pytest.raises(InputError, match="gives no energy for Ar"):
        load_data(config(folder, E0s="{1: 0.0}"))
    write_structures(folder / "atoms.h5", label_structures([isolated(), isolated()], LabelKeys()).structures)
    with pytest.raises(DataError, match="holds isolated atoms only; nothing to train on"):
        load_data(config(folder, train_file=str(folder / "atoms.h5")))
    with pytest.raises(DataError, match="holds isolated atoms only; nothing to validate on"):
        load_data(config(folder, valid_file=str(folder / "atoms.h5")))
    zeros = argon(5)
    for atoms in zeros:
        atoms.info["REF_energy"] = 0.0
        del atoms.arrays["REF_forces"]
    write_structures(folder / "zeros.h5", label_structures(zeros, LabelKeys()).structures)
    with pytest.raises(DataError, match="the energy of all 5 training structures is exactly zero"):
        load_data(config(folder, train_file=str(folder / "zeros.h5"), E0s="average"))
    with pytest.raises(DataError, match=r"no structure has the forces key REF_forces \(--forces_key\)"):
        load_data(config(folder, train_file=str(folder / "zeros.h5"), forces_key="REF_forces"))
    with pytest.raises(DataError, match="--loss stress, but no structure of the training set has a stress"):
        part = label_structures([a for a in argon(5) if a.info.pop("REF_stress") is not None], LabelKeys()).structures
        write_structures(folder / "stressless.h5", part)
        load_data(config(folder, train_file=str(folder / "stressless.h5"), loss="stress", E0s="average"))


def test_a_set_below_a_window_is_permuted_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "WINDOW", 64)
    windows = WindowPlan(np.array([0, 4, 8, 12, 14]), np.empty(0, dtype=np.int64), 3)
    first = [k for batch in windows.batches(0, 0) for k in batch]
    assert {abs(a - b) for a, b in zip(first, first[1:], strict=False)} - {1, 2, 3}
    assert [len(batch) for batch in windows.batches(0, 0)] == [len(batch) for batch in CountPlan(14, 3).batches(0, 0)]


def test_counts_of_a_sample_are_those_of_the_whole_set(folder: Path) -> None:
    found = scan(Stream([folder / "train_1.h5"]), 1)
    part = DataSet([], [], "train_1.h5", tuple(found.groups))
    assert [row.group for row in part.rows()] == ["", "Default", "surface"]
    assert len(part) == 9 and part.count("energy") == 8
