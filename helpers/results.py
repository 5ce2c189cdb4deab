"""What a training reached, as files: one run's from `train`, the published ones in images/results/.

The README's tables, lesson 05's ladder and the net lesson 06 falls back on come from these files.
"""

import hashlib
import json
import math
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path

import numpy as np
import torch
from scipy.special import stdtrit

from helpers.data import Data
from helpers.environment import ROOT, CourseError, cuda_works, git, write_whole
from helpers.evaluation import per_class_accuracy, predict
from helpers.models import DavidNet
from helpers.preparation import rank_and_processes
from helpers.recipes import COURSE, SPEEDRUN, Recipe

FOLDER = ROOT / "images" / "results"
# Where they stand in the README.
BLOCK = "<!-- results: python3 -m helpers publish --readme -->", "<!-- end of results -->"


def reached(model, data: Data, history: list[dict], seed: int) -> dict:
    """One run's accuracies (0..1), log and seconds of training, as `training.fit` counts them.

    On the held-out images; where none are held out, on the test set, which it opens.
    """
    images = data.unlock_test() if data.val is None else data.val
    found = predict(model, images)
    per_class = per_class_accuracy(found.labels, found.predicted, data.classes)
    return {
        "seed": seed,
        "accuracy": found.accuracy,
        "accuracy_tta": predict(model, images, tta=True).accuracy,  # with mirror images
        "per_class_accuracy": dict(zip(data.classes, per_class.tolist(), strict=True)),
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "seconds_per_epoch": [round(row["seconds"], 2) for row in history],
        "history": history,
    }


def settings(
    recipe: Recipe, data: Data, width: int, epochs: int | None, profile: str | None
) -> dict:
    """What runs must have in common to stand in one file."""
    return {
        "recipe": asdict(recipe),
        "profile": profile,
        "width": width,
        "epochs": epochs or recipe.epochs,
        "data": data.name + f" {data.train.digest[:12]}" * (data.name == "folder"),
        "training_images": len(data.train),
        "evaluated_on": "test" if data.val is None else "held-out",
    }


def origin(device: torch.device | None = None) -> dict:
    """Where and when a run was made; without `device`, on CUDA if it works, else on the CPU."""
    kind = device.type if device else "cuda" if cuda_works() else "cpu"
    name = f"{kind.upper()}, {platform.machine()}"
    return {
        "device": torch.cuda.get_device_name() if kind == "cuda" else name,
        "threads": torch.get_num_threads(),
        "processes": rank_and_processes()[1],
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "date": str(date.today()),
        "commit": git("rev-parse", "HEAD") or None,
    }


def save(path: Path, content: dict) -> None:
    """Write a results file, whole or not at all."""
    write_whole(path, json.dumps(content, indent=1) + "\n")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def measured(name: str, folder: Path = FOLDER) -> list[dict]:
    """The results of a recipe, or the ladder: one for each width, the narrowest first."""
    paths = folder.glob(f"{name}-w*.json")
    try:
        found = [json.loads(path.read_text("utf-8")) for path in paths]
        return sorted(found, key=lambda content: content["width"])
    except (ValueError, TypeError, KeyError) as error:
        raise CourseError(f"A file of {name} in {folder} is damaged: fetch it again") from error


def widest(name: str, folder: Path = FOLDER) -> dict | None:
    """The results of a recipe, or the ladder, at the largest width that was measured."""
    return next(reversed(measured(name, folder)), None)


def half_interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of a mean, by Student's t; NaN for one value."""
    n = len(values)
    if n < 2:
        return math.nan
    student_t = stdtrit(n - 1, 0.975)  # 12.7 for two values, 2.31 for nine, 1.96 for very many
    return student_t * statistics.stdev(values) / math.sqrt(n)


def verdict(differences: Sequence[float]) -> str:
    """What paired differences (n,) of accuracies, 0..1, decide."""
    points = [round(100 * float(d), 6) for d in differences]  # equal ones shall be equal
    mean, half, n = statistics.mean(points), half_interval(points), len(points)
    if n < 2 or half == 0:
        pairs = "one pair" if n < 2 else f"{n} equal pairs"
        return f"{mean:+.1f} points from {pairs}: undecided, the noise is not known"
    sure = "better" if mean > half else "worse" if mean < -half else "undecided"
    return f"{mean:+.1f} ± {half:.1f} points from {n} pairs: {sure}"


def published_net(width: int = 64, folder: Path = FOLDER) -> tuple[DavidNet, dict] | None:
    """The course recipe's widest published net up to `width`, else the narrowest, and its results;
    None where there is none. A wide net is accurate, but slow without a GPU.

    Raises ValueError where the weights are not those that were measured.
    """
    nets = measured(COURSE.name, folder)
    if not nets:
        return None
    found = [net for net in nets if net["width"] <= width or net is nets[0]][-1]
    path, run = folder / f"{COURSE.name}-w{found['width']}.pt", found["runs"][0]
    if not path.is_file() or sha256(path) != run["sha256"]:
        raise ValueError(
            f"{path.name} is not the file that {path.stem}.json was measured with: fetch both again"
        )
    net = DavidNet(found["width"], len(run["per_class_accuracy"]))
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))  # to 32 bits
    return net, found


def percent(values: Sequence[float]) -> str:
    """Mean accuracy with its 95 % interval, of accuracies 0..1."""
    mean, half = 100 * statistics.mean(values), 100 * half_interval(values)
    return f"{mean:.2f} %" + ("" if math.isnan(half) else f" ± {half:.2f}")


def report_of_2020() -> dict:
    """Its accuracy and accuracy per class (0..1) on the test set, and its seconds an epoch."""
    folder = ROOT / "tests" / "reference"
    log = np.genfromtxt(folder / "training_log.csv", delimiter=",", names=True)
    lines = (folder / "class_accuracy.csv").read_text("utf-8").split()[1:]
    return {
        "accuracy": log["test_correct"][-1] / 10_000,
        "seconds": float(np.median(log["train_seconds"])),
        "per_class": [int(line.split(",")[1]) / 100 for line in lines],
    }


def tables(folder: Path = FOLDER) -> str:
    """The README's results in Markdown; every number is read from a file.

    Each recipe stands at the largest width that was measured, as the mean over its seeds.
    """
    old, found = report_of_2020(), {}
    for name in ("source", "course", "speedrun"):
        if content := widest(name, folder):
            net = ", SpeedNet" if name == SPEEDRUN.name else ""
            found[f"recipe *{name}*{net}"] = content
    rows = [
        "| CIFAR-10, test set | width | epochs | accuracy | with mirror images "
        "| seconds an epoch | seeds |",
        "|---|---|---|---|---|---|---|",
        f"| 2020 report | 64 | 24 | {100 * old['accuracy']:.2f} % | | {old['seconds']:.0f} | 1 |",
    ]
    notes, classes = {}, {}  # where a run was made: the recipes of which that holds
    for name, content in found.items():
        runs = content["runs"]
        medians = sorted(statistics.median(run["seconds_per_epoch"]) for run in runs)
        seconds = " to ".join(dict.fromkeys(f"{s:.1f}" for s in (medians[0], medians[-1])))
        plain, mirrored = ([run[key] for run in runs] for key in ("accuracy", "accuracy_tta"))
        rows.append(
            f"| {name} | {content['width']} | {content['epochs']} | {percent(plain)} "
            f"| {percent(mirrored)} | {seconds} | {len(runs)} |"
        )
        made = runs[-1]
        dates = ", ".join(dict.fromkeys(run["date"] for run in runs))
        commits = ", ".join(dict.fromkeys(str(run["commit"])[:7] for run in runs))
        seeds = "seed 0" if len(runs) == 1 else f"seeds 0 to {len(runs) - 1}"
        where = (
            f"{content['profile']} profile at width {content['width']}, "
            f"{content['training_images']:,} training images, {seeds}, {made['device']}, "
            f"threads: {made['threads']}, Python {made['versions']['python']}, "
            f"torch {made['versions']['torch']}, {dates}, commit {commits}"
        )
        notes.setdefault(where, []).append(name)
        for label in runs[0]["per_class_accuracy"]:
            mean = statistics.mean(run["per_class_accuracy"][label] for run in runs)
            classes.setdefault(label, []).append(f"{mean:.0%}")
    if not found:
        return "Nothing has been measured yet."
    heads = ["class", "2020 report", *found]
    by_class = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for (label, cells), then in zip(classes.items(), old["per_class"], strict=True):
        by_class.append(f"| {label} | {then:.0%} | {' | '.join(cells)} |")
    told = [f"- {'; '.join(names)}: {where}" for where, names in notes.items()]
    return "\n".join([*rows, "", *told, "", *by_class])


def write_readme(path: Path = ROOT / "README.md", folder: Path = FOLDER) -> None:
    """Put the tables between the two marks of BLOCK."""
    before, _, rest = path.read_text("utf-8").partition(BLOCK[0])
    _, end, after = rest.partition(BLOCK[1])
    if not end:
        raise CourseError(f"{path.name} has no place for results: {BLOCK[0]} ... {BLOCK[1]}")
    write_whole(path, f"{before}{BLOCK[0]}\n\n{tables(folder)}\n\n{BLOCK[1]}{after}")
