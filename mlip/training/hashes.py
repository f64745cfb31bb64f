"""SHA-256 of the files of a run."""

from __future__ import annotations

import hashlib


def file_hash(path: str) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
