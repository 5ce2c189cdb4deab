"""Every exercise: its solution accepted, its stub not attempted, plausible mistakes rejected.

Stub and solution are taken out of the notebooks, so what a learner reads is what is tested. The
wrong answers stand in tests/exercises/lesson_NN.py.
"""

import ast
import importlib.util
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers import exercises

HERE = Path(__file__).resolve().parent
NOTEBOOKS = sorted((HERE.parent / "notebooks").glob("[0-9]*.ipynb"))
SOLUTION = re.compile(r"<details><summary>Solution</summary>(.*?)</details>", re.DOTALL)
CODE = re.compile(r"```(?:py|python)\n(.*?)```", re.DOTALL)


def find_exercises(path: Path) -> list[tuple[str, str, str]]:
    """(name of the check, source of the stub cell, source of the solution) of each exercise."""
    cells, found = nbformat.read(path, 4).cells, []
    for cell, after in zip(cells, cells[1:], strict=False):
        if "exercise" in cell.metadata.get("tags", []):
            check = re.search(r"exercises\.(check_\w+)", cell.source.splitlines()[-1])
            assert check, f"{path.name}: an exercise's last line calls its check: {cell.source}"
            solution = SOLUTION.search(after.source)
            assert solution, f"{path.name}: the cell after {check[1]} holds its solution"
            found.append((check[1], cell.source, "\n".join(CODE.findall(solution[1]))))
    return found


def wrong_answers(path: Path) -> dict[str, list[str]]:
    file = HERE / "exercises" / f"lesson_{path.name[:2]}.py"
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WRONG


def judge(stub: str, answer: str | None) -> exercises.Verdict:
    """Run the stub, then the answer in its place, then the check that ends the stub's cell."""
    *body, check = ast.parse(stub).body
    names = {"np": np, "torch": torch, "F": F, "exercises": exercises}
    exec(compile(ast.Module(body, []), "stub", "exec"), names)
    if answer is not None:
        exec(answer, names)
    return eval(compile(ast.Expression(check.value), "check", "eval"), names)


CASES = [(path, *found) for path in NOTEBOOKS for found in find_exercises(path)]
IDS = [f"{path.name[:2]}-{check}" for path, check, *_ in CASES]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name[:2])
def test_a_lesson_has_four_exercises_or_more(path):
    found = find_exercises(path)
    assert len(found) >= 4
    assert {check for check, *_ in found} == set(wrong_answers(path))


@pytest.mark.parametrize(("path", "check", "stub", "solution"), CASES, ids=IDS)
def test_the_solution_is_accepted(path, check, stub, solution):
    verdict = judge(stub, solution)
    assert verdict.status == "right", verdict


@pytest.mark.parametrize(("path", "check", "stub", "solution"), CASES, ids=IDS)
def test_the_stub_is_not_attempted(path, check, stub, solution):
    assert judge(stub, None).status == "not attempted"


@pytest.mark.parametrize(("path", "check", "stub", "solution"), CASES, ids=IDS)
def test_mistakes_are_rejected_each_with_its_own_message(path, check, stub, solution):
    verdicts = [judge(stub, answer) for answer in wrong_answers(path)[check]]
    assert len(verdicts) >= 2
    assert [v.status for v in verdicts] == ["wrong"] * len(verdicts), verdicts
    assert len({v.message for v in verdicts}) == len(verdicts), "two mistakes, one message"


RETURNING = [
    case for case in CASES if re.match(r"(?s)\s*def (?!when_a_worker).*\n    return", case[3])
]


@pytest.mark.parametrize(("path", "check", "stub", "solution"), RETURNING)
def test_a_missing_return_is_named(path, check, stub, solution):
    verdict = judge(stub, re.sub(r"(?m)^(\s+)return ", r"\1", solution))
    assert verdict.status == "wrong"
    assert "is its `return` missing?" in verdict.message
