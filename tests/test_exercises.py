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
from helpers.exercises import judging

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


def judge(stub: str, answer: str | None) -> judging.Verdict:
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


def average_in_doubles(weights: torch.Tensor, decay: float) -> np.ndarray:
    average = weights[0].double().numpy()
    for new in weights.double().numpy():
        average = decay * average + (1 - decay) * new
    return average


def cut_out_in_singles(images, tops, lefts, size):
    result = torch.tensor(images, dtype=torch.float32)
    for image, top, left in zip(result, tops, lefts, strict=True):
        image[top : top + size, left : left + size] = 0
    return result


IN_ANOTHER_PRECISION = {
    "check_cut_out": cut_out_in_singles,
    "check_statistics": lambda images: (
        torch.tensor(images / 255).mean((0, 1, 2)),
        torch.tensor(images / 255).std((0, 1, 2), correction=0).requires_grad_(),
    ),
    "check_annealing": lambda t, first, last, peak, end: (
        end + (peak - end) * (1 + torch.cos(torch.tensor((t - first) / (last - first) * np.pi))) / 2
    ),
    "check_smoothed_loss": lambda logits, labels, smoothing: (
        (1 - smoothing) * F.nll_loss(logits.double().log_softmax(1), labels)
        - smoothing * logits.double().log_softmax(1).mean()
    ),
    "check_average_weights": average_in_doubles,
    "check_grad_cam": lambda a, g: F.relu((g.double().mean((2, 3), keepdim=True) * a).sum(1)),
}


@pytest.mark.parametrize("check", IN_ANOTHER_PRECISION)
def test_a_right_answer_may_be_single_double_array_or_tensor(check):
    verdict = getattr(exercises, check)(IN_ANOTHER_PRECISION[check])
    assert verdict.status == "right", verdict


def test_judge_tells_a_likely_mistake_from_another():
    likely = {0: "Nothing is counted.", 3: "One is missing."}
    judging.judge(4.0, 4, "Two and two.", likely)
    for found, told in [
        (0.0, "Nothing is counted."),
        (3, "One is missing."),
        (float("nan"), "nan is not it. Two and two."),
        (5, "5 is not it. Two and two."),
        (4.0001, "4.0001 is not it."),  # a count is not rounded
    ]:
        with pytest.raises(judging.Wrong, match=re.escape(told)):
            judging.judge(found, 4, "Two and two.", likely)
    with pytest.raises(judging.Wrong, match=re.escape("Nearly: 0.333 is right but for rounding")):
        judging.judge(0.333, 1 / 3, "A third.")


def test_close_compares_shapes_as_well():
    assert judging.close(torch.ones(3, requires_grad=True), [1, 1, 1 + 1e-7])
    assert not judging.close(torch.ones(3), 1.0)
    assert not judging.close(np.ones(3), np.ones((3, 1)))
    assert not judging.close([1.0, float("nan")], [1.0, 1.0])


def test_need_shape_says_what_came_out():
    judging.need_shape(torch.ones(2, 3), (2, 3), "two rows.")
    with pytest.raises(judging.Wrong, match=r"The shape is \(3,\), not \(2, 3\): two rows."):
        judging.need_shape([1, 2, 3], (2, 3), "two rows.")


def test_a_long_verdict_is_wrapped():
    """JupyterLab breaks long lines in the middle of a word."""
    verdict = judging.Verdict("wrong", "The values differ, because " + "so much is said " * 10)
    lines = repr(verdict).splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= 88
    assert " ".join(lines) == f"Not yet. {verdict.message.strip()}"


def test_an_answer_of_another_kind_is_not_called_the_learners_code():
    module = torch.nn.Linear(1, 1)
    for check, answer, told in (
        (exercises.check_sweep_lr, None, "None"),
        (exercises.check_sweep_lr, "0.1", "without quotes"),
        (exercises.check_sweep_lr, (0, 1), "comma"),
        (exercises.check_sweep_lr, max, "not a function"),
        (exercises.check_sweep_lr, {}, "not of the kind asked for"),
        (exercises.check_triangular, 3, "the function itself"),
        (exercises.check_residual_stage, module, "the class itself"),
    ):
        verdict = check(answer)
        assert verdict.status == "wrong" and told in verdict.message, verdict
