"""What every notebook opens with: one profile, device, seed and data set, printed as one table.

A profile says how much of everything a notebook uses, so the same lesson runs in seconds as a test,
in minutes on a laptop, and in full on a GPU. No number of a profile stands anywhere else.
"""

import inspect
import os
import platform
import textwrap
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from IPython.display import Markdown
from torch import nn

from helpers.data import Data, ImageSet, load
from helpers.environment import ROOT as REPOSITORY
from helpers.environment import cuda_works
from helpers.models import DavidNet
from helpers.preparation import memory_format
from helpers.randomness import seed_all
from helpers.recipes import COURSE, Recipe
from helpers.results import published_net
from helpers.training import fit


@dataclass(frozen=True)
class Profile:
    """How much of everything: images, epochs, steps."""

    name: str
    source: str  # the data when nobody asks for another
    limit: int | None  # images in each of train, val and test; None: all
    width: int  # of the net
    epochs: int
    batch_size: int
    range_batch: int  # the range test of lesson 03
    range_steps: int
    range_every: int  # steps between two evaluations of the range test's accuracy
    compare_images: int | None  # training images for comparisons at equal budget; None: all
    compare_epochs: int
    compare_width: int
    compare_batch: int  # smaller than batch_size where the images are few: a schedule needs steps
    seeds: tuple[int, ...]  # of those comparisons

    def recipe(self, base: Recipe = COURSE) -> Recipe:
        """`base` with this profile's epochs and batch size, and the LR that belongs to them."""
        return replace(base.with_batch(self.batch_size), epochs=self.epochs)

    def compare_recipe(self, base: Recipe = COURSE) -> Recipe:
        """`base` with the epochs and batch size of comparisons at equal budget."""
        return replace(base.with_batch(self.compare_batch), epochs=self.compare_epochs)

    def fitted(self, images: int) -> "Profile":
        """This profile with batches of at most an eighth of the images: an epoch needs steps, even
        in the lessons that train on a quarter of them."""
        most = max(images // 8, 2)
        if most >= self.batch_size:
            return self
        names = ("batch_size", "range_batch", "compare_batch")
        sizes = {name: min(getattr(self, name), most) for name in names}
        return replace(self, **sizes, range_every=1)  # small steps end sooner in a divergence

    def comparison(self, data: Data) -> ImageSet:
        """The training images of a comparison at equal budget: always the same ones."""
        count = min(self.compare_images or len(data.train), len(data.train))
        return data.train.subset(np.arange(count) * len(data.train) // count)


PROFILES = {
    "smoke": Profile(
        "smoke", "shapes", limit=2000, width=8, epochs=2, batch_size=128,
        range_batch=64, range_steps=60, range_every=10,
        compare_images=1000, compare_epochs=2, compare_width=8, compare_batch=32, seeds=(0,),
    ),
    "cpu": Profile(
        "cpu", "auto", limit=12000, width=16, epochs=5, batch_size=256,
        range_batch=64, range_steps=200, range_every=10,
        compare_images=3000, compare_epochs=4, compare_width=8, compare_batch=64, seeds=(0, 1),
    ),
    "full": Profile(
        "full", "auto", limit=None, width=64, epochs=24, batch_size=512,
        range_batch=128, range_steps=5859, range_every=25,
        compare_images=None, compare_epochs=8, compare_width=64, compare_batch=512, seeds=(0, 1, 2),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Session:
    """The choices a notebook runs under."""

    profile: Profile
    device: torch.device
    seed: int
    data: Data

    @property
    def folder(self) -> Path:
        """Where lesson 05 leaves this profile's trained net for the lessons after it.

        In the folder `COURSE_RUNS` names (on Colab, one in Drive outlives the machine), or `runs`.
        """
        runs = Path(os.path.expanduser(os.environ.get("COURSE_RUNS") or REPOSITORY / "runs"))
        name = self.data.name  # pictures of your own: another folder needs another net
        name += f"-{self.data.train.digest[:8]}" if name == "folder" else ""
        return runs / f"{name}-{self.profile.name}-seed{self.seed}"

    def net(self) -> DavidNet:
        """A fresh course net of this profile's width, initialised from the session's seed."""
        torch.manual_seed(self.seed)
        return DavidNet(self.profile.width, len(self.data.classes)).to(self.device)

    def trained_net(self) -> nn.Module:
        """The net lesson 05 trained with this profile, data and seed; else, for CIFAR-10, the
        published one; else one trained now, and kept. ValueError for a damaged file."""
        net, weights = self.net(), self.folder / "model.pt"
        if weights.is_file():
            print(f"Loaded the net trained before: model.pt of {self.folder.name}.")
            try:
                state = torch.load(weights, map_location=self.device, weights_only=True)
                net.load_state_dict(state)
            except Exception as error:  # a truncated file may fail in zip, pickle or torch
                raise ValueError(
                    f"{weights} is damaged or from another net: delete it or run lesson 05 again"
                ) from error
        elif self.data.name == "cifar10" and (found := published_net(self.profile.width)):
            net, made = found[0].to(self.device), found[1]
            print(
                "Lesson 05 has not run here, so this is the course's published net: width "
                f"{made['width']}, {made['epochs']} epochs\non all {made['training_images']:,} "
                "training images, including the held-out ones."
            )
        else:
            recipe = self.profile.recipe()
            print(f"Lesson 05 has not run here, so the net is trained now: {recipe.epochs} epochs.")
            fit(net, self.data.train, recipe=recipe, seed=self.seed, out=self.folder)
        return net.to(memory_format=memory_format(net, self.device)).eval()  # the fast order


def start(
    profile: str | None = None, source: str | None = None, seed: int | None = None
) -> Session:
    """Choose profile, device and data, seed the random generators, print one table.

    Each argument overrides an environment variable, which `python3 -m helpers run` sets:
    `COURSE_PROFILE` (auto, smoke, cpu, full), `COURSE_DATA` (auto, shapes, cifar10, folder:PATH)
    and `COURSE_SEED`. Profile "auto" is full where CUDA is, cpu otherwise.

    Raises:
        ValueError: for an unknown profile, or a seed that is not a whole number.
        DownloadError: CIFAR-10 was asked for by name and cannot be fetched (`data.load`).
    """
    chosen = choose_profile(profile or os.environ.get("COURSE_PROFILE") or "auto")
    text = str(seed if seed is not None else os.environ.get("COURSE_SEED") or "0")
    if not text.isdecimal() or int(text) >= 2**32:  # numpy takes no larger one
        wanted = "a whole number from 0 to 4294967295, as in COURSE_SEED=0"
        raise ValueError(f"seed {text!r}: expected {wanted}")
    wanted = source or os.environ.get("COURSE_DATA") or "auto"
    data = load(chosen.source if wanted == "auto" else wanted, limit=chosen.limit)
    fitted = chosen.fitted(len(data.train))
    if fitted != chosen:
        notice = f"Few images, so the batch size is {fitted.batch_size}, not {chosen.batch_size}."
        data = replace(data, notice=f"{data.notice} {notice}".strip())
    seed_all(int(text))
    session = Session(fitted, find_device(), int(text), data)
    print(describe(session))
    return session


def choose_profile(name: str) -> Profile:
    """The profile of that name; "auto" looks for CUDA."""
    if name == "auto":
        name = "full" if cuda_works() else "cpu"
    if name not in PROFILES:
        raise ValueError(f"profile {name!r}: expected auto, {', '.join(PROFILES)}")
    return PROFILES[name]


def find_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if cuda_works():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        try:
            torch.zeros(1, device="mps")
            return torch.device("mps")
        except RuntimeError:  # a virtual Mac has an MPS that gives out no memory
            pass
    return torch.device("cpu")


def describe(session: Session) -> str:
    """The table at the top of each notebook; no clock time, no path of this machine in it."""
    data, profile = session.data, session.profile
    if session.device.type == "cuda":
        device = torch.cuda.get_device_name()
    else:
        threads = torch.get_num_threads()
        device = f"{session.device.type}, {threads} thread{'s' * (threads > 1)}"
        if torch.cuda.is_available():
            device += " (this torch cannot compute on the GPU: README, Troubleshooting)"
    parts = f"{len(data.train):,} training, {len(data.val):,} held-out images"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision"))
    rows = {
        "profile": f"{profile.name}: width {profile.width}, {profile.epochs} epochs, "
        f"batch {profile.batch_size}",
        "data": f"{data.name}: {parts}",
        "device": device,
        "versions": f"Python {platform.python_version()}, {packages}",
        "seed, date": f"{session.seed}, {date.today()}",
    }
    table = "\n".join(f"{name:<12}{value}" for name, value in rows.items())
    if not data.notice:
        return table
    line = "-" * 80
    return f"{table}\n{line}\n{textwrap.fill(data.notice, 80)}\n{line}"


def show_source(thing) -> Markdown:
    """The source of a helper, highlighted: the very lines that run, never a copy of them."""
    return Markdown(f"```python\n{inspect.getsource(thing)}```")
