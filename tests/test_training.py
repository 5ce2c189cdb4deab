"""`fit` against a loop written out by hand; kills, damage and interrupts against the whole run."""

import copy
import multiprocessing
import os
import random
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler

from helpers import checkpoint, training
from helpers.augment import image_loader, train_transform
from helpers.checkpoint import CheckpointError
from helpers.data import ImageSet
from helpers.environment import ROOT
from helpers.evaluation import predict
from helpers.models import DavidNet, LinearNet, SmallCNN
from helpers.preparation import dirac_, memory_format
from helpers.recipes import COURSE, SOURCE
from helpers.training import NonFiniteLoss, fit

SMALL = replace(COURSE, batch_size=32, peak=0.02, epochs=3, ema=0.8)


def pictures(count=150, classes=4, seed=0):
    """Noise with a coloured patch that tells the class, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 160, (count, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(count) % classes
    for image, label in zip(images, labels, strict=True):
        image[8 * label : 8 * label + 8, 8:24] += 90
    return ImageSet(images, labels.astype(np.int64), tuple("abcd"[:classes]))


def batches(sizes=(32, 32, 20), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(n, 3, 32, 32, generator=generator),
            torch.randint(4, (n,), generator=generator),
        )
        for n in sizes
    ]


def net(seed=0):
    torch.manual_seed(seed)
    return DavidNet(4, classes=4)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    a, b = (x.state_dict() if isinstance(x, nn.Module) else x for x in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ------------------------------------------------------------------ the loop


@pytest.mark.parametrize(
    "recipe", [SOURCE, replace(SMALL, dirac_init=False)], ids=["source", "all"]
)
def test_fit_equals_a_loop_written_out_by_hand(recipe):
    """LR, decay and momentum of both groups, smoothing, Nesterov, average: by their definitions."""
    recipe = replace(recipe, peak=0.03)
    data, epochs = [(x.double(), y) for x, y in batches()], 2  # doubles: no rounding to forgive
    model, twin = net().double(), net().double()
    history = fit(model, data, recipe=recipe, epochs=epochs, verbose=False)

    velocity = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    average, losses, step = weights(twin), [], 0
    twin.train()
    for _ in range(epochs):
        total = 0.0
        for x, y in data:
            lr = recipe.lr(step, len(data), epochs)
            log_p = twin(x).log_softmax(1)
            smooth = recipe.label_smoothing
            target = (1 - smooth) * F.one_hot(y, 4) + smooth / 4
            loss = -(target * log_p).sum(1).mean()
            twin.zero_grad()
            loss.backward()
            with torch.no_grad():
                for name, p in twin.named_parameters():
                    bias = name.endswith("bias")
                    rate = lr * (recipe.bias_lr if bias else 1)
                    decay = recipe.weight_decay / (recipe.bias_lr if bias else 1)
                    g = p.grad + decay * p
                    velocity[name] = recipe.momentum * velocity[name] + g
                    p -= rate * (
                        g + recipe.momentum * velocity[name] if recipe.nesterov else velocity[name]
                    )
            if recipe.ema:
                keep = min(recipe.ema, (1 + step) / (10 + step))
                for name, value in twin.state_dict().items():
                    if value.is_floating_point():
                        average[name] = keep * average[name] + (1 - keep) * value
            total += loss.item() * len(y)
            step += 1
        losses.append(total / sum(len(y) for _, y in data))

    expected = average if recipe.ema else weights(twin)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-7)
    assert [epoch["loss"] for epoch in history] == pytest.approx(losses, rel=1e-7)
    assert history[-1]["lr"] == recipe.lr(step - 1, len(data), epochs)


def test_history_counts_every_image_once_also_in_an_uneven_last_batch():
    data, model = batches((30, 30, 7)), LinearNet(4)
    still = replace(SOURCE, peak=0.0)  # nothing moves, so each epoch is an evaluation
    history = fit(model, data, data, recipe=still, epochs=2, verbose=False)
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    with torch.no_grad():
        loss, right = F.cross_entropy(model(x), y).item(), (model(x).argmax(1) == y).float().mean()
    for number, epoch in enumerate(history, 1):
        assert epoch["epoch"] == number and epoch["seconds"] > 0 and epoch["lr"] == 0
        assert epoch["loss"] == pytest.approx(loss, rel=1e-6) == epoch["val_loss"]
        assert epoch["accuracy"] == pytest.approx(right.item()) == epoch["val_accuracy"]


def test_it_learns_and_the_held_out_numbers_are_those_of_the_final_model():
    train, val = pictures(300), pictures(60, seed=1)
    model = net()
    gentle = replace(SMALL, epochs=6, peak=0.2, bias_lr=4.0)
    history = fit(model, train, val, recipe=gentle, verbose=False)
    found = predict(model, val)
    assert history[-1]["val_accuracy"] == found.accuracy > 0.8
    assert history[-1]["val_loss"] == pytest.approx(found.loss)
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["lr"] == 0


def test_same_seed_same_weights_and_neither_val_nor_the_random_state_matters():
    train, models = pictures(), [net() for _ in range(3)]
    fit(models[0], train, recipe=SMALL, seed=3, verbose=False)
    torch.manual_seed(99)
    fit(models[1], train, pictures(20, seed=5), recipe=SMALL, seed=3, verbose=False)
    fit(models[2], train, recipe=SMALL, seed=4, verbose=False)
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_random_state_mode_gradients_and_hooks_are_left_as_found():
    model = net().eval()
    model.stage1.train()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    states = random.getstate(), np.random.get_state()[1].copy()
    fit(model, pictures(), recipe=SMALL, epochs=1, verbose=False)
    assert torch.equal(torch.rand(3), expected)
    assert states[0] == random.getstate() and (states[1] == np.random.get_state()[1]).all()
    assert modes == [module.training for module in model.modules()]
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_a_loader_of_albumentations_gives_the_same_run_twice_whatever_was_drawn_before():
    train, models = pictures(), [net(), net()]
    loader = image_loader(train, train_transform(train.mean, train.std), 32)
    fit(models[0], loader, recipe=SMALL, epochs=2, verbose=False)
    next(iter(loader))
    fit(models[1], loader, recipe=SMALL, epochs=2, verbose=False)
    assert same(*models)


def test_batch_size_scales_the_learning_rate_and_frozen_weights_stay():
    model = net()
    model.stem.requires_grad_(False)
    stem = weights(model.stem)["0.weight"]
    recipe = replace(SMALL, dirac_init=False, knots=None)
    images = pictures()
    history = fit(model, images, recipe=recipe.with_batch(16), epochs=1, verbose=False)
    steps = len(images) // 16
    assert history[0]["lr"] == pytest.approx(recipe.lr(steps - 1, steps, 1) / 2)
    assert torch.equal(model.stem[0].weight, stem)


def test_dirac_init_hands_the_inputs_on():
    layer = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    fresh = layer.weight[3:].clone()
    dirac_(nn.Sequential(layer))
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(layer(x)[:, :3], x)
    assert torch.equal(layer.weight[3:], fresh)
    narrow = nn.Conv2d(8, 4, 3, padding=1, bias=False)
    dirac_(nn.Sequential(narrow))
    x = torch.randn(2, 8, 9, 9)
    torch.testing.assert_close(narrow(x), x[:, :4])


def test_dirac_init_leaves_grouped_convolutions_and_trained_nets_alone():
    grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
    before = grouped.weight.clone()
    dirac_(nn.Sequential(grouped))
    assert torch.equal(grouped.weight, before)

    model, still = net(), replace(SMALL, peak=1e-9, ema=None)
    fit(model, pictures(), recipe=SMALL, verbose=False)
    trained = weights(model)
    fit(model, pictures(), recipe=still, epochs=1, verbose=False)
    assert all(torch.allclose(p, trained[name]) for name, p in model.named_parameters())
    bare = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 30 * 30, 10))
    before = weights(bare)  # without batch norm: trained or not, nobody can tell
    fit(bare, pictures(), recipe=still, epochs=1, verbose=False)
    assert all(torch.allclose(p, before[name]) for name, p in bare.named_parameters())


def test_dirac_init_leaves_frozen_filters_alone():
    edges = nn.Conv2d(3, 3, 3, padding=1, bias=False).requires_grad_(False)
    before = edges.weight.clone()
    model = nn.Sequential(edges, net())
    fit(model, pictures(), recipe=SMALL, epochs=1, verbose=False)
    assert torch.equal(edges.weight, before)


class Tied(nn.Module):
    """A net whose middle layer has one name or two; a complex weight; a net's BN counters."""

    def __init__(self, names):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, 3, 3, padding=1)
        self.names = names
        if names == 2:
            self.b = self.a
        self.waves = nn.Parameter(torch.randn(3, 32, 17, dtype=torch.cfloat) / 100)
        self.net = net()

    def forward(self, x):
        x = (self.b if self.names == 2 else self.a)(self.a(x))
        return self.net(x + torch.fft.irfft2(torch.fft.rfft2(x) * self.waves))


def test_the_average_counts_tied_weights_once_and_carries_what_is_no_real_number():
    one, two = Tied(1), Tied(2)
    waves = one.waves.detach().clone()
    for model in (one, two):
        fit(model, batches(), recipe=replace(SMALL, dirac_init=False), verbose=False)
    assert same(weights(one), {k: v for k, v in weights(two).items() if not k.startswith("b.")})
    assert (one.waves - waves).abs().max() > 1e-5
    assert one.net.stem[1].num_batches_tracked == 9  # three epochs of three batches


class Viewing(nn.Module):
    """As in PyTorch's own tutorial: its maps go through view()."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 5), nn.Linear(6 * 14 * 14, 4)

    def forward(self, x):
        return self.head(F.max_pool2d(F.relu(self.conv(x)), 2).view(-1, 6 * 14 * 14))


class ViewingImages(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3072, 4)

    def forward(self, x):
        return self.head(x.view(len(x), -1) + self.conv(x).flatten(1))


@pytest.mark.parametrize("kind", [Viewing, ViewingImages])
def test_a_net_that_views_its_maps_trains(kind, tmp_path):
    torch.manual_seed(0)
    model = kind()
    more = {"recipe": SMALL, "out": tmp_path, "verbose": False}
    history = fit(model, pictures(), pictures(20, seed=1), **more)
    assert history[-1]["loss"] < history[0]["loss"]
    assert len(predict(model, pictures(20))) == 20


def test_a_run_whose_only_step_learns_nothing_warns():
    with pytest.warns(UserWarning, match="the only step has an LR of 0"):
        fit(net(), batches()[:1], recipe=SMALL, epochs=1, verbose=False)


def test_muon_moves_a_convolution_that_starts_at_zero():
    model = net()
    first = model.stage1.shortcut[0].weight
    first.data.zero_()
    recipe = replace(SMALL, muon=0.1, dirac_init=False, epochs=1)
    history = fit(model, pictures(), recipe=recipe, verbose=False)
    assert np.isfinite(history[0]["loss"]) and first.isfinite().all() and first.any()


def test_every_parameter_is_in_one_group_with_the_recipes_numbers():
    model = net()
    optimizer = training.sgd(model, replace(COURSE, bias_lr=64), torch.device("cpu"))
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: g for g in optimizer.param_groups for p in g["params"]}
    assert found.keys() == set(names.values())
    for name, group in found.items():
        scale = 64 if name.endswith("bias") else 1
        assert (group["scale"], group["weight_decay"]) == (scale, pytest.approx(5e-4 / scale))
        assert group["nesterov"] and group["momentum"] == 0.9


# ------------------------------------------------------------------ what goes wrong


class Lies(list):
    """Batches whose len() is off."""

    def __init__(self, items, by):
        super().__init__(items)
        self.by = by

    def __len__(self):
        return super().__len__() + self.by


@pytest.mark.parametrize("by", [-1, 1])
def test_a_wrong_length_is_an_error(by):
    with pytest.raises(ValueError, match=r"len\(\) says|are outside|steps"):
        fit(net(), Lies(batches(), by), recipe=SMALL, epochs=1, verbose=False)


class Stream(torch.utils.data.IterableDataset):
    """Batches without a number."""

    def __iter__(self):
        return iter(batches())


def test_labels_may_be_of_any_whole_type_and_samplers_hear_of_epochs():
    model, data = net(), batches()
    fit(model, data, recipe=SMALL, verbose=False)
    for kind in (torch.Tensor.int, torch.Tensor.numpy, torch.Tensor.tolist):
        other = net()
        fit(other, [(x, kind(y)) for x, y in data], recipe=SMALL, verbose=False)
        assert same(model, other)

    dataset = torch.utils.data.TensorDataset(torch.cat([x for x, _ in data]), torch.arange(84) % 4)
    sampler, orders = DistributedSampler(dataset, num_replicas=1, rank=0), []
    loader = DataLoader(dataset, 32, sampler=sampler)
    other = DataLoader(dataset, batch_sampler=BatchSampler(sampler, 32, False))
    watched = lambda self: orders.append(self.epoch) or iter(range(84))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistributedSampler, "__iter__", watched)
        fit(net(), loader, recipe=SMALL, verbose=False)
        assert orders[-3:] == [0, 1, 2]
        patch.setattr(training.dist, "is_initialized", lambda: True)
        for shared in (loader, other):
            with pytest.raises(ValueError, match="has a DistributedSampler"):
                fit(net(), shared, recipe=SMALL, device="cpu", verbose=False)


def test_bad_arguments_say_what_to_do():
    with pytest.raises(ValueError, match="train is a one-shot iterator"):
        fit(net(), iter(batches()), recipe=SMALL)
    with pytest.raises(TypeError, match="train is a int: expected batches"):
        fit(net(), 5, recipe=SMALL)
    with pytest.raises(TypeError, match="Endless without a length"):
        fit(net(), type("Endless", (), {"__iter__": lambda self: iter(())})(), recipe=SMALL)
    with pytest.raises(ValueError, match="val is a one-shot iterator"):
        fit(net(), batches(), iter(batches()), recipe=SMALL)
    with pytest.raises(ValueError, match="expected 1 or more"):
        fit(net(), batches(), recipe=SMALL, epochs=0)
    for recipe in ("course", None, {}):
        with pytest.raises(TypeError, match="expected a Recipe, such as helpers.recipes.COURSE"):
            fit(net(), batches(), recipe=recipe)
    with pytest.raises(ValueError, match='out="" names no folder'):
        fit(net(), batches(), recipe=SMALL, out="")
    with pytest.raises(ValueError, match="no weight that may be trained"):
        fit(net().requires_grad_(False), batches(), recipe=SMALL)
    with pytest.raises(ValueError, match="below 2..63"):
        fit(net(), batches(), recipe=SMALL, seed=2**63)
    with pytest.raises(ValueError, match="needs out"):
        fit(net(), batches(), recipe=SMALL, resume=True)
    with pytest.raises(ValueError, match="batch_size"):
        fit(net(), pictures(20), recipe=SMALL)
    persistent = torch.utils.data.DataLoader([0], num_workers=1, persistent_workers=True)
    with pytest.raises(ValueError, match="persistent_workers=False"):
        fit(net(), persistent, recipe=SMALL)
    x, y = batches()[0]
    for train, told in [
        ([(x, y, y)], "train gave a tuple of 3, expected batches"),
        ([{"x": x}], "train gave a dict of 1, expected batches"),
        ([((x * 255).byte(), y)], r"images as torch.uint8 \(32, 3, 32, 32\), expected normalised"),
        ([(x.flatten(1), y)], r"images as torch.float32 \(32, 3072\)"),
        ([(x, F.one_hot(y).float())], "labels of torch.float32"),
        (torch.utils.data.DataLoader(Stream()), "DataLoader without a length"),
    ]:
        with pytest.raises(TypeError, match=told):
            fit(net(), train, recipe=SMALL, verbose=False)
    with pytest.raises(ValueError, match="a lazy layer has no weights yet"):
        fit(nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), batches(), recipe=SMALL)
    for train in (pictures(), batches()):
        few = DavidNet(2, classes=3)
        before = weights(few)
        with pytest.raises(ValueError, match="knows classes 0 to 2, the labels run from 0 to 3"):
            fit(few, train, recipe=SMALL, verbose=False)
        assert same(few, before)


def test_a_folder_that_cannot_be_made_is_named_before_the_first_step(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(training.Run, "train_step", lambda *_: pytest.fail("it has begun"))
    with pytest.raises(OSError, match="runs cannot be made .*: name one .*COURSE_RUNS"):
        fit(net(), batches(), recipe=SMALL, out=tmp_path / "file" / "runs", verbose=False)


def test_mistakes_leave_the_earlier_run_in_the_folder_alone(tmp_path):
    fit(net(), pictures(), recipe=SMALL, epochs=1, out=tmp_path, verbose=False)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    few = pictures(classes=2)
    for model, train, val, seed, told in [
        (DavidNet(4, classes=3), pictures(), None, 0, "knows classes 0 to 2"),
        (DavidNet(4, classes=2), few, pictures(), 0, "knows classes 0 to 1"),
        (DavidNet(4, classes=2), few, batches(), 0, "knows classes 0 to 1"),
        (net(), pictures(), [], 0, "val is empty"),
        (net(), pictures(), None, -1, "seed -1"),
    ]:
        with pytest.raises(ValueError, match=told):
            fit(model, train, val, recipe=SMALL, seed=seed, out=tmp_path, verbose=False)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_an_error_leaves_gradients_and_random_states_as_they_were():
    model = net()
    model(batches()[0][0]).sum().backward()
    found = [(p.grad, p.grad.clone()) for p in model.parameters()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    draw = lambda: (random.random(), np.random.rand(), torch.rand(1).item())
    expected = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with pytest.raises(NonFiniteLoss):
        fit(model, pictures(), recipe=replace(SMALL, peak=1e30), verbose=False)
    assert draw() == expected
    for parameter, (gradient, value) in zip(model.parameters(), found, strict=True):
        assert parameter.grad is gradient and torch.equal(gradient, value)


class Counting(nn.Module):
    """A net with a buffer that no state_dict has and that each call replaces."""

    def __init__(self):
        super().__init__()
        self.net = SmallCNN(4, classes=4)  # which trains with the channels last
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("seen", None)

    def forward(self, x):
        self.calls = self.calls + 1
        self.seen = torch.zeros(2)
        return self.net(x)


def test_an_error_leaves_every_buffer_and_the_memory_order_as_they_were(tmp_path, monkeypatch):
    def full(self, target):  # the disk, at the last moment
        if Path(target).name == "model.pt":
            raise OSError("no space left")
        rename(self, target)

    rename = checkpoint.os.replace
    monkeypatch.setattr(checkpoint.os, "replace", full)
    for recipe, out in ((replace(SMALL, peak=1e30), None), (SMALL, tmp_path)):
        model = Counting()
        before, strides = weights(model.net), [p.stride() for p in model.parameters()]
        assert memory_format(model, torch.device("cpu")) is torch.channels_last
        with pytest.raises((NonFiniteLoss, OSError)):
            fit(model, pictures(), recipe=recipe, epochs=1, out=out, verbose=False)
        assert same(model.net, before) and model.calls == 0
        assert [p.stride() for p in model.parameters()] == strides
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"checkpoint.pt", "checkpoint.previous.pt"}  # nothing half-written


@pytest.mark.parametrize("bad", [0, 4])
def test_a_loss_that_is_not_finite_names_the_first_bad_step_and_leaves_the_weights(bad):
    data = batches((8,) * 6)
    for x, _ in data[bad:]:
        x[0, 0, 0, 0] = float("nan")
    model = net()
    before = weights(model)
    with pytest.raises(NonFiniteLoss) as caught:
        fit(model, data, recipe=SMALL, epochs=2, verbose=False)
    message = str(caught.value)
    assert f"step {bad} (in epoch 1)" in message and "look for images" in message
    assert ("peak=0.005" in message) == (bad > 0)  # before the first step no LR has acted
    assert f"{SMALL.lr(bad, 6, 2):.4g}" in message
    assert same(model, before)


def test_losses_on_a_gpu_are_looked_at_together_and_the_first_bad_one_is_named():
    run = training.Run(net(), batches((8,) * 200), SMALL, 3, torch.device("cpu"))
    losses = [torch.tensor(1.0)] * 50
    run.check(losses, first=50)
    losses[31:33] = torch.tensor(float("inf")), torch.tensor(float("nan"))
    with pytest.raises(NonFiniteLoss, match=r"the loss is inf at step 281 \(in epoch 2\)"):
        run.check(losses, first=250)


def test_a_stop_on_a_gpu_looks_at_the_losses_before_they_are_kept(monkeypatch):
    run = training.Run(net(), batches((8,) * 10), SMALL, 3, torch.device("cpu"))
    run.device, run.stop = SimpleNamespace(type="cuda"), True
    bad = torch.tensor(float("nan")), torch.tensor(1)
    monkeypatch.setattr(training.Run, "train_step", lambda *_: bad)
    with pytest.raises(NonFiniteLoss, match="the loss is nan at step 0"):
        run.train_epoch(0, training.progress_bar(30, 0, False))


def test_too_little_memory_names_the_batch_that_fits_and_leaves_the_weights():
    class Hungry(SmallCNN):
        most = 20

        def forward(self, x):
            if len(x) > self.most:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    model = Hungry(4, 4)
    before = weights(model)
    with pytest.raises(torch.cuda.OutOfMemoryError, match="32 images .* a batch of 16 does"):
        fit(model, pictures(), recipe=SMALL, verbose=False)
    assert same(model, before) and all(p.grad is None for p in model.parameters())
    model.most = 0
    with pytest.raises(torch.cuda.OutOfMemoryError, match="not even one image does"):
        fit(model, pictures(), recipe=SMALL, verbose=False)


def test_a_failed_try_of_a_smaller_batch_leaves_nothing_in_memory():
    """A graph of 11 images is too much; what earlier tries computed counts as long as it lives."""
    held, alive = {}, []

    class Activation(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.held = object.__new__(Held)
            held[id(ctx.held)] = len(x)
            alive.append(sum(held.values()))
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            if sum(held.values()) > 10:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return gradient

    class Held:
        def __del__(self):
            del held[id(self)]

    class Hungry(SmallCNN):
        def forward(self, x):
            return super().forward(Activation.apply(x * self.one))

    model = Hungry(4, 4)
    model.one = nn.Parameter(torch.ones(()))
    with pytest.raises(torch.cuda.OutOfMemoryError, match="32 images .* a batch of 8 does"):
        fit(model, pictures(), recipe=SMALL, verbose=False)
    assert alive[-3:] == [32, 16, 8] and not held


def test_an_overflow_in_the_first_step_with_a_scaled_loss_is_left_out(monkeypatch):
    """Fused SGD alone would begin its momentum with whatever lies in fresh memory."""
    run = scaled(monkeypatch)
    x, y = batches((32,))[0]
    before = weights(run.model)["stem.0.weight"]
    run.train_step(x * float("inf"), y, 0, 32)
    assert all(not state["momentum_buffer"].any() for state in run.optimizer.state.values())
    assert torch.equal(run.model.stem[0].weight, before)
    assert run.scaler.get_scale() == 32768


def test_with_a_scaled_loss_the_steps_are_the_same_and_none_waits(monkeypatch):
    """As on Colab's T4: the fused step divides by the scale, and leaves true gradients behind."""
    run = scaled(monkeypatch)
    plain = training.Run(net(), [0] * 9, run.recipe, 1, torch.device("cpu"))
    waits = []
    monkeypatch.setattr(torch.amp.GradScaler, "_maybe_opt_step", lambda *_: waits.append(1))
    x, y = batches((32,))[0]
    for step in (1, 2, 3):
        run.train_step(x, y, step, 32)
        plain.train_step(x, y, step, 32)
    assert not waits and run.optimizer.param_groups[0]["lr"] > 0
    for a, b in zip(run.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)


def scaled(monkeypatch):
    """A run with fused SGD and a scaler, as on CUDA GPUs without bfloat16, but on the CPU."""

    def fused_sgd(model, recipe, device):
        group = {"params": model.parameters(), "scale": 1.0, "weight_decay": recipe.weight_decay}
        return torch.optim.SGD([group], momentum=recipe.momentum, nesterov=True, fused=True)

    grad_scaler = torch.amp.GradScaler
    monkeypatch.setattr(training, "sgd", fused_sgd)
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *_, **__: grad_scaler("cpu"))
    run = training.Run(net(), [0] * 9, replace(SMALL, bias_lr=1.0), 1, torch.device("cpu"))
    monkeypatch.undo()
    return run


def test_momentum_of_another_memory_order_goes_on(tmp_path):
    """From an Apple GPU, or a narrow net on a CPU, to CUDA, whose fused SGD wants equal strides."""
    contiguous = training.Run(DavidNet(8), [0] * 2, SMALL, 1, torch.device("cpu"))
    x, y = batches((32,))[0]
    contiguous.train_step(x, y, 0, 32)
    checkpoint.begin(contiguous, tmp_path, {"any": "run"}, resume=False)
    last = training.Run(
        DavidNet(8), [0] * 2, SMALL, 1, torch.device("cpu"), layout=torch.channels_last
    )
    checkpoint.begin(last, tmp_path, {"any": "run"}, resume=True)
    moved = zip(contiguous.model.parameters(), last.model.parameters(), strict=True)
    for old, new in moved:
        buffer = last.optimizer.state[new]["momentum_buffer"]
        assert buffer.stride() == new.stride()
        assert torch.equal(buffer, contiguous.optimizer.state[old]["momentum_buffer"])


def test_a_compiled_net_is_saved_under_plain_names(tmp_path):
    model = net()
    fit(torch.compile(model, backend="eager"), pictures(), recipe=SMALL, epochs=1, out=tmp_path,
        verbose=False)  # fmt: skip
    assert same(model, torch.load(tmp_path / "model.pt", weights_only=True))
    fit(model, pictures(), recipe=SMALL, epochs=1, out=tmp_path, resume=True, verbose=False)


def test_a_run_goes_on_where_losses_are_scaled_though_it_began_where_they_are_not(tmp_path):
    """From a CPU or a newer GPU to an older one; each device keeps its kind of optimizer."""
    settings = {"any": "run"}
    first = training.Run(net(), [0], SMALL, 1, torch.device("cpu"))
    checkpoint.begin(first, tmp_path, settings, resume=False)
    second = training.Run(net(1), [0], SMALL, 1, torch.device("cpu"))
    second.scaler = torch.amp.GradScaler("cpu")
    for group in second.optimizer.param_groups:
        group["fused"] = True
    checkpoint.begin(second, tmp_path, settings, resume=True)
    assert same(second.model, weights(first.model))
    assert second.scaler.get_scale() == 65536
    assert all(group["fused"] for group in second.optimizer.param_groups)


# ------------------------------------------------------------------ kill and resume


def job(folder, moment=None, resume=False):
    """One run in a process of its own, which a SIGKILL ends at `moment`."""
    torch.set_num_threads(1)

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def at_call(owner, name, number, action):
        original, calls = getattr(owner, name), []

        def counting(*args, **kwargs):
            calls.append(1)
            return action(*args) if len(calls) == number else original(*args, **kwargs)

        setattr(owner, name, counting)

    def half_a_file(value, file):
        file.write(b"PK\x03\x04" + bytes(1000))
        file.flush()
        die()

    if moment == "first step":
        at_call(training.Run, "train_step", 1, die)
    elif moment == "amid an epoch":
        at_call(training.Run, "train_step", 7, die)
    elif moment == "amid the file":  # calls: the initial checkpoint, epoch 1, epoch 2
        at_call(torch, "save", 3, half_a_file)
    elif moment == "between the renames":  # calls: 1 for the initial checkpoint, then 2 an epoch
        at_call(os, "replace", 5, die)
    elif moment == "before model.pt":
        at_call(os, "replace", 8, die)
    torch.manual_seed(0)
    model = SmallCNN(8, 4)  # few layers: torch prepares each anew in a fresh process
    fit(model, pictures(), recipe=SMALL, out=folder, resume=resume, verbose=False)


@pytest.fixture(scope="module")
def spawn():
    """Starts processes that have everything imported, without this one's threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system has no forkserver")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.training", "torch._dynamo"])

    def run(*args, **kwargs):
        process = context.Process(target=job, args=args, kwargs=kwargs)
        process.start()
        process.join(120)
        return process.exitcode

    with pytest.MonkeyPatch.context() as patch:  # the server that forks them reads it at its start
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        yield run


@pytest.fixture(scope="module")
def whole(spawn, tmp_path_factory):
    """model.pt of the run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    assert spawn(folder) == 0
    return torch.load(folder / "model.pt", weights_only=True)


MOMENTS = ["first step", "amid an epoch", "amid the file", "between the renames", "before model.pt"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no kill -9")
@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_and_resume_end_in_the_same_bits(moment, spawn, whole, tmp_path):
    assert spawn(tmp_path, moment) == -signal.SIGKILL
    assert not (tmp_path / "model.pt").exists()
    assert spawn(tmp_path, resume=True) == 0
    assert same(torch.load(tmp_path / "model.pt", weights_only=True), whole)


@pytest.mark.slow
@pytest.mark.parametrize("delay", [4.0, 5.0, 6.5, 8.0])
def test_kill_from_outside_at_any_second_and_resume(delay, spawn, whole, tmp_path):
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from test_training import job; from pathlib import Path\n"
        "job(Path(sys.argv[1]), resume=True)"
    )
    for attempt in range(2):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
        try:
            process.wait(delay + attempt)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert spawn(tmp_path, resume=True) == 0
    assert same(torch.load(tmp_path / "model.pt", weights_only=True), whole)


def test_interrupt_leaves_the_weights_and_a_checkpoint_that_resumes_to_the_same_bits(
    tmp_path, capsys
):
    class Interrupted(list):
        passes = 0

        def __iter__(self):
            self.passes += 1
            for number, batch in enumerate(super().__iter__()):
                if self.passes == 3 and number == 1:  # the first pass tries one batch
                    raise KeyboardInterrupt
                yield batch

    expected, model = net(), net()
    fit(expected, batches(), recipe=SMALL, verbose=False)
    before = weights(model)
    with pytest.raises(KeyboardInterrupt):
        fit(model, Interrupted(batches()), recipe=SMALL, out=tmp_path, verbose=False)
    said = capsys.readouterr().out
    assert "net is as before this run" in said and "the last checkpoint in that folder" in said
    assert same(model, before)

    class AtOnce(list):
        def __iter__(self):
            raise KeyboardInterrupt

    kept = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(KeyboardInterrupt):  # before the run has touched the folder
        fit(model, AtOnce(batches()), recipe=SMALL, out=tmp_path, verbose=False)
    assert (tmp_path / "checkpoint.pt").read_bytes() == kept
    history = fit(model, batches(), recipe=SMALL, out=tmp_path, resume=True, verbose=False)
    assert same(model, expected) and [epoch["epoch"] for epoch in history] == [1, 2, 3]


class Noisy(torch.utils.data.Dataset):
    """84 images that each library's global generator changes a little."""

    def __len__(self):
        return 84

    def __getitem__(self, i):
        noise = np.random.random() + random.random()
        return torch.full((3, 32, 32), i / 84) + 0.1 * noise + 0.1 * torch.rand(3, 32, 32), i % 4


class Press:
    """Presses Ctrl-C when it is called for the `number`th time, and calls on."""

    def __init__(self, monkeypatch, owner, name, number):
        self.call, self.calls, self.number = getattr(owner, name), 0, number
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: self(*args, **kwargs))

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls == self.number:
            signal.raise_signal(signal.SIGINT)
        return self.call(*args, **kwargs)


@pytest.mark.parametrize(
    ("name", "number", "kept"),
    [
        ("train_step", 1, (0, 1)),
        ("train_step", 5, (1, 2)),
        ("train_step", 6, (1, 3)),  # of 3 batches an epoch
        ("evaluate", 1, (1, 1)),
        ("evaluate", 3, (3, 0)),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_ctrl_c_keeps_each_step(name, number, kept, workers, tmp_path, monkeypatch, capsys):
    """No step is done twice, and the end is the same bit for bit, dropout and noise included."""

    def start(model, **more):
        recipe = replace(SMALL, muon=0.1)
        loader = DataLoader(Noisy(), 32, shuffle=True, num_workers=workers)
        return fit(model, loader, batches(), recipe=recipe, verbose=False, **more)

    expected, model = (nn.Sequential(net(), nn.Dropout(0.2)) for _ in range(2))
    history, before = start(expected), weights(model)
    usual = signal.getsignal(signal.SIGINT)
    steps, pressed = [], Press(monkeypatch, training.Run, name, number)
    step = training.Run.train_step
    monkeypatch.setattr(training.Run, "train_step", lambda *a: steps.append(a[3]) or step(*a))
    with pytest.raises(KeyboardInterrupt):
        start(model, out=tmp_path)
    assert pressed.calls >= number and signal.getsignal(signal.SIGINT) is usual
    assert same(model, before) and not (tmp_path / "model.pt").exists()
    said, saved = capsys.readouterr().out, checkpoint.read(tmp_path / "checkpoint.pt")
    assert "Stopping after this step" in said and "is as before this run" in said
    assert (saved["epoch"], saved["step"] - 3 * saved["epoch"]) == kept
    if kept[1]:
        assert f"Stopped after step {kept[1]} of epoch {kept[0] + 1}." in said
    resumed = start(model, out=tmp_path, resume=True)
    assert same(model, expected) and steps == list(range(9))
    for first, second in zip(history, resumed, strict=True):
        assert first | {"seconds": 0} == second | {"seconds": 0}


class Pressing(list):
    """Batches; Ctrl-C is pressed `times` in the second epoch, before its second batch."""

    passes, times = 0, 1

    def __iter__(self):
        self.passes += 1
        for number, batch in enumerate(super().__iter__()):
            if self.passes == 3 and number == 1:  # the first pass tries one batch
                for _ in range(self.times):
                    signal.raise_signal(signal.SIGINT)
            yield batch


@pytest.mark.parametrize("error", [BrokenPipeError, ValueError, RuntimeError])
def test_ctrl_c_keeps_the_step_though_nobody_can_be_told(error, tmp_path, monkeypatch):
    """As in `| tee log`, which the same Ctrl-C has ended, or amid another print."""

    def write(text):
        raise error

    monkeypatch.setattr(checkpoint.tqdm, "write", write)
    with pytest.raises(checkpoint.Stopped):
        fit(net(), Pressing(batches()), recipe=SMALL, out=tmp_path, verbose=False)
    assert checkpoint.read(tmp_path / "checkpoint.pt")["step"] == 5


class Hears(Noisy):
    """A terminal's Ctrl-C reaches the loader's workers as well, here two times an image."""

    def __getitem__(self, i):
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return super().__getitem__(i)


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_forked_workers_leave_ctrl_c_to_the_process_that_trains(tmp_path, capfd):
    loader = DataLoader(Hears(), 32, num_workers=1, multiprocessing_context="fork")
    assert len(fit(net(), loader, recipe=SMALL, out=tmp_path, verbose=False)) == 3
    assert "Stopping" not in capfd.readouterr().out


@pytest.mark.parametrize("pressed", [True, False])
def test_ctrl_c_also_ends_workers_that_were_not_forked(pressed, tmp_path, capsys):
    """They hear it themselves; then the loader complains of them, which helps nobody."""

    class Spawned(Pressing):
        times = int(pressed)

        def __iter__(self):
            for number, batch in enumerate(super().__iter__()):
                if self.passes == 3 and number == 1:
                    raise RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly")
                yield batch

    with pytest.raises((KeyboardInterrupt, RuntimeError)) as stop:
        fit(net(), Spawned(batches()), recipe=SMALL, out=tmp_path, verbose=False)
    assert stop.type is (KeyboardInterrupt if pressed else RuntimeError)
    assert ("the last checkpoint in that folder" in capsys.readouterr().out) == pressed
    assert checkpoint.read(tmp_path / "checkpoint.pt")["step"] == 3


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_ctrl_c_leaves_no_worker_behind(tmp_path, monkeypatch):
    loader = DataLoader(Noisy(), 32, num_workers=1, multiprocessing_context="fork")
    Press(monkeypatch, training.Run, "train_step", 1)
    with pytest.raises(checkpoint.Stopped) as stop:
        fit(net(), loader, recipe=SMALL, out=tmp_path, verbose=False)
    assert stop.value.__traceback__ is not None  # a notebook keeps it, too
    assert not multiprocessing.active_children()


def test_a_resumed_epoch_passes_over_what_it_has_seen(tmp_path, monkeypatch):
    """In no time of its own, and Ctrl-C need not wait for the end of it."""
    clock, start = [0], time.perf_counter()
    monkeypatch.setattr(training.time, "perf_counter", lambda: start + clock[0])

    class Slow(list):
        passes = 0  # the first one tries one batch

        def __iter__(self):
            self.passes += 1
            for number, batch in enumerate(super().__iter__()):
                clock[0] += self.seconds
                if (self.passes, number) == self.pressed_at:
                    signal.raise_signal(signal.SIGINT)
                yield batch

    def run(pressed_at, seconds, **more):
        slow = Slow(batches())
        slow.pressed_at, slow.seconds = pressed_at, seconds  # (pass, batch); of each batch
        return fit(net(), slow, recipe=SMALL, out=tmp_path, verbose=False, **more)

    with pytest.raises(checkpoint.Stopped):
        run((3, 1), 10)
    kept = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(KeyboardInterrupt) as stop:
        run((2, 0), 1, resume=True)
    assert stop.type is KeyboardInterrupt and (tmp_path / "checkpoint.pt").read_bytes() == kept
    seconds = [row["seconds"] for row in run(None, 1, resume=True)]
    assert seconds == pytest.approx([30, 10 + 10 + 1, 3])


def test_ctrl_c_twice_stops_at_once(tmp_path, capsys):
    twice = Pressing(batches())
    twice.times = 2
    with pytest.raises(KeyboardInterrupt) as stop:
        fit(net(), twice, recipe=SMALL, out=tmp_path, verbose=False)
    assert stop.type is KeyboardInterrupt
    assert "the last checkpoint in that folder" in capsys.readouterr().out
    assert checkpoint.read(tmp_path / "checkpoint.pt")["step"] == 3


def test_without_a_folder_ctrl_c_stops_at_once_for_nothing_could_be_kept():
    with pytest.raises(KeyboardInterrupt) as stop:
        fit(net(), Pressing(batches()), recipe=SMALL, verbose=False)
    assert stop.type is KeyboardInterrupt


def test_a_callers_own_answer_to_ctrl_c_stays_and_threads_train(tmp_path):
    heard = []
    usual = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        fit(net(), Pressing(batches()), recipe=SMALL, out=tmp_path, verbose=False)
        assert signal.signal(signal.SIGINT, usual) is not usual and heard == [1]
    finally:
        signal.signal(signal.SIGINT, usual)
    with ThreadPoolExecutor() as pool:  # where Python does not let anybody answer Ctrl-C
        arguments = {"recipe": SMALL, "out": tmp_path, "verbose": False}
        assert len(pool.submit(fit, net(), batches(), **arguments).result()) == 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends the signal of a terminal's Ctrl-C")
def test_ctrl_c_in_a_terminal_and_resume(tmp_path):
    """As there, where the whole group of processes hears it."""
    command = [sys.executable, "-m", "helpers", "train", "--data", "shapes", "--width", "4"]
    command += ["--limit", "512", "--batch-size", "64", "--epochs", "8", "--out"]
    subprocess.run([*command, tmp_path / "whole"], cwd=ROOT, check=True)
    cut = [*command, tmp_path / "cut"]
    child = subprocess.Popen(cut, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, start_new_session=True)  # fmt: skip
    said = ""
    while "epoch  1" not in said and (line := child.stdout.readline()):
        said += line
    os.killpg(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 130 and err == "\nInterrupted.\n", (out, err)
    assert "Stopping after this step" in out and "Stopped after step" in out
    subprocess.run([*cut, "--resume"], cwd=ROOT, check=True)
    both = [torch.load(tmp_path / n / "model.pt", weights_only=True) for n in ("whole", "cut")]
    assert same(*both)


def test_numbers_of_numpy_are_as_good_as_plain_ones(tmp_path):
    knots = ((0, 0), (np.int64(1), np.float64(1)), (3, 0))
    peak = np.geomspace(0.01, 0.04, 3)[1]
    recipe = replace(SMALL, peak=peak, knots=knots, ema=np.float32(0.5))
    more = {"recipe": recipe, "out": tmp_path, "verbose": False, "seed": np.int64(3)}
    first = fit(net(), pictures(), epochs=np.int64(2), **more)
    assert fit(net(1), pictures(), epochs=2, resume=True, **more) == first


class Drawing(torch.utils.data.Dataset):
    """Images that each library's global generator changes a little, or its own one."""

    def __init__(self, own=False):
        self.rng = np.random.default_rng(0) if own else np.random

    def __len__(self):
        return 70

    def __getitem__(self, i):
        noise = self.rng.random() + random.random()
        return torch.full((3, 32, 32), i / 70) + 0.1 * noise + 0.1 * torch.rand(3, 32, 32), i % 4


@pytest.mark.parametrize(
    "kind", ["sampler", "weighted", "batch sampler", "subset", "nested", "globals", "own"]
)
def test_a_fresh_loader_resumes_to_the_same_bits(kind, tmp_path):
    utils = torch.utils.data

    def loader():
        generator = torch.Generator().manual_seed(5)
        data = utils.TensorDataset(*(torch.cat(part) for part in zip(*batches(), strict=True)))
        if kind == "sampler":
            return utils.DataLoader(
                data, 32, sampler=utils.RandomSampler(data, generator=generator)
            )
        if kind == "weighted":
            sampler = utils.WeightedRandomSampler([1.0] * 84, 84, generator=generator)
            return utils.DataLoader(data, 32, sampler=sampler)
        if kind == "batch sampler":
            sampler = utils.RandomSampler(data, generator=generator)
            return utils.DataLoader(data, batch_sampler=utils.BatchSampler(sampler, 32, False))
        if kind == "subset":
            augmented = image_loader(
                pictures(), train_transform((0.5,) * 3, (0.2,) * 3), 32
            ).dataset
            return utils.DataLoader(utils.Subset(augmented, range(80)), 32)
        if kind == "nested":
            return utils.DataLoader(utils.ConcatDataset([Drawing(own=True) for _ in "ab"]), 32)
        return utils.DataLoader(Drawing(own=kind == "own"), 32)

    expected, model = net(), net()
    fit(expected, loader(), recipe=SMALL, verbose=False)
    saved, save = [], checkpoint.save

    def die(folder, state):
        save(folder, state)
        saved.append(state)
        if len(saved) == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", die)
        fit(model, loader(), recipe=SMALL, out=tmp_path, verbose=False)
    fit(model, loader(), recipe=SMALL, out=tmp_path, resume=True, verbose=False)
    assert same(model, expected)


def test_another_normalisation_is_another_run(tmp_path):
    fit(net(), pictures(), recipe=SMALL, epochs=1, out=tmp_path, verbose=False)
    other = replace(pictures(), mean=(0.0,) * 3)
    with pytest.raises(CheckpointError, match="mean and std"):
        fit(net(), other, recipe=SMALL, epochs=1, out=tmp_path, resume=True, verbose=False)


def test_a_finished_run_resumes_to_itself(tmp_path):
    models = [net(0), net(1)]
    first = fit(models[0], batches(), recipe=SMALL, out=tmp_path, verbose=False)
    again = fit(models[1], batches(), recipe=SMALL, out=tmp_path, resume=True, verbose=False)
    assert same(*models) and first == again
    assert same(torch.load(tmp_path / "model.pt", weights_only=True), models[0])


@pytest.fixture
def stopped(tmp_path):
    """A folder with the checkpoints of two epochs of three, and what the third would give."""
    expected = net()

    class Stop(list):
        passes = 0

        def __iter__(self):
            self.passes += 1
            if self.passes == 4:  # the first pass tries one batch
                raise KeyboardInterrupt
            return super().__iter__()

    fit(expected, batches(), recipe=SMALL, verbose=False)
    with pytest.raises(KeyboardInterrupt):
        fit(net(), Stop(batches()), recipe=SMALL, out=tmp_path, verbose=False)
    return tmp_path, expected


def test_a_checkpoint_of_an_earlier_version_is_named(tmp_path):
    state = {"settings": {}}
    checkpoint.save(tmp_path, state)
    with pytest.raises(CheckpointError, match="not a checkpoint of this version"):
        checkpoint.read(tmp_path / "checkpoint.pt")


def test_the_checksum_knows_shapes_and_types():
    """The same bytes, read as other numbers, are another content."""
    zeros = [torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(6), torch.zeros(6).int()]
    values = [*zeros, zeros, tuple(zeros[:1]), {"a": zeros[0]}, {"b": zeros[0]}, 0, "0", 0.0, None]
    assert len({checkpoint.checksum(value) for value in values}) == len(values)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def other_weights(path):
    state = torch.load(path, weights_only=True)
    state["model"]["classifier.bias"][0] += 1e-3
    torch.save(state, path)


def other_step(path):
    state = torch.load(path, weights_only=True)
    state["history"] = state["history"][:1]
    torch.save(state, path)


def code_in_it(path):
    torch.save({"settings": {}, "checksum": Path("x")}, path)


DAMAGES = [truncate, flip_a_byte, empty, other_weights, other_step, code_in_it]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_used(damage, stopped):
    folder, expected = stopped
    damage(folder / "checkpoint.pt")
    model = net()
    with pytest.warns(UserWarning, match="checkpoint.pt .*going on from checkpoint.previous.pt"):
        fit(model, batches(), recipe=SMALL, out=folder, resume=True, verbose=False)
    assert same(model, expected)


def test_a_damaged_checkpoint_does_not_take_the_place_of_the_whole_one_before_it(stopped):
    folder, _ = stopped
    settings = checkpoint.read(folder / "checkpoint.pt")["settings"]
    truncate(folder / "checkpoint.pt")
    with pytest.warns(UserWarning, match="cannot be read"):
        state = checkpoint.load(folder, settings)
    checkpoint.save(folder, state)
    assert checkpoint.read(folder / "checkpoint.previous.pt")["epoch"] == 1


def test_two_damaged_checkpoints_are_an_error_that_changes_nothing(stopped):
    folder, _ = stopped
    truncate(folder / "checkpoint.pt")
    other_weights(folder / "checkpoint.previous.pt")
    model, files = net(), sorted(path.name for path in folder.iterdir())
    before = weights(model)
    with pytest.raises(CheckpointError, match="no intact checkpoint is left.*without resuming"):
        fit(model, batches(), recipe=SMALL, out=folder, resume=True, verbose=False)
    assert same(model, before) and files == sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"recipe": replace(SMALL, weight_decay=0.0)},
            r"recipe.weight_decay is 0.0005 .* 0.0 here",
        ),
        ({"seed": 5}, "seed is 0 there and 5 here"),
        ({"epochs": 4}, "epochs is 3 there and 4 here"),
        ({"train": batches((32, 32))}, "steps is 3 there and 2 here"),
        ({"model": DavidNet(5, 4)}, r"model.stem.0.weight is \[4, 3, 3, 3\] .* \[5, 3, 3, 3\]"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_name(change, named, stopped):
    folder, _ = stopped
    arguments = {"model": net(), "train": batches(), "recipe": SMALL} | change
    with pytest.raises(CheckpointError, match=named):
        fit(**arguments, out=folder, resume=True, verbose=False)
    assert (folder / "checkpoint.pt").exists()


def test_other_images_are_refused(tmp_path):
    fit(net(), pictures(), recipe=SMALL, epochs=1, out=tmp_path, verbose=False)
    other = pictures()
    other.images[3, 3, 3, 2] ^= 1
    with pytest.raises(CheckpointError, match="data is [0-9a-f]{64} there"):
        fit(net(), other, recipe=SMALL, epochs=1, out=tmp_path, resume=True, verbose=False)


def test_another_thread_count_warns(stopped):
    folder, _ = stopped
    path = folder / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    del state["checksum"]
    state["threads"] += 1
    checkpoint.save(folder, state)
    with pytest.warns(UserWarning, match="threads and goes on with"):
        fit(net(), batches(), recipe=SMALL, out=folder, resume=True, verbose=False)


def test_without_resume_an_earlier_runs_checkpoints_are_gone_from_the_first_step(stopped):
    folder, _ = stopped
    data = batches()
    data[0][0][:] = float("nan")
    with pytest.raises(NonFiniteLoss):
        fit(net(), data, recipe=replace(SMALL, momentum=0.5), out=folder, verbose=False)
    state = checkpoint.read(folder / "checkpoint.pt")
    assert (state["settings"]["recipe"]["momentum"], state["epoch"]) == (0.5, 0)
    assert not (folder / "checkpoint.previous.pt").exists()


def test_a_checkpoint_is_plain_data_with_everything_in_it(stopped):
    folder, _ = stopped
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    expected = {"model", "final", "optimizer", "scaler", "settings", "history", "epoch", "step"}
    assert expected | {"begun", "threads", "processes", "checksum"} == state.keys()
    assert (state["epoch"], state["step"]) == (2, 6)
    assert state["settings"]["recipe"]["name"] == "course" and state["settings"]["seed"] == 0


# ------------------------------------------------------------------ the log


def test_one_plain_line_an_epoch_where_nobody_watches(capsys):
    fit(net(), batches(), batches(), recipe=SMALL)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 3 and err == "" and "\r" not in out
    assert lines[0].startswith("epoch  1  lr 0.0")
    for name in ("loss", "accuracy", "val_loss", "val_accuracy", "seconds"):
        assert f"  {name} " in lines[0]
    fit(net(), batches(), recipe=SMALL, verbose=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_shows_a_bar_with_time_left_and_keeps_only_the_lines(monkeypatch):
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("COURSE_RUN", raising=False)
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(sys, "stdout", terminal)
        fit(net(), batches((16,) * 4), recipe=SMALL)
        shown = b""
        while select.select([ours], [], [], 0)[0]:  # one read gives at most 4,095 bytes
            shown += os.read(ours, 100_000)
    shown = shown.decode()
    os.close(ours)
    assert "epoch 1/3:" in shown and "<" in shown and "/12 [" in shown
    last = [line.split("\r")[-1] for line in shown.split("\r\n")]
    assert [line[:9] for line in last if line.strip()] == ["epoch  1 ", "epoch  2 ", "epoch  3 "]


@pytest.mark.slow
@pytest.mark.parametrize("watched", [True, False])
def test_a_notebook_stores_the_lines_and_nothing_of_the_bar(watched, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    from nbclient import NotebookClient

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("COURSE_RUN", raising=False)
    if not watched:
        monkeypatch.setenv("COURSE_RUN", "1")
    code = f"import sys; sys.path[:0] = {sys.path!r}\nfrom test_training import *\n"
    code += "history = fit(net(), batches(), recipe=SMALL)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=120).execute()
    outputs = notebook.cells[0].outputs
    text = [o for o in outputs if o.output_type == "stream"]
    assert {o.name for o in text} == {"stdout"}
    assert len("".join(o.text for o in text).splitlines()) == 3
    displays = [o for o in outputs if o.output_type != "stream"]
    assert len(displays) == watched and all(o.data == {"text/plain": ""} for o in displays)


# ------------------------------------------------------------------ on a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_the_steps_do_not_wait_for_the_gpu():
    model, train = net().cuda(), pictures(64 * 40)
    fit(copy.deepcopy(model), train, recipe=SMALL.with_batch(64), epochs=1, verbose=False)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchroniz") as waits:
            fit(model, train, recipe=SMALL.with_batch(64), epochs=2, verbose=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) < 40, "one for each of the 80 steps, or near it"


@pytest.mark.parametrize("width", [2, 8, 15, 16])
def test_memory_format_is_contiguous_where_channels_last_crashes(width):
    layout = torch.contiguous_format if width < 16 else torch.channels_last
    assert memory_format(DavidNet(width), torch.device("cpu")) == layout
    assert memory_format(DavidNet(width), torch.device("cuda")) == torch.channels_last
    assert memory_format(DavidNet(width), torch.device("mps")) == torch.contiguous_format


@pytest.mark.parametrize("threads", [1, 2])
def test_narrow_nets_train_without_a_crash(threads):
    """The crash ends a process by a signal, on some CPUs only; so they train in one of its own."""
    code = f"""
import torch
from helpers.data import load
from helpers.models import DavidNet
from helpers.recipes import COURSE
from helpers.training import fit
torch.set_num_threads({threads})
images = load("shapes", limit=150).train
for width in (2, 4, 6, 8, 12, 16):
    for batch_size in (31, 32):
        fit(DavidNet(width), images, recipe=COURSE.with_batch(batch_size), epochs=1, verbose=False)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=300)
