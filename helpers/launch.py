"""`fit` from the shell, in one process or, started by torchrun, in many.

    python -m helpers train --recipe course --out DIR
    torchrun --nproc-per-node=2 -m helpers train --recipe course --out DIR

torchrun starts the same command N times and tells each process its number in the environment. Each
has a copy of the model and takes its share of every batch; the gradients are averaged.
"""

import argparse
import json
import os
import platform
import subprocess
import time
from dataclasses import asdict
from datetime import date
from pathlib import Path

import torch
import torch.distributed as dist

from helpers import recipes
from helpers.checkpoint import CheckpointError
from helpers.data import Data, load
from helpers.environment import CourseError
from helpers.evaluation import per_class_accuracy, predict
from helpers.models import DavidNet
from helpers.training import NonFiniteLoss, fit, rank_and_processes


def train(args: argparse.Namespace) -> int:
    """Train DavidNet and write args.out/model.pt, results.json and checkpoint.pt; 0, as exit code.

    args: recipe (source, course, speedrun), data and holdout and limit (as in `data.load`), width,
    epochs and batch_size (None: the recipe's), seed, out, resume.

    Raises CourseError: what went wrong in the training, for the reader of the terminal.
    """
    recipe = {r.name: r for r in (recipes.SOURCE, recipes.COURSE, recipes.SPEEDRUN)}[args.recipe]
    recipe = recipe if args.batch_size is None else recipe.with_batch(args.batch_size)
    device = join_processes()
    rank, processes = rank_and_processes()
    began = time.perf_counter()
    try:
        data = load_once(args)
        torch.manual_seed(args.seed)
        model = DavidNet(args.width, len(data.classes)).to(device)
        history = fit(
            model, data.train, data.val, recipe=recipe, epochs=args.epochs, seed=args.seed,
            out=args.out, resume=args.resume,
        )  # fmt: skip
        if rank == 0:
            found = results(model, data, recipe, history, args)
            found["seconds"] = round(time.perf_counter() - began, 1)
            (Path(args.out) / "results.json").write_text(json.dumps(found, indent=1) + "\n")
            print(f"{found['evaluated_on']} accuracy {found['accuracy'][0]:.2%}, "
                  f"with mirror images {found['accuracy_tta'][0]:.2%}")  # fmt: skip
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
    local = int(os.environ.get("LOCAL_RANK", 0))
    if torch.cuda.is_available():
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    else:
        many = "RANK" in os.environ  # processes on MPS cannot talk to each other
        mps = torch.backends.mps.is_available() and not many
        device = torch.device("mps" if mps else "cpu")
    if "RANK" in os.environ:
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


def results(model, data: Data, recipe: recipes.Recipe, history: list[dict], args) -> dict:
    """What the run was, and reached: on the held-out images, else on the test set, opened here."""
    images = data.unlock_test() if data.val is None else data.val
    found, mirrored = predict(model, images), predict(model, images, tta=True)
    per_class = per_class_accuracy(found.labels, found.predicted, data.classes)
    cuda = torch.cuda.is_available()
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or None
    except OSError:
        commit = None
    return {
        "recipe": asdict(recipe), "profile": vars(args).get("profile"),
        "width": args.width, "epochs": len(history),
        "data": data.name, "training_images": len(data.train),
        "evaluated_on": "test" if data.val is None else "held-out",
        "seeds": [args.seed], "accuracy": [found.accuracy], "accuracy_tta": [mirrored.accuracy],
        "per_class_accuracy": dict(zip(data.classes, per_class.tolist(), strict=True)),
        "history": history, "seconds_per_epoch": [epoch["seconds"] for epoch in history],
        "device": torch.cuda.get_device_name() if cuda else f"CPU, {platform.machine()}",
        "processes": rank_and_processes()[1], "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "date": str(date.today()), "commit": commit,
    }  # fmt: skip
