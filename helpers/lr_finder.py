"""The LR range test (Smith 2015, arXiv:1506.01186) and the rules that read an LR off its curve.

All training happens on copies, so looking for an LR changes nothing in the training that follows.
"""

import copy
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from helpers.evaluation import Predictions, predict
from helpers.randomness import check_repeatable, random_state_kept, restart, seed_all

RULES = ("steep", "valley", "minimum", "slide", "accuracy")
SMOOTH = 0.1  # of the sweep: 0.6 of its 6 decades, about half as wide as the fall of a loss


@dataclass
class RangeTest:
    """Curves of a range test; `print` shows what every rule says."""

    lr: np.ndarray  # (n,)
    loss: np.ndarray  # (seeds, n) of the batch before its step; NaN after a divergence
    accuracy: np.ndarray  # (seeds, n) in 0..1; NaN between evaluations too
    seeds: tuple[int, ...]
    mode: str

    def curve(self, of: str = "loss", smooth: float = SMOOTH) -> tuple[np.ndarray, ...]:
        """(steps, values, slopes) of the mean over seeds, at the steps that all seeds reached.

        of: "loss" or "accuracy". Smoothed by a straight line fitted around each step, in a centred
        window `smooth` (0..1) of the sweep wide, over log lr (mode "exp") or lr ("linear"). It has
        no lag: without noise the steepest step of a symmetric fall stays the steepest; that of a
        skewed one moves a little, by less than a tenth of a decade in the usual window.
        """
        if not 0 <= smooth < 1:
            raise ValueError(f"smooth = {smooth}: expected a share of the sweep, 0 (none) to 1")
        curves = getattr(self, of)
        steps = np.flatnonzero(np.isfinite(curves).all(axis=0))
        if len(steps) < 5:
            ran = dict(zip(self.seeds, np.isfinite(self.loss).sum(axis=1).tolist(), strict=True))
            raise ValueError(
                f"only {len(steps)} steps have the {of} of every seed (steps by seed: {ran}): take "
                "a lower start_lr, more steps or a smaller `every`"
            )
        y = curves[:, steps].mean(axis=0)
        reach = smooth * len(self.lr) / 2
        if reach < np.diff(steps).max():  # a window would hold one step
            return steps, y, np.gradient(y, steps)
        values, slopes = np.empty((2, len(steps)))
        for i, step in enumerate(steps):
            near = np.abs(steps - step) <= reach
            x = steps[near] - steps[near].mean()
            slopes[i] = (x @ y[near]) / (x @ x)  # least squares
            values[i] = y[near].mean() + slopes[i] * (step - steps[near].mean())
        return steps, values, slopes

    def suggest(self, rule: str = "steep", smooth: float = SMOOTH) -> float:
        """One LR by one rule; ValueError where the curve does not hold what the rule looks for.

        steep: where the loss falls fastest. minimum: a tenth of the LR of the lowest loss. valley:
        halfway down the longest fall. slide: coming from the right, the last place before
        two slopes 0.15 of the sweep apart agree.
        accuracy: where the accuracy rises fastest, the 2020 system's choice.
        """
        if rule not in RULES:
            raise ValueError(f"rule = {rule!r}: expected one of {', '.join(RULES)}")
        steps, y, slope = self.curve("accuracy" if rule == "accuracy" else "loss", smooth)
        if rule == "accuracy":
            y, slope = -y, -slope  # from here on, down is better
        if np.ptp(y) <= 1e-9 * np.abs(y).max():
            raise ValueError("the curve is flat: take a higher end_lr, or look at the first value")
        first, lowest, last = 0, int(np.argmin(y)), len(y) - 1
        if lowest == 0:
            raise ValueError("never better than at the start: take a lower start_lr, or more steps")
        if rule == "valley":
            i = _valley(y)
        elif rule == "slide":
            i = _slide(slope, len(self.lr))
        elif rule == "minimum":
            i = lowest
        else:  # only whole windows; what falls behind the lowest point comes down from a spike
            reach = smooth * len(self.lr) / 2
            whole = (steps >= steps[0] + reach) & (steps <= steps[-1] - reach)
            if not whole.any():
                raise ValueError("too few steps: take a lower start_lr, more steps, less smooth")
            first, last = np.flatnonzero(whole)[[0, -1]]
            i = int(np.argmin(np.where(whole & (steps <= steps[lowest]), slope, np.inf)))
        if i <= first:
            lower = "start_lr" if self.mode == "exp" else "end_lr"
            raise ValueError(
                f"steepest at the start: take a lower {lower}, more steps, less smooth"
            )
        if i >= last:
            raise ValueError("best at the end: take a higher end_lr to see the optimum")
        return float(self.lr[steps[i]]) / (10 if rule == "minimum" else 1)

    def suggestions(self, smooth: float = SMOOTH) -> dict[str, float | str]:
        """What every rule says: an LR, or the reason why it has none."""
        found = {}
        for rule in RULES:
            try:
                found[rule] = self.suggest(rule, smooth)
            except ValueError as error:
                found[rule] = str(error)
        return found

    def __str__(self) -> str:
        """Every rule's LR, or why it has none; a warning where two differ more than tenfold."""
        said = self.suggestions()
        lines = [f"{k:9} {v if isinstance(v, str) else format(v, '.4g')}" for k, v in said.items()]
        lrs = {v: k for k, v in said.items() if isinstance(v, float)}
        if lrs and max(lrs) > 10 * min(lrs):
            low, high = min(lrs), max(lrs)
            lines.append(
                f"the rules disagree by a factor of {high / low:.0f}: {lrs[low]} says {low:.2g}, "
                f"{lrs[high]} {high:.2g}.\nLook at the curve; more seeds or steps may settle it"
            )
        return "\n".join(lines)


def _valley(y: np.ndarray) -> int:
    """Index L/3 + L/6 after the start of the longest falling run of L steps, bumps left out."""
    length = np.ones(len(y), dtype=int)  # of the longest run that ends at a step
    for i in range(len(y)):
        length[i] += length[:i][y[:i] > y[i]].max(initial=0)
    end, n = int(np.argmax(length)), int(length.max())
    if n < 6:
        raise ValueError("the loss falls for fewer than 6 steps: take more steps or more smoothing")
    return end - n + 1 + n // 3 + n // 6


def _slide(slope: np.ndarray, n: int) -> int:
    """Going left from the end, the last index before two slopes `gap` apart agree."""
    gap, threshold = max(round(0.15 * n), 1), 0.5 / n
    left = np.arange(len(slope) - 1 - gap, -1, -1)
    flat = np.abs(slope[left + gap] - slope[left]) <= threshold
    if not flat.any():
        raise ValueError("the slope changes all the way: take a lower start_lr or more steps")
    if flat[0]:
        raise ValueError("the curve ends flat, nothing to slide down from: take a higher end_lr")
    return int(left[np.argmax(flat) - 1])


def lr_range_test(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    batches: Iterable,
    start_lr: float = 1e-5,
    end_lr: float = 10.0,
    steps: int = 100,
    mode: str = "exp",
    diverge: float = 5.0,
    val: Iterable | None = None,
    every: int = 1,
    seeds: int | Sequence[int] = (0,),
) -> RangeTest:
    """Train for `steps` steps while the LR grows from start_lr to end_lr; once for each seed.

    batches: a DataLoader or anything else that can be iterated again, of (x, y); starts over when
    it ends. val: likewise; its accuracy is taken in eval mode, after each `every`-th step.
    mode: "exp" or "linear" growth. All parameter groups get the same LR.
    seeds: one or several; all that is random starts there: torch, numpy, random, and the generators
    in `batches`. A sweep ends where a loss is not finite or exceeds `diverge` times its lowest.
    Works on copies, of the data too, and restores the random state whatever happens. Raises
    ValueError for what cannot be copied or restored.
    """
    seeds = tuple(map(operator.index, np.ravel(seeds).tolist()))
    every = operator.index(every)
    if not 0 < start_lr < end_lr < math.inf or mode not in ("exp", "linear"):
        raise ValueError(
            f"start_lr = {start_lr}, end_lr = {end_lr}, mode = {mode!r}: expected "
            "0 < start_lr < end_lr and mode 'exp' or 'linear'"
        )
    if steps < 2 or every < 1 or not diverge > 1 or not seeds or min(seeds) < 0:
        raise ValueError(
            f"steps = {steps}, every = {every}, diverge = {diverge}, seeds = {seeds}: expected "
            "2 steps or more, every 1 or more, diverge above 1, and seeds of 0 or more"
        )
    check_repeatable("batches", batches)
    check_repeatable("val", val)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if trained.isdisjoint(map(id, model.parameters())):
        raise ValueError("the optimizer holds no parameter of this model: make it from this model")

    lrs = (np.geomspace if mode == "exp" else np.linspace)(start_lr, end_lr, steps)
    loss, accuracy = np.full((2, len(seeds), steps), np.nan)
    with random_state_kept(), torch.enable_grad():
        for i, seed in enumerate(seeds):
            memo = {}
            try:
                copies = copy.deepcopy((model, optimizer, loss_fn, batches, val), memo)
            except (TypeError, RuntimeError, NotImplementedError) as error:
                raise ValueError(
                    f"the range test works on copies, and these cannot be copied ({error}): pass a "
                    "list of batches, or a model that holds no stored activations"
                ) from error
            _seed_copies(seed, memo.values())
            _run(*copies, lrs, diverge, every, loss[i], accuracy[i])
    return RangeTest(lrs, loss, accuracy, seeds, mode)


def _run(model, optimizer, loss_fn, batches, val, lrs, diverge, every, losses, accuracies) -> None:
    """One seed's sweep, on copies; fills losses and accuracies (n,)."""
    device, stream, best = next(model.parameters()).device, _endless(batches), math.inf
    model.train()
    for i, lr in enumerate(lrs):
        for group in optimizer.param_groups:
            group["lr"] = float(lr)
        x, y = (part.to(device, non_blocking=True) for part in next(stream))
        optimizer.zero_grad()
        output = model(x)
        found = Predictions(output.detach(), y) if val is None else None  # checks the labels too
        loss = loss_fn(output, y)
        loss.backward()
        optimizer.step()
        value = loss.item()
        if not math.isfinite(value):
            return
        losses[i] = value
        if val is None:
            accuracies[i] = found.accuracy
        elif i % every == 0 or i == len(lrs) - 1:
            accuracies[i] = predict(model, val).accuracy
        best = min(best, value)
        if value > diverge * best > 0:
            return


def _endless(batches: Iterable) -> Iterator:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise ValueError("batches gave no batch: pass a DataLoader or a list that is not empty")


def _seed_copies(seed: int, objects: Iterable) -> None:
    """Seed all that is random, and restart each generator or epoch counter among `objects`."""
    seed_all(seed)
    for item in objects:
        restart(item, seed)
        if hasattr(item, "set_epoch") and hasattr(item, "seed"):  # Batches, DistributedSampler
            item.seed = seed
            item.set_epoch(0)
