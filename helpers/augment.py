"""Augmentation twice: image by image with albumentations, and a whole batch at once on the device.

Both draw for each image where to crop the padded image to 32x32, whether to flip it, and where the
hole is (CutOut: DeVries and Taylor 2017, arXiv:1708.04552; here the whole hole lies in the image).
Both end in normalised floats, (3,32,32) and (B,3,32,32): (value / 255 - mean) / std per channel.
"""

import copy
import multiprocessing
import operator
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, get_worker_info

from helpers.data import SIZE, ImageSet, check_statistics

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the network
import albumentations as A  # noqa: E402
import cv2  # noqa: E402
from albumentations.pytorch import ToTensorV2  # noqa: E402


def train_transform(
    mean: Sequence[float],
    std: Sequence[float],
    pad: int = 4,
    cutout: int = 8,
    flip: float = 0.5,
    seed: int | None = None,
) -> A.Compose:
    """The 2020 pipeline: `transform(image=uint8 (32,32,3))["image"]` is a float tensor (3,32,32).

    mean, std: per channel, in 0..1. pad: pixels mirrored on each side, without the edge itself (the
    library's default in 2020). cutout: side of the hole, filled with the mean, which is 0 after the
    normalisation. seed: None for a new stream each time. ValueError: a value out of range.
    """
    _check_ranges(mean, std, pad, cutout, flip)
    padded, hole = SIZE + 2 * pad, (cutout, cutout)  # PadIfNeeded(32, 32) would do nothing
    steps = [
        A.PadIfNeeded(padded, padded, border_mode=cv2.BORDER_REFLECT_101),
        A.RandomCrop(SIZE, SIZE),
        A.HorizontalFlip(p=flip),
        A.Normalize(tuple(mean), tuple(std)),
        A.CoarseDropout((1, 1), hole, hole, fill=0, p=1.0) if cutout else A.NoOp(),
        ToTensorV2(),
    ]
    transform = A.Compose(steps, strict=True)  # strict: an argument it does not know is an error
    seed_transform(transform, seed)
    return transform


def seed_transform(transform: A.Compose, seed: int | None) -> None:
    """Start the random stream of a Compose anew, one stream for all its steps.

    Compose's `seed` gives every step the same seed, so a flip would follow from an earlier crop.
    """
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))


class AugmentedImages(Dataset):
    """An ImageSet seen through a Compose: item i is (float (3,32,32), label)."""

    def __init__(self, image_set: ImageSet, transform: A.Compose):
        self.images, self.labels, self.transform = image_set.images, image_set.labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(image=self.images[i])["image"], int(self.labels[i])


def seed_worker(_: int) -> None:
    """`worker_init_fn`: a stream of its own for each worker and epoch.

    A worker starts with a copy of the transform, random state included: left alone, all workers
    draw the same, in every epoch. The seed that torch gives a worker differs in both.
    """
    worker = get_worker_info()
    seed_transform(worker.dataset.transform, worker.seed % 2**32)


def default_workers() -> int:
    """How many loader workers pay off here: 2 (Colab has two cores), but 0 where processes start
    from scratch (Windows, macOS, Python 3.14): they would import torch anew in each epoch."""
    forks = multiprocessing.get_all_start_methods()[0] == "fork"  # the platform's default
    return min(2, os.cpu_count() or 1) if forks else 0


def image_loader(
    image_set: ImageSet,
    transform: A.Compose,
    batch_size: int,
    shuffle: bool = True,
    workers: int = 0,
    seed: int = 0,
) -> DataLoader:
    """A DataLoader of (x float (B,3,32,32), y int64 (B,)); each pass over it is a new epoch.

    `seed` and `workers` together determine all epochs. The loader uses a copy of `transform`.
    """
    transform, seed = copy.deepcopy(transform), operator.index(seed)
    transform.strict = True  # an argument it does not know is an error, not only a warning
    seed_transform(transform, seed)
    return DataLoader(
        AugmentedImages(image_set, transform), batch_size, shuffle, num_workers=workers,
        worker_init_fn=seed_worker, generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


def normalise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """uint8 (B,32,32,3) on any device -> float (B,3,32,32), (value / 255 - mean) / std."""
    _check_images(images)
    x = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    for channel, m, s in zip(x.unbind(1), mean, std, strict=True):
        channel.mul_(1 / (255 * s)).add_(-m / s)  # in plain numbers: nothing to copy to a GPU
    return x


@dataclass(frozen=True)
class BatchAugment:
    """`train_transform` for batches: uint8 (B,32,32,3) on any device -> float (B,3,32,32).

    The generator is the CPU's, so a seed means the same draws on each device. flip: probability, or
    "alternating" (Jordan 2024, arXiv:2404.00498), in `Batches`: two successive epochs show every
    image both ways round, where chance shows half of them the same way twice.
    """

    mean: Sequence[float]
    std: Sequence[float]
    pad: int = 4
    cutout: int = 8
    flip: float | Literal["alternating"] = 0.5

    def __post_init__(self) -> None:
        flip = 0 if self.flip == "alternating" else self.flip
        _check_ranges(self.mean, self.std, self.pad, self.cutout, flip)

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return self.apply(images, self.draw(len(images), generator).to(images.device))

    def draw(
        self, count: int, generator: torch.Generator, flips: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(count,5) int64, one row an image: top and left of the crop in the padded image, flip
        (0 or 1), top and left of the hole in the result. flips (count,): given, not drawn."""
        crop = torch.randint(2 * self.pad + 1, (count, 2), generator=generator)
        coin = torch.rand(count, generator=generator)  # always: holes do not depend on the flips
        hole = torch.randint(SIZE - self.cutout + 1, (count, 2), generator=generator)
        if flips is None:
            if self.flip == "alternating":
                raise ValueError('flip="alternating" follows the epoch: iterate over Batches')
            flips = coin < self.flip
        return torch.cat([crop, flips.long()[:, None], hole], dim=1)

    def apply(self, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Pad, crop, flip, normalise and cut out as drawn; `draws` on the device of `images`.

        With a fourth byte a pixel is one 32-bit word, moved at once: `Batches` adds it beforehand.
        """
        _check_images(images[..., :3])
        if images.shape[-1] == 3:
            images = F.pad(images.contiguous(), (0, 1))
        top, left, flip, hole_top, hole_left = draws[:, :, None].unbind(1)  # (B,1) each
        pixel = torch.arange(SIZE, device=images.device)
        # Padding, crop and flip only say from which row and column each pixel comes.
        row = _mirror(pixel + top - self.pad)
        column = _mirror(torch.where(flip == 1, SIZE - 1 - pixel, pixel) + left - self.pad)
        source = (row[:, :, None] * SIZE + column[:, None, :]).flatten(1)
        words = images.view(torch.int32).flatten(1).gather(1, source)
        pixels = words.view(torch.uint8).view(-1, SIZE, SIZE, 4)[..., :3]
        x = normalise(pixels, self.mean, self.std)
        row, column = pixel[: self.cutout] + hole_top, pixel[: self.cutout] + hole_left
        hole = (row[:, :, None] * SIZE + column[:, None, :]).flatten(1)
        x.flatten(2).scatter_(2, hole[:, None].expand(-1, 3, -1), 0)  # x itself: flatten is a view
        return x


@dataclass(eq=False, repr=False)
class Batches:
    """(x float (B,3,32,32), y int64 (B,)) on `device`, from images that lie there as uint8.

    Every pass is a new epoch; `seed` and the epoch determine order and augmentation, the same on
    each device. augment=None: normalisation alone. shard=(rank, ranks): this process's part of each
    batch.
    """

    image_set: ImageSet
    batch_size: int
    augment: BatchAugment | None = None
    device: torch.device | str = "cpu"
    shuffle: bool = True
    drop_last: bool = False
    seed: int = 0
    shard: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or len(self) < 1:
            raise ValueError(
                f"{len(self.image_set)} images, batch_size {self.batch_size}, drop_last "
                f"{self.drop_last}: not one batch. Take a batch_size from 1 up to the image count."
            )
        self.seed = operator.index(self.seed)  # of numpy: torch takes plain ones only
        if self.seed < 0 or not 0 <= self.shard[0] < self.shard[1]:
            raise ValueError(
                f"seed {self.seed}, shard {self.shard}: expected a seed, 0 or more, and of n ranks "
                "(0, n) to (n - 1, n)"
            )
        self.images = torch.tensor(np.ascontiguousarray(self.image_set.images), device=self.device)
        self.labels = torch.tensor(self.image_set.labels, device=self.device)
        if self.augment:
            self.images = F.pad(self.images, (0, 1))  # see BatchAugment.apply
        self.epoch = 0

    def __len__(self) -> int:
        whole, rest = divmod(len(self.image_set), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """The next pass is this epoch, counted from 0."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        count, device, epoch = len(self.labels), self.device, self.epoch
        self.epoch += 1
        mixed = np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(mixed))
        order = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        order = order.to(device)
        if self.augment:  # the whole epoch's: a copy a batch would make the CPU wait for the GPU
            flips = None
            if self.augment.flip == "alternating":  # a coin once for each image, turned each epoch
                coins = torch.Generator().manual_seed(self.seed)
                flips = (torch.randint(2, (count,), generator=coins) + epoch) % 2 == 1
            draws = self.augment.draw(count, generator, flips).to(device)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            rows = order[start : start + self.batch_size][self.shard[0] :: self.shard[1]]
            x = self.images.index_select(0, rows)
            if self.augment:
                x = self.augment.apply(x, draws[rows])
            else:
                x = normalise(x, self.image_set.mean, self.image_set.std)
            yield x, self.labels[rows]


def _mirror(i: torch.Tensor) -> torch.Tensor:
    """Row or column numbers beyond the edge, mirrored at the edge pixel: -1 -> 1, 32 -> 30."""
    return SIZE - 1 - (SIZE - 1 - i.abs()).abs()


def _check_ranges(mean, std, pad: int, cutout: int, flip: float) -> None:
    check_statistics(mean, std)
    whole = isinstance(pad, Integral) and isinstance(cutout, Integral)
    chance = not isinstance(flip, str) and 0 <= flip <= 1
    if not (whole and 0 <= pad < SIZE and 0 <= cutout <= SIZE and chance):
        raise ValueError(
            f"pad {pad}, cutout {cutout}, flip {flip!r}: expected whole pixels, 0 <= pad < 32 and "
            '0 <= cutout <= 32, and 0 <= flip <= 1 (or "alternating", of a BatchAugment).'
        )


def _check_images(images: torch.Tensor) -> None:
    if images.dtype != torch.uint8 or images.shape[1:] != (SIZE, SIZE, 3):
        raise ValueError(
            f"images {tuple(images.shape)} of {images.dtype}: expected uint8 (B,32,32,3), as in an "
            "ImageSet, not normalised yet."
        )
