"""Every figure of the course. Each function returns a `Picture`: a figure with its alt text.

A figure never computes what it shows: numbers come in, a picture goes out. The colours are those of
Okabe and Ito (2008), which colour-blind readers can tell apart; lines differ in dash as well, for
black and white.
"""

import base64
import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000",
)  # fmt: skip
COLORS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))

STYLE = {
    "font.size": 12,  # readable from the last row of a classroom
    "axes.titlesize": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "lines.linewidth": 2,
    "legend.frameon": False,
    "image.interpolation": "nearest",
}


class Picture:
    """A figure with its alt text: shown as the last expression of a cell, saved by `save`."""

    def __init__(self, figure: Figure, alt: str):
        if not alt.strip():
            raise ValueError(
                "a picture needs an alt text: one or two sentences saying what it shows"
            )
        self.figure, self.alt = figure, alt

    def png(self, dpi: int = 144) -> bytes:
        buffer = io.BytesIO()
        FigureCanvasAgg(self.figure)
        self.figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        return buffer.getvalue()

    def save(self, path: str | Path, dpi: int = 144) -> None:
        Path(path).write_bytes(self.png(dpi))

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        # JupyterLab ignores `alt` in the metadata, nbconvert reads it: the text goes to both.
        png = base64.b64encode(self.png()).decode()
        width = round(self.figure.get_figwidth() * 72)
        return {"image/png": png, "text/plain": self.alt}, {
            "image/png": {"alt": self.alt, "width": width}
        }


def new_figure(rows: int = 1, columns: int = 1, width: float = 9, height: float = 3.6, **options):
    """A figure and its axes in the course's style; `options` go to `Figure.subplots`."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns, **options)


def label(ax: Axes, title: str, x: str, y: str, legend: bool = False) -> None:
    """Title and axis labels (with units), and a legend where several lines need names."""
    ax.set(title=title, xlabel=x, ylabel=y)
    if legend:
        ax.legend()


def note_guess(
    ax: Axes, guess: float | None, horizontal: bool = True, name: str = "your guess"
) -> str:
    """Draw the learner's guess as a dotted line; returns what to add to the alt text."""
    if guess is None:
        return " No guess was written."
    (ax.axhline if horizontal else ax.axvline)(guess, color=BLACK, linestyle=":", label=name)
    return f" The guess was {guess:g}."


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
    lines = 1 + max((t.count("\n") for t in titles), default=0)
    figure, axes = new_figure(
        rows, columns, columns * size, rows * (size + 0.22 * lines) + 0.4, squeeze=False
    )
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, text in zip(axes.flat, images, titles, strict=False):
        ax.imshow(image, cmap="gray" if image.ndim == 2 else None)
        ax.set_title(text, fontsize=10)
    figure.suptitle(title, fontsize=13)
    return Picture(
        figure, alt or f"{title}: {len(images)} images, titled {', '.join(titles[:10])}."
    )


# Curves


def curves(
    series: dict[str, tuple],
    title: str,
    x: str,
    y: str,
    alt: str,
    log_x: bool = False,
    guess: float | None = None,
    limits: tuple[float, float] | None = None,
) -> Picture:
    """Named lines (xs, ys) in one figure; `guess` is drawn as a dotted horizontal line.

    `ys` may be (seeds, n): then the mean is drawn, with a band from the lowest to the highest seed.
    """
    figure, ax = new_figure(height=4)
    for (name, (xs, ys)), color, dash in zip(series.items(), COLORS, DASHES, strict=False):
        ys = np.atleast_2d(np.asarray(ys, dtype=float))
        ax.plot(xs, ys.mean(0), color=color, linestyle=dash, label=name)
        if len(ys) > 1:
            ax.fill_between(xs, ys.min(0), ys.max(0), color=color, alpha=0.2, linewidth=0)
    if log_x:
        ax.set_xscale("log")
    if limits:
        ax.set_ylim(*limits)
    alt += note_guess(ax, guess)
    label(ax, title, x, y, legend=len(series) > 1 or guess is not None)
    return Picture(figure, alt)


def bars(
    values: dict[str, float],
    title: str,
    x: str,
    alt: str,
    guess: float | None = None,
    text: str = "{:.3g}",
) -> Picture:
    """One horizontal bar a name, its value at the end; `guess` is a dotted vertical line."""
    figure, ax = new_figure(height=0.42 * len(values) + 1.3)
    names = list(values)
    drawn = ax.barh(names, list(values.values()), color=BLUE)
    ax.bar_label(drawn, [text.format(v) for v in values.values()], padding=4)
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.grid(axis="y", visible=False)
    alt += note_guess(ax, guess, horizontal=False)
    label(ax, title, x, "", legend=guess is not None)
    return Picture(figure, alt)


# Lesson 04


def schedules(
    lrs: dict[str, np.ndarray],
    title: str,
    alt: str,
    momentum: dict[str, np.ndarray] | None = None,
    x: str = "step",
) -> Picture:
    """Named learning rates, one value a step from step 0; momentum of the same names in a second
    panel. A line of fewer than 40 values shows each of them as a dot."""
    panels = {"learning rate": lrs} | ({"momentum": momentum} if momentum else {})
    figure, axes = new_figure(len(panels), 1, height=3 + len(panels), sharex=True, squeeze=False)
    for ax, (y, lines) in zip(axes.flat, panels.items(), strict=True):
        for (name, values), color, dash in zip(lines.items(), COLORS, DASHES, strict=False):
            marker = "o" if len(values) < 40 else None
            ax.plot(values, color=color, linestyle=dash, marker=marker, markersize=4, label=name)
        label(ax, "", "", y, legend=len(lines) > 1 and ax is axes.flat[0])
    axes.flat[0].set_title(title)
    axes.flat[-1].set_xlabel(x)
    return Picture(figure, alt)


def triangular_policy(lr: np.ndarray, half_cycle: int, x: str = "epoch index") -> Picture:
    """One triangular schedule, lr (n,) from step 0, with base, peak and half cycle drawn in."""
    base, peak = float(lr.min()), float(lr.max())
    figure, ax = new_figure(height=3.8)
    ax.plot(lr, color=BLUE, marker="o", markersize=4)
    for value, text in ((base, f"base {base:g}"), (peak, f"peak {peak:g}")):
        ax.axhline(value, color=BLACK, linestyle=":", linewidth=1)
        ax.text(len(lr) - 1, value + 0.02 * peak, text, ha="right")
    arrow, height = {"arrowstyle": "<->"}, base - 0.1 * peak
    for first in (0, half_cycle):
        ax.annotate("", (first + half_cycle, height), (first, height), arrowprops=arrow)
        ax.text(first + half_cycle / 2, height, f"half cycle: {half_cycle}", ha="center", va="top")
    ax.set_ylim(base - 0.22 * peak, peak * 1.1)
    label(ax, "The triangular policy", x, "learning rate")
    shape = f"up from {base:g} to {peak:g} in {half_cycle}, down in as many, and so on"
    return Picture(figure, f"Learning rate against {x}, straight lines: {shape}, {len(lr)} values.")


def source_policy(lr: np.ndarray, annealed: int = 2, guess: float | None = None) -> Picture:
    """The one-cycle of the 2020 run, lr (epochs,), of which the last `annealed` jump down."""
    jump, end = len(lr) - annealed, len(lr) - 1
    before, after, peak = lr[jump - 1], lr[jump], float(lr.max())
    figure, ax = new_figure(height=4)
    ax.plot(range(jump), lr[:jump], color=BLUE, marker="o", markersize=4, label="up and down")
    ax.plot(range(jump, end + 1), lr[jump:], color=RED, marker="s", label="annealed")
    ax.plot([jump - 1, jump], [before, after], color=RED, linestyle=":")
    notes = {
        f"peak {peak:g}": ((int(lr.argmax()), peak), (7.5, peak)),
        f"jump {before:.3f} to {after:.3f}": ((jump - 0.5, (before + after) / 2), (12, before)),
        f"last {lr[-1]:.4f}, not 0": ((end, lr[-1]), (12, lr[-1])),
    }
    for text, (point, place) in notes.items():
        ax.annotate(text, point, place, va="center", arrowprops={"arrowstyle": "->"})
    ax.set_ylim(-0.02, peak * 1.08)
    alt = (
        f"Learning rate of the 2020 run, one value an epoch: up from {lr[0]:g} to {peak:g} at epoch "
        f"index {lr.argmax()}, in a straight line down to {before:.3f}, a jump to {after:.3f} at "
        f"epoch index {jump}, and {lr[-1]:.4f} at the end."
    ) + note_guess(ax, guess)
    label(ax, "The one-cycle of the 2020 run", "epoch index", "learning rate", legend=True)
    return Picture(figure, alt)


def rate_and_accuracy(lr: np.ndarray, accuracy: dict[str, np.ndarray], title: str) -> Picture:
    """The learning rate of each epoch above, accuracies (0..1) of the same epochs below."""
    figure, (top, bottom) = new_figure(2, 1, height=5.4, sharex=True)
    top.plot(lr, color=BLACK, marker="o", markersize=4)
    for (name, values), color, dash in zip(accuracy.items(), COLORS, DASHES, strict=False):
        bottom.plot(values, color=color, linestyle=dash, marker="o", markersize=4, label=name)
    label(top, title, "", "learning rate")
    label(bottom, "", "epoch index", "accuracy (share correct)", legend=True)
    ends = ", ".join(f"{name} ends at {values[-1]:.1%}" for name, values in accuracy.items())
    return Picture(
        figure, f"{title}. {len(lr)} epochs, learning rate above, accuracy below: {ends}."
    )


def equal_budget(
    training: dict[str, np.ndarray], held_out: dict[str, np.ndarray], title: str
) -> Picture:
    """Training and held-out accuracy (seeds, epochs) of each name side by side; line: mean of the
    seeds, band: lowest to highest seed."""
    figure, axes = new_figure(1, 2, width=11, height=4.4, sharey=True)
    for ax, part, name in zip(axes, (training, held_out), ("training", "held-out"), strict=True):
        for (line, values), color, dash in zip(part.items(), COLORS, DASHES, strict=False):
            done = range(1, values.shape[1] + 1)
            ax.plot(done, values.mean(0), color=color, linestyle=dash, marker="o", label=line)
            ax.fill_between(done, values.min(0), values.max(0), color=color, alpha=0.18, lw=0)
        ax.set_xticks(done)
        label(ax, f"{name} images", "epochs done", "accuracy (share correct)")
    axes[0].legend()
    figure.suptitle(title, fontsize=13)
    ends = ", ".join(f"{name} {values[:, -1].mean():.1%}" for name, values in held_out.items())
    return Picture(figure, f"{title}: training left, held-out right. Held out at the end: {ends}.")
