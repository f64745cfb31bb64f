"""Models by name and by content: the table, the lookup order, the files that are refused, `mlip models`."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from local_server import HOST, Server, archive
from safetensors.numpy import save_file

import mlip
from mlip import downloads, zoo
from mlip.calculators import MLIPCalculator
from mlip.cli import main
from mlip.downloads import cache_folder
from mlip.errors import InputError, ModelFileError
from mlip.published import ASL, BUNDLED_DATA, MIT, PUBLISHED, PublishedModel, find
from mlip.zoo import bundled_models, load, model_path

DOCS = (Path(__file__).parents[1] / "docs" / "models.md").read_text()
SMALL = PUBLISHED["mace-mp-0a-small"]


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MLIP_OFFLINE", "1")  # the real network is never used
    monkeypatch.delenv("MLIP_MODELS", raising=False)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two published models at the address that the local server answers for."""
    for name, terms in (("toy-free", MIT), ("toy-academic", ASL)):
        model = PublishedModel(name, f"https://{HOST}/{name}-v1.model", terms, (14,), "nothing", "nobody")
        monkeypatch.setitem(PUBLISHED, name, model)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, toys: None) -> Iterator[Server]:
    monkeypatch.delenv("MLIP_OFFLINE")
    with Server() as running:
        monkeypatch.setattr(downloads, "https_opener", lambda: running.opener)
        yield running


@pytest.fixture
def mace_reader(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, str | None]]:
    """In place of the reader of MACE's files, one that notes what it was asked for and gives silicon in float64."""
    asked: list[tuple[Path, str | None]] = []

    def mace_potential(found: object, path: Path, head: str | None = None) -> mlip.Potential:
        asked.append((path, head))
        return load("silicon", dtype=torch.float64).requires_grad_(True)

    monkeypatch.setattr("mlip.importers.torch_files.mace_potential", mace_potential)
    return asked


def put_archive(path: Path) -> Path:
    """A file as torch.save writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weights": torch.ones(3)}, path)
    return path


# The table


def test_table_is_complete_and_consistent() -> None:
    assert len(PUBLISHED) == 20
    for names in (list(PUBLISHED), [m.file_name for m in PUBLISHED.values()]):
        assert len({name.lower() for name in names}) == len(names)
    aliases = [m.alias for m in PUBLISHED.values() if m.alias]
    assert len(set(aliases)) == len(aliases) and not set(aliases) & set(PUBLISHED)
    for name, model in PUBLISHED.items():
        assert name == model.name == name.lower() and not set(bundled_models()) & {name, model.alias}
        assert model.url.startswith("https://") and model.file_name.endswith(".model")
        assert model.elements == tuple(sorted(set(model.elements)))
        assert model.license in (ASL,) or (model.license.name == "MIT" and not model.license.notice)
        assert re.search(r"arXiv:\d{4}\.\d{5}", model.citation)
    assert {len(m.elements) for m in PUBLISHED.values()} == {89, 10, 4}
    assert set(BUNDLED_DATA) == set(bundled_models())


def test_academic_models_are_those_that_mace_says() -> None:
    academic = {name for name, m in PUBLISHED.items() if m.license is ASL}
    assert academic == {name for name in PUBLISHED if re.match("mace-(omat|matpes|off)", name)}


def test_find_by_name_and_by_the_name_in_mace() -> None:
    assert find("mace-mp-0a-small") is SMALL and find("MACE-MP-0a-Small") is SMALL
    assert find("small-0b2") is PUBLISHED["mace-mp-0b2-small"]
    assert find("medium-mpa-0") is PUBLISHED["mace-mpa-0-medium"]
    assert find("small") is find("medium") is find("large") is None  # names of two models each in mace


def test_the_held_file_is_the_one_in_the_table(mlip_data: Path) -> None:
    path = mlip_data / "mace" / "mace_mp_small.model"
    assert downloads._Hashes.of(path).sha256 == SMALL.sha256
    assert path.stat().st_size == SMALL.size
    config = json.loads(path.with_name("mace_mp_small.config.json").read_text())
    assert tuple(config["atomic_numbers"]) == SMALL.elements and config["r_max"] == SMALL.cutoff


def test_docs_list_every_model() -> None:
    rows = re.findall(r"^\| `(\S+)` \| (\S+) \| (\d+) \| (\S+) \| (\S+) \| (.+?) \|$", DOCS, flags=re.M)
    assert rows == [
        (
            m.name,
            m.license.name,
            str(len(m.elements)),
            str(m.cutoff or "—"),
            f"{m.parameters:,}" if m.parameters else "—",
            m.trained_on,
        )
        for m in PUBLISHED.values()
    ]


def test_docs_name_what_is_there() -> None:
    for variable in re.findall(r"`((?:MLIP|XDG)_\w+)`", DOCS):
        assert variable in Path(downloads.__file__).read_text()


# Names


def test_bundled_names_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLIP_MODELS", str(tmp_path))
    (tmp_path / "silicon.safetensors").write_bytes(b"")
    assert model_path("silicon") == bundled_models()["silicon"]


def test_published_names_look_into_folder_cache_network(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_cache = model_path("toy-free")
    assert in_cache.parent == cache_folder() and in_cache.read_bytes() == server.behavior.content
    assert model_path("Toy-Free") == in_cache and len(server.behavior.requests) == 1
    monkeypatch.setenv("MLIP_MODELS", str(tmp_path))
    assert model_path("toy-free") == in_cache
    for name in ("toy-free.safetensors", "toy-free.model", "toy-free-v1.model"):
        (tmp_path / name).write_bytes(archive(1))
        assert model_path("toy-free") == tmp_path / name


def test_own_names_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLIP_MODELS", str(tmp_path))
    load("silicon").save(tmp_path / "mine.safetensors")
    assert load("mine").elements == (14,)
    with pytest.raises(ModelFileError, match="there is no model"):
        model_path("folder/mine")


def test_offline_says_what_to_do() -> None:
    with pytest.raises(ModelFileError) as caught:
        load("mace-mp-0a-small")
    assert SMALL.url in str(caught.value) and str(cache_folder() / SMALL.file_name) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("silcon", "silicon"),
        ("mace-mp-0a-smal", "mace-mp-0a-small"),
        ("MACE-MPA-0", "mace-mpa-0-medium"),
        ("mace_off23_small", "mace-off23-small"),
        ("large", "mace-mp-0a-large or mace-mp-0b2-large or mace-off23-large"),
    ],
)
def test_misspelt_names(name: str, meant: str) -> None:
    with pytest.raises(ModelFileError, match=rf"there is no model '{name}'.*did you mean {meant}\?"):
        load(name)


@pytest.mark.parametrize("name", ["", "zzz", "no/such/file.model"])
def test_nothing_like_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        load(tmp_path / name if name == "no/such/file.model" else name or "\t")
    assert "did you mean" not in str(caught.value)


def test_license_warning(server: Server, mace_reader: list[tuple[Path, str | None]]) -> None:
    put_archive(cache_folder() / "toy-academic-v1.model")
    for use in (model_path, load, MLIPCalculator):
        with pytest.warns(UserWarning, match="toy-academic is under.*non-commercial.*github.com/gabor1/ASL"):
            use("toy-academic")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        put_archive(cache_folder() / "toy-free-v1.model")
        load("toy-free")


# Content


def test_torch_archives_go_to_the_reader_of_mace(tmp_path: Path, mace_reader: list[tuple[Path, str | None]]) -> None:
    path = put_archive(tmp_path / "whatever its name")
    potential = load(path, dtype="float32", head="default")
    assert mace_reader == [(path, "default")]
    assert potential.dtype == torch.float32 and not any(p.requires_grad for p in potential.parameters())
    assert load(path).dtype == torch.float64
    with pytest.raises(InputError, match="float16"):
        load(path, dtype="float16")
    with pytest.raises(InputError, match="nonsense"):
        load(path, device="nonsense")
    assert len(mace_reader) == 2  # what can't be is refused before the file is read


def test_own_files_whatever_their_name(tmp_path: Path) -> None:
    load("silicon").save(tmp_path / "mine.model")
    assert load(tmp_path / "mine.model").elements == (14,)
    assert load("silicon", dtype="float64").dtype == torch.float64
    with pytest.raises(InputError, match=r"silicon\.safetensors: .*no head 'no such head'"):
        load("silicon", head="no such head")


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": 1}))


def _foreign_safetensors(path: Path) -> None:
    save_file({"a": np.ones(3)}, path)


def _truncated_archive(path: Path) -> None:
    put_archive(path)
    path.write_bytes(path.read_bytes()[:300])


FOREIGN = {
    "an empty file": lambda path: path.write_bytes(b""),
    "Python pickle.*never": _pickle,
    "text file.*'<html>": lambda path: path.write_text("<html>not found</html>"),
    "text file.*'<!DOCTYPE html>": lambda path: path.write_text("<!DOCTYPE html>\n<title>Gefälscht</title>"),
    "text file.*'<html": lambda path: path.write_bytes("<html><title>Entrée</title>".encode("latin1")),
    "TorchScript": lambda path: torch.jit.script(torch.nn.Tanh()).save(path),
    "git LFS": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "HDF5": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)),
    "zip archive": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
    "zip archive, but not a complete": _truncated_archive,
    "safetensors file of another program": _foreign_safetensors,
    "not a readable weights file": lambda path: path.write_bytes(bytes(range(256)) * 9),
}


@pytest.mark.parametrize("pattern", FOREIGN)
def test_foreign_files(tmp_path: Path, pattern: str) -> None:
    FOREIGN[pattern](tmp_path / "x.model")
    with pytest.raises(ModelFileError, match=pattern) as caught:
        load(tmp_path / "x.model")
    assert "x.model" in str(caught.value) and "expected" in str(caught.value)


@pytest.mark.parametrize("length", [0x4B50, 0x0280, 0x2020])
def test_a_length_that_looks_like_another_format(tmp_path: Path, length: int) -> None:
    """The first bytes of a safetensors file are the length of its header."""
    metadata = {"mlip": "{}", "padding": ""}
    save_file({"a": np.ones(3)}, tmp_path / "x.safetensors", metadata)
    (have,) = struct.unpack("<Q", (tmp_path / "x.safetensors").read_bytes()[:8])
    save_file({"a": np.ones(3)}, tmp_path / "x.safetensors", metadata | {"padding": " " * (length - have)})
    assert (tmp_path / "x.safetensors").read_bytes()[:2] == struct.pack("<H", length)
    with pytest.raises(ModelFileError, match="header is damaged"):
        load(tmp_path / "x.safetensors")


def test_folders_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is a folder; expected"):
        load(tmp_path)
    with pytest.raises(ModelFileError, match=r"x\.model"):
        load(tmp_path / "x.model")
    with pytest.raises(InputError, match="empty"):
        load("")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipes_and_devices(tmp_path: Path) -> None:
    """To open a pipe that nobody writes to would wait for ever."""
    os.mkfifo(tmp_path / "pipe.model")
    for path in (tmp_path / "pipe.model", Path(os.devnull)):
        with pytest.raises(ModelFileError, match="not a file; expected"):
            load(path)


def test_an_empty_name_is_not_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As of --model "$MODEL" with a variable that is not set."""
    (tmp_path / "si.xyz").write_text("1\n\nSi 0 0 0\n")
    assert main(["relax", str(tmp_path / "si.xyz"), "--model", ""]) == 1
    assert "the name of the model is empty" in capsys.readouterr().err


# mlip models


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["models", *arguments])
    return (status, *capsys.readouterr())


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys)
    assert status == 0 and err == ""
    lines = {line.split()[0]: line.split() for line in out.splitlines()}
    assert {*bundled_models(), *PUBLISHED} <= set(lines)
    assert lines["mace-mp-0a-small"] == "mace-mp-0a-small MIT 89 6.0 3,847,696 MPtrj (PBE+U) not here".split()
    assert lines["mace-off24-medium"] == "mace-off24-medium ASL 10 — — SPICE not here".split()
    assert lines["silicon"] == "silicon MIT Si 5.0 67,728 mlearn Si (PBE) bundled".split()


def test_bundled_facts_are_those_of_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    listed = {m["name"]: m for m in json.loads(run(capsys, "--json")[1])["models"]}
    for name in bundled_models():
        potential = load(name)
        assert listed[name]["parameters"] == sum(p.numel() for p in potential.parameters())
        assert listed[name]["cutoff"] == potential.cutoff and len(listed[name]["elements"]) == len(potential.elements)


def test_list_says_where(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_folder().mkdir(parents=True)
    (cache_folder() / SMALL.file_name).write_bytes(b"x")
    (tmp_path / "mace-off23-small.safetensors").write_bytes(b"x")
    monkeypatch.setenv("MLIP_MODELS", str(tmp_path))
    listed = json.loads(run(capsys, "list", "--json")[1])
    where = {m["name"]: m["where"] for m in listed["models"]}
    assert where["silicon"] == "bundled" and where["mace-mp-0a-small"] == "cached"
    assert where["mace-off23-small"] == "MLIP_MODELS" and where["mace-off23-large"] == "not here"
    assert set(listed["models"][1]) >= {f.name for f in fields(PublishedModel)} - {"git_blob", "size", "license"}


def test_get(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "get", "toy-academic")
    assert status == 0 and out == f"{cache_folder() / 'toy-academic-v1.model'}\n"
    assert err.index("non-commercial") < err.index("Downloading")
    assert json.loads(run(capsys, "get", "toy-academic", "--json")[1])["path"] == out.strip()
    assert run(capsys, "get", "silicon")[1].strip() == str(bundled_models()["silicon"])


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "info", "small_off")[1]
    assert PUBLISHED["mace-off23-small"].url in out and "arXiv:2312.15211" in out and "H C N O F P S Cl Br I" in out
    assert json.loads(run(capsys, "info", "mace-mp-0a-small", "--json")[1])["sha256"] == SMALL.sha256
    assert "bundled" in run(capsys, "info", "silicon")[1]


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (("get",), "get needs the name"),
        (("info",), "info needs the name"),
        (("list", "silicon"), "takes no name"),
        (("get", "silcon"), "did you mean silicon"),
        (("info", "silcon"), "did you mean silicon"),
        (("get", "mace-mp-0a-small"), "MLIP_OFFLINE forbids the network"),
    ],
)
def test_errors_in_one_line(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], pattern: str) -> None:
    status, out, err = run(capsys, *arguments)
    assert status == 1 and out == "" and len(err.splitlines()) == 1 and pattern in err


def test_unknown_action(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "fetch")[0] == 2


def test_listing_does_not_import_torch() -> None:
    code = "import sys; from mlip.cli import main; main(['models']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.skipif(importlib.util.find_spec("mlip.importers.mace") is None, reason="no reader of MACE's files")
def test_a_published_name_to_a_potential(mlip_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / SMALL.file_name).symlink_to(mlip_data / "mace" / "mace_mp_small.model")
    monkeypatch.setenv("MLIP_MODELS", str(tmp_path))
    potential = zoo.load("mace-mp-0a-small")
    assert potential.elements == SMALL.elements and potential.cutoff == SMALL.cutoff
    assert sum(p.numel() for p in potential.parameters()) == SMALL.parameters
