"""Our weights file: round trip to the bit, and one clear error for everything that is not such a file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import mlip
from mlip.checkpoint import FORMAT_VERSION, digest, read_header
from mlip.errors import InputError, ModelFileError
from mlip.models import MACE
from mlip.potential import Potential


@pytest.fixture
def potential() -> Potential:
    torch.manual_seed(3)
    model = MACE([1, 8], 4.0, "4x0e+4x1o", l_max=2, correlation=2, radial_mlp=(8,), avg_num_neighbors=5.3)
    return Potential(model, {1: -13.6, 8: -432.1234567890123}, scale=0.7, shift=-0.1, metadata={"note": "grün"})


@pytest.fixture
def path(potential: Potential, tmp_path: Path) -> Path:
    potential.save(tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_is_exact(potential: Potential, tmp_path: Path, dtype: torch.dtype) -> None:
    potential.to(dtype)
    potential.save(tmp_path / "b.safetensors")
    loaded = mlip.load(tmp_path / "b.safetensors")
    assert loaded.dtype == dtype
    assert loaded.E0s == potential.E0s == {1: -13.6, 8: -432.1234567890123}
    assert loaded.metadata == {"note": "grün"}
    assert loaded.model.hyperparameters == potential.model.hyperparameters
    for name, tensor in potential.model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name]), name
    assert loaded.isolated_energy(8) == potential.isolated_energy(8)


def test_reference_energies_keep_double_precision(potential: Potential) -> None:
    assert potential.to(torch.float32).E0s[8] == -432.1234567890123
    assert potential.dtype == torch.float32


def test_model_without_a_name_in_files_is_not_saved(tmp_path: Path) -> None:
    class Mine(MACE):
        pass

    model = Mine([1], 4.0, "4x0e", l_max=1, correlation=1, radial_mlp=(8,))
    with pytest.raises(InputError, match="Mine is no architecture.*MACE"):
        Potential(model, {1: 0.0}).save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_old_file_survives_a_failed_save(potential: Potential, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space") as caught:
        potential.save(path)
    assert caught.value.filename == str(path)
    with pytest.raises(FileNotFoundError) as caught:
        potential.save(path.parent / "missing" / "a.safetensors")
    assert caught.value.filename == str(path.parent / "missing" / "a.safetensors")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_truncated_files(path: Path) -> None:
    whole = path.read_bytes()
    for length in [0, 4, 8, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError, match="complete"):
            mlip.load(path)


def test_text_file(tmp_path: Path) -> None:
    path = tmp_path / "model.txt"
    path.write_text("these are no weights\n" * 10)
    with pytest.raises(ModelFileError, match="not a readable weights file"):
        mlip.load(path)


def test_file_of_another_program(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelFileError, match="another program"):
        mlip.load(tmp_path / "x.safetensors")


def rewrite(path: Path, **changes: object) -> None:
    """The same tensors under a changed header."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["mlip"]) | changes
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header["sha256"] = digest(header, tensors)
    save_file(tensors, path, metadata={"mlip": json.dumps(header)})


def test_every_flipped_bit_and_edited_number_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    for place in (length + 9, (length + len(whole)) // 2, len(whole) - 1):  # in the tensors
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ModelFileError, match="checksum"):
            mlip.load(path)
    path.write_bytes(whole.replace(b"-432.1234567890123", b"-432.1234567890124"))
    with pytest.raises(ModelFileError, match="checksum"):
        mlip.load(path)
    path.write_bytes(whole)
    assert mlip.load(path).E0s[8] == -432.1234567890123


def test_metadata_of_any_json_kind(potential: Potential, path: Path) -> None:
    potential.metadata = {"a": (1, 2), "E0s": {14: 1.0, 8: 2.0, 1: 0.1}}
    potential.save(path)
    assert mlip.load(path).metadata == {"a": [1, 2], "E0s": {"14": 1.0, "8": 2.0, "1": 0.1}}


@pytest.mark.parametrize("name", ["float64", torch.float64])
def test_dtype_by_name(path: Path, name: str | torch.dtype) -> None:
    assert mlip.load(path, dtype=name).dtype == torch.float64
    with pytest.raises(InputError, match="expected one of float32, float64"):
        mlip.load(path, dtype="float16")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": FORMAT_VERSION + 1}, "Upgrade mlip"),
        ({"format": "other"}, "is not known"),
        ({"format_version": "one"}, "is not known"),
        ({"architecture": "Nothing"}, "do not fit"),
        ({"hyperparameters": {"elements": [1]}}, "do not fit"),
        ({"references": {"default": {"E0s": {"1": 0.0}, "scale": 1.0, "shift": 0.0}}}, "do not fit"),
        ({"references": {"other": {"E0s": {"1": 0.0, "8": 0.0}, "scale": 1.0, "shift": 0.0}}}, "do not fit"),
        ({"head": "other"}, "do not fit"),
        ({"dtype": "float16"}, "do not fit"),
        ({"dtype": "float64"}, "is torch.float32, the header says torch.float64"),
        ({"format_version": 0}, "is not known"),
        ({"references": [0.0]}, "do not fit"),
        ({"metadata": "text"}, "do not fit"),
    ],
)
def test_wrong_headers(path: Path, changes: dict[str, object], message: str) -> None:
    rewrite(path, **changes)
    with pytest.raises(ModelFileError, match=message):
        mlip.load(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hidden_irreps", "0x0e", "irreps '0x0e'"),
        ("l_max", 12, "l_max = 12"),
        ("cutoff", float("inf"), "cutoff inf"),
        ("avg_num_neighbors", float("inf"), "avg_num_neighbors = inf"),
        ("num_polynomial_cutoff", 0, "num_polynomial_cutoff = 0"),
        ("num_bessel", 0, "num_bessel = 0"),
    ],
)
def test_wrong_hyperparameters(path: Path, name: str, value: object, message: str) -> None:
    rewrite(path, hyperparameters=read_header(path)["hyperparameters"] | {name: value})
    with pytest.raises(ModelFileError, match=rf"do not fit \(InputError: {message}"):
        mlip.load(path)


def test_nested_header(path: Path) -> None:
    save_file({"x": torch.zeros(2)}, path, metadata={"mlip": "[" * 100_000})
    with pytest.raises(ModelFileError, match="header is damaged"):
        mlip.load(path)


def test_weights_that_are_not_numbers(potential: Potential, path: Path) -> None:
    with torch.no_grad():
        potential.model.embedding[0, 0] = float("nan")
    potential.save(path)
    with pytest.raises(ModelFileError, match="embedding holds numbers that are not finite"):
        mlip.load(path)


def test_permissions_and_links(potential: Potential, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    link, target = tmp_path / "model.safetensors", tmp_path / "store" / "v2.safetensors"
    link.symlink_to(target)
    before = os.umask(0o027)
    try:
        potential.save(link)
    finally:
        os.umask(before)
    assert link.is_symlink() and mlip.load(link).elements == (1, 8)
    assert target.stat().st_mode & 0o777 == 0o640


def test_names(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="silicon"):
        mlip.load("silcon")
    with pytest.raises(ModelFileError, match="folder"):
        mlip.load(tmp_path)
    with pytest.raises(InputError, match="a name or the path"):
        mlip.load(None)  # type: ignore[arg-type]


def test_version_1_stays_readable() -> None:
    """A file of format version 1 with its energy, written when that format was new. Never edit it: add an upgrade."""
    path = Path(__file__).parent / "fixtures" / "potential_v1.safetensors"
    header = read_header(path)
    potential = mlip.load(path)
    assert header["format_version"] == 1
    assert potential.isolated_energy(14) == header["metadata"]["isolated_energy"]
