"""The figures of lesson 04."""

import numpy as np

from helpers.plots.style import (
    BLACK,
    BLUE,
    ORANGE,
    RED,
    Guess,
    Named,
    Picture,
    draw_steps,
    frame,
    note_guess,
    percent,
)


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
    """The learning rate of each epoch above, accuracies (0..1) below, for 2 or more epochs; where
    the rate falls most is marked."""
    figure, (top, bottom) = frame(title, "epoch index", rows=2, height=5.4, sharex=True)
    top.plot(lr, color=BLACK, marker="o", markersize=4)
    top.set_ylabel("learning rate")
    top.set_ylim(bottom=0)  # to show whether the last value is 0
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
