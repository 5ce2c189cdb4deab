"""Checkpoints that survive a kill at any moment, and say so when they are damaged.

A checkpoint is one ordinary `torch.save` file of tensors and plain values, so that
`torch.load(path, weights_only=True)` reads it and no code in it can run.
"""

import hashlib
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor

NEWEST, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, or belongs to another run than the one that is to go on."""


def write(path: Path, value) -> None:
    """`torch.save` that leaves the old file or the whole new one, whenever it is interrupted."""
    fresh = path.with_name(path.name + ".tmp")
    with open(fresh, "wb") as file:
        torch.save(value, file)
        file.flush()
        os.fsync(file.fileno())  # on the disk before the name points to it
    os.replace(fresh, path)


def save(folder: Path, state: dict) -> None:
    """Write `state` as the newest checkpoint in `folder` and keep the one before it.

    Between the two renames only the previous one is there, which is enough to go on from.
    """
    if (folder / NEWEST).exists():
        os.replace(folder / NEWEST, folder / PREVIOUS)
    write(folder / NEWEST, {**state, "checksum": checksum(state)})


def remove(folder: Path) -> None:
    """Delete the checkpoints in `folder`, so that none of an earlier run is taken for a new one."""
    for name in (NEWEST, PREVIOUS):
        (folder / name).unlink(missing_ok=True)


def load(folder: Path, settings: dict) -> dict | None:
    """The newest whole checkpoint in `folder` as it was saved, None where there is none yet.

    settings: what must be equal to `state["settings"]`, nested dicts of plain values.
    Warns where the newest is damaged and the previous one is used.

    Raises:
        CheckpointError: none is whole, or it is of another run; the message names what differs.
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
        return state
    if damage:
        raise CheckpointError(
            f"{' and '.join(damage)}: no whole checkpoint is left. Start again with resume=False"
        )
    return None


def read(path: Path) -> dict:
    """The content of one checkpoint; CheckpointError if it is not exactly what was saved."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a cut or altered file fails in zip, pickle or torch, as it likes
        raise CheckpointError(f"{path.name} cannot be read ({type(error).__name__})") from error
    if not isinstance(state, dict) or "settings" not in state:
        raise CheckpointError(f"{path.name} is not a checkpoint of this course")
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
