"""Training: model, images and a recipe in, history out.

Read `Run.train_step` first (one batch), then `Run.train_epoch` (when the losses are looked at), then
`fit` (epochs, checkpoints, the log). `train` is the same from the shell, in one process or many.
"""

import argparse
import copy
import json
import os
import platform
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from helpers import checkpoint, recipes
from helpers.augment import AugmentedImages, BatchAugment, Batches, seed_transform
from helpers.data import ImageSet, load
from helpers.evaluation import device_of, eval_mode, per_class_accuracy, predict
from helpers.models import DavidNet
from helpers.recipes import COURSE, Recipe

LOOK_EVERY = 50  # steps between two looks at the losses on an accelerator: each look waits for it


class NonFiniteLoss(RuntimeError):
    """The loss became infinite or not a number."""


def fit(
    model: nn.Module,
    train: ImageSet | Iterable[tuple[Tensor, Tensor]],
    val: ImageSet | Iterable[tuple[Tensor, Tensor]] | None = None,
    *,
    recipe: Recipe = COURSE,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    compile: bool = False,
    verbose: bool = True,
) -> list[dict]:
    """Train `model` by `recipe`; then it has the weights to use: averaged ones if the recipe averages.

    train: an ImageSet, which is augmented on the device as the recipe says, or batches
        (x (B,3,32,32) float, y (B,) int) with a length, that can be run through again and again.
    val: evaluated after each epoch with the weights to use; nothing is learnt from it.
    epochs, batch_size: instead of the recipe's; its LR curve is compressed to the epochs, its LR
        follows the batch size in proportion (`Recipe.with_batch`).
    device: where to train, and where the model stays; default: where it is.
    out: folder for `checkpoint.pt`, written after each epoch, and `model.pt`, at the end. With
        `resume` the run interrupted there goes on from its last whole epoch, on a CPU bit for bit;
        without, checkpoints of an earlier run in it are deleted.
    compile: torch.compile, on CUDA only. verbose: a line an epoch, and a progress bar for people.

    Returns one dict an epoch: epoch (from 1); lr (of its last step); loss (nats, as minimised, label
    smoothing included) and accuracy (0..1) over the epoch's training batches; seconds (of training);
    val_loss, val_accuracy (None without val).

    torch's random state and the loader's are left as found, and the weights too where `fit` raises:
        NonFiniteLoss: with the first bad step, its LR and what to try.
        checkpoint.CheckpointError: nothing whole to resume from, or only another run's.
        torch.cuda.OutOfMemoryError: with a batch size that fits.
    """
    if resume and out is None:
        raise ValueError("resume=True needs out: the folder with the checkpoint to go on from")
    home, out = device_of(model), None if out is None else Path(out)
    device = home if device is None else torch.device(device)
    recipe = recipe if batch_size is None else recipe.with_batch(batch_size)
    epochs = recipe.epochs if epochs is None else epochs
    batches = as_batches(train, recipe, device, seed)
    if epochs < 1 or len(batches) < 1:
        raise ValueError(f"{epochs} epochs of {len(batches)} batches: expected 1 or more of both")
    found = copy.deepcopy(model.state_dict())
    try:
        with eval_mode(model), random_state_kept(batches, device):
            run = Run(model, batches, recipe, epochs, device, compile)
            writer = out is not None and run.rank == 0
            if out is not None:
                settings = run.settings(train, seed)
                begin(run, out, settings, resume)
            with progress_bar(run, verbose) as bar:
                while len(run.history) < epochs:
                    epoch = len(run.history)
                    bar.set_description_str(f"epoch {epoch + 1}/{epochs}", refresh=False)
                    seed_epoch(batches, seed, epoch)
                    run.history.append(run.train_epoch(bar) | run.evaluate(val))
                    if writer:
                        checkpoint.save(out, {"settings": settings, **run.state()})
                    if verbose and run.rank == 0:
                        bar.write(log_line(run.history[-1], epochs))
                        sys.stdout.flush()
            model.load_state_dict(run.final.state_dict())
            run.optimizer.zero_grad()
            if writer:
                checkpoint.write(out / "model.pt", model.state_dict())
            return run.history
    except BaseException as error:
        model.load_state_dict(found)
        model.to(home).zero_grad()
        if isinstance(error, KeyboardInterrupt) and out is not None:
            print(f"Interrupted. {out.name}/checkpoint.pt has the last whole epoch: resume=True.")
        raise


class Run:
    """One training: what lives from step to step, and is therefore what a checkpoint holds."""

    def __init__(self, model, batches, recipe: Recipe, epochs: int, device, compile: bool = False):
        self.model, self.batches, self.recipe, self.epochs = model, batches, recipe, epochs
        self.device, self.steps, self.history = device, len(batches), []
        self.rank, self.processes = rank_and_processes()
        # Channels last: the order in which convolutions are fast on CUDA and on CPUs.
        self.layout = torch.preserve_format if device.type == "mps" else torch.channels_last
        self.half = None  # half precision pays on CUDA alone; on a CPU it can be 30 times slower
        if device.type == "cuda":
            native = torch.cuda.get_device_capability(device) >= (8, 0)
            self.half = torch.bfloat16 if native else torch.float16
        model.to(device, memory_format=self.layout).train()
        if recipe.dirac_init:
            dirac_(model)
        self.optimizer = sgd(model, recipe, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.half is torch.float16)
        self.final = copy.deepcopy(model) if recipe.ema else model  # the weights to use
        self.forward = DistributedDataParallel(model) if self.processes > 1 else model
        if compile and device.type == "cuda":
            self.forward = torch.compile(self.forward)

    def train_step(self, x: Tensor, y: Tensor, step: int, count: int) -> tuple[Tensor, Tensor]:
        """One step down the gradient; (loss, correct predictions), both still on the device.

        x (B,3,32,32), y (B,): this process's share of a batch of `count` images.
        """
        x, y = x.to(self.device, memory_format=self.layout), y.to(self.device)
        lr = self.recipe.lr(step, self.steps, self.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["scale"]

        with torch.autocast(self.device.type, dtype=self.half, enabled=self.half is not None):
            logits = self.forward(x)
            smoothing = self.recipe.label_smoothing
            total = F.cross_entropy(logits, y, reduction="sum", label_smoothing=smoothing)
        # Processes average their gradients: the mean of this is the mean over the `count` images.
        loss = total * (self.processes / count)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.recipe.ema:
            average_(self.final, self.model, min(self.recipe.ema, (1 + step) / (10 + step)))
        return loss.detach(), (logits.detach().argmax(1) == y).sum()

    def train_epoch(self, bar: tqdm) -> dict:
        """The next epoch: all batches once. Its record, as in `fit`, without the evaluation."""
        began, epoch, counts = time.perf_counter(), len(self.history), []
        first = epoch * self.steps
        look_every = 1 if self.device.type == "cpu" else LOOK_EVERY
        losses = torch.zeros(self.steps, device=self.device)
        correct = torch.zeros((), device=self.device)
        for i, (x, y, count) in enumerate(self.shares()):
            try:
                losses[i], hits = self.train_step(x, y, first + i, count)
            except torch.cuda.OutOfMemoryError as error:
                traceback.clear_frames(error.__traceback__)  # or they keep their tensors alive
                raise torch.cuda.OutOfMemoryError(self.what_fits(x, y)) from error
            correct += hits
            counts.append(count)
            bar.update()
            if (i + 1) % look_every == 0 or i + 1 == self.steps:
                if (bad := first_non_finite(losses[: i + 1])) is not None:
                    raise NonFiniteLoss(self.what_to_try(losses[bad].item(), first + bad))
                accuracy = correct.item() * self.processes / sum(counts)
                bar.set_postfix_str(f"loss {losses[i]:.3f}, accuracy {accuracy:.1%}", False)
        seconds = time.perf_counter() - began
        weighted = (losses.cpu().double() * torch.tensor(counts)).sum() / self.processes
        loss, hits = sum_over_processes([weighted.item(), correct.item()], self.device)
        return {
            "epoch": epoch + 1,
            "lr": self.recipe.lr(first + self.steps - 1, self.steps, self.epochs),
            "loss": loss / sum(counts),
            "accuracy": hits / sum(counts),
            "seconds": seconds,
        }

    def shares(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        """(x, y, count) of each batch: this process's share of its `count` images."""
        number = 0
        for number, (x, y) in enumerate(self.batches, 1):
            if number > self.steps:
                break
            count = len(y)
            if isinstance(self.batches, Batches):  # it yields the share
                size = self.batches.batch_size
                count = min(size, len(self.batches.labels) - (number - 1) * size)
            else:
                x, y = x[self.rank :: self.processes], y[self.rank :: self.processes]
            if count < self.processes:
                raise ValueError(
                    f"a batch of {count} images cannot be shared by {self.processes} processes: "
                    "take a recipe with drop_last=True, or another batch size"
                )
            yield x, y, count
        if number != self.steps:
            many = "more" if number > self.steps else number
            raise ValueError(
                f"an epoch had {many} batches where len() says {self.steps}: the learning rate "
                "follows len(), so it must be right"
            )

    def evaluate(self, val) -> dict:
        """val_loss and val_accuracy of the weights to use, each process looking at its share."""
        if self.processes > 1:
            for buffer in self.final.buffers():
                dist.broadcast(buffer, 0)  # each process counted its own BN statistics: take one's
        if val is None:
            return {"val_loss": None, "val_accuracy": None}
        if isinstance(val, ImageSet):
            val = val.subset(np.arange(self.rank, len(val), self.processes))
        found = predict(self.final, val, self.device)
        n = len(found)
        parts = [found.loss * n, found.correct.sum().item(), n]
        loss, correct, n = sum_over_processes(parts, self.device)
        return {"val_loss": loss / n, "val_accuracy": correct / n}

    def settings(self, train, seed: int) -> dict:
        """What has to be the same for a checkpoint to belong to this run."""
        return {
            "recipe": asdict(self.recipe), "epochs": self.epochs, "steps": self.steps, "seed": seed,
            "data": getattr(train, "digest", None),
            "model": {name: list(t.shape) for name, t in self.model.state_dict().items()},
        }  # fmt: skip

    def state(self) -> dict:
        """All that the next epoch starts from; its random numbers follow from seed and epoch."""
        parts = {name: getattr(self, name).state_dict() for name in PARTS}
        place = {"step": len(self.history) * self.steps, "history": self.history}
        return parts | place | {"threads": torch.get_num_threads(), "processes": self.processes}

    def load_state(self, state: dict) -> None:
        """Go on from `state`; warns where the numbers will differ in their last bits."""
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.history = state["history"]
        for name, now in (("threads", torch.get_num_threads()), ("processes", self.processes)):
            if state[name] != now:
                warnings.warn(
                    f"the checkpoint was made with {state[name]} {name}, this is run with {now}: "
                    "results will differ in the last bits, or more with other processes",
                    stacklevel=4,
                )

    def what_to_try(self, loss: float, step: int) -> str:
        lr = self.recipe.lr(step, self.steps, self.epochs)
        return (
            f"the loss is {loss} at step {step} (epoch {step // self.steps + 1}), at a learning "
            f"rate of {lr:.4g}. Try a lower one, replace(recipe, peak={self.recipe.peak / 4:.4g}), "
            "or ask helpers.lr_finder for one; or look for values in the images that are not finite"
        )

    def what_fits(self, x: Tensor, y: Tensor) -> str:
        """Try halves of the batch until one passes forward and backward."""
        size = len(y)
        while size := size // 2:
            self.model.zero_grad()
            try:
                with torch.autocast(self.device.type, dtype=self.half, enabled=bool(self.half)):
                    logits = self.model(x[:size].to(self.device))
                    F.cross_entropy(logits, y[:size].to(self.device)).backward()
                break
            except torch.cuda.OutOfMemoryError as error:
                traceback.clear_frames(error.__traceback__)
        total = size * self.processes
        return (
            f"a batch of {len(y) * self.processes} images does not fit the memory of "
            f"{self.device}; {total} do: batch_size={total}, or stop what else uses this device"
        )


PARTS = ("model", "final", "optimizer", "scaler")


def sgd(model: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.SGD:
    """The recipe's optimiser: one group of weights, one of biases with LR and decay of their own.

    `scale` is the group's factor on the LR of the step.
    """
    weights, biases = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (biases if name.endswith("bias") else weights).append(parameter)
    decay, scale = recipe.weight_decay, recipe.bias_lr
    groups = [
        {"params": weights, "scale": 1.0, "weight_decay": decay},
        {"params": biases, "scale": scale, "weight_decay": decay / scale},
    ]
    fused = device.type == "cuda"
    momentum = {"momentum": recipe.momentum, "nesterov": recipe.nesterov}
    return torch.optim.SGD([g for g in groups if g["params"]], lr=0.0, fused=fused, **momentum)


@torch.no_grad()
def dirac_(model: nn.Module) -> None:
    """Make each 3x3 convolution hand on its inputs unchanged as its first outputs."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            nn.init.dirac_(layer.weight[: layer.in_channels])


@torch.no_grad()
def average_(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * model, for weights and BN statistics."""
    pairs = zip(average.state_dict().values(), model.state_dict().values(), strict=True)
    floats = [(a, m) for a, m in pairs if a.is_floating_point()]
    torch._foreach_lerp_(*map(list, zip(*floats, strict=True)), 1 - decay)


def first_non_finite(losses: Tensor) -> int | None:
    """Index of the first loss that is infinite or not a number, None where all are finite."""
    bad = (~losses.isfinite()).nonzero()
    return bad[0].item() if len(bad) else None
