"""SHA-256 of the files of a run."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mlip.data.files import Given, find_files, without_part


def file_hash(given: Given) -> str:
    """SHA-256 of a file; of several, that of the lines "SHA-256  name"."""
    hashes = [(_hash(path), path.name) for path in find_files(given)]
    if len(hashes) == 1:
        return hashes[0][0]
    return hashlib.sha256("".join(f"{digest}  {name}\n" for digest, name in hashes).encode()).hexdigest()


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with open(without_part(path)[0], "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
