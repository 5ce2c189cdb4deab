"""What the recipes reach: measured over seeds, kept in images/results/, printed in the README.

    python3 -m helpers measure                          # source and course, 9 seeds, for a GPU
    python3 -m helpers measure --width 16 --seeds 1     # the stand-in on a CPU
    python3 -m helpers measure --ladder --seeds 3       # what each change of the course brings

A file is written after each run, so an interrupted measurement goes on where it stopped.
"""

import hashlib
import json
import math
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

import torch

from helpers.checkpoint import write
from helpers.data import Data
from helpers.environment import ROOT
from helpers.evaluation import per_class_accuracy, predict
from helpers.models import DavidNet
from helpers.recipes import COURSE, SOURCE, Recipe
from helpers.training import fit, rank_and_processes

FOLDER = ROOT / "images" / "results"
BLOCK = "<!-- results: python3 -m helpers publish --readme -->", "<!-- end of results -->"
# 97.5 % quantile of Student's t for n values, n - 1 degrees of freedom.
STUDENT_T = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31}

# The course without one of its changes at a time, and the recipe of 2020.
LADDER = {
    "course": COURSE,
    "source": SOURCE,
    "LR of 2020, never 0": replace(COURSE, knots=None, peak=SOURCE.peak),
    "no Nesterov": replace(COURSE, nesterov=False),
    "no weight decay": replace(COURSE, weight_decay=0.0),
    "no label smoothing": replace(COURSE, label_smoothing=0.0),
    "bias LR x 1": replace(COURSE, bias_lr=1.0),
    "no average of the weights": replace(COURSE, ema=None),
    "random flip": replace(COURSE, flip=0.5),
    "default initialisation": replace(COURSE, dirac_init=False),
}


def one_run(recipe: Recipe, data: Data, width: int, seed: int, epochs: int | None = None):
    """Train one net and evaluate it once, after its last step; (model, what it reached).

    On the held-out images, or, where there are none, on the test set, opened here.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    model = DavidNet(width, len(data.classes)).to(device)
    began = time.perf_counter()
    history = fit(model, data.train, recipe=recipe, epochs=epochs, seed=seed)
    return model, reached(model, data, history, seed, time.perf_counter() - began)


def reached(model, data: Data, history: list[dict], seed: int, seconds: float) -> dict:
    """One run's accuracies (0..1), log and seconds of training."""
    images = data.unlock_test() if data.val is None else data.val
    found = predict(model, images)
    per_class = per_class_accuracy(found.labels, found.predicted, data.classes)
    return {
        "seed": seed,
        "accuracy": found.accuracy,
        "accuracy_tta": predict(model, images, tta=True).accuracy,  # with mirror images
        "per_class_accuracy": dict(zip(data.classes, per_class.tolist(), strict=True)),
        "seconds": round(seconds, 1),
        "seconds_per_epoch": [round(row["seconds"], 2) for row in history],
        "history": history,
    }


def settings(recipe: Recipe, data: Data, width: int, epochs: int | None, profile: str) -> dict:
    """What runs must have in common to stand in one file."""
    return {
        "recipe": asdict(recipe),
        "profile": profile,
        "width": width,
        "epochs": epochs or recipe.epochs,
        "data": data.name,
        "training_images": len(data.train),
        "evaluated_on": "test" if data.val is None else "held-out",
    }


def origin() -> dict:
    """Where and when a run was made."""
    cuda = torch.cuda.is_available()
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or None
    except OSError:
        commit = None
    return {
        "device": torch.cuda.get_device_name() if cuda else f"CPU, {platform.machine()}",
        "threads": torch.get_num_threads(),
        "processes": rank_and_processes()[1],
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "date": str(date.today()),
        "commit": commit,
    }


def measure(
    recipe: Recipe, data: Data, width: int, seeds: int, epochs: int | None = None,
    folder: Path = FOLDER, profile: str = "full",
) -> Path:  # fmt: skip
    """Seeds 0 to seeds - 1 of a recipe into folder/NAME-wWIDTH.json; the course's first net too.

    Runs that the file has already, made with the same settings, are not made again.
    """
    path = folder / f"{recipe.name}-w{width}.json"
    wanted = settings(recipe, data, width, epochs, profile)
    runs = [] if not path.is_file() else stored_runs(path, wanted)
    for seed in range(len(runs), seeds):
        print(f"{recipe.name}, width {width}, seed {seed}")
        model, run = one_run(recipe, data, width, seed, epochs)
        runs.append(run | origin())
        if recipe.name == COURSE.name and seed == 0:
            half = {
                k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()
            }
            write(path.with_suffix(".pt"), {k: v.cpu().contiguous() for k, v in half.items()})
            runs[0]["sha256"] = sha256(path.with_suffix(".pt"))
        save(path, {**wanted, "runs": runs})
    return path


def ladder(data: Data, width: int, seeds: int, epochs: int | None, folder: Path = FOLDER):
    """Each rung of LADDER with each seed, judged on the held-out images: ladder-wWIDTH.json."""
    path = folder / f"ladder-w{width}.json"
    wanted = settings(COURSE, data, width, epochs, "ladder")
    runs = [] if not path.is_file() else stored_runs(path, wanted)
    done = {(run["rung"], run["seed"]) for run in runs}
    for seed in range(seeds):
        for name, recipe in LADDER.items():
            if (name, seed) in done:
                continue
            print(f"{name}, width {width}, seed {seed}")
            _, run = one_run(recipe, data, width, seed, epochs)
            kept = ("seed", "accuracy", "accuracy_tta", "seconds")
            runs.append({"rung": name} | {key: run[key] for key in kept} | origin())
            save(path, {**wanted, "runs": runs})
    return path


def stored_runs(path: Path, wanted: dict) -> list[dict]:
    """The runs in a file; ValueError where they were made with other settings."""
    found = json.loads(path.read_text("utf-8"))
    differs = [key for key, value in wanted.items() if found[key] != json.loads(json.dumps(value))]
    if differs:
        raise ValueError(
            f"{path.name} holds runs with another {', '.join(differs)}: move it away, or measure "
            "into another folder"
        )
    return found["runs"]


def save(path: Path, content: dict) -> None:
    """Write a results file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".tmp")
    fresh.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    fresh.replace(path)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def widest(name: str, folder: Path = FOLDER) -> dict | None:
    """The results of a recipe, or the ladder, at the largest width that was measured."""
    paths = folder.glob(f"{name}-w*.json")
    found = [json.loads(path.read_text("utf-8")) for path in paths]
    return max(found, key=lambda content: content["width"], default=None)


def half_interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of a mean, by Student's t; NaN for one value."""
    n = len(values)
    if n < 2:
        return math.nan
    return STUDENT_T.get(n, 1.96) * statistics.stdev(values) / math.sqrt(n)


def verdict(differences: Sequence[float]) -> str:
    """What paired differences (n,) of accuracies, 0..1, decide."""
    points = [100 * float(d) for d in differences]
    mean, half, n = statistics.mean(points), half_interval(points), len(points)
    if n < 2:
        return f"{mean:+.1f} points from one pair: undecided, the noise is not known"
    sure = "better" if mean > half else "worse" if mean < -half else "undecided"
    return f"{mean:+.1f} ± {half:.1f} points from {n} pairs: {sure}"
