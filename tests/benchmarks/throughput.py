"""How near a training step comes to the machine's peak: its FLOP a second over a matmul's.

    python tests/benchmarks/throughput.py [--width 64] [--batch-size 512] [--compile]

Step and matrix product are timed in turns; the ratio is the median over the pairs. The peak is that
of the number format the step computes in (16 bits on CUDA, else 32). The step counts three forward
passes of multiply-adds, two FLOP each, and nothing else, so the rest of its work lowers the ratio.
Goal on a data-centre GPU: 0.5.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from helpers.augment import BatchAugment, Batches  # noqa: E402
from helpers.data import load  # noqa: E402
from helpers.layers import layer_table  # noqa: E402
from helpers.models import DavidNet  # noqa: E402
from helpers.recipes import COURSE  # noqa: E402
from helpers.training import Run  # noqa: E402

PAIRS = 9


def seconds(work, times):
    """Mean of `times` calls in a row, waiting for the device before and after."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    began = time.perf_counter()
    for _ in range(times):
        work()
    wait()
    return (time.perf_counter() - began) / times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    device, data = torch.device("cuda" if cuda else "cpu"), load("shapes")
    torch.manual_seed(0)
    augment = BatchAugment(data.train.mean, data.train.std)
    batches = Batches(data.train, options.batch_size, augment, device)
    net = DavidNet(options.width)
    flop = 6 * layer_table(net).total_macs * options.batch_size
    run = Run(net, batches, COURSE, 10_000, device, options.compile)
    x, y = next(iter(batches))
    step = lambda: run.train_step(x, y, 0, len(y))  # noqa: E731
    n, repeats = (8192, 20) if cuda else (1024, 1)
    a = torch.randn(n, n, device=device, dtype=run.half or torch.float32)
    product = lambda: a @ a  # noqa: E731

    ratios, speeds = [], []
    for pair in range(PAIRS + 1):  # the first is the warm-up, compilation included
        peak = 2 * n**3 / seconds(product, repeats)
        speed = flop / seconds(step, repeats)
        print(f"step {speed / 1e12:.3f} TFLOP/s, matmul {peak / 1e12:.3f}: {speed / peak:.3f}")
        if pair:
            ratios.append(speed / peak)
            speeds.append(speed)
    print(json.dumps({
        "share_of_peak": round(statistics.median(ratios), 3),
        "images_per_second": round(statistics.median(speeds) / flop * options.batch_size),
        "width": options.width, "batch_size": options.batch_size, "compile": options.compile,
        "device": torch.cuda.get_device_name() if cuda else "CPU", "torch": torch.__version__,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
