"""The figures of lesson 02."""

import matplotlib as mpl
import numpy as np

from helpers.plots.style import RED, Named, Picture, frame


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
    told, dashed = [], {"fill": False, "lw": 2, "ls": "--", "edgecolor": "white"}
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
        bright = np.ptp(np.argwhere(gradient > gradient.max() / 2), axis=0) + 1
        told.append(f"in {stage} {'x'.join(map(str, bright))} of {fields[stage]}x{fields[stage]}")
    alt = f"{title}. Field dashed; pixels at least half as bright as the brightest "
    return Picture(figure, f"{alt}span {'; '.join(told)} pixels.")
