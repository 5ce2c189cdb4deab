"""Three training recipes, the reasons beside the numbers.

replace(COURSE, weight_decay=0.0)   # dataclasses.replace: one change, everything else equal
COURSE.with_batch(128)              # another batch size, with the LR that belongs to it
COURSE.lr(step, steps_per_epoch, 5) # five epochs instead of 24: the same curve, compressed
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from typing import Literal

import numpy as np

from helpers.schedules import piecewise_linear, source_one_cycle


def plain(value):
    """NumPy's numbers (from np.geomspace, say) as plain Python ones, which any file can hold."""
    if isinstance(value, (tuple, list, np.ndarray)):
        return tuple(plain(item) for item in value)
    return value.item() if isinstance(value, np.generic) else value


def rise(knots: tuple | None) -> bool:
    """Whether knots make a schedule; None stands for the source's own."""
    if not knots:
        return knots is None
    times, shares = zip(*knots, strict=True)
    rises = times[0] == 0 and all(a < b for a, b in pairwise(times)) and len(times) > 1
    whole = all(time % 1 == 0 for time in times)
    return rises and whole and all(0 <= share < inf for share in shares)


@dataclass(frozen=True)
class Recipe:
    """What is decided before a run; LR and decay are for torch's SGD on the mean cross-entropy."""

    name: str
    epochs: int
    batch_size: int
    peak: float  # largest learning rate
    # (epoch, fraction of the peak), linear between; the last epoch is the end of the run, however
    # long that is; None: the source's own schedule
    knots: tuple[tuple[int, float], ...] | None
    momentum: float
    nesterov: bool
    weight_decay: float
    label_smoothing: float
    bias_lr: float  # biases (BN's too): LR x bias_lr, weight decay / bias_lr; BN scales: as weights
    muon: float | None  # peak LR of Muon, which moves the convolutions; None: SGD moves them too
    ema: float | None  # decay per step of the averaged weights that are evaluated; None: no average
    flip: float | Literal["alternating"]  # probability of a horizontal flip, or every other epoch
    pad: int  # pixels mirrored on each side before the random crop back to 32
    cutout: int  # side in pixels of the square hole; 0: none
    drop_last: bool  # leave out the last, partial batch of an epoch
    dirac_init: bool  # 3x3 convolutions start as the identity on their first input channels

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            object.__setattr__(self, name, plain(value))
        whole = lambda number: isinstance(number, int) and number >= 1
        fits = {
            "epochs": ("a whole number, 1 or more", whole(self.epochs)),
            "batch_size": ("a whole number, 1 or more", whole(self.batch_size)),
            "peak": ("a finite number, 0 or more", 0 <= self.peak < inf),
            "knots": (
                "None, or whole epochs that rise from 0, with shares of 0 or more",
                rise(self.knots),
            ),
            "momentum": ("0 or more, below 1", 0 <= self.momentum < 1),
            "nesterov": (
                "True or False, and False without momentum",
                isinstance(self.nesterov, bool) and (self.momentum > 0 or not self.nesterov),
            ),
            "weight_decay": ("a finite number, 0 or more", 0 <= self.weight_decay < inf),
            "label_smoothing": ("0 to 1", 0 <= self.label_smoothing <= 1),
            "bias_lr": ("above 0 (requires_grad_(False) freezes biases)", 0 < self.bias_lr < inf),
            "muon": ("None, or above 0", self.muon is None or 0 < self.muon < inf),
            "drop_last": ("True or False", isinstance(self.drop_last, bool)),
            "dirac_init": ("True or False", isinstance(self.dirac_init, bool)),
            "ema": ("None, or between 0 and 1", self.ema is None or 0 < self.ema < 1),
        }
        for name, (expected, holds) in fits.items():
            if not holds:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} in recipe {self.name}: expected {expected}"
                )

    def lr(self, step: int, steps_per_epoch: int, epochs: int | None = None) -> float:
        """LR of step 0 to epochs * steps_per_epoch - 1; any other step raises ValueError.

        As in Page's code, the first step is above 0, and the last, even if it is the only one, has
        exactly the last knot's value.
        """
        epochs = self.epochs if epochs is None else epochs
        total = epochs * steps_per_epoch
        if not 0 <= step < total:
            raise ValueError(
                f"step {step}: {epochs} epochs of {steps_per_epoch} steps have 0 to {total - 1}."
            )
        if self.knots is None:  # 24 LRs, one an epoch: in any run each lasts a 24th of the steps
            return source_one_cycle(step * 24 // total) * (self.peak / 0.472)
        times, values = zip(*self.knots, strict=True)
        now = (step + 1) * times[-1]  # times multiplied by the steps of the run: whole numbers
        return self.peak * piecewise_linear(now, [time * total for time in times], values)

    def with_batch(self, batch_size: int) -> "Recipe":
        """The recipe at another batch size: LR in proportion (Goyal et al. 2017, arXiv:1706.02677),
        Muon's with the square root, as Malladi et al. (2022, arXiv:2205.10287) derive it for Adam,
        whose steps have a fixed length too, and an average over as many images as before."""
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size}: expected 1 or more images.")
        ratio = batch_size / self.batch_size
        ema = None if self.ema is None else self.ema**ratio
        muon = None if self.muon is None else self.muon * ratio**0.5
        return replace(self, batch_size=batch_size, peak=self.peak * ratio, muon=muon, ema=ema)


# The 2020 run: 91.31 % on the test set after 24 epochs. "Not stated": its report does not say.
SOURCE = Recipe(
    name="source",
    epochs=24,  # from its log
    batch_size=512,  # stated
    peak=0.472,  # its log, epoch 6; probably from its LR finder, at batch 128
    knots=None,  # one LR an epoch, all 24 of them logged; the last is 0.028, not 0
    momentum=0.9,  # not stated; what nearly every SGD run on CIFAR-10 uses
    nesterov=False,  # not stated; torch's default
    weight_decay=0.0,  # not stated; torch's default
    label_smoothing=0.0,  # not stated; torch's default
    bias_lr=1.0,  # one parameter group
    muon=None,
    ema=None,  # the weights of the last step were tested
    flip=0.5,  # stated without a probability; the library's default
    pad=4,  # stated
    cutout=8,  # stated
    drop_last=False,  # its log counts 98 batches: 97 full ones and one of 336 images
    dirac_init=False,  # torch's default initialisation
)

# The same net, epochs, batch, momentum, padding and hole; what differs is known from Page, "How to
# train your ResNet" (2018-19), and Jordan, "94 % on CIFAR-10 in 3.29 seconds" (arXiv:2404.00498).
COURSE = replace(
    SOURCE,
    name="course",
    peak=0.4,  # Page's 24-epoch run of the closest relative of this net, also at batch 512
    knots=((0, 0), (5, 1), (24, 0)),  # Page: up for 5 of 24 epochs, then down to exactly 0
    nesterov=True,  # Page
    weight_decay=5e-4,  # Page
    label_smoothing=0.2,  # Page's later runs, Jordan
    # Page: 64 on logits / 16, Jordan: 64 on logits / 9, both with BN scales that are not trained.
    # Here nothing is scaled, so gradients are some ten times theirs; 64 was tried on this net and
    # diverges. Decay / 8 keeps LR x decay as it is.
    bias_lr=8.0,
    ema=0.99,  # Page averages every 5 steps with 0.99^5: about the last 100 steps, one epoch
    flip="alternating",  # Jordan: two successive epochs show each image both ways round
    drop_last=True,  # Page: each step averages over equally many images
    dirac_init=True,  # Jordan: signals and gradients pass the fresh layers unmixed
)

# As few operations as possible, on `models.SpeedNet`. Where no other reason is given, the numbers
# are those of airbench94_muon (Jordan 2024, after arXiv:2404.00498), for the mean cross-entropy.
SPEEDRUN = replace(
    COURSE,
    name="speedrun",
    epochs=12,  # Jordan: 8, but he also averages over shifted test images; half of COURSE
    batch_size=2000,
    peak=1.66,  # with Muon this is left to the last layer
    knots=((0, 1), (12, 0)),  # no warm-up there, perhaps because steps have a fixed length
    momentum=0.85,  # a shorter memory for a shorter run; Muon's own is 0.6
    weight_decay=2.4e-3,
    bias_lr=64.0,  # here logits are scaled, so this does not diverge
    muon=0.24,  # at first each step is a quarter as long as the weights themselves
    ema=None,  # the LR ends at 0, which quiets the noise as well
    pad=2,  # a short run needs less variety
    cutout=0,
)
