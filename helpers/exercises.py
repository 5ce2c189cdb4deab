"""The checks behind the exercises: what is right, what is wrong, and what it likely comes from.

A check takes the learner's answer, raises `Wrong(reason)` at the first thing that does not hold,
and returns a sentence when all does. An untouched stub is "not attempted", never an error.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from helpers.schedules import source_one_cycle


@dataclass(frozen=True)
class Verdict:
    """The answer of a check; a notebook shows it as the cell's value."""

    status: str  # "right", "wrong" or "not attempted"
    message: str

    def __repr__(self) -> str:
        mark = {"right": "Right.", "wrong": "Not yet.", "not attempted": "Not attempted."}
        return f"{mark[self.status]} {self.message}"


class Wrong(Exception):
    """What does not hold yet, and what it likely comes from."""


class Untouched(Exception):
    """The stub is as it was, which its text says."""


def exercise(check: Callable[[Any], str], returns: bool = True) -> Callable[[Any], Verdict]:
    """Turn a check into one that returns a `Verdict`.

    The learner's answer is a value (None or ... is the untouched stub) or a function (untouched
    when it returns ...). An exception inside the function is reported with its type and text.
    returns=False: a function that changes its argument and returns nothing.
    """

    @wraps(check)
    def run(answer: Any) -> Verdict:
        if answer is None or answer is ...:
            return Verdict("not attempted", "Replace the ... and run the cell again.")
        try:
            return Verdict("right", check(watched(answer, returns) if callable(answer) else answer))
        except Untouched as untouched:
            return Verdict("not attempted", str(untouched))
        except Wrong as reason:
            return Verdict("wrong", str(reason))
        except Exception as error:  # the learner's own code may fail in any way: say how
            if not callable(answer):
                kind = f"This answer is of another kind ({type(answer).__name__}) than asked for"
                return Verdict("wrong", f"{kind}: {error}")
            return Verdict("wrong", f"Your code raised {type(error).__name__}: {error}")

    return run


def watched(function: Callable, returns: bool = True) -> Callable:
    def call(*args):
        result = function(*args)
        if result is ...:
            raise Untouched("The function still returns ..., so nothing was checked.")
        if result is None and returns:
            raise Wrong("The function returns None: is its `return` missing?")
        return result

    return call


def judge(
    found: float, right: float, hint: str, likely: dict | None = None, rtol: float = 1e-6
) -> None:
    """Raise `Wrong` unless found is right. likely: {wrong number: what it comes from}."""
    for wrong, reason in (likely or {}).items():
        if math.isclose(found, wrong, rel_tol=rtol, abs_tol=1e-12):
            raise Wrong(reason)
    if not math.isclose(found, right, rel_tol=rtol, abs_tol=1e-12):
        raise Wrong(f"{float(found):,.6g} is not it. {hint}")


def number(
    right: float, told: str, hint: str, likely: dict[float, str], rtol: float = 1e-9
) -> Callable[[Any], Verdict]:
    """A check of one number. told: why it is right; hint and likely: see `judge`."""

    @exercise
    def check(answer: float) -> str:
        judge(answer, right, hint, likely, rtol)
        return told

    return check


def array(answer: Any) -> np.ndarray:
    """A number, array or tensor as an array of doubles; a tensor's may hang on a graph."""
    return np.asarray(answer.detach() if isinstance(answer, torch.Tensor) else answer, dtype=float)


def close(found: Any, other: Any) -> bool:
    """Whether two of what `array` takes agree but for rounding, in shape as well."""
    a, b = array(found), array(other)
    return a.shape == b.shape and np.allclose(a, b, atol=1e-5)


def two(found: Any, names: str) -> tuple:
    """The two values that a function returns; names: what they are called, as in "mean, std"."""
    try:
        first, second = found
    except (TypeError, ValueError):
        raise Wrong(f"Two values are wanted: `return {names}`.") from None
    return first, second


def need_shape(found: Any, shape: tuple[int, ...], why: str) -> None:
    if np.shape(found) != shape:
        raise Wrong(f"The shape is {tuple(np.shape(found))}, not {shape}: {why}")


# Lesson 01


check_count_versions = number(  # of draws of pad 4, crop 32, flip, and a whole 8x8 hole
    9**2 * 2 * 25**2,
    "9 * 9 crops, 2 directions, 25 * 25 holes: 101,250 versions of every image.",
    "Count crops, flips and holes; then multiply.",
    {
        9**2 * 25**2: "Mirrored or not doubles that.",
        8**2 * 2 * 24**2: "The first and the last place count both: 40 - 32 + 1 places.",
        8**2 * 2 * 25**2: "Crops: 0 to 8 are nine places, not eight.",
        9**2 * 2 * 24**2: "Holes: 0 to 24 are 25 places, not 24.",
        9**2 * 2 * 32**2: "The hole lies wholly inside: it cannot begin at the last pixel.",
        9 * 2 * 25: "Crop and hole move down and across, each by itself: square both counts.",
        9 * 2 * 25**2: "The crop moves down and across, each by itself: square its 9 as well.",
        9**2 * 2 * 25: "The hole moves down and across, each by itself: square its 25 as well.",
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
    if close(mean, 255 * values.mean(0)):
        raise Wrong("These are in 0..255: divide the values by 255 first.")
    if not close(mean, values.mean(0)):
        raise Wrong(f"The means are {mean.round(3)}, not {values.mean(0).round(3)}.")
    if close(std, values.var(0)):
        raise Wrong("That is the variance; the standard deviation is its root.")
    if close(std, (images / 255).std((1, 2)).mean(0)):
        raise Wrong("That is the mean of the images' own stds: the spread between them is lost.")
    if close(std, values.std(0, ddof=1)):
        raise Wrong("That divides by the count less one, as torch.std does; numpy's std does not.")
    if close(std, 255 * values.std(0)):
        raise Wrong("The means are right, the stds are in 0..255: divide by 255 for both.")
    if not close(std, values.std(0)):
        raise Wrong(f"The stds are {std.round(3)}, not {values.std(0).round(3)}.")
    return "Mean and std over all pixels of all images, the spread between images included."


@exercise
def check_normalise(function: Callable) -> str:
    """(value / 255 - mean) / std, channels first."""
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    images = torch.randint(256, (2, 32, 32, 3), generator=torch.Generator().manual_seed(0))
    x = torch.as_tensor(function(images.to(torch.uint8), mean, std))
    z = (images / 255 - torch.tensor(mean)) / torch.tensor(std)
    unscaled = (images - torch.tensor(mean)) / torch.tensor(std)
    m, s = (torch.tensor(values)[:, None, None] for values in (mean, std))
    reshaped = z.reshape(2, 3, 32, 32), (images.reshape(2, 3, 32, 32) / 255 - m) / s
    right = z.permute(0, 3, 1, 2)
    need_shape(x, (2, 3, 32, 32), "channels come first.")
    if any(close(x, mixed) for mixed in reshaped):
        raise Wrong("reshape keeps the order of the values and mixes up the axes: use permute.")
    if close(x, unscaled.permute(0, 3, 1, 2)):
        raise Wrong("mean and std belong to values in 0..1: divide by 255 first.")
    if close(x, right.transpose(2, 3)):
        raise Wrong("Rows and columns are swapped: permute(0, 3, 1, 2) leaves them in order.")
    if not close(x, right):
        at = np.unravel_index((x - right).abs().argmax(), x.shape)
        place = ", ".join(map(str, at))
        raise Wrong(f"The value at [{place}] is {x[at]:.4f}, not {right[at]:.4f}.")
    if x.dtype != torch.float32:
        raise Wrong(f"The values are right, but {x.dtype}; the net takes float32.")
    return "Scaled, shifted, and each colour in a plane of its own."


@exercise
def check_cut_out(function: Callable) -> str:
    """A square of zeros in each image, the input left as it was."""
    given = np.random.default_rng(0).uniform(1, 2, (3, 32, 32, 3))
    tops, lefts = np.array([0, 5, 24]), np.array([3, 24, 10])
    before, right = given.copy(), given.copy()
    for image, top, left in zip(right, tops, lefts, strict=True):
        image[top : top + 8, left : left + 8] = 0
    result = array(function(given, tops, lefts, 8))
    if not np.array_equal(given, before):
        raise Wrong("The images you were given have changed: work on a copy.")
    need_shape(result, given.shape, "only values change.")
    holes = (result == 0).all(3).sum((1, 2))
    if ((result != given).any(3).sum((1, 2)) == 64).all() and (holes < 64).any():
        raise Wrong("The squares have the right size, but are not 0 in all three channels.")
    around = given[1].copy()
    around[1:9, 20:28] = 0
    if np.array_equal(result[1], around):
        raise Wrong("The squares lie around tops[i], lefts[i]: that is where they should begin.")
    if not (holes == 64).all():
        hint = "slice rows and columns of one image; channels come last."
        raise Wrong(f"{holes.tolist()} hidden pixels in the images, not 64 in each: {hint}")
    if len({(image == 0).tobytes() for image in result}) == 1:
        raise Wrong("All images have the same hole: image i has its own, at tops[i], lefts[i].")
    if not np.array_equal(result, right):
        raise Wrong("The squares have the right size but lie elsewhere: rows come before columns.")
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
    need_shape(results[0], (32, 32, 3), "crop back to 32x32.")
    if any((np.diff(result[16, :, 1].astype(int)) < 0).sum() > 20 for result in results):
        raise Wrong("Some images are mirrored: here only padding and crop are asked for.")
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
        raise Wrong("Some workers draw the same: use the seed as it is, all of it.")
    if first[0][1:] == first[1][:-1]:
        raise Wrong("The next seed has the same numbers one place on: make a generator of its own.")
    if first[0] != again:
        raise Wrong("The workers differ, but a second run with the same seed draws other numbers.")
    return "Every worker and epoch draws its own numbers, and a run can be repeated."


# Lesson 02


check_conv_parameters = number(  # of a 5x5 convolution, 32 -> 48 channels, with bias
    5 * 5 * 32 * 48 + 48,
    "38,400 weights and 48 biases.",
    "Kernel height x width x inputs x outputs, then the bias.",
    {
        5 * 5 * 32 * 48: "That is without the biases: there is one for each output channel.",
        5 * 5 * 48 + 48: "Each output channel has a kernel for every input channel, not just one.",
        5 * 5 * 32 * 48 + 32: "There is one bias for each *output* channel, 48 in all.",
        5 * 5 * 33 * 48: "There is one bias for an output channel, not for each of its weights.",
        5 * 5 * 32 * 48 + 32 * 48: "An output channel has one bias, not one for each input.",
        5 * 32 * 48: "A 5x5 kernel has 25 weights, not 5.",
        5 * 32 * 48 + 48: "A 5x5 kernel has 25 weights, not 5.",
    },
)


@exercise
def check_receptive_field(function: Callable) -> str:
    """(size, jump) behind layers (kernel, stride, padding, dilation)."""
    conv, halve, strided, dilated = (3, 1, 1, 1), (2, 2, 0, 1), (3, 2, 1, 1), (3, 1, 2, 2)
    covers = "a dilated kernel covers dilation * (k - 1) + 1"
    for name, layers, right, rule in [
        ("one 3x3 convolution", [conv], (3, 1), "1 + (k - 1) * jump; stride 1 keeps the jump"),
        ("two 3x3 convolutions", [conv, conv], (5, 1), "each adds 2; padding adds nothing"),
        ("stride 2, then 3x3", [halve, conv], (6, 2), "a stride counts in the layers behind it"),
        ("two strides of 2", [strided, strided], (7, 4), "jumps multiply, they do not add"),
        ("dilation 2", [dilated], (5, 1), covers),
        ("5x5 with dilation 2", [(5, 1, 4, 2)], (9, 1), covers),
        ("stride 2, then dilation 2", [halve, dilated], (10, 2), "all of it counts times the jump"),
    ]:
        found = two(function(layers), "size, jump")
        if found != right:
            raise Wrong(f"{name}: expected (size, jump) = {right}, got {found}. Rule: {rule}.")
    return "Strides, padding and dilation all count as they should."


@exercise
def check_residual_stage(stage: type) -> str:
    """Two 3x3 convolutions beside a 1x1, each with batch norm; no ReLU after the sum."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 8, 8)
    for stride, size in ((1, 8), (2, 4)):
        module = stage(4, 6, stride)
        out = watched(module)(x)
        why = f"at stride {stride}. Padding of the 3x3 convolutions, or the stride of one path?"
        need_shape(out, (2, 6, size, size), why)
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    kernels = sorted(conv.kernel_size[0] for conv in convs)
    if kernels != [1, 3, 3]:
        raise Wrong(f"Expected two 3x3 convolutions and one 1x1, found kernels {kernels}.")
    if any(conv.bias is not None for conv in convs):
        raise Wrong("A convolution has a bias: the batch norm behind it subtracts it again.")
    called, behind = [], {}  # convolutions in order, and the batch norm that takes their output

    def note(layer, inputs, output):
        if isinstance(layer, nn.Conv2d):
            called.append((layer, output))
        for conv, made in called:
            if inputs[0] is made:
                behind[conv] = layer

    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    out = module.eval()(x)  # with fixed statistics the norms do the same again
    for hook in hooks:
        hook.remove()
    if len(called) != 3:
        raise Wrong(f"Of three convolutions {len(called)} are called: both paths are needed.")
    strides = [conv.stride[0] for conv, _ in called if conv.kernel_size == (3, 3)]
    if strides != [2, 1]:
        raise Wrong("The stride belongs to the first 3x3 convolution: the second keeps the size.")
    if len(set(behind.values())) != 3:
        raise Wrong("Each convolution wants a batch norm of its own, right behind it.")
    (first, second), (short,) = (
        [lambda x, conv=conv: behind[conv](conv(x)) for conv, _ in called if conv.kernel_size == k]
        for k in ((3, 3), (1, 1))
    )
    main, shortcut = second(F.relu(first(x))), short(x)
    likely = {
        "There is a ReLU after the sum, which this stage lacks.": F.relu(main + shortcut),
        "There is a ReLU at the end of the main path: sum first.": F.relu(main) + shortcut,
        "There is a ReLU on the shortcut: it only adjusts the shape.": main + F.relu(shortcut),
        "There is no ReLU on the main path, so both convolutions act as a single one.": (
            second(first(x)) + shortcut
        ),
        "The shortcut is computed, but not added.": main,
    }
    for reason, wrong in likely.items():
        if close(out, wrong):
            raise Wrong(reason)
    if not close(out, main + shortcut):
        raise Wrong("The layers are right. Their output is main + shortcut, and one ReLU inside.")
    return "Shapes, layers and the sum are right."


@exercise
def check_mended_counter(counter: Callable) -> str:
    """The source's counter of layers (branch, kernel, stride), with the shortcuts left out."""
    conv, pool = ("main", 3, 1), ("main", 2, 2)
    residual = [conv, pool, conv, conv, ("shortcut", 1, 2)]
    net = [conv, *residual, conv, pool, *residual]
    if np.ndim(counter([conv])) != 0:
        raise Wrong("Return one number, the size.")
    if counter([conv, pool, conv]) != 8:
        raise Wrong("A net without shortcuts has changed too: 3x3, pool 2, 3x3 must give 8.")
    likely = {114: "Still 114: a shortcut's stride still changes the jump of the main path."}
    judge(counter(net), 64, "DavidNet has 64: leave out exactly the shortcut's layers.", likely)
    if counter([conv, ("main", 1, 2), conv]) != 7:
        raise Wrong("A 1x1 of the main path counts as well: ask for the branch, not the kernel.")
    if counter(net) != 64:
        raise Wrong("A second call gives another number: something is kept between the calls.")
    return "64, and the same at every call."


# Lesson 03


check_sweep_lr = number(  # of step 60 of an exponential sweep of 101 steps, from 0.0001 to 10
    0.1,
    "60 of 100 gaps are 0.6 of five decades, three decades: 0.0001 * 10**3 = 0.1.",
    "From 0.0001 to 10 are five decades. Go 60/100 of that way.",
    {
        0.6 * (10 - 1e-4) + 1e-4: "That is linear. An exponential sweep multiplies at each step.",
        1e-4 * 1e5 ** (60 / 101): "101 steps have 100 gaps between them: divide by steps - 1.",
        1e5**0.6: "That is how many times larger than the first LR it is: multiply by 0.0001.",
    },
    rtol=1e-3,
)


@exercise
def check_smallest_every(function: Callable) -> str:
    """The smallest number of steps between evaluations that keeps the cost within twice."""
    likely = {
        30: "A training step of 64 images costs 3 * 64 forward passes, not 64.",
        11: "1,920 = 10 * 3 * 64 exactly: every 10 steps is still within twice the cost.",
    }
    hint = "`every` steps cost every * 3 * 64 in training; the evaluation, 1,920, may cost as much."
    judge(function(1920, 64), 10, hint, likely)
    if function(2000, 64) == 10:
        raise Wrong("2,000 images, batch 64: 10 steps cost 1,920, too little by 80. Round up.")
    if (function(2000, 64), function(5000, 128), function(100, 64)) != (11, 14, 1):
        raise Wrong("2,000 and 64 give 11, 5,000 and 128 give 14, 100 and 64 give 1: a whole step.")
    return "Rounded up, and never below 1."


@exercise
def check_my_steep(function: Callable) -> str:
    """The LR where a loss falls fastest against log lr, on curves whose answer is known."""
    lr = 1e-4 * 10 ** np.linspace(0, 5, 101)
    loss = 2.3 - 1.5 / (1 + (lr / 0.0098) ** -2.0) + (np.maximum(np.log10(lr), 0) * 4) ** 2
    found = function(lr, loss)
    if np.ndim(found) != 0:
        raise Wrong("Return one number, the LR of one step, not an array.")
    rise, against_lr = np.gradient(loss), np.gradient(loss, lr)
    likely = {
        40: "That is the index of the step: return the LR there, lr[i].",
        lr[loss.argmin()]: "There the loss is lowest: its slope is zero, not steepest.",
        lr[rise.argmax()]: "There the loss rises fastest. A fall has a negative slope.",
        lr[against_lr.argmin()]: "That slope is against lr. On a log axis take it against log lr.",
    }
    between = "np.diff gives the slope between two steps; np.gradient gives it at a step."
    likely |= {lr[39]: between, (lr[39] + lr[40]) / 2: between, (lr[39] * lr[40]) ** 0.5: between}
    judge(found, lr[40], f"The fall is fastest at {lr[40]:.3g}.", likely)
    uneven = np.concatenate([lr[:44], lr[44::4]])  # steps that are four times as far apart
    # steepest just above step 40: the slope to the step before gives 40, that to the next one 41
    curve = 2.3 - 1.5 / (1 + (uneven / 0.0102) ** -2.0)
    hint = "Where steps lie unevenly it fails: give np.gradient the positions, log lr."
    judge(function(uneven, curve), uneven[40], hint, {uneven[41]: "One step late: " + between})
    return "The steepest fall against log lr, also where steps lie unevenly."


@exercise
def check_centred(function: Callable) -> str:
    """The mean over `reach` steps to both sides; at the ends of fewer, on both sides equally."""
    line = np.arange(9.0)
    smooth, spike = (array(function(v, 2)) for v in (line, np.eye(9)[4]))
    need_shape(smooth, (9,), "9 values go in: one smoothed value for each step.")
    if np.array_equal(spike, np.eye(9)[4]):
        raise Wrong("Nothing is smoothed: a spike at step 4 comes back as it went in.")
    if spike[:4].sum() == 0 and spike[5:].sum() > 0:
        raise Wrong("Each mean looks back only, so what happens at step 4 shows later: it lags.")
    if not close([spike[2:7].sum(), spike[4]], [1, 0.2]):
        raise Wrong("A spike at step 4 should become 0.2 at steps 2 to 6: five values, 1/5 each.")
    if smooth[-1] < 7:
        raise Wrong(
            "The end sinks: values that do not exist are made up there, as zeros or mirrored."
        )
    if not close(smooth, line):
        raise Wrong("A straight line bends at its ends: shrink the window on both sides equally.")
    given = np.random.default_rng(0).random(9)
    for reach in (1, 3):
        sides = [min(reach, i, 8 - i) for i in range(9)]
        right = [given[i - r : i + r + 1].mean() for i, r in enumerate(sides)]
        if not close(function(given, reach), right):
            hint = "at step i, min(reach, i, n - 1 - i) values on each side."
            raise Wrong(f"With reach {reach} it goes wrong on a curve that is not straight: {hint}")
    return "No lag, and a straight line stays straight to its ends."


@exercise
def check_divided_rules(answer: set[str]) -> str:
    """The rules that can say something else when every loss is divided by 512."""
    stay = {
        "accuracy": "The accuracy rule never looks at the loss.",
        "minimum": "The lowest of all losses stays the lowest, whatever all are divided by.",
        "steep": "All slopes shrink alike: the steepest one stays where it is.",
        "valley": "Falling stays falling: the longest falling run begins and ends as before.",
    }
    found = {answer} if isinstance(answer, str) else set(answer)
    if unknown := found - {"slide", *stay}:
        raise Wrong(f"{sorted(unknown)} is no rule. The rules: {', '.join(sorted(stay))}, slide.")
    if "slide" not in found:
        raise Wrong("One rule compares slopes with a fixed threshold, and slopes shrink as well.")
    for rule, reason in stay.items():
        if rule in found:
            raise Wrong(reason)
    return "Only slide has a threshold in units of the loss. All others ask what is largest."


# Lesson 04


check_triangular_step = number(  # the LR at step 21 of base 0.1, peak 0.5, half cycle 8
    0.35,
    "Step 21 is the fifth after the start of the second cycle: 0.1 + 0.4 * 5/8 = 0.35.",
    "How far into its cycle of 16 steps is step 21? Each step upwards adds (0.5 - 0.1) / 8.",
    {
        0.25: "The height above the base without the base (or step 21 of a way down): add the "
        "0.1, and see which way the cycle goes at step 21.",
        0.3: "That is step 20 (or 28). Steps count from 0: the second cycle begins at step 16.",
        0.4: "That is step 22 (or 26). Steps count from 0: the second cycle begins at step 16.",
    },
    rtol=1e-3,
)


@exercise
def check_triangular(function: Callable) -> str:
    """A triangular policy of one's own, in several cycles and with a fractional half cycle."""
    for t, half, right, rule in [
        (0, 4, 0.1, "it begins at the base"),
        (4, 4, 0.5, "after a half cycle it stands at the peak"),
        (6, 4, 0.3, "after the peak it comes down in as many steps as it went up"),
        (11, 4, 0.4, "in the second cycle: the triangle repeats every 2 * half_cycle steps"),
        (19, 4, 0.4, "in the third cycle: remainders (%) know no last cycle"),
        (7, 2.25, 0.1 + 0.4 * 8 / 9, "is a whole number (int, //) assumed?"),
    ]:
        hint = f"half_cycle {half}, step {t}: expected {right:.4g}; {rule}"
        judge(function(t, 0.1, 0.5, half), right, hint)
    return "Base, peak, descent, the second cycle and a fractional half cycle are all right."


@exercise
def check_peak_is_met(pct_start: float) -> str:
    """A pct_start in 0.25..0.35 with which a step of 2,808 meets the peak of the one-cycle."""
    pct_start = float(pct_start)
    if not 0 <= pct_start <= 1:
        raise Wrong(f"pct_start is a share of the steps, 0 to 1, but this is {pct_start:g}.")
    if not 0.25 <= pct_start <= 0.35:
        raise Wrong(f"{pct_start:g} changes the shape too much: stay between 0.25 and 0.35.")
    place = pct_start * 2808 - 1
    if 1e-6 < abs(place - round(place)) < 0.02:
        raise Wrong(f"Nearly: {round(place) + 1} / 2808, rounded. Give the fraction itself.")
    if abs(place - round(place)) >= 0.02:
        raise Wrong(f"Now the peak stands at step {place:.4f}: between two steps, none meets it.")
    return f"The peak stands at step {round(place)}, and that step meets it."


@exercise
def check_lambda_factor(factor: Callable) -> str:
    """What LambdaLR must multiply 0.0944 by, so that the LRs of the 2020 run come out."""
    lrs = np.array([0.0944 * factor(epoch) for epoch in range(24)])
    right = np.array([source_one_cycle(epoch) for epoch in range(24)])
    if close(lrs, 0.0944 * right):
        raise Wrong("These are finished rates, and LambdaLR multiplies them by 0.0944 once more.")
    if close(lrs, 0.2 * right):
        raise Wrong(
            "The peak comes out as 0.0944, not 0.472: divide by what LambdaLR multiplies, 0.0944."
        )
    for epoch in range(24):
        if not math.isclose(lrs[epoch], right[epoch], rel_tol=1e-6):
            yours = f"0.0944 * factor({epoch}) is {lrs[epoch]:.4f}"
            raise Wrong(f"{yours}, but epoch {epoch} of 2020 had {right[epoch]:.4f}.")
    return "All 24 learning rates of the 2020 run come out of LambdaLR."


check_cut_budget = number(  # the LR of the 24-epoch course schedule, peak 0.4, after 12 epochs
    0.4 * 12 / 19,
    "0.4 * 12/19 = 0.2526: the net was never annealed. Compress a schedule, do not cut it.",
    "The fall takes 19 epochs, from 0.4 to 0. Twelve are to come.",
    {
        0: "0 is where a schedule compressed to 12 epochs ends. This one was cut off.",
        0.2: "Half of the peak would be half of the fall, but the fall begins at epoch 5.",
    },
    rtol=2e-3,
)


@exercise
def check_annealing(function: Callable) -> str:
    """Half a cosine wave from the peak at step `first` to the end at step `last`."""
    begin, quarter, middle, end = (function(t, 10, 30, 0.4, 0.02) for t in (10, 15, 20, 30))
    likely = {
        0.02: "It begins at the end and runs upwards: turn the wave round.",
        0.42: "It begins at peak + end: scale the wave to peak - end.",
    }
    judge(begin, 0.4, "Step `first` gives the peak, 0.4: the share there must be 0.", likely)
    likely = {0: "The LR ends at 0, not at `end`: scale the wave to peak - end, and add `end`."}
    hint = "Step `last` gives 0.02: the share is 1 after last - first steps, not after one more."
    judge(end, 0.02, hint, likely)
    judge(middle, 0.21, "Half way the LR is the mean of peak and end, 0.21.")
    likely = {0.305: "That is a straight line. A cosine is still near the peak after a quarter."}
    hint = "Begin, middle and end are right; a quarter of the way does not fit a cosine."
    judge(quarter, 0.02 + 0.19 * (1 + math.sqrt(0.5)), hint, likely)
    return "Begin, middle, end and the curve between them are right."


# Lesson 05


check_initial_loss = number(  # of an untrained net with 100 classes, in nats
    math.log(100),
    "ln(100) = 4.605 nats: twice as much as for ten classes, as 100 = 10 * 10.",
    "An untrained net gives each of the 100 classes 1/100. -ln of it?",
    {
        math.log(10): "2.30 is the natural logarithm of 10: right for ten classes, here are 100.",
        2: "2 is log10(100). The cross-entropy takes the natural logarithm.",
        0.01: "0.01 is the probability it gives each class. The loss is -ln of that.",
        -math.log(100): "ln(1/100) is negative, but the loss is minus that logarithm.",
    },
    rtol=1e-2,
)


check_run_length = number(  # steps on 45,000 images: whole batches of 512, 24 epochs
    24 * 87,
    "87 whole batches an epoch, 2,088 steps, and the LR of the last of them is exactly 0.",
    "How many whole batches of 512 are in 45,000 images? Times 24.",
    {
        24 * 88: "88 counts the last batch of 456 images; drop_last=True leaves it out.",
        24 * 98: "That is for all 50,000 images; 5,000 of them are held out.",
        24 * 97: "That is for all 50,000 images; 5,000 of them are held out.",
        87: "87 is one epoch. The run has 24.",
    },
)


@exercise
def check_average_loss(function: Callable) -> str:
    """The loss per image from batch means (nats) and batch sizes; the stub is the 2020 version."""
    found = float(function([2.0, 1.0, 4.0], [500, 500, 100]))
    if math.isclose(found, 7 / 1100):
        raise Untouched("This is still the version of 2020: it divides by the images twice over.")
    likely = {
        7 / 3: "That is the mean of the batch means: the last batch's 100 images weigh as much as "
        "500 others. Weight each mean by its batch's size.",
        1900: "1,900 is the loss summed over all 1,100 images. Divide by their number.",
    }
    hint = "The sum over all images is 2*500 + 1*500 + 4*100 = 1,900 nats."
    judge(found, 1900 / 1100, hint, likely)
    judge(float(function([1.0, 3.0], [30, 10])), 1.5, "30 images with 1, 10 with 3: 60 / 40 nats.")
    return "1,900 nats over 1,100 images: 1.727 an image, however the batches are cut."


class NotReadyMade(TorchFunctionMode):
    """Within it PyTorch's cross-entropy, under whatever name, is `Wrong`."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.cross_entropy:
            raise Wrong("F.cross_entropy is the ready-made loss: use log_softmax and the targets.")
        return function(*args, **(kwargs or {}))


@exercise
def check_smoothed_loss(function: Callable) -> str:
    """Cross-entropy with label smoothing against torch's own, on fixed logits."""
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    plain = F.cross_entropy(logits, labels)
    right = F.cross_entropy(logits, labels, label_smoothing=0.2)
    others = F.cross_entropy(logits, torch.full((6, 4), 0.2 / 3).scatter(1, labels[:, None], 0.8))
    twice = F.cross_entropy(logits, torch.full((6, 4), 0.05).scatter(1, labels[:, None], 0.8))
    with NotReadyMade():
        unsmoothed, found = (array(function(logits, labels, s)) for s in (0.0, 0.2))
    if not close(unsmoothed, plain):
        raise Wrong("With smoothing 0 it must be the ordinary cross-entropy, mean over the batch.")
    if close(found, plain):
        raise Wrong("smoothing changes nothing: the targets are still 0 and 1.")
    if close(found, 0.8 * plain):
        raise Wrong("The true class lost 0.2, but nobody got it: targets must add up to 1.")
    if close(found, twice):
        raise Wrong("The true class gets its share of the 0.2 as well, 0.8 + 0.05: all sum to 1.")
    if close(found, others):
        raise Wrong("0.2 is shared by all classes, the true one included: 0.2 / 4 each, not / 3.")
    if not close(found, right):
        raise Wrong(f"{float(found):.4f}, not {float(right):.4f}. Are these log-probabilities?")
    return "Equal to F.cross_entropy(..., label_smoothing=0.2)."


@exercise
def check_average_weights(function: Callable) -> str:
    """The exponential moving average of weights (steps, n), begun at the first."""
    weights = torch.tensor([[0.0, 8.0], [4.0, 8.0], [4.0, 0.0]])
    kept, found = weights.clone(), array(function(weights, 0.75))
    if not torch.equal(weights, kept):
        raise Wrong("The weights handed in were changed: begin with weights[0].clone().")
    need_shape(found, (2,), "one average for each of n = 2 weights is wanted.")
    if close(found, [3.75, 2.0]):
        raise Wrong("Old and new are swapped: `decay` is what is kept of the old average.")
    if close(found, weights.mean(0)):
        raise Wrong("That is the plain mean: all steps weigh the same, and decay does nothing.")
    if close(found, [1.75, 2.625]):
        raise Wrong("It seems to begin at 0: the average of constant weights would not be theirs.")
    if not close(found, [1.75, 6.0]):
        raise Wrong(f"{found.tolist()}, not [1.75, 6.0]: average = 0.75 * average + 0.25 * new")
    return "Two steps by hand agree: 0, 1, 1.75 and 8, 8, 6."


@exercise
def check_find_frozen(function: Callable) -> str:
    """Names of the parameters that an optimiser will never change."""
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    groups = [{"params": list(layer.parameters())} for layer in (net[0], net[2])]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    found = list(function(net, optimizer))
    if found == ["2.weight", "2.bias"]:
        raise Wrong("This optimiser has two groups, and both move: go through all param_groups.")
    if found:
        raise Wrong(
            "All parameters of this net are in the optimiser, yet some are reported. (state_dict() "
            "hands out other tensors than named_parameters(), with other ids.)"
        )
    net[2] = nn.Linear(3, 5)
    found = set(function(net, optimizer))
    if not all(isinstance(name, str) for name in found):
        raise Wrong("Return the names of the parameters, not the parameters.")
    if not found:
        raise Wrong(
            "The head was replaced after the optimiser was made, so the optimiser still moves the "
            "old one. Compare the tensors in optimizer.param_groups with those of the net."
        )
    if found != {"2.weight", "2.bias"}:
        raise Wrong(f"{sorted(found)}, expected the new head's ['2.bias', '2.weight'].")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net[2] = copy.deepcopy(net[2])
    if set(function(net, optimizer)) != {"2.weight", "2.bias"}:
        raise Wrong("An equal copy of the head is not in the optimiser: compare id().")
    net[0].weight.requires_grad_(False)
    if set(function(net, optimizer)) != {"0.weight", "2.weight", "2.bias"}:
        raise Wrong("0.weight has requires_grad=False: it gets no gradient, so it stays as it is.")
    return "Both ways of freezing are found: not in the optimiser, and requires_grad=False."


@exercise
def check_sgd_step(function: Callable) -> str:
    """Steps of softmax regression by hand against torch.optim.SGD."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, 5, generator=g), torch.arange(8) % 3
    start = torch.randn(3, 5, generator=g)

    def both(momentum: float, decay: float, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The weights by the learner's function, and by torch."""
        yours, velocity = start.clone(), torch.zeros(3, 5)
        w = start.clone().requires_grad_()
        optimizer = torch.optim.SGD([w], lr=0.5, momentum=momentum, weight_decay=decay)
        for step in range(steps):
            lr = optimizer.param_groups[0]["lr"] = 0.5 / (1 + step)
            found = function(yours, velocity, x, y, lr, momentum, decay)
            yours, velocity = (torch.tensor(array(v)).float() for v in two(found, "w, velocity"))
            optimizer.zero_grad()
            F.cross_entropy(x @ w.T, y).backward()
            optimizer.step()
        return yours.detach(), w.detach()

    yours, right = both(0, 0, 1)
    if close(yours, 2 * start - right):
        raise Wrong("The loss goes up: the step has to be subtracted.")
    if close(start - 0.5 * yours, right):
        raise Wrong("That is the velocity: return w first, then the velocity.")
    if close(yours, start):
        raise Wrong("The first step moves nothing: subtract lr times the *new* velocity.")
    if not close(yours, right):
        raise Wrong(
            "Without momentum and decay the first step differs from w - lr * gradient of the mean "
            "cross-entropy. Mean over the batch, not sum? Logits x @ w.T?"
        )
    if not close(*both(0, 0.1, 1)):
        raise Wrong("Weight decay is missing or misplaced: the gradient gets weight_decay * w.")
    if not close(*both(0.9, 0, 2)):
        raise Wrong(
            "The second step differs with momentum 0.9: velocity = momentum * velocity + gradient "
            "(the whole gradient, not a tenth or lr times it); lr * new velocity is subtracted."
        )
    if not close(*both(0.9, 0.1, 3)):
        raise Wrong(
            "Each alone is right. Together: add the decay to the gradient before the momentum."
        )
    return "Three steps agree with torch.optim.SGD, with momentum and weight decay."


@exercise
def check_decide(function: Callable) -> str:
    """Which of two recipes is better, by the interval of the paired differences."""
    equal, lucky = np.full(4, 0.9), np.array([0.901, 0.910, 0.904, 0.915])
    for b, t, gaps, right, hint in (
        (equal, 3.18, (0.3, 0.1, 0.42, 0.18), "a", "Half of the interval: t * std / root of n."),
        (equal, 3.18, (-0.3, -0.1, -0.4, -0.2), "b", "Mind both directions."),
        (equal, 3.18, (2.0, -1.0, 1.5, -1.3), "undecided", "The mean drowns in the noise."),
        (equal, 3.18, (0.6, 0.1, 0.4, 0.0), "undecided", "So few pairs need the t of the call."),
        (equal, 3.18, (0.13, 0.33, 0.53, 0.13), "undecided", "t * std / root of n, with ddof=1?"),
        (equal[:3], 4.3, (0.35, 0.15, 0.4), "undecided", "These are three pairs, with their t."),
        (lucky, 3.18, (0.3, 0.1, 0.4, 0.2), "a", "A seed's luck meets both: subtract by seed."),
    ):
        found = str(
            function(b + np.array(gaps) / 100, b, t)
        )  # np.where gives an array without axes
        if found not in ("a", "b", "undecided"):
            raise Wrong(f'The function returned {found!r}: expected "a", "b" or "undecided".')
        if {found, right} == {"a", "b"}:
            hint = "The sign of the mean says which is better."
        if found != right:
            told = ", ".join(f"{gap:+g}" for gap in gaps)
            raise Wrong(f'a - b: {told} points, t = {t}: expected "{right}", not "{found}". {hint}')
    return "The mean of the gaps, plus and minus t standard deviations over the root of the count."


# Lesson 06


IMAGES = 1.96**2 * 0.0819 / 0.005**2
check_images_needed = number(  # for a 95 % interval of +-0.5 points at an accuracy of 91 %
    IMAGES,
    "About 12,600: the 10,000 images of the CIFAR-10 test set give +-0.56 points.",
    "Solve 0.005 = 1.96 * sqrt(0.91 * 0.09 / n) for n.",
    {
        1.96**2 * 0.25 / 0.005**2: "That is for 50 %, the worst case. Here p(1-p) is 0.91 * 0.09.",
        4 * IMAGES: "That is 0.5 points in all. Asked for: 0.5 to each side.",
        0.0819 / 0.005**2: "That is one standard error. 95 % needs 1.96, so 1.96**2 as many.",
        1.96**2 * 0.0819 / 0.5**2: "0.5 points are 0.005: the formula takes shares.",
        1.96 * 0.0819 / 0.005: "Square 1.96 and 0.005: both stand outside of the root.",
        2 * IMAGES: "That is for the difference of two nets. One is asked for.",
    },
    rtol=0.02,
)


@exercise
def check_confusion(function: Callable) -> str:
    """Counts by true class (rows) and predicted class (columns), on fixed labels."""
    true, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 2, 2, 1, 0, 2])
    right = np.array([[1, 0, 2, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    found = np.asarray(function(true, predicted, 4))
    need_shape(found, (4, 4), "four classes were asked for; class 3 just never occurs.")
    if np.array_equal(found, right.T):
        raise Wrong("Rows and columns are swapped: a row is a true class.")
    if np.array_equal(found, np.minimum(right, 1)):
        raise Wrong("Two images of class 0 were called 2. `m[t, p] += 1` on arrays counts one.")
    if not np.array_equal(found, right):
        raise Wrong(f"true {true.tolist()}, predicted {predicted.tolist()} gave {found.tolist()}")
    return "Rows are true classes, repeated pairs count, and a class without images keeps its row."


@exercise
def check_class_accuracy(function: Callable) -> str:
    """Per-class accuracy from a confusion matrix whose rows are true classes."""
    matrix = np.array([[8, 2, 0], [1, 3, 0], [0, 5, 1]])
    found = array(function(matrix))
    need_shape(found, (3,), "one number for each of the 3 classes is wanted.")
    if close(found, [8 / 9, 3 / 10, 1]):
        raise Wrong("Divided by columns: of what was *called* a class, which share was one. Rows!")
    if close(found, [8 / 20, 3 / 20, 1 / 20]):
        raise Wrong("Divided by all images: the classes add up to the overall accuracy. Per row!")
    right = np.array([0.8, 0.75, 1 / 6])
    if close(found, 100 * right):
        raise Wrong("Right, in per cent: return shares, 0 to 1.")
    if close(found, 1 - right):
        raise Wrong("Those are the shares that were missed: 1 minus them.")
    if not close(found, right) and np.allclose(found, right, atol=6e-3):
        raise Wrong("Rounded, it seems: return the shares as they are.")
    if not close(found, right):
        raise Wrong(f"{found.round(3).tolist()} is not it: the right ones of a row over its sum.")
    return "The diagonal over the sums of the rows."


@exercise
def check_grad_cam(function: Callable) -> str:
    """Grad-CAM from activations and gradients (B, K, h, w), on fixed random ones."""
    generator = torch.Generator().manual_seed(0)
    a, g = (torch.randn(2, 5, 4, 3, generator=generator) for _ in range(2))
    weighted = g.mean((2, 3), keepdim=True) * a
    right = F.relu(weighted.sum(1))
    found = array(function(a, g))
    need_shape(found, (2, 4, 3), "one map (h, w) an image is wanted.")
    if close(found, weighted.sum(1)):
        raise Wrong("The negative parts are still there: the ReLU is missing.")
    if close(found, F.relu(weighted).sum(1)):
        raise Wrong("The ReLU comes after the sum: channels may speak against the class.")
    if close(found, F.relu((g * a).sum(1))):
        raise Wrong("The gradients are used unit by unit: a channel's weight is their mean.")
    if close(found, 12 * right):
        raise Wrong("12 times too large: the weight is the mean over the map, not the sum.")
    if close(found, F.relu((g.mean((0, 2, 3), keepdim=True) * a).sum(1))):
        raise Wrong("The mean runs over the batch as well: each image has its own weights.")
    if close(found, right / 5):
        raise Wrong("A fifth of it: the channels are added up; only the weights are means.")
    if close(found, weighted.sum(1).abs()):
        raise Wrong("What speaks against the class is no evidence: ReLU makes it 0, abs does not.")
    if close(found, right / right.amax((1, 2), keepdim=True)) or close(found, right / right.max()):
        raise Wrong("Divided by a maximum: return the maps in logits, so that they compare.")
    if not close(found, right):
        raise Wrong("The shape is right, the values are not. Mean over h and w, weight, sum, ReLU.")
    return "Mean over the map, weighted sum of the channels, ReLU: Grad-CAM."


@exercise
def check_ece(function: Callable) -> str:
    """The expected calibration error on six predictions in two (of four) bins; one on an edge."""
    sure = np.array([0.55, 0.75, 0.95, 0.95, 0.95, 1.0])
    right = np.array([1, 1, 1, 0, 1, 0], dtype=bool)
    gaps = np.array([1 - 0.65, 0.9625 - 0.5])  # of (0.5, 0.75] and (0.75, 1]
    found = float(function(sure, right, 4))
    if math.isnan(found):
        raise Wrong("An empty bin gave nan: leave bins without images out.")
    gap, distance = abs(sure.mean() - right.mean()), abs(sure - right).mean()
    likely = {
        gaps.mean(): "Both bins weigh the same, but one has 2 images, the other 4.",
        2 / 6 * (1 - 0.625) + 4 / 6 * (0.875 - 0.5): "That takes the middle of each bin: the "
        "confidence of a bin is the mean over its images.",
        gap: "Too sure here and too modest there cancel: take |...| bin by bin.",
        distance: "That is the distance image by image: average within a bin first.",
        2 / 6 * (1 - 0.75) + 4 / 6 * (1 - 0.5): "That takes the upper edge of each bin: the mean "
        "over its images is wanted.",
        1 / 6 * 0.45 + 4 / 6 * 0.15: "1.0 fell out of the last bin, and 0.75, on an edge, into the "
        "bin above: an upper edge belongs to its bin.",
        1 / 6 * 0.45 + 5 / 6 * 0.32: "0.75 lies on an edge, and belongs to the bin below it.",
        2 / 6 * 0.35
        + 5 / 6 * 0.32: "0.75 lies on an edge and counts twice: it belongs below only.",
    }
    hint = "2/6 of |0.65 - 1| and 4/6 of |0.9625 - 0.5|."
    judge(found, gaps @ [2 / 6, 4 / 6], hint, likely, rtol=2e-4)
    hint = "Two bins: all six lie in the second. Does your function use `bins`?"
    judge(float(function(sure, right, 2)), gap, hint)
    return "Each bin's gap between confidence and accuracy, weighted by its images: 0.4250."


# Lesson 07


CONV_ADDS = 16 * 16 * 256 * 128 * 9  # multiply-adds of a 3x3 convolution, 128 -> 256, 16x16 map
check_layer_flops = number(  # FLOP to train it on one image
    6 * CONV_ADDS,
    "16 x 16 x 256 x 128 x 9 multiply-adds, x 2 x 3: 0.45 GFLOP.",
    "Outputs (16 x 16 x 256) times kernel weights, x 2 x 3.",
    {
        CONV_ADDS: "Those are the forward pass's multiply-adds: each is two operations, and the "
        "backward pass is still missing.",
        4 * CONV_ADDS: "The backward pass costs two forward passes: a step costs three.",
        2 * CONV_ADDS: "That is the forward pass alone: the backward pass costs twice as much.",
        3 * CONV_ADDS: "Forward and backward are there, but a multiply-add is two operations.",
        6 * CONV_ADDS / 9: "The 3x3 kernel is missing: each output value sums 9 x 128 products.",
    },
    rtol=1e-2,
)


check_amdahl = number(  # 90 % of the time becomes 10 times faster
    1 / 0.19,
    "1 / (0.1 + 0.9 / 10) = 5.26; without any limit on the factor it would be 10.",
    "The new time is 0.1 (untouched) + 0.9 / 10.",
    {
        10: "That part is 10 times faster, but the rest takes as long as before.",
        9: "Shares of speed-ups cannot be added or multiplied: add up the times instead.",
        0.19: "That is the new time, as a share of the old. How many times faster is that?",
    },
    rtol=1e-2,
)


@exercise
def check_ring_bytes(function: Callable) -> str:
    """Bytes that each process sends for one ring all-reduce."""
    likely = {
        2_000_000: "Half of it: a ring goes round twice, to add up and to hand the sums on.",
        1_000_000: "A parameter is not a byte: multiply by the bytes of one.",
        8_000_000: "Twice too much: a process sends pieces of 1/N, and only its own bytes count.",
    }
    judge(function(1000, 4, 1), 0, "One process sends nothing, 0 bytes.")
    hint = "{} processes, 1,000,000 {}floats: expected {:,} bytes."
    judge(function(10**6, 4, 2), 4e6, hint.format(2, "", 4_000_000), likely)
    judge(function(10**6, 2, 8), 3.5e6, hint.format(8, "half ", 3_500_000))
    return "Nearly twice the model a process, however many there are."


@exercise
def check_shard(function: Callable) -> str:
    """Indices of each rank: together each image once, another order each epoch."""
    every = lambda count, epoch: np.concatenate([function(count, r, 3, epoch) for r in range(3)])
    first, second = every(12, 0), every(12, 1)
    for joined in (first, second):
        if len(joined) != 12:
            raise Wrong(f"3 ranks have {len(joined)} of 12 images in all: each takes a third.")
        if sorted(joined) != list(range(12)):
            raise Wrong(
                "Some images come twice and others never: all ranks must shuffle with the "
                "same seed, and then take different places of that one order."
            )
    shares = [array(function(60, 0, 3, epoch)) for epoch in (0, 1)]
    if any((np.diff(share, append=share[:1]) < 0).sum() <= 1 for share in shares):
        raise Wrong("Nothing is shuffled: rank 0 has its images in the order of their numbers.")
    if (first == second).all():
        raise Wrong("Epochs 0 and 1 have the same order: the seed must depend on the epoch.")
    if sorted(every(10, 0)) != list(range(10)):
        raise Wrong("10 images, 3 ranks: not each image once. The ranks may differ by one image.")
    if [len(function(10, r, 3, 0)) for r in range(3)] not in ([4, 3, 3], [3, 4, 3], [3, 3, 4]):
        raise Wrong("10 images, 3 ranks: the shares should differ by at most one image.")
    if sorted(len(function(11, r, 3, 0)) for r in range(3)) != [3, 4, 4]:
        raise Wrong("11 images, 3 ranks: 4, 4 and 3 of them. The rest is not for one rank alone.")
    if len({frozenset(array(function(12, 0, 3, epoch)).tolist()) for epoch in range(4)}) == 1:
        raise Wrong("Rank 0 has the same images in each epoch: shuffle all, then take places.")
    return "Each image once an epoch, in an order that changes from epoch to epoch."


@exercise
def check_timing_faults(answer: dict) -> str:
    """What is wrong with each of three measurements."""
    right = {"A": "warm-up", "B": "sync", "C": "median"}
    if set(answer) != set(right) or not set(answer.values()) <= set(right.values()):
        raise Wrong('Expected {"A": ..., "B": ..., "C": ...} of "warm-up", "sync", "median".')
    hints = {
        "A": "A: look where the long one stands, and what its neighbours are.",
        "B": "B: can ten steps together take less than the end of them alone?",
        "C": "C: the long ones stand anywhere. Which summary forgets them?",
    }
    if told := [hint for name, hint in hints.items() if answer[name] != right[name]]:
        raise Wrong(" ".join(told))
    return "Warm up first, wait for the device before the clock is read, and take the median."


check_global_lr = number(  # 0.4 at batch 512; 8 GPUs of 128 images each
    0.8,
    "8 x 128 = 1,024 images a step, twice 512: 0.8.",
    "LR in proportion to the global batch.",
    {
        3.2: "That is 8 times 0.4: it would be right for 512 images on each GPU.",
        0.1: "That belongs to 128 images. One step averages over the images of all GPUs.",
        0.4: "The batch is not 512 any more: add up the images of all GPUs.",
    },
    rtol=1e-6,
)


check_training_time = number(  # seconds: 30 % of 312 TFLOP/s, 10,000 images a second
    120,
    "The GPU would need 29.5 s, and waits for the images: 1,200,000 / 10,000 = 120 s.",
    "Two times, side by side: FLOP / (share x peak), and images / (images a second).",
    {
        29.487: "That is the GPU's arithmetic alone: does the CPU deliver so fast?",
        30: "That is the GPU's arithmetic alone, rounded: does the CPU deliver so fast?",
        1.2286: "That is the GPU's arithmetic for one epoch of 24.",
        8.846: "That is at the full peak, and you expect 30 % of it.",
        149.487: "They work side by side: the slower one counts, not the sum.",
        5: "That is one epoch of 24.",
    },
    rtol=1e-2,
)


@partial(exercise, returns=False)
def check_accumulate(function: Callable) -> str:
    """The gradient of the mean loss of a batch that the model may only see in parts."""
    g = torch.Generator().manual_seed(0)
    net, x, y = nn.Linear(6, 3), torch.randn(10, 6, generator=g), torch.arange(10) % 3
    loss = lambda part: F.cross_entropy(net(x[part]), y[part])
    gradient = lambda part: torch.autograd.grad(loss(part), (net.weight, net.bias))
    (right, bias), means = gradient(slice(10)), [gradient(slice(i, i + 3))[0] for i in (0, 3, 6, 9)]
    before = net.weight.detach().clone()
    net.weight.grad, net.bias.grad = torch.ones(3, 6), torch.ones(3)  # of an earlier step
    sizes, waiting = [], []

    def watch(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if waiting:
            raise Wrong(
                "The second part comes before the backward pass of the first: memory then holds "
                "both. Call backward() for each part; it adds to the gradient that is there."
            )
        sizes.append(len(output) if output.ndim > 1 else 1)  # or a single image
        waiting.append(output)
        output.register_hook(lambda _: waiting.clear())

    net.register_forward_hook(watch)
    function(net, x, y, 3)
    found = net.weight.grad
    if not sizes:
        raise Untouched("The function has not called the model, so nothing was checked.")
    if max(sizes) > 3:
        raise Wrong(f"The model was given {max(sizes)} images at once, where 3 are allowed.")
    if not torch.equal(net.weight, before):
        raise Wrong("The weights have changed: the step is the optimiser's.")
    if sum(sizes) != 10:
        raise Wrong(f"The model has seen {sum(sizes)} of 10 images: mind the last, smaller part.")
    if found is None or waiting:
        raise Wrong("No gradient is left: call backward() for each part, and clear only before.")
    if close(found, 1 + right):
        raise Wrong("The gradient of an earlier step is still in it: clear it first.")
    if close(found, 10 * right):
        raise Wrong("That is the gradient of the sum over the batch: divide by its images.")
    if close(found, sum(means)):
        raise Wrong("Four means are added up, so it is about four times as long as it should be.")
    if close(found, sum(means) / 4):
        raise Wrong("A mean of means: the last part has 1 image and counts as much as 3.")
    if close(found, 0.3 * sum(means)):
        raise Wrong("Each part counts as 3 images, but the last has 1: weigh each by its own.")
    if close(found, 0.1 * sum(means)):
        raise Wrong("Divided twice: a part's mean has been divided by the part's images already.")
    if close(found, 10 / 3 * right):
        raise Wrong("Each part's sum is divided by `most`: divide it by all 10 images.")
    if not close(found, right):
        raise Wrong("It differs from the gradient of the whole batch: was it cleared in between?")
    if not close(net.bias.grad, bias):
        raise Wrong("The weight's gradient is right, the bias's is not: treat both alike.")
    return "The gradient of the whole batch, with at most 3 images in memory."
