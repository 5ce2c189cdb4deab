"""Recipes and the ladder, measured over seeds into images/results/.

    python3 -m helpers measure                          # source and course, 9 seeds, for a GPU
    python3 -m helpers measure --width 16 --seeds 1     # the stand-in on a CPU
    python3 -m helpers measure --ladder --seeds 3       # what each change of the course brings
    python3 -m helpers measure --recipe speedrun --seeds 1   # the speed run

A file is written after each run, so an interrupted measurement goes on where it stopped. Recipes
train on all images and open the test set after the last step; the ladder, by which choices are
made, holds images out and leaves the test set alone.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path

import torch

from helpers.augment import normalise
from helpers.checkpoint import write
from helpers.data import Data
from helpers.environment import CourseError, cuda_works
from helpers.models import DavidNet, SpeedNet
from helpers.preparation import rank_and_processes
from helpers.recipes import COURSE, SOURCE, SPEEDRUN, Recipe
from helpers.results import FOLDER, origin, reached, save, settings, sha256
from helpers.training import fit

# The course without one of its changes at a time, the recipe of 2020, and changes not yet in it.
MUON_LR = SPEEDRUN.with_batch(COURSE.batch_size).muon
LADDER = {
    "course": COURSE,
    "source": SOURCE,
    "LR of 2020, never 0": replace(COURSE, knots=None, peak=SOURCE.peak),
    "peak 0.6, not 0.4": replace(COURSE, peak=0.6),
    "no Nesterov": replace(COURSE, nesterov=False),
    "no weight decay": replace(COURSE, weight_decay=0.0),
    "no label smoothing": replace(COURSE, label_smoothing=0.0),
    "bias LR x 1": replace(COURSE, bias_lr=1.0),
    "no average of the weights": replace(COURSE, ema=None),
    "random flip": replace(COURSE, flip=0.5),
    "default initialisation": replace(COURSE, dirac_init=False),
    "with Muon": replace(COURSE, muon=MUON_LR),
    "with Muon, half its LR": replace(COURSE, muon=MUON_LR / 2),
    "with Muon, twice its LR": replace(COURSE, muon=2 * MUON_LR),
}


def new_net(recipe: Recipe, data: Data, width: int) -> DavidNet | SpeedNet:
    """The recipe's net with fresh weights: SpeedNet for the speed run, DavidNet for all others."""
    if recipe.name != SPEEDRUN.name:
        return DavidNet(width, len(data.classes))
    net, images = SpeedNet(width, len(data.classes)), torch.from_numpy(data.train.images[:5000])
    net.whiten(normalise(images, data.train.mean, data.train.std))
    return net


def check_batch(recipe: Recipe, data: Data, advice: str = "another recipe") -> None:
    """Raise CourseError, before anything long, if an epoch would have no full batch, or too few
    images in its last one for all processes."""
    if recipe.drop_last and len(data.train) < recipe.batch_size:
        raise CourseError(
            f"{len(data.train)} training images do not fill one batch of {recipe.batch_size}: take "
            f"{advice}, or more images."
        )
    size, processes = recipe.batch_size, rank_and_processes()[1]
    last = size if recipe.drop_last else len(data.train) % size or size
    if last < processes:
        raise CourseError(
            f"{processes} processes cannot share a batch of {last} images: take another "
            "--batch-size, or fewer processes"
        )


def one_run(recipe: Recipe, data: Data, width: int, seed: int, epochs: int | None = None):
    """Train one net and evaluate it once, after its last step; (model, what it reached).

    On the held-out images, or, where there are none, on the test set, opened here.
    """
    device = "cuda" if cuda_works() else "cpu"
    torch.manual_seed(seed)
    model = new_net(recipe, data, width).to(device)
    history = fit(model, data.train, recipe=recipe, epochs=epochs, seed=seed)
    return model, reached(model, data, history, seed)


def recipe(
    recipe: Recipe,
    data: Data,
    width: int,
    seeds: int,
    epochs: int | None = None,
    folder: Path = FOLDER,
) -> Path:
    """Seeds 0 to seeds - 1 of a recipe into folder/NAME-wWIDTH.json; the course's first net too.

    Runs that the file has already, made with the same settings, are not made again.
    """
    path = folder / f"{recipe.name}-w{width}.json"
    wanted = settings(recipe, data, width, epochs, "full")
    runs = [] if not path.is_file() else stored_runs(path, wanted)
    for seed in range(len(runs), seeds):
        print(f"{recipe.name}, width {width}, seed {seed}")
        made = origin()
        model, run = one_run(recipe, data, width, seed, epochs)
        runs.append(run | made)
        if recipe.name == COURSE.name and seed == 0:
            weights = model.half().cpu().to(memory_format=torch.contiguous_format).state_dict()
            write(path.with_suffix(".pt"), weights)
            runs[0]["sha256"] = sha256(path.with_suffix(".pt"))
        save(path, {**wanted, "runs": runs})
    print(f"{path}: {len(runs)} runs")
    return path


def ladder(data: Data, width: int, seeds: int, epochs: int | None, folder: Path = FOLDER):
    """Each rung of LADDER with each seed, judged on the held-out images: ladder-wWIDTH.json."""
    path = folder / f"ladder-w{width}.json"
    wanted = settings(COURSE, data, width, epochs, "ladder")
    runs = [] if not path.is_file() else stored_runs(path, wanted)
    for run in runs:
        told = run.get("changes")  # None in files of an earlier version
        if run["rung"] in LADDER and told != changes(LADDER[run["rung"]]):
            raise CourseError(
                f"{path} holds {run['rung']!r} with other or unknown settings, {told}: move it "
                "away, or measure into another folder with --out DIR"
            )
    done = {(run["rung"], run["seed"]) for run in runs}
    for seed in range(seeds):
        for name, recipe in LADDER.items():
            if (name, seed) in done:
                continue
            print(f"{name}, width {width}, seed {seed}")
            made = origin()
            _, run = one_run(recipe, data, width, seed, epochs)
            kept = ("seed", "accuracy", "accuracy_tta", "seconds")
            rung = {"rung": name, "changes": changes(recipe)}
            runs.append(rung | {key: run[key] for key in kept} | made)
            save(path, {**wanted, "runs": runs})
    print(f"{path}: {len(runs)} runs")
    return path


def changes(recipe: Recipe) -> dict:
    """The fields in which a recipe differs from the course's, with its values, as JSON has them."""
    course = asdict(COURSE)
    differs = {key: value for key, value in asdict(recipe).items() if value != course[key]}
    return json.loads(json.dumps(differs))


def stored_runs(path: Path, wanted: dict) -> list[dict]:
    """The runs in a file; CourseError where they were made with other settings or elsewhere."""
    try:
        found = json.loads(path.read_text("utf-8"))
        here, devices = origin()["device"], {run["device"] for run in found["runs"]}
    except (ValueError, TypeError, KeyError) as error:
        raise CourseError(f"{path} is not a results file ({error!r}): move it away") from error
    plain = json.loads(json.dumps(wanted))
    differs = [key for key, value in plain.items() if found.get(key) != value]
    if differs:
        raise CourseError(
            f"{path} holds runs with another {', '.join(differs)}: move it away, or measure into "
            "another folder with --out DIR"
        )
    if devices - {here}:  # one file, one device: the tables name it
        raise CourseError(
            f"{path} holds runs of {', '.join(devices - {here})}, but this is {here}: move it "
            "away, or measure into another folder with --out DIR"
        )
    return found["runs"]
