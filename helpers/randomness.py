"""Random state: kept for the caller, started anew for an epoch or a seed, or refused where neither
is possible."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType

import numpy as np
import torch

from helpers.augment import A, seed_transform
from helpers.environment import cuda_works

# What can hold no generator, or is not of one data set only.
OPAQUE = (str, bytes, int, float, np.ndarray, torch.Tensor, type, FunctionType, ModuleType)


def random_state() -> dict:
    """The state of the global streams of torch, numpy and random, as tensors and plain values."""
    drawn = np.random.get_state(legacy=False)
    drawn["state"] = {key: np.asarray(value).tolist() for key, value in drawn["state"].items()}
    state = {"random": random.getstate(), "numpy": drawn, "torch": torch.get_rng_state()}
    if cuda_works() and torch.cuda.is_initialized():  # which it never is in a forked process
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict) -> None:
    """Go on from what `random_state` returned; devices that are not here are skipped."""
    random.setstate(state["random"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for number, stream in enumerate(state.get("cuda", ())[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(stream, number)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


@contextmanager
def random_state_kept() -> Iterator[None]:
    """After it, torch, numpy and random go on as if nothing had been drawn inside."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


def seed_all(seed: int) -> None:
    """Begin the global random streams of torch, numpy and random at `seed`."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # numpy takes no larger one
    random.seed(seed)


def seed_epoch(batches, seed: int, epoch: int) -> None:
    """Begin each random stream of an epoch from seed and epoch, so that it can be done again: the
    global ones, and the generators in `batches`, however deep in attributes, lists and dicts."""
    mixed = int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])
    seed_all(mixed)
    seen, left = set(), [batches]
    while left:
        item = left.pop()
        if isinstance(item, OPAQUE) or id(item) in seen:
            continue
        seen.add(id(item))
        if hasattr(item, "set_epoch"):
            item.set_epoch(epoch)
        if restart(item, mixed):
            mixed += 1  # the next one draws other numbers
        elif type(item) in (list, tuple, set):  # one of another type may read its items from a disk
            left += item
        else:
            left += (item if isinstance(item, dict) else getattr(item, "__dict__", {})).values()


def restart(item, seed: int) -> bool:
    """Start `item` anew at `seed` if it is random: a generator of torch, numpy or random, or a
    Compose of albumentations. Returns whether it is."""
    if isinstance(item, torch.Generator):
        item.manual_seed(seed)
    elif isinstance(item, np.random.Generator):
        item.bit_generator.state = type(item.bit_generator)(seed).state
    elif isinstance(item, random.Random):
        item.seed(seed)
    elif isinstance(item, np.random.RandomState):
        item.seed(seed % 2**32)  # it takes no larger one
    elif isinstance(item, A.Compose):
        seed_transform(item, seed)
    else:
        return False
    return True


def check_repeatable(name: str, batches) -> None:
    """Raise an error if a second pass over `batches` could not be exactly like the first."""
    if batches is not None and not hasattr(batches, "__iter__"):
        raise TypeError(
            f"{name} is a {type(batches).__name__}: expected batches of (x, y) that can be run "
            "through again and again, such as a DataLoader, a list or augment.Batches(...)"
        )
    if hasattr(batches, "__next__"):
        raise ValueError(
            f"{name} is a one-shot iterator: what it has yielded cannot be put back. Pass the "
            "DataLoader or list it comes from"
        )
    if getattr(batches, "persistent_workers", False):
        raise ValueError(
            f"{name} has persistent workers, whose random state cannot be set or restored. Make "
            "the loader with persistent_workers=False"
        )
