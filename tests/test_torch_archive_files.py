"""Files that are no archives of torch, or damaged ones: one clear error each."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_archives import ADMITTED, archive, refuse, saved, whole

from mlip.errors import ModelFileError
from mlip.importers.torch_archive import is_torch_archive, read_archive


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.model"


def good() -> bytes:
    return saved({"x": torch.arange(1000.0), "y": [1, 2]})


def test_truncated_anywhere(path: Path) -> None:
    data = good()
    for length in range(0, len(data), 13):
        path.write_bytes(data[:length])
        assert not is_torch_archive(path)
        with pytest.raises(ModelFileError, match="trunc|torch.save|damaged"):
            read_archive(path, ADMITTED)


def test_every_flipped_bit_in_the_content_is_noticed(path: Path) -> None:
    data = good()
    start = data.index(struct.pack("<3f", 1, 2, 3))
    for place in (start, start + 1234, data.index(b"data.pkl") + 70):
        refuse(path, data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :], "checksum")


def test_other_kinds_of_files(path: Path, tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save({"x": torch.zeros(2)}, stream, _use_new_zipfile_serialization=False)
    for data, message in (
        (stream.getvalue(), "before 1.6"),
        (b"", "not a file written by torch.save"),
        (b"no archive\n" * 100, "not a file written by torch.save"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x05\x06" + bytes(18), "without one data.pkl"),
    ):
        refuse(path, data, message)
        assert not is_torch_archive(path)
    assert not is_torch_archive(tmp_path) and not is_torch_archive(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        read_archive(tmp_path / "none", ADMITTED)
    with pytest.raises(OSError):
        read_archive(tmp_path, ADMITTED)


def test_programs_and_other_byte_orders(path: Path) -> None:
    refuse(path, archive(whole(b"N"), {"constants.pkl": b""}), r"TorchScript.*torch.save\(model\)")
    refuse(path, archive(whole(b"N"), {"code/__torch__/x.py": b""}), "TorchScript")
    refuse(path, archive(whole(b"N"), {"byteorder": b"big"}), "byte order 'big'")


def zipped(**changes: Any) -> bytes:
    """An archive made by Python's zipfile with something unusual."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", changes.pop("method", zipfile.ZIP_STORED)) as file:
        file.writestr("a/data.pkl", whole(b"N"))
        for name_ in changes.pop("names", ()):
            file.writestr(name_, b"x")
        file.comment = changes.pop("comment", b"")
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_archives_that_torch_does_not_write(path: Path) -> None:
    refuse(path, zipped(method=zipfile.ZIP_DEFLATED), "compressed")
    refuse(path, zipped(names=["b/data.pkl"]), "one data.pkl")
    refuse(path, zipped(names=["a/data/0", "a/data/0"]), "twice")
    encrypted = bytearray(zipped())
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    refuse(path, bytes(encrypted), "encrypted")
    for place, what in ((24, "longer|damaged|compressed"), (42, "damaged|truncated"), (0, "damaged|end of a zip")):
        broken = bytearray(zipped())
        at = broken.index(b"PK\x01\x02") + place
        broken[at : at + 4] = b"\xf0\xff\xff\x7f"
        refuse(path, bytes(broken), what)


def test_zip_archives_that_are_fine(path: Path) -> None:
    for data in (zipped(comment=b"PK"), zipped(names=["a/../../etc/passwd", "/b"])):
        path.write_bytes(data)
        assert read_archive(path, ADMITTED) is None


def test_64_bit_archives(path: Path) -> None:
    """Numbers of 64 bits, as in archives beyond 4 GiB."""
    data = bytearray(good())  # torch always writes the 64-bit end of the directory
    end = data.rindex(b"PK\x05\x06")
    data[end + 8 : end + 20] = b"\xff" * 12
    path.write_bytes(data)
    assert is_torch_archive(path) and read_archive(path, ADMITTED)["y"] == [1, 2]
    refuse(path, bytes(data).replace(b"PK\x06\x07", b"PK\x06\x00"), "64-bit directory")
    refuse(path, bytes(data).replace(b"PK\x06\x06", b"PK\x06\x00"), "64-bit directory")

    short = zipped()
    start, end = short.index(b"PK\x01\x02"), short.index(b"PK\x05\x06")
    entry, size = bytearray(short[start:end]), len(whole(b"N"))
    entry[42:46], entry[20:28] = b"\xff" * 4, b"\xff" * 8
    other, extra = struct.pack("<2HL", 7, 4, 0), struct.pack("<2H3Q", 1, 24, size, size, 0)
    entry[30:32] = struct.pack("<H", len(other + extra))
    tail = bytearray(short[end:])
    tail[12:16] = struct.pack("<L", len(entry + other + extra))
    path.write_bytes(short[:start] + entry + other + extra + tail)
    assert is_torch_archive(path) and read_archive(path, ADMITTED) is None


def test_many_entries(path: Path) -> None:
    """Overlapping entries, each of which claims the whole file, and a directory that claims to be endless."""
    data = bytearray(archive(whole(b"N"), {"data/0": bytes(1000), "data/1": b"x"}))
    at = data.index(b"model/data/1", data.index(b"PK\x01\x02")) - 46
    data[at + 20 : at + 28] = struct.pack("<2L", 1100, 1100)
    refuse(path, bytes(data), "longer than the file")
    end = bytearray(zipped())
    at = end.index(b"PK\x05\x06")
    end[at + 8 : at + 12] = b"\xf0\xff\xf0\xff"
    refuse(path, bytes(end), "truncated")
