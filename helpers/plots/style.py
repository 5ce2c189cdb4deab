"""What all figures share: colours and dashes, a frame, and a `Picture`: a figure with its alt text.

The colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart; lines
differ in dash as well, for black and white.
"""

import base64
import io
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
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
OTHER_SCRIPTS = (  # fonts of systems, with letters that matplotlib's own one lacks
    "Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Micro Hei", "Microsoft YaHei", "Yu Gothic",
    "Malgun Gothic", "Hiragino Sans", "Hiragino Sans GB", "Apple SD Gothic Neo", "Arial Unicode MS",
)  # fmt: skip
INSTALLED = {font.name for font in font_manager.fontManager.ttflist}
# For the whole session: a learner's own figures have them as well.
mpl.rcParams["font.family"] += [font for font in OTHER_SCRIPTS if font in INSTALLED]
warnings.filterwarnings("ignore", "Glyph .* missing from")  # one a letter; the boxes tell it
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
        self.figure.draw_without_rendering()  # once more: its places follow the ticks it then has
        self.figure.savefig(drawn, dpi=dpi)
        opaque = Image.open(drawn).convert("RGB")  # a tenth smaller: notebooks stay under 1.5 MB
        opaque.save(png, "png", dpi=(dpi, dpi), optimize=True)
        return png.getvalue()

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        # JupyterLab ignores `alt` in the metadata, the slides read it: the text goes to both.
        if os.environ.get("COURSE_ALT"):  # for a screen reader in JupyterLab
            print(self.alt)
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
    """Draw the learner's guess as a dotted line; returns what to add to the alt text. Call it last:
    a guess near what is drawn widens the axis; one far off would flatten all and becomes a note.
    """
    if guess is False:
        return ""
    if guess is None:
        guess, told, note = np.nan, " No guess was written.", "no guess written"
    else:
        try:
            guess = float(guess)
        except (TypeError, ValueError):
            raise TypeError(f"your guess is {guess!r}: expected one number, like 0.9") from None
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
    """Class names for the ticks of an axis; matplotlib would take a $ for a formula."""
    return [name.replace("$", r"\$") for name in names]
