"""Schedules against torch's schedulers and the 2020 log; the dry run against bad schedules."""

import csv
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    OneCycleLR,
    ReduceLROnPlateau,
)

from helpers.schedules import dry_run, one_cycle, piecewise_linear, source_one_cycle, triangular

LOG = Path(__file__).parent / "reference" / "training_log.csv"


def sgd(lr=0.1, momentum=0.9):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=momentum)


def torch_lrs(scheduler, steps):
    lrs = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for t in range(steps):
            lrs.append(scheduler.get_last_lr()[0])
            if t < steps - 1:
                scheduler.step()
    return np.array(lrs)


@pytest.mark.parametrize("half_cycle", [49, 98, 250, 2000, 98.5])
@pytest.mark.parametrize(
    "mode, gamma", [("triangular", 1.0), ("triangular2", 1.0), ("exp_range", 0.9994)]
)
def test_triangular_equals_torch(mode, gamma, half_cycle):
    scheduler = CyclicLR(sgd(), 0.0944, 0.472, half_cycle, mode=mode, gamma=gamma)
    ours = [triangular(t, 0.0944, 0.472, half_cycle, mode, gamma) for t in range(6000)]
    np.testing.assert_allclose(ours, torch_lrs(scheduler, 6000), rtol=1e-12)


def test_triangular_by_hand():
    assert [triangular(t, 1.0, 3.0, 2) for t in range(6)] == [1, 2, 3, 2, 1, 2]
    assert [triangular(t, 0.0, 4.0, 1, "triangular2") for t in (1, 3, 5)] == [4, 2, 1]
    assert triangular(3, 0.0, 4.0, 1, "exp_range", gamma=0.5) == 0.5
    assert [triangular(t, 2.0, 2.0, 3) for t in range(7)] == [2] * 7


@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize(
    "total, pct_start",
    [
        (6000, 0.3),
        (6000, 0.2083),
        (5859, 0.3),
        (980, 0.5),
        (24, 0.25),
        (10, 0.77),
        (7, 0.0),
        (9, 1.0),
        (3, 0.2),
    ],
)
def test_one_cycle_equals_torch(total, pct_start, anneal, three_phase):
    """With fractional peaks, no rise, rise only, and three phases that outlast the training."""
    scheduler = OneCycleLR(
        sgd(), 0.472, total, pct_start=pct_start, anneal_strategy=anneal, three_phase=three_phase
    )
    ours = [
        one_cycle(t, total, 0.472, pct_start, anneal=anneal, three_phase=three_phase)
        for t in range(total)
    ]
    np.testing.assert_allclose(ours, torch_lrs(scheduler, total), rtol=1e-12)


def test_one_cycle_with_other_factors_equals_torch():
    scheduler = OneCycleLR(sgd(), 1.0, 100, div_factor=10, final_div_factor=5, pct_start=0.4)
    ours = [one_cycle(t, 100, 1.0, 0.4, 10, 5) for t in range(100)]
    np.testing.assert_allclose(ours, torch_lrs(scheduler, 100), rtol=1e-12)
    ours = [one_cycle(t, 100, 1.0) for t in range(100)]
    np.testing.assert_allclose(ours, torch_lrs(OneCycleLR(sgd(), 1.0, 100), 100), rtol=1e-12)


def test_one_cycle_misses_a_peak_between_two_steps_as_torch_does():
    lrs = [one_cycle(t, 24, 1.0, pct_start=0.3) for t in range(24)]  # the peak stands at step 6.2
    assert 0.98 < max(lrs) < 0.999
    assert max(one_cycle(t, 24, 1.0, pct_start=0.25) for t in range(24)) == 1.0


def test_source_equals_the_24_logged_values_to_the_last_bit():
    with LOG.open() as file:
        logged = [float(row["lr"]) for row in csv.DictReader(file)]
    assert len(logged) == 24
    assert [source_one_cycle(epoch) for epoch in range(24)] == logged
    assert source_one_cycle(22, reducer=6) < 0


def test_piecewise_linear_equals_numpy_and_meets_its_knots():
    steps, values = (0, 490, 491, 2000, 2351), (0.0, 0.4, 0.38, 0.123, 0.0)
    ours = [piecewise_linear(t, steps, values) for t in range(2352)]
    np.testing.assert_allclose(ours, np.interp(range(2352), steps, values), rtol=1e-12, atol=1e-15)
    assert [ours[s] for s in steps] == list(values)


@pytest.mark.parametrize(
    "schedule, total",
    [
        (lambda t: triangular(t, 0.1, 1.0, 5), None),
        (lambda t: one_cycle(t, 30, 1.0), 30),
        (source_one_cycle, 24),
        (lambda t: piecewise_linear(t, (0, 5, 9), (0, 1, 0)), 10),
    ],
)
def test_no_schedule_answers_for_a_step_that_is_not_there(schedule, total):
    schedule(np.int64(0))
    for t in (-1,) if total is None else (-1, total, total + 1):
        with pytest.raises(ValueError, match=f"t = {t} is not a step"):
            schedule(t)
    for t in (1.0, 0.5, "1", None):
        with pytest.raises(TypeError, match=f"t = {t!r} is not a step: expected a whole number"):
            schedule(t)
    if total:
        assert math.isfinite(schedule(total - 1))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: triangular(0, 0.5, 0.1, 5), "base"),
        (lambda: triangular(0, 0.1, 0.5, 0), "half_cycle"),
        (lambda: triangular(0, 0.1, math.nan, 5), "peak"),
        (lambda: triangular(0, 0.1, math.inf, 5), "peak"),
        (lambda: triangular(0, 0.1, 0.5, 5, "exp_range", gamma=0), "gamma"),
        (lambda: triangular(0, 0.1, 0.5, 5, "cosine"), "mode"),
        (lambda: one_cycle(0, 10, 0.0), "peak"),
        (lambda: one_cycle(0, 10, 1.0, final_div_factor=0), "final_div_factor"),
        (lambda: dry_run(source_one_cycle, 0), "total"),
        (lambda: one_cycle(0, 0, 1.0), "total"),
        (lambda: one_cycle(0, 10, 1.0, pct_start=1.5), "pct_start"),
        (lambda: one_cycle(0, 10, 1.0, pct_start=0.1), "no rise"),  # torch: ZeroDivisionError
        (lambda: one_cycle(0, 10, 1.0, anneal="exp"), "anneal"),
        (lambda: one_cycle(0, 10, 1.0, div_factor=0), "div_factor"),
        (lambda: piecewise_linear(0, (0, 5), (1.0,)), "as many"),
        (lambda: piecewise_linear(0, (1, 5), (1.0, 0.0)), "from 0"),
        (lambda: piecewise_linear(0, (0, 5, 5), (1.0, 0.0, 1.0)), "rise"),
        (lambda: piecewise_linear(0, (0, 4.9), (1.0, 0.0)), "whole"),
        (lambda: piecewise_linear(0, (0, 5), (1.0, math.nan)), "finite"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_dry_run_of_a_good_schedule_finds_nothing():
    lr = lambda t: piecewise_linear(t, (0, 20, 99), (0.0, 0.4, 0.0))
    run = dry_run(lr, 100, momentum=lambda t: 0.9, peak=0.4)
    assert run.problems == []
    assert run.lr.tolist() == [lr(t) for t in range(100)] and (run.momentum == 0.9).all()
    assert "no problem found" in str(run) and "0.4 " in str(run)
    assert str(run).split("\n")[0].endswith("momentum")
    assert "momentum" not in str(dry_run(lr, 100))
    assert dry_run(lambda t: triangular(t, 0.1, 0.4, 7), 100, peak=0.4).problems == []
    assert dry_run(source_one_cycle, 24, peak=0.472).problems == []
    assert (
        len(str(dry_run(source_one_cycle, 24)).splitlines()) == 1 + 24 + 1
    )  # every epoch is shown


@pytest.mark.parametrize(
    "schedule, total, peak, messages",
    [
        (lambda t: one_cycle(t, 24, 1.0, 0.3), 24, 1.0, ["peak 1 missed: the LR is 0.99"]),
        (lambda t: source_one_cycle(t, reducer=6), 24, None, ["negative at step 22: -0.014"]),
        (lambda t: one_cycle(t, 600, 1.0), 490, None, ["has 600 steps, the training 490"]),
        (lambda t: one_cycle(t, 490, 1.0), 600, None, ["has 490 steps, the training 600"]),
        (lambda t: triangular(t, 0.1, 1.0, 98), 50, 1.0, ["peak 1 missed"]),
        (lambda t: triangular(t, 0.1, 1.0, 5, "exp_range", 1.01), 50, None, []),
        (lambda t: [0.1, 0.2, math.nan][t], 3, None, ["not finite at step 2"]),
        (lambda t: 0.2 - 0.1 * t, 3, None, ["zero one step too late, at step 3: -0.1"]),
        (lambda t: 3.0 - t, 3, None, []),  # it would be 0 there, which harms nothing
    ],
)
def test_dry_run_names_what_is_wrong(schedule, total, peak, messages):
    run = dry_run(schedule, total, peak=peak)
    assert len(run.problems) == len(messages), run.problems
    for problem, message in zip(run.problems, messages, strict=True):
        assert message in problem and problem in str(run)


def test_dry_run_of_torch_schedulers():
    optimizer = sgd()
    scheduler = OneCycleLR(optimizer, 0.4, 50, pct_start=0.3, anneal_strategy="linear")
    before = (optimizer.state_dict(), scheduler.state_dict())
    run = dry_run(scheduler, 50)
    assert [p.split(":")[0] for p in run.problems] == [
        "momentum is cycled too",
        "the LR is below zero one step too late, at step 50",
    ]
    assert (optimizer.state_dict(), scheduler.state_dict()) == before
    np.testing.assert_allclose(run.lr, torch_lrs(scheduler, 50), rtol=0)
    assert run.momentum.min() == pytest.approx(0.85) and run.momentum.max() == 0.95

    kept = OneCycleLR(sgd(), 0.4, 50, pct_start=0.31, cycle_momentum=False)
    assert [p[:16] for p in dry_run(kept, 50).problems] == ["peak 0.4 missed:"]
    assert "has 50 steps, the training 40" in dry_run(kept, 40).problems[0]
    assert "has 50 steps, the training 60" in dry_run(kept, 60).problems[0]
    adam = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    cycled = dry_run(OneCycleLR(adam, 0.4, 50), 50).problems
    assert "momentum is cycled too: 0.85 to 0.95, not 0.9" in cycled
    halves = ChainedScheduler([ExponentialLR(sgd(), 0.5)])
    assert dry_run(halves, 3).lr == pytest.approx([0.1, 0.05, 0.025])
    running = OneCycleLR(sgd(), 0.4, 60, cycle_momentum=False)
    for _ in range(30):
        running.optimizer.step()
        running.step()
    assert dry_run(running, 30).problems == []  # from where it stands, the peak behind it
    assert "has 30 steps, the training 50" in dry_run(running, 50).problems[0]
    cyclic = CyclicLR(sgd(), 0.1, 0.4, 30, cycle_momentum=False)
    assert "peak 0.4 missed" in dry_run(cyclic, 20).problems[0]
    assert dry_run(cyclic, 200).problems == []
    adam = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    assert dry_run(ExponentialLR(adam, 0.9), 5).lr == pytest.approx(
        [0.1 * 0.9**t for t in range(5)]
    )
    with pytest.raises(ValueError, match="follows the training"):
        dry_run(ReduceLROnPlateau(sgd()), 5)
    short = dry_run(LambdaLR(sgd(), lambda t: [1.0, 2.0, 3.0][t]), 5)
    assert short.problems[0] == "wrong step count: the schedule has 3 steps, the training 5"
    with pytest.raises(TypeError, match="integer"):
        one_cycle(0, 9.5, 1.0)


def test_the_source_s_lambdas_give_absolute_rates_to_a_scheduler_that_multiplies():
    """Its bug, as lesson 04 shows it: a base LR other than 1 scales the whole schedule."""
    scheduler = LambdaLR(sgd(lr=0.0944), source_one_cycle)
    assert "peak 0.472 missed: the LR is 0.0445" in dry_run(scheduler, 24, peak=0.472).problems[0]
