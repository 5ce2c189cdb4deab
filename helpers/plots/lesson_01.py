"""The figures of lesson 01."""

from helpers.plots.style import (
    BLUE,
    RED,
    Guess,
    Named,
    Picture,
    color_bar,
    frame,
    note_guess,
    percent,
)


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
