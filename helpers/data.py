"""CIFAR-10, a folder of your own pictures, or the built-in shapes, all as one `ImageSet`.

Choices are made on a fixed, class-balanced part held out of the training images; the test set
stays locked until `Data.unlock_test()`.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from helpers import download, folder, shapes

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)  # of the 50,000 training images
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
SOURCES = ("auto", "shapes", "cifar10", "folder:PATH")
SIZE = 32
DEFAULT_HOLDOUT = 5000
SHAPES_TRAIN, SHAPES_TEST = 20_000, 5_000


class LockedTestSet(RuntimeError):
    """Raised by `Data.test` before `Data.unlock_test()`."""


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, in 0..1, of (N,H,W,3) uint8 images."""
    counts = np.zeros((3, 256))  # exact histograms: no float copy of all images is needed
    for start in range(0, len(images), 5000):
        for c in range(3):
            values = images[start : start + 5000, ..., c].ravel()
            counts[c] += np.bincount(values, minlength=256)
    counts /= counts.sum(axis=1, keepdims=True)
    level = np.arange(256) / 255
    mean = counts @ level
    std = np.sqrt(counts @ level**2 - mean**2)
    return tuple(mean.tolist()), tuple(std.tolist())


def _expect(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    if array.shape != shape or array.dtype != dtype:
        wanted = f"{shape} {np.dtype(dtype)}"
        raise ValueError(f"{name} are {array.shape} {array.dtype}: expected {wanted}")


@dataclass(eq=False, repr=False)
class ImageSet:
    """Images (N,32,32,3) uint8, labels (N,) int64, and what is known about them.

    `masks`: (N,32,32) bool, true on the object, or None. `mean`, `std`: per channel in 0..1, of
    the training images; computed from `images` where they are not given.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    masks: np.ndarray | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        shape = (len(self.labels), SIZE, SIZE)
        _expect("images", self.images, (*shape, 3), np.uint8)
        _expect("labels", self.labels, shape[:1], np.int64)
        if self.masks is not None:
            _expect("masks", self.masks, shape, np.bool_)
        if len(self) and not (0 <= self.labels.min() <= self.labels.max() < len(self.classes)):
            raise ValueError(f"labels must be in 0..{len(self.classes) - 1}, one for each class")
        if self.mean is None or self.std is None:
            mean, std = channel_statistics(self.images)
            self.mean, self.std = self.mean or mean, self.std or std

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"ImageSet({len(self):,} images, {len(self.classes)} classes)"

    def subset(self, indices: np.ndarray) -> "ImageSet":
        """The images at `indices` (or where a bool array is true), with this set's statistics."""
        indices = np.asarray(indices)
        if indices.dtype != bool:
            indices = indices.astype(np.int64)  # an empty list too
        masks = None if self.masks is None else self.masks[indices]
        parts = self.images[indices], self.labels[indices]
        return ImageSet(*parts, self.classes, masks, self.mean, self.std)

    @property
    def digest(self) -> str:
        """sha256 of images and labels: tells whether two runs saw the same data."""
        both = hashlib.sha256(np.ascontiguousarray(self.images))
        both.update(np.ascontiguousarray(self.labels, dtype="<i8"))
        return both.hexdigest()


@dataclass(eq=False, repr=False)
class Data:
    """What `load` returns: `train`, `val` (None without a holdout), and the locked `test`.

    `name`: shapes, cifar10 or folder. `notice`: what the reader must know about the data, such
    as that the shapes stand in for CIFAR-10; empty where there is nothing to say.
    """

    train: ImageSet
    val: ImageSet | None
    name: str
    notice: str
    read_test: Callable[[], ImageSet]
    _test: ImageSet | None = field(default=None, init=False)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    @property
    def test(self) -> ImageSet:
        """The test set, once it is unlocked; before that, `LockedTestSet`."""
        if self._test is None:
            raise LockedTestSet(
                "The test set is locked. Every choice (learning rate, schedule, what to keep) is "
                "made on the held-out images, data.val: a test set that took part in a choice no "
                "longer tells how the model does on new images. Notebook 06 opens it, after the "
                "last choice, with data.unlock_test()"
            )
        return self._test

    def unlock_test(self) -> ImageSet:
        """Open the test set and return it. Do this once, when every choice is made."""
        if self._test is None:
            self._test = self.read_test()
        return self._test

    def __repr__(self) -> str:
        val = 0 if self.val is None else len(self.val)
        lock = "locked" if self._test is None else "open"
        return f"Data({self.name}: {len(self.train):,} train, {val:,} val, test {lock})"


def load(
    source: str = "auto",
    root: str | Path | None = None,
    holdout: int = DEFAULT_HOLDOUT,
    limit: int | None = None,
    seed: int = 0,
) -> Data:
    """Training, held-out and (locked) test images of one source.

    `source`: auto (CIFAR-10 from disk, else downloaded, else the shapes with a notice), cifar10,
    shapes, or folder:PATH with train/<class>/* and test/<class>/*. `root`: where CIFAR-10 is or
    goes; None is COURSE_DATA_ROOT, else `data` beside `helpers`. `holdout`: training images set
    aside as `val`, in proportion to the classes; 0 keeps all for training. `limit`: train, val
    and test each keep at most so many. `seed` determines the shapes; holdout and limit choose
    the same images whatever the seed. Raises ValueError for an unknown source or sizes that do
    not fit, folder.FolderError (also a ValueError), and, for cifar10 that cannot be had,
    download.DownloadError.
    """
    if root is None:
        root = os.environ.get("COURSE_DATA_ROOT") or Path(__file__).resolve().parents[1] / "data"
    root = Path(root).expanduser()
    for name, value in (("holdout", holdout), ("limit", 0 if limit is None else limit)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{name} is {value!r}: expected a whole number of images")
    if source == "shapes":
        found = _shapes(seed)
    elif source == "cifar10":
        found = _cifar10(root)
    elif source == "auto":
        try:
            found = _cifar10(root)
        except download.DownloadError as error:
            found = _shapes(seed)
            found.notice = (
                f"The built-in shapes stand in for CIFAR-10, which is not whole in {root} and "
                f"could not be downloaded ({error.summary}): numbers and pictures differ from the "
                'text. load("cifar10") says what was tried and how to place the file by hand.'
            )
    elif source.startswith("folder:") and len(source) > len("folder:"):
        found = _folder(Path(source.removeprefix("folder:")).expanduser())
    else:
        raise ValueError(f"unknown data source {source!r}: expected {', '.join(SOURCES)}")
    return _assemble(found, holdout, limit)


@dataclass
class _Source:
    """What a source knows before it reads pictures: only those that are kept get read."""

    name: str
    classes: tuple[str, ...]
    labels: dict[str, np.ndarray]  # of all "train" and all "test" images
    read: Callable[[str, np.ndarray], tuple[np.ndarray, np.ndarray | None]]  # part, indices
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    notice: str = ""
    tally: Counter = field(default_factory=Counter)  # conversions made, in pictures


def _assemble(found: _Source, holdout: int, limit: int | None) -> Data:
    labels, classes = found.labels["train"], len(found.classes)
    if found.name == "folder" and holdout == DEFAULT_HOLDOUT and len(labels) < 10 * holdout:
        holdout = max(len(labels) // 10, classes)
        found.notice = f"{holdout} of the {len(labels)} training pictures are held out. "
    sizes = np.bincount(labels)
    if holdout and sizes.min() < 2:
        raise ValueError(
            f"class {found.classes[sizes.argmin()]!r} has a single training image: nothing can be "
            "held out of it. Add images, or use holdout=0"
        )
    if holdout and not classes <= holdout <= len(labels) - classes:
        raise ValueError(
            f"holdout={holdout} does not fit {len(labels)} training images in {classes} classes: "
            f"expected 0, or {classes} to {len(labels) - classes} (one image a class on each side)"
        )
    held = _choose(labels, np.arange(len(labels)), holdout, spare=1)
    kept = np.setdiff1d(np.arange(len(labels)), held)

    def image_set(part: str, indices: np.ndarray) -> ImageSet:
        labels = found.labels[part]
        if limit is not None and limit < len(indices):
            if limit < classes:
                raise ValueError(
                    f"limit={limit} is less than one image for each of {classes} classes"
                )
            indices = _choose(labels, indices, limit)
        images, masks = found.read(part, indices)
        return ImageSet(images, labels[indices], found.classes, masks, found.mean, found.std)

    train = image_set("train", kept)
    found.mean, found.std = train.mean, train.std
    val = image_set("train", held) if holdout else None
    test = np.arange(len(found.labels["test"]))
    read_test = lambda: image_set("test", test)
    if found.name == "folder":  # read now: a bad picture is found now, not in notebook 06
        opened = read_test()
        read_test = lambda: opened
    notice = (found.notice + folder.conversions(found.tally)).strip()
    return Data(train, val, found.name, notice, read_test)


def _choose(labels: np.ndarray, among: np.ndarray, count: int, spare: int = 0) -> np.ndarray:
    """`count` of the indices `among`, sorted, in proportion to the classes; always the same ones.

    The order is by a hash of the index, so that no library's random stream can change it. Every
    class gives at least one and keeps at least `spare`. A smaller count chooses a part of a
    larger one's images where the classes are equally large.
    """
    if not count:
        return among[:0]
    _, classes, sizes = np.unique(labels[among], return_inverse=True, return_counts=True)
    ideal = count * sizes / sizes.sum()
    quota = np.clip(np.floor(ideal).astype(int), 1, sizes - spare)
    while quota.sum() != count:  # the few that rounding left over, the neediest class first
        step = 1 if quota.sum() < count else -1
        possible = quota < sizes - spare if step > 0 else quota > 1
        quota[np.argmax(np.where(possible, (ideal - quota) * step, -np.inf))] += step
    order = np.argsort([hashlib.sha256(b"%d" % i).digest() for i in among.tolist()])
    chosen = [order[classes[order] == c][:q] for c, q in enumerate(quota)]
    return np.sort(among[np.concatenate(chosen)])


def _shapes(seed: int) -> _Source:
    count = {"train": SHAPES_TRAIN, "test": SHAPES_TEST}
    first = {"train": 0, "test": SHAPES_TRAIN}
    labels = {
        p: np.arange(first[p], first[p] + count[p], dtype=np.int64) % len(shapes.CLASSES)
        for p in count
    }

    def read(part: str, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images, _, masks = shapes.draw(first[part] + indices, seed)
        return images, masks

    return _Source("shapes", shapes.CLASSES, labels, read)


def _cifar10(root: Path) -> _Source:
    from torchvision.datasets import CIFAR10  # here: the shapes need no torch

    try:
        train = CIFAR10(root, train=True, download=False)  # checks every file's md5 first
    except RuntimeError:  # absent or damaged
        download.fetch_cifar10(root)
        train = CIFAR10(root, train=True, download=False)
    parts = {"train": train, "test": CIFAR10(root, train=False, download=False)}
    labels = {name: np.array(part.targets, dtype=np.int64) for name, part in parts.items()}

    def read(part: str, indices: np.ndarray) -> tuple[np.ndarray, None]:
        return parts[part].data[indices], None

    return _Source("cifar10", tuple(train.classes), labels, read, CIFAR10_MEAN, CIFAR10_STD)


def _folder(path: Path) -> _Source:
    classes, files = folder.list_pictures(path)
    tally = Counter()

    def read(part: str, indices: np.ndarray) -> tuple[np.ndarray, None]:
        pictures = [folder.read_picture(files[part][i][0], SIZE, tally) for i in indices]
        return np.stack(pictures), None

    labels = {p: np.array([label for _, label in files[p]], dtype=np.int64) for p in files}
    return _Source("folder", classes, labels, read, tally=tally)
