"""What a second process brings: an epoch on one against an epoch on two, one thread each.

    python tests/benchmarks/processes.py [--processes 2]

Runs `torchrun -m helpers train` in turns on the built-in shapes; the speed-up is the median over
the pairs of the fastest epoch's images per second. At most as many as there are cores is possible.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAIRS, IMAGES = 3, 2000


def images_per_second(processes):
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={processes}", "-m", "helpers", "train", "--data", "shapes"]
        command += ["--width", "16", "--limit", str(IMAGES), "--batch-size", "256", "--epochs", "2"]
        plain_cpu = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        subprocess.run([*command, "--out", out], cwd=ROOT, env=plain_cpu, check=True,
                       capture_output=True)  # fmt: skip
        results = json.loads((Path(out) / "results.json").read_text())
    return results["training_images"] / min(results["runs"][0]["seconds_per_epoch"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    many = parser.parse_args().processes
    speedups = []
    for _ in range(PAIRS):
        one, all_ = images_per_second(1), images_per_second(many)
        print(f"one process {one:.0f} images/s, {many} processes {all_:.0f}: {all_ / one:.2f}")
        speedups.append(all_ / one)
    cores = os.cpu_count()
    print(json.dumps({"speedup": round(statistics.median(speedups), 2), "processes": many,
                      "cores": cores}))  # fmt: skip


if __name__ == "__main__":
    main()
