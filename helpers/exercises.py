"""The checks behind the exercises: what is right, what is wrong, and what it likely comes from.

A check takes the learner's answer, raises `Wrong(reason)` at the first thing that does not hold,
and returns a sentence when all does. An untouched stub is "not attempted", never an error.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from helpers.schedules import source_one_cycle


class Wrong(Exception):
    """What does not hold yet, and what it likely comes from."""


@dataclass(frozen=True)
class Verdict:
    """The answer of a check; a notebook shows it as the cell's value."""

    status: str  # "right", "wrong" or "not attempted"
    message: str

    def __repr__(self) -> str:
        mark = {"right": "Right.", "wrong": "Not yet.", "not attempted": "Not attempted."}
        return f"{mark[self.status]} {self.message}"


def exercise(check: Callable[..., str]) -> Callable[..., Verdict]:
    """Turn a check into one that returns a `Verdict`.

    The first argument is the learner's answer: a value (None or ... is the untouched stub) or a
    function (untouched when it returns ...). An exception inside the learner's function is reported
    with its type and text.
    """

    @wraps(check)
    def run(answer: Any, *rest: Any) -> Verdict:
        if answer is None or answer is ...:
            return Verdict("not attempted", "Replace the ... and run the cell again.")
        try:
            return Verdict("right", check(_watch(answer) if callable(answer) else answer, *rest))
        except _Untouched as untouched:
            said = str(untouched) or "The function still returns ..., so nothing was checked."
            return Verdict("not attempted", said)
        except Wrong as reason:
            return Verdict("wrong", str(reason))
        except Exception as error:  # the learner's own code may fail in any way: say how
            return Verdict("wrong", f"Your code raised {type(error).__name__}: {error}")

    return run


class _Untouched(Exception):
    """The stub as it was; its text, if any, is told."""


def _watch(function: Callable) -> Callable:
    @wraps(function)
    def call(*args, **kwargs):
        result = function(*args, **kwargs)
        if result is ...:
            raise _Untouched
        return result

    return call


# Lesson 04


@exercise
def check_triangular_step(answer: float) -> str:
    """The LR at step 21 of base 0.1, peak 0.5, half cycle 8."""
    if math.isclose(answer, 0.25, rel_tol=1e-3):
        raise Wrong("That is the height above the base: the base itself has to be added.")
    if math.isclose(answer, 0.4, rel_tol=1e-3):
        raise Wrong("That is step 22 (or 26). Steps count from 0: the second cycle begins at 16.")
    if not math.isclose(answer, 0.35, rel_tol=1e-3):
        raise Wrong(
            f"{answer:g} is not the LR. How far into its cycle of 16 steps is step 21? It is still "
            "on the way up, so each step adds (0.5 - 0.1) / 8."
        )
    return "Step 21 is the fifth after the start of the second cycle: 0.1 + 0.4 * 5/8 = 0.35."


@exercise
def check_triangular(function: Callable) -> str:
    """A triangular policy of one's own, in several cycles and with a fractional half cycle."""
    if not math.isclose(function(0, 0.1, 0.5, 4), 0.1):
        raise Wrong(f"step 0 gives {function(0, 0.1, 0.5, 4):g}; it begins at the base, 0.1")
    if not math.isclose(function(4, 0.1, 0.5, 4), 0.5):
        raise Wrong(f"half_cycle 4: step 4 gives {function(4, 0.1, 0.5, 4):g}, not the peak 0.5")
    if not math.isclose(function(6, 0.1, 0.5, 4), 0.3):
        raise Wrong(
            f"step 6 gives {function(6, 0.1, 0.5, 4):g}, not 0.3: after the peak it comes "
            "down in as many steps as it went up"
        )
    if not math.isclose(function(11, 0.1, 0.5, 4), 0.4):
        raise Wrong(
            f"step 11, in the second cycle, gives {function(11, 0.1, 0.5, 4):g}, not 0.4: "
            "the triangle repeats every 2 * half_cycle steps"
        )
    if not math.isclose(function(7, 0.0, 1.0, 2.5), 0.8):
        raise Wrong("half_cycle 2.5, step 7: 0.8 is right. Is a whole number (int, //) assumed?")
    return "Base, peak, descent, the second cycle and a fractional half cycle are all right."


@exercise
def check_peak_is_met(pct_start: float) -> str:
    """A pct_start in 0.25..0.35 with which a step of 2,808 meets the peak of the one-cycle."""
    if not 0 <= pct_start <= 1:
        raise Wrong(f"pct_start is a share of the steps, 0 to 1, but this is {pct_start:g}.")
    if not 0.25 <= pct_start <= 0.35:
        raise Wrong(f"{pct_start:g} changes the shape too much: stay between 0.25 and 0.35.")
    place = pct_start * 2808 - 1
    if abs(place - round(place)) > 1e-6:
        raise Wrong(
            f"Now the peak stands at step {place:.4f}: between two steps, so none meets it."
        )
    return f"The peak stands at step {round(place)}, and that step meets it."


@exercise
def check_lambda_factor(factor: Callable) -> str:
    """What LambdaLR must multiply 0.0944 by, so that the LRs of the 2020 run come out."""
    wanted = [source_one_cycle(epoch) for epoch in range(24)]
    lrs = [0.0944 * factor(epoch) for epoch in range(24)]
    if np.allclose(lrs, [0.0944 * lr for lr in wanted]):
        raise Wrong(
            "These are finished rates: LambdaLR still multiplies them by 0.0944, so the "
            f"peak is {max(lrs):.4f}, not 0.472."
        )
    if np.allclose(lrs, [0.2 * lr for lr in wanted]):
        raise Wrong("The peak is 0.0944: you divide by the peak, but LambdaLR multiplies the base.")
    wrong = [epoch for epoch in range(24) if not math.isclose(lrs[epoch], wanted[epoch])]
    if wrong:
        epoch = wrong[0]
        raise Wrong(
            f"epoch {epoch}: the LR is {lrs[epoch]:.4f}, in 2020 it was {wanted[epoch]:.4f}"
        )
    return "All 24 learning rates of the 2020 run come out of LambdaLR."


@exercise
def check_cut_budget(answer: float) -> str:
    """The LR of the 24-epoch course schedule, peak 0.4, after 12 epochs."""
    if answer == 0:
        raise Wrong("0 is where a schedule compressed to 12 epochs ends. This one was cut off.")
    if math.isclose(answer, 0.2, rel_tol=0.01):
        raise Wrong("Half of the peak would be half of the fall, but the fall begins at epoch 5.")
    if not math.isclose(answer, 0.4 * 12 / 19, rel_tol=0.02):
        raise Wrong(f"{answer:g}: the fall takes 19 epochs, from 0.4 to 0. Twelve are to come.")
    return "0.4 * 12/19 = 0.2526: the net was never annealed. Compress a schedule, do not cut it."


@exercise
def check_annealing(function: Callable) -> str:
    """Half a cosine wave from the peak at step `first` to the end at step `last`."""
    begin, middle, end = (function(t, 10, 30, 0.4, 0.02) for t in (10, 20, 30))
    if not math.isclose(begin, 0.4):
        raise Wrong(f"step `first` gives {begin:g}, not the peak 0.4: the share there must be 0")
    if not math.isclose(end, 0.02):
        raise Wrong(
            f"step `last` gives {end:.4g}, not the end 0.02: the share there must be 1. "
            "Between `first` and `last` there are last - first steps, not one more."
        )
    if not math.isclose(middle, 0.21):
        raise Wrong(f"half way the LR is {middle:g}; it should be the mean of peak and end, 0.21")
    if math.isclose(function(15, 10, 30, 0.4, 0.02), 0.305):
        raise Wrong("That is a straight line. A cosine is still near the peak after a quarter.")
    if not math.isclose(function(15, 10, 30, 0.4, 0.02), 0.02 + 0.19 * (1 + math.sqrt(0.5))):
        raise Wrong("Begin, middle and end are right; a quarter of the way does not fit a cosine.")
    return "Begin, middle, end and the curve between them are right."


# Lesson 05


@exercise
def check_initial_loss(answer: float) -> str:
    """The loss of an untrained net with 100 classes, in nats."""
    if math.isclose(answer, math.log(10), rel_tol=1e-2):
        raise Wrong("2.30 is the natural logarithm of 10: right for ten classes, here are 100.")
    if math.isclose(answer, 2, rel_tol=1e-2):
        raise Wrong("2 is log10(100). The cross-entropy takes the natural logarithm.")
    if math.isclose(answer, 0.01, rel_tol=1e-2):
        raise Wrong("0.01 is the probability it gives each class. The loss is -ln of that.")
    if answer < 0:
        raise Wrong("ln(1/100) is negative, but the loss is minus that logarithm: a positive one.")
    if not math.isclose(answer, math.log(100), rel_tol=1e-2):
        raise Wrong(f"{answer:g}: an untrained net gives each of the 100 classes 1/100. -ln of it?")
    return "ln(100) = 4.605 nats: twice as much as for ten classes, as 100 = 10 * 10."


@exercise
def check_run_length(answer: int) -> str:
    """Steps of the course recipe on 45,000 images: batch 512, whole batches only, 24 epochs."""
    if answer == 24 * 88:
        raise Wrong("88 counts the last batch of 456 images; drop_last=True leaves it out.")
    if answer == 24 * 98 or answer == 24 * 97:
        raise Wrong("That is for all 50,000 images; 5,000 of them are held out.")
    if answer == 87:
        raise Wrong("87 is one epoch. The run has 24.")
    if answer != 24 * 87:
        raise Wrong(f"{answer}: how many whole batches of 512 are in 45,000 images? Times 24.")
    return "87 whole batches an epoch, 2,088 steps, and the LR of the last of them is exactly 0."


@exercise
def check_average_loss(function: Callable) -> str:
    """The loss per image from batch means (nats) and batch sizes; the stub is the 2020 version."""
    means, sizes = [2.0, 1.0, 4.0], [500, 500, 100]
    found = float(function(means, sizes))
    if math.isclose(found, 7 / 1100):
        raise _Untouched("This is still the version of 2020: it divides by the images twice over.")
    if math.isclose(found, 7 / 3):
        raise Wrong(
            "That is the mean of the batch means: the 100 images of the last batch weigh as much "
            "as 500 others. Weight each mean by its batch's size."
        )
    if math.isclose(found, 1900):
        raise Wrong("1,900 is the loss summed over all 1,100 images. Divide by their number.")
    if not math.isclose(found, 1900 / 1100):
        raise Wrong(f"{found:g}: the sum over all images is 2*500 + 1*500 + 4*100 = 1,900 nats.")
    return "1,900 nats over 1,100 images: 1.727 an image, however the batches are cut."


@exercise
def check_smoothed_loss(function: Callable) -> str:
    """Cross-entropy with label smoothing against torch's own, on fixed logits."""
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    wanted = F.cross_entropy(logits, labels, label_smoothing=0.2)
    found = torch.as_tensor(function(logits, labels, 0.2))
    if not torch.allclose(
        torch.as_tensor(function(logits, labels, 0.0)), F.cross_entropy(logits, labels)
    ):
        raise Wrong("With smoothing 0 it must be the ordinary cross-entropy, mean over the batch.")
    if torch.allclose(found, F.cross_entropy(logits, labels)):
        raise Wrong("smoothing changes nothing: the targets are still 0 and 1.")
    if torch.allclose(found, 0.8 * F.cross_entropy(logits, labels)):
        raise Wrong("The true class lost 0.2, but nobody got it: targets must add up to 1.")
    true = F.one_hot(labels, 4)
    if torch.allclose(
        found, -((0.8 * true + 0.2 / 3 * (1 - true)) * logits.log_softmax(1)).sum(1).mean()
    ):
        raise Wrong("0.2 is shared by all classes, the true one included: 0.2 / 4 each, not / 3.")
    if not torch.allclose(found, wanted, atol=1e-5):
        raise Wrong(
            f"{float(found):.4f} where {float(wanted):.4f} is right. Are these log-probabilities?"
        )
    return "Equal to F.cross_entropy(..., label_smoothing=0.2)."


@exercise
def check_average_weights(function: Callable) -> str:
    """The exponential moving average of weights (steps, n), begun at the first."""
    weights = torch.tensor([[0.0, 8.0], [4.0, 8.0], [4.0, 0.0]])
    kept, found = weights.clone(), torch.as_tensor(function(weights, 0.75))
    if not torch.equal(weights, kept):
        raise Wrong("The weights handed in were changed: begin with weights[0].clone().")
    if found.shape != (2,):
        raise Wrong(f"shape {tuple(found.shape)}: one average of n = 2 weights is wanted, (2,)")
    if torch.allclose(found, torch.tensor([3.75, 2.0])):
        raise Wrong("Old and new are swapped: `decay` is what is kept of the old average.")
    if torch.allclose(found, weights.mean(0)):
        raise Wrong("That is the plain mean: all steps weigh the same, and decay does nothing.")
    if torch.allclose(found, torch.tensor([1.75, 2.625])):
        raise Wrong("It seems to begin at 0: the average of constant weights would not be theirs.")
    if not torch.allclose(found, torch.tensor([1.75, 6.0])):
        raise Wrong(f"{found.tolist()}, not [1.75, 6.0]: average = 0.75 * average + 0.25 * new")
    return "Two steps by hand agree: 0, 1, 1.75 and 8, 8, 6."


@exercise
def check_find_frozen(function: Callable) -> str:
    """Names of the parameters that an optimiser will never change."""
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    if list(function(net, optimizer)):
        raise Wrong("All parameters of this net are in the optimiser, yet some are reported.")
    net[2] = torch.nn.Linear(3, 5)
    found = set(function(net, optimizer))
    if not found:
        raise Wrong(
            "The head was replaced after the optimiser was made, so the optimiser still moves the "
            "old one. Compare the tensors in optimizer.param_groups with those of the net."
        )
    if found != {"2.weight", "2.bias"}:
        raise Wrong(f"{sorted(found)}, expected the new head's ['2.bias', '2.weight'].")
    net[0].weight.requires_grad_(False)
    if set(function(net, optimizer)) != {"0.weight", "2.weight", "2.bias"}:
        raise Wrong("0.weight has requires_grad=False: it gets no gradient, so it stays as it is.")
    return "Both ways of freezing are found: not in the optimiser, and requires_grad=False."


@exercise
def check_sgd_step(function: Callable) -> str:
    """Two steps of softmax regression by hand against torch.optim.SGD."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, 5, generator=g), torch.arange(8) % 3
    start = torch.randn(3, 5, generator=g)

    def reference(momentum: float, decay: float, steps: int) -> torch.Tensor:
        w = start.clone().requires_grad_()
        optimizer = torch.optim.SGD([w], lr=0.5, momentum=momentum, weight_decay=decay)
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(x @ w.T, y).backward()
            optimizer.step()
        return w.detach()

    def yours(momentum: float, decay: float, steps: int) -> torch.Tensor:
        w, velocity = start.clone(), torch.zeros(3, 5)
        for _ in range(steps):
            w, velocity = function(w, velocity, x, y, 0.5, momentum, decay)
        return w.detach()

    if torch.allclose(yours(0, 0, 1), 2 * start - reference(0, 0, 1), atol=1e-5):
        raise Wrong("The loss goes up: the step has to be subtracted.")
    if not torch.allclose(yours(0, 0, 1), reference(0, 0, 1), atol=1e-5):
        raise Wrong(
            "Without momentum and decay the first step differs from w - lr * gradient of the mean "
            "cross-entropy. Mean over the batch, not sum? Logits x @ w.T?"
        )
    if not torch.allclose(yours(0, 0.1, 1), reference(0, 0.1, 1), atol=1e-5):
        raise Wrong(
            "Weight decay is missing or misplaced: it adds weight_decay * w to the gradient."
        )
    if not torch.allclose(yours(0.9, 0, 2), reference(0.9, 0, 2), atol=1e-5):
        raise Wrong(
            "The second step differs with momentum 0.9: velocity = momentum * velocity + gradient "
            "(the whole gradient, not a tenth), and the new velocity is what is subtracted."
        )
    if not torch.allclose(yours(0.9, 0.1, 3), reference(0.9, 0.1, 3), atol=1e-5):
        raise Wrong("Alone both are right, but momentum and decay together are not.")
    return "Three steps agree with torch.optim.SGD, with momentum and weight decay."


# Lesson 03


@exercise
def check_sweep_lr(answer: float) -> str:
    """The LR of step 60 of an exponential sweep of 101 steps from 0.0001 to 10."""
    if math.isclose(answer, 1e-4 + 0.6 * (10 - 1e-4), rel_tol=1e-3):
        raise Wrong("That is a linear sweep. An exponential one multiplies by the same factor.")
    if math.isclose(answer, 1e-4 * 1e5 ** (60 / 101), rel_tol=1e-3):
        raise Wrong("101 steps have 100 gaps between them: divide by steps - 1, not by steps.")
    if math.isclose(answer, 1e5**0.6, rel_tol=1e-3):
        raise Wrong("That is how many times larger than the first LR it is: multiply by 0.0001.")
    if not math.isclose(answer, 0.1, rel_tol=1e-3):
        raise Wrong(f"{answer:g}: from 0.0001 to 10 are five decades. Go 60/100 of that way.")
    return "60 of 100 gaps are 0.6 of five decades, three decades: 0.0001 * 10**3 = 0.1."


@exercise
def check_smallest_every(function: Callable) -> str:
    """The smallest number of steps between evaluations that keeps the cost within twice."""
    if function(1920, 64) == 30:
        raise Wrong("A training step of 64 images costs 3 * 64 forward passes, not 64.")
    if function(1920, 64) == 11:
        raise Wrong("1,920 = 10 * 3 * 64 exactly: every 10 steps is still within twice the cost.")
    if function(1920, 64) != 10:
        raise Wrong(
            f"1,920 images, batch 64: {function(1920, 64)} is not right. In `every` steps, "
            "training costs every * 3 * 64; the evaluation, 1,920, may cost as much."
        )
    if function(2000, 64) == 10:
        raise Wrong("2,000 images, batch 64: 10 steps cost 1,920, too little by 80. Round up.")
    if (function(2000, 64), function(5000, 128), function(100, 64)) != (11, 14, 1):
        raise Wrong("2,000 and 64 give 11, 5,000 and 128 give 14, 100 and 64 give 1: a whole step.")
    return "Rounded up, and never below 1."


@exercise
def check_my_steep(function: Callable) -> str:
    """The LR where a loss falls fastest against log lr, on curves whose answer is known."""
    lr = 1e-4 * 10 ** np.linspace(0, 5, 101)
    loss = 2.3 - 1.5 / (1 + (lr / 0.01) ** -2.0) + (np.maximum(np.log10(lr), 0) * 4) ** 2
    found, right = function(lr, loss), lr[40]
    if not np.isscalar(found) and np.ndim(found) != 0:
        raise Wrong("Return one number, the LR of one step, not an array.")
    if found == 40:
        raise Wrong("That is the index of the step: return the LR there, lr[i].")
    if math.isclose(found, lr[np.argmin(loss)]):
        raise Wrong("That is where the loss is lowest. The slope there is zero, not steepest.")
    if math.isclose(found, lr[np.argmax(np.gradient(loss))]):
        raise Wrong("That is where the loss rises fastest. A fall has a negative slope.")
    if math.isclose(found, lr[np.argmin(np.gradient(loss, lr))]):
        raise Wrong("That is the slope against lr. On a log axis take it against log lr.")
    if not math.isclose(found, right):
        raise Wrong(f"The fall is fastest at {right:.3g}, your rule says {float(found):.3g}")
    uneven = np.delete(lr, np.arange(50, 100, 2))  # steps that are twice as far apart
    curve = 2.3 - 1.5 / (1 + (uneven / 0.03) ** -2.0)
    slope = np.gradient(curve, np.log(uneven))
    if not math.isclose(function(uneven, curve), uneven[np.argmin(slope)]):
        raise Wrong("Where steps lie unevenly it fails: give np.gradient the positions, log lr.")
    return "The steepest fall against log lr, also where steps lie unevenly."


@exercise
def check_centred(function: Callable) -> str:
    """The mean over `reach` steps to both sides; at the ends of fewer, on both sides equally."""
    line, one = np.arange(9.0), np.eye(9)[4]
    smooth = np.asarray(function(line, 2), dtype=float)
    if smooth.shape != line.shape:
        raise Wrong(f"9 values go in, {smooth.shape} come out: one smoothed value for each step.")
    spike = np.asarray(function(one, 2), dtype=float)
    if spike[:4].sum() == 0 and spike[4:].sum() > 0:
        raise Wrong("Each mean looks back only, so what happens at step 4 shows later: it lags.")
    if math.isclose(spike[2:7].sum(), 1) is False or not math.isclose(spike[4], 0.2):
        raise Wrong("A spike at step 4 should become 0.2 at steps 2 to 6: five values, 1/5 each.")
    if smooth[-1] < 7:
        raise Wrong("The end sinks: values that do not exist are counted as zeros there.")
    if not np.allclose(smooth, line):
        raise Wrong("A straight line bends at its ends: shrink the window on both sides equally.")
    return "No lag, and a straight line stays straight to its ends."


@exercise
def check_divided_rules(answer: set[str]) -> str:
    """The rules whose LR can change when every loss is divided by 512."""
    rules = {"steep", "valley", "minimum", "slide", "accuracy"}
    found = {answer} if isinstance(answer, str) else set(answer)
    if unknown := found - rules:
        raise Wrong(f"{sorted(unknown)} is no rule. The rules: {', '.join(sorted(rules))}.")
    if "slide" not in found:
        raise Wrong("One rule compares slopes with a fixed threshold, and slopes shrink as well.")
    if "accuracy" in found:
        raise Wrong("The accuracy rule never looks at the loss.")
    if "minimum" in found:
        raise Wrong("The lowest of all losses stays the lowest, whatever all are divided by.")
    if "steep" in found:
        raise Wrong("All slopes shrink alike: the steepest one stays where it is.")
    if "valley" in found:
        raise Wrong("Falling stays falling: the longest falling run begins and ends as before.")
    return "Only slide has a threshold in units of the loss. All others ask what is largest."


# Lesson 02


@exercise
def check_conv_parameters(answer: int) -> str:
    if answer == 5 * 5 * 32 * 48:
        raise Wrong("That is without the biases: there is one for each output channel.")
    if answer == 5 * 5 * 48 + 48:
        raise Wrong("Each output channel has a kernel for every input channel, not just one.")
    if answer in (5 * 32 * 48, 5 * 32 * 48 + 48):
        raise Wrong("A 5x5 kernel has 25 weights, not 5.")
    if answer != 38_448:
        raise Wrong(f"{answer} is not it: kernel height x width x inputs x outputs, then the bias.")
    return "38,400 weights and 48 biases."


@exercise
def check_receptive_field(function: Callable) -> str:
    cases = {
        "one 3x3 convolution": ([(3, 1, 1, 1)], (3, 1), "start at size 1 and add (k - 1) * jump"),
        "two 3x3 convolutions": ([(3, 1, 1, 1)] * 2, (5, 1), "each adds 2; padding adds nothing"),
        "stride 2, then 3x3": (
            [(2, 2, 0, 1), (3, 1, 1, 1)],
            (6, 2),
            "a layer grows the field by the jump before it, and its stride changes the jump after",
        ),
        "two strides of 2": ([(3, 2, 1, 1)] * 2, (7, 4), "jumps multiply, they do not add"),
        "dilation 2": ([(3, 1, 2, 2)], (5, 1), "a dilated kernel covers dilation * (k - 1) + 1"),
    }
    for name, (layers, expected, cause) in cases.items():
        found = tuple(function(layers))
        if found != expected:
            raise Wrong(f"{name}: expected (size, jump) = {expected}, got {found}. Rule: {cause}.")
    return "Strides, padding and dilation all count as they should."


@exercise
def check_residual_stage(stage: type) -> str:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 8, 8)
    for stride, size in ((1, 8), (2, 4)):
        module = stage(4, 6, stride)
        out = module(x)
        if out is ...:
            raise _Untouched
        if tuple(out.shape) != (2, 6, size, size):
            raise Wrong(
                f"Stride {stride}: expected shape (2, 6, {size}, {size}), got {tuple(out.shape)}. "
                "Padding of the 3x3 convolutions, or the stride of one path?"
            )
    kernels = sorted(m.kernel_size[0] for m in module.modules() if isinstance(m, nn.Conv2d))
    if kernels != [1, 3, 3]:
        raise Wrong(f"Expected two 3x3 convolutions and one 1x1, found kernels {kernels}.")
    if any(m.bias is not None for m in module.modules() if isinstance(m, nn.Conv2d)):
        raise Wrong("A convolution has a bias: the batch norm behind it subtracts it again.")
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    if len(norms) != 3:
        raise Wrong(f"Expected a batch norm behind each of three convolutions, found {len(norms)}.")
    if out.min() >= 0:
        raise Wrong("No output is negative: there is a ReLU after the sum, which this stage lacks.")
    module.eval()  # fixed statistics: without a ReLU the stage is one affine map
    if torch.allclose(module(x) + module(-x), 2 * module(0 * x), atol=1e-4):
        raise Wrong("There is no ReLU on the main path, so both convolutions act as a single one.")
    out = module(x)
    for weight in (w for w in module.parameters() if w.shape[2:] == (1, 1)):
        nn.init.zeros_(weight)
    if torch.equal(module(x), out):
        raise Wrong("The 1x1 convolution changes nothing: the shortcut is not added.")
    return "Shapes, layers and the sum are right."


@exercise
def check_mended_counter(counter: Callable) -> str:
    main = lambda *layers: [("main", k, s) for k, s in layers]
    stage, beside = main((3, 1), (2, 2), (3, 1), (3, 1)), [("shortcut", 1, 2)]
    net = main((3, 1)) + stage + beside + main((3, 1), (2, 2)) + stage + beside
    if counter(main((3, 1), (2, 2), (3, 1))) != 8:
        raise Wrong("A net without shortcuts has changed too: 3x3, pool 2, 3x3 must give 8.")
    found = counter(net)
    if found == 114:
        raise Wrong("Still 114: the stride of a shortcut still changes the jump of the main path.")
    if found != 64:
        raise Wrong(f"DavidNet gives {found}, not 64: leave out exactly the shortcut's layers.")
    if counter(net) != found:
        raise Wrong("A second call gives another number: something is kept between the calls.")
    return "64, and the same at every call."


# Lesson 07


@exercise
def check_layer_flops(answer: float) -> str:
    """FLOP to train on one image: conv 3x3, 128 -> 256, on a 16x16 map."""
    adds = 16 * 16 * 256 * 128 * 9
    told = {
        adds: "That counts multiply-adds of the forward pass; each is two operations, and the "
        "backward pass is still missing.",
        2 * adds: "That is the forward pass alone: the backward pass costs about twice as much.",
        3 * adds: "Forward and backward are there, but a multiply-add is two operations.",
        6 * adds // 9: "The 3x3 kernel is missing: each output value sums 9 x 128 products.",
    }
    if answer in told:
        raise Wrong(told[answer])
    if not math.isclose(answer, 6 * adds, rel_tol=1e-3):
        raise Wrong(f"{answer:g} is not it: outputs (16 x 16 x 256) times kernel weights, x 2 x 3.")
    return "16 x 16 x 256 x 128 x 9 multiply-adds, x 2 x 3: 0.45 GFLOP."


@exercise
def check_amdahl(answer: float) -> str:
    """90 % of the time becomes 10 times faster."""
    told = {
        10.0: "That part is 10 times faster, but the rest takes as long as before.",
        9.0: "Shares of speed-ups cannot be added or multiplied: add up the times instead.",
        0.19: "That is the new time, as a share of the old. How many times faster is that?",
    }
    for value, reason in told.items():
        if math.isclose(answer, value, rel_tol=5e-3):
            raise Wrong(reason)
    if not math.isclose(answer, 1 / 0.19, rel_tol=5e-3):
        raise Wrong(f"{answer:g} is not it: the new time is 0.1 (untouched) + 0.9 / 10.")
    return "1 / (0.1 + 0.9 / 10) = 5.26; without any limit on the factor it would be 10."


@exercise
def check_ring_bytes(function: Callable) -> str:
    """Bytes that each process sends for one ring all-reduce."""
    if function(1000, 4, 1) != 0:
        raise Wrong(f"One process sends nothing, this says {function(1000, 4, 1):g} bytes.")
    found = function(1_000_000, 4, 2)
    if math.isclose(found, 2_000_000):
        raise Wrong("Half of it: a ring goes round twice, to add up and to hand the sums on.")
    if math.isclose(found, 1_000_000):
        raise Wrong("A parameter is not a byte: multiply by the bytes of one.")
    if not math.isclose(found, 4_000_000):
        raise Wrong(f"2 processes, 1,000,000 floats: {found:g} bytes, expected 4,000,000.")
    if not math.isclose(function(1_000_000, 2, 8), 3_500_000):
        found = function(1_000_000, 2, 8)
        raise Wrong(f"8 processes, 1,000,000 half floats: {found:g} bytes, expected 3,500,000.")
    return "Nearly twice the model a process, however many there are."


@exercise
def check_shard(function: Callable) -> str:
    """Indices of each rank: together each image once, another order each epoch."""
    epochs = [[np.asarray(function(12, r, 3, e)) for r in range(3)] for e in (0, 1)]
    for parts in epochs:
        joined = np.concatenate(parts)
        if len(joined) != 12:
            raise Wrong(f"3 ranks have {len(joined)} of 12 images in all: each takes a third.")
        if sorted(joined.tolist()) != list(range(12)):
            raise Wrong(
                "Some images come twice and others never: all ranks must shuffle with the "
                "same seed, and then take different places of that one order."
            )
    if all((a == b).all() for a, b in zip(*epochs, strict=True)):
        raise Wrong("Epochs 0 and 1 have the same order: the seed must depend on the epoch.")
    if np.array_equal(np.concatenate(epochs[0]), np.arange(12)):
        raise Wrong("Nothing is shuffled in epoch 0.")
    if sorted(np.concatenate([function(10, r, 3, 0) for r in range(3)]).tolist()) != [*range(10)]:
        raise Wrong("10 images, 3 ranks: not each image once. The ranks may differ by one image.")
    return "Each image once an epoch, in an order that changes from epoch to epoch."


@exercise
def check_timing_faults(answer: dict) -> str:
    """What is wrong with each of three measurements."""
    right = {"A": "warm-up", "B": "sync", "C": "median"}
    if set(answer) != set(right) or not set(answer.values()) <= set(right.values()):
        raise Wrong('Expected {"A": ..., "B": ..., "C": ...} of "warm-up", "sync", "median".')
    told = {
        "A": "A: look where the long one stands, and what its neighbours are.",
        "B": "B: can ten steps together take less than the end of them alone?",
        "C": "C: the long ones stand anywhere. Which summary forgets them?",
    }
    bad = [told[name] for name in right if answer[name] != right[name]]
    if bad:
        raise Wrong(" ".join(bad))
    return "Warm up first, wait for the device before the clock is read, and take the median."


@exercise
def check_global_lr(answer: float) -> str:
    """0.4 at batch 512; 8 GPUs of 128 images each."""
    told = {
        3.2: "That is 8 times 0.4: it would be right for 512 images on each GPU.",
        0.1: "That belongs to 128 images. One step averages over the images of all GPUs.",
        0.4: "The batch is not 512 any more: add up the images of all GPUs.",
    }
    for value, reason in told.items():
        if math.isclose(answer, value, rel_tol=1e-6):
            raise Wrong(reason)
    if not math.isclose(answer, 0.8, rel_tol=1e-6):
        raise Wrong(f"{answer:g} is not it: LR in proportion to the global batch.")
    return "8 x 128 = 1,024 images a step, twice 512: 0.8."


@exercise
def check_global_loss(function: Callable) -> str:
    """Mean loss over all images, from each rank's mean and count."""
    found = function([1.0, 3.0], [10, 10])
    if not math.isclose(found, 2.0):
        raise Wrong(f"Two equal shares with means 1 and 3: {found:g}, expected 2.")
    found = function([1.0, 3.0], [30, 10])
    if math.isclose(found, 2.0):
        raise Wrong("30 images count no more than 10: that is the mean of the means.")
    if not math.isclose(found, 1.5):
        raise Wrong(f"Means 1 of 30 images and 3 of 10: {found:g}, expected 1.5.")
    return "Sums are added, then divided once: every image counts the same."


# Lesson 06


@exercise
def check_images_needed(answer: float) -> str:
    """Test images for a 95 % interval of +-0.5 points at an accuracy of 91 %."""
    if math.isclose(answer, 1.96**2 * 0.25 / 0.005**2, rel_tol=0.02):
        raise Wrong("That is for an accuracy of 50 %, the worst case. Here p(1-p) is 0.91 * 0.09.")
    if math.isclose(answer, 1.96**2 * 0.0819 / 0.0025**2, rel_tol=0.02):
        raise Wrong("That interval is 0.5 points wide in all. Asked for: 0.5 points to each side.")
    if math.isclose(answer, 0.0819 / 0.005**2, rel_tol=0.02):
        raise Wrong("That is one standard error. 95 % needs 1.96 of them, and so 1.96**2 as many.")
    if not 12_300 <= answer <= 12_900:
        raise Wrong(f"{answer:g}: solve 0.005 = 1.96 * sqrt(0.91 * 0.09 / n) for n.")
    return "About 12,600: the 10,000 images of the CIFAR-10 test set give +-0.56 points."


@exercise
def check_confusion(function: Callable) -> str:
    """Counts by true class (rows) and predicted class (columns), on fixed labels."""
    true, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 2, 2, 1, 0, 2])
    wanted = np.array([[1, 0, 2, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    found = np.asarray(function(true, predicted, 4))
    if found.shape != (4, 4):
        raise Wrong(
            f"shape {found.shape}: four classes were asked for, and class 3 merely does not occur."
        )
    if np.array_equal(found, wanted.T):
        raise Wrong("Rows and columns are swapped: a row is a true class.")
    if np.array_equal(found, np.minimum(wanted, 1)):
        raise Wrong(
            "Two images of class 0 were called 2. With `m[t, p] += 1` on arrays, one counts."
        )
    if not np.array_equal(found, wanted):
        raise Wrong(f"true {true.tolist()}, predicted {predicted.tolist()} gave {found.tolist()}")
    return "Rows are true classes, repeated pairs count, and a class without images keeps its row."


@exercise
def check_class_accuracy(function: Callable) -> str:
    """Per-class accuracy from a confusion matrix whose rows are true classes."""
    matrix = np.array([[8, 2, 0], [1, 3, 0], [0, 5, 1]])
    found = np.asarray(function(matrix), dtype=float)
    if found.shape != (3,):
        raise Wrong(f"shape {found.shape}: one number for each of the 3 classes is wanted.")
    if np.allclose(found, [8 / 9, 3 / 10, 1]):
        raise Wrong("Divided by columns: of what was *called* a class, which share was one. Rows!")
    if np.allclose(found, [8 / 20, 3 / 20, 1 / 20]):
        raise Wrong("Divided by all images: the classes add up to the overall accuracy. Per row!")
    if not np.allclose(found, [0.8, 0.75, 1 / 6]):
        raise Wrong(f"{found.round(3).tolist()}, not [0.8, 0.75, 0.167]: right ones over the row.")
    return "The diagonal over the sums of the rows."


@exercise
def check_grad_cam(function: Callable) -> str:
    """Grad-CAM from activations and gradients (B, K, h, w), on fixed random ones."""
    generator = torch.Generator().manual_seed(0)
    a, g = (torch.randn(2, 5, 4, 3, generator=generator) for _ in range(2))
    weights = g.mean((2, 3), keepdim=True)
    found = torch.as_tensor(function(a, g))
    if found.shape != (2, 4, 3):
        raise Wrong(f"shape {tuple(found.shape)}: one map (h, w) an image is wanted, (2, 4, 3)")
    if torch.allclose(found, (weights * a).sum(1), atol=1e-5):
        raise Wrong("The negative parts are still there: the ReLU is missing.")
    if torch.allclose(found, F.relu(weights * a).sum(1), atol=1e-5):
        raise Wrong("The ReLU comes after the sum: channels may speak against the class.")
    if torch.allclose(found, F.relu((g * a).sum(1)), atol=1e-5):
        raise Wrong("The gradients are used unit by unit: a channel's weight is their mean.")
    if torch.allclose(found, F.relu((12 * weights * a).sum(1)), atol=1e-4):
        raise Wrong("12 times too large: the weight is the mean over the map, not the sum.")
    if torch.allclose(found, F.relu((g.mean((0, 2, 3))[:, None, None] * a).sum(1)), atol=1e-5):
        raise Wrong("The mean runs over the batch as well: each image has its own weights.")
    if not torch.allclose(found, F.relu((weights * a).sum(1)), atol=1e-5):
        raise Wrong("The shape is right, the values are not. Mean over h and w, weight, sum, ReLU.")
    return "Mean over the map, weighted sum of the channels, ReLU: Grad-CAM."


@exercise
def check_ece(function: Callable) -> str:
    """The expected calibration error on six predictions in two (of four) bins."""
    sure = np.array([0.6, 0.7, 0.9, 0.9, 0.9, 1.0])
    right = np.array([1, 1, 1, 0, 1, 0], dtype=bool)
    found = float(function(sure, right, 4))
    if math.isnan(found):
        raise Wrong("An empty bin gave nan: leave bins without images out.")
    if math.isclose(found, (0.35 + 0.425) / 2, abs_tol=1e-4):
        raise Wrong("Both bins weigh the same, but one has 2 images, the other 4.")
    if math.isclose(found, abs(sure.mean() - right.mean()), abs_tol=1e-4):
        raise Wrong("Too sure here and too modest there cancel: take |...| bin by bin.")
    if math.isclose(found, np.abs(sure - right).mean(), abs_tol=1e-4):
        raise Wrong("That is the distance image by image: average within a bin first.")
    if not math.isclose(found, 0.4, abs_tol=1e-4):
        raise Wrong(f"{found:.4f}, not 0.4: 2/6 of |0.65 - 1| and 4/6 of |0.925 - 0.5|.")
    return "Each bin's gap between confidence and accuracy, weighted by its images: 0.4."


# Lesson 01


@exercise
def check_count_versions(answer: int) -> str:
    """The number of draws of pad 4, crop 32, flip, and a whole 8x8 hole."""
    places, holes = 9 * 9, 25 * 25
    likely = {
        places * holes: "Mirrored or not doubles that.",
        8 * 8 * 2 * 24 * 24: "The first and the last place count both: 40 - 32 + 1 places.",
        8 * 8 * 2 * holes: "Crops: 0 to 8 are nine places, not eight.",
        places * 2 * 24 * 24: "Holes: 0 to 24 are 25 places, not 24.",
        places * 2 * 32 * 32: "The hole lies wholly inside: it cannot begin at the last pixel.",
        9 * 2 * 25: "Crop and hole move down and across, each by itself: square both counts.",
        places + 2 + holes: "Each crop goes with each flip and each hole: multiply, not add.",
    }
    if answer in likely:
        raise Wrong(likely[answer])
    if answer != places * 2 * holes:
        raise Wrong(f"{answer:,} is not the number. Count crops, flips and holes; then multiply.")
    return "9 * 9 crops, 2 directions, 25 * 25 holes: 101,250 versions of every image."


@exercise
def check_statistics(function: Callable) -> str:
    """Mean and std per channel of images that differ in brightness."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 100, (6, 4, 5, 3)) + rng.integers(0, 150, (6, 1, 1, 3))
    mean, std = (np.asarray(v, dtype=float) for v in function(images.astype(np.uint8)))
    values = images.reshape(-1, 3) / 255
    if mean.shape != (3,) or std.shape != (3,):
        raise Wrong(f"mean {mean.shape}, std {std.shape}: expected one value a channel, (3,).")
    if np.allclose(mean, 255 * values.mean(0)):
        raise Wrong("These are in 0..255: divide the values by 255 first.")
    if not np.allclose(mean, values.mean(0)):
        raise Wrong(f"The means are {mean.round(3)}, not {values.mean(0).round(3)}.")
    if np.allclose(std, values.std(0) ** 2):
        raise Wrong("That is the variance; the standard deviation is its root.")
    if np.allclose(std, (images / 255).std((1, 2)).mean(0)):
        raise Wrong("That is the mean of the images' own stds: the spread between them is lost.")
    if np.allclose(std, values.std(0, ddof=1)):
        raise Wrong("That divides by the count less one, as torch.std does; numpy's std does not.")
    if not np.allclose(std, values.std(0)):
        raise Wrong(f"The stds are {std.round(3)}, not {values.std(0).round(3)}.")
    return "Mean and std over all pixels of all images, the spread between images included."


@exercise
def check_normalise(function: Callable) -> str:
    """(value / 255 - mean) / std, channels first."""
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    images = torch.randint(256, (2, 32, 32, 3), generator=torch.Generator().manual_seed(0))
    given = images.to(torch.uint8)
    x = function(given, mean, std)
    z = (images / 255 - torch.tensor(mean)) / torch.tensor(std)
    right = z.permute(0, 3, 1, 2)
    if tuple(x.shape) != (2, 3, 32, 32):
        raise Wrong(f"The shape is {tuple(x.shape)}, not (2, 3, 32, 32): channels come first.")
    if torch.allclose(x.float(), z.reshape(2, 3, 32, 32).float()):
        raise Wrong("reshape keeps the order of the values and mixes up the axes: use permute.")
    unscaled = (images - torch.tensor(mean)) / torch.tensor(std)
    if torch.allclose(x.float(), unscaled.permute(0, 3, 1, 2), rtol=1e-3):
        raise Wrong("mean and std belong to values in 0..1: divide by 255 first.")
    if not torch.allclose(x.float(), right, atol=1e-4):
        raise Wrong(f"The first value is {x[0, 0, 0, 0]:.4f}, not {right[0, 0, 0, 0]:.4f}.")
    if x.dtype != torch.float32:
        raise Wrong(f"The values are right, but {x.dtype}; the net takes float32.")
    return "Scaled, shifted, and each colour in a plane of its own."


@exercise
def check_cut_out(function: Callable) -> str:
    """A square of zeros in each image, the input left as it was."""
    given = np.random.default_rng(0).uniform(1, 2, (3, 32, 32, 3))
    tops, lefts = np.array([0, 5, 24]), np.array([3, 24, 10])
    before, right = given.copy(), given.copy()
    for i in range(3):
        right[i, tops[i] : tops[i] + 8, lefts[i] : lefts[i] + 8] = 0
    result = function(given, tops, lefts, 8)
    if not np.array_equal(given, before):
        raise Wrong("The images you were given have changed: work on a copy.")
    if np.shape(result) != given.shape:
        raise Wrong(f"The shape is {np.shape(result)}, not {given.shape}.")
    holes = (result == 0).all(3).sum((1, 2))
    if not (holes == 64).all():
        raise Wrong(f"{holes.tolist()} hidden pixels in the images, not 64 in each.")
    if len({(image == 0).tobytes() for image in result}) == 1:
        raise Wrong("All images have the same hole: image i has its own, at tops[i], lefts[i].")
    if not np.array_equal(result, right):
        raise Wrong("The squares have the right size but lie elsewhere: rows come before columns.")
    return "One square of 8x8 in each image, and the training set is unharmed."


@exercise
def check_mended_steps(function: Callable) -> str:
    """Steps that move a 32x32 image by up to 4 pixels each way, seen on a ruler image."""
    from helpers.augment import A  # here: it takes a second to load

    ruler = np.zeros((32, 32, 3), dtype=np.uint8)
    ruler[..., 0], ruler[..., 1] = np.arange(32)[:, None], np.arange(32)[None, :]
    steps = A.Compose(function(), strict=True, seed=0)
    results = [steps(image=ruler)["image"] for _ in range(300)]
    if results[0].shape != (32, 32, 3):
        raise Wrong(f"The images come out as {results[0].shape}: crop back to 32x32.")
    shifts = {tuple(result[16, 16, :2].astype(int) - 16) for result in results}
    if len(shifts) == 1:
        raise Wrong("Still no image moves. To what size must 32 pixels grow with 4 on each side?")
    reach = max(max(map(abs, shift)) for shift in shifts)
    if reach != 4:
        raise Wrong(f"The images move by up to {reach} pixels, not by up to 4.")
    return "Images move by up to 4 pixels in each direction, and come out as 32x32."


class _Drawing:
    """A data set with a generator of its own, as a worker has a copy of it."""

    def __init__(self):
        self.rng = np.random.default_rng(0)


@exercise
def check_worker_start(function: Callable) -> str:
    """Two workers in two epochs draw different numbers, and the same ones in a second run."""

    def draws(seed: int) -> tuple[int, ...]:
        dataset = _Drawing()  # a fresh copy, as in each new worker
        function(dataset, seed)
        return tuple(dataset.rng.integers(1000, size=8).tolist())

    state = np.random.get_state()
    try:
        first, second = [draws(seed) for seed in (11, 12, 21, 22)], draws(11)
    finally:
        np.random.set_state(state)
    if set(first) == {tuple(np.random.default_rng(0).integers(1000, size=8).tolist())}:
        raise Wrong("Nothing has changed: the copy still draws with the generator it came with.")
    if len(set(first)) == 1:
        raise Wrong("All workers still draw the same: the new generator must depend on the seed.")
    if len(set(first)) < 4:
        raise Wrong("Some workers draw the same: use the seed as it is, all of it.")
    if first[0] != second:
        raise Wrong("The workers differ, but a second run with the same seed draws other numbers.")
    return "Every worker and epoch draws its own numbers, and a run can be repeated."
