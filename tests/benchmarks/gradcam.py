"""Grad-CAM of 64 images in one call against 64 calls, a side timed in turn with the other.

    python tests/benchmarks/gradcam.py [--threads 2] [--pairs 5] [--images 64] [--layer stage3]

The last line is one JSON object: the median over pairs of time one by one / time batched, at
width 8 (at least 5 asked) and at width 64 (at least 1).
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from helpers.gradcam import grad_cam  # noqa: E402
from helpers.models import DavidNet  # noqa: E402


def measure(width: int, images: int, pairs: int, layer: str) -> dict:
    """Seconds an image, median over pairs, and the ratio of each pair."""
    torch.manual_seed(0)
    model, x = DavidNet(width), torch.randn(images, 3, 32, 32)
    sides = {
        "batched": lambda: grad_cam(model, x, layer),
        "single": lambda: [grad_cam(model, x[i : i + 1], layer) for i in range(images)],
    }
    seconds = {name: [] for name in sides}
    for pair in range(pairs + 1):  # the first pair warms up
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if pair:
                seconds[name].append((time.perf_counter() - start) / images)
    ratios = [s / b for s, b in zip(seconds["single"], seconds["batched"], strict=True)]
    result = {name: round(statistics.median(times), 6) for name, times in seconds.items()}
    return {**result, "ratio": round(statistics.median(ratios), 2), "worst": round(min(ratios), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--layer", default="stage3")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    widths = {}
    for width in (8, 64):
        widths[width] = measure(width, options.images, options.pairs, options.layer)
        print(f"width {width}: {widths[width]}", flush=True)
    ratios = {f"ratio_width_{width}": found["ratio"] for width, found in widths.items()}
    print(json.dumps({**ratios, "threads": options.threads, "images": options.images}))


if __name__ == "__main__":
    main()
