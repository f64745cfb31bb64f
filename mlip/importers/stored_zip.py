"""Reader of the plain zip archives that torch writes: every entry stored, nothing compressed or encrypted.

The general `zipfile` spends memory in proportion to what an archive claims. Here every number is checked against the
length of the file before it is used, so that reading costs no more memory than the file is long.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import BinaryIO, NamedTuple

from mlip.errors import ModelFileError

MAX_ENTRIES = 100_000
MAX_DIRECTORY = 32 * 2**20
_CHUNK = 2**20
_END, _END64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_CENTRAL, _LOCAL = struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF
_ENCRYPTED = 0x2041  # encrypted, strongly encrypted, directory encrypted


class Entry(NamedTuple):
    """A record of the archive: bytes that it takes, offset of its local header, CRC-32, whether uncompressed."""

    name: str
    size: int
    offset: int
    crc: int
    stored: bool


class StoredZip:
    """Zip archive whose entries are stored as they are; others can be listed and not read.

    Args:
        file: opened for reading, seekable; stays open and is not closed here.

    Raises:
        ModelFileError: no zip archive, truncated, or one that torch can't have written.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.length = file.seek(0, os.SEEK_END)
        count, size, self._directory = self._end_of_directory()
        if count > MAX_ENTRIES or size > MAX_DIRECTORY:
            raise ModelFileError(f"{count} entries, expected at most {MAX_ENTRIES}")
        self.entries = self._read_directory(self._read(self._directory, size), count)
        #: torch can be told to compute no checksums (`set_crc32_options`), and then notes 0 for every entry.
        self._has_checksums = any(entry.crc for entry in self.entries.values())
        if sum(entry.size for entry in self.entries.values()) > self._directory:
            raise ModelFileError("the entries claim to be longer than the file")

    def _read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes at `offset`."""
        if not 0 <= offset <= self.length - size:
            raise ModelFileError(f"{size} bytes at {offset} of a file of {self.length}; the file is truncated")
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) != size:
            raise ModelFileError("the file is truncated")
        return data

    def _end_of_directory(self) -> tuple[int, int, int]:
        """Number of entries, size and offset of the central directory."""
        tail_length = min(self.length, _END.size + _FULL_16)
        tail = self._read(self.length - tail_length, tail_length)
        place = tail.rfind(b"PK\x05\x06")
        if place < 0 or place + _END.size > tail_length:
            raise ModelFileError("no end of a zip archive; the file is truncated or of another kind")
        end = self.length - tail_length + place
        _, disk, start_disk, here, count, size, offset, _ = _END.unpack_from(tail, place)
        if _FULL_16 in (disk, start_disk, here, count) or _FULL_32 in (size, offset):
            end, (disk, start_disk, here, count, size, offset) = self._end64(end)
        if disk or start_disk or here != count or offset + size > end:
            raise ModelFileError("the directory of the zip archive is damaged")
        return count, size, offset

    def _end64(self, end: int) -> tuple[int, tuple[int, ...]]:
        """Offset of the 64-bit end record before the one at `end`, and its fields as in the short one."""
        signature, _, place, _ = _LOCATOR64.unpack(self._read(end - _LOCATOR64.size, _LOCATOR64.size))
        if signature != b"PK\x06\x07":
            raise ModelFileError("the 64-bit directory of the zip archive is missing")
        fields = _END64.unpack(self._read(place, _END64.size))
        if fields[0] != b"PK\x06\x06" or place >= end:
            raise ModelFileError("the 64-bit directory of the zip archive is damaged")
        return place, fields[4:]

    def _read_directory(self, directory: bytes, count: int) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        place = 0
        for _ in range(count):
            if place + _CENTRAL.size > len(directory):
                raise ModelFileError("the directory of the zip archive is truncated")
            fields = _CENTRAL.unpack_from(directory, place)
            signature, flags, method, crc = fields[0], fields[3], fields[4], fields[7]
            lengths = fields[10:13]
            name_at = place + _CENTRAL.size
            extra_at = name_at + lengths[0]
            place = name_at + sum(lengths)
            if signature != b"PK\x01\x02" or place > len(directory):
                raise ModelFileError("the directory of the zip archive is damaged")
            try:
                name = directory[name_at:extra_at].decode()
            except UnicodeDecodeError:
                raise ModelFileError("a name in the zip archive is not UTF-8") from None
            packed, size, offset = _sizes64(
                (fields[8], fields[9], fields[16]), directory[extra_at : extra_at + lengths[1]]
            )
            if flags & _ENCRYPTED:
                raise ModelFileError(f"{name!a} is encrypted; expected an archive as torch.save writes it")
            if name in entries:
                raise ModelFileError(f"{name!a} is there twice")
            entries[name] = Entry(name, packed, offset, crc, stored=not method and packed == size)
        return entries

    def open(self, entry: Entry) -> int:
        """Offset of the content of an entry, after a check of its local header."""
        if not entry.stored:
            raise ModelFileError(
                f"{entry.name!a} is compressed; expected an archive as torch.save writes it, stored only"
            )
        header = _LOCAL.unpack(self._read(entry.offset, _LOCAL.size))
        content = entry.offset + _LOCAL.size + header[9] + header[10]
        name = self._read(entry.offset + _LOCAL.size, header[9])
        if header[0] != b"PK\x03\x04" or name != entry.name.encode() or header[2] & _ENCRYPTED or header[3]:
            raise ModelFileError(f"{entry.name!a}: its header is damaged")
        if content + entry.size > self._directory:
            raise ModelFileError(f"{entry.name!a} reaches past the end of the content; the file is truncated")
        return content

    def read_into(self, entry: Entry, buffer: memoryview) -> None:
        """Fill `buffer` of `entry.size` bytes with the content.

        Raises:
            ModelFileError: the content is damaged (CRC-32) or truncated.
        """
        content, crc = self.open(entry), 0
        for start in range(0, entry.size, _CHUNK):
            chunk = self._read(content + start, min(_CHUNK, entry.size - start))
            buffer[start : start + len(chunk)] = chunk
            crc = zlib.crc32(chunk, crc)
        if crc != entry.crc and self._has_checksums:
            raise ModelFileError(f"{entry.name!a} has another checksum (CRC-32) than was noted when it was written")

    def read(self, entry: Entry) -> bytes:
        """The content of an entry."""
        buffer = bytearray(entry.size)
        self.read_into(entry, memoryview(buffer))
        return bytes(buffer)


def _sizes64(fields: tuple[int, int, int], extra: bytes) -> tuple[int, int, int]:
    """Packed size, size and offset of an entry; those that are full stand in the extra field of kind 1."""
    size, packed, offset = fields[1], fields[0], fields[2]
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, place)
        place += 4
        if kind == 1:
            data = extra[place : place + length]
            numbers = iter(struct.unpack(f"<{len(data) // 8}Q", data[: len(data) // 8 * 8]))
            values = [next(numbers, v) if v == _FULL_32 else v for v in (size, packed, offset)]
            return values[1], values[0], values[2]
        place += length
    return packed, size, offset
