"""Checkpoints that survive a kill at any moment, and say so when they are damaged.

A checkpoint is one ordinary `torch.save` file of tensors and plain values, so that
`torch.load(path, weights_only=True)` reads it and no code in it can run.
"""

import hashlib
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from helpers.environment import rename

NEWEST, PREVIOUS, FINAL = "checkpoint.pt", "checkpoint.previous.pt", "model.pt"
PARTS = ("model", "final", "optimizer", "scaler")  # of a `training.Run`; each has a state_dict


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, or belongs to a run other than the one to be resumed."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C, raised once the current step was done; the message says which step that was."""


def settings(run, train, seed: int) -> dict:
    """What has to be equal for a checkpoint to belong to this run."""
    shapes = {name: list(tensor.shape) for name, tensor in run.model.state_dict().items()}
    data = getattr(train, "digest", None)  # an ImageSet has one, a loader has none
    scale = [[float(v) for v in getattr(train, name, None) or ()] for name in ("mean", "std")]
    choices = {"recipe": asdict(run.recipe), "epochs": run.epochs, "steps": run.steps, "seed": seed}
    return choices | {"data": data, "mean and std": scale, "model": shapes}


def state(run, settings: dict) -> dict:
    """All that the next step starts from. An epoch's random numbers follow from the seed and its
    number; in an epoch that has begun they go on from `random`, after the batches already seen."""
    parts = {name: getattr(run, name).state_dict() for name in PARTS}
    losses = torch.stack(run.losses) if run.losses else torch.zeros(0)
    begun = {"losses": losses, "counts": run.counts, "correct": run.correct}
    begun |= {"seconds": run.seconds, "random": run.random}
    place = {"epoch": len(run.history), "step": run.steps_done(), "begun": begun}
    machine = {"threads": torch.get_num_threads(), "processes": run.processes}
    return {"settings": settings, "history": run.history} | place | machine | parts


def begin(run, folder: Path, settings: dict, resume: bool) -> None:
    """Put `run` where the checkpoint in `folder` is, or write the checkpoint of a new run there.

    Warns where the result will not be the uninterrupted run's to the last bit.
    """
    saved = load(folder, settings) if resume else None
    if saved is None:
        if resume and run.rank == 0:
            print(f"{folder.name} has no checkpoint yet: the run begins with its first epoch")
        if run.rank == 0:
            old = [folder / name for name in (NEWEST, PREVIOUS, FINAL) if (folder / name).exists()]
            if old and not resume:
                print(f"{folder} held another run, which is replaced, not resumed")
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OSError(
                    f"{folder} cannot be made ({error.strerror}): name one where you may write "
                    "(the lessons take COURSE_RUNS)"
                ) from error
            for path in old:  # none of another run may be taken for ours
                path.unlink()
            save(folder, state(run, settings))
        return
    fused = [group["fused"] for group in run.optimizer.param_groups]  # as this device wants it
    for name in PARTS:
        if saved[name]:  # a scaler has a state only where it is used, on older GPUs
            getattr(run, name).load_state_dict(saved[name])
    for group, own in zip(run.optimizer.param_groups, fused, strict=True):
        group["fused"] = own
    run.settle_momentum()
    run.history, begun = saved["history"], saved["begun"]
    run.losses, run.counts = list(begun["losses"].to(run.device)), begun["counts"]
    run.correct = begun["correct"].to(run.device) / run.processes  # each has a share in the sum
    run.seconds, run.random = begun["seconds"], begun["random"]
    for name, now in (("threads", torch.get_num_threads()), ("processes", run.processes)):
        if saved[name] != now:
            warnings.warn(
                f"this run began with {saved[name]} {name} and goes on with {now}: its result will "
                "not be bit for bit what it would have been",
                stacklevel=3,
            )


@contextmanager
def kept_on_ctrl_c(run, folder: Path, settings: dict) -> Iterator[None]:
    """Within it, Ctrl-C lets `run` finish its step, writes the checkpoint, and is then raised.

    A second Ctrl-C is raised at once. Loader workers that were not forked receive the first one too
    and end; it is then raised with no step kept. Nothing changes where the caller has a handler of
    its own for Ctrl-C, nor in a thread, where Python does not receive it.
    """
    usual, process = signal.getsignal(signal.SIGINT), os.getpid()

    def wait(number, _) -> None:
        if os.getpid() == process:  # and not a worker of the loader, which ends with this one
            signal.signal(number, usual)
            run.stop = True
            with suppress(Exception):  # it may interrupt a print, and `| tee` has ended by now
                tqdm.write(
                    "Stopping after this step, to keep it. (Ctrl-C once more stops at once.)"
                )

    main = threading.current_thread() is threading.main_thread()
    ours = main and usual is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, wait)
    try:
        yield
    except Stopped:
        save(folder, state(run, settings))
        raise
    except RuntimeError as error:
        if run.stop and "DataLoader worker" in str(error):
            raise KeyboardInterrupt from error
        raise
    finally:
        if ours:
            signal.signal(signal.SIGINT, usual)
    if run.stop:  # in the evaluation after the last step
        raise KeyboardInterrupt


def save(folder: Path, state: dict) -> None:
    """Write `state` as the newest checkpoint in `folder` and keep the one before it."""
    write(folder / NEWEST, {**state, "checksum": checksum(state)}, keep=folder / PREVIOUS)


def write(path: Path, value, keep: Path | None = None) -> None:
    """`torch.save` that leaves the old file or the whole new one, whenever it is interrupted.

    keep: the old file's new name; between the two renames it is there alone, under that name.
    """
    fresh = path.with_name(path.name + ".tmp")
    try:
        with open(fresh, "wb") as file:
            torch.save(value, file)
            file.flush()
            os.fsync(file.fileno())  # on the disk before a name points to it
        if keep is not None and path.exists():
            rename(path, keep)
        rename(fresh, path)
    except RuntimeError as error:  # how torch says that the disk is full
        raise OSError(f"{path} cannot be written whole, is the disk full? {error}") from error
    finally:
        fresh.unlink(missing_ok=True)


def load(folder: Path, settings: dict) -> dict | None:
    """The newest intact checkpoint in `folder` as it was saved, None where there is none yet.

    settings: what must be equal to `state["settings"]`, nested dicts of plain values.
    Warns where the newest is damaged and the previous one is used.

    Raises:
        CheckpointError: none is intact, or it is from another run; the message names what differs.
    """
    damage = []
    for name in (NEWEST, PREVIOUS):
        if not (folder / name).exists():
            continue
        try:
            state = read(folder / name)
        except CheckpointError as error:
            damage.append(str(error))
            continue
        if differences := compare(state["settings"], settings):
            more = f", and {len(differences) - 4} more" if len(differences) > 4 else ""
            raise CheckpointError(
                f"{name} belongs to another run: {'; '.join(differences[:4])}{more}. Go on with "
                "the settings it was made with, or give the new run a folder of its own"
            )
        for reason in damage:
            warnings.warn(f"{reason}: going on from {name} instead", stacklevel=3)
            (folder / NEWEST).unlink(missing_ok=True)  # or the next save would keep it as previous
        return state
    if damage:
        raise CheckpointError(
            f"{' and '.join(damage)}: no intact checkpoint is left. Start again without resuming"
        )
    return None


def read(path: Path) -> dict:
    """The content of one checkpoint; CheckpointError if it is not exactly what was saved."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a truncated or altered file may fail in zip, pickle or torch
        raise CheckpointError(f"{path.name} cannot be read ({type(error).__name__})") from error
    if not isinstance(state, dict) or not {"settings", "begun"} <= state.keys():
        raise CheckpointError(f"{path.name} is not a checkpoint of this version of the course")
    if state.pop("checksum", None) != checksum(state):
        raise CheckpointError(f"{path.name} is damaged: its content does not match its checksum")
    return state


def checksum(value) -> str:
    """SHA-256 of every tensor and plain value in nested dicts, lists and tuples."""
    sha = hashlib.sha256()

    def add(value) -> None:
        if isinstance(value, Tensor):
            sha.update(f"{value.dtype}{tuple(value.shape)}".encode())
            sha.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        elif isinstance(value, dict):
            sha.update(f"dict{len(value)}".encode())
            for key, item in value.items():
                add(key)
                add(item)
        elif isinstance(value, list | tuple):
            sha.update(f"list{len(value)}".encode())
            for item in value:
                add(item)
        else:
            sha.update(repr(value).encode())

    add(value)
    return sha.hexdigest()


def compare(stored, wanted, name: str = "") -> list[str]:
    """What differs between two nests of dicts, one sentence each."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        keys = dict.fromkeys([*stored, *wanted])
        pairs = ((key, stored.get(key, "nothing"), wanted.get(key, "nothing")) for key in keys)
        return [line for key, a, b in pairs for line in compare(a, b, f"{name}.{key}".lstrip("."))]
    return [] if stored == wanted else [f"{name} is {stored} there and {wanted} here"]
