"""What only a CUDA GPU shows: half precision, compilation, its memory, its processes."""

import json
import signal
import subprocess
import sys

import pytest
import torch
from test_training import same, weights

from helpers import lr_finder, training
from helpers.augment import BatchAugment, Batches
from helpers.data import load
from helpers.environment import ROOT
from helpers.evaluation import predict
from helpers.gradcam import grad_cam
from helpers.measure import new_net
from helpers.models import DavidNet
from helpers.recipes import COURSE, SPEEDRUN
from helpers.training import fit

if not torch.cuda.is_available():
    pytest.skip("needs CUDA", allow_module_level=True)

RECIPE = COURSE.with_batch(128)


@pytest.fixture(scope="module")
def shapes():
    return load("shapes", limit=3000)


def net(width=16):
    torch.manual_seed(0)
    return DavidNet(width).cuda()


def learns(shapes, **options):
    """Held-out accuracy after six epochs on drawn shapes; chance is 10 %."""
    model = net()
    fit(model, shapes.train, recipe=RECIPE, epochs=6, verbose=False, **options)
    return predict(model, shapes.val).accuracy


@pytest.fixture
def older_gpu(monkeypatch):
    """Without bfloat16, as Colab's T4: float16, with a scaled loss."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))


def test_bfloat16_learns_what_32_bits_learn(shapes, monkeypatch):
    half = learns(shapes)
    monkeypatch.setattr(
        training.Run, "half", property(lambda self: None, lambda self, x: None), raising=False
    )
    whole = learns(shapes)
    assert min(half, whole) > 0.5 and abs(half - whole) < 0.15


def test_float16_with_a_scaled_loss_learns_too(shapes, older_gpu):
    run = training.Run(net(), [0], RECIPE, 1, torch.device("cuda"))
    assert run.half is torch.float16 and run.scaler.is_enabled()
    assert learns(shapes) > 0.5


@pytest.mark.parametrize("pressed", [True, False])
def test_float16_survives_an_interruption(pressed, shapes, older_gpu, tmp_path):
    """The factor of the scaled loss is part of the checkpoint, and the second epoch needs it."""

    class Interrupted(Batches):
        def __iter__(self):
            second = self.epoch == 1  # counted up as the iteration begins
            for i, batch in enumerate(super().__iter__()):
                if second and i == 4:
                    if not pressed:
                        raise KeyboardInterrupt
                    signal.raise_signal(signal.SIGINT)
                yield batch

    def trained(kind, **options):
        model, augment = net(), BatchAugment(shapes.train.mean, shapes.train.std)
        batches = kind(shapes.train, 128, augment, torch.device("cuda"))
        return model, lambda: fit(
            model, batches, recipe=RECIPE, epochs=2, verbose=False, out=tmp_path, **options
        )

    _, start = trained(Interrupted)
    with pytest.raises(KeyboardInterrupt):
        start()
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert saved["scaler"]["scale"] > 1 and len(saved["history"]) == 1
    assert len(saved["begun"]["counts"]) == (5 if pressed else 0)
    model, start = trained(Batches, resume=True)
    assert len(start()) == 2
    assert predict(model, shapes.val).accuracy > 0.15


def test_float16_leaves_out_a_step_that_overflows(shapes, older_gpu):
    run = training.Run(net(), [0] * 10, RECIPE, 1, torch.device("cuda"))
    state = run.scaler.state_dict() | {"scale": 2.0**100}
    run.scaler.load_state_dict(state)
    x, y = next(iter(Batches(shapes.train, 128, device=torch.device("cuda"))))
    before = [weight.clone() for weight in run.model.parameters()]
    run.train_step(x, y, 5, len(y))
    assert all(map(torch.equal, before, run.model.parameters()))
    assert run.scaler.get_scale() < 2.0**100
    run.scaler.load_state_dict(state | {"scale": 2.0**10})
    run.train_step(x, y, 5, len(y))
    assert not all(map(torch.equal, before, run.model.parameters()))
    assert all(weight.isfinite().all() for weight in run.model.parameters())


def test_float16_leaves_true_gradients_behind(shapes, older_gpu):
    """Lesson 05 reads them after a step, whatever the loss was multiplied by."""
    x, y = next(iter(Batches(shapes.train, 128, device=torch.device("cuda"))))
    found = []
    for scale in (2.0**4, 2.0**10):
        run = training.Run(net(), [0] * 10, RECIPE, 1, torch.device("cuda"))
        run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": scale})
        run.train_step(x, y, 5, len(y))
        found.append(run.model.classifier.weight.grad)
    torch.testing.assert_close(*found, rtol=0.05, atol=1e-3)


def test_compiled_is_the_same_training(shapes):
    eager = learns(shapes)
    assert abs(learns(shapes, compile=True) - eager) < 0.15


def test_the_speed_run_learns(shapes):
    torch.manual_seed(0)
    recipe = SPEEDRUN.with_batch(128)
    model = new_net(recipe, shapes, 16).cuda()
    fit(model, shapes.train, recipe=recipe, epochs=4, verbose=False)
    assert predict(model, shapes.val).accuracy > 0.5


def test_too_large_a_batch_names_one_that_fits(shapes):
    torch.cuda.empty_cache()
    free, whole = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 3e8 / whole))
    try:
        model = net(64)
        before = weights(model)
        with pytest.raises(
            torch.cuda.OutOfMemoryError, match=r"of 2000 images .* a batch of \d+ does"
        ):
            fit(model, shapes.train, recipe=COURSE.with_batch(2000), verbose=False)
        assert same(before, weights(model))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_the_range_test_leaves_all_as_found(shapes):
    model, state = net(), torch.cuda.get_rng_state()
    batches = Batches(
        shapes.train,
        64,
        BatchAugment(shapes.train.mean, shapes.train.std),
        model.stem[0].weight.device,
    )
    before = weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loss = torch.nn.functional.cross_entropy
    found = lr_finder.lr_range_test(model, optimizer, loss, batches, 1e-4, 10, 60, seeds=(0, 1))
    assert 1e-3 < found.suggest("steep") < 5
    assert same(before, weights(model)) and torch.equal(state, torch.cuda.get_rng_state())


def test_grad_cam_is_that_of_the_cpu(shapes):
    model = net().double().eval()
    x = torch.randn(8, 3, 32, 32, dtype=torch.float64)
    there = grad_cam(model, x.cuda(), "stage3")
    here = grad_cam(model.cpu(), x, "stage3", there.target.cpu())
    torch.testing.assert_close(there.raw.cpu(), here.raw, rtol=1e-6, atol=1e-9)


def test_distributed_data_parallel_with_nccl_takes_the_same_steps(shapes, tmp_path):
    """One process only: averaging with nobody changes nothing, but all the machinery runs."""
    x, y = next(iter(Batches(shapes.train, 128, device=torch.device("cuda"))))
    place = f"file://{tmp_path / 'meet'}"
    torch.distributed.init_process_group("nccl", init_method=place, rank=0, world_size=1)
    try:
        made = [training.Run(net(), [0] * 10, RECIPE, 1, torch.device("cuda")) for _ in range(2)]
        alone, many = made
        many.forward = torch.nn.parallel.DistributedDataParallel(many.model)
        for run in made:
            run.half = None  # rounding to 16 bits could hide a difference, or look like one
            for step in range(3, 6):
                run.train_step(x, y, step, len(y))
    finally:
        torch.distributed.destroy_process_group()
    for a, b in zip(weights(alone.model).values(), weights(many.model).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


def test_torchrun_trains_with_nccl_on_every_gpu(tmp_path):
    gpus = torch.cuda.device_count()
    command = f"-m torch.distributed.run --standalone --nproc-per-node={gpus} -m helpers train"
    command += " --data shapes --width 16 --limit 1000 --batch-size 100 --epochs 2 --out"
    done = subprocess.run(
        [sys.executable, *command.split(), str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert found["runs"][0]["device"] == torch.cuda.get_device_name()
    assert found["runs"][0]["processes"] == gpus
