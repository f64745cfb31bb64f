"""Weights and reference energies of fine-tuning: whatever a file says of them counts, in every form of it."""

from __future__ import annotations

import dataclasses
import json
from copy import deepcopy
from pathlib import Path

import pytest
from lj_data import argon, isolated, write_xyz
from test_fine_tuning import config
from test_fine_tuning import folder as folder  # the fixture

from mlip.data.labels import LabelKeys, label_structures
from mlip.data.reference_energies import is_E0s_file, reference_energies
from mlip.published import PUBLISHED
from mlip.training.data import TrainingData, load_data
from mlip.training.foundation import load_foundation


def data_of(folder: Path, **options: object) -> TrainingData:
    asked = config(folder, **options)
    return load_data(asked, load_foundation(asked))


@pytest.mark.parametrize("pseudolabel_replay", [False, True])
def test_replay_structures_have_their_weights(folder: Path, tmp_path: Path, pseudolabel_replay: bool) -> None:
    new, replay = argon(6), argon(4, seed=3)
    for atoms in (new[0], replay[1]):
        atoms.info["config_type"] = "surface"
    replay[2].info["config_weight"] = 3.0
    replay[3].info["config_forces_weight"] = 0.0
    files = {"train_file": write_xyz(tmp_path / "new.xyz", new), "pt_train_file": write_xyz(tmp_path / "r.xyz", replay)}
    found = data_of(
        folder,
        **files,
        E0s="foundation",
        multiheads_finetuning=True,
        pseudolabel_replay=pseudolabel_replay,
        weight_pt_head=2.0,
        config_type_weights='{"surface": 5}',
        valid_fraction=0.2,
    )
    structures = found.sets["replay"].structures
    assert [s.weight for s in structures] == [2.0, 10.0, 6.0, 2.0]
    assert [s.label_weight("forces") for s in structures] == [2.0, 10.0, 6.0, 0.0]


@pytest.mark.parametrize("form", ["mapping", "json", "atoms", "isolated"])
def test_energies_of_kept_elements_are_taken_in_every_form(folder: Path, tmp_path: Path, form: str) -> None:
    atoms = [isolated("Ar", -3.5), isolated("Si", -8.0)]
    (tmp_path / "E0s.json").write_text(json.dumps({"18": -3.5, "14": -8.0}))
    write_xyz(tmp_path / "E0s.xyz", atoms)
    train_file = write_xyz(tmp_path / "train.xyz", [*argon(6), *(atoms if form == "isolated" else [])])
    E0s = {
        "mapping": "{18: -3.5, 14: -8.0}",
        "json": str(tmp_path / "E0s.json"),
        "atoms": str(tmp_path / "E0s.xyz"),
        "isolated": "isolated",
    }[form]
    found = data_of(folder, train_file=train_file, E0s=E0s, foundation_model_elements=True).reference
    assert found.E0s == {10: -1.0, 14: -8.0, 18: -3.5}
    assert found.origin.endswith("; of 1 others those of one.safetensors") and "left out" not in found.origin
    only = data_of(folder, train_file=train_file, E0s=E0s).reference
    assert only.E0s == {18: -3.5} and "those of one" not in only.origin


def test_energies_without_weight_make_no_reference_energies(folder: Path, tmp_path: Path) -> None:
    structures = argon(8)
    usual = data_of(folder, train_file=write_xyz(tmp_path / "a.xyz", structures[3:]), E0s="estimated").reference
    for atoms in structures[:3]:
        atoms.info |= {"REF_energy": 1e4, "config_energy_weight": 0.0}
    found = data_of(folder, train_file=write_xyz(tmp_path / "b.xyz", structures), E0s="estimated").reference
    assert found.E0s == pytest.approx(usual.E0s, abs=1e-9) and "over 5 energies" in found.origin
    labelled = label_structures(structures, LabelKeys()).structures
    assert reference_energies("average", labelled, []).E0s == pytest.approx(
        reference_energies("average", labelled[3:], []).E0s, rel=1e-12
    )


def test_words_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for word in ("isolated", "average", "foundation", "estimated"):
        Path(word).write_text("")
        assert not is_E0s_file(word)
    assert is_E0s_file("E0s.json")


def test_license_of_the_published_model_goes_along(folder: Path) -> None:
    found = load_foundation(config(folder))
    assert found is not None and "license" not in found.provenance()
    published = PUBLISHED["mace-off23-small"]
    for name in (published.name, published.alias, published.file_name):
        assert dataclasses.replace(found, name=str(name)).provenance()["license"] == "ASL"
    of_file = next(model for model in PUBLISHED.values() if model.sha256)
    assert dataclasses.replace(found, sha256=str(of_file.sha256)).license == of_file.license.name
    again = deepcopy(found.potential)
    again.metadata = {"foundation": {"license": "ASL"}}
    assert dataclasses.replace(found, potential=again).provenance()["license"] == "ASL"
