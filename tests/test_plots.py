"""Figures for everybody: told apart without colours, readable from the back, described in words."""

import inspect
import itertools
import re
import runpy
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from helpers import plots
from helpers.plots import style

# Machado, Oliveira, Fernandes (2009): what is left of linear RGB at full severity.
SIGHTS = {
    "protanopia": [[0.152286, 1.052583, -0.204868],
                   [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968],
                     [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "grey": [[0.2126, 0.7152, 0.0722]] * 3,
}  # fmt: skip
TO_XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
SMALLEST = 10  # points, in figures of 9 to 11 inches


def seen(colors, sight: str | None = None) -> np.ndarray:
    """CIE Lab of sRGB colours (n, 3) in 0..1, as that reader sees them; L is the lightness."""
    srgb = np.atleast_2d(colors)
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    if sight:
        linear = np.clip(linear @ np.transpose(SIGHTS[sight]), 0, 1)
    xyz = linear @ np.transpose(TO_XYZ) / np.sum(TO_XYZ, axis=1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def falling(n, start=2.3, seed=0):
    return start * np.exp(-np.linspace(0, 2, n)) + np.random.default_rng(seed).normal(0, 0.02, n)


def images(n):
    return np.random.default_rng(0).integers(0, 255, (n, 32, 32, 3), dtype=np.uint8)


def bump(size):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.exp(-(x**2 + y**2) / size)


def found():
    steps = np.arange(60)
    curves = np.stack([falling(60, seed=s) for s in range(3)])
    return SimpleNamespace(
        lr=np.geomspace(1e-4, 10, 60), seeds=(0, 1, 2), loss=curves, accuracy=1 - curves / 2.5,
        curve=lambda of="loss": (steps, curves.mean(0) if of == "loss" else 0.4 - curves[0] / 9, 0),
    )  # fmt: skip


def history(start):
    return [{"loss": x, "val_accuracy": 1 - x / 3} for x in falling(5, start)]


NAMES = ("first", "second", "third", "fourth")
EPOCHS = {name: 1 - falling(5, 0.8, seed) for seed, name in enumerate(NAMES)}
SEEDS = {name: np.stack([values, values + 0.02]) for name, values in EPOCHS.items()}
RULES = {"steep": 0.03, "valley": 0.003, "minimum": 0.006, "slide": 0.5, "accuracy": 0.0008}
LR = np.concatenate([np.linspace(0.09, 0.47, 6), np.linspace(0.45, 0.2, 16), [0.05, 0.03]])
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

FIGURES = {
    "image_grid": lambda: plots.image_grid(images(12), list(NAMES) * 3, "Images", size=1.2),
    "curves": lambda: plots.curves(
        {n: (range(5), SEEDS[n]) for n in NAMES}, "Curves", "epoch", "accuracy", "Alt.", guess=0.5
    ),
    "bars": lambda: plots.bars({n: 3.0 + i for i, n in enumerate(NAMES)}, "Bars", "x", "Alt.", 4),
    "schedules": lambda: plots.schedules(
        {n: np.roll(LR, 3 * i) for i, n in enumerate(NAMES)}, "Schedules", "Alt.", {"first": 1 - LR}
    ),
    "triangular_policy": lambda: plots.triangular_policy(
        0.1 + 0.4 * np.abs((np.arange(24) % 10) - 5) / 5, 5
    ),
    "source_policy": lambda: plots.source_policy(LR, guess=0.1),
    "rate_and_accuracy": lambda: plots.rate_and_accuracy(
        LR, {n: 1 - falling(24, 0.8, i) for i, n in enumerate(NAMES[:2])}, "Rate"
    ),
    "equal_budget": lambda: plots.equal_budget(SEEDS, SEEDS, "Equal budget"),
    "accuracy_curves": lambda: plots.accuracy_curves(
        {"one run": dict(list(EPOCHS.items())[:2]), "another": EPOCHS}, "Accuracy", guess=None
    ),
    "layer_ratios": lambda: plots.layer_ratios(
        {
            n: {f"stage{i}.conv": 10.0 ** -(i % 4 + k) for i in range(8)}
            for k, n in enumerate(NAMES[:2])
        },
        "Ratios",
        rule=1e-3,
    ),
    "seed_dots": lambda: plots.seed_dots(
        {n: [0.5, 0.52, 0.55] for n in NAMES}, "Seeds", "accuracy"
    ),
    "range_test": lambda: plots.range_test(found(), RULES, guess=0.1),
    "smoothing_lag": lambda: plots.smoothing_lag(
        np.geomspace(1e-4, 1, 50),
        {n: falling(50, 2 + i) for i, n in enumerate(NAMES[:3])},
        {n: 0.01 * (i + 1) for i, n in enumerate(NAMES[:3])},
        "Lag",
    ),
    "accuracy_against_lr": lambda: plots.accuracy_against_lr(
        np.linspace(0, 1, 40), 1 - falling(40, 0.9), 0.3, "Accuracy against LR"
    ),
    "same_training": lambda: plots.same_training(
        {n: history(2 + i) for i, n in enumerate(NAMES[:3])}, "Same training", guess=0.5
    ),
    "receptive_fields": lambda: plots.receptive_fields(
        images(1)[0],
        {"stem\n3x3": (15, 17), "stage1\n14x14": (9, 22), "stage3\n64x64": (-16, 47)},
        "Fields",
    ),
    "effective_fields": lambda: plots.effective_fields(
        {f"stage{i}": bump(14 * i) for i in (1, 2, 3)},
        {f"stage{i}": 14 * i for i in (1, 2, 3)},
        "Seen",
    ),
    "step_times": lambda: plots.step_times(
        {n: list(40 + falling(12, 5, i)) for i, n in enumerate(NAMES[:2])}, "Times"
    ),
    "roofline": lambda: plots.roofline(
        1e11,
        1e10,
        {n: {"a": (2.0 + i, 1e10), "b": (30.0, 6e10 - 1e10 * i)} for i, n in enumerate(NAMES)},
        "Roof",
    ),
    "amdahl": lambda: plots.amdahl((0.5, 0.75, 0.9, 0.99), np.geomspace(1, 100, 20), guess=5),
    "confusion_matrix": lambda: plots.confusion_matrix(
        np.full((10, 10), 12) + 800 * np.eye(10, dtype=int), CLASSES, "Confusion"
    ),
    "misclassified_grid": lambda: plots.misclassified_grid(
        images(10), ["automobile"] * 10, ["airplane"] * 10, "Misclassified"
    ),
    "reliability_diagram": lambda: plots.reliability_diagram(
        np.linspace(0.05, 0.95, 10),
        np.linspace(0.1, 0.9, 10),
        np.arange(10) * 20 + 1,
        0.05,
        "Sure?",
    ),
    "class_evidence": lambda: plots.class_evidence(
        images(1)[0], {"dog": bump(32), "cat": bump(32) / 2}, "Evidence"
    ),
    "layer_maps": lambda: plots.layer_maps(
        images(1)[0],
        {f"stage{i}": bump(16 // i) for i in (1, 2, 4)},
        {f"stage{i}": bump(32) for i in (1, 2, 4)},
        "Layers",
    ),
    "two_pipelines": lambda: plots.two_pipelines(
        {n: np.full((9, 9), 1 / 81) for n in NAMES[:2]},
        {n: bump(32) / 9 for n in NAMES[:2]},
        "Pipelines",
    ),
    "accuracy_intervals": lambda: plots.accuracy_intervals(
        {n: (0.9 + i / 100, 0.89 + i / 100, 0.91 + i / 100) for i, n in enumerate(NAMES[:3])},
        "Intervals",
        0.9,
    ),
}


@pytest.fixture(scope="module", params=FIGURES)
def picture(request: pytest.FixtureRequest) -> style.Picture:
    drawn = FIGURES[request.param]()
    drawn.png(dpi=50)  # ticks and legends get their places and sizes
    return drawn


def test_every_figure_is_looked_at():
    public = inspect.getmembers(plots, inspect.isfunction)
    assert {n for n, f in public if f.__annotations__.get("return") is style.Picture} == set(
        FIGURES
    )


def test_the_simulation_sees_what_it_should():
    """Red and green of equal lightness are one colour to them; blue and yellow are not."""
    for sight in ("protanopia", "deuteranopia"):
        grey = seen([[0.5, 0.5, 0.5]], sight) - seen([[0.5, 0.5, 0.5]])
        assert np.abs(grey).max() < 0.5
        red, green, blue, yellow = seen(
            [[0.8, 0.3, 0.3], [0.4, 0.5, 0.3], [0, 0, 1], [1, 1, 0]], sight
        )
        assert np.linalg.norm((blue - yellow)[1:]) > 100
        both = seen([[0.8, 0.3, 0.3], [0.4, 0.5, 0.3]])
        assert np.linalg.norm((red - green)[1:]) < 0.6 * np.linalg.norm((both[0] - both[1])[1:])
    assert np.allclose(seen([[1, 0, 0]], "grey")[0, 1:], 0, atol=0.1)


@pytest.mark.parametrize("sight", ["protanopia", "deuteranopia"])
def test_the_palette_is_told_apart(sight):
    """Any two of the colours: a difference of 10 in Lab is seen at a glance."""
    lab = seen([to_rgb(c) for c in style.COLORS], sight)
    for (one, a), (other, b) in itertools.combinations(zip(style.COLORS, lab, strict=True), 2):
        assert np.linalg.norm(a - b) > 10, (one, other)


def test_lines_stand_out_from_the_paper():
    for sight in (None, *SIGHTS):
        assert (seen([to_rgb(c) for c in style.COLORS], sight)[:, 0] < 80).all()


def second_channel(line) -> tuple:
    """What is left of a line's look without its colour."""
    dash = line._unscaled_dash_pattern if line.get_linestyle() != "None" else "none"
    return dash, line.get_marker()


def test_series_differ_without_colour(picture):
    """In black and white: dash or marker differ, or the lightness does, and plainly."""
    for ax in picture.figure.axes:
        named = [line for line in ax.lines if not line.get_label().startswith("_")]
        for one, other in itertools.combinations(named, 2):
            if second_channel(one) == second_channel(other):
                a, b = seen([to_rgb(line.get_color()) for line in (one, other)], "grey")
                assert abs(a[0] - b[0]) > 25, (one, other)


def test_styles_differ_without_colour():
    dashes = [mpl.lines._get_dash_pattern(dash) for dash in style.DASHES]
    assert len({str(dash) for dash in dashes}) == len(set(style.MARKERS)) == len(style.COLORS)
    with pytest.raises(ValueError, match="8 lines, and at most 7"):
        list(style.series(dict.fromkeys("abcdefgh")))


@pytest.mark.parametrize(("count", "titles"), [(0, []), (2, ["one"])])
def test_a_grid_needs_a_title_for_each_image(count, titles):
    with pytest.raises(ValueError, match=f"{count} images, {len(titles)} titles"):
        plots.image_grid(images(count), titles, "Images")


def test_text_is_large_enough(picture):
    assert picture.figure.get_figwidth() <= 13
    for text in picture.figure.findobj(Text):
        if text.get_visible() and text.get_text().strip():
            assert text.get_fontsize() >= SMALLEST, text


def test_nothing_is_cut_off(picture):
    box = picture.figure.get_tightbbox()
    wide, high = picture.figure.get_size_inches()
    assert box.x0 > -0.02 and box.y0 > -0.02 and box.x1 < wide + 0.02 and box.y1 < high + 0.02


def test_ticks_that_change_with_the_size_are_not_cut_off():
    shifts, hidden = np.full((9, 9), 0.017), np.full((32, 32), 0.07)
    names = ("albumentations", "batched")
    maps = [dict.fromkeys(names, values) for values in (shifts, hidden)]
    pair = plots.two_pipelines(*maps, "Two pipelines, one distribution")
    pair.png(dpi=60)
    test_nothing_is_cut_off(pair)


def test_a_legend_leaves_the_curves_visible():
    runs = {"one": {n: np.full(8, 0.5) for n in "ab"}, "two": {n: np.full(8, 0.9) for n in "ab"}}
    picture = plots.accuracy_curves(runs, "Runs")
    picture.png(dpi=50)
    for ax in picture.figure.axes:
        line, box = ax.lines[0], ax.get_legend().get_window_extent()
        points = ax.transData.transform(line.get_xydata())
        assert not any(box.contains(*point) for point in points)


def test_a_figure_has_a_title_and_is_described(picture):
    assert len(picture.alt.split()) >= 5 or picture.alt.startswith("Alt.")
    titles = [ax.get_title() for ax in picture.figure.axes]
    assert any(titles) or picture.figure.get_suptitle()


def test_alt_texts_are_printed_where_they_are_asked_for(monkeypatch, capsys):
    """JupyterLab hands none to screen readers."""
    shown = plots.bars({"a": 1.0, "b": 2.0}, "Title", "unit", "Two bars.")
    monkeypatch.delenv("COURSE_ALT", raising=False)
    shown._repr_mimebundle_()
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("COURSE_ALT", "1")
    shown._repr_mimebundle_()
    assert capsys.readouterr().out == "Two bars.\n"


def test_effective_fields_say_how_large_the_bright_core_is():
    gradient = np.full((9, 9), 0.1)
    gradient[3:5, 3:6] = 1
    alt = plots.effective_fields({"stem": gradient}, {"stem": 9}, "T").alt
    assert alt.endswith("half as bright as the brightest span in stem 2x3 of 9x9 pixels.")


def test_maps_of_layers_say_where_they_are_bright():
    maps = {"one": np.zeros((4, 4)), "two": np.zeros((2, 2))}
    maps["one"][3, 0] = 2
    image, smooth = np.zeros((32, 32, 3), np.uint8), dict.fromkeys(maps, np.zeros((32, 32)))
    alt = plots.layer_maps(image, maps, smooth, "T").alt
    assert alt.endswith(
        "one, 4x4, brightest (2 logits) at the bottom left; two, 2x2, dark everywhere."
    )


def test_colour_maps_grow_evenly_in_lightness(picture):
    """Monotone, whoever looks, in even steps: no jet, whose bright bands are not in the data."""
    maps = {
        shown.get_cmap().name
        for ax in picture.figure.axes
        for shown in [*ax.images, *ax.collections]
        if shown.get_array() is not None and np.ndim(shown.get_array()) < 3
    }
    for name in maps:
        assert even(name), name


def even(name: str) -> bool:
    ramp = mpl.colormaps[name](np.linspace(0, 1, 33))[:, :3]
    for sight in (None, *SIGHTS):
        steps = np.diff(seen(ramp, sight)[:, 0])
        steps *= np.sign(steps.sum())
        if steps.min() < 0 or steps.max() > 3 * steps.mean():
            return False
    return True


def test_jet_would_be_noticed():
    assert even("viridis") and not even("jet") and not even("hsv")


@pytest.mark.parametrize("guess", [(0, 9), "90 %"])
def test_a_guess_that_is_no_number_is_shown(guess):
    with pytest.raises(TypeError, match=f"your guess is {re.escape(repr(guess))}: expected one"):
        plots.bars({"one": 1.0, "two": 2.0}, "Bars", "x", "Alt.", guess=guess)


@pytest.mark.parametrize(
    ("guess", "drawn"),
    [(0.5, True), (3, True), (-0.5, True), (85, False), (-50, False), ("2", True)],
)
def test_a_guess_is_in_the_figure_or_a_note(guess, drawn):
    lines = {"one": (np.arange(3), np.array([0.2, 0.4, 0.6]))}
    picture = plots.curves(lines, "Curve", "x", "y", "Alt.", guess=guess)
    ax = picture.figure.axes[0]
    low, high = ax.get_ylim()
    assert drawn == ("your guess" in ax.get_legend_handles_labels()[1])
    assert drawn == (low <= float(guess) <= high)
    assert f"The guess was {float(guess):g}." in picture.alt
    notes = [text.get_text() for text in ax.texts]
    assert notes == ([] if drawn else [f"your guess, {guess:g}, is far off the axis"])


def test_a_guess_is_named_beside_the_lines_and_their_ends():
    lines = {"training": np.array([0.4, 0.9]), "held out": np.array([np.nan, 0.88])}
    first, second = plots.accuracy_curves({"one": lines, "two": lines}, "Runs", 0.8).figure.axes
    for ax, guess in ((first, ["your guess"]), (second, [])):
        texts = [text.get_text() for text in ax.get_legend().get_texts()]
        assert texts == ["training: 90.0%", "held out: 88.0%", *guess]


def test_a_guess_on_a_logarithmic_axis():
    for guess, drawn in ((5, True), (0, False), (-1, False), (1e30, False)):
        ax = plots.amdahl((0.5, 0.9), np.geomspace(1, 100, 20), guess=guess).figure.axes[0]
        assert drawn == ("your guess" in ax.get_legend_handles_labels()[1])


def test_a_range_test_without_choices_has_no_legend():
    picture = plots.range_test(found(), {})
    assert "Choices" in plots.range_test(found(), RULES).alt and "Choices" not in picture.alt
    assert not any(ax.get_legend() for ax in picture.figure.axes)


def test_ticks_of_per_cent_say_what_they_are():
    axis = style.frame("t")[1].xaxis
    style.percent(axis)
    said = [axis.get_major_formatter()(share) for share in (0.325, 0.29, 0.9425, 1)]
    assert said == ["32.5%", "29%", "94.25%", "100%"]


def test_one_of_a_kind_keeps_the_title():
    figure = plots.misclassified_grid(images(1), ["cat"], ["US$_10$"], "The only error").figure
    assert figure.get_suptitle() == "The only error"
    assert figure.axes[0].get_title() == "predicted US$_10$\nactual cat"
    for picture, title in (
        (plots.receptive_fields(images(1)[0], {"stem": (0, 2)}, "t"), "stem"),
        (plots.effective_fields({"stem": bump(9)}, {"stem": 9}, "t"), "stem: 9x9"),
        (plots.two_pipelines({"a": np.ones((9, 9))}, {"a": np.ones((32, 32))}, "t"), "a"),
    ):
        assert picture.figure.axes[0].get_title() == title


def test_long_class_names_are_broken_into_lines():
    picture = plots.misclassified_grid(images(2), ["Labrador retriever"] * 2, ["cat"] * 2, "t")
    assert picture.figure.axes[0].get_title() == "predicted cat\nactual Labrador\nretriever"


@pytest.mark.parametrize("names", [
    ("golden retriever", "german shepherd dog"),
    ("a class with a name as long as a sentence, or longer than that", "us$ or ca$h, and a$b_$"),
    tuple(f"Main Dining Room No. {i}" for i in range(24)),
    tuple(f"a species with one beginning, number {i}" for i in range(60)),
], ids=("two", "long", "two dozen", "sixty"))  # fmt: skip
def test_any_class_names_leave_room_for_the_figure(names, recwarn):
    count = len(names)
    figure = plots.confusion_matrix(np.eye(count, dtype=int), names, "Confusion matrix").figure
    figure.canvas.draw()
    assert max(figure.get_size_inches()) < 20
    assert len({tick.get_text() for tick in figure.axes[0].get_yticklabels()}) == count
    matrix = figure.axes[0].get_window_extent()
    assert min(matrix.width, matrix.height) > 2 * figure.dpi
    assert figure.axes[0].yaxis.label.get_window_extent().x0 >= 0
    evidence = plots.class_evidence(images(1)[0], {f"true: {n}": bump(3) for n in names[:2]}, "t")
    grid = plots.misclassified_grid(images(2), list(names[:2]), list(names[:2]), "t")
    for picture in (evidence, grid):
        picture.figure.canvas.draw()
        boxes = [ax.title.get_window_extent() for ax in picture.figure.axes if ax.get_title()]
        assert not any(a.overlaps(b) for a, b in zip(boxes, boxes[1:], strict=False))
    assert f"actual {names[0]}" in grid.alt
    assert not recwarn.list


def test_titles_of_wide_letters_stay_above_their_images():
    names = ["MMM WWW MMM WWW"] * 5
    figure = plots.misclassified_grid(images(5), names, names, "t").figure
    figure.canvas.draw()
    boxes = [ax.title.get_window_extent() for ax in figure.axes]
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


def test_letters_of_other_scripts_come_from_a_font_that_is_installed(monkeypatch, recwarn):
    fonts = [SimpleNamespace(name=name) for name in ("DejaVu Sans", "Yu Gothic", "Another")]
    with mpl.rc_context(), monkeypatch.context() as patch:
        patch.setattr(font_manager.fontManager, "ttflist", fonts)
        runpy.run_path(style.__file__)
        assert mpl.rcParams["font.family"] == ["sans-serif", "Yu Gothic"]
    plots.bars({"\ud55c": 1, "b": 2}, "t", "x", "alt").png()  # boxes, and no line for each letter
    assert not recwarn.list


def test_many_classes_are_told_by_colour_alone():
    for count, numbers in ((30, 900), (31, 0)):
        names = tuple(f"$c{i}^$" for i in range(count))
        figure = plots.confusion_matrix(np.eye(count, dtype=int), names, "t").figure
        assert len(figure.axes[0].texts) == numbers


def test_the_fall_of_the_learning_rate_is_named():
    lr, test = np.array([0.1, 0.5, 0.45, 0.1, 0.0]), np.array([0.4, 0.5, 0.6, 0.8, 0.81])
    picture = plots.rate_and_accuracy(lr, {"training": test, "test": test}, "Run")
    assert picture.alt.endswith("falls most, 0.450 to 0.100: test 60.0% to 80.0%.")


def test_the_rules_stand_in_the_legend_from_left_to_right():
    top = plots.range_test(found(), {"slide": 0.5, "steep": 0.02, "valley": 0.1}).figure.axes[0]
    texts = [text.get_text() for text in top.get_legend().get_texts()]
    assert texts == ["steep: 0.02", "valley: 0.1", "slide: 0.5"]


@pytest.mark.parametrize(("wrong", "told"), [(3, "b called a, 25 % of its row"), (0, None)])
def test_the_commonest_error_is_named(wrong, told):
    alt = plots.confusion_matrix(np.array([[9, 0], [wrong, 9]]), ("a", "b"), "Errors").alt
    assert alt.endswith(f"The commonest error: {told}.") if told else "commonest" not in alt
