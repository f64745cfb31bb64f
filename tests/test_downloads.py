"""Downloads of published models, from a server on this machine; nothing here touches the network."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest
from local_server import HOST, Server, archive

from mlip import downloads, transfer
from mlip.downloads import cache_folder, find_or_fetch
from mlip.errors import DownloadError, InputError, ModelFileError
from mlip.published import ASL, MIT, PublishedModel

MODEL = PublishedModel("toy-small", f"https://{HOST}/releases/toy.model", MIT, (1,), "nothing", "nobody")
ACADEMIC = PublishedModel("toy-academic", f"https://{HOST}/academic.model", ASL, (1,), "nothing", "nobody")


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MLIP_MODELS", raising=False)
    monkeypatch.delenv("MLIP_OFFLINE", raising=False)
    monkeypatch.setattr(transfer, "PAUSE", 0.001)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def part_of(model: PublishedModel) -> Path:
    return cache_folder() / f".{model.file_name}.part"


def interrupt(server: Server, after: int) -> None:
    """Let a first download end with `after` bytes in the part file."""
    cuts, server.behavior.cuts = server.behavior.cuts, [after, 0]
    with pytest.raises(DownloadError, match="connection broke"):
        find_or_fetch(MODEL, server.opener)
    server.behavior.cuts = cuts
    server.behavior.requests.clear()


def test_download_and_cache(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    path = find_or_fetch(MODEL, server.opener)
    assert path == cache_folder() / "toy.model"
    assert path.read_bytes() == server.behavior.content
    assert find_or_fetch(MODEL, server.opener) == path
    assert len(server.behavior.requests) == 1
    out, err = capsys.readouterr()
    assert out == "" and MODEL.url in err and str(path) in err and "non-commercial" not in err
    record = json.loads(Path(f"{path}.json").read_text())
    assert record["sha256"] == hashlib.sha256(server.behavior.content).hexdigest()
    assert record["url"] == MODEL.url and record["size"] == len(server.behavior.content)
    hidden = {file.name for file in cache_folder().iterdir()} - {"toy.model", "toy.model.json"}
    assert hidden == {".toy.model.lock"}


def test_license_comes_before_the_download(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    find_or_fetch(ACADEMIC, server.opener)
    err = capsys.readouterr().err
    assert "non-commercial" in err and ASL.url in err
    assert err.index("non-commercial") < err.index("Downloading")


def test_a_cut_connection_is_resumed_in_the_same_call(server: Server) -> None:
    server.behavior.cuts = [100_000, 50_000, None]
    path = find_or_fetch(MODEL, server.opener)
    assert path.read_bytes() == server.behavior.content
    assert [wanted for _, wanted, _ in server.behavior.requests] == [None, "bytes=100000-", "bytes=150000-"]
    assert [version for *_, version in server.behavior.requests] == [None, '"one"', '"one"']


def test_a_cut_download_is_resumed_by_the_next_call(server: Server) -> None:
    interrupt(server, 120_000)
    assert part_of(MODEL).stat().st_size == 120_000
    assert not (cache_folder() / "toy.model").exists()
    path = find_or_fetch(MODEL, server.opener)
    assert path.read_bytes() == server.behavior.content
    assert [wanted for _, wanted, _ in server.behavior.requests] == ["bytes=120000-"]


def test_resumed_by_date_where_there_is_no_strong_etag(server: Server) -> None:
    server.behavior.etag, server.behavior.last_modified = 'W/"weak"', "Fri, 20 Nov 2026 08:00:00 GMT"
    interrupt(server, 120_000)
    assert find_or_fetch(MODEL, server.opener).read_bytes() == server.behavior.content
    assert server.behavior.requests == [
        ("/releases/toy.model", "bytes=120000-", "Fri, 20 Nov 2026 08:00:00 GMT"),
    ]


def test_server_without_ranges_starts_again(server: Server) -> None:
    server.behavior.ranges = False
    interrupt(server, 120_000)
    assert find_or_fetch(MODEL, server.opener).read_bytes() == server.behavior.content


def test_no_version_no_resuming(server: Server) -> None:
    server.behavior.etag = None
    interrupt(server, 120_000)
    assert find_or_fetch(MODEL, server.opener).read_bytes() == server.behavior.content
    assert [wanted for _, wanted, _ in server.behavior.requests] == [None]


@pytest.mark.parametrize("ignore_if_range", [False, True])
def test_a_changed_file_is_not_glued(server: Server, ignore_if_range: bool) -> None:
    interrupt(server, 120_000)
    server.behavior.content, server.behavior.etag = archive(2), '"two"'
    server.behavior.ignore_if_range = ignore_if_range
    assert find_or_fetch(MODEL, server.opener).read_bytes() == archive(2)


def test_a_file_that_became_shorter(server: Server) -> None:
    interrupt(server, 250_000)
    server.behavior.content, server.behavior.ignore_if_range = archive(2, 1000), True
    assert find_or_fetch(MODEL, server.opener).read_bytes() == archive(2, 1000)


def test_part_file_of_full_length(server: Server) -> None:
    """Killed between the last byte and the renaming."""
    interrupt(server, 1000)
    part_of(MODEL).write_bytes(server.behavior.content)
    assert find_or_fetch(MODEL, server.opener).read_bytes() == server.behavior.content


def test_chunked_answers(server: Server) -> None:
    server.behavior.chunked = True
    assert find_or_fetch(MODEL, server.opener).read_bytes() == server.behavior.content


def test_a_chunked_answer_that_is_cut(server: Server) -> None:
    server.behavior.chunked, server.behavior.cuts = True, [100_000]
    with pytest.raises(DownloadError, match="connection broke"):
        find_or_fetch(MODEL, server.opener)


def test_always_cut_gives_up_and_says_so(server: Server) -> None:
    server.behavior.cuts = [1000]
    with pytest.raises(DownloadError, match=r"connection broke after 0\.0 of 0\.3 MB; what came is kept"):
        find_or_fetch(MODEL, server.opener)
    assert len(server.behavior.requests) == transfer.ATTEMPTS
    assert part_of(MODEL).stat().st_size == 1000 * transfer.ATTEMPTS


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"content_type": "text/html; charset=utf-8", "content": b"<html>log in</html>"}, "web page"),
        ({"content": b"<html>log in</html>"}, "no model file"),
        ({"content": archive(1)[:1000]}, "no model file"),
        ({"content": b" "}, "no model file"),
        ({"status": 404}, "404 Not Found"),
        ({"status": 403}, "403"),
        ({"status": 503}, "503"),
        ({"status": 204, "content": b" "}, "204"),
        ({"announced": 400_000}, "416"),  # it sends less than it says, and has no more when asked for the rest
    ],
)
def test_refused_answers(server: Server, change: dict[str, object], pattern: str) -> None:
    for name, value in change.items():
        setattr(server.behavior, name, value)
    with pytest.raises(DownloadError, match=pattern) as caught:
        find_or_fetch(MODEL, server.opener)
    assert MODEL.url in str(caught.value) and str(cache_folder() / "toy.model") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (cache_folder() / "toy.model").exists()


def test_an_announced_length_too_short(server: Server) -> None:
    server.behavior.announced = 200_000
    with pytest.raises(DownloadError, match="no model file"):
        find_or_fetch(MODEL, server.opener)
    assert not part_of(MODEL).exists()


def test_a_silent_server_times_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT", 0.05)
    server.behavior.pause = 0.5
    with pytest.raises(DownloadError, match="timed out"):
        find_or_fetch(MODEL, server.opener)


def test_a_slow_download_shows_a_bar(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(transfer, "BAR_DELAY", 0.05)
    server.behavior.pause = 0.03
    find_or_fetch(MODEL, server.opener)
    out, err = capsys.readouterr()
    assert "toy.model" in err.splitlines()[-1] and out == ""


def test_too_little_room(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_room", lambda folder: 100_000)
    with pytest.raises(DownloadError, match=r"0\.3 MB are needed in .*, 0\.1 MB are free"):
        find_or_fetch(MODEL, server.opener)


def test_an_answer_without_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of unknown length: it may fill the disk to the margin and is then given up, with what came of it."""
    server.behavior.chunked = True
    taken = iter(range(100))
    monkeypatch.setattr(downloads, "_room", lambda folder: 200_000 - 50_000 * next(taken))
    with pytest.raises(DownloadError, match=r"no end: .* is full after 0\.\d MB"):
        find_or_fetch(MODEL, server.opener)
    assert not part_of(MODEL).exists() and len(server.behavior.requests) == 1


@pytest.mark.parametrize("announced", ["9" * 5000, "9" * 400])
def test_an_absurd_length(server: Server, announced: str) -> None:
    """Python refuses to read the first as an integer and to divide the second: it counts as unknown."""
    server.behavior.announced = announced
    assert find_or_fetch(MODEL, server.opener).read_bytes() == server.behavior.content


def test_the_cache_can_not_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(OSError) as caught:
        find_or_fetch(MODEL, server.opener)
    assert str(tmp_path / "cache") in str(caught.value)


def test_hash_of_the_table(server: Server) -> None:
    right = hashlib.sha256(server.behavior.content).hexdigest()
    model = PublishedModel(**(vars(MODEL) | {"sha256": right}))
    path = find_or_fetch(model, server.opener)
    path.write_bytes(archive(3))
    wrong = hashlib.sha256(archive(3)).hexdigest()
    with pytest.raises(ModelFileError, match=f"{right}.*{wrong}.*Delete") as caught:
        find_or_fetch(model, server.opener)
    assert not isinstance(caught.value, DownloadError)


@pytest.mark.parametrize("kind", ["sha256", "git_blob"])
def test_a_file_that_is_not_the_published_one_is_not_kept(server: Server, kind: str) -> None:
    model = PublishedModel(**(vars(MODEL) | {kind: "0" * 40}))
    with pytest.raises(DownloadError, match=f"not the published file.*{'0' * 40}.*put it at"):
        find_or_fetch(model, server.opener)
    assert not part_of(model).exists() and not (cache_folder() / "toy.model").exists()


def test_git_names_files_as_git_does(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"what is up, doc?")  # Pro Git, chapter 10.2
    assert downloads._Hashes.of(file).git_blob == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"


def test_hash_of_the_first_download_is_enforced(server: Server) -> None:
    path = find_or_fetch(MODEL, server.opener)
    path.write_bytes(archive(2))
    with pytest.raises(ModelFileError, match="SHA-256 of the first download") as caught:
        find_or_fetch(MODEL, server.opener)
    for content in (archive(1), archive(2)):
        assert hashlib.sha256(content).hexdigest() in str(caught.value)
    path.unlink()
    server.behavior.content, server.behavior.etag = archive(2), '"two"'
    with pytest.raises(DownloadError, match=r"first download \(delete .*toy\.model\.json to accept another\)"):
        find_or_fetch(MODEL, server.opener)
    Path(f"{path}.json").unlink()
    assert find_or_fetch(MODEL, server.opener).read_bytes() == archive(2)


def test_a_damaged_record(server: Server) -> None:
    path = find_or_fetch(MODEL, server.opener)
    Path(f"{path}.json").write_text("{")
    with pytest.raises(ModelFileError, match=r"toy\.model\.json is damaged"):
        find_or_fetch(MODEL, server.opener)


def test_a_file_put_into_the_cache_by_hand_is_recorded(server: Server) -> None:
    cache_folder().mkdir(parents=True)
    path = cache_folder() / "toy.model"
    path.write_bytes(archive(1))
    assert find_or_fetch(MODEL, server.opener) == path
    path.write_bytes(archive(2))
    with pytest.raises(ModelFileError, match="first download"):
        find_or_fetch(MODEL, server.opener)
    assert not server.behavior.requests


@pytest.mark.parametrize("value", ["1", "ON", "true", "Yes"])
def test_offline(server: Server, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MLIP_OFFLINE", value)
    with pytest.raises(DownloadError, match=r"MLIP_OFFLINE forbids.*download https://.*put it at"):
        find_or_fetch(MODEL, server.opener)
    assert not server.behavior.requests and not cache_folder().exists()
    monkeypatch.setenv("MLIP_OFFLINE", "0")
    path = find_or_fetch(MODEL, server.opener)
    monkeypatch.setenv("MLIP_OFFLINE", value)
    assert find_or_fetch(MODEL, server.opener) == path


class _Unresolvable:
    def open(self, request: object, timeout: float) -> None:
        raise urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))


def test_no_network() -> None:
    with pytest.raises(DownloadError) as caught:
        find_or_fetch(MODEL, _Unresolvable())  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"can't get toy-small (no connection to {HOST}: Name or service not known): "
        f"download {MODEL.url} and put it at {cache_folder() / 'toy.model'}"
    )


@pytest.mark.parametrize("name", ["toy.model", "toy-small.model", "toy-small.safetensors"])
def test_own_folder_comes_first(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    find_or_fetch(MODEL, server.opener)
    monkeypatch.setenv("MLIP_MODELS", str(tmp_path))
    (tmp_path / name).write_bytes(b"mine")
    assert find_or_fetch(MODEL, server.opener) == tmp_path / name
    assert len(server.behavior.requests) == 1


def test_own_folder_with_a_wrong_file_of_the_published_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLIP_MODELS", str(tmp_path))
    (tmp_path / "toy.model").write_bytes(archive(2))
    model = PublishedModel(**(vars(MODEL) | {"sha256": "0" * 64}))
    with pytest.raises(ModelFileError, match="is not toy-small"):
        find_or_fetch(model)


def test_own_folder_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLIP_MODELS", str(tmp_path / "missing"))
    with pytest.raises(InputError, match="MLIP_MODELS is .*missing.*no folder"):
        find_or_fetch(MODEL)


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative, so to be ignored")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "mlip" / "models"


def test_no_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(InputError, match="set XDG_CACHE_HOME"):
        cache_folder()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_can_only_be_read(server: Server) -> None:
    """Shared by a group: what is in it can be used."""
    path = find_or_fetch(MODEL, server.opener)
    Path(f"{path}.json").unlink()
    cache_folder().chmod(0o500)
    try:
        assert find_or_fetch(MODEL, server.opener) == path
    finally:
        cache_folder().chmod(0o700)


def test_only_https() -> None:
    model = PublishedModel(**(vars(MODEL) | {"url": "http://127.0.0.1/toy.model"}))
    with pytest.raises(DownloadError, match="no https address"):
        find_or_fetch(model)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x"])
def test_the_opener_knows_no_other_scheme(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirection asks the same opener again."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with pytest.raises(urllib.error.URLError, match="unknown url type"):
        transfer.https_opener().open(url)


def test_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reaches the proxy is a request for a tunnel."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        for name in ("https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        asked = []

        def answer() -> None:
            connection, _ = proxy.accept()
            with connection:
                asked.append(connection.recv(10_000))
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(DownloadError, match="403 Forbidden.*put it at"):
            find_or_fetch(MODEL)
        thread.join(10)
    assert asked[0].startswith(f"CONNECT {HOST}:443 ".encode())


@pytest.mark.parametrize("target", ["http://127.0.0.1:9/x", "ftp://127.0.0.1/x"])
def test_redirections_stay_on_https(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where a proxy would carry other schemes."""
    monkeypatch.setenv(f"{target.partition(':')[0]}_proxy", "https://127.0.0.1:9")
    opener, headers = transfer.https_opener(), Message()
    headers["Location"] = target
    request = urllib.request.Request(MODEL.url)
    with pytest.raises(DownloadError, match=f"models.test redirects to '{target}', which is no https address"):
        opener.error("https", request, io.BytesIO(), 302, "Found", headers)


def test_redirection_as_github_does(server: Server) -> None:
    server.behavior.redirect = "/elsewhere/abc?signature=1"
    interrupt(server, 120_000)
    assert find_or_fetch(MODEL, server.opener).read_bytes() == server.behavior.content
    assert server.behavior.requests == [
        ("/releases/toy.model", "bytes=120000-", '"one"'),
        ("/elsewhere/abc?signature=1", "bytes=120000-", '"one"'),
    ]


TWO = """
import sys
sys.path.insert(0, {tests!r})
from local_server import LocalOpener
from test_downloads import MODEL
from mlip.downloads import find_or_fetch
print(find_or_fetch(MODEL, LocalOpener({port})))
"""


def test_two_processes(server: Server) -> None:
    server.behavior.pause = 0.1
    code = TWO.format(tests=str(Path(__file__).parent), port=server.port)
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ends = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0], ends
    assert {out.strip() for out, _ in ends} == {str(cache_folder() / "toy.model")}
    assert (cache_folder() / "toy.model").read_bytes() == server.behavior.content
    assert len(server.behavior.requests) == 1


def test_without_file_locks(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "fcntl", None)
    path = find_or_fetch(MODEL, server.opener)
    assert path.read_bytes() == server.behavior.content
    assert {file.name for file in cache_folder().iterdir()} == {"toy.model", "toy.model.json", ".toy.model.lock"}
