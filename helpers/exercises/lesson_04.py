"""The checks of lesson 04: what is right, what is wrong, and what it likely comes from."""

import math
from collections.abc import Callable

import numpy as np

from helpers.exercises.judging import Wrong, close, exercise, judge, number
from helpers.schedules import source_one_cycle

check_triangular_step = number(  # the LR at step 23 of base 0.1, peak 0.5, half cycle 8
    0.45,
    "Step 23 is the seventh after the start of the second cycle: 0.1 + 0.4 * 7/8 = 0.45.",
    "How far into its cycle of 16 steps is step 23? Each step upwards adds (0.5 - 0.1) / 8.",
    {
        0.35: "That is the height above the base: add the 0.1.",
        0.15: "That would be right on the way down. The second cycle goes up until step 24.",
        0.4: "That is step 22 (or 26). Steps count from 0: the second cycle begins at step 16.",
        0.5: "That is step 24, the tip. Steps count from 0: the second cycle begins at step 16.",
    },
    rtol=1e-3,
)


@exercise
def check_triangular(function: Callable) -> str:
    """A triangular policy of one's own, in several cycles and with a fractional half cycle."""
    for t, base, peak, half, right, rule in [
        (0, 0.1, 0.5, 4, 0.1, "it begins at the base"),
        (4, 0.1, 0.5, 4, 0.5, "after a half cycle it stands at the peak"),
        (6, 0.1, 0.5, 4, 0.3, "after the peak it comes down in as many steps as it went up"),
        (11, 0.1, 0.5, 4, 0.4, "in cycle 2: the triangle repeats every 2 * half_cycle steps"),
        (19, 0.1, 0.5, 4, 0.4, "in the third cycle: remainders (%) know no last cycle"),
        (7, 0.1, 0.5, 2.25, 0.1 + 0.4 * 8 / 9, "is a whole number (int, //) assumed?"),
        (3, 0.2, 1.0, 4, 0.8, "are `base` and `peak` used, and no numbers of your own?"),
    ]:
        hint = (
            f"base {base}, peak {peak}, half_cycle {half}, step {t}: expected {right:.4g}; {rule}"
        )
        judge(function(t, base, peak, half), right, hint)
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
        raise Wrong("These are the learning rates: LambdaLR would multiply them by 0.0944 again.")
    if close(lrs, 0.2 * right):
        raise Wrong(
            "The peak comes out as 0.0944, not 0.472: divide by what LambdaLR multiplies, 0.0944."
        )
    for epoch in range(24):
        if not math.isclose(lrs[epoch], right[epoch], rel_tol=1e-6):
            yours = f"0.0944 * factor({epoch}) is {lrs[epoch]:.6f}"
            raise Wrong(f"{yours}, but epoch {epoch} of 2020 had {right[epoch]:.6f}.")
    return "All 24 learning rates of the 2020 run come out of LambdaLR."


check_cut_budget = number(  # the LR of the 24-epoch course schedule, peak 0.4, after 12 epochs
    0.4 * 12 / 19,
    "0.4 * 12/19 = 0.2526: the net was never annealed. Compress a schedule, do not cut it.",
    "The fall takes 19 epochs, from 0.4 to 0. Twelve of them are left.",
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
        0.02: "It begins at `end` and runs upwards: turn the wave upside down.",
        0.42: "It begins at peak + end: scale the wave to peak - end.",
    }
    judge(begin, 0.4, "Step `first` gives the peak, 0.4: the share there must be 0.", likely)
    late = 0.02 + 0.19 * (1 + math.cos(math.pi * 20 / 21))
    likely = {
        0: "The LR ends at 0, not at `end`: scale the wave to peak - end, and add `end`.",
        late: "The LR stays above `end`: the share is 1 after last - first steps, not one later.",
        0.4: "At `last` the LR is at the peak again: half a wave, cos of 0 to pi, not a whole one.",
    }
    hint = "Step `last` gives 0.02: there the cosine is at its lowest, half a wave (in radians) on."
    judge(end, 0.02, hint, likely, rtol=1e-5)
    judge(middle, 0.21, "Half way the LR is the mean of peak and end, 0.21.", rtol=1e-5)
    likely = {0.305: "That is a straight line. A cosine is still near the peak after a quarter."}
    hint = "Begin, middle and end are right; a quarter of the way does not fit a cosine."
    judge(quarter, 0.02 + 0.19 * (1 + math.sqrt(0.5)), hint, likely, rtol=1e-5)
    hint = "It fails three quarters of the way from 0.6 to 0.1: is a number of your own in it?"
    judge(function(10, 4, 12, 0.6, 0.1), 0.1 + 0.25 * (1 - math.sqrt(0.5)), hint, rtol=1e-5)
    return "Begin, middle, end and the curve between them are right."
