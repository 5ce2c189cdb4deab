"""Training from the shell, in this process: the files it writes, and what they say."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_training import same

from helpers import __main__ as cli
from helpers import checkpoint, download, environment, launch, measure, results, session, training
from helpers.augment import normalise
from helpers.data import load
from helpers.environment import ROOT, CourseError
from helpers.evaluation import predict
from helpers.models import DavidNet, SpeedNet
from helpers.recipes import COURSE, SOURCE
from helpers.training import fit


def arguments(out, **changes):
    given = {
        "recipe": "course", "data": "shapes", "width": 4, "epochs": 1, "batch_size": 50, "seed": 2,
        "profile": None, "out": out, "resume": False, "limit": 200, "holdout": 300,
    }  # fmt: skip
    return Namespace(**(given | changes))


@pytest.mark.parametrize("holdout", [300, 0])
def test_it_is_the_same_fit_and_the_results_are_those_of_the_model_it_wrote(
    holdout, tmp_path, monkeypatch
):
    monkeypatch.setattr(session, "cuda_works", lambda: False)  # bit for bit on a CPU alone
    assert launch.train(arguments(tmp_path, holdout=holdout)) == 0
    data = load("shapes", holdout=holdout, limit=200)
    model = DavidNet(4, len(data.classes))
    torch.manual_seed(2)
    expected = DavidNet(4, len(data.classes))
    history = fit(
        expected, data.train, recipe=COURSE.with_batch(50), epochs=1, seed=2, verbose=False
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
    assert run["seconds"] == pytest.approx(sum(run["seconds_per_epoch"]), abs=0.06)
    assert run["seconds_per_epoch"][0] > 0
    for name in ("accuracy_tta", "device", "versions", "date", "commit", "processes", "threads"):
        assert name in run


def test_what_goes_wrong_in_a_training_is_told_without_a_traceback(tmp_path, capsys):
    assert launch.train(arguments(tmp_path)) == 0
    said = capsys.readouterr().out
    assert said.startswith("shapes, 200 training images\n") and "is replaced" not in said
    seconds = json.loads((tmp_path / "results.json").read_text())["runs"][0]["seconds"]
    assert launch.train(arguments(tmp_path, resume=True)) == 0  # nothing is left to train
    assert json.loads((tmp_path / "results.json").read_text())["runs"][0]["seconds"] == seconds
    assert "is replaced" not in capsys.readouterr().out
    assert launch.train(arguments(tmp_path)) == 0
    assert "held another run, which is replaced" in capsys.readouterr().out
    with pytest.raises(CourseError, match="belongs to another run: seed is 2 there and 3 here"):
        launch.train(arguments(tmp_path, seed=3, resume=True))


def test_an_interrupted_run_leaves_nothing_of_an_older_one_beside_it(tmp_path, monkeypatch):
    assert launch.train(arguments(tmp_path)) == 0
    assert {"model.pt", "results.json"} < {path.name for path in tmp_path.iterdir()}

    def interrupt(run, epoch, bar):
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Run, "train_epoch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        launch.train(arguments(tmp_path, seed=3))
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"limit": 3}, "limit=3: expected None, or 10 or more"),
        ({"holdout": 3}, "holdout=3 does not fit 20000 training images"),
        (
            {"batch_size": 500},
            "200 training images do not fill one batch of 500: take --batch-size",
        ),
        ({"data": "cifar10"}, "could not be downloaded"),
        ({"data": "folder:nowhere"}, "nowhere is not a folder: expected train/<class>"),
        ({"out": Path(__file__)}, "test_launch.py cannot be made .*: name a folder where you may"),
    ],
)
def test_bad_input_is_told_without_a_traceback(changes, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MIRRORS", ())
    monkeypatch.delenv("CIFAR10_MIRROR", raising=False)
    monkeypatch.setenv("COURSE_DATA_ROOT", str(tmp_path / "data"))
    with pytest.raises(CourseError, match=expected):
        launch.train(arguments(**({"out": tmp_path} | changes)))


def test_a_measurement_says_what_is_wrong_with_its_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(environment, "prepare", lambda skip: sys.executable)
    command = "measure --data shapes --limit 600 --width 4 --seeds 1 --recipe course --out".split()
    file = tmp_path / "course-w4.json"
    assert cli.main([*command, str(tmp_path), "--epochs", "2"]) == 0
    assert cli.main([*command, str(tmp_path), "--epochs", "3"]) == 1
    assert f"{file} holds runs with another epochs: move it away" in capsys.readouterr().err
    for damaged in ("notes", "[]", "{}", '{"runs": [{}]}'):
        file.write_text(damaged)
        assert cli.main([*command, str(tmp_path)]) == 1
        assert f"{file} is not a results file" in capsys.readouterr().err
    few = "measure --data shapes --limit 100 --recipe source course --out".split()
    assert cli.main([*few, str(tmp_path)]) == 1 and not (tmp_path / "source-w64.json").exists()
    assert "100 training images do not fill one batch of 512" in capsys.readouterr().err
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    assert cli.main([*command, str(tmp_path), "--seeds", "2"]) == 1
    assert "is for CIFAR-10 only: name another with --out DIR" in capsys.readouterr().err
    assert cli.main([*command, str(file)]) == 1
    assert "cannot be made" in capsys.readouterr().err
    assert cli.main(["measure", "--data", "shapes", "--limit", "3", "--out", str(tmp_path)]) == 1
    assert "limit=3: expected" in capsys.readouterr().err


def test_a_full_disk_is_told_and_leaves_the_file_that_was_there(tmp_path):
    resource = pytest.importorskip("resource")
    checkpoint.write(tmp_path / "model.pt", {"a": 1})
    before, limits = (tmp_path / "model.pt").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="is the disk full"):
            checkpoint.write(tmp_path / "model.pt", torch.zeros(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "model.pt").read_bytes() == before


def test_the_speed_run_trains_its_own_net_whitened_by_the_training_images(tmp_path):
    assert launch.train(arguments(tmp_path, recipe="speedrun")) == 0
    data = load("shapes", holdout=300, limit=200)
    net = SpeedNet(4, len(data.classes))
    net.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    x = normalise(torch.from_numpy(data.train.images), data.train.mean, data.train.std)
    out = F.conv2d(x, net.whitening.weight)[:, :12].transpose(0, 1).flatten(1)
    assert out.std(1).max() < 1.01 and out.std(1).max() > 0.9  # `eps` holds the weakest ones down
    assert (torch.corrcoef(out) - torch.eye(12)).abs().max() < 0.01
    assert (net.block1.bn1.weight == 1).all() and net.block1.bn1.bias.abs().sum() > 0
    assert net.whitening.bias.abs().sum() > 0


def test_a_batch_that_cannot_be_shared_is_told_before_the_first_step(monkeypatch):
    data = load("shapes", holdout=0, limit=33)
    monkeypatch.setattr(measure, "rank_and_processes", lambda: (0, 2))
    for recipe, told in [
        (SOURCE.with_batch(16), "2 processes cannot share a batch of 1 images"),
        (SOURCE.with_batch(1), "2 processes cannot share a batch of 1 images"),
        (SOURCE.with_batch(11), None),
        (COURSE.with_batch(16), None),
        (SOURCE.with_batch(40), None),
    ]:
        with pytest.raises(CourseError, match=told) if told else nullcontext():
            measure.check_batch(recipe, data)


def test_a_rank_without_a_meeting_place_is_one_process(monkeypatch):
    for name in ("WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    launch.join_processes()
    assert not torch.distributed.is_initialized()


def test_processes_meet_with_nccl_where_it_is(monkeypatch):
    """Windows has GPUs and no NCCL. 30 minutes: a slow line may keep the first one downloading."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    for name, value in dict(RANK=1, LOCAL_RANK=1, WORLD_SIZE=2, MASTER_ADDR="here").items():
        monkeypatch.setenv(name, str(value))
    met = []
    meet = lambda backend, **options: met.append((backend, options))
    monkeypatch.setattr(torch.distributed, "init_process_group", meet)
    for there in (True, False):
        monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda there=there: there)
        assert launch.join_processes() == torch.device("cuda", 1)
    assert [backend for backend, _ in met] == ["nccl", "gloo"]
    for _, options in met:
        assert options["timeout"].total_seconds() == 1800
        assert options["device_id"] == torch.device("cuda", 1)


@pytest.mark.parametrize("rank", ["0", None])
def test_a_process_of_several_ends_at_once(rank):
    """Its group's threads may wait for a process that has failed; the others must hear of it."""
    code = "import atexit; from helpers import __main__ as cli; atexit.register(print, 'waited'); "
    code += "cli.main = lambda: print('told') or what_fails; cli.begin()"
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}
    environment |= {"RANK": rank} if rank else {}
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "name 'what_fails' is not defined" in done.stderr
    assert done.stdout.split() == (["told"] if rank else ["told", "waited"])


def test_more_processes_than_gpus_are_refused_before_they_meet(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in dict(RANK=2, LOCAL_RANK=2, WORLD_SIZE=3, MASTER_ADDR="here").items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(CourseError, match=r"2 GPU\(s\).*--nproc-per-node=2 at most"):
        launch.join_processes()
