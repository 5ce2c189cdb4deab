"""Training from the shell, in this process: the files it writes, and what they say."""

import json
from argparse import Namespace

import pytest
import torch
from test_training import same

from helpers import launch
from helpers.data import load
from helpers.environment import CourseError
from helpers.evaluation import predict
from helpers.models import DavidNet
from helpers.recipes import COURSE
from helpers.training import fit


def arguments(out, **changes):
    given = {
        "recipe": "course", "data": "shapes", "width": 4, "epochs": 1, "batch_size": 50, "seed": 2,
        "profile": None, "out": out, "resume": False, "limit": 200, "holdout": 300,
    }  # fmt: skip
    return Namespace(**(given | changes))


@pytest.mark.parametrize("holdout", [300, 0])
def test_it_is_the_same_fit_and_the_results_are_those_of_the_model_it_wrote(holdout, tmp_path):
    assert launch.train(arguments(tmp_path, holdout=holdout)) == 0
    data = load("shapes", holdout=holdout, limit=200)
    model = DavidNet(4, len(data.classes))
    torch.manual_seed(2)
    expected = DavidNet(4, len(data.classes))
    history = fit(
        expected, data.train, recipe=COURSE, epochs=1, batch_size=50, seed=2, verbose=False
    )
    model.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert same(model, expected)

    results = json.loads((tmp_path / "results.json").read_text())
    found = predict(model, data.val if holdout else data.unlock_test())
    assert results["evaluated_on"] == ("held-out" if holdout else "test")
    (run,) = results["runs"]
    assert run["accuracy"] == found.accuracy and run["seed"] == 2
    assert results["recipe"]["peak"] == pytest.approx(COURSE.peak * 50 / 512)
    assert list(run["per_class_accuracy"]) == list(data.classes)
    assert run["history"][0]["loss"] == history[0]["loss"]
    assert run["seconds"] > sum(run["seconds_per_epoch"]) > 0
    for name in ("accuracy_tta", "device", "versions", "date", "commit", "processes", "threads"):
        assert name in run


def test_what_goes_wrong_in_a_training_is_told_without_a_traceback(tmp_path):
    assert launch.train(arguments(tmp_path)) == 0
    with pytest.raises(CourseError, match="belongs to another run: seed is 2 there and 3 here"):
        launch.train(arguments(tmp_path, seed=3, resume=True))
