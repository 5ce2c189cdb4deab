"""Every figure of the course. Each function returns a `Picture`: a figure with its alt text.

A figure never measures or trains: numbers come in, a picture goes out. The colours are those of
Okabe and Ito (2008), which colour-blind readers can tell apart; lines differ in dash as well, for
black and white.
"""

import base64
import io
from collections.abc import Iterable, Iterator
from textwrap import fill
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000",
)  # fmt: skip
COLORS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK)
DASHES = ("-", "--", "-.", ":", (0, (10, 3)), (0, (6, 2, 1, 2, 1, 2)), (0, (1, 4)))
MARKERS = "osD^vPX"

STYLE = {
    "font.size": 12,  # readable from the last row of a classroom
    "axes.titlesize": 13,
    "figure.titlesize": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
}
BARE = {"frame_on": False, "xticks": (), "yticks": ()}  # axes that hold nothing but an image
Named = dict[str, np.ndarray]  # curves or maps, by the names that a figure shows
Guess = float | Literal[False] | None  # a learner's; None: not written, False: not asked for


class Picture:
    """A figure with its alt text: shown as the last expression of a cell.

    A panel with named lines gets a legend, unless it has one.
    """

    def __init__(self, figure: Figure, alt: str):
        if not alt.strip():
            raise ValueError(
                "a picture needs an alt text: one or two sentences saying what it shows"
            )
        self.figure, self.alt = figure, alt
        for ax in figure.axes:
            if ax.get_legend_handles_labels()[0] and not ax.get_legend():
                ax.legend(fontsize=11)

    def png(self, dpi: int = 120) -> bytes:
        drawn, png = io.BytesIO(), io.BytesIO()
        self.figure.savefig(drawn, dpi=dpi)
        opaque = Image.open(drawn).convert("RGB")  # a tenth smaller: notebooks stay under 1.5 MB
        opaque.save(png, "png", dpi=(dpi, dpi), optimize=True)
        return png.getvalue()

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        # JupyterLab ignores `alt` in the metadata, the slides read it: the text goes to both.
        png = base64.b64encode(self.png()).decode()
        about = {"alt": self.alt, "width": round(self.figure.get_figwidth() * 72)}
        return {"image/png": png, "text/plain": self.alt}, {"image/png": about}


def frame(
    title: str,
    x: str = "",
    y: str = "",
    rows: int = 1,
    columns: int = 1,
    width: float = 9,
    height: float = 4,
    **options,
):
    """A figure and its axes in the course's style, with their title and labels (with units).

    Several panels have one title above all; x is written below each column, y beside each row.
    `options` go to `Figure.subplots`.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)  # one renderer for all text, and not one for each
        panels = figure.subplots(rows, columns, squeeze=False, **options)
    for ax in panels[-1]:
        ax.set_xlabel(x)
    for ax in panels[:, 0]:
        ax.set_ylabel(y)
    if panels.size == 1:
        panels[0, 0].set_title(title, parse_math=False)
        return figure, panels[0, 0]
    figure.suptitle(title, parse_math=False)
    return figure, panels.squeeze()


def series(named: dict, marked: bool = False) -> Iterator[tuple[str, Any, dict]]:
    """(name, value, style) of each line or group of points: all colours differ, and all dashes and
    markers, since some readers see no colours. A single one needs no name in a legend."""
    if len(named) > len(COLORS):
        raise ValueError(f"{len(named)} lines, and at most {len(COLORS)} can be told apart")
    for (name, value), color, dash, marker in zip(
        named.items(), COLORS, DASHES, MARKERS, strict=False
    ):
        style = {"color": color, "linestyle": dash, "linewidth": 2}
        style |= {"label": name} if len(named) > 1 else {}
        yield name, value, style | ({"marker": marker, "markersize": 5} if marked else {})


def draw(ax: Axes, lines: dict[str, tuple], marked: bool = False) -> None:
    """Named lines (xs, ys); of ys (seeds, n) the mean, and a band from lowest to highest seed."""
    for _, (xs, ys), style in series(lines, marked):
        ys = np.atleast_2d(np.asarray(ys, dtype=float))
        ax.plot(xs, ys.mean(0), **style)
        if len(ys) > 1:
            ax.fill_between(xs, ys.min(0), ys.max(0), color=style["color"], alpha=0.2, linewidth=0)


def draw_steps(ax: Axes, lines: Named, first: int, marked: bool = True) -> None:
    """Named lines of one value an epoch or step, (n,) or (seeds, n), the first at x = `first`."""
    counted = {name: (first + np.arange(np.shape(ys)[-1]), ys) for name, ys in lines.items()}
    draw(ax, counted, marked)
    ax.xaxis.get_major_locator().set_params(integer=True)


def percent(*axes: Axis) -> None:
    """Ticks of shares in per cent, with as many digits as they have."""
    for axis in axes:
        axis.set_major_formatter(lambda share, _: f"{100 * share:g}%")


def note_guess(ax: Axes, guess: Guess, horizontal: bool = True) -> str:
    """Draw the learner's guess as a dotted line; returns what to add to the alt text. To be called
    last: a guess near what is drawn widens the axis; one far off would flatten all, and is a note.
    """
    if guess is False:
        return ""
    if guess is None:
        guess, told, note = np.nan, " No guess was written.", "no guess written"
    else:
        try:
            guess = float(guess)
        except (TypeError, ValueError):
            raise TypeError(f"your guess is {guess!r}: expected one number, as 0.9") from None
        told, note = f" The guess was {guess:g}.", f"your guess, {guess:g}, is far off the axis"
    axis, limit = (ax.yaxis, ax.set_ylim) if horizontal else (ax.xaxis, ax.set_xlim)
    scale = axis.get_transform()  # logarithms on a logarithmic axis
    low, high, at = scale.transform([*axis.get_view_interval(), guess])
    span = high - low
    if not low - 9 * span <= at <= high + 9 * span:
        where = {"transform": ax.transAxes, "ha": "right", "va": "bottom"}
        ax.text(1, 1.01, note, color="0.4", size=10, **where)
        ax.set_title(ax.get_title(), pad=20)  # above the note
        return told
    line = ax.axhline if horizontal else ax.axvline
    line(guess, color=BLACK, linestyle=":", label="your guess")
    if not low <= at <= high:
        limit(scale.inverted().transform([min(low, at - span / 20), max(high, at + span / 20)]))
    return told


def plain_logarithms(ax: Axes) -> None:
    """Numbers, not powers of ten, on both logarithmic axes."""
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(mpl.ticker.NullFormatter())
    ax.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))


def color_bar(drawn, axes, label: str, shrink: float = 1.0) -> Axes:
    """What the colours of an image mean, in the size of the other text."""
    bar = drawn.figure.colorbar(drawn, ax=axes, shrink=shrink).ax
    bar.set_ylabel(label, size=12)
    bar.tick_params(labelsize=12)
    return bar


def plain(names: Iterable[str]) -> list[str]:
    """Class names for the ticks of an axis, in which matplotlib would read formulas."""
    return [name.replace("$", r"\$") for name in names]


# Images


def image_grid(
    images: np.ndarray,
    titles: list[str],
    title: str,
    columns: int = 10,
    size: float = 1.0,
    alt: str | None = None,
) -> Picture:
    """Images (N,H,W,3) uint8 or 0..1, each with its title, row by row."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    letters = round(13 * size)  # in a line; the lines that a title has stay
    shown = ["\n".join(fill(line, letters) for line in text.split("\n")) for text in titles]
    lines = 1 + max(text.count("\n") for text in shown)
    width = max(columns * size, 0.1 * len(title))
    high, wide = np.shape(images[0])[:2]
    inches = {"width": width, "height": rows * (size * high / wide + 0.22 * lines) + 0.4}
    figure, axes = frame(title, rows=rows, columns=columns, **inches, subplot_kw=BARE)
    for ax, image, text in zip(np.ravel(axes), images, shown, strict=False):
        ax.imshow(image)
        ax.set_title(text, fontsize=10, parse_math=False)
    if len(images) == 1:  # whose own title has taken the figure's place
        figure.suptitle(title, parse_math=False)
    names = [text.replace("\n", " ").strip() for text in dict.fromkeys(titles)]
    told = ", ".join(names[:12]) + (", and so on" if len(names) > 12 else "")
    alt = alt or f"{title}: {len(images)} images: {told}."
    return Picture(figure, alt)


# Curves


def curves(
    lines: dict[str, tuple],
    title: str,
    x: str,
    y: str,
    alt: str,
    guess: Guess = False,
    limits: tuple[float, float] | None = None,
    shares: str = "",
    scale: Literal["linear", "log"] = "linear",
) -> Picture:
    """Named lines (xs, ys) in one figure; `guess` is drawn as a dotted horizontal line.

    `ys` may be (seeds, n): then the mean is drawn, with a band from the lowest to the highest seed.
    shares: the axes that show shares of 0..1 in per cent, "x", "y" or "xy". scale: of y.
    """
    figure, ax = frame(title, x, y)
    draw(ax, lines)
    ax.set_yscale(scale)
    if scale == "log":
        ax.yaxis.set_major_formatter("{x:g}")
    ax.set_ylim(limits)
    percent(*(getattr(ax, f"{name}axis") for name in shares))
    return Picture(figure, alt + note_guess(ax, guess))


def bars(
    values: dict[str, float],
    title: str,
    x: str,
    alt: str,
    guess: Guess = False,
    text: str = "{:.3g}",
) -> Picture:
    """One horizontal bar a name, its value at the end; `guess` is a dotted vertical line."""
    figure, ax = frame(title, x, height=0.42 * len(values) + 1.3)
    drawn = ax.barh(plain(values), list(values.values()), color=BLUE)
    ax.bar_label(drawn, [text.format(v) for v in values.values()], padding=4, fontsize=12)
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.grid(axis="y", visible=False)
    alt += note_guess(ax, guess, horizontal=False)
    if text.endswith("%}"):
        percent(ax.xaxis)
    if max(values.values()) >= 10_000:
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.locator_params(axis="x", nbins=5)  # seven digits are wide
    return Picture(figure, alt)


# Lesson 01


def two_pipelines(shifts: Named, hidden: Named, title: str) -> Picture:
    """A column a pipeline: above, the share of crops moved down and right by -4..4 (9,9); below,
    the share of images in which each pixel is hidden (32,32). Each row has one colour scale."""
    figure, axes = frame(title, rows=2, columns=len(shifts), height=7.6)
    rows = (
        (shifts, "crops", (-4.5, 4.5, 4.5, -4.5), "crop moved {} (pixels)", ("right", "down")),
        (hidden, "images hidden", (0, 32, 32, 0), "{} (pixels)", ("column", "row")),
    )
    for panels, (maps, word, extent, label, (x, y)) in zip(axes.reshape(2, -1), rows, strict=True):
        top = 100 * max(values.max() for values in maps.values())
        for ax, (name, values) in zip(panels, maps.items(), strict=True):
            drawn = ax.imshow(100 * values, extent=extent, vmin=0, vmax=top, cmap="viridis")
            ax.grid(False)
            ax.set(title=name, xlabel=label.format(x), ylabel=label.format(y))
        color_bar(drawn, panels, f"share of {word} (%)")
    spans = ", ".join(
        f"{name}: each shift in {100 * shifts[name].min():.1f} to {100 * shifts[name].max():.1f} %,"
        f" a pixel hidden in up to {100 * hidden[name].max():.1f} %"
        for name in shifts
    )
    return Picture(figure, f"{title}. Maps of shifts and hidden pixels look alike. {spans}.")


def accuracy_intervals(
    rows: dict[str, tuple[float, float, float]], title: str, guess: Guess = False
) -> Picture:
    """Named accuracies with the bounds of their intervals, (value, low, high), all 0..1."""
    x = "accuracy, with its 95 % Wilson interval"
    figure, ax = frame(title, x, height=0.6 * len(rows) + 1.5)
    for row, (name, (value, low, high)) in enumerate(rows.items()):
        ax.plot([low, high], [name] * 2, color=BLUE, lw=5, alpha=0.5, solid_capstyle="butt")
        ax.plot(value, name, "|", color=RED, markersize=20, markeredgewidth=3)
        ax.annotate(f"{value:.2%}", (value, row - 0.35), ha="center", size=12)
    ax.set_ylim(len(rows) - 0.4, -0.8)
    ax.margins(x=0.15)
    percent(ax.xaxis)
    alt = note_guess(ax, guess, horizontal=False)
    told = ", ".join(f"{name} {v:.2%} ({a:.2%} to {b:.2%})" for name, (v, a, b) in rows.items())
    return Picture(figure, f"{title}: {told}.{alt}")


# Lesson 02


def receptive_fields(image: np.ndarray, boxes: dict[str, tuple], title: str) -> Picture:
    """One panel a box: the image (H,W,3), grey padding around it, and the square from first to
    last pixel (the same along both axes) that a unit sees."""
    count = len(boxes)
    figure, axes = frame(title, "pixels", columns=count, width=2.9 * count, height=3.9)
    size = len(image)
    first = min(0, *(a for a, _ in boxes.values())) - 2
    last = max(size, *(b + 1 for _, b in boxes.values())) + 2
    for ax, (text, (a, b)) in zip(np.ravel(axes), boxes.items(), strict=True):
        ax.set_facecolor("0.85")
        ax.imshow(image, extent=(0, size, size, 0))
        side = b + 1 - a
        ax.add_patch(mpl.patches.Rectangle((a, a), side, side, fill=False, lw=1.5, edgecolor=RED))
        ax.set(xlim=(first, last), ylim=(last, first), xticks=(0, size), yticks=(0, size))
        ax.grid(False)
        ax.set_title(text, fontsize=12)
    told = "; ".join(text.replace("\n", " ") for text in boxes)
    return Picture(figure, f"{title}. A square on the same image in each panel: {told}.")


def effective_fields(maps: Named, fields: dict[str, int], title: str) -> Picture:
    """One panel a stage: mean |gradient| (H,W) of its centre unit, scaled to its own maximum, the
    theoretical field as a square around it."""
    count = len(maps)
    figure, axes = frame(
        title, "pixels from its centre", columns=count, width=2.9 * count, height=3.7
    )
    dashed = {"fill": False, "lw": 2, "ls": "--", "edgecolor": "white"}
    for ax, (stage, gradient) in zip(np.ravel(axes), maps.items(), strict=True):
        used = np.argwhere(gradient > 0)
        low, high = used.min(0), used.max(0)  # row and column of the first and the last pixel
        (height, width), (y, x) = high - low + 1, (low + high) / 2
        rows, columns = gradient.shape
        edges = (-x - 0.5, columns - x - 0.5, rows - y - 0.5, -y - 0.5)  # 0: the field's centre
        ax.imshow(gradient / gradient.max(), cmap="magma", vmin=0, vmax=1, extent=edges)
        corner, half = (-width / 2, -height / 2), fields[stage] / 2 + 4
        ax.add_patch(mpl.patches.Rectangle(corner, width, height, **dashed))
        ax.set(xlim=(-half, half), ylim=(half, -half))
        ax.locator_params(nbins=4, integer=True)
        ax.grid(False)
        ax.set_title(f"{stage}: {fields[stage]}x{fields[stage]}")
    alt = f"{title}: bright where the unit looks most, its receptive field dashed. Panels: "
    return Picture(figure, alt + ", ".join(f"{s} {fields[s]} pixels" for s in maps) + ".")


# Lesson 03


def range_test(
    found, choices: dict[str, float], title: str = "LR range test", guess: Guess = False
) -> Picture:
    """Loss above, accuracy below, against the learning rate of a `lr_finder.RangeTest`, log axis.

    Line: smoothed mean of the seeds; band: lowest to highest seed, as measured. choices: the LR of
    each rule, drawn through both panels.
    """
    above, x = f"{title}, seeds: {len(found.seeds)}", "learning rate (log scale)"
    figure, (top, bottom) = frame(above, x, rows=2, height=6.2, sharex=True)
    for ax, of in ((top, "loss"), (bottom, "accuracy")):
        steps, values, _ = found.curve(of)
        seeds = getattr(found, of)[:, steps]
        ax.fill_between(found.lr[steps], seeds.min(0), seeds.max(0), color=BLUE, alpha=0.2, lw=0)
        ax.plot(found.lr[steps], values, color=BLUE)
        if ax is top:  # what comes after the divergence would flatten all the rest
            ax.set_ylim(0.9 * seeds.min(), 1.5 * found.loss[:, 0].max())
        marks = zip(choices.items(), (RED, GREEN, PURPLE, ORANGE, BLACK), DASHES[1:], strict=False)
        for (rule, lr), color, dash in marks:
            text = f"{rule}: {lr:.2g}" if ax is top else None
            ax.axvline(lr, color=color, linestyle=dash, label=text)
    top.set(xscale="log", ylabel="loss of the batch (nats)")
    bottom.set_ylabel("accuracy of the batch")
    percent(bottom.yaxis)
    note = note_guess(top, guess, horizontal=False)
    steps, loss, _ = found.curve()
    where, right, _ = found.curve("accuracy")
    best = found.lr[where[right.argmax()]]
    alt = (
        f"{title}: loss above and accuracy below against the learning rate. The smoothed "
        f"loss falls to {loss.min():.2f} at {found.lr[steps[loss.argmin()]]:.2g}; "
        f"it ends at {loss[-1]:.2f}. The accuracy rises to {right.max():.0%} at {best:.2g} and "
        f"ends at {right[-1]:.0%}."
    )
    if choices:
        lines, names = top.get_legend_handles_labels()
        by_lr = sorted(zip(lines, names, strict=True), key=lambda pair: pair[0].get_xdata()[0])
        top.legend(*zip(*by_lr, strict=True), loc="upper left", fontsize=11)
        alt += " Choices: " + ", ".join(f"{rule} {lr:.2g}" for rule, lr in choices.items()) + "."
    return Picture(figure, alt + note)


def smoothing_lag(lr: np.ndarray, lines: Named, steepest: dict[str, float], title: str) -> Picture:
    """Curves (n,) over lr (n,), log axis; a mark of the same colour where each falls fastest."""
    figure, ax = frame(title, "learning rate (log scale)", "loss", height=4.2)
    for name, values, style in series(lines):
        ax.plot(lr, values, **style | {"label": f"{name}: steepest at {steepest[name]:.2g}"})
        height = np.interp(np.log(steepest[name]), np.log(lr), values)
        ax.plot(steepest[name], height, "o", color=style["color"], markersize=10)
    ax.set_xscale("log")
    points = ", ".join(f"{name} steepest at {x:.2g}" for name, x in steepest.items())
    return Picture(figure, f"{title}. Falling S-shaped curves; {points}.")


def accuracy_against_lr(lr: np.ndarray, accuracy: np.ndarray, pick: float, title: str) -> Picture:
    """The figure of the 2020 report: held-out accuracy (n,) at evenly spaced LRs (n,), and the LR
    picked."""
    figure, ax = frame(title, "learning rate (linear scale)", "held-out accuracy")
    ax.plot(lr, accuracy, color=BLUE, marker="o" if len(lr) < 60 else None)
    ax.set_ylim(0, max(0.3, 1.1 * accuracy.max()))
    ax.axvline(pick, color=RED, linestyle="--", label=f"steepest rise: {pick:.2g}")
    percent(ax.yaxis)
    best = f"the best is {accuracy.max():.1%} at {lr[accuracy.argmax()]:.2g}"
    return Picture(figure, f"{title}: {best}; the steepest rise is at {pick:.2g}.")


def same_training(histories: dict[str, list[dict]], title: str, guess: Guess = False) -> Picture:
    """Training loss left, held-out accuracy right, by epoch, of histories as `fit` returns them;
    NaN where a run had broken off. guess: of the accuracy, 0..1."""
    figure, (left, right) = frame(title, "epochs done", columns=2, width=11, height=4.2)
    losses, accuracies, ends = {}, {}, []
    for name, history in histories.items():
        loss, accuracy = ([epoch[k] for epoch in history] for k in ("loss", "val_accuracy"))
        broken = not np.isfinite(loss[-1])
        label = f"{name} (broke off)" if broken else name
        losses[label], accuracies[label] = loss, accuracy
        ends.append(f"{name} " + ("broke off" if broken else f"{accuracy[-1]:.1%}"))
    draw_steps(left, losses, first=1)
    draw_steps(right, accuracies, first=1)
    for line in right.get_lines():
        line.set_label("_")  # one legend for both panels
    left.set(title="training images", ylabel="training loss (nats)")
    left.set_ylim(0, min(5, left.get_ylim()[1]))  # the loss of a divergent run knows no bounds
    right.set(title="held-out images", ylabel="held-out accuracy")
    right.set_ylim(bottom=0, top=max(0.5, right.get_ylim()[1]))
    percent(right.yaxis)
    note = note_guess(right, guess)
    if right.texts:  # the note, which has lifted this panel's title
        left.set_title(left.get_title(), pad=20)
    return Picture(figure, f"{title}. Held-out accuracy at the end: {', '.join(ends)}.{note}")


# Lesson 04


def schedules(lrs: Named, title: str, alt: str, momentum: Named | None = None) -> Picture:
    """Named learning rates, one value a step from step 0; momentum of the same names in a second
    panel. A line of fewer than 40 values shows each of them as a dot."""
    panels = {"learning rate": lrs} | ({"momentum": momentum} if momentum else {})
    rows = len(panels)
    figure, axes = frame(title, "step", rows=rows, height=3 + rows, sharex=True)
    for ax, (y, lines) in zip(np.ravel(axes), panels.items(), strict=True):
        draw_steps(ax, lines, first=0, marked=max(map(len, lines.values())) < 40)
        ax.set_ylabel(y)
        if len(lines) > 1:  # beside the panel: wherever it stood inside, it would hide some line
            ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=11)
    return Picture(figure, alt)


def triangular_policy(lr: np.ndarray, half_cycle: int) -> Picture:
    """One triangular schedule, lr (n,) from step 0, with base, peak and half cycle drawn in."""
    base, peak = float(lr.min()), float(lr.max())
    figure, ax = frame("The triangular policy", "epoch index", "learning rate", height=3.8)
    ax.plot(lr, color=BLUE, marker="o", markersize=4)
    for value, name, gap, align in ((base, "base", -0.02, "top"), (peak, "peak", 0.02, "bottom")):
        ax.axhline(value, color=BLACK, linestyle=":", linewidth=1)
        ax.text(len(lr) - 1, value + gap * peak, f"{name} {value:g}", ha="right", va=align, size=12)
    arrow, height = {"arrowstyle": "<->"}, base - 0.16 * peak
    for first in (0, half_cycle):
        last, text = first + half_cycle, f"half cycle {half_cycle}"
        ax.annotate("", (last, height), (first, height), arrowprops=arrow)
        ax.text((first + last) / 2, height, text, ha="center", va="bottom", size=12)
    ax.set_ylim(base - 0.22 * peak, peak * 1.1)
    shape = f"up from {base:g} to {peak:g} in {half_cycle}, down in as many, and so on"
    alt = f"Learning rate against epoch index, straight lines: {shape}, {len(lr)} values."
    return Picture(figure, alt)


def source_policy(lr: np.ndarray, guess: Guess = False) -> Picture:
    """The one-cycle of the 2020 run, lr (epochs,), of which the last two jump down."""
    jump, end, top = len(lr) - 2, len(lr) - 1, int(lr.argmax())
    before, after, peak = lr[jump - 1], lr[jump], float(lr.max())
    figure, ax = frame("The one-cycle of the 2020 run", "epoch index", "learning rate")
    ax.plot(range(jump), lr[:jump], color=BLUE, marker="o", markersize=4, label="up and down")
    ax.plot(range(jump, end + 1), lr[jump:], color=RED, marker="s", label="annealed")
    ax.plot([jump - 1, jump], [before, after], color=RED, linestyle=":")
    notes = {
        f"peak {peak:g}": ((top, peak), (7.5, peak)),
        f"jump {before:.3f} to {after:.3f}": ((jump - 0.5, (before + after) / 2), (12, before)),
        f"last {lr[-1]:.4f}, not 0": ((end, lr[-1]), (12, lr[-1])),
    }
    for text, (point, place) in notes.items():
        ax.annotate(text, point, place, va="center", size=12, arrowprops={"arrowstyle": "->"})
    ax.set_ylim(-0.02, peak * 1.08)
    alt = (
        f"Learning rate of the 2020 run, one value an epoch: {lr[0]:g}, up to {peak:g} at epoch "
        f"index {top}, in a straight line down to {before:.3f}, a jump to {after:.3f} at "
        f"epoch index {jump}, and {lr[-1]:.4f} at the end."
    )
    return Picture(figure, alt + note_guess(ax, guess))


def rate_and_accuracy(lr: np.ndarray, accuracy: Named, title: str) -> Picture:
    """The learning rate of each epoch, 2 or more, above, accuracies (0..1) of the same below; where
    it falls most is marked."""
    figure, (top, bottom) = frame(title, "epoch index", rows=2, height=5.4, sharex=True)
    top.plot(lr, color=BLACK, marker="o", markersize=4)
    top.set_ylabel("learning rate")
    top.set_ylim(bottom=0)  # so that a last value that is not 0 is seen not to be
    draw_steps(bottom, accuracy, first=0)
    bottom.set_ylabel("accuracy")
    percent(bottom.yaxis)
    jump = int(np.argmin(np.diff(lr)))  # between this epoch and the next it falls most
    for ax in (top, bottom):
        ax.axvspan(jump, jump + 1, color=ORANGE, alpha=0.3, linewidth=0)
    name, judged = list(accuracy.items())[-1]
    beside = {"textcoords": "offset points", "ha": "right", "va": "top", "size": 12}
    top.annotate(f"{lr[jump]:.3f} to {lr[jump + 1]:.3f}", (jump, lr[jump]), (-8, -2), **beside)
    step = f"{name} {judged[jump]:.1%} to {judged[jump + 1]:.1%}"
    bottom.annotate(step, (jump, judged[jump]), (-8, -20), **beside)
    ends = ", ".join(f"{name} ends at {values[-1]:.1%}" for name, values in accuracy.items())
    alt = f"{title}. {len(lr)} epochs, learning rate above, accuracy below: {ends}. Where the "
    alt += f"learning rate falls most, {lr[jump]:.3f} to {lr[jump + 1]:.3f}: {step}."
    return Picture(figure, alt)


# Lesson 05


def accuracy_curves(runs: dict[str, Named], title: str, guess: Guess = False) -> Picture:
    """Accuracies (0..1), one value an epoch, by name, of one or several runs side by side.

    runs: {"course recipe": {"training": (epochs,), "held out": (epochs,)}}, or (seeds, epochs) for
    mean and band. The learner's guess is drawn in the first panel.
    """
    size = {"columns": len(runs), "width": 8 + len(runs), "height": 4.4}
    figure, axes = frame(title, "epochs done", "accuracy", sharey=True, **size)
    ends = []
    for ax, (run, lines) in zip(np.ravel(axes), runs.items(), strict=True):
        draw_steps(ax, {f"{n}: {np.mean(ys[..., -1]):.1%}": ys for n, ys in lines.items()}, first=1)
        percent(ax.yaxis)
        if len(runs) > 1:
            ax.set_title(run)
        last = (f"{name} {np.mean(ys[..., -1]):.1%}" for name, ys in lines.items())
        epochs = max(ys.shape[-1] for ys in lines.values())
        ends.append(f"{run} after {epochs} epochs: {', '.join(last)}")
    told = note_guess(np.ravel(axes)[0], guess)
    for ax in np.ravel(axes):
        if ax.get_legend_handles_labels()[0]:
            ax.legend(title="at the end", fontsize=11, title_fontsize=11, loc="lower right")
    return Picture(figure, f"{title}, against epochs. {'; '.join(ends)}.{told}")


def equal_budget(training: Named, held_out: Named, title: str) -> Picture:
    """Training and held-out accuracy (seeds, epochs) of each name side by side; line: mean of the
    seeds, band: lowest to highest seed."""
    return accuracy_curves({"training images": training, "held-out images": held_out}, title)


def layer_ratios(ratios: dict[str, dict[str, float]], title: str, rule: float) -> Picture:
    """Named positive ratios, one value a layer, logarithmic axis; `rule`: a value to expect."""
    figure, ax = frame(title, "ratio of norms", height=4.6)
    for _, values, style in series(ratios, marked=True):
        style |= {"linestyle": "none", "markersize": 8}
        ax.plot(list(values.values()), list(values), **style)
    ax.axvline(rule, color=BLACK, linestyle=":", label=f"rule of thumb for updates, {rule:g}")
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=3)
    spans = (f"{n} from {min(v.values()):.1g} to {max(v.values()):.1g}" for n, v in ratios.items())
    return Picture(figure, f"{title}, a dot for each layer, logarithmic axis: {', '.join(spans)}.")


def seed_dots(results: dict[str, list[float]], title: str, x: str) -> Picture:
    """Accuracies (0..1) of named trials, a dot a seed, a bar at their mean; the first is the one
    that the others are compared with: a dotted line."""
    means = {name: np.mean(values) for name, values in results.items()}
    figure, ax = frame(title, x, height=0.45 * len(results) + 1.5)
    first = next(iter(means))
    ax.axvline(means[first], color=BLACK, linestyle=":", label=f"mean of {first}")
    dot = {"color": BLUE, "markersize": 8, "alpha": 0.7}
    bar = {"color": RED, "markersize": 22, "markeredgewidth": 3}
    for name, values in results.items():
        once = ("one seed", "mean") if name == first else (None, None)  # in the legend
        ax.plot(values, [name] * len(values), "o", **dot, label=once[0])
        ax.plot(means[name], name, "|", **bar, label=once[1])
    ax.set_ylim(len(results) - 0.5, -0.5)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False, markerscale=0.6)
    ax.set_title(title, pad=32, parse_math=False)
    percent(ax.xaxis)
    told = ", ".join(f"{name} {mean:.1%}" for name, mean in means.items())
    drawn = f"a dot for each seed, a bar at the mean, a dotted line at that of {first}"
    return Picture(figure, f"{title}: {drawn}. Means: {told}.")


# Lesson 06


def confusion_matrix(matrix: np.ndarray, classes: tuple[str, ...], title: str) -> Picture:
    """Counts (C,C), row = true class; the colour is the errors' share of the row. Above 30 classes
    the colour alone."""
    import seaborn

    many = len(classes) > 30
    cell = 12 / len(classes) if many else max(0.62, 2.4 / len(classes))  # inches
    shorten = lambda name: name if len(name) < 21 else f"{name[:9]}…{name[-10:]}"
    names = plain(shorten(name) if many else fill(name, 20) for name in classes)
    longest = max(len(line) for line in "\n".join(names).split("\n"))
    side = cell * len(classes) + 0.7 + 0.09 * longest
    figure, ax = frame(title, width=side + 1.4, height=side)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    errors = 100 * share * (1 - np.eye(len(classes)))
    seaborn.heatmap(
        errors, annot=None if many else matrix, fmt="d", annot_kws={"size": 10}, cmap="Blues",
        vmin=0, vmax=max(1, errors.max()), square=True, ax=ax, xticklabels=names,
        yticklabels=names, cbar=False,
    )  # fmt: skip
    color_bar(ax.collections[0], ax, "errors: share of the row (%)", shrink=0.8)
    for k in range(len(classes)):  # right: grey, so that the colours are left to the errors
        ax.add_patch(mpl.patches.Rectangle((k, k), 1, 1, facecolor="0.85"))
    ax.set(xlabel="predicted class", ylabel="true class")
    ax.grid(False)
    ax.tick_params(axis="x", rotation=90, labelsize=min(12, 60 * cell))
    ax.tick_params(axis="y", rotation=0, labelsize=min(12, 60 * cell))
    diagonal = share.diagonal()
    best, worst = classes[diagonal.argmax()], classes[diagonal.argmin()]
    true, named = np.unravel_index(errors.argmax(), errors.shape)
    alt = (
        f"{title}: {len(classes)} by {len(classes)} counts, right ones on the diagonal. Best: "
        f"{best}, {diagonal.max():.0%} of its row; worst: {worst}, {diagonal.min():.0%}."
    )
    if errors.any():
        most = f"{errors.max():.0f} % of its row"
        alt += f" The commonest error: {classes[true]} called {classes[named]}, {most}."
    return Picture(figure, alt)


def misclassified_grid(
    images: np.ndarray, true: list[str], predicted: list[str], title: str, notes=None
) -> Picture:
    """Images (N,H,W,3), each with its predicted and its actual class; notes: a third line each."""
    notes = [""] * len(images) if notes is None else [f"\n{note}" for note in notes]
    titles = [
        f"predicted {p}\nactual {t}{n}" for p, t, n in zip(predicted, true, notes, strict=True)
    ]
    told = "; ".join(text.replace("\n", ", ") for text in titles[:5])
    alt = f"{title}: {len(images)} images, each with its predicted and actual class. First: {told}."
    return image_grid(images, titles, title, columns=5, size=1.8, alt=alt)


def reliability_diagram(
    confidence: np.ndarray, accuracy: np.ndarray, counts: np.ndarray, ece: float, title: str
) -> Picture:
    """Accuracy against mean confidence (K,), NaN for an empty bin; below, images in each bin."""
    shape = {"rows": 2, "width": 7, "height": 6, "sharex": True, "height_ratios": (3, 1)}
    figure, (top, bottom) = frame(title, "confidence", "images", **shape)
    top.set_ylabel("accuracy of the bin")
    top.plot([0, 1], [0, 1], color=BLACK, linestyle=":", label="as sure as right")
    full = counts > 0
    top.plot(confidence[full], accuracy[full], "o-", color=BLUE, label=f"net, ECE {ece:.3f}")
    middles = (np.arange(len(counts)) + 0.5) / len(counts)
    bottom.bar(middles, counts, width=0.9 / len(counts), color=BLUE)
    percent(top.xaxis, bottom.xaxis, top.yaxis)
    above = (accuracy[full] > confidence[full]).sum()
    alt = (
        f"{title}: accuracy against confidence; {above} of {full.sum()} bins lie above the diagonal"
        f", where the net is right more often than it is sure. ECE {ece:.3f}."
    )
    return Picture(figure, alt)


def overlay(ax: Axes, image: np.ndarray, values: np.ndarray, highest: float | None = None):
    """A map (H,W) from 0 to `highest` (default: its own maximum) over the image in grey."""
    grey = image.mean(2)  # stretched from black to white, or a dark map would hide it
    ax.imshow(grey, cmap="gray", vmin=grey.min(), vmax=grey.max())
    return ax.imshow(values, cmap="inferno", alpha=0.5, vmin=0, vmax=highest)


def class_evidence(image: np.ndarray, maps: Named, title: str) -> Picture:
    """An image (H,W,3) uint8 and over it raw maps (H,W) of named classes, all on one scale."""
    names = [fill(name, 26) for name in maps]
    lines = 1 + max(name.count("\n") for name in names)
    inches = {"width": 3.1 * (1 + len(maps)) + 0.8, "height": 3.5 + 0.2 * lines}
    figure, axes = frame(title, columns=1 + len(maps), **inches, subplot_kw=BARE)
    highest = max(float(values.max()) for values in maps.values()) or 1.0
    axes[0].imshow(image)
    axes[0].set_title("the image")
    for ax, name, values in zip(axes[1:], names, maps.values(), strict=True):
        drawn = overlay(ax, image, values, highest)
        ax.set_title(name, parse_math=False)
    bar = color_bar(drawn, axes, "evidence (logits)", shrink=0.85)
    bar.set_facecolor("0.5")  # the maps lie on grey, and it is as transparent as they are
    peaks = "; ".join(f"{name}, {brightest(values)}" for name, values in maps.items())
    return Picture(figure, f"{title}: the image and over it Grad-CAM maps, one scale. {peaks}.")


def brightest(values: np.ndarray) -> str:
    """The highest value of a map (H,W) and where it lies, in words, for an alt text."""
    if values.max() <= 0:
        return "dark everywhere"
    row, column = np.unravel_index(values.argmax(), values.shape)
    high = ("top", "middle", "bottom")[3 * row // len(values)]
    side = ("left", "middle", "right")[3 * column // len(values[0])]
    place = " ".join(dict.fromkeys((high, side)))
    return f"brightest ({values.max():.2g} logits) at the {place}"


def layer_maps(image: np.ndarray, raw: Named, smooth: Named, title: str) -> Picture:
    """Maps of one image by layer: raw (h,w) as the layer has them, smooth (H,W) over the image."""
    inches = {"width": 2.5 * (1 + len(raw)), "height": 5.8}
    figure, axes = frame(title, rows=2, columns=1 + len(raw), **inches, subplot_kw=BARE)
    for ax, text in zip(axes[:, 0], ("as computed", "resized"), strict=True):
        ax.imshow(image)
        ax.set_ylabel(text)
    axes[0, 0].set_title("the image")
    sizes = []
    for (above, below), (name, values) in zip(axes.T[1:], raw.items(), strict=True):
        above.imshow(values, cmap="inferno", vmin=0)
        above.set_title(f"{name}: {len(values)}x{len(values[0])}")
        overlay(below, image, smooth[name])
        sizes.append(f"{name} {len(values)}x{len(values[0])}")
    sizes = ", ".join(sizes)
    return Picture(figure, f"{title}: {sizes}; above in squares, below resized over the image.")


# Lesson 07


def step_times(ms: dict[str, list[float]], title: str) -> Picture:
    """Milliseconds of each run of a piece of work, in order, with the median as a thin line."""
    figure, ax = frame(title, "step, in order", "milliseconds", height=3.8)
    draw_steps(ax, ms, first=0)
    told = []
    for (name, values), color in zip(ms.items(), COLORS, strict=False):
        median = float(np.median(values))
        ax.axhline(median, color=color, linewidth=1)
        if len(ms) == 1:  # two could be too close to each other
            beside = {"transform": ax.get_yaxis_transform(), "va": "center", "size": 12}
            ax.text(1.01, median, f"median\n{median:.3g} ms", color=color, **beside)
        told.append(f"{name}: {min(values):.3g} to {max(values):.3g} ms, median {median:.3g} ms")
    ax.set_ylim(bottom=0)
    return Picture(figure, f"{title}. {'; '.join(told)}.")


def roofline(peak: float, bandwidth: float, points: dict[str, dict], title: str) -> Picture:
    """The roof min(peak, intensity * bandwidth) and groups of points {kind: {name: (x, y)}}.

    peak and y in FLOP/s, bandwidth in bytes/s, x in FLOP a byte; both axes are logarithmic.
    """
    figure, ax = frame(title, "arithmetic intensity (FLOP per byte)", "GFLOP/s", height=5.2)
    ridge = peak / bandwidth
    reached = [x for group in points.values() for x, _ in group.values()]
    xs = np.geomspace(min(*reached, ridge) / 2, max(*reached, ridge) * 2, 200)
    ax.loglog(xs, np.minimum(peak, xs * bandwidth) / 1e9, color=BLACK, label="roof")
    ax.axvline(ridge, color=BLACK, linestyle=":", linewidth=1, label=f"ridge: {ridge:.3g} FLOP/B")
    told = []
    for kind, group, style in series(points, marked=True):
        x, y = np.array(list(group.values())).T
        ax.loglog(x, y / 1e9, **style | {"linestyle": "none", "markersize": 8, "alpha": 0.8})
        told.append(f"{kind}: {np.median(y) / 1e9:.3g}")
    plain_logarithms(ax)
    alt = (
        f"{title}: the roof rises until {ridge:.3g} FLOP a byte and is flat at {peak / 1e9:.3g} "
        f"GFLOP/s from there. Median GFLOP/s of the points: {'; '.join(told)}."
    )
    return Picture(figure, alt)


def amdahl(shares: tuple[float, ...], factors: np.ndarray, guess: Guess = False) -> Picture:
    """Speed-up of the whole when a share of its time becomes `factor` times faster."""
    x, y = "times faster: the part that is improved", "times faster: the whole"
    figure, ax = frame("Amdahl's law", x, y, height=3.8)
    speedup = lambda share: (factors, 1 / (1 - share + share / factors))
    limits = {share: f"{100 * share:.3g}% of the time: {1 / (1 - share):.3g}" for share in shares}
    draw(ax, {f"{limit} at most": speedup(share) for share, limit in limits.items()})
    ax.loglog()
    plain_logarithms(ax)
    alt = note_guess(ax, guess)
    return Picture(figure, f"Curves that level off. Limits: {', '.join(limits.values())}.{alt}")
