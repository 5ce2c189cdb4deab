"""Downloads against a server on this machine that misbehaves in every way a mirror has."""

import errno
import hashlib
import io
import os
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from helpers import download
from helpers.download import DownloadError, fetch_cifar10, unpack

# A "<" where a broken transfer is resumed: the rest of a file may begin as a web page does.
PAYLOAD = b"\x1f\x8b" + b"".join((os.urandom(99_998), b"<", os.urandom(200_001)))
MD5 = hashlib.md5(PAYLOAD).hexdigest()


class Mirror(BaseHTTPRequestHandler):
    """/ok, /truncate, ...: the path says how to misbehave; `log` keeps (path, Range)."""

    protocol_version = "HTTP/1.1"
    log: list[tuple[str, str | None]]
    payload = PAYLOAD

    def log_message(self, *args):
        pass

    def do_GET(self):
        kind, wanted = self.path.strip("/"), self.headers.get("Range")
        visits = sum(path == kind for path, _ in self.log)
        self.log.append((kind, wanted))
        body, status, content_type = self.payload, 200, "application/gzip"
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if kind == "404":
            return self.send_error(404)
        if kind == "redirect":
            self.send_response(302)
            self.send_header("Location", "/ok")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if kind == "page":
            body, content_type, start = b"Please sign in.", "text/html; charset=utf-8", 0
        elif kind == "other-file":
            body, start = body + b"more", 0
        elif kind == "corrupt" or (kind == "corrupt-once" and not visits):
            body = body[:200_000] + b"\0" * (len(body) - 200_000)
        elif kind == "no-range":
            start = 0
        elif kind == "wrong-part":
            start = start and start - 10
        if start:
            status = 206
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        if kind not in ("no-length", "endless"):
            self.send_header("Content-Length", str(len(body) - start))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        self.close_connection = True
        part = body[start:]
        if kind == "stall-at-once":
            return time.sleep(0.8)
        if kind.startswith("truncate") or kind == "stall":
            self.wfile.write(part[:100_000] if not visits or kind == "truncate-always" else b"")
            if kind == "truncate" and visits:
                self.wfile.write(part)
            self.wfile.flush()
            return time.sleep(0.8 if kind == "stall" else 0)
        if kind == "slow":  # a byte at a time: no single read ever times out
            try:
                for i in range(200):
                    self.wfile.write(part[i : i + 1])
                    time.sleep(0.01)
            except OSError:
                pass
            return None
        if kind == "endless":
            part = body * 3
        try:
            self.wfile.write(part)
        except OSError:
            pass


@pytest.fixture
def mirror(monkeypatch):
    """A function from behaviour to address; `.log` lists the requests."""
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    monkeypatch.setattr(download, "WINDOW", 0.3)
    handler = type("Handler", (Mirror,), {"log": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = lambda kind: f"http://127.0.0.1:{server.server_port}/{kind}"
    address.log, address.handler = handler.log, handler
    yield address
    server.shutdown()
    server.server_close()


def get(urls, folder):
    return download.download(urls, folder / "file.gz", MD5, len(PAYLOAD))


BAD = {
    "404": "HTTP Error 404",
    "page": "web page",
    "other-file": "300,006 bytes, expected 300,002",
    "truncate-always": "broke off after 300,000",
    "stall": "timed out",
    "stall-at-once": "timed out",
    "corrupt": "damaged",
    "slow": "too slow: 0.1 kB/s",
    "endless": "more than the expected",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_mirror_is_left_for_the_next(mirror, tmp_path, kind):
    path = get([mirror(kind), mirror("ok")], tmp_path)
    assert path.read_bytes() == PAYLOAD
    assert os.listdir(tmp_path) == ["file.gz"]
    assert mirror.log[-1][0] == "ok"


def test_one_error_lists_every_mirror_with_its_reason_and_keeps_what_arrived(mirror, tmp_path):
    unreachable = "http://127.0.0.1:1/file"
    # Windows asks a closed port for two seconds, longer than TIMEOUT here.
    closed = "timed out" if sys.platform == "win32" else "refused"
    urls = [*map(mirror, BAD), unreachable, "no address"]
    # Alone each, since what one leaves behind the next would resume.
    texts, sizes = [], []
    for url in urls:
        with pytest.raises(DownloadError) as error:
            get([url], tmp_path)
        texts.append(str(error.value))
        kept = [path.stat().st_size for path in tmp_path.iterdir()]
        sizes += kept
        assert [f"The {size:,} bytes that arrived are kept" in texts[-1] for size in kept] == [
            True
        ] * len(kept)
        for path in tmp_path.iterdir():
            path.unlink()
    for text, url, reason in zip(
        texts, urls, [*BAD.values(), closed, "unknown url type"], strict=True
    ):
        assert url in text and reason.split(": 0.1")[0] in text
    with pytest.raises(DownloadError) as error:
        get(urls, tmp_path)
    assert os.listdir(tmp_path) == []
    assert sizes and max(sizes) < 300_002
    text = str(error.value)
    assert all(url in text for url in urls)
    assert f"11. {urls[-1]}" in text
    for help in (MD5, "300,002", str(tmp_path / "file.gz"), "CIFAR10_MIRROR", "By hand"):
        assert help in text


def test_where_the_system_knows_no_certificates_those_of_certifi_are_taken(
    tmp_path, monkeypatch, capsys
):
    """As Python of python.org for macOS, until somebody installs its certificates."""
    empty = download.ssl.SSLContext(download.ssl.PROTOCOL_TLS_CLIENT)
    monkeypatch.setattr(download.ssl, "create_default_context", lambda: empty)
    taken = []

    def urlopen(request, context, **options):
        taken.append(context)
        raise OSError("no network")

    monkeypatch.setattr(download.urllib.request, "urlopen", urlopen)
    with pytest.raises(DownloadError):
        download.download(["https://user:word@mirror.example:8/a//b"], tmp_path / "a.gz", MD5, 9)
    assert capsys.readouterr().out == "Asking mirror.example for a.gz\n"
    assert taken == [empty] and len(empty.get_ca_certs()) > 50  # added to what the system knows


@pytest.mark.parametrize("kind", ["ok", "redirect", "no-length", "no-range"])
def test_a_good_mirror_suffices(mirror, tmp_path, kind):
    assert get([mirror(kind), mirror("404")], tmp_path).read_bytes() == PAYLOAD
    assert "404" not in dict(mirror.log)


def test_a_broken_transfer_is_resumed_where_it_broke_off(mirror, tmp_path):
    assert get([mirror("truncate")], tmp_path).read_bytes() == PAYLOAD
    assert mirror.log == [("truncate", None), ("truncate", "bytes=100000-")]


def test_what_a_mirror_left_is_completed_by_the_next(mirror, tmp_path):
    assert get([mirror("stall"), mirror("ok")], tmp_path).read_bytes() == PAYLOAD
    assert mirror.log[-1] == ("ok", "bytes=100000-")


def test_a_server_that_ignores_range_starts_over(mirror, tmp_path):
    (tmp_path / "file.gz.part").write_bytes(PAYLOAD[:1000])
    assert get([mirror("no-range")], tmp_path).read_bytes() == PAYLOAD
    assert mirror.log == [("no-range", "bytes=1000-")]


def test_another_part_than_asked_for_is_not_appended(mirror, tmp_path):
    (tmp_path / "file.gz.part").write_bytes(PAYLOAD[:1000])
    assert get([mirror("wrong-part"), mirror("ok")], tmp_path).read_bytes() == PAYLOAD
    assert mirror.log == [("wrong-part", "bytes=1000-"), ("ok", "bytes=1000-")]


@pytest.mark.parametrize("left", [b"\x1f\x8bwrong", b"x" * 300_002, b"x" * 400_000])
def test_a_wrong_beginning_is_thrown_away_and_the_mirror_asked_again(mirror, tmp_path, left):
    (tmp_path / "file.gz.part").write_bytes(left)
    assert get([mirror("ok")], tmp_path).read_bytes() == PAYLOAD
    assert mirror.log[-1] == ("ok", None)


def test_an_interruption_leaves_only_a_part_that_the_next_call_completes(
    mirror, tmp_path, monkeypatch
):
    class Interrupted(download.tqdm):
        def update(self, n=1):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download, "tqdm", Interrupted)
        get([mirror("ok")], tmp_path)
    assert os.listdir(tmp_path) == ["file.gz.part"]
    have = (tmp_path / "file.gz.part").stat().st_size
    assert 0 < have < len(PAYLOAD)
    assert get([mirror("ok")], tmp_path).read_bytes() == PAYLOAD
    assert mirror.log[-1] == ("ok", f"bytes={have}-")


def archive_of(*members) -> bytes:
    """A .tar.gz of (name, content) files, or of TarInfo for anything else."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


FOLDER = tarfile.TarInfo("cifar-10-batches-py")
FOLDER.type = tarfile.DIRTYPE
GOOD = archive_of(FOLDER, ("cifar-10-batches-py/a", b"first"), ("cifar-10-batches-py/b.html", b"2"))


LOCK = f".{download.ARCHIVE}.lock"


@pytest.fixture
def small_cifar(mirror, monkeypatch):
    """`fetch_cifar10` with a small archive and a list of two mirrors on this machine."""
    mirror.handler.payload = GOOD
    monkeypatch.setattr(download, "MD5", hashlib.md5(GOOD).hexdigest())
    monkeypatch.setattr(download, "BYTES", len(GOOD))
    monkeypatch.setattr(download, "MIRRORS", (mirror("404"), mirror("ok")))
    monkeypatch.delenv("CIFAR10_MIRROR", raising=False)
    return mirror


def test_fetch_unpacks_the_archive_and_keeps_it(small_cifar, tmp_path, capfd):
    root = tmp_path / "with space" / "data"
    folder = fetch_cifar10(root)
    assert (folder / "a").read_bytes() == b"first" and (folder / "b.html").read_bytes() == b"2"
    assert {"cifar-10-batches-py", download.ARCHIVE} == set(os.listdir(root)) - {LOCK}
    assert [kind for kind, _ in small_cifar.log] == ["404", "ok"]
    assert "100%" in capfd.readouterr().out  # the progress bar


def test_of_two_at_once_one_fetches_and_the_other_waits(small_cifar, tmp_path, capfd):
    began = threading.Event()

    def slow(urls, path, md5, size):
        began.set()
        time.sleep(0.5)
        path.write_bytes(GOOD)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(download, "download", slow)
        first = pool.submit(fetch_cifar10, tmp_path)
        assert began.wait(5)
        patch.undo()
        second = pool.submit(fetch_cifar10, tmp_path)
        assert first.result() == second.result() == tmp_path / "cifar-10-batches-py"
    assert small_cifar.log == [] and "waiting for it" in capfd.readouterr().out


def test_a_full_disk_is_not_blamed_on_the_mirrors(small_cifar, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_transfer", full)
    with pytest.raises(DownloadError, match="cannot be written to .*No space left"):
        fetch_cifar10(tmp_path)


def test_the_classroom_mirror_goes_first(small_cifar, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_MIRROR", f"{small_cifar('page')} {small_cifar('no-range')}")
    fetch_cifar10(tmp_path)
    assert [kind for kind, _ in small_cifar.log] == ["page", "no-range"]


def test_an_archive_placed_by_hand_needs_no_network(small_cifar, tmp_path):
    (tmp_path / download.ARCHIVE).write_bytes(GOOD)
    assert (fetch_cifar10(tmp_path) / "a").read_bytes() == b"first"
    assert small_cifar.log == []


def test_a_wrong_archive_placed_by_hand_is_replaced_or_named(small_cifar, tmp_path, monkeypatch):
    (tmp_path / download.ARCHIVE).write_bytes(b"wrong")
    with monkeypatch.context() as patch, pytest.raises(DownloadError, match="not the right one"):
        patch.setattr(download, "MIRRORS", (small_cifar("404"),))
        fetch_cifar10(tmp_path)
    assert (tmp_path / download.ARCHIVE).read_bytes() == b"wrong"
    fetch_cifar10(tmp_path)
    assert (tmp_path / download.ARCHIVE).read_bytes() == GOOD


def test_damaged_files_are_replaced_others_left_alone(small_cifar, tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "a").write_bytes(b"damaged")
    (folder / "notes.txt").write_bytes(b"mine")
    fetch_cifar10(tmp_path)
    assert (folder / "a").read_bytes() == b"first" and (folder / "notes.txt").exists()


def test_a_folder_that_cannot_be_written_is_said_before_any_download(small_cifar, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match="cannot be written to"):
        fetch_cifar10(tmp_path / "file" / "data")
    assert small_cifar.log == [] and os.listdir(tmp_path) == ["file"]


def special(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "member",
    [
        ("../evil", b""),
        ("/tmp/evil", b""),
        ("cifar-10-batches-py/../evil", b""),
        ("cifar-10-batches-py/..", b""),
        ("cifar-10-batches-py/deep/evil", b""),
        ("cifar-10-batches-py/a\\..\\evil", b""),
        ("cifar-10-batches-py/C:evil", b""),
        ("evil", b""),
        special("cifar-10-batches-py/evil", tarfile.SYMTYPE, "/etc/passwd"),
        special("cifar-10-batches-py/evil", tarfile.LNKTYPE, "../../evil"),
        special("cifar-10-batches-py/evil", tarfile.FIFOTYPE),
        special("cifar-10-batches-py", tarfile.SYMTYPE, "/tmp"),
        special("../evil", tarfile.DIRTYPE),
    ],
)
def test_nothing_is_unpacked_from_an_archive_with_a_suspicious_member(tmp_path, member):
    (tmp_path / "x.tar.gz").write_bytes(archive_of(("cifar-10-batches-py/a", b"first"), member))
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(DownloadError, match="not a plain file"):
        unpack(tmp_path / "x.tar.gz", root)
    assert os.listdir(root) == [] and sorted(os.listdir(tmp_path)) == ["root", "x.tar.gz"]


def test_the_published_list_is_what_it_should_be():
    assert (download.BYTES, download.MD5) == (170498071, "c58f30108f718f92721af3b95e74349a")
    assert "cs.toronto.edu" in download.MIRRORS[-1] and len(download.MIRRORS) >= 5
    from torchvision.datasets import CIFAR10

    assert CIFAR10.tgz_md5 == download.MD5 and CIFAR10.filename == download.ARCHIVE
    assert CIFAR10.base_folder == download.FOLDER
