"""The checks of lesson 01: what is right, what is wrong, and what it likely comes from."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch

from helpers.exercises.judging import (
    Wrong,
    array,
    close,
    exercise,
    need_shape,
    number,
    two,
    unchanged,
)

check_count_versions = number(  # of draws of pad 4, crop 32, flip, and a whole 8x8 hole
    9**2 * 2 * 25**2,
    "9 * 9 crops, 2 directions, 25 * 25 holes: 101,250 versions of every image.",
    "Count crops, flips and holes; then multiply.",
    {
        9**2 * 25**2: "Each may be mirrored or not, which doubles that.",
        8**2 * 2 * 24**2: "The first and the last place both count: 40 - 32 + 1 places.",
        8**2 * 2 * 25**2: "Crops: 0 to 8 are nine places, not eight.",
        9**2 * 2 * 24**2: "Holes: 0 to 24 are 25 places, not 24.",
        9**2 * 2 * 32**2: "The hole lies wholly inside: it cannot begin at the last pixel.",
        9 * 2 * 25: "Crop and hole move down and across independently: square both counts.",
        9 * 2 * 25**2: "The crop moves down and across independently: square its 9 as well.",
        9**2 * 2 * 25: "The hole moves down and across independently: square its 25 as well.",
        9**2 + 2 + 25**2: "Each crop goes with each flip and each hole: multiply, not add.",
    },
)


@exercise
def check_statistics(function: Callable) -> str:
    """Mean and std per channel of images that differ in brightness."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 100, (6, 4, 5, 3)) + rng.integers(0, 150, (6, 1, 1, 3))
    mean, std = map(array, two(function(images.astype(np.uint8)), "mean, std"))
    values = images.reshape(-1, 3) / 255
    need_shape(mean, (3,), "one mean for each channel is wanted.")
    need_shape(std, (3,), "one std for each channel is wanted.")
    if not close(mean, values.mean(0)) and np.allclose(mean, values.mean(0), atol=1e-3):
        raise Wrong("Nearly: leave the numbers unrounded, and compute with 32 bits or more.")
    if close(mean, 255 * values.mean(0)):
        raise Wrong("These are in 0..255: divide the values by 255 first.")
    if not close(mean, values.mean(0)):
        raise Wrong(f"The means are {mean.round(3)}, not {values.mean(0).round(3)}.")
    if close(std, values.var(0)):
        raise Wrong("That is the variance; the standard deviation is its root.")
    if close(std, (images / 255).std((1, 2)).mean(0)):
        raise Wrong("That is the mean of the images' own stds: the spread between them is lost.")
    if close(std, values.std(0, ddof=1)):
        raise Wrong("That divides by the count minus 1, as torch.std does; numpy's std does not.")
    if close(std, 255 * values.std(0)):
        raise Wrong("The means are right, the stds are in 0..255: divide by 255 for both.")
    if not close(std, values.std(0)):
        raise Wrong(f"The stds are {std.round(3)}, not {values.std(0).round(3)}.")
    return "Mean and std over all pixels of all images, the spread between images included."


@exercise
def check_normalise(function: Callable) -> str:
    """(value / 255 - mean) / std, channels first."""
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    images = torch.randint(20, 200, (2, 32, 32, 3), generator=torch.Generator().manual_seed(0))
    x = function(images.to(torch.uint8), mean, std)
    if isinstance(x, list | tuple):
        raise Wrong("Return one tensor, and not several: torch.stack makes one of many.")
    x = torch.as_tensor(x)
    z = (images / 255 - torch.tensor(mean)) / torch.tensor(std)
    unscaled = (images - torch.tensor(mean)) / torch.tensor(std)
    m, s = (torch.tensor(values)[:, None, None] for values in (mean, std))
    reshaped = z.reshape(2, 3, 32, 32), (images.reshape(2, 3, 32, 32) / 255 - m) / s
    right = z.permute(0, 3, 1, 2)
    need_shape(x, (2, 3, 32, 32), "the images stay in front, each with its channels first.")
    if any(close(x, mixed) for mixed in reshaped):
        raise Wrong("reshape keeps the order of the values and mixes up the axes: use permute.")
    if close(x, unscaled.permute(0, 3, 1, 2)):
        raise Wrong("mean and std belong to values in 0..1: divide by 255 first.")
    if close(x, right.transpose(2, 3)):
        raise Wrong("Rows and columns are swapped: permute(0, 3, 1, 2) leaves them in order.")
    if not close(x, right):
        at = np.unravel_index(int((x - right).abs().argmax()), x.shape)
        image, channel, row, column = map(int, at)
        byte = images[image, row, column, channel]
        of = f"byte {byte}, mean {mean[channel]}, std {std[channel]}"
        raise Wrong(f"[{image}, {channel}, {row}, {column}] ({of}) gives {x[at]:.4f}, not "
                    f"{right[at]:.4f}.")  # fmt: skip
    if x.dtype != torch.float32:
        raise Wrong(f"The values are right, but of type {x.dtype}; the net takes float32.")
    return "Scaled, shifted, and each colour in a plane of its own."


@exercise
def check_cut_out(function: Callable) -> str:
    """A square of zeros in each image, the input left as it was."""
    given = np.random.default_rng(0).integers(4, 32, (3, 32, 32, 3)) / 4  # exact in 16 bits, too
    tops, lefts = np.array([0, 5, 24]), np.array([3, 24, 10])
    right, swapped = given.copy(), given.copy()
    for i, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        right[i, top : top + 8, left : left + 8] = 0
        swapped[i, left : left + 8, top : top + 8] = 0
    result = array(unchanged(lambda images: function(images, tops, lefts, 8), given))
    need_shape(result, given.shape, "only values change.")
    holes = (result == 0).all(3).sum((1, 2))
    if ((result != given).any(3).sum((1, 2)) == 64).all() and (holes < 64).any():
        raise Wrong("The squares have the right size, but are not 0 in all three channels.")
    if ((result != given) & (result != 0)).any():
        raise Wrong("Values outside the squares have changed, too: they must stay as they are.")
    around = given[1].copy()
    around[1:9, 20:28] = 0
    if np.array_equal(result[1], around):
        raise Wrong("The squares lie around tops[i], lefts[i]: that is where they should begin.")
    if not (holes == 64).all():
        hint = "slice rows and columns of one image; channels come last."
        raise Wrong(f"{holes.tolist()} hidden pixels in the images, not 64 in each: {hint}")
    if len({(image == 0).tobytes() for image in result}) == 1:
        raise Wrong("All images have the same hole: image i has its own, at tops[i], lefts[i].")
    if np.array_equal(result, swapped):
        raise Wrong("The squares lie at lefts[i], tops[i]: rows come before columns.")
    if not np.array_equal(result, right):
        raise Wrong("The squares have the right size but do not begin at tops[i], lefts[i].")
    if not ((array(function(given, tops, lefts, 5)) == 0).all(3).sum((1, 2)) == 25).all():
        raise Wrong("Squares of 5x5 should hide 25 pixels: use `size`, not a number of your own.")
    return "One square in each image, and the training set is unharmed."


@exercise
def check_mended_steps(function: Callable) -> str:
    """Steps that move a 32x32 image by up to 4 pixels each way, seen on a ruler image."""
    from helpers.augment import A  # here: it takes a second to load

    ruler = np.zeros((32, 32, 3), dtype=np.uint8)
    ruler[..., 0], ruler[..., 1] = np.arange(32)[:, None], np.arange(32)[None, :]
    steps = A.Compose(function(), strict=True, seed=0)
    results = [steps(image=ruler)["image"] for _ in range(300)]
    other = "Only padding and crop are asked for, but another step"
    if any(getattr(result, "dtype", None) != np.uint8 for result in results):
        raise Wrong(f"{other} turns the bytes into other values.")
    need_shape(results[0], (32, 32, 3), "crop back to 32x32.")
    for axis, line in enumerate((np.s_[:, 16], np.s_[16])):
        if any((np.diff(result[line][:, axis].astype(int)) < 0).sum() > 20 for result in results):
            raise Wrong(f"{other} mirrors images.")
    for result in results:  # in the middle, the ruler's marks go on by one, whatever its place
        rows, columns, blue = result[12:20, 12:20].astype(int).transpose(2, 0, 1)
        straight = (rows == rows[:, :1]).all() and (columns == columns[:1]).all()
        even = (np.diff(rows[:, 0]) == 1).all() and (np.diff(columns[0]) == 1).all()
        if blue.any() or not straight or not even:
            raise Wrong(f"{other} changes the pixels.")
    shifts = np.array([result[16, 16, :2].astype(int) - 16 for result in results])
    if len(np.unique(shifts, axis=0)) == 1:
        if any(isinstance(step, A.CenterCrop) for step in steps.transforms):
            raise Wrong("No image moves: CenterCrop always takes the middle. Crop at random.")
        raise Wrong("Still no image moves. To what size must 32 pixels grow with 4 on each side?")
    for axis, low, high in zip(("down", "to the right"), shifts.min(0), shifts.max(0), strict=True):
        if (low, high) != (-4, 4):
            raise Wrong(f"The crop moves by {low} to {high} pixels {axis}, not by -4 to 4.")
    still = (shifts == 0).all(1).sum()
    if still > 30:  # 1 of 81 places, about 4 of 300
        raise Wrong(f"{still} of 300 images stay where they are: pad and crop always, not by luck.")
    return "Images move by up to 4 pixels in each direction, and come out as 32x32."


@partial(exercise, returns=False)
def check_worker_start(function: Callable) -> str:
    """Two workers in two epochs draw different numbers, and the same ones in a second run."""

    def draws(start: Callable, seed: int) -> tuple[int, ...]:
        # A data set with a generator of its own: each new worker has a fresh copy of it.
        dataset = SimpleNamespace(rng=np.random.default_rng(987654321))
        start(dataset, seed)
        return tuple(dataset.rng.integers(1000, size=8).tolist())

    state = np.random.get_state()
    try:
        first, again = [draws(function, s) for s in (11, 12, 21, 22)], draws(function, 11)
    finally:
        np.random.set_state(state)
    if set(first) == {draws(lambda dataset, seed: None, 0)}:
        raise Wrong("Nothing has changed: the copy still draws with the generator it came with.")
    if len(set(first)) == 1:
        raise Wrong("All workers still draw the same: the new generator must depend on the seed.")
    if len(set(first)) < 4:
        raise Wrong("Some workers draw the same: use the whole seed, unchanged.")
    if any(first[0][i:] == first[1][:-i] for i in range(1, 6)):
        raise Wrong("The next seed gives the same numbers, shifted: make a new generator from it.")
    if first[0] != again:
        raise Wrong("The workers differ, but a second run with the same seed draws other numbers.")
    return "Every worker and epoch draws its own numbers, and a run can be repeated."
