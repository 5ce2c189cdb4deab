"""The figures of lesson 03."""

import numpy as np

from helpers.plots.style import (
    BLACK,
    BLUE,
    DASHES,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    Guess,
    Named,
    Picture,
    draw_steps,
    frame,
    note_guess,
    percent,
    series,
)


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
