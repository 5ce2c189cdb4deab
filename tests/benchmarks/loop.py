"""What `fit` costs on top of the bare steps: an epoch of it over forward, backward and step alone.

    OMP_NUM_THREADS=1 python tests/benchmarks/loop.py

Both train DavidNet on the same CPU batches, in turns in one process; the ratio is the median over
the pairs. `fit` is timed as called, so its set-up is in the epoch. "cpu" is the same in CPU seconds
of this process, which other work on the machine disturbs less. Goal: at most 1.05.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from helpers.models import DavidNet  # noqa: E402
from helpers.recipes import COURSE  # noqa: E402
from helpers.training import fit  # noqa: E402

WIDTH, BATCH, STEPS, PAIRS = 16, 128, 20, 9


def bare(model, batches):
    """The least that training is: no schedule, no average, no accuracy, no check."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    model.train()
    for x, y in batches:
        loss = F.cross_entropy(model(x), y, label_smoothing=0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def timed(function, *args, **kwargs):
    """(wall, CPU) seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function(*args, **kwargs)
    return time.perf_counter() - wall, time.process_time() - cpu


def main():
    channels_last = torch.channels_last
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(STEPS, BATCH, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (STEPS, BATCH), generator=generator)
    batches = [(x.to(memory_format=channels_last), y) for x, y in zip(images, labels, strict=True)]
    recipe = COURSE.with_batch(BATCH)
    ratios = []
    for pair in range(PAIRS + 1):
        plain = DavidNet(WIDTH).to(memory_format=channels_last)
        model = DavidNet(WIDTH).to(memory_format=channels_last)
        calls = [(bare, plain, batches), (fit, model, batches)]
        times = {}
        for function, *args in calls if pair % 2 else reversed(calls):
            options = {"recipe": recipe, "epochs": 1, "verbose": False} if function is fit else {}
            times[function] = timed(function, *args, **options)
        ratio = [ours / least for ours, least in zip(times[fit], times[bare], strict=True)]
        note = "" if pair else "  (warm-up, not counted)"
        print(f"bare {times[bare][0]:.2f} s, fit {times[fit][0]:.2f} s: {ratio[0]:.3f}{note}")
        ratios += [ratio] * bool(pair)
    wall, cpu = (round(statistics.median(column), 3) for column in zip(*ratios, strict=True))
    threads = torch.get_num_threads()
    print(json.dumps({"overhead": wall, "cpu": cpu, "pairs": PAIRS, "threads": threads}))


if __name__ == "__main__":
    main()
