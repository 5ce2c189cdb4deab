"""Batched augmentation against albumentations with 2 loader workers: `{"ratio": ...}`.

All do the same work (pad, crop, flip, CutOut, normalise) on the same random images in batches of
512 and end in float tensors. They take turns in one process, A B C A B C, so that a busy machine
slows all; each ratio is the median over the rounds. Starting the workers is not counted.
`ratio` is that of the better of one thread and torch's default number of threads; on a machine that
is busy with something else one thread is better, because the others wait for the one held up.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from helpers.augment import BatchAugment, Batches, image_loader, train_transform  # noqa: E402
from helpers.data import CIFAR10_MEAN, CIFAR10_STD, ImageSet  # noqa: E402

ROUNDS, BATCH = 7, 512
SLOW, FAST = 24 * BATCH, 96 * BATCH  # images in one turn: about a second, about a third of one


def images_per_second(batches, count: int, threads: int) -> float:
    """From the first batch on, which has the start of the workers in it, to the last."""
    torch.set_num_threads(threads)
    iterator = iter(batches)
    next(iterator)
    start = time.perf_counter()
    for _ in iterator:
        pass
    return (count - BATCH) / (time.perf_counter() - start)


def main() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (FAST, 32, 32, 3), dtype=np.uint8)
    labels = generator.integers(0, 10, FAST)
    images = ImageSet(images, labels, tuple("0123456789"), None, CIFAR10_MEAN, CIFAR10_STD)
    transform = train_transform(CIFAR10_MEAN, CIFAR10_STD)
    loader = image_loader(images.subset(np.arange(SLOW)), transform, BATCH, workers=2)
    batches = Batches(images, BATCH, BatchAugment(CIFAR10_MEAN, CIFAR10_STD))
    threads, rounds = torch.get_num_threads(), []
    print(f"images/s: albumentations, 2 workers | batched, 1 thread | batched, {threads} threads")
    for number in range(ROUNDS + 1):
        turns = (loader, SLOW, threads), (batches, FAST, 1), (batches, FAST, threads)
        rates = [images_per_second(*turn) for turn in turns]
        if number:  # the first round warms up
            rounds.append(rates)
            print("".join(f"{rate:12,.0f}" for rate in rates))
    one, all_threads = (
        round(statistics.median(rates[column] / rates[0] for rates in rounds), 2)
        for column in (1, 2)
    )
    rates = [statistics.median(column) for column in zip(*rounds, strict=True)]
    print("".join(f"{rate:12,.0f}" for rate in rates) + "   median")
    ratios = {"ratio": max(one, all_threads), "one_thread": one, "all_threads": all_threads}
    print(json.dumps(ratios | {"threads": threads}))


if __name__ == "__main__":
    main()
