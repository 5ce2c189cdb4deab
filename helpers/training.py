"""Training: model, images and a recipe in, history out.

Read `Run.train_step` first (one batch), then `Run.train_epoch` (when to look at the losses), then
`fit` (epochs, checkpoints, the log). `helpers.preparation` has what comes before the first step;
`helpers.launch` is the same from the shell and for torchrun.
"""

import copy
import operator
import time
import traceback
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from helpers import checkpoint, preparation
from helpers.augment import Batches
from helpers.data import ImageSet
from helpers.evaluation import device_of, eval_mode, predict
from helpers.muon import Muon
from helpers.preparation import rank_and_processes, sum_over_processes
from helpers.progress import print_line, progress_bar
from helpers.randomness import check_repeatable, random_state, seed_epoch, set_random_state
from helpers.recipes import COURSE, Recipe
from helpers.tracing import refuse_lazy, uncompiled

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
    seed: int = 0,
    device: torch.device | str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    compile: bool = False,
    verbose: bool = True,
) -> list[dict]:
    """Train `model` by `recipe`. It ends with the weights to use: averaged, if the recipe averages.

    train: an ImageSet, which is augmented on the device as the recipe says, or batches
        (x (B,3,32,32) float, y (B,) int) with a length, that can be run through again and again.
    val: evaluated after each epoch with the weights to use; nothing is learnt from it.
    epochs: how many, if not the recipe's; its LR curve is compressed to fit. (For another batch
        size pass `recipe.with_batch(size)`.)
    device: where to train, and where the model stays; default: where it is.
    out: folder (on Colab, one in Drive) for `checkpoint.pt`, written after each epoch, and on
        Ctrl-C where one process trains; `model.pt`, written at the end. With `resume` the run in it
        goes on after the last step that was kept, on a CPU bit for bit; without it, these files of
        an earlier run are deleted. (For batches only their number is compared: make sure yourself
        that they hold the same images. In the middle of an epoch, a loader that shares torch's
        global stream with the net's dropout may go on differently.)
    compile: use torch.compile, on CUDA only; a net that is already compiled asks for it as well.
    verbose: print a line an epoch, and show a progress bar to whoever is watching.

    Returns one dict an epoch: epoch (from 1); lr (of its last step); loss (nats, as minimised, so
    with label smoothing) and accuracy (0..1) over the epoch's training batches; val_loss,
    val_accuracy (None without val); seconds (of training).

    A net that was trained before goes on from its weights: `dirac_init` is for fresh nets, whose
    batch norms have seen no image. Nets without batch norm and frozen layers keep theirs, too.
    Leaves the random state of torch, numpy and random as found and, where it raises, the model too;
    generators of a loader and its data set are seeded anew for each epoch. Raises:
        ValueError, TypeError: before anything is trained, for arguments that do not fit together.
        checkpoint.Stopped: a KeyboardInterrupt; on Ctrl-C, after the step that was kept.
        NonFiniteLoss: names the first bad step, its LR and what to try.
        checkpoint.CheckpointError: nothing intact to resume from, or only another run's.
        torch.cuda.OutOfMemoryError: names a batch size that would fit.
    """
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe {recipe!r}: expected a Recipe, such as helpers.recipes.COURSE")
    if out is not None and not str(out):
        raise ValueError('out="" names no folder: "." is the one you are in')
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("the model has no weight that may be trained: use requires_grad_(True)")
    if resume and out is None:
        raise ValueError("resume=True needs out: the folder with the checkpoint to go on from")
    out = None if out is None else Path(out)
    device = device_of(model) if device is None else torch.device(device)
    epochs = operator.index(recipe.epochs if epochs is None else epochs)
    seed = operator.index(seed)
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed}: expected a whole number, 0 or more and below 2**63")
    batches = preparation.as_batches(train, recipe, device, seed)
    if not isinstance(val, ImageSet):
        check_repeatable("val", val)
    if epochs < 1 or len(batches) < 1:
        raise ValueError(f"{epochs} epochs of {len(batches)} batches: expected 1 or more of both")
    if epochs * len(batches) == 1 and recipe.lr(0, 1, 1) == 0:
        warnings.warn(
            "the only step has an LR of 0 and learns nothing: use more epochs", stacklevel=2
        )
    refuse_lazy(model)
    compile = compile or model is not uncompiled(model)
    model = uncompiled(model)
    found = {name: tensor.detach().clone() for name, tensor in tensors(model).items()}
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    try:
        with eval_mode(model):
            layout = preparation.try_out(model, device, {"train": train, "val": val})
            run = Run(model, batches, recipe, epochs, device, compile, layout)
            if out is not None:
                settings = checkpoint.settings(run, train, seed)
                checkpoint.begin(run, out, settings, resume)
            shown, kept = verbose and run.rank == 0, nullcontext()
            if out is not None and run.processes == 1:
                kept = checkpoint.kept_on_ctrl_c(run, out, settings)
            with kept, progress_bar(epochs * run.steps, run.steps_done(), shown) as bar:
                for epoch in range(len(run.history), epochs):
                    bar.set_description_str(f"epoch {epoch + 1}/{epochs}", refresh=False)
                    seed_epoch(batches, seed, epoch)
                    loss, accuracy, seconds = run.train_epoch(epoch, bar)
                    val_loss, val_accuracy = run.evaluate(val)
                    last = recipe.lr((epoch + 1) * run.steps - 1, run.steps, epochs)
                    run.history.append({
                        "epoch": epoch + 1, "lr": last, "loss": loss, "accuracy": accuracy,
                        "val_loss": val_loss, "val_accuracy": val_accuracy, "seconds": seconds,
                    })  # fmt: skip
                    if out is not None and run.rank == 0:
                        checkpoint.save(out, checkpoint.state(run, settings))
                    if shown:
                        print_line(bar, run.history[-1])
        if out is not None and run.rank == 0:
            checkpoint.write(out / checkpoint.FINAL, run.final.state_dict())
        model.load_state_dict(run.final.state_dict())
        model.zero_grad()
    except BaseException as error:
        now = tensors(model)
        for name, old in found.items():
            now[name].data = old
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        if isinstance(error, checkpoint.Stopped):
            traceback.clear_frames(error.__traceback__)  # or they keep the loader's workers alive
            print(f"Stopped {error}. The net is as before this run; resuming goes on from there.")
        elif isinstance(error, KeyboardInterrupt):
            print("Stopped. The net is as before this run. With out=, resuming goes on from "
                  "the last checkpoint in that folder.")  # fmt: skip
        raise
    return run.history


class Run:
    """One training: what lives from step to step, and is therefore what a checkpoint holds."""

    def __init__(
        self, model, batches, recipe: Recipe, epochs: int, device, compile=False, layout=None
    ):
        self.model, self.batches, self.recipe, self.epochs = model, batches, recipe, epochs
        self.device, self.steps, self.history = device, len(batches), []
        self.stop = False  # after the step at hand
        self.rank, self.processes = rank_and_processes()
        self.layout = layout or preparation.memory_format(model, device)
        self.half = None  # half precision pays on CUDA alone; on a CPU it can be 30 times slower
        if device.type == "cuda":
            native = torch.cuda.get_device_capability(device) >= (8, 0)
            self.half = torch.bfloat16 if native else torch.float16
            torch.backends.cudnn.benchmark = True  # tries ways to convolve, keeps the fastest
        model.to(device, memory_format=self.layout).train()
        if recipe.dirac_init and preparation.is_fresh(model):
            preparation.dirac_(model)
        self.optimizer = (sgd if recipe.muon is None else muon)(model, recipe, device)
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.half is torch.float16)
        self.settle_momentum()
        # Before the copy below: DDP gives each process the weights of the first one.
        self.forward = DistributedDataParallel(model) if self.processes > 1 else model
        self.final = copy.deepcopy(model) if recipe.ema else model  # the weights to use
        self.averages, self.currents = averaged(self.final), averaged(model)
        self.begin_epoch()
        if compile and device.type == "cuda":
            self.forward = torch.compile(self.forward)

    def begin_epoch(self) -> None:
        """No step of this epoch is done yet."""
        self.losses, self.counts, self.seconds, self.random = [], [], 0.0, None
        self.correct = torch.zeros((), device=self.device)

    def steps_done(self) -> int:
        return len(self.history) * self.steps + len(self.losses)

    def settle_momentum(self) -> None:
        """Put momentum in the memory order of its weight, as fused SGD needs it. With a scaler it
        starts at 0, because a first step that overflows is skipped and would leave it unset."""
        for group in self.optimizer.param_groups:
            for weight in group["params"]:
                momentum = self.optimizer.state.get(weight, {}).get("momentum_buffer")
                if momentum is not None:
                    momentum = torch.empty_like(weight).copy_(momentum)
                elif self.scaler.is_enabled() and group["momentum"]:
                    momentum = torch.zeros_like(weight)
                if momentum is not None:
                    self.optimizer.state[weight]["momentum_buffer"] = momentum

    def train_step(self, x: Tensor, y: Tensor, step: int, count: int) -> tuple[Tensor, Tensor]:
        """One step down the gradient; (loss, correct predictions), both still on the device.

        x (B,3,32,32), y (B,): this process's share of a batch of `count` images.
        """
        x, y = x.to(self.device, memory_format=self.layout), y.to(self.device)
        lr = self.recipe.lr(step, self.steps, self.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["scale"]

        with self.autocast():
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
            keep = min(self.recipe.ema, (1 + step) / (10 + step))  # short at first, then longer
            torch._foreach_lerp_(self.averages, self.currents, 1 - keep)
        return loss.detach(), (logits.detach().argmax(1) == y).sum()

    def train_epoch(self, epoch: int, bar: tqdm) -> tuple[float, float, float]:
        """Train on all batches once; `epoch` is from 0. Returns mean loss, accuracy, seconds."""
        began, first = time.perf_counter(), epoch * self.steps
        look_every = 1 if self.device.type == "cpu" else LOOK_EVERY
        batches, done, losses = iter(self.batches), len(self.losses), self.losses
        if done:  # steps before an interruption: skip their batches, restore the random state
            for _ in islice(batches, done):
                if self.stop:
                    raise KeyboardInterrupt  # nothing new to keep
            set_random_state(self.random)
            began = time.perf_counter() - self.seconds
        for i, batch in enumerate(batches, done):
            x, y, count = self.share(*batch, i)
            try:
                loss, hits = self.train_step(x, y, first + i, count)
            except torch.cuda.OutOfMemoryError as error:
                traceback.clear_frames(error.__traceback__)  # or they keep their tensors alive
                raise torch.cuda.OutOfMemoryError(self.what_fits(x, y)) from error
            losses.append(loss)
            self.counts.append(count)
            self.correct += hits
            bar.update()
            if (i + 1) % look_every == 0 or i + 1 == self.steps or self.stop:
                self.check(losses[-look_every:], first + max(0, i + 1 - look_every))
                accuracy = self.correct.item() * self.processes / sum(self.counts)
                bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.1%}", refresh=False)
            if self.stop:
                self.seconds, self.random = time.perf_counter() - began, random_state()
                raise checkpoint.Stopped(f"after step {i + 1} of epoch {epoch + 1}")
        if len(losses) != self.steps:
            raise ValueError(
                f"an epoch had {len(losses)} batches where len() says {self.steps}: the learning "
                "rate follows len(), so it must be right"
            )
        for counter, current in zip(self.final.buffers(), self.model.buffers(), strict=True):
            if not is_averaged(current):  # such as how many batches a batch norm has seen
                counter.copy_(current)
        seconds = time.perf_counter() - began
        weighted = torch.stack(losses).cpu().double() @ torch.tensor(self.counts).double()
        sums = [weighted.item() / self.processes, self.correct.item()]
        loss, accuracy = (x / sum(self.counts) for x in sum_over_processes(sums, self.device))
        self.begin_epoch()
        return loss, accuracy, seconds

    def share(self, x: Tensor, y: Tensor, i: int) -> tuple[Tensor, Tensor, int]:
        """Batch `i`: this process's x and y, and how many images all processes have of it."""
        count = len(y)
        if isinstance(self.batches, Batches):  # these are shares already
            size = self.batches.batch_size
            count = min(size, len(self.batches.labels) - i * size)
        else:
            x, y = x[self.rank :: self.processes], torch.as_tensor(y)[self.rank :: self.processes]
            y = y.long()
        if count < self.processes:
            raise ValueError(
                f"{self.processes} processes cannot share a batch of {count} images: take another "
                "batch size, or a recipe with drop_last=True"
            )
        return x, y, count

    def check(self, losses: list[Tensor], first: int) -> None:
        """NonFiniteLoss if one of `losses`, of step `first` and the following, is not finite."""
        bad = (~torch.stack(losses).isfinite()).nonzero().flatten().tolist()
        if bad:
            step, epoch = first + bad[0], (first + bad[0]) // self.steps + 1
            lr, lower = self.recipe.lr(step, self.steps, self.epochs), self.recipe.peak / 4
            advice = (
                f"Try replace(recipe, peak={lower:.3g}), or lr_range_test for a better guess; or"
            )
            if step == 0:  # computed before any LR could do harm
                advice = "No step had been taken, so the learning rate is not to blame:"
            raise NonFiniteLoss(
                f"the loss is {losses[bad[0]]} at step {step} (in epoch {epoch}), at learning rate "
                f"{lr:.4g}. {advice} look for images with values that are not finite"
            )

    def what_fits(self, x: Tensor, y: Tensor) -> str:
        """The message for OutOfMemoryError; halves the batch until that passes."""
        size = len(y)
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        while size := size // 2:
            self.model.zero_grad()
            try:
                images, labels = x[:size].to(self.device), y[:size].to(self.device)
                with self.autocast():  # a name for the loss would keep its graph if this fails
                    torch.autograd.grad(
                        F.cross_entropy(self.model(images), labels), weights, allow_unused=True
                    )
                break
            except torch.cuda.OutOfMemoryError as error:
                traceback.clear_frames(error.__traceback__)
        now, then = len(y) * self.processes, size * self.processes
        advice = f"a batch of {then} does" if size else "not even one image does: use a smaller net"
        return f"a batch of {now} images does not fit into the memory of {self.device}; {advice}"

    def evaluate(self, val) -> tuple[float, float] | tuple[None, None]:
        """Loss and accuracy of the weights to use, each process looking at its share of `val`."""
        if self.processes > 1:
            for buffer in self.final.buffers():
                dist.broadcast(buffer, 0)  # each process has BN statistics of its share: take one's
        if val is None:
            return None, None
        if isinstance(val, ImageSet) and self.processes > 1:
            val = val.subset(np.arange(self.rank, len(val), self.processes))
        sums = [0.0, 0.0, 0.0]
        if not isinstance(val, ImageSet) or len(val):  # a share of few images can be empty
            found = predict(self.final, val)
            sums = [found.loss * len(found), float(found.correct.sum()), len(found)]
        loss, correct, images = sum_over_processes(sums, self.device)
        return loss / images, correct / images

    def autocast(self) -> AbstractContextManager:
        """Half precision where it pays."""
        return torch.autocast("cuda", self.half) if self.half else nullcontext()


def sgd(model: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.SGD:
    """The recipe's optimiser, in two groups; `scale` is a group's factor on the LR of a step."""
    weights, biases = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (biases if name.endswith("bias") else weights).append(parameter)
    decay, scale = recipe.weight_decay, recipe.bias_lr
    groups = [
        {"params": weights, "scale": 1.0, "weight_decay": decay},
        {"params": biases, "scale": scale, "weight_decay": decay / scale},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]], lr=0.0, momentum=recipe.momentum,
        nesterov=recipe.nesterov, fused=device.type == "cuda",
    )  # fmt: skip


def muon(model: nn.Module, recipe: Recipe, device: torch.device) -> Muon:
    """Like `sgd`, but the convolutions get a group of their own and Muon's steps."""
    groups = sgd(model, recipe, device).param_groups
    weights = groups[0]["params"]
    groups[0]["params"] = [weight for weight in weights if weight.ndim != 4]
    filters = [weight for weight in weights if weight.ndim == 4]
    ratio = recipe.muon / recipe.peak if recipe.peak else 0.0  # of the LR that a step is given
    groups.append({"params": filters, "scale": ratio, "momentum": 0.6, "muon": True})  # Jordan
    return Muon(groups, lr=0.0, momentum=recipe.momentum, nesterov=recipe.nesterov)


def averaged(model: nn.Module) -> list[Tensor]:
    """Weights and BN statistics, as they lie in the model: what an average is taken of."""
    return [tensor.detach() for tensor in tensors(model).values() if is_averaged(tensor)]


def is_averaged(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, each once."""
    return dict((*model.named_parameters(), *model.named_buffers()))
