"""`fit` from the shell, in one process or, started by torchrun, in many.

    python -m helpers train --recipe course --out DIR
    torchrun --nproc-per-node=2 -m helpers train --recipe course --out DIR

torchrun starts the same command N times and tells each process its number in the environment. Each
has a copy of the model and takes its share of every batch; the gradients are averaged.
"""

import argparse
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist

from helpers import recipes, results
from helpers.checkpoint import CheckpointError
from helpers.data import Data, load
from helpers.environment import CourseError
from helpers.measure import new_net
from helpers.session import find_device
from helpers.training import NonFiniteLoss, fit, rank_and_processes


def train(args: argparse.Namespace) -> int:
    """Train the recipe's net: model.pt, results.json, checkpoint.pt in args.out. Returns 0.

    args: recipe (source, course, speedrun), data and holdout and limit (as in `data.load`), width,
    epochs and batch_size (None: the recipe's), profile (its name, or None), seed, out, resume.

    Raises CourseError: what went wrong in the training, for the reader of the terminal.
    """
    recipe = getattr(recipes, args.recipe.upper())
    recipe = recipe if args.batch_size is None else recipe.with_batch(args.batch_size)
    device = join_processes()
    rank, processes = rank_and_processes()
    began = time.perf_counter()
    try:
        data = load_once(args)
        torch.manual_seed(args.seed)
        model = new_net(recipe, data, args.width).to(device)
        history = fit(
            model, data.train, data.val, recipe=recipe, epochs=args.epochs, seed=args.seed,
            out=args.out, resume=args.resume,
        )  # fmt: skip
        if rank == 0:
            run = results.reached(model, data, history, args.seed, time.perf_counter() - began)
            run |= results.origin()
            made = results.settings(recipe, data, args.width, args.epochs, args.profile)
            results.save(Path(args.out) / "results.json", {**made, "runs": [run]})
            print(f"{made['evaluated_on']} accuracy {run['accuracy']:.2%}, "
                  f"with mirror images {run['accuracy_tta']:.2%}")  # fmt: skip
    except (CheckpointError, NonFiniteLoss, torch.cuda.OutOfMemoryError) as error:
        raise CourseError(str(error)) from error
    except RuntimeError as error:
        if processes == 1:
            raise
        raise CourseError(
            f"Process {rank} of {processes} stops: {error}\nIf it lost the connection, another "
            "process ended first, and the reason stands in that one's message. The work up to the "
            "last whole epoch is kept: start the same command again with --resume."
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


def join_processes() -> torch.device:
    """Meet the other processes where torchrun started this one; the device to work on."""
    many = "RANK" in os.environ
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    else:  # processes on MPS cannot talk to each other
        device = torch.device("cpu") if many else find_device()
    if many:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def load_once(args: argparse.Namespace) -> Data:
    """`data.load`, first by one process of each machine: so that one alone downloads."""
    follower = int(os.environ.get("LOCAL_RANK", 0)) > 0
    if dist.is_initialized() and follower:
        dist.barrier()
    data = load(args.data, holdout=args.holdout, limit=args.limit)
    if dist.is_initialized() and not follower:
        dist.barrier()
    return data
