"""Both augmentation pipelines draw from one distribution, apply draws alike, and never repeat."""

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils.data import DataLoader

from helpers import augment
from helpers.augment import (
    A,
    AugmentedImages,
    BatchAugment,
    Batches,
    default_workers,
    image_loader,
    normalise,
    train_transform,
)
from helpers.data import ImageSet

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
RAW = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # "normalisation" that leaves value / 255
RANDOM = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)

# Channel 0 holds the row, channel 1 the column, channel 2 is 255: an output shows what was done.
CODED = np.full((32, 32, 3), 255, dtype=np.uint8)
CODED[..., 0], CODED[..., 1] = np.mgrid[1:33, 1:33]


def random_set(count=300):
    return ImageSet(RANDOM[:count], np.arange(count) % 10, tuple("abcdefghij"), None, MEAN, STD)


def coded_set(count):
    labels = np.arange(count) % 10
    return ImageSet(np.stack([CODED] * count), labels, tuple("abcdefghij"), None, *RAW)


def plain_transform():
    """Normalisation alone."""
    return train_transform(MEAN, STD, pad=0, cutout=0, flip=0.0)


def decode(x):
    """What was done to CODED, from the result alone: (B,5) crop top, left, flip, hole top, left."""
    row, column, hole = (x * 255).round().long().unbind(1)
    hole = hole == 0
    top = row.amax(2)[:, 16] - 13  # the hole is 8 wide, so the maximum along a row is its value
    at_16, at_17 = column.amax(1)[:, 16], column.amax(1)[:, 17]
    flip = (at_16 > at_17).long()
    left = at_16 - 13 + flip
    hole_top, hole_left = hole.any(2).int().argmax(1), hole.any(1).int().argmax(1)
    assert (hole.sum((1, 2)) == 64).all()
    for i in range(8):
        assert hole[torch.arange(len(x)), hole_top + i, hole_left + 7 - i].all()
    return torch.stack([top, left, flip, hole_top, hole_left], 1)


@pytest.fixture(scope="module")
def drawn():
    """6,000 draws of each pipeline, read off its images."""
    transform = train_transform(*RAW, seed=1)
    one_by_one = torch.stack([transform(image=CODED)["image"] for _ in range(6000)])
    images = torch.from_numpy(CODED).expand(6000, -1, -1, -1)
    at_once = BatchAugment(*RAW)(images, torch.Generator().manual_seed(1))
    return {"albumentations": decode(one_by_one).numpy(), "batched": decode(at_once).numpy()}


@pytest.mark.parametrize("pipeline", ["albumentations", "batched"])
def test_crops_flips_and_holes_are_uniform(drawn, pipeline):
    top, left, flip, hole_top, hole_left = drawn[pipeline].T
    cells = np.bincount(top * 9 + left, minlength=81)
    assert len(cells) == 81 and stats.chisquare(cells).pvalue > 1e-3
    cells = np.bincount(hole_top * 25 + hole_left, minlength=625)
    assert len(cells) == 625 and stats.chisquare(cells).pvalue > 1e-3
    assert stats.binomtest(int(flip.sum()), len(flip), 0.5).pvalue > 1e-3


@pytest.mark.parametrize("pipeline", ["albumentations", "batched"])
def test_the_draws_of_an_image_and_of_its_followers_are_independent(drawn, pipeline):
    """Compose(seed=...) makes the flip of image 2i+1 follow from the crop of image i (r = 0.86)."""
    draws = drawn[pipeline].astype(float)
    pairs = [(draws, draws)] + [(draws[:-lag], draws[lag:]) for lag in (1, 2)]
    pairs += [(draws[:3000], draws[::2]), (draws[:3000], draws[1::2])]
    for number, (first, second) in enumerate(pairs):
        r = np.corrcoef(first.T, second.T)[:5, 5:]
        if number == 0:
            np.fill_diagonal(r, 0)
        assert abs(r).max() < 4 / np.sqrt(len(first))


def test_both_pipelines_have_one_distribution(drawn):
    for column in range(5):
        counts = [np.bincount(drawn[p][:, column]) for p in ("albumentations", "batched")]
        assert stats.chi2_contingency(counts).pvalue > 1e-3


def test_equal_draws_give_equal_images():
    """What albumentations reports to have drawn, applied in a batch: the same tensor."""
    transform = train_transform(MEAN, STD, seed=3)
    transform.save_applied_params = True
    results = [transform(image=image) for image in RANDOM]
    draws = []
    for result in results:
        done = dict(result["applied_transforms"])
        left, top = done["RandomCrop"]["crop_coords"][:2]
        hole_left, hole_top = done["CoarseDropout"]["holes"][0][:2]
        draws.append([top, left, "HorizontalFlip" in done, hole_top, hole_left])
    x = BatchAugment(MEAN, STD).apply(torch.from_numpy(RANDOM), torch.tensor(draws))
    expected = torch.stack([result["image"] for result in results])
    assert x.dtype == expected.dtype == torch.float32 and x.is_contiguous()
    torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6)
    assert ((x == 0) == (expected == 0)).all()  # the fill is exactly the mean
    planes = torch.from_numpy(RANDOM).permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    torch.testing.assert_close(BatchAugment(MEAN, STD).apply(planes, torch.tensor(draws)), x)


@pytest.mark.parametrize("top, left, flip", [(0, 0, 0), (8, 8, 1), (0, 8, 1), (4, 4, 0), (3, 6, 1)])
def test_the_batched_crop_against_numpy(top, left, flip):
    image = RANDOM[:1]
    padded = np.pad(image[0], ((4, 4), (4, 4), (0, 0)), mode="reflect")
    expected = padded[top : top + 32, left : left + 32][:, :: -1 if flip else 1] / 255
    expected[2:10, 24:32] = 0
    x = BatchAugment(*RAW).apply(torch.from_numpy(image), torch.tensor([[top, left, flip, 2, 24]]))
    np.testing.assert_allclose(x[0].permute(1, 2, 0).numpy(), expected, rtol=1e-6)


def test_padding_really_pads():
    """PadIfNeeded(32, 32) on a 32x32 image would do nothing: every crop would be the image."""
    transform = train_transform(*RAW, cutout=0, flip=0.0, seed=0)
    images = {transform(image=RANDOM[0])["image"].numpy().tobytes() for _ in range(200)}
    assert len(images) > 60  # of the 81 there are
    unpadded = train_transform(*RAW, pad=0, cutout=0, flip=0.0)(image=RANDOM[0])["image"]
    torch.testing.assert_close(unpadded * 255, torch.from_numpy(RANDOM[0]).permute(2, 0, 1).float())


def test_options_switch_steps_off_in_both():
    images = torch.from_numpy(RANDOM[:20])
    plain = normalise(images, MEAN, STD)
    off = BatchAugment(MEAN, STD, pad=0, cutout=0, flip=0.0)
    torch.testing.assert_close(off(images, torch.Generator()), plain)
    flipped = BatchAugment(MEAN, STD, pad=0, cutout=0, flip=1.0)(images, torch.Generator())
    torch.testing.assert_close(flipped, plain.flip(3))
    one = train_transform(MEAN, STD, pad=0, cutout=0, flip=1.0)(image=RANDOM[0])["image"]
    torch.testing.assert_close(one, plain[0].flip(2), rtol=1e-6, atol=1e-6)
    whole = BatchAugment(MEAN, STD, cutout=32)(images, torch.Generator())
    assert (whole == 0).all()


def test_normalisation_uses_the_given_statistics():
    expected = (RANDOM.astype(np.float64) / 255 - MEAN) / STD
    x = normalise(torch.from_numpy(RANDOM), MEAN, STD)
    assert x.shape == (300, 3, 32, 32)
    np.testing.assert_allclose(x.permute(0, 2, 3, 1).numpy(), expected, rtol=1e-6, atol=1e-6)
    one = plain_transform()(image=RANDOM[0])["image"]
    torch.testing.assert_close(one, x[0], rtol=1e-6, atol=1e-6)


def test_an_argument_albumentations_does_not_know_is_an_error(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all that albumentations itself does is warn
        own = A.Compose([A.CoarseDropout(max_holes=1, max_height=8), A.ToTensorV2()])
        with pytest.raises(ValueError, match="max_holes, max_height.*CoarseDropout"):
            image_loader(random_set(), own, 10)
        wrong = A.HorizontalFlip(probability=1.0)
        monkeypatch.setattr(A, "HorizontalFlip", lambda p: wrong)
        with pytest.raises(ValueError, match="probability.*HorizontalFlip"):
            train_transform(MEAN, STD)


@pytest.mark.parametrize("bad", [{"pad": 32}, {"pad": -1}, {"cutout": 33}, {"flip": 1.5}])
def test_values_out_of_range_are_errors(bad):
    for make in (train_transform, BatchAugment):
        with pytest.raises(ValueError, match="expected"):
            make(MEAN, STD, **bad)


def test_wrong_images_are_errors():
    x = normalise(torch.from_numpy(RANDOM[:2]), MEAN, STD)
    for images in (x, torch.from_numpy(RANDOM[0]), torch.from_numpy(RANDOM).permute(0, 3, 1, 2)):
        with pytest.raises(ValueError, match=r"expected uint8 \(B,32,32,3\)"):
            normalise(images, MEAN, STD)
        with pytest.raises(ValueError, match=r"expected uint8 \(B,32,32,3\)"):
            BatchAugment(MEAN, STD)(images, torch.Generator())


def test_importing_does_not_ask_the_network():
    code = """import urllib.request as u
def refuse(*_, **__): print("ASKED"); raise OSError
u.urlopen = u.OpenerDirector.open = refuse
import helpers.augment"""
    env = {k: v for k, v in os.environ.items() if k != "NO_ALBUMENTATIONS_UPDATE"}
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        capture_output=True, text=True, env=env, cwd=Path(augment.__file__).parents[1],
    )  # fmt: skip
    assert run.returncode == 0 and run.stdout == "", run.stdout + run.stderr


# The loader


def epoch_of(loader):
    return torch.cat([x for x, _ in loader])


def distinct(x):
    return len(decode(x).unique(dim=0))


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_never_repeats_and_a_seed_gives_the_same_again(workers):
    """Equal images go in, so whatever differs was drawn: 101,250 different draws are possible."""
    images = coded_set(240)

    def two_epochs(seed):
        transform = train_transform(*RAW, seed=5)
        loader = image_loader(images, transform, 20, shuffle=False, workers=workers, seed=seed)
        return epoch_of(loader), epoch_of(loader)

    first, second = two_epochs(seed=0)
    assert distinct(torch.cat([first, second])) >= 475  # workers and epochs share nothing
    again = two_epochs(seed=0)
    assert torch.equal(first, again[0]) and torch.equal(second, again[1])
    other = two_epochs(seed=1)
    assert distinct(torch.cat([first, second, *other])) >= 945


def test_the_trap_is_there_without_the_worker_seed():
    """Shows that the test above can see it: two workers draw the same, in each epoch again."""
    images = AugmentedImages(coded_set(240), train_transform(*RAW, seed=0))
    loader = DataLoader(images, 20, num_workers=2)
    assert distinct(torch.cat([epoch_of(loader), epoch_of(loader)])) <= 120


def test_loader_leaves_the_callers_transform_alone():
    transform, twin = (train_transform(MEAN, STD, seed=0) for _ in range(2))
    epoch_of(image_loader(random_set(40), transform, 20))
    assert torch.equal(transform(image=RANDOM[0])["image"], twin(image=RANDOM[0])["image"])


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_each_image_once_with_its_label(workers):
    images = random_set(250)
    transform = plain_transform()
    loader = image_loader(images, transform, 64, workers=workers)
    orders = []
    for _ in range(2):
        x, y = (torch.cat(parts) for parts in zip(*loader, strict=True))
        assert x.shape == (250, 3, 32, 32) and x.dtype == torch.float32 and y.dtype == torch.int64
        orders.append(identify(x))
        assert sorted(orders[-1]) == list(range(250))
        assert y.tolist() == images.labels[orders[-1]].tolist()
    assert orders[0] != orders[1]
    in_order = image_loader(images, transform, 64, shuffle=False, workers=workers)
    assert identify(epoch_of(in_order)) == list(range(250))


def identify(x):
    """Which of RANDOM each normalised image is."""
    table = normalise(torch.from_numpy(RANDOM), MEAN, STD).flatten(1)
    return torch.cdist(x.flatten(1), table).argmin(1).tolist()


@pytest.mark.slow
def test_spawned_workers_give_what_forked_ones_give():
    """Windows and macOS start workers from nothing: everything must be picklable."""
    loaders = [
        image_loader(coded_set(80), train_transform(*RAW), 10, workers=2, seed=4) for _ in range(2)
    ]
    loaders[0].multiprocessing_context = "spawn"
    assert torch.equal(epoch_of(loaders[0]), epoch_of(loaders[1]))


def test_what_a_worker_needs_is_picklable():
    loader = image_loader(random_set(), train_transform(MEAN, STD), 10, seed=4)
    dataset, init = pickle.loads(pickle.dumps((loader.dataset, loader.worker_init_fn)))
    assert torch.equal(dataset[0][0], loader.dataset[0][0]) and init is augment.seed_worker


def test_default_workers(monkeypatch):
    assert 0 <= default_workers() <= 2
    for methods, cpus, expected in [
        (["fork", "spawn"], 8, 2), (["fork"], 1, 1), (["spawn"], 8, 0), (["forkserver"], 8, 0),
    ]:  # fmt: skip
        fake = SimpleNamespace(get_all_start_methods=lambda methods=methods: methods)
        monkeypatch.setattr(augment, "multiprocessing", fake)
        monkeypatch.setattr(augment.os, "cpu_count", lambda n=cpus: n)
        assert default_workers() == expected


# Batches


@pytest.mark.parametrize("drop_last, sizes", [(False, [64, 64, 64, 58]), (True, [64, 64, 64])])
def test_batches_give_each_image_once_with_its_label(drop_last, sizes):
    images = random_set(250)
    batches = Batches(images, 64, drop_last=drop_last)
    orders = []
    for _ in range(2):
        epoch = list(batches)
        assert [len(y) for _, y in epoch] == sizes and len(batches) == len(sizes)
        x, y = (torch.cat(parts) for parts in zip(*epoch, strict=True))
        assert x.dtype == torch.float32 and y.dtype == torch.int64
        orders.append(identify(x))
        assert len(set(orders[-1])) == sum(sizes)
        assert y.tolist() == images.labels[orders[-1]].tolist()
    assert orders[0] != orders[1]
    assert identify(epoch_of(Batches(images, 64, shuffle=False))) == list(range(250))


@pytest.mark.parametrize("flip", [0.5, "alternating"])
def test_batches_are_a_new_epoch_each_pass_and_the_seed_repeats_all(flip):
    def run(seed, epochs=3):
        batches = Batches(coded_set(240), 50, BatchAugment(*RAW, flip=flip), seed=seed)
        return [epoch_of(batches) for _ in range(epochs)]

    epochs = run(0)
    assert distinct(torch.cat(epochs)) >= 710
    assert all(torch.equal(a, b) for a, b in zip(epochs, run(0), strict=True))
    assert distinct(torch.cat(epochs + run(1))) >= 1420
    jumped = Batches(coded_set(240), 50, BatchAugment(*RAW, flip=flip), seed=0)
    jumped.set_epoch(2)
    assert torch.equal(epoch_of(jumped), epochs[2])
    assert jumped.epoch == 3


def test_batches_touch_neither_the_images_nor_global_random_state():
    images, state = random_set(50), torch.get_rng_state()
    before = images.images.copy()
    images.images.flags.writeable = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            epoch_of(Batches(images, 20, BatchAugment(MEAN, STD)))
    finally:
        RANDOM.flags.writeable = True
    assert (images.images == before).all() and torch.equal(torch.get_rng_state(), state)


def test_alternating_flips_turn_the_image_not_the_place_in_the_batch():
    """Shuffled and augmented, each image is seen the other way round in the next epoch."""
    images = coded_set(240)
    images.labels = np.arange(240)  # the label says which image it is
    seen = torch.full((2, 3, 240), -1)
    for seed in range(2):
        batches = Batches(images, 50, BatchAugment(*RAW, flip="alternating"), seed=seed)
        for epoch in range(3):
            for x, y in batches:
                seen[seed, epoch, y] = decode(x)[:, 2]
    assert (seen[:, 0] + seen[:, 1] == 1).all() and torch.equal(seen[:, 0], seen[:, 2])
    assert 80 < seen[0, 0].sum() < 160 and not torch.equal(seen[0], seen[1])


def test_alternating_flip_needs_to_know_the_epoch():
    with pytest.raises(ValueError, match="Batches"):
        BatchAugment(MEAN, STD, flip="alternating")(torch.from_numpy(RANDOM), torch.Generator())


def test_shards_make_up_the_whole_batch():
    def run(shard):
        return list(Batches(random_set(101), 20, BatchAugment(MEAN, STD), shard=shard))

    for (x, y), *parts in zip(run((0, 1)), run((0, 2)), run((1, 2)), strict=True):
        for rank, (part_x, part_y) in enumerate(parts):
            assert torch.equal(part_x, x[rank::2]) and torch.equal(part_y, y[rank::2])


@pytest.mark.parametrize("count, size, drop_last", [(10, 20, True), (0, 20, False), (10, 0, False)])
def test_batches_without_a_batch_are_an_error(count, size, drop_last):
    images = random_set(20).subset(np.arange(count))
    with pytest.raises(ValueError, match=f"{count} images, batch_size {size}"):
        Batches(images, size, drop_last=drop_last)


def test_batches_move_with_the_device():
    """The meta device computes shapes only: it shows that all parts are put where they belong."""
    if not torch.cuda.is_available():
        there = torch.from_numpy(RANDOM).to("meta")
        assert BatchAugment(MEAN, STD)(there, torch.Generator()).device.type == "meta"
        batches = Batches(random_set(50), 20, BatchAugment(MEAN, STD), device="meta")
        assert [(x.device.type, *x.shape) for x, _ in batches] == [
            ("meta", 20, 3, 32, 32), ("meta", 20, 3, 32, 32), ("meta", 10, 3, 32, 32),
        ]  # fmt: skip
        return
    there, here = (
        Batches(random_set(50), 20, BatchAugment(MEAN, STD), device=d) for d in ("cuda", "cpu")
    )
    for (x, y), (x_here, y_here) in zip(there, here, strict=True):
        assert x.is_cuda and torch.equal(y.cpu(), y_here)
        torch.testing.assert_close(x.cpu(), x_here, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"pad": 32}, {"pad": 1.5}, {"cutout": -1}, {"flip": 1.5}, {"flip": "often"}]
)
def test_ranges_are_checked_by_both(wrong):
    for make in (BatchAugment, train_transform):
        with pytest.raises(ValueError, match="expected whole pixels, 0 <= pad < 32"):
            make(MEAN, STD, **wrong)


def test_a_channel_without_spread_cannot_be_divided_by_it():
    for make in (BatchAugment, train_transform):
        with pytest.raises(ValueError, match=r"std \(0.2, 0.0, 0.3\): expected three numbers"):
            make(MEAN, (0.2, 0.0, 0.3))
        for mean, std in ((MEAN[:2], STD), (MEAN, STD[:2]), ((*MEAN, 0.5), (*STD, 0.2))):
            with pytest.raises(ValueError, match="expected three numbers each, for red, green"):
                make(mean, std)


def test_seeds_and_shards_are_whole_numbers_that_fit():
    images = random_set(10)
    loaders = [
        image_loader(images, train_transform(MEAN, STD), 10, seed=seed) for seed in (3, np.int64(3))
    ]
    assert torch.equal(*(next(iter(loader))[0] for loader in loaders))
    for wrong in ({"seed": -1}, {"shard": (2, 2)}, {"shard": (-1, 2)}):
        with pytest.raises(ValueError, match="expected a seed, 0 or more, and of n ranks"):
            Batches(images, 5, **wrong)


def test_what_lesson_01_says_of_luck_in_4000_draws():
    """Extremes of 81 counts lie two to three deviations off; the most hidden pixel 1 to 2 points
    above the middle's 64 of 625."""
    draw = BatchAugment((0.5,) * 3, (0.2,) * 3).draw
    off, above = [], []
    for seed in range(40):
        top, left, _, row, column = draw(4000, torch.Generator().manual_seed(seed)).T.numpy()
        counts = np.bincount(9 * top + left, minlength=81)
        off += [(counts.max() - 4000 / 81) / 7, (4000 / 81 - counts.min()) / 7]
        hidden = np.zeros((32, 32))
        for a, b in zip(row, column, strict=True):
            hidden[a : a + 8, b : b + 8] += 1 / 4000
        above.append(100 * (hidden.max() - 64 / 625))
    assert 2 < np.median(off) < 3
    assert 1 < np.median(above) < 2 and np.mean([0.9 < points < 2.2 for points in above]) > 0.8
