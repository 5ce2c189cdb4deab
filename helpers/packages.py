"""What this interpreter has, and what it lacks of requirements.txt. Standard library only.

Also run by path in another interpreter, to ask that one. No syntax newer than 3.6: see
environment.py.
"""

import hashlib
import json
import operator
import re
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
OLDEST, NEWEST = (3, 10), (3, 14)
OPENCV = ("opencv-python-headless", "opencv-python",
          "opencv-contrib-python-headless", "opencv-contrib-python")  # fmt: skip
SIGNS = {">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne,
         "<": operator.lt, ">": operator.gt}  # fmt: skip


def supported() -> bool:
    """Is this Python one that the packages support?"""
    return OLDEST <= tuple(sys.version_info[:2]) <= NEWEST


def requirements(path: Path = REQUIREMENTS) -> list:
    """The file's lines as (name, [(operator, version), ...], the line without its comment)."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        if line:
            name = re.match(r"[\w.-]+", line).group()
            rows.append((name, re.findall(r"(>=|<=|==|!=|<|>)\s*([\w.]+)", line), line))
    return rows


def digest() -> str:
    """What a finished environment's stamp says: changes when a requirement does."""
    return hashlib.sha256("\n".join(row[2] for row in requirements()).encode()).hexdigest()


def installed(name: str) -> "str | None":
    """The version of a package in this interpreter, None if it is absent or half removed."""
    from importlib import metadata  # here: Pythons before 3.8, of which nobody asks this, lack it

    try:
        return metadata.version(name) or None
    except (metadata.PackageNotFoundError, KeyError):
        return None


def problems(path: Path = REQUIREMENTS) -> list:
    """What this interpreter lacks: (name, version here or None, requirement). Empty: all there."""
    rows = []
    for name, bounds, line in requirements(path):
        builds = OPENCV if name in OPENCV else (name,)  # any build of OpenCV is the same cv2
        here = next((v for v in map(installed, builds) if v), None)
        if here is None or not all(holds(here, sign, bound) for sign, bound in bounds):
            rows.append((name, here, line))
    return rows


def holds(version: str, sign: str, bound: str) -> bool:
    """Compare release numbers; a nightly or vendor build (2.6.0a0+abc) counts as its release."""

    def release(text: str) -> list:
        numbers = re.findall(r"\d+", re.match(r"[\d.]*", text).group())
        return [int(n) for n in numbers] + [0] * (6 - len(numbers))

    return SIGNS[sign](release(version), release(bound))


if __name__ == "__main__":  # `environment.ask`
    if not supported():
        sys.exit("no Python for this course")
    lacking = problems(Path(sys.argv[1]))
    if lacking:
        import pip  # noqa: F401  without it nothing can be repaired
    print(json.dumps(lacking))
