"""The recipes say what their sources say, in a run of any length."""

from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest

from helpers.recipes import COURSE, SOURCE, SPEEDRUN

RECIPES = [SOURCE, COURSE, SPEEDRUN]
# The learning rates that the 2020 run logged, epoch 1 to 24.
LOGGED = [
    0.0944, 0.16992, 0.24544, 0.32096, 0.39648, 0.472, 0.45312, 0.43424, 0.41536, 0.39648, 0.3776,
    0.35872, 0.33984, 0.32096, 0.30208, 0.2832, 0.26432, 0.24544, 0.22656, 0.20768, 0.1888, 0.16992,
    0.04248, 0.02832,
]  # fmt: skip


def curve(recipe, steps, epochs=None):
    total = steps * (epochs or recipe.epochs)
    return np.array([recipe.lr(step, steps, epochs) for step in range(total)])


def test_source_has_the_logged_rate_in_every_step_of_an_epoch():
    rates = curve(SOURCE, 98).reshape(24, 98)
    np.testing.assert_allclose(rates, np.repeat(np.array(LOGGED)[:, None], 98, axis=1), rtol=1e-12)


def test_course_is_pages_schedule():
    """A straight line to 0.4 at the end of epoch 5, another to exactly 0 at the end of the run."""
    expected = np.interp(np.arange(1, 24 * 97 + 1) / 97, [0, 5, 24], [0, 0.4, 0])
    np.testing.assert_allclose(curve(COURSE, 97), expected, rtol=1e-12, atol=1e-15)
    assert COURSE.lr(24 * 97 - 1, 97) == 0 and COURSE.lr(5 * 97 - 1, 97) == 0.4


def test_speedrun_has_the_numbers_of_airbench94_muon():
    """Its loss is summed over 2,000 images, and its last layer has weights of deviation 1 and
    divides by 256, where ours starts uniform in +-1/16 and divides by 9: converted."""
    assert (SPEEDRUN.batch_size, SPEEDRUN.momentum, SPEEDRUN.muon) == (2000, 0.85, 0.24)
    assert (SPEEDRUN.label_smoothing, SPEEDRUN.pad, SPEEDRUN.ema) == (0.2, 2, None)
    assert SPEEDRUN.peak == pytest.approx(0.67 * (9 / 256) ** 2 * 2000, rel=0.01)
    assert SPEEDRUN.peak * SPEEDRUN.bias_lr == pytest.approx(0.053 * 2000, rel=0.01)
    assert SPEEDRUN.peak * SPEEDRUN.weight_decay == pytest.approx(2e-6 * 2000, rel=0.01)
    rates = curve(SPEEDRUN, 25) / SPEEDRUN.peak
    np.testing.assert_allclose(np.diff(rates), -1 / len(rates), rtol=1e-9)
    assert rates[-1] == 0


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_run_of_another_length_has_the_same_curve(recipe):
    for steps, epochs in [(97, 12), (97, 48), (40, 5), (16, 2), (3, 1), (1, 2)]:
        rates = curve(recipe, steps, epochs)
        assert rates.min() >= 0 and rates.max() <= recipe.peak
        if recipe is not SOURCE:
            ends = [time / recipe.epochs for time, _ in recipe.knots]
            values = [value * recipe.peak for _, value in recipe.knots]
            at = np.arange(1, steps * epochs + 1) / (steps * epochs)
            np.testing.assert_allclose(rates, np.interp(at, ends, values), rtol=1e-9, atol=1e-12)
        elif steps * epochs >= 24:  # its 24 values in order, each for as many steps, but for one
            changed = np.flatnonzero(np.diff(rates)) + 1
            assert rates[[0, *changed]] == pytest.approx(LOGGED)
            assert np.ptp(np.diff([0, *changed, len(rates)])) <= 1
    shorter = replace(recipe, epochs=5)
    assert (curve(shorter, 20) == curve(recipe, 20, 5)).all()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("step", [-1, 20, 21])
def test_a_step_outside_the_run_is_an_error(recipe, step):
    with pytest.raises(ValueError, match="2 epochs of 10 steps have 0 to 19"):
        recipe.lr(step, 10, 2)


def test_another_batch_size_keeps_the_rate_per_image_and_the_images_averaged_over():
    small = COURSE.with_batch(128)
    assert small.batch_size == 128 and small.peak == 0.1
    assert small.ema**4 == pytest.approx(COURSE.ema)
    assert SOURCE.with_batch(256).ema is None
    assert replace(small, batch_size=512, peak=0.4, ema=0.99) == COURSE
    assert COURSE.with_batch(512) == COURSE
    assert COURSE.with_batch(2048).peak == 1.6  # as lessons 05 and 07 say
    fast = SPEEDRUN.with_batch(500)
    assert (fast.peak, fast.muon) == pytest.approx((SPEEDRUN.peak / 4, SPEEDRUN.muon / 2))
    for bad in (0, -8):
        with pytest.raises(ValueError, match="batch_size"):
            COURSE.with_batch(bad)


def test_a_learner_changes_one_number_at_a_time():
    doubled = replace(COURSE, peak=0.8)
    np.testing.assert_allclose(curve(doubled, 7), 2 * curve(COURSE, 7))
    np.testing.assert_allclose(curve(replace(SOURCE, peak=0.236), 3), curve(SOURCE, 3) / 2)
    with pytest.raises(FrozenInstanceError):
        COURSE.peak = 1.0


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_numbers_are_possible(recipe):
    assert recipe.epochs > 0 and recipe.batch_size > 0 and recipe.peak > 0
    assert 0 <= recipe.momentum < 1 and recipe.weight_decay >= 0 and recipe.bias_lr > 0
    assert 0 <= recipe.label_smoothing < 1 and (recipe.ema is None or 0 < recipe.ema < 1)
    assert recipe.muon is None or 0 < recipe.muon < 1
    assert recipe.flip == "alternating" or 0 <= recipe.flip <= 1
    assert 0 <= recipe.pad < 32 and 0 <= recipe.cutout <= 32
    if recipe.knots:
        times, values = zip(*recipe.knots, strict=True)
        assert times[0] == 0 and times[-1] == recipe.epochs and min(np.diff(times)) > 0
        assert min(values) >= 0 and max(values) == 1


def test_course_keeps_the_budget_of_the_source():
    assert (COURSE.epochs, COURSE.batch_size) == (SOURCE.epochs, SOURCE.batch_size) == (24, 512)
    same = {f.name for f in fields(COURSE) if getattr(COURSE, f.name) == getattr(SOURCE, f.name)}
    assert same == {"epochs", "batch_size", "momentum", "muon", "pad", "cutout"}


@pytest.mark.parametrize("name, value", [
    ("epochs", 0), ("batch_size", 0), ("peak", -0.1), ("peak", float("nan")), ("momentum", 1.0),
    ("momentum", 0.0), ("weight_decay", -1e-4), ("label_smoothing", 1.5), ("bias_lr", 0.0),
    ("muon", 0.0), ("ema", 2.0), ("epochs", 2.5), ("batch_size", 32.5), ("knots", ()),
    ("knots", ((0, 0), (5, 1), (4, 0))), ("knots", ((0, 0), (5, -1))), ("weight_decay", np.inf),
    ("knots", ((0, 0), (5, np.nan))), ("knots", ((1, 0), (5, 1))),
    ("knots", ((0, 1),)), ("knots", ((0, 0), (2.5, 1), (24, 0))),
    ("knots", ((0, 1), (0, 0))), ("knots", ((0, 0), (5, np.inf))), ("peak", np.inf),
    ("bias_lr", np.inf), ("muon", np.inf), ("ema", 1.0), ("ema", 0.0),
    ("nesterov", "x"), ("drop_last", None), ("dirac_init", "x"),
])  # fmt: skip
def test_a_number_that_cannot_be_is_named(name, value):
    field = "nesterov" if (name, value) == ("momentum", 0.0) else name
    with pytest.raises(ValueError, match=f"{field} .* in recipe course: expected"):
        replace(COURSE, **{name: value})
