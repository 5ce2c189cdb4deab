"""The checks of lesson 05: what is right, what is wrong, and what it likely comes from."""

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from helpers.exercises.judging import (
    Untouched,
    Wrong,
    array,
    close,
    exercise,
    judge,
    need_shape,
    number,
    two,
)

check_initial_loss = number(  # of an untrained net with 100 classes, in nats
    math.log(100),
    "ln(100) = 4.605 nats: twice as much as for ten classes, as 100 = 10 * 10.",
    "An untrained net gives each of the 100 classes 1/100. What is -ln of that?",
    {
        math.log(10): "2.30 is ln(10): right for ten classes, but here there are 100.",
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
        raise Untouched(
            "This is still the version of 2020: it divides by the number of images twice."
        )
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
        raise Wrong("It seems to begin at 0: constant weights would not average to themselves.")
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
            "Each is right alone. For both, add the decay to the gradient before the momentum."
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
        (equal, 3.18, (0.6, 0.1, 0.4, 0.0), "undecided", "So few pairs need the t you are given."),
        (equal, 3.18, (0.13, 0.33, 0.53, 0.13), "undecided", "t * std / root of n, with ddof=1?"),
        (equal[:3], 4.3, (0.35, 0.15, 0.4), "undecided", "Here are only three pairs: use their t."),
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
