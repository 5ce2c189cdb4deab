"""The figures of lesson 05."""

import numpy as np

from helpers.plots.style import (
    BLACK,
    BLUE,
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
            ax.legend(title="at the end", fontsize=11, title_fontsize=11)
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
