"""The checks of lesson 03: what is right, what is wrong, and what it likely comes from."""

from collections.abc import Callable

import numpy as np

from helpers.exercises.judging import (
    Wrong,
    array,
    close,
    exercise,
    judge,
    need_shape,
    number,
    unchanged,
)

check_sweep_lr = number(  # of step 60 of an exponential sweep of 101 steps, from 0.0001 to 10
    0.1,
    "60 of 100 gaps are 0.6 of five decades, three decades: 0.0001 * 10**3 = 0.1.",
    "There are five decades from 0.0001 to 10. Go 60/100 of the way.",
    {
        0.6 * (10 - 1e-4) + 1e-4: "That is linear. An exponential sweep multiplies at each step.",
        1e-4 * 1e5 ** (60 / 101): "101 steps have 100 gaps between them: divide by steps - 1.",
        1e5**0.6: "That is how many times larger than the first LR it is: multiply by 0.0001.",
    },
    rtol=1e-3,
)


@exercise
def check_smallest_every(function: Callable) -> str:
    """The smallest number of steps between evaluations that at most doubles the cost."""
    likely = {
        30: "A training step of 64 images costs 3 * 64 forward passes, not 64.",
        11: "1,920 = 10 * 3 * 64 exactly: every 10 steps is still within twice the cost.",
    }
    hint = "`every` steps cost every * 3 * 64 in training; the evaluation, 1,920, may cost as much."
    judge(function(1920, 64), 10, hint, likely)
    if function(2000, 64) == 10:
        raise Wrong("2,000 images, batch 64: 10 steps cost 1,920, which is 80 too few. Round up.")
    for images, batch, right in ((2000, 64, 11), (5000, 128, 14), (100, 64, 1), (2112, 64, 11),
                                 (385, 128, 2), (15_361, 512, 11)):  # fmt: skip
        if function(images, batch) != right:
            raise Wrong(f"{images:,} images, batch {batch}: the smallest value is {right:,}.")
    return "Rounded up, and never below 1."


@exercise
def check_my_steep(function: Callable) -> str:
    """The LR where a loss falls fastest against log lr, on curves whose answer is known."""
    lr = 1e-4 * 10 ** np.linspace(0, 5, 101)
    loss = 2.3 - 1.5 / (1 + (lr / 0.0098) ** -2.0) + (np.maximum(np.log10(lr), 0) * 4) ** 2
    found = unchanged(function, lr.copy(), loss)
    if np.ndim(found) != 0 or isinstance(found, tuple):
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
    slow = 2.3 - 0.6 / (1 + (lr / 0.00198) ** -4.0) - 0.9 / (1 + (lr / 0.3) ** -1.2)
    hint = "On a curve with two falls, a short steep one and a long one, it picks the wrong place."
    judge(function(lr, slow), lr[26], hint)
    uneven = np.concatenate([lr[:44], lr[44::4]])  # steps that are four times as far apart
    # steepest just above step 40: the slope to the step before gives 40, that to the next one 41
    curve = 2.3 - 1.5 / (1 + (uneven / 0.0102) ** -2.0)
    hint = "It fails where steps are unevenly spaced: give np.gradient the positions, log lr."
    judge(function(uneven, curve), uneven[40], hint, {uneven[41]: "One step late: " + between})
    return "The steepest fall against log lr, also where steps lie unevenly."


@exercise
def check_centred(function: Callable) -> str:
    """The mean over `reach` steps to both sides; at the ends over fewer, equally on both sides."""
    line = np.arange(9.0)
    each = lambda values: array(unchanged(lambda v: function(v, 2), values))
    smooth, spike = each(line.copy()), each(np.eye(9)[4])
    need_shape(smooth, (9,), "9 values go in: one smoothed value for each step.")
    if np.array_equal(spike, np.eye(9)[4]):
        raise Wrong("Nothing is smoothed: a spike at step 4 comes back as it went in.")
    if spike[:4].sum() == 0 and spike[5:].sum() > 0:
        raise Wrong("Each mean looks back only, so what happens at step 4 shows later: it lags.")
    if not close([spike[2:7].sum(), spike[4]], [1, 0.2]):
        raise Wrong("A spike at step 4 should become 0.2 at steps 2 to 6: five values, 1/5 each.")
    if smooth[-1] < 7:
        raise Wrong(
            "The end sinks: values beyond the end have been made up, as zeros or by mirroring."
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
    found = {rule.strip().lower() for rule in found}
    if unknown := found - {"slide", *stay}:
        raise Wrong(f"{sorted(unknown)} is no rule. The rules: {', '.join(sorted(stay))}, slide.")
    if "slide" not in found:
        raise Wrong("One rule compares slopes with a fixed threshold, and slopes shrink as well.")
    for rule, reason in stay.items():
        if rule in found:
            raise Wrong(reason)
    return "Only slide has a threshold in units of the loss. All others ask what is largest."
