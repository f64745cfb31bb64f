"""Fetches one file over https into a part file: resumed where it was cut, never glued from two versions.

Only https: the opener has no handler for any other scheme, so a redirection to one fails as well. Proxies and
certificates are those of the environment, as everywhere in Python's urllib.
"""

from __future__ import annotations

import os
import re
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError

import mlip
from mlip.errors import DownloadError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

TIMEOUT = 30.0  #: seconds without an answer or a byte
ATTEMPTS = 4
PAUSE = 1.0  #: seconds before the second attempt; doubled for each further one
BAR_DELAY = 2.0  #: seconds after which a progress bar appears
BLOCK = 1 << 18
#: Answers of a server that may have recovered a moment later.
_PASSING = (408, 425, 429, 500, 502, 503, 504)


class _Cut(Exception):
    """The transfer stopped on its way; another attempt can succeed."""


class _HTTPSRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections to https alone; a proxy that is reached over https would carry other schemes too."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.lower().startswith("https://"):
            raise DownloadError(f"{req.host} redirects to {newurl[:200]!a}, which is no https address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def https_opener() -> urllib.request.OpenerDirector:
    """What opens https URLs and no others."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _HTTPSRedirects(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPSHandler(),
    ):
        opener.add_handler(handler)
    return opener


@contextmanager
def exclusive(path: Path) -> Iterator[Path]:
    """Let one process at a time fetch `path`; yields the part file to fetch it into.

    Where files can't be locked the part file is this process's own: two downloads do each other no harm, and a cut one
    is not resumed later.
    """
    with open(path.with_name(f".{path.name}.lock"), "a", encoding="utf-8") as lock:
        if _lock(lock, path.name):
            yield path.with_name(f".{path.name}.part")
            return
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            yield part
        finally:
            forget(part)


def _lock(file: IO[str], name: str) -> bool:
    """Wait for the lock, which the system gives back when a process ends; False where there are no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"Another process is downloading {name}; waiting for it", file=sys.stderr)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def forget(part: Path) -> None:
    """Remove a part file and what belongs to it."""
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)


def fetch(url: str, part: Path, opener: urllib.request.OpenerDirector, room: Callable[[], int]) -> None:
    """Bring the file at `url` to `part`, going on from what is there if the server still has the same file.

    Args:
        url: an https URL.
        part: the file to write; when fetching fails it stays, for the next time.
        opener: usually `https_opener()`.
        room: tells how many bytes may be written.

    Raises:
        DownloadError: no connection, a refusal, a web page instead of a file, too little room, or a transfer that
            was cut in every attempt.
        OSError: `part` can't be written.
    """
    if not url.startswith("https://"):
        raise DownloadError(f"{url} is no https address")
    for attempt in range(ATTEMPTS):
        try:
            return _attempt(url, part, opener, room)
        except _Cut as cut:
            if attempt == ATTEMPTS - 1:
                kept = "; what came is kept and the next try goes on from there" if _resumable(part)[0] else ""
                raise DownloadError(f"{cut}{kept}") from cut.__cause__
            time.sleep(PAUSE * 2**attempt)


def _attempt(url: str, part: Path, opener: urllib.request.OpenerDirector, room: Callable[[], int]) -> None:
    have, version = _resumable(part)
    request = urllib.request.Request(url, headers={"User-Agent": f"mlip/{mlip.__version__}"})
    request.add_header("Accept-Encoding", "identity")
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", version)
    with _open(request, part, opener) as response:
        kind = response.headers.get_content_type()
        if kind in ("text/html", "application/xhtml+xml"):
            raise DownloadError("a web page came instead of the file; a proxy or a login may be in the way")
        start = have if response.status == 206 else 0
        if start and not _continues(response.headers, have, version):
            forget(part)
            raise _Cut("the server went on with another part or version of the file")
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and re.fullmatch("[0-9]{1,18}", length) else None
        if total is not None and total - start > room():
            raise DownloadError(
                f"{(total - start) / 1e6:.1f} MB are needed in {part.parent}, {max(room(), 0) / 1e6:.1f} MB are free"
            )
        _write(response, part, start, total, room)


def _open(request: urllib.request.Request, part: Path, opener: urllib.request.OpenerDirector) -> HTTPResponse:
    """The server's answer, if it is one with content."""
    try:
        response = opener.open(request, timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # the file is shorter than what we have of it
            forget(part)
        if error.code == 416 or error.code in _PASSING:
            raise _Cut(f"the server answers {error.code} {error.reason}") from error
        raise DownloadError(f"the server answers {error.code} {error.reason}") from error
    except (TimeoutError, ConnectionResetError, HTTPException) as error:
        raise _Cut(f"no answer from {request.host}: {error or type(error).__name__}") from error
    except OSError as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError | ConnectionResetError):
            raise _Cut(f"no answer from {request.host}: {reason}") from error
        text = getattr(reason, "strerror", None) or reason
        raise DownloadError(f"no connection to {request.host}: {text}") from error
    if response.status not in (200, 206):
        response.close()
        raise DownloadError(f"the server answers {response.status} {response.reason}")
    return response


def _write(response: HTTPResponse, part: Path, start: int, total: int | None, room: Callable[[], int]) -> None:
    """Append the body of `response`, or begin anew; the file's version is noted before its content comes."""
    bar = _Bar(part.name.removeprefix(".").removesuffix(".part"), total)
    done = start
    try:
        with open(part, "ab" if start else "wb") as file:
            if not start:
                _version_file(part).write_text(_version(response.headers), encoding="utf-8")
            while block := _read(response, done):
                if total is None and len(block) > room():
                    forget(part)
                    raise DownloadError(f"the server sends no end: {part.parent} is full after {done / 1e6:.1f} MB")
                file.write(block)
                done += len(block)
                bar.show(done)
            file.flush()
            os.fsync(file.fileno())
    finally:
        bar.close()
    if total is not None and done < total:
        raise _Cut(f"the connection broke after {done / 1e6:.1f} of {total / 1e6:.1f} MB")


def _read(response: HTTPResponse, done: int) -> bytes:
    try:
        return response.read1(BLOCK)
    except (OSError, HTTPException) as error:
        raise _Cut(f"the connection broke after {done / 1e6:.1f} MB: {error or type(error).__name__}") from error


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _version(headers: Message) -> str:
    """What tells this content from any other: a strong ETag, else the date of the last change, else nothing."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified", "")


def _resumable(part: Path) -> tuple[int, str]:
    """Bytes at hand and their version; zero bytes if the version is not known."""
    try:
        version = _version_file(part).read_text(encoding="utf-8")
        return (part.stat().st_size, version) if version else (0, "")
    except FileNotFoundError:
        return 0, ""


def _continues(headers: Message, have: int, version: str) -> bool:
    """Whether a partial answer begins where we stopped, in the same version."""
    found = re.match(r"bytes ([0-9]{1,18})-", headers.get("Content-Range", ""))
    return found is not None and int(found[1]) == have and _version(headers) == version


class _Bar:
    """A progress bar on stderr for what takes longer than `BAR_DELAY`."""

    def __init__(self, title: str, total: int | None) -> None:
        self.title, self.total = title, total
        self.begin = time.monotonic()
        self.bar: Any = None

    def show(self, done: int) -> None:
        """Show how many bytes there are."""
        if self.bar is None:
            if time.monotonic() - self.begin < BAR_DELAY:
                return
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=Console(stderr=True))
            self.bar.start()
            self.bar.add_task(self.title, total=self.total)
        self.bar.update(self.bar.task_ids[0], completed=done)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.stop()
