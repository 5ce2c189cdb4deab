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


@dataclass
class RangeTest:
    """Curves of a range test; `print` shows what every rule says."""

    lr: np.ndarray  # (n,)
    loss: np.ndarray  # (seeds, n) of the batch before its step; NaN after a divergence
    accuracy: np.ndarray  # (seeds, n) in 0..1; NaN between evaluations too
    seeds: tuple[int, ...]
    mode: str

    def curve(self, of: str = "loss", smooth: float = 0.1) -> tuple[np.ndarray, ...]:
        """(steps, values, slopes) of the mean over seeds, at the steps that all seeds reached.

        Smoothed by straight lines fitted in a centred window, `smooth` (0..1) of the sweep wide: over
        log lr (mode "exp") or lr ("linear"). It has no lag: a noise-free slope stays in its place.
        """
        curves = getattr(self, of)
        steps = np.flatnonzero(np.isfinite(curves).all(axis=0))
        if len(steps) < 5:
            reached = np.isfinite(self.loss).sum(axis=1)
            raise ValueError(
                f"only {len(steps)} of {len(self.lr)} steps have the {of} in every seed (seeds "
                f"{self.seeds} ran {reached.tolist()} steps): take a lower start_lr, more steps, a "
                "smaller `every`, or a val set if the model's output is no (B, classes) logits"
            )
        y = curves[:, steps].mean(axis=0)
        reach = smooth * len(self.lr) / 2
        if not 0 <= smooth < 1:
            raise ValueError(f"smooth = {smooth}: expected a share of the sweep, 0 (none) to 1")
        if reach < steps[1] - steps[0]:  # the window holds one point
            return steps, y, np.gradient(y, steps)
        low = np.searchsorted(steps, steps - reach)
        high = np.searchsorted(steps, steps + reach, side="right")
        total = lambda v: np.diff(np.insert(np.cumsum(v), 0, 0.0)[np.stack([low, high])], axis=0)[0]
        n, x = high - low, steps - steps.mean()
        mean_x, mean_y = total(x) / n, total(y) / n
        slopes = (total(x * y) / n - mean_x * mean_y) / (total(x * x) / n - mean_x**2)
        return steps, mean_y + slopes * (x - mean_x), slopes

    def suggest(self, rule: str = "steep", smooth: float = 0.1) -> float:
        """One LR by one rule; ValueError where the curve does not hold what the rule looks for.

        steep: where the loss falls fastest. minimum: a tenth of the LR of the lowest loss. valley:
        halfway down the longest fall. slide: from the right, the LR where the slope stops changing.
        accuracy: where the accuracy rises fastest, the 2020 system's choice.
        """
        if rule not in RULES:
            raise ValueError(f"rule = {rule!r}: expected one of {', '.join(RULES)}")
        sign = -1 if rule == "accuracy" else 1
        steps, y, slope = self.curve("accuracy" if rule == "accuracy" else "loss", smooth)
        y, slope = sign * y, sign * slope  # a rise of accuracy is a fall here
        lowest = int(np.argmin(y))
        what = "accuracy never rises above" if rule == "accuracy" else "loss never falls below"
        if lowest == 0:
            raise ValueError(f"the {what} its start: take a lower start_lr, or check the training")
        if rule in ("steep", "accuracy"):  # what falls after the lowest point falls from a spike
            i = int(np.argmin(slope[: lowest + 1]))
            if i == 0:
                change = (
                    "a lower start_lr" if self.mode == "exp" else "a lower end_lr or more steps"
                )
                raise ValueError(f"the curve is steepest at start_lr: take {change} or less smooth")
            at_end = i == len(y) - 1
        elif rule == "minimum":
            i, at_end = lowest, lowest == len(y) - 1
        elif rule == "valley":
            i, at_end = _valley(y), False
        else:
            i, at_end = _slide(slope, len(self.lr)), False
        if at_end:
            raise ValueError(
                "the curve is best at its end: take a higher end_lr to pass the optimum"
            )
        return float(self.lr[steps[i]]) / (10 if rule == "minimum" else 1)

    def suggestions(self, smooth: float = 0.1) -> dict[str, float | str]:
        """What every rule says: an LR, or the reason why it has none."""
        found = {}
        for rule in RULES:
            try:
                found[rule] = self.suggest(rule, smooth)
            except ValueError as error:
                found[rule] = str(error)
        return found

    def disagreement(self, factor: float = 10.0, smooth: float = 0.1) -> str:
        """A warning where the rules lie more than `factor` apart, else an empty string."""
        found = {k: v for k, v in self.suggestions(smooth).items() if isinstance(v, float)}
        if not found or max(found.values()) <= factor * min(found.values()):
            return ""
        low, high = min(found, key=found.get), max(found, key=found.get)
        return (
            f"the rules disagree: {low} says {found[low]:.2g}, {high} {found[high]:.2g}, "
            f"{found[high] / found[low]:.0f} times as much. Look at the curve; add steps or seeds"
        )

    def __str__(self) -> str:
        found = self.suggestions().items()
        lines = [f"{k:9} {v:.4g}" if isinstance(v, float) else f"{k:9} {v}" for k, v in found]
        return "\n".join(lines + [self.disagreement()]).rstrip()


def _valley(y: np.ndarray) -> int:
    """Index a half down the longest falling run (bumps left out), as fastai: L/3 and L/6 behind its start."""
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
    """Index where a pair of slopes, sliding to the left, becomes equal; fastai's values at n = 100."""
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

    batches: a DataLoader, or anything else that gives (x, y) each time it is iterated; it starts over
    when it ends. val: such a set too; its accuracy is taken after every `every`-th step, in eval mode.
    mode: "exp" or "linear" growth. All parameter groups get the same LR.
    seeds: for each, all that is random starts there: torch, numpy, random and generators in `batches`.
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
                f"{name} is a one-shot iterator, and what was taken from it cannot be put back: pass "
                "the DataLoader or list behind it"
            )
        if getattr(source, "persistent_workers", False):
            raise ValueError(
                f"{name} has persistent workers, whose random state nobody can read or restore: make "
                "the loader with persistent_workers=False"
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
    """Share of right images, whatever the sizes of the batches; the training's RNG does not move."""
    correct = count = 0
    rng = torch.get_rng_state()
    model.eval()
    with torch.no_grad():
        for x, y in val:
            correct += _correct(model(x.to(device)), y.to(device))
            count += len(y)
    model.train()
    torch.set_rng_state(rng)
    if count == 0:
        raise ValueError("val gave no batch: pass a DataLoader or a list that is not empty")
    return correct / count


def _endless(batches: Iterable) -> Iterator:
    while True:
        batch = None
        yield from (batch := b for b in batches)
        if batch is None:
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
    python, numpy, mps = random.getstate(), np.random.get_state(), torch.backends.mps.is_available()
    mps_state = torch.mps.get_rng_state() if mps else None
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        if mps:
            torch.mps.set_rng_state(mps_state)
