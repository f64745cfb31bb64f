"""Published models on this machine: where files are looked for, how they are fetched and checked.

A file is looked for in the folder that the variable MLIP_MODELS names, then in the cache (`$XDG_CACHE_HOME/mlip/models`
or `~/.cache/mlip/models`), then it is downloaded there, unless MLIP_OFFLINE is set. A download is resumed if it was
cut, and appears under its name only when it is complete and has been checked. Its SHA-256 is that of the table
(`mlip.published`) or, where nobody has recorded one, the one of the first download, kept in `FILE.json` beside it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple, NoReturn
from urllib.request import OpenerDirector

from mlip.errors import DownloadError, InputError, ModelFileError
from mlip.published import PublishedModel
from mlip.transfer import exclusive, fetch, forget, https_opener

TRUE = ("1", "true", "yes", "on")
_MARGIN = 50_000_000
"""Bytes that a download leaves free on the disk."""


def cache_folder() -> Path:
    """Folder of the downloaded files; it need not exist.

    Raises:
        InputError: the variable is not set and the user has no home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "mlip" / "models"
    except RuntimeError as error:
        raise InputError("there is no home folder; set XDG_CACHE_HOME to a folder for downloaded models") from error


def own_folder() -> Path | None:
    """The folder that MLIP_MODELS names, or None if it is not set.

    Raises:
        InputError: it names no folder.
    """
    named = os.environ.get("MLIP_MODELS")
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise InputError(f"MLIP_MODELS is {named!r}, which is no folder; expected one with model files")
    return folder


def offline() -> bool:
    """Whether MLIP_OFFLINE forbids the network (1, true, yes or on)."""
    return os.environ.get("MLIP_OFFLINE", "").lower() in TRUE


def in_own_folder(name: str, model: PublishedModel | None = None) -> Path | None:
    """The file of `name` in MLIP_MODELS: the published file name, NAME.model or NAME.safetensors."""
    folder = own_folder()
    names = ([model.file_name] if model else []) + [f"{name}.model", f"{name}.safetensors"]
    paths = [folder / file for file in names] if folder else []
    return next((path for path in paths if path.is_file()), None)


def cached(model: PublishedModel) -> Path | None:
    """The file in the cache, unchecked, or None."""
    path = cache_folder() / model.file_name
    return path if path.is_file() else None


def find_or_fetch(model: PublishedModel, opener: OpenerDirector | None = None) -> Path:
    """The file of a published model, checked; downloaded if it is not on this machine.

    Args:
        model: an entry of the table.
        opener: what opens URLs; the default speaks https only, through the proxies of the environment.

    Raises:
        DownloadError: it can't be had; the message says where to put the file by hand.
        ModelFileError: the file at hand is not the published one.
        InputError: MLIP_MODELS names no folder.
        OSError: the cache can't be written.
    """
    own = in_own_folder(model.name, model)
    if own is not None:
        if own.name == model.file_name:
            _check(own, model, _Hashes.of(own), recorded=None)
        return own
    path = cache_folder() / model.file_name
    if not path.is_file():
        _download(model, path, opener)
    hashes, recorded = _Hashes.of(path), _recorded(path)
    _check(path, model, hashes, recorded)
    if recorded is None:
        _record(path, model, hashes.sha256)
    return path


class _Hashes(NamedTuple):
    """What tells one file from all others, hexadecimal."""

    sha256: str
    #: git's name of a file: SHA-1 of a line with its length, and of its content.
    git_blob: str

    @classmethod
    def of(cls, path: Path) -> _Hashes:
        sha256 = hashlib.sha256()
        blob = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                sha256.update(block)
                blob.update(block)
        return cls(sha256.hexdigest(), blob.hexdigest())


def _difference(model: PublishedModel, hashes: _Hashes, recorded: str | None, record: Path) -> str:
    """What sets a file apart from the published one; empty if nothing does, as far as is known."""
    for expected, found, what in (
        (model.sha256, hashes.sha256, "SHA-256 of the published file"),
        (model.git_blob, hashes.git_blob, "git hash of the published file"),
        (recorded, hashes.sha256, f"SHA-256 of the first download (delete {record} to accept another)"),
    ):
        if expected and expected != found:
            return f"the {what} is {expected}, that of this one {found}"
    return ""


def _check(path: Path, model: PublishedModel, hashes: _Hashes, recorded: str | None) -> None:
    """Raise `ModelFileError` if the file is not the one that was published, or not the one of the first download."""
    difference = _difference(model, hashes, recorded, _record_path(path))
    if difference:
        raise ModelFileError(f"{path} is not {model.name}: {difference}. Delete the file and get it from {model.url}")


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _recorded(path: Path) -> str | None:
    """The SHA-256 recorded at the first download, if any."""
    record = _record_path(path)
    try:
        return str(json.loads(record.read_text(encoding="utf-8"))["sha256"])
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError) as error:
        raise ModelFileError(f"{record} is damaged ({error}); delete it and {path}, and get the model again") from error


def _record(path: Path, model: PublishedModel, sha256: str) -> None:
    """Write the record in one step. A cache that can't be written keeps none, and its files are still of use."""
    record = _record_path(path)
    temporary = record.with_name(f".{record.name}.{secrets.token_hex(4)}")
    text = json.dumps({"name": model.name, "url": model.url, "size": path.stat().st_size, "sha256": sha256}, indent=2)
    try:
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, record)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise


def _download(model: PublishedModel, path: Path, opener: OpenerDirector | None) -> None:
    """Fetch the file to `path`: it appears there complete and checked, or not at all."""
    if offline():
        _give_up(model, path, "MLIP_OFFLINE forbids the network")
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path) as part:
        if path.is_file():  # another process was faster
            return
        size = f" ({model.size / 1e6:.0f} MB)" if model.size else ""
        if model.license.notice:
            print(license_notice(model), file=sys.stderr)
        print(f"Downloading {model.url}{size} to {path}", file=sys.stderr)
        try:
            fetch(model.url, part, opener or https_opener(), room=lambda: _room(path.parent))
        except DownloadError as error:
            _give_up(model, path, str(error))
        difference = "" if zipfile.is_zipfile(part) else "it is no model file, or not all of one"
        difference = difference or _difference(model, _Hashes.of(part), _recorded(path), _record_path(path))
        if difference:
            forget(part)
            _give_up(model, path, f"what came is not the published file: {difference}")
        os.replace(part, path)
        forget(part)


def license_notice(model: PublishedModel) -> str:
    """What must be said before a model is used; empty if its license is permissive."""
    terms = model.license
    return f"{model.name} is under {terms.notice} ({terms.url})" if terms.notice else ""


def _room(folder: Path) -> int:
    """Bytes that a download may take on the disk of `folder`."""
    return shutil.disk_usage(folder).free - _MARGIN


def _give_up(model: PublishedModel, path: Path, reason: str) -> NoReturn:
    raise DownloadError(f"can't get {model.name} ({reason}): download {model.url} and put it at {path}")
