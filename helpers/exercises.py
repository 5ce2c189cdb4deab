"""The checks behind the exercises: what is right, what is wrong, and what it likely comes from.

A check takes the learner's answer, raises `Wrong(reason)` at the first thing that does not hold,
and returns a sentence when all does. An untouched stub is "not attempted", never an error.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any


class Wrong(Exception):
    """What does not hold yet, and what it likely comes from."""


@dataclass(frozen=True)
class Verdict:
    """The answer of a check; a notebook shows it as the cell's value."""

    status: str  # "right", "wrong" or "not attempted"
    message: str

    def __repr__(self) -> str:
        mark = {"right": "Right.", "wrong": "Not yet.", "not attempted": "Not attempted."}
        return f"{mark[self.status]} {self.message}"


def exercise(check: Callable[..., str]) -> Callable[..., Verdict]:
    """Turn a check into one that returns a `Verdict`.

    The first argument is the learner's answer: a value (None or ... is the untouched stub) or a
    function (untouched when it returns ...). An exception inside the learner's function is reported
    with its type and text.
    """

    @wraps(check)
    def run(answer: Any, *rest: Any) -> Verdict:
        if answer is None or answer is ...:
            return Verdict("not attempted", "Replace the ... and run the cell again.")
        try:
            return Verdict("right", check(_watch(answer) if callable(answer) else answer, *rest))
        except _Untouched:
            return Verdict(
                "not attempted", "The function still returns ..., so nothing was checked."
            )
        except Wrong as reason:
            return Verdict("wrong", str(reason))
        except Exception as error:  # the learner's own code may fail in any way: say how
            return Verdict("wrong", f"Your code raised {type(error).__name__}: {error}")

    return run


class _Untouched(Exception):
    pass


def _watch(function: Callable) -> Callable:
    @wraps(function)
    def call(*args, **kwargs):
        result = function(*args, **kwargs)
        if result is ...:
            raise _Untouched
        return result

    return call
