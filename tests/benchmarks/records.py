"""The course's recipes against a public record, in turns, in one process, on one CUDA GPU.

    python tests/benchmarks/records.py PATH/dawnbench.py --recipe course
    python tests/benchmarks/records.py PATH/airbench94_muon.py --recipe speedrun

The script is the record's own file, unmodified: dawnbench.py of KellerJordan/cifar10-zoo or
airbench94_muon.py of KellerJordan/cifar10-airbench. Both train on all 50,000 images and are timed
without loading and evaluation; the first run of both is a warm-up and is not counted. Prints the
median of the pairs' ratios: of images per second, and of seconds for the whole run.
"""

import argparse
import importlib.util
import inspect
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from helpers import recipes  # noqa: E402
from helpers.data import load  # noqa: E402
from helpers.evaluation import predict  # noqa: E402
from helpers.measure import new_net  # noqa: E402
from helpers.training import fit  # noqa: E402


class Record:
    """A record's script: its `main`, with the data from our files and its log caught."""

    def __init__(self, path: Path, data, folder: Path):
        for name, images in (("train", data.train), ("test", data.unlock_test())):
            tensors = {"images": torch.from_numpy(images.images)}
            tensors["labels"] = torch.from_numpy(images.labels)
            torch.save({**tensors, "classes": list(data.classes)}, folder / f"{name}.pt")
        spec = importlib.util.spec_from_file_location("record", path)
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        for name in ("PrepadCifarLoader", "CifarLoader"):
            if loader := getattr(self.module, name, None):
                setattr(self.module, name, lambda _, load=loader, **more: load(str(folder), **more))
        self.module.print_training_details = lambda found, is_final_entry: self.log(found)
        self.arguments = []
        if "model" in inspect.signature(self.module.main).parameters:
            model = self.module.CifarNet().cuda().to(memory_format=torch.channels_last)
            model.compile(mode="max-autotune")
            self.arguments = [model]

    def log(self, found: dict) -> None:
        if found.get("epoch") == "eval":  # airbench times its last evaluation too; we do not
            return
        self.seconds = found.get("total_time_seconds", found.get("time_seconds"))
        self.steps = found["total_train_steps"]
        self.images = self.steps * found["train_loader"].batch_size

    def run(self, seed) -> tuple[float, float, float]:
        """(images per second, seconds, accuracy with its own test-time augmentation)."""
        accuracy = self.module.main(seed, *self.arguments)
        return self.images / self.seconds, self.seconds, accuracy


def ours(recipe, data, seed: int, compile: bool) -> tuple[float, float, float]:
    torch.manual_seed(seed)
    net = new_net(recipe, data, 64).cuda()
    history = fit(net, data.train, recipe=recipe, seed=seed, compile=compile, verbose=False)
    seconds = sum(row["seconds"] for row in history)
    left_out = len(data.train) % recipe.batch_size if recipe.drop_last else 0
    images = recipe.epochs * (len(data.train) - left_out)
    return images / seconds, seconds, predict(net, data.unlock_test(), tta=True).accuracy


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("script", type=Path)
    parser.add_argument("--recipe", choices=["source", "course", "speedrun"], default="course")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="compile our net as well")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("the records run on CUDA alone, and this machine has none")
    if not options.script.is_file():
        parser.error(f"{options.script}: no such file")
    recipe = getattr(recipes, options.recipe.upper())
    data = load("cifar10", holdout=0)
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        record = Record(options.script, data, Path(folder))
        for turn in range(options.pairs + 1):
            began = time.perf_counter()
            theirs = record.run("warmup" if turn == 0 else turn)
            mine = ours(recipe, data, turn, options.compile)
            for name, (rate, took, accuracy) in (("record", theirs), (recipe.name, mine)):
                print(f"{name}: {rate:,.0f} images/s, {took:.2f} s, {accuracy:.2%}")
            print(f"pair {turn} took {time.perf_counter() - began:.0f} s")
            pairs += [(theirs, mine)] * bool(turn)
    column = lambda side, i: [pair[side][i] for pair in pairs]  # noqa: E731
    print(json.dumps({
        "throughput_ratio": round(statistics.median(m[0] / t[0] for t, m in pairs), 3),
        "time_ratio": round(statistics.median(m[1] / t[1] for t, m in pairs), 3),
        "names": [options.script.name, recipe.name],
        "seconds": [column(0, 1), column(1, 1)], "accuracy": [column(0, 2), column(1, 2)],
        "device": torch.cuda.get_device_name(), "torch": torch.__version__,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
