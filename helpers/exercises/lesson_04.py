"""The checks of lesson 04: what is right, what is wrong, and what it likely comes from."""

import math
from collections.abc import Callable

import numpy as np

from helpers.exercises.judging import Wrong, close, exercise, judge, number
from helpers.schedules import source_one_cycle

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
