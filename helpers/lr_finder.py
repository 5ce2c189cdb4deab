"""The LR range test (Smith 2015, arXiv:1506.01186) and the rules that read an LR off its curve.

All training happens on copies, so looking for an LR changes nothing in the training that follows.
"""

import copy
import math
import random
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

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
        no lag: without noise the steepest step stays the steepest.
        """
        if not 0 <= smooth < 1:
            raise ValueError(f"smooth = {smooth}: expected a share of the sweep, 0 (none) to 1")
        curves = getattr(self, of)
        steps = np.flatnonzero(np.isfinite(curves).all(axis=0))
        if len(steps) < 5:
            ran = dict(zip(self.seeds, np.isfinite(self.loss).sum(axis=1).tolist(), strict=True))
            raise ValueError(
                f"only {len(steps)} steps have the {of} of every seed (steps by seed: {ran}): take "
                "a lower start_lr, more steps, a smaller `every`; accuracy needs (B, C) logits"
            )
        y = curves[:, steps].mean(axis=0)
        reach = smooth * len(self.lr) / 2
        if reach < steps[1] - steps[0]:  # a window would hold one step
            return steps, y, np.gradient(y, steps)
        low = np.searchsorted(steps, steps - reach)
        high = np.searchsorted(steps, steps + reach, side="right")
        mean = lambda v: np.diff(np.r_[0, np.cumsum(v)][[low, high]], axis=0)[0] / (high - low)
        x = steps - steps.mean()
        slopes = (mean(x * y) - mean(x) * mean(y)) / (mean(x * x) - mean(x) ** 2)
        return steps, mean(y) + slopes * (x - mean(x)), slopes

    def suggest(self, rule: str = "steep", smooth: float = SMOOTH) -> float:
        """One LR by one rule; ValueError where the curve does not hold what the rule looks for.

        steep: where the loss falls fastest. minimum: a tenth of the LR of the lowest loss. valley:
        halfway down the longest fall. slide: from the right, the LR where the slope stops changing.
        accuracy: where the accuracy rises fastest, the 2020 system's choice.
        """
        if rule not in RULES:
            raise ValueError(f"rule = {rule!r}: expected one of {', '.join(RULES)}")
        steps, y, slope = self.curve("accuracy" if rule == "accuracy" else "loss", smooth)
        if rule == "accuracy":
            y, slope = -y, -slope  # from here on, down is better
        lowest, end = int(np.argmin(y)), len(y) - 1
        if lowest == 0:
            raise ValueError("never better than at the start: take a lower start_lr, or more steps")
        if rule in ("valley", "slide"):
            i = _valley(y) if rule == "valley" else _slide(slope, len(self.lr))
            return float(self.lr[steps[i]])
        if rule == "minimum":
            i, first = lowest, 0
        else:  # only whole windows; what falls behind the lowest point comes down from a spike
            reach = smooth * len(self.lr) / 2
            first = int(np.searchsorted(steps, steps[0] + reach))
            end = int(np.searchsorted(steps, steps[-1] - reach, side="right")) - 1
            i = first + int(np.argmin(slope[first : max(first, min(lowest, end)) + 1]))
        if i == first:
            lower = "start_lr" if self.mode == "exp" else "end_lr"
            raise ValueError(
                f"steepest at the start: take a lower {lower}, more steps or less smooth"
            )
        if i == end:
            raise ValueError(
                "best at the end of the curve: take a higher end_lr to see the optimum"
            )
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

    def disagreement(self, factor: float = 10.0, smooth: float = SMOOTH) -> str:
        """A warning where two rules lie more than `factor` apart, else an empty string."""
        found = [(v, k) for k, v in self.suggestions(smooth).items() if isinstance(v, float)]
        if not found or max(found)[0] <= factor * min(found)[0]:
            return ""
        (low, by_low), (high, by_high) = min(found), max(found)
        return (
            f"the rules disagree, {high / low:.0f} times: {by_low} says {low:.2g}, {by_high} "
            f"{high:.2g}. Look at the curve; more seeds or steps may settle it"
        )

    def __str__(self) -> str:
        rows = [
            (k, f"{v:.4g}" if isinstance(v, float) else v) for k, v in self.suggestions().items()
        ]
        return "\n".join([f"{k:9} {v}" for k, v in rows] + [self.disagreement()]).rstrip()


def _valley(y: np.ndarray) -> int:
    """Index L/3 + L/6 behind the start of the longest falling run of L steps, bumps left out."""
    tails, length = [], []
    for value in -y:
        k = bisect_left(tails, value)
        tails[k : k + 1] = [value]
        length.append(k + 1)
    end, n = int(np.argmax(length)), max(length)
    if n < 6:
        raise ValueError("the loss falls for fewer than 6 steps: take more steps or more smoothing")
    return end - n + 1 + n // 3 + n // 6


def _slide(slope: np.ndarray, n: int) -> int:
    """The last index before two slopes `gap` apart, moved to the left from the end, agree."""
    gap, threshold = max(round(0.15 * n), 1), 0.5 / n
    left = np.arange(len(slope) - 1 - gap, -1, -1)
    flat = np.abs(slope[left + gap] - slope[left]) <= threshold if len(left) else np.array([])
    if not flat.any():
        raise ValueError("the slope changes all the way: take a lower start_lr or more steps")
    if flat[0]:
        raise ValueError("the curve ends flat, nothing to slide down from: take a higher end_lr")
    return int(left[np.argmax(flat) - 1])


def lr_range_test(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    batches: Iterable,
    start_lr: float = 1e-5,
    end_lr: float = 10.0,
    steps: int = 100,
    mode: str = "exp",
    diverge: float = 5.0,
    val: Iterable | None = None,
    every: int = 1,
    seeds: Sequence[int] = (0,),
    progress: bool = False,
) -> RangeTest:
    """Train for `steps` steps while the LR grows from start_lr to end_lr; once for each seed.

    batches: a DataLoader or anything else that can be iterated again, of (x, y); starts over when
    it ends. val: likewise; its accuracy is taken in eval mode, after each `every`-th step.
    mode: "exp" or "linear" growth. All parameter groups get the same LR.
    seeds: all that is random starts there: torch, numpy, random, and the generators in `batches`.
    A seed ends where a loss is not finite or exceeds `diverge` times its lowest.

    Everything passed is copied for each seed, the data too, and the RNG restored, whatever happens.
    ValueError: bad numbers, or a loader or model that cannot be copied, with the reason.
    """
    if not 0 < start_lr < end_lr < math.inf or mode not in ("exp", "linear"):
        raise ValueError(
            f"start_lr = {start_lr}, end_lr = {end_lr}, mode = {mode!r}: expected "
            "0 < start_lr < end_lr and mode 'exp' or 'linear'"
        )
    seeds = tuple(seeds)
    if steps < 2 or every < 1 or diverge <= 1 or not seeds:
        raise ValueError(
            f"steps = {steps}, every = {every}, diverge = {diverge}, seeds = {seeds}: expected "
            "2 steps or more, every from 1, diverge above 1, and a seed or more"
        )
    for name, source in (("batches", batches), ("val", val)):
        if hasattr(source, "__next__"):
            raise ValueError(
                f"{name} is a one-shot iterator, what is taken from it cannot be put back: pass "
                "the DataLoader or list behind it"
            )
        if getattr(source, "persistent_workers", False):
            raise ValueError(
                f"{name} has persistent workers, whose random state cannot be restored: make the "
                "loader with persistent_workers=False"
            )
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if trained.isdisjoint(id(p) for p in model.parameters()):
        raise ValueError(
            "the optimizer holds no parameter of this model: make it from the same model"
        )

    r = np.arange(steps) / (steps - 1)
    lrs = start_lr + r * (end_lr - start_lr)
    if mode == "exp":
        lrs = start_lr * (end_lr / start_lr) ** r
    loss, accuracy = np.full((2, len(seeds), steps), np.nan)
    with _rng_restored(), torch.enable_grad():
        for i, seed in enumerate(seeds):
            memo = {}
            try:
                copies = copy.deepcopy((model, optimizer, loss_fn, batches, val), memo)
            except (TypeError, RuntimeError, NotImplementedError) as error:
                raise ValueError(
                    f"the range test works on copies, and these cannot be copied ({error}): pass a "
                    "list of batches, or a model that holds no stored activations"
                ) from error
            _seed_all(seed, memo.values())
            bar = tqdm(lrs, desc=f"range test, seed {seed}", disable=not progress, leave=False)
            _run(*copies, bar, diverge, every, loss[i], accuracy[i])
    return RangeTest(lrs, loss, accuracy, seeds, mode)


def _run(model, optimizer, loss_fn, batches, val, lrs, diverge, every, loss_out, acc_out) -> None:
    """One seed's sweep, on copies; fills loss_out and acc_out (n,)."""
    device, best, stream = next(model.parameters()).device, math.inf, _endless(batches)
    model.train()
    for i, lr in enumerate(lrs):
        for group in optimizer.param_groups:
            group["lr"] = float(lr)
        x, y = (part.to(device, non_blocking=True) for part in next(stream))
        optimizer.zero_grad()
        output = model(x)
        loss = loss_fn(output, y)
        loss.backward()
        optimizer.step()
        value = loss.item()
        if not math.isfinite(value):
            return
        loss_out[i] = value
        if val is None:
            acc_out[i] = _correct(output, y) / len(y)
        elif i % every == 0 or i == len(loss_out) - 1:
            acc_out[i] = _val_accuracy(model, val, device)
        best = min(best, value)
        if value > diverge * best > 0:
            return


def _correct(output: torch.Tensor, y: torch.Tensor) -> float:
    if output.ndim != 2 or y.ndim != 1 or y.is_floating_point():
        return math.nan
    return (output.argmax(dim=1) == y).sum().item()


def _val_accuracy(model: nn.Module, val: Iterable, device: torch.device) -> float:
    """Share of right images, whatever the sizes of the batches. Torch's RNG does not move."""
    correct = count = 0
    model.eval()
    with torch.no_grad(), torch.random.fork_rng([]):
        for x, y in val:
            correct += _correct(model(x.to(device)), y.to(device))
            count += len(y)
    model.train()
    if count == 0:
        raise ValueError("val gave no batch: pass a DataLoader or a list that is not empty")
    return correct / count


def _endless(batches: Iterable) -> Iterator:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise ValueError("batches gave no batch: pass a DataLoader or a list that is not empty")


def _seed_all(seed: int, objects: Iterable) -> None:
    """Start torch, numpy, random and each generator or epoch counter among `objects` at `seed`."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    for item in objects:
        if isinstance(item, torch.Generator):
            item.manual_seed(seed)
        elif isinstance(item, np.random.Generator):
            item.bit_generator.state = type(item.bit_generator)(seed).state
        elif isinstance(item, (random.Random, np.random.RandomState)):
            item.seed(seed)
        elif hasattr(item, "set_epoch") and hasattr(item, "seed"):  # Batches, DistributedSampler
            item.seed = seed
            item.set_epoch(0)


@contextmanager
def _rng_restored() -> Iterator[None]:
    states = [(random.setstate, random.getstate()), (np.random.set_state, np.random.get_state())]
    if torch.backends.mps.is_available():
        states.append((torch.mps.set_rng_state, torch.mps.get_rng_state()))
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    finally:
        for restore, state in states:
            restore(state)
