"""Figures of any lesson: images in rows, curves, bars."""

from textwrap import fill
from typing import Literal

import numpy as np

from helpers.plots.style import BARE, BLUE, Guess, Picture, draw, frame, note_guess, percent, plain


def image_grid(
    images: np.ndarray,
    titles: list[str],
    title: str,
    columns: int = 10,
    size: float = 1.0,
    alt: str | None = None,
) -> Picture:
    """Images (N,H,W,3) uint8 or 0..1, each with its title, row by row."""
    if len(images) == 0 or len(images) != len(titles):
        raise ValueError(f"{len(images)} images, {len(titles)} titles: expected one title an image")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    letters = round(11 * size)  # in a line; a title keeps its own line breaks
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
