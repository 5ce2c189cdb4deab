"""The figures of lesson 06."""

from textwrap import fill

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from helpers.plots.basic import image_grid
from helpers.plots.style import BARE, BLACK, BLUE, Named, Picture, color_bar, frame, percent, plain


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
    figure, ax = frame(title, width=side + 1.8, height=side)
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
    bar.set_facecolor("0.5")  # as transparent as the maps, which lie on grey
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
    told = []
    for (above, below), (name, values) in zip(axes.T[1:], raw.items(), strict=True):
        above.imshow(values, cmap="inferno", vmin=0)
        above.set_title(f"{name}: {len(values)}x{len(values[0])}")
        overlay(below, image, smooth[name])
        told.append(f"{name}, {len(values)}x{len(values[0])}, {brightest(values)}")
    told = "; ".join(told)
    return Picture(figure, f"{title}, above in squares, below resized over the image: {told}.")
