"""Several processes against one that does by hand what they do together."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from test_training import SMALL, Pressing, batches, net, pictures, same

from helpers import checkpoint
from helpers.augment import BatchAugment, Batches
from helpers.data import load
from helpers.evaluation import predict
from helpers.models import DavidNet, LinearNet
from helpers.preparation import as_batches, memory_format
from helpers.recipes import COURSE, SOURCE
from helpers.training import fit

ROOT = Path(__file__).resolve().parents[1]
PLAIN_CPU = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # two processes want two GPUs
pytestmark = pytest.mark.skipif(
    not dist.is_available() or sys.platform == "win32", reason="needs torch.distributed with gloo"
)


@pytest.fixture(autouse=True)
def one_thread():
    """As torchrun gives each process: with more, sums round otherwise, and training blows it up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def by_hand(model, epoch_batches, recipe, epochs, layout, processes=2):
    """One process, the whole batches; BatchNorm per share, and the first share's buffers kept.

    epoch_batches: epoch -> list of (x, y). Returns the state_dict of the weights to use.
    """
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    others = [p for name, p in model.named_parameters() if not name.endswith("bias")]
    decay, scale = recipe.weight_decay, recipe.bias_lr
    groups = [{"params": others, "weight_decay": decay}]
    groups += [{"params": biases, "weight_decay": decay / scale}]
    optimizer = torch.optim.SGD(groups, 1.0, recipe.momentum, nesterov=recipe.nesterov)
    average = {name: t.clone() for name, t in model.state_dict().items()}
    # In fit's memory order: in another, sums round otherwise, and a training blows that up.
    model.to(memory_format=layout).train()
    step = 0
    for epoch in range(epochs):
        data = epoch_batches(epoch)
        for x, y in data:
            before = [b.clone() for b in model.buffers()]
            optimizer.zero_grad()
            for rank in range(processes):
                for buffer, value in zip(model.buffers(), before, strict=True):
                    buffer.copy_(value)
                share = slice(rank, None, processes)
                smoothing = recipe.label_smoothing
                loss = F.cross_entropy(
                    model(x[share]), y[share], reduction="sum", label_smoothing=smoothing
                )
                (loss / len(y)).backward()
                if rank == 0:
                    kept = [b.clone() for b in model.buffers()]
            for buffer, value in zip(model.buffers(), kept, strict=True):
                buffer.copy_(value)
            lr = recipe.lr(step, len(data), epochs)
            optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = lr, lr * scale
            optimizer.step()
            keep = min(recipe.ema or 0, (1 + step) / (10 + step))
            for name, value in model.state_dict().items():
                if value.is_floating_point():
                    average[name].lerp_(value, 1 - keep)
            step += 1
    return average


def close(state, expected):
    for name, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(state[name], value, rtol=1e-3, atol=2e-5, msg=name)


# ------------------------------------------------------------------ two processes, any batches


def worker(rank, folder, recipe, data, val, make=net, resume=False):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    model = make(rank)  # they begin unlike: the first one's weights go to all
    history = fit(model, data, val, recipe=recipe, out=folder, resume=resume, verbose=False)
    torch.save(history, folder / f"history{rank}.pt")
    torch.save(dict(model.named_parameters()), folder / f"weights{rank}.pt")
    dist.barrier()  # as in helpers.launch: nobody hangs up while the other still talks
    dist.destroy_process_group()


def in_two_processes(folder, *args):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.training", "torch._dynamo"])
    both = [context.Process(target=worker, args=(rank, folder, *args)) for rank in range(2)]
    with pytest.MonkeyPatch.context() as patch:  # the server that forks them reads it at its start
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        for process in both:
            process.start()
    for process in both:
        process.join(100)
        process.kill()  # one that hangs fails this test, and no other
    return [process.exitcode for process in both]


@pytest.mark.parametrize(
    "recipe", [replace(SMALL, dirac_init=False), SOURCE], ids=["all", "source"]
)
def test_two_processes_equal_one_that_normalises_each_share_alone(recipe, tmp_path):
    recipe = replace(recipe, epochs=2, peak=0.02)
    generator = torch.Generator().manual_seed(0)
    data = [
        (
            torch.randn(n, 3, 32, 32, generator=generator),
            torch.randint(4, (n,), generator=generator),
        )
        for n in (32, 32, 13)  # 7 and 6 images of the last
    ]
    val = pictures(31)
    assert in_two_processes(tmp_path, recipe, data, val) == [0, 0]

    model = net()
    expected = by_hand(model, lambda epoch: data, recipe, 2, torch.contiguous_format)
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    close(state, expected)

    model.load_state_dict(state)
    histories = [torch.load(tmp_path / f"history{rank}.pt", weights_only=True) for rank in range(2)]
    ends = [torch.load(tmp_path / f"weights{rank}.pt", weights_only=True) for rank in range(2)]
    assert same(*ends)  # the averages too begin alike
    for ours, theirs in zip(*histories, strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    found = predict(model, val)
    assert histories[0][-1]["val_accuracy"] == pytest.approx(found.accuracy)
    assert histories[0][-1]["val_loss"] == pytest.approx(found.loss, rel=1e-5)


def test_a_process_without_held_out_images_takes_part_all_the_same(tmp_path):
    recipe = replace(SMALL, epochs=1)
    assert in_two_processes(tmp_path, recipe, pictures(), pictures(1)) == [0, 0]
    rows = [torch.load(tmp_path / f"history{rank}.pt", weights_only=True)[0] for rank in range(2)]
    model = net()
    model.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert rows[0]["val_loss"] == rows[1]["val_loss"]
    assert rows[0]["val_loss"] == pytest.approx(predict(model, pictures(1)).loss, rel=1e-5)


def plain(seed=0):
    """A net without batch norms: shares change nothing."""
    torch.manual_seed(seed)
    return LinearNet(4)


def test_two_processes_go_on_amid_an_epoch_where_one_was_stopped(tmp_path):
    expected = plain()
    history = fit(expected, batches(), recipe=SMALL, verbose=False)
    with pytest.raises(KeyboardInterrupt):
        fit(plain(), Pressing(batches()), recipe=SMALL, out=tmp_path, verbose=False)
    assert checkpoint.read(tmp_path / "checkpoint.pt")["step"] == 5
    assert in_two_processes(tmp_path, SMALL, batches(), None, plain, True) == [0, 0]
    close(torch.load(tmp_path / "model.pt", weights_only=True), expected.state_dict())
    for rank in range(2):
        resumed = torch.load(tmp_path / f"history{rank}.pt", weights_only=True)
        for row, wanted in zip(resumed, history, strict=True):
            assert row["accuracy"] == pytest.approx(wanted["accuracy"])
            assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-4)


def test_each_image_is_in_one_share_once_an_epoch():
    images = pictures(50)
    images.images[:, 0, 0, 0] = range(50)
    images.mean, images.std = (0, 0, 0), (1 / 255,) * 3  # so that pixels keep their values
    seen = []
    for rank in range(3):
        shares = list(Batches(images, 16, seed=1, shard=(rank, 3), shuffle=True))
        assert [len(y) for _, y in shares] == [len(range(rank, n, 3)) for n in (16, 16, 16, 2)]
        seen += [round(v) for x, _ in shares for v in x[:, 0, 0, 0].tolist()]
    assert sorted(seen) == list(range(50))


def test_a_batch_smaller_than_the_processes_is_an_error(monkeypatch):
    from helpers import training

    monkeypatch.setattr(training, "rank_and_processes", lambda: (1, 3))
    recipe = replace(SMALL, drop_last=False)
    batches = as_batches(pictures(50), replace(recipe, batch_size=16), "cpu", 0)
    run = training.Run.__new__(training.Run)
    run.batches, run.rank, run.processes = batches, 1, 3
    counts = []
    with pytest.raises(ValueError, match="3 processes cannot share a batch of 2 images"):
        for i, (x, y) in enumerate(batches):
            counts.append(run.share(x, y, i)[2])
    assert counts == [16, 16, 16]


# ------------------------------------------------------------------ torchrun


def torchrun(out, *more, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", "-m", "helpers", "train", "--data", "shapes"]
    command += ["--width", "4", "--limit", "795", "--batch-size", "64", "--seed", "3"]
    return subprocess.Popen(
        [*command, "--out", str(out), *more], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, **PLAIN_CPU, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["source", "course"])
def test_torchrun_equals_one_process_by_hand(name, tmp_path):
    process = torchrun(tmp_path, "--recipe", name, "--epochs", "2")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert sum(line.startswith("epoch ") for line in output.splitlines()) == 2, "one writer"

    recipe = {"source": SOURCE, "course": COURSE}[name].with_batch(64)
    data = load("shapes", limit=795)
    train = data.train
    augment = BatchAugment(train.mean, train.std, recipe.pad, recipe.cutout, recipe.flip)
    whole = Batches(train, 64, augment, seed=3, drop_last=recipe.drop_last)

    def epoch_batches(epoch):
        whole.set_epoch(epoch)
        return list(whole)

    torch.manual_seed(3)
    model = DavidNet(4, len(data.classes))
    if recipe.dirac_init:
        for layer in model.modules():
            if isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (3, 3):
                with torch.no_grad():
                    torch.nn.init.dirac_(layer.weight[: layer.in_channels])
    layout = memory_format(model, torch.device("cpu"))
    close(
        torch.load(tmp_path / "model.pt", weights_only=True),
        by_hand(model, epoch_batches, recipe, 2, layout),
    )


def children(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes with ps --ppid")
def test_a_process_that_dies_ends_the_others_and_the_run_resumes(tmp_path):
    whole = torchrun(tmp_path / "whole", "--epochs", "4")
    output, _ = whole.communicate(timeout=200)
    assert whole.returncode == 0, output

    broken = torchrun(tmp_path / "broken", "--epochs", "4")
    lines = []
    for line in broken.stdout:
        lines.append(line)
        if line.startswith("epoch  2"):
            break
    workers = children(broken.pid)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    began = time.monotonic()
    rest, _ = broken.communicate(timeout=60)
    assert broken.returncode != 0 and time.monotonic() - began < 60
    said = "".join(lines) + rest
    assert "start the same command again with --resume" in said or "SIGKILL" in said
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert not (tmp_path / "broken" / "model.pt").exists()

    again = torchrun(tmp_path / "broken", "--epochs", "4", "--resume")
    output, _ = again.communicate(timeout=200)
    assert again.returncode == 0, output
    numbers = [line.split()[1] for line in output.splitlines() if line.startswith("epoch ")]
    assert numbers[0] in "23" and numbers[-1] == "4"
    states = [torch.load(tmp_path / n / "model.pt", weights_only=True) for n in ("whole", "broken")]
    assert same(*states)
