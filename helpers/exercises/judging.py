"""What all checks share: a verdict, and the judges that tell right from wrong.

A check takes the learner's answer, raises `Wrong(reason)` at the first thing that does not hold,
and returns a sentence when all does. An untouched stub is "not attempted", never an error.
"""

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Verdict:
    """The answer of a check; a notebook shows it as the cell's value."""

    status: str  # "right", "wrong" or "not attempted"
    message: str

    def __repr__(self) -> str:
        mark = {"right": "Right.", "wrong": "Not yet.", "not attempted": "Not attempted."}
        lines = f"{mark[self.status]} {self.message}".splitlines()
        return "\n".join(textwrap.fill(line, 88) for line in lines)  # JupyterLab cuts words


class Wrong(Exception):
    """What does not hold yet, and what it likely comes from."""


class Untouched(Exception):
    """The stub is as it was, which its text says."""


def exercise(check: Callable[[Any], str], returns: bool = True) -> Callable[[Any], Verdict]:
    """Turn a check into one that returns a `Verdict`.

    The learner's answer is a value (... is the untouched stub), or a function or class, as the
    check's annotation says (untouched when it returns ...). An exception inside it is reported with
    its type and text. returns=False: a function that changes its argument and returns nothing.
    """

    wanted = next(iter(check.__annotations__.values()))

    @wraps(check)
    def run(answer: Any) -> Verdict:
        if answer is ...:
            return Verdict("not attempted", "Replace the ... and run the cell again.")
        if told := misfit(answer, wanted):
            return Verdict("wrong", told)
        try:
            return Verdict("right", check(watched(answer, returns) if callable(answer) else answer))
        except Untouched as untouched:
            return Verdict("not attempted", str(untouched))
        except Wrong as reason:
            return Verdict("wrong", str(reason))
        except Exception as error:  # the learner's own code may fail in any way: say how
            if not callable(answer):
                kind = f"This answer is not of the kind asked for ({type(answer).__name__})"
                return Verdict("wrong", f"{kind}: {error}")
            return Verdict("wrong", f"Your code raised {type(error).__name__}: {error}")

    return run


def misfit(answer: Any, wanted: Any) -> str:
    """Why an answer is not of the kind that a check takes; empty if it is."""
    if answer is None:
        return "The answer is None: was it printed instead of given?"
    if wanted is float and callable(answer):
        return "A number is wanted, not a function."
    if wanted is float and isinstance(answer, str):
        return "Write the number without quotes."
    if wanted is float and isinstance(answer, tuple):
        return "One number is wanted, and a comma makes two of it: 1234.5, not 1,234.5 or 1234,5."
    named = {Callable: "function", type: "class"}.get(wanted)
    if named and not isinstance(answer, wanted):
        return f"Give the {named} itself: its name alone, without brackets after it."
    return ""


def watched(function: Callable, returns: bool = True) -> Callable:
    def call(*args):
        result = function(*args)
        if result is ...:
            raise Untouched("The function still returns ..., so nothing was checked.")
        if result is None and returns:
            raise Wrong("The function returns None: is its `return` missing?")
        return result

    return call


def judge(
    found: float, right: float, hint: str, likely: dict | None = None, rtol: float = 1e-6
) -> None:
    """Raise `Wrong` unless found is right. likely: {wrong number: what it comes from}."""
    for wrong, reason in (likely or {}).items():
        if math.isclose(found, wrong, rel_tol=rtol, abs_tol=1e-12):
            raise Wrong(reason)
    if not math.isclose(found, right, rel_tol=rtol, abs_tol=1e-12):
        if isinstance(right, float) and math.isclose(found, right, rel_tol=1e-3):
            raise Wrong(f"Nearly: {found} is right but for rounding. Do not round it.")
        raise Wrong(f"{float(found):,.6g} is not it. {hint}")


def number(
    right: float, told: str, hint: str, likely: dict[float, str], rtol: float = 1e-9
) -> Callable[[Any], Verdict]:
    """A check of one number. told: why it is right; hint and likely: see `judge`."""

    @exercise
    def check(answer: float) -> str:
        judge(answer, right, hint, likely, rtol)
        return told

    return check


def array(answer: Any) -> np.ndarray:
    """A number, array or tensor as an array of doubles; a tensor may be part of a graph."""
    return np.asarray(answer.detach() if isinstance(answer, torch.Tensor) else answer, dtype=float)


def close(found: Any, other: Any) -> bool:
    """Whether two of what `array` takes agree but for rounding, in shape as well."""
    a, b = array(found), array(other)
    return a.shape == b.shape and np.allclose(a, b, atol=1e-5)


def two(found: Any, names: str) -> tuple:
    """The two values that a function returns; names: what they are called, as in "mean, std"."""
    try:
        first, second = found
    except (TypeError, ValueError):
        raise Wrong(f"Two values are wanted: `return {names}`.") from None
    return first, second


def unchanged(function: Callable, *given: np.ndarray) -> Any:
    """What the function returns; `Wrong` if it has changed one of the arrays it was given."""
    before = [values.copy() for values in given]
    result = function(*given)
    if not all(map(np.array_equal, given, before)):
        raise Wrong("The array you were given has changed: work on a copy.")
    return result


def need_shape(found: Any, shape: tuple[int, ...], why: str) -> None:
    if np.shape(found) != shape:
        raise Wrong(f"The shape is {tuple(np.shape(found))}, not {shape}: {why}")
