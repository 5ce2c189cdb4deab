"""Learning-rate schedules as plain functions of the step, and a dry run of one before training.

Steps count from 0. A t outside the schedule raises an error: t < 0 in all four, t after the last
step in the three that have one (`triangular` repeats for ever).
"""

import copy
import math
import warnings
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import index

import numpy as np
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau


def _step(t: int, total: float = math.inf) -> int:
    try:
        t = index(t)
    except TypeError:
        raise TypeError(f"t = {t!r} is not a step: expected a whole number") from None
    if not 0 <= t < total:
        last = "no last step" if total == math.inf else f"{total} steps, 0 to {total - 1}"
        raise ValueError(f"t = {t} is not a step: the schedule has {last}. Count your calls of it")
    return t


def _positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"{name} = {number!r}: expected a finite number above 0")


def triangular(
    t: int, base: float, peak: float, half_cycle: float, mode: str = "triangular", gamma: float = 1
) -> float:
    """LR at step t: from `base` up to `peak` in `half_cycle` steps, down in as many, and again.

    mode: "triangular", "triangular2" (half the height each cycle), "exp_range" (height x gamma**t).
    Equals torch's CyclicLR(step_size_up=half_cycle). Paper: Smith 2017, arXiv:1506.01186.
    """
    t = _step(t)
    _positive(peak=peak, half_cycle=half_cycle, gamma=gamma)
    if not 0 <= base <= peak:
        raise ValueError(f"base = {base!r}: expected 0 <= base <= peak = {peak}")
    if mode not in ("triangular", "triangular2", "exp_range"):
        raise ValueError(f"mode = {mode!r}: expected 'triangular', 'triangular2' or 'exp_range'")
    cycle, position = divmod(t, 2 * half_cycle)
    height = 1 - abs(position / half_cycle - 1)
    if mode == "triangular2":
        height *= 0.5**cycle
    elif mode == "exp_range":
        height *= gamma**t
    return base + (peak - base) * height


def one_cycle(
    t: int,
    total: int,
    peak: float,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    anneal: str = "cos",
    three_phase: bool = False,
) -> float:
    """LR at step t of `total`: from peak/div_factor to `peak`, to peak/div_factor/final_div_factor.

    anneal: "cos" or "linear". three_phase: back to the start, then to the end, as in the paper.
    Equals torch's OneCycleLR, with its flaw: the peak stands at pct_start*total - 1, and where that
    is no whole number no step meets it. Paper: Smith and Topin 2018, arXiv:1708.07120.
    """
    _positive(total=index(total), peak=peak)
    _positive(div_factor=div_factor, final_div_factor=final_div_factor)
    t = _step(t, total)
    if anneal not in ("cos", "linear"):
        raise ValueError(f"anneal = {anneal!r}: expected 'cos' or 'linear'")
    if not 0 <= pct_start <= 1:
        raise ValueError(f"pct_start = {pct_start!r}: expected a share of the steps, 0 to 1")
    rise = pct_start * total - 1
    if rise == 0:
        raise ValueError(f"pct_start = {pct_start}: one step of {total} is no rise; take more or 0")
    ends, lrs = [rise, total - 1], [peak / div_factor, peak, peak / div_factor / final_div_factor]
    if three_phase:
        ends.insert(1, 2 * rise)
        lrs.insert(2, peak / div_factor)
    i = next(i for i, end in enumerate(ends) if t <= end)  # the phase that step t is in
    begin, end, first, last = [0, *ends][i], ends[i], lrs[i], lrs[i + 1]
    part = (t - begin) / (end - begin)
    if anneal == "linear":
        return (last - first) * part + first
    return last + (first - last) / 2 * (1 + math.cos(math.pi * part))


def source_one_cycle(epoch: int, reducer: float = 2.0) -> float:
    """LR of epoch 0..23 of the 2020 run: 0.0944, up to 0.472 at epoch 5, and down; one an epoch.

    In the last two, peak - reducer * base stands in for the range: the LR jumps from 0.170 to 0.042
    and is negative where the reducer exceeds peak / base = 5.
    """
    epoch, base, peak, up = _step(epoch, 24), 0.0944, 0.472, 5
    height = 1 - abs(epoch / up - 1) if epoch <= up else 1 - (epoch - up) / 20
    return base + (peak - base) * height if epoch < 22 else (peak - reducer * base) * height


def piecewise_linear(t: int, steps: Sequence[int], values: Sequence[float]) -> float:
    """Straight lines through the knots (steps[i], values[i]); `steps` rises from 0 to total - 1.

    Knots are whole steps, so each of `values` is met exactly, the last of them at the last step.
    """
    if len(steps) != len(values) or len(steps) < 2:
        raise ValueError(f"{len(steps)} steps, {len(values)} values: expected as many, 2 or more")
    if steps[0] != 0 or any(a % 1 for a in steps) or min(np.diff(steps)) <= 0:
        raise ValueError(f"steps = {steps}: expected whole numbers that rise from 0 to total - 1")
    if not np.isfinite(values).all():
        raise ValueError(f"values = {values}: expected finite numbers")
    return float(np.interp(_step(t, int(steps[-1]) + 1), steps, values))


@dataclass
class DryRun:
    """LR and momentum (or None) of each step, float (steps,), and what is wrong; print it."""

    lr: np.ndarray
    momentum: np.ndarray | None
    problems: list[str]

    def __str__(self) -> str:
        n, lr = len(self.lr), self.lr
        chosen = {*np.linspace(0, n - 1, min(n, 24)).astype(int), np.argmax(lr), np.argmin(lr)}
        rows = ["  step            LR" + ("" if self.momentum is None else "  momentum")]
        for t in sorted(chosen):
            momentum = "" if self.momentum is None else f"  {self.momentum[t]:8.4f}"
            rows.append(f"{t:6d}  {lr[t]:12.6g}{momentum}")
        rows += [f"problem: {problem}" for problem in self.problems] or ["no problem found"]
        return "\n".join(rows)


def dry_run(
    schedule: Callable[[int], float] | LRScheduler,
    total: int,
    momentum: Callable[[int], float] | None = None,
    peak: float | None = None,
) -> DryRun:
    """Every step of a schedule before a training of `total` steps, and what is wrong with it.

    schedule: a function of the step, or a torch scheduler on its optimizer, of which a copy is run
    from where it stands (first parameter group). momentum: a function of the step; torch's is read.
    peak: the LR that some step should meet; torch's CyclicLR and OneCycleLR say it themselves,
    unless they have run already.
    """
    _positive(total=total)
    problems = []
    if isinstance(schedule, LRScheduler):
        lr, momenta, peak, end = _run_copy(schedule, total, peak)
        made = schedule.optimizer.defaults
        made_with = made.get("momentum", made.get("betas", [None])[0])  # Adam's: beta1
        if momenta and made_with is not None and set(momenta) != {made_with}:
            low, high = min(momenta[:total]), max(momenta[:total])
            problems.append(f"momentum is cycled too: {low:g} to {high:g}, not {made_with:g}")
    else:
        lr = [float(schedule(0))]  # an error at step 0 is no matter of counting: let it out
        end = bisect_left(range(10**9), True, key=lambda t: _at(schedule, t) is None)
        lr += [_at(schedule, t) for t in range(1, min(end, total + 1))]
        momenta = momentum and [momentum(t) for t in range(min(end, total))]
    if end not in (total, 10**9):
        problems.append(f"wrong step count: the schedule has {end} steps, the training {total}")
    late, lr = lr[total:], np.array(lr[:total])
    if not np.isfinite(lr).all():
        problems.append(f"the LR is not finite at step {np.argmin(np.isfinite(lr))}")
    if lr.min() < 0:
        problems.append(f"the LR is negative at step {np.argmax(lr < 0)}: {lr[lr < 0][0]:.4g}")
    elif late and late[0] < 0:
        problems.append(f"the LR is below zero one step too late, at step {total}: {late[0]:.4g}")
    if peak is not None and not math.isclose(lr.max(), peak):
        problems.append(f"peak {peak:g} missed: the LR is {lr.max():.6g} at step {lr.argmax()}")
    return DryRun(lr, np.array(momenta[:total]) if momenta else None, problems)


def _at(schedule: Callable[[int], float], t: int) -> float | None:
    """schedule(t), or None where the schedule has no step t."""
    try:
        return float(schedule(t))
    except (ValueError, LookupError):
        return None
    except OverflowError:
        return math.inf


def _run_copy(scheduler: LRScheduler, total: int, peak: float | None) -> tuple:
    """LR and momentum of steps 0..total, the peak it was given, and its number of steps."""
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError("ReduceLROnPlateau follows the training: without it there are no LRs")
    scheduler = copy.deepcopy(scheduler)
    group = scheduler.optimizer.param_groups[0]
    read = lambda: (float(group["lr"]), group.get("momentum", group.get("betas", [None])[0]))
    done = getattr(scheduler, "last_epoch", 0)  # a chained one has none
    if peak is None and not done:  # otherwise the peak may be past
        peak = group.get("max_lr", getattr(scheduler, "max_lrs", [None])[0])
    seen, end = [read()], getattr(scheduler, "total_steps", 10**9 + done) - done
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wants an optimizer.step() before each step()
        for _ in range(min(total, end)):
            try:
                scheduler.step()
            except (ValueError, LookupError):  # LambdaLR of a function that has no such step
                end = len(seen)
                break
            seen.append(read())
    lr, momenta = map(list, zip(*seen, strict=True))
    return lr, [] if momenta[0] is None else momenta, peak, end
