"""`fit` from the shell, in one process or, started by torchrun, in many.

    python3 -m helpers train --recipe course --out DIR
    torchrun --nproc-per-node=2 -m helpers train --recipe course --out DIR

torchrun starts the same command N times and tells each process its number in the environment. Each
has a copy of the model and takes its share of every batch; the gradients are averaged.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from helpers import recipes, results
from helpers.checkpoint import CheckpointError
from helpers.data import HOLDOUT, Data, load
from helpers.download import DownloadError
from helpers.environment import CourseError
from helpers.measure import check_batch, new_net
from helpers.preparation import rank_and_processes
from helpers.session import find_device
from helpers.training import NonFiniteLoss, fit


def train(args: argparse.Namespace) -> int:
    """Train the recipe's net; model.pt, results.json, checkpoint.pt go to args.out. Returns 0.

    args: recipe (source, course, speedrun), data and holdout and limit (as in `data.load`), width,
    epochs and batch_size (None: the recipe's), profile (its name, or None), seed, out, resume.

    Raises CourseError: what went wrong in the training, for the reader of the terminal.
    """
    recipe = getattr(recipes, args.recipe.upper())
    recipe = recipe if args.batch_size is None else recipe.with_batch(args.batch_size)
    args.out = make_folder(args.out)
    device = join_processes()
    rank, processes = rank_and_processes()
    try:
        with one_sentence():
            data = load_once(args)
            check_batch(recipe, data, f"--batch-size {max(len(data.train) // 8, 1)}")
            if rank == 0:
                said = f"{data.name}, {len(data.train):,} training images", data.notice
                print(*filter(None, said), sep="\n")
            torch.manual_seed(args.seed)
            model = new_net(recipe, data, args.width).to(device)
            if rank == 0 and not args.resume:  # `fit` deletes the rest of an earlier run
                (args.out / "results.json").unlink(missing_ok=True)
            history = fit(
                model, data.train, data.val, recipe=recipe, epochs=args.epochs, seed=args.seed,
                out=args.out, resume=args.resume,
            )  # fmt: skip
            if rank == 0:
                run = results.reached(model, data, history, args.seed)
                run |= results.origin(device)
                made = results.settings(recipe, data, args.width, args.epochs, args.profile)
                results.save(args.out / "results.json", {**made, "runs": [run]})
                print(f"{made['evaluated_on']} accuracy {run['accuracy']:.2%}, "
                      f"with mirror images {run['accuracy_tta']:.2%}")  # fmt: skip
            if dist.is_initialized():  # not after a failure: it would wait for the others
                dist.barrier()  # nobody hangs up while another still talks
                dist.destroy_process_group()
    except RuntimeError as error:
        if processes == 1:
            raise
        raise CourseError(
            f"Process {rank} of {processes} stops: {error}\nIf it lost the connection, another "
            "process ended first, and that one's message says why. The work up to the "
            "last checkpoint is kept: start the same command again with --resume."
        ) from error
    return 0


@contextmanager
def one_sentence() -> Iterator[None]:
    """Errors that the reader can fix leave a training as CourseError; our bugs stay as they are."""
    try:
        yield
    except (CheckpointError, NonFiniteLoss, torch.cuda.OutOfMemoryError) as error:
        raise CourseError(str(error)) from error


def make_folder(path: Path) -> Path:
    """The folder, made if it is absent: better an error now than after the training."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(
            f"--out {path} cannot be made ({error.strerror}): name a folder where you may write"
        ) from error
    return path


def load_or_say(source: str, holdout: int = HOLDOUT, limit: int | None = None) -> Data:
    """`data.load`; what is wrong with the source or the sizes becomes a CourseError."""
    try:
        return load(source, holdout=holdout, limit=limit)
    except (ValueError, OSError, DownloadError) as error:
        raise CourseError(str(error)) from error


def join_processes() -> torch.device:
    """Meet the other processes where torchrun started this one; the device to work on."""
    many = {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys()
    local = int(os.environ.get("LOCAL_RANK", 0))
    if many and torch.cuda.is_available():  # one on its CPU would never meet those on GPUs
        if local >= (gpus := torch.cuda.device_count()):
            raise CourseError(f"{gpus} GPU(s) on this machine: --nproc-per-node={gpus} at most")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    else:  # processes on MPS cannot talk to each other
        device = torch.device("cpu") if many else find_device()
    if many:
        gpu = device if device.type == "cuda" else None
        backend = "nccl" if gpu and dist.is_nccl_available() else "gloo"  # Windows has no NCCL
        patience = timedelta(minutes=30)  # one process may have to download for all
        dist.init_process_group(backend, timeout=patience, device_id=gpu)
    return device


def load_once(args: argparse.Namespace) -> Data:
    """`data.load`, first by one process of each machine: so that one alone downloads."""
    follower = int(os.environ.get("LOCAL_RANK", 0)) > 0
    if dist.is_initialized() and follower:
        dist.barrier()
    data = load_or_say(args.data, args.holdout, args.limit)
    if dist.is_initialized() and not follower:
        dist.barrier()
    return data
