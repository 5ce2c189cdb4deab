"""Results: what files hold, what the statistics say, and that the README agrees with the files."""

import json
import math
import shutil
import statistics
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from helpers import measure, results
from helpers.data import load
from helpers.environment import CourseError
from helpers.evaluation import predict, wilson_interval
from helpers.layers import layer_table
from helpers.models import DavidNet, SpeedNet
from helpers.recipes import COURSE, SOURCE, SPEEDRUN

README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.fixture(scope="module")
def data():
    return load("shapes", holdout=0, limit=100)


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """One short run of both recipes, on few drawn shapes."""
    folder = tmp_path_factory.mktemp("results")
    for base in (SOURCE, COURSE):
        short = replace(base.with_batch(50), epochs=1)
        measure.recipe(short, data, 4, 1, folder=folder)
    return folder


def test_the_published_weights_are_those_that_were_measured(folder, data):
    net, found = results.published_net(folder=folder)
    run = found["runs"][0]
    accuracy = predict(net, data.unlock_test()).accuracy
    assert accuracy == pytest.approx(run["accuracy"], abs=0.02)  # half precision
    assert next(net.parameters()).dtype == torch.float32
    assert (folder / "course-w4.pt").stat().st_size < 2.5 * sum(
        tensor.numel() for tensor in net.state_dict().values()
    ) + 20_000


def test_altered_weights_are_refused(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save(DavidNet(4).half().state_dict(), tmp_path / "course-w4.pt")
    with pytest.raises(ValueError, match="course-w4.pt is not the file"):
        results.published_net(folder=tmp_path)
    assert results.published_net(folder=tmp_path / "empty") is None


def test_a_measurement_goes_on_where_it_stopped(folder, data):
    short = replace(COURSE.with_batch(50), epochs=1)
    before = json.loads((folder / "course-w4.json").read_text())
    path = measure.recipe(short, data, 4, 2, folder=folder)
    runs = json.loads(path.read_text())["runs"]
    assert runs[0] == before["runs"][0] and [run["seed"] for run in runs] == [0, 1]
    with pytest.raises(CourseError, match="another recipe, epochs"):
        measure.recipe(replace(short, peak=0.1, epochs=2), data, 4, 3, folder=folder)


def test_the_ladder_changes_one_thing_at_a_time():
    for name, rung in measure.LADDER.items():
        fields = [key for key in vars(COURSE) if getattr(rung, key) != getattr(COURSE, key)]
        if name not in ("course", "source"):
            assert len(fields) == (2 if name.startswith("LR") else 1), name
    kept = {"name", "epochs", "batch_size", "momentum", "pad", "cutout", "drop_last"}
    changed = {key for key in vars(COURSE) if getattr(SOURCE, key) != getattr(COURSE, key)}
    rungs = {
        key
        for name, rung in measure.LADDER.items()
        if name != "source"
        for key in vars(COURSE)
        if getattr(rung, key) != getattr(COURSE, key)
    }
    # Nothing that differs from 2020 goes unmeasured; Muon is the one that the course lacks.
    assert rungs == changed - kept | {"muon"} and COURSE.muon is None


def test_the_ladder_is_judged_on_held_out_images(tmp_path, monkeypatch):
    held = load("shapes", holdout=100, limit=100)
    few = {name: replace(measure.LADDER[name].with_batch(50)) for name in ("course", "source")}
    monkeypatch.setattr(measure, "LADDER", few)
    path = measure.ladder(held, 4, 1, 1, tmp_path)
    found = json.loads(path.read_text())
    assert found["evaluated_on"] == "held-out"
    assert [(run["rung"], run["seed"]) for run in found["runs"]] == [("course", 0), ("source", 0)]
    measure.ladder(held, 4, 1, 1, tmp_path)
    assert json.loads(path.read_text()) == found  # nothing was measured twice
    assert found["runs"][0]["changes"] == {"batch_size": 50, "peak": few["course"].peak,
                                           "ema": few["course"].ema}  # fmt: skip
    monkeypatch.setattr(measure, "LADDER", few | {"source": replace(few["source"], peak=0.1)})
    with pytest.raises(CourseError, match="holds 'source' with other or unknown settings"):
        measure.ladder(held, 4, 2, 1, tmp_path)
    runs = [{key: run[key] for key in run if key != "changes"} for run in found["runs"]]
    path.write_text(json.dumps(found | {"runs": runs}))  # as an earlier version wrote it
    with pytest.raises(CourseError, match="holds 'course' with other or unknown settings, None"):
        measure.ladder(held, 4, 2, 1, tmp_path)


@pytest.mark.parametrize("n", [2, 3, 9, 30])
def test_intervals_are_student_s(n):
    values = np.random.default_rng(n).normal(0.9, 0.01, n)
    low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    assert results.half_interval(list(values)) == pytest.approx((high - low) / 2, rel=1e-9)
    assert math.isnan(results.half_interval([0.9]))


def test_verdicts():
    assert results.verdict([0.02, 0.021, 0.019]).endswith("better")
    assert results.verdict([-0.02, -0.021, -0.019]).endswith("worse")
    assert results.verdict([0.02, -0.021, 0.019]).endswith("undecided")
    assert "one pair: undecided" in results.verdict([0.02])
    assert "2 equal pairs: undecided" in results.verdict([0.6 - 0.58, 0.7 - 0.68])


def test_the_tables_hold_the_numbers_of_the_files(folder):
    text = results.tables(folder)
    for name in ("source", "course"):
        runs = json.loads((folder / f"{name}-w4.json").read_text())["runs"]
        mean = 100 * np.mean([run["accuracy"] for run in runs])
        (row,) = [line for line in text.splitlines() if line.startswith(f"| recipe *{name}*")]
        assert f"| {mean:.2f} %" in row
        assert f"torch {torch.__version__}" in text
    assert "| 2020 report | 64 | 24 | 91.31 % | | 27 | 1 |" in text


def test_the_readme_says_what_the_files_say():
    text = README.read_text("utf-8")
    block = text.split(results.BLOCK[0])[1].split(results.BLOCK[1])[0]
    assert block.strip() == results.tables(), "python3 -m helpers publish --readme"


def test_the_readme_is_written_between_its_marks(tmp_path, folder):
    path = tmp_path / "README.md"
    path.write_text(f"before\n{results.BLOCK[0]}\nold\n{results.BLOCK[1]}\nafter\n", "utf-8")
    results.write_readme(path, folder)
    text = path.read_text("utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    path.write_text("no marks", "utf-8")
    with pytest.raises(CourseError, match="no place for results"):
        results.write_readme(path, folder)


def test_a_damaged_file_is_named(tmp_path):
    for damaged in ("notes", "[]", "{}"):
        (tmp_path / "course-w4.json").write_text(damaged)
        with pytest.raises(CourseError, match="A file of course in .* is damaged"):
            results.measured("course", tmp_path)


def test_other_pictures_are_another_measurement(data):
    folders = [replace(data, name="folder", train=data.train.subset(rows)) for rows in ([0], [1])]
    one, other = (results.settings(COURSE, d, 4, 1, None)["data"] for d in folders)
    assert one != other and one.startswith("folder ")
    assert results.settings(COURSE, data, 4, 1, None)["data"] == "shapes"


def test_runs_of_another_device_are_not_mixed_in(folder, data, monkeypatch, tmp_path):
    path = shutil.copytree(folder, tmp_path / "copy") / "course-w4.json"
    wanted = {key: value for key, value in json.loads(path.read_text()).items() if key != "runs"}
    assert measure.stored_runs(path, wanted)
    elsewhere = measure.origin() | {"device": "another GPU"}
    monkeypatch.setattr(measure, "origin", lambda: elsewhere)
    with pytest.raises(CourseError, match="holds runs of .*this is another GPU: move it away"):
        measure.stored_runs(path, wanted)


def prose() -> str:
    """The README on one line."""
    return " ".join(README.read_text("utf-8").split())


def test_a_run_names_the_device_it_was_made_on():
    assert results.origin(torch.device("cpu"))["device"].startswith("CPU, ")
    assert results.origin(torch.device("mps"))["device"].startswith("MPS, ")


def test_what_the_readme_says_of_the_speed_run():
    """Less than a third of the arithmetic, half of the epochs, and its times."""
    found = results.widest("speedrun")
    macs = [layer_table(net).total_macs for net in (SpeedNet(found["width"]), DavidNet(64))]
    assert macs[0] < macs[1] / 3 and found["epochs"] == COURSE.epochs / 2
    on_cpu = json.loads((results.FOLDER / "speedrun-cpu-w64.json").read_text("utf-8"))["runs"]
    assert all(run["device"].startswith("CPU") and run["threads"] == 1 for run in on_cpu)
    first, second = (round(run["seconds"] / 60) for run in on_cpu)
    assert f"in {first} minutes, a slower one in {second}" in prose()


def test_what_the_readme_says_of_the_gpu():
    found = {name: results.widest(name) for name in ("course", "speedrun")}
    training = {
        name: statistics.median(sum(run["seconds_per_epoch"]) for run in content["runs"])
        for name, content in found.items()
    }
    said = "a run of *course* trains for {course:.0f} s, one of *speedrun* for {speedrun:.1f} s"
    assert said.format(**training) in prose()
    assert all(found["course"]["width"] == 64 and len(c["runs"]) >= 9 for c in found.values())


@pytest.fixture
def rungs():
    """Accuracies of the published ladder: rung, then seed."""
    found = {}
    for run in results.widest("ladder")["runs"]:
        found.setdefault(run["rung"], {})[run["seed"]] = run["accuracy"]
    return found


def test_what_lesson_05_says_of_muon(rungs):
    """Better than the course at each LR tried, and at lesson 07's than at half and twice it."""
    own, half, twice = (
        rungs[f"with Muon{more}"] for more in ("", ", half its LR", ", twice its LR")
    )
    pairs = [(tried, rungs["course"]) for tried in (own, half, twice)] + [(own, half), (own, twice)]
    for better, worse in pairs:
        assert results.verdict([better[s] - worse[s] for s in worse]).endswith("better")


def test_each_results_file_is_explained():
    told = (results.ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for path in results.FOLDER.iterdir():
        name = path.stem if path.suffix == ".json" else path.name
        assert f"`{name}`" in told, path.name


@pytest.mark.parametrize("recipe", [SOURCE, COURSE, SPEEDRUN], ids=lambda recipe: recipe.name)
def test_published_results_are_those_of_the_recipe_as_it_is(recipe):
    """A number changed in a recipe is a number that no published run was made with."""
    for content in results.measured(recipe.name):
        assert content["recipe"] == json.loads(json.dumps(asdict(recipe))), content["width"]


def test_what_lesson_06_says_of_the_hardest_and_the_easiest_class():
    for recipe in ("source", "course", "speedrun"):
        runs = results.widest(recipe)["runs"]
        mean = {c: np.mean([run["per_class_accuracy"][c] for run in runs])
                for c in runs[0]["per_class_accuracy"]}  # fmt: skip
        assert (min(mean, key=mean.get), max(mean, key=mean.get)) == ("cat", "automobile")


@pytest.mark.parametrize(("width", "above"), [(64, True), (16, False)])
def test_what_lesson_06_says_of_the_published_nets_and_2020(width, above):
    """Their intervals lie apart, that of width 64 above, that of width 16 below."""
    right = {"2020": 9131}
    (found,) = (made for made in results.measured("course") if made["width"] == width)
    right["net"] = round(10_000 * found["runs"][0]["accuracy"])
    low, high = zip(*(wilson_interval(k, 10_000) for k in right.values()), strict=True)
    assert low[1] > high[0] if above else high[1] < low[0]


@pytest.mark.parametrize(("pairs", "share"), [(10, 1 / 2), (18, 4 / 5)])
def test_what_lesson_04_says_of_how_many_pairs_a_small_gap_needs(pairs, share):
    """The power of a paired test; runs scatter by 0.2 points, so their differences by 0.28."""
    shift, bound = 0.2 / (0.2 * math.sqrt(2 / pairs)), stats.t.ppf(0.975, pairs - 1)
    assert stats.nct.sf(bound, pairs - 1, shift) == pytest.approx(share, abs=0.03)


def test_seconds_are_those_of_the_epochs():
    """In files of before 2026-11-27 of the whole call, as CONTRIBUTING.md says."""
    for recipe in ("source", "course", "speedrun", "speedrun-cpu", "speedrun-sgd"):
        for run in (run for content in results.measured(recipe) for run in content["runs"]):
            more = run["seconds"] - sum(run["seconds_per_epoch"])
            assert abs(more) < 0.2 or run["date"] < "2026-11-27" and 0 < more < 1.5


def test_what_lesson_05_says_of_the_lrs_of_2020(rungs):
    gaps = [rungs["LR of 2020, never 0"][seed] - old for seed, old in rungs["course"].items()]
    assert not results.verdict(gaps).endswith("worse")
    gaps = [rungs["peak 0.6, not 0.4"][seed] - old for seed, old in rungs["course"].items()]
    assert results.verdict(gaps).endswith("better")
    rates = [[r.lr(t, 88, 4) for t in range(4 * 88)] for r in (measure.LADDER[n] for n in rungs)]
    means = dict(zip(rungs, map(np.mean, rates), strict=True))
    assert means["LR of 2020, never 0"] > means["course"]


def test_the_report_cut_its_percentages_off():
    """As README and lesson 06 say. The classes are equally large, so that the mean of ten rounded
    ones would be the accuracy, give or take a tenth."""
    lines = (Path(__file__).parent / "reference" / "class_accuracy.csv").read_text().split()[1:]
    reported = [float(line.split(",")[1]) for line in lines]
    assert len(reported) == 10 and 0.3 < 91.31 - np.mean(reported) < 0.7
