"""CIFAR-10, a folder of your own pictures, or the built-in shapes, all as one `ImageSet`.

Choices are made on a fixed, class-balanced part held out of the training images; the test set
stays locked until `Data.unlock_test()`.
"""

import hashlib
import operator
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path

import cv2
import numpy as np

from helpers import download, folder, shapes

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)  # of the 50,000 training images
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
DATA_ROOT = Path(__file__).resolve().parents[1] / "data"
SIZE, HOLDOUT = 32, 5000


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, in 0..1, of (N,H,W,3) uint8 images; the deviation
    of a channel that is the same everywhere counts as 1, so that one can divide by it."""
    mean, std = cv2.meanStdDev(images.reshape(len(images), -1, 3))  # without a float copy of all
    return tuple((mean.ravel() / 255).tolist()), tuple(s / 255 or 1.0 for s in std.ravel().tolist())


def check_statistics(mean, std) -> None:
    """ValueError for what cannot be the mean and standard deviation of channels, in 0..1."""
    three = len(mean) == len(std) == 3
    if not (three and all(0 <= m <= 1 for m in mean) and all(0 < s <= 1 for s in std)):
        raise ValueError(
            f"mean {tuple(mean)}, std {tuple(std)}: expected three numbers each, for red, green "
            "and blue, of values in 0..1: mean from 0 to 1, std above 0 and at most 1"
        )


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
        n = len(self)
        for name, shape, dtype in (
            ("images", (n, SIZE, SIZE, 3), "uint8"),
            ("labels", (n,), "int64"),
            ("masks", (n, SIZE, SIZE), "bool"),
        ):
            array = getattr(self, name)
            if array is not None and (array.shape != shape or array.dtype != dtype):
                found = f"{array.shape} {array.dtype}"
                raise ValueError(f"{name} are {found}: expected {shape} {dtype}")
        if n and not (0 <= self.labels.min() <= self.labels.max() < len(self.classes)):
            raise ValueError(f"labels must be in 0..{len(self.classes) - 1}, one for each class")
        if self.mean is None or self.std is None:
            if not n:
                raise ValueError("no images to compute mean and std from: give both of them")
            mean, std = channel_statistics(self.images)
            self.mean = mean if self.mean is None else self.mean
            self.std = std if self.std is None else self.std
        check_statistics(self.mean, self.std)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"ImageSet({len(self):,} images, {len(self.classes)} classes)"

    def subset(self, indices: np.ndarray) -> "ImageSet":
        """The images at `indices` (or where a bool array is true), with this set's statistics."""
        masks = None if self.masks is None else self.masks[indices]
        return replace(self, images=self.images[indices], labels=self.labels[indices], masks=masks)

    @property
    def digest(self) -> str:
        """sha256 of images and labels: tells whether two runs saw the same data."""
        both = hashlib.sha256(np.ascontiguousarray(self.images))
        both.update(np.ascontiguousarray(self.labels, dtype="<i8"))
        return both.hexdigest()


class LockedTestSet(RuntimeError):
    """Raised by `Data.test` before `Data.unlock_test()`."""


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
    _test: ImageSet
    _locked: bool = True

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    @property
    def test(self) -> ImageSet:
        """The test set, once it is unlocked; before that, `LockedTestSet`."""
        if self._locked:
            raise LockedTestSet(
                "The test set is locked. Every choice (learning rate, schedule, what to keep) is "
                "made on the held-out images, data.val: a test set that took part in a choice no "
                "longer tells how the model does on new images. Notebook 06 opens it, after the "
                "last choice, with data.unlock_test()"
            )
        return self._test

    def unlock_test(self) -> ImageSet:
        """Open the test set and return it. Do this once, when every choice is made."""
        self._locked = False
        return self._test


def load(
    source: str = "auto",
    root: str | Path | None = None,
    holdout: int = HOLDOUT,
    limit: int | None = None,
    seed: int = 0,
) -> Data:
    """Training, held-out and (locked) test images of one source.

    `source`: auto (CIFAR-10 from disk, else downloaded, else the shapes with a notice), cifar10,
    shapes, or folder:PATH with train/<class>/* and test/<class>/*. `root`: where CIFAR-10 is or
    goes; None is COURSE_DATA_ROOT, else `data` beside `helpers`. `holdout`: training images set
    aside as `val`, in proportion to the classes. `limit`: train, val and test keep at most this
    many each. `seed` determines the shapes; the choice of images is the same whatever the seed.
    Raises ValueError (sizes that do not fit), folder.FolderError and download.DownloadError.
    """
    seed = operator.index(seed)
    root = Path(os.path.expanduser(root or os.environ.get("COURSE_DATA_ROOT") or DATA_ROOT))
    if source == "auto":
        try:
            return load("cifar10", root, holdout, limit)
        except download.DownloadError:
            notice = (
                f"The built-in shapes stand in for CIFAR-10, which is not complete in {root} and "
                "could not be downloaded: numbers and pictures differ from the text. "
                'load("cifar10") says what was tried and how to place the file by hand.'
            )
            return replace(load("shapes", None, holdout, limit, seed), notice=notice)

    if source == "shapes":
        return _split("shapes", shapes.source(seed), holdout, limit)
    if source == "cifar10":
        return _split("cifar10", download.cifar10(root), holdout, limit)
    kind, _, path = str(source).partition(":")
    if kind == "folder" and path:
        tally = Counter()
        data = _split("folder", folder.source(Path(path), SIZE, tally), holdout, limit)
        return replace(data, notice=f"{data.notice} {folder.conversions(tally)}".strip())
    raise ValueError(f"unknown source {source!r}: expected auto, shapes, cifar10 or folder:PATH")


def _split(name: str, found: tuple, holdout: int, limit: int | None) -> Data:
    """Hold out, limit, and read what is kept.

    found: the classes, and for train and test a pair: the labels (N,) of all its images, and a
    function that reads those at some indices, as images and masks (or None).
    """
    classes, (labels, read), (test_labels, read_test) = found
    images, count, sizes, notice = len(labels), len(classes), np.bincount(labels), ""
    if name == "folder" and holdout == HOLDOUT and images < 10 * holdout:
        holdout = max(images // 10, count)
        notice = f"{holdout} of the {images} training pictures are held out."
    if holdout != 0 and (holdout not in range(count, images - count + 1) or sizes.min() < 2):
        raise ValueError(
            f"holdout={holdout!r} does not fit {images} training images in {count} classes (the "
            f"smallest, {classes[sizes.argmin()]!r}, has {sizes.min()}): expected 0, or {count} to "
            f"{images - count}, with an image of each class on both sides"
        )
    if limit is not None and not (isinstance(limit, Integral) and limit >= count):
        raise ValueError(f"limit={limit!r}: expected None, or {count} or more, one image a class")

    def image_set(labels: np.ndarray, read: Callable, indices: np.ndarray, mean, std) -> ImageSet:
        if limit is not None and limit < len(indices):
            indices = _choose(labels, indices, limit)
        images, masks = read(indices)
        return ImageSet(images, labels[indices], classes, masks, mean, std)

    statistics = (CIFAR10_MEAN, CIFAR10_STD) if name == "cifar10" else (None, None)
    everything = np.arange(images)
    held = _choose(labels, everything, holdout, spare=1) if holdout else everything[:0]
    train = image_set(labels, read, np.setdiff1d(everything, held), *statistics)
    statistics = train.mean, train.std
    val = image_set(labels, read, held, *statistics) if holdout else None
    test = image_set(test_labels, read_test, np.arange(len(test_labels)), *statistics)
    return Data(train, val, name, notice, test)


def _choose(labels: np.ndarray, among: np.ndarray, count: int, spare: int = 0) -> np.ndarray:
    """`count` of the indices `among`, sorted, in proportion to the classes; always the same ones.

    The order is by a hash of the index, so that no library's random stream can change it. Every
    class gives at least one and keeps at least `spare`. Where the classes are equally
    large, a smaller count chooses a subset of a larger one's images.
    """
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
