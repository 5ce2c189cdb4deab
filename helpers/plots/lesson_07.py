"""The figures of lesson 07."""

import numpy as np

from helpers.plots.style import (
    BLACK,
    COLORS,
    Guess,
    Picture,
    draw,
    draw_steps,
    frame,
    note_guess,
    plain_logarithms,
    series,
)


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
