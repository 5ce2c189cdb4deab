"""The range test against torch-lr-finder, its rules against curves known in closed form, and proof
that it leaves everything as it was."""

import copy
import math
import random

import albumentations as A
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from helpers.augment import Batches
from helpers.data import load
from helpers.lr_finder import RangeTest, lr_range_test
from helpers.randomness import restart


class Points(Dataset):
    """60 images whose class is the quadrant of their bright spot, behind a random transform."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.y = np.arange(60) % 4
        self.x = rng.integers(0, 90, (60, 10, 10, 3)).astype(np.uint8)
        for image, c in zip(self.x, self.y, strict=True):
            image[5 * (c // 2) :, 5 * (c % 2) :][:5, :5] += 120
        self.transform = A.Compose([A.RandomCrop(8, 8), A.ToFloat(255)], seed=5)

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        x = self.transform(image=self.x[i])["image"] + 0.01 * random.random() * np.random.rand()
        return torch.tensor(x.transpose(2, 0, 1), dtype=torch.float32), int(self.y[i])


def loader(**settings):
    generator = torch.Generator().manual_seed(1)
    return DataLoader(Points(), batch_size=16, shuffle=True, generator=generator, **settings)


def fixed_batches(count=60, size=16):
    x = torch.stack([torch.tensor(image / 255.0) for image in Points().x[:count]]).float()
    y = torch.tensor(Points().y[:count])
    return list(zip(x.permute(0, 3, 1, 2).split(size), y.split(size), strict=True))


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 4),
    )


def pair(momentum=0.9):
    model = net()
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum, nesterov=True)


def synthetic(loss, mode="exp", accuracy=None, n=100, lr=(1e-5, 10.0)):
    lrs = np.geomspace(*lr, n) if mode == "exp" else np.linspace(*lr, n)
    loss = np.atleast_2d(loss(lrs))
    accuracy = np.full_like(loss, np.nan) if accuracy is None else np.atleast_2d(accuracy(lrs))
    return RangeTest(lrs, loss, accuracy, tuple(range(len(loss))), mode)


def fall(lr, centre=1e-2, width=0.4):
    """A loss that falls as a sigmoid of log10 lr, steepest at `centre`, and then explodes."""
    x = np.log10(lr / centre)
    return 2.3 - 1.5 / (1 + np.exp(-x / width)) + np.exp(8 * (x - 2.3))


# --- equal to torch-lr-finder ---------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["exp", "linear"])
@pytest.mark.parametrize("end_lr, steps, diverge", [(0.1, 40, 5), (1000.0, 40, 2)])
def test_equals_torch_lr_finder_point_by_point(mode, end_lr, steps, diverge):
    """Same start, end, steps, batches and random stream, its smoothing off; with a divergence."""
    finder = pytest.importorskip("torch_lr_finder")
    model, optimizer = pair()
    x, y = (torch.cat(part) for part in zip(*fixed_batches(), strict=True))
    data = TensorDataset(x, y[torch.randperm(60)])  # labels by chance: hard enough to diverge
    ours_loader, their_loader = (
        DataLoader(data, 16, shuffle=True, generator=torch.Generator().manual_seed(7)) for _ in "ab"
    )
    sweep = (1e-4, end_lr, steps)
    found = lr_range_test(
        model, optimizer, F.cross_entropy, ours_loader, *sweep, mode, diverge, seeds=(7,)
    )
    theirs = finder.LRFinder(model, optimizer, nn.CrossEntropyLoss(), device="cpu")
    torch.manual_seed(7)  # dropout
    theirs.range_test(their_loader, None, *sweep, step_mode=mode, smooth_f=0, diverge_th=diverge)
    n = len(theirs.history["loss"])
    assert (n < steps) == (end_lr > 1)  # the large one diverges
    np.testing.assert_allclose(found.lr[:n], theirs.history["lr"], rtol=1e-6)
    np.testing.assert_allclose(found.loss[0, :n], theirs.history["loss"], rtol=1e-6)
    assert np.isnan(found.loss[0, n:]).all() and len(found.lr) == steps


# --- everything as it was -------------------------------------------------------------------------


def same(a, b):
    """Equal to the last bit, through containers; NaN equals NaN."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


def train_on(model, optimizer, scheduler, batches, epochs=2):
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            scheduler.step()


class Trap:
    """A loss that raises at its eleventh call."""

    def __init__(self, error):
        self.error, self.calls = error, 0

    def __call__(self, output, y):
        self.calls += 1
        if self.calls == 11:
            raise self.error("trap")
        return F.cross_entropy(output, y)


def a_training(disturb, **settings):
    random.seed(1), np.random.seed(2)
    model, optimizer = pair()
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, 40)
    batches = loader(**settings)
    train_on(model, optimizer, scheduler, batches, 1)  # so that momentum and statistics exist
    calls = []
    hook = model[0].register_forward_hook(lambda *_: calls.append(1))
    model[1].eval(), model[2].register_forward_pre_hook(lambda *_: None)
    state = lambda: [
        [model.state_dict(), optimizer.state_dict(), scheduler.state_dict()],
        [p.grad for p in model.parameters()],
        [m.training for m in model],
        [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model],
        [torch.get_rng_state(), np.random.get_state()[1], random.getstate()],
        [batches.generator.get_state(), batches.dataset.transform.py_random.getstate()],
    ]
    before = copy.deepcopy(state())
    disturb(model, optimizer, batches)
    assert all(map(same, state(), before)), list(map(same, state(), before))
    hook.remove()
    train_on(model, optimizer, scheduler, batches)
    return [*model.state_dict().values()], optimizer.state_dict(), random.random(), torch.rand(3)


def test_training_after_it_is_bit_equal():
    """Also after an exception and after Ctrl-C in the midst of it, with a scheduler attached."""

    def plain(model, optimizer, batches):
        val = DataLoader(Points(), 25)
        found = lr_range_test(
            model, optimizer, F.cross_entropy, batches, end_lr=1, steps=12, val=val, seeds=(3, 4)
        )
        assert np.isfinite(found.loss).all()

    def interrupted(error):
        def run(model, optimizer, batches):
            with pytest.raises(error, match="trap"):
                lr_range_test(model, optimizer, Trap(error), batches)

        return run

    untouched = a_training(lambda *_: None)
    for disturb in (plain, interrupted(RuntimeError), interrupted(KeyboardInterrupt)):
        assert same(a_training(disturb), untouched)


def test_training_after_it_is_bit_equal_with_worker_processes():
    def disturb(model, optimizer, batches):
        lr_range_test(model, optimizer, F.cross_entropy, batches, end_lr=1, steps=5)

    settings = {"num_workers": 1, "worker_init_fn": seed_worker}
    untouched = a_training(lambda *_: None, **settings)
    assert same(a_training(disturb, **settings), untouched)


def seed_worker(_):
    seed = torch.initial_seed() % 2**32
    torch.utils.data.get_worker_info().dataset.transform.set_random_seed(seed)
    random.seed(seed), np.random.seed(seed)


def test_works_where_gradients_are_off():
    with torch.no_grad():
        found = lr_range_test(*pair(), F.cross_entropy, fixed_batches(), end_lr=1, steps=6)
        assert not torch.is_grad_enabled()
    assert np.isfinite(found.loss).all()


# --- seeds, batches, val --------------------------------------------------------------------------


def test_seeds_draw_different_batches_and_each_is_repeatable():
    model, optimizer = pair()
    batches = loader()
    found = lr_range_test(model, optimizer, F.cross_entropy, batches, steps=8, seeds=(0, 1, 0))
    assert (found.loss[0] == found.loss[2]).all() and (found.loss[0] != found.loss[1]).all()
    next(iter(batches)), torch.rand(5), np.random.rand(3)  # the caller's streams move on
    again = lr_range_test(model, optimizer, F.cross_entropy, batches, steps=8, seeds=(1,))
    assert (again.loss[0] == found.loss[1]).all()


def test_the_course_s_own_batches():
    """Resident batches count epochs: they are left at theirs, and each seed has its own order."""
    augment, data = pytest.importorskip("helpers.augment"), pytest.importorskip("helpers.data")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (40, 32, 32, 3)).astype(np.uint8)
    labels = np.arange(40) % 4
    image_set = data.ImageSet(images, labels, tuple("abcd"), None, (0.5,) * 3, (0.25,) * 3)
    batches = augment.Batches(image_set, 16, augment.BatchAugment((0.5,) * 3, (0.25,) * 3), seed=3)
    batches.set_epoch(5)
    found = lr_range_test(*pair(), F.cross_entropy, batches, steps=8, seeds=(0, 1))
    assert (found.loss[0] != found.loss[1]).all()
    assert (batches.seed, batches.epoch) == (3, 5)
    batches.set_epoch(9)  # where the caller stands is no matter
    again = lr_range_test(*pair(), F.cross_entropy, batches, steps=8, seeds=(0, 1))
    assert (found.loss == again.loss).all()


def test_seeds_of_numpy():
    more = {"steps": 3, "start_lr": 1e-3, "end_lr": 1e-2}
    found = lr_range_test(*pair(), F.cross_entropy, fixed_batches(), seeds=np.arange(2), **more)
    assert found.seeds == (0, 1)
    batches = Batches(load("shapes", limit=40).train, 20, seed=np.int64(2))
    assert [len(y) for _, y in batches] == [20, 20]


def test_a_seed_larger_than_numpy_takes():
    batches = loader()
    batches.dataset.stream = np.random.RandomState(3)
    seeds = (1, 2**32 + 1)
    found = lr_range_test(*pair(), F.cross_entropy, batches, steps=3, end_lr=1e-2, seeds=seeds)
    assert np.isfinite(found.loss).all()
    assert batches.dataset.stream.random() == np.random.RandomState(3).random()
    generators = [torch.Generator(), torch.Generator()]
    for generator, seed in zip(generators, seeds, strict=True):
        restart(generator, seed)
    assert [generator.initial_seed() for generator in generators] == list(seeds)  # torch takes it


def test_uneven_batches_give_the_loss_of_the_batch():
    batches = fixed_batches(40, 16)  # 16, 16, 8
    model, optimizer = pair(momentum=0.9)
    model[3].p = 0.0
    model.eval()  # the test trains, whatever mode it finds
    found = lr_range_test(model, optimizer, F.cross_entropy, batches, 1e-12, 1e-11, steps=6)
    model.train()
    by_hand = [F.cross_entropy(model(x), y).item() for x, y in batches]
    right = [(model(x).argmax(1) == y).float().mean().item() for x, y in batches]
    np.testing.assert_allclose(found.loss[0], by_hand * 2, rtol=1e-5)
    np.testing.assert_allclose(found.accuracy[0], right * 2, rtol=1e-6)


def test_val_accuracy_counts_images_in_eval_mode_every_few_steps():
    model, optimizer = pair()
    val = fixed_batches(60, 25)  # 25, 25, 10
    settings = {"start_lr": 1e-12, "end_lr": 1e-11, "steps": 8}  # too small to change the weights
    found = lr_range_test(model, optimizer, F.cross_entropy, val, val=val, every=3, **settings)
    assert np.flatnonzero(np.isfinite(found.accuracy[0])).tolist() == [0, 3, 6, 7]
    with torch.no_grad():  # the running statistics are those of the batches seen until then
        model[3].p = 0.0
        expected = []
        for i in range(8):
            model.train()(val[i % 3][0])
            right = sum((model.eval()(x).argmax(1) == y).sum().item() for x, y in val)
            expected.append(right / 60)
    np.testing.assert_allclose(found.accuracy[0, [0, 3, 6, 7]], np.array(expected)[[0, 3, 6, 7]])


def test_looking_at_val_does_not_change_the_losses():
    """A shuffling loader without a generator draws from torch's stream, as dropout does."""
    val = DataLoader(TensorDataset(*fixed_batches()[0]), 8, shuffle=True)
    with_val, without = (
        lr_range_test(*pair(), F.cross_entropy, fixed_batches(), steps=8, val=v)
        for v in (val, None)
    )
    assert (with_val.loss == without.loss).all()


class Scripted:
    """A loss function whose loss is the next of these numbers, whatever the net says."""

    def __init__(self, *losses):
        self.losses = list(losses)

    def __call__(self, output, target):
        return 0 * output.sum() + self.losses.pop(0)


@pytest.mark.parametrize(
    ("losses", "taken"),
    [
        ((2.0, 1.0, 0.2, 0.9, 1.1, 0.3), 5),  # 1.1 is not twice the first, but 5.5 times the lowest
        ((1.0, 4.9, 2.0, 4.9, 0.99, 4.9), 6),  # and here none is above 5 times the lowest so far
    ],
)
def test_a_divergence_is_measured_from_the_lowest_loss(losses, taken):
    found = lr_range_test(*pair(), Scripted(*losses), fixed_batches(), 1e-3, 1e-2, steps=6)
    np.testing.assert_allclose(found.loss[0, :taken], losses[:taken], rtol=1e-6)
    assert np.isnan(found.loss[0, taken:]).all()


def test_each_seed_ends_at_its_own_divergence():
    class Exploding:
        """Seed 1 exceeds 5 times its best at step 20, seed 2 is NaN at step 30."""

        calls = 0

        def __call__(self, output, y):
            seed, self.calls = torch.initial_seed(), self.calls + 1
            factor = {(1, 21): 6.0, (2, 31): float("nan")}.get((seed, self.calls), 1.0)
            return output.sum() * 0 + factor

    found = lr_range_test(*pair(), Exploding(), fixed_batches(), steps=40, seeds=(0, 1, 2))
    assert np.isfinite(found.loss).sum(axis=1).tolist() == [40, 21, 30]
    assert found.loss[1, 20] == 6 and np.isnan(found.loss[1, 21:]).all()
    assert np.isfinite(found.accuracy).sum(axis=1).tolist() == [40, 21, 30]
    assert len(found.curve(smooth=0)[0]) == 21  # what all of them reached


# --- refused, with the reason ---------------------------------------------------------------------


def test_what_cannot_be_restored_is_refused():
    model, optimizer = pair()
    run = lambda batches, **more: lr_range_test(model, optimizer, F.cross_entropy, batches, **more)
    for one_shot in (iter(fixed_batches()), (b for b in fixed_batches()), iter(loader())):
        with pytest.raises(ValueError, match="one-shot"):
            run(one_shot)
        with pytest.raises(ValueError, match="val is a one-shot"):
            run(fixed_batches(), val=one_shot)
    with pytest.raises(TypeError, match="batches is a ImageSet: expected batches"):
        run(load("shapes", limit=100).train)
    with pytest.raises(ValueError, match="persistent"):
        run(loader(num_workers=1, persistent_workers=True))
    locked = fixed_batches() + [(b for b in ())]
    with pytest.raises(ValueError, match="cannot be copied"):
        run(locked)
    with pytest.raises(ValueError, match="no batch"):
        run([])
    with pytest.raises(ValueError, match="no images to predict"):
        run(fixed_batches(), val=[])
    with pytest.raises(ValueError, match="the model knows classes 0 to"):
        run([(x, y + 1000) for x, y in fixed_batches()])
    with pytest.raises(ValueError, match="no parameter of this model"):
        lr_range_test(net(), optimizer, F.cross_entropy, fixed_batches())


@pytest.mark.parametrize(
    "bad",
    [
        {"start_lr": 0},
        {"start_lr": 1, "end_lr": 0.1},
        {"end_lr": float("inf")},
        {"mode": "cos"},
        {"steps": 1},
        {"every": 0},
        {"diverge": 1},
        {"seeds": ()},
        {"seeds": (-1,)},
    ],
)
def test_bad_numbers_are_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        lr_range_test(*pair(), F.cross_entropy, fixed_batches(), **bad)


# --- rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("smooth", [0, 0.02, 0.05, 0.1, 0.2])
@pytest.mark.parametrize("n", [60, 100, 1000])
def test_steep_is_not_shifted_on_a_noise_free_curve(smooth, n):
    found = synthetic(fall, n=n)
    step = 6 / (n - 1)  # decades
    assert np.log10(found.suggest("steep", smooth)) == pytest.approx(-2, abs=step)
    lowest = found.lr[np.argmin(found.loss[0])]
    assert np.log10(found.suggest("minimum", smooth)) == pytest.approx(
        np.log10(lowest / 10),
        abs=max(step, 0.3 * smooth * 6),  # not symmetric about its minimum
    )


def test_without_smoothing_steep_is_numpy_s_steepest_gradient():
    rng = np.random.default_rng(0)
    found = synthetic(lambda lr: fall(lr) + 0.02 * rng.standard_normal((3, 100)))
    mean = found.loss.mean(axis=0)
    before = np.argmin(mean) + 1
    assert found.suggest("steep", 0) == found.lr[np.argmin(np.gradient(mean)[:before])]
    assert found.suggest("minimum", 0) == found.lr[np.argmin(mean)] / 10


def test_smoothing_equals_fitted_lines():
    """Values and slopes equal numpy's least squares in each window, on uneven steps too."""
    rng = np.random.default_rng(0)
    accuracy = rng.random((1, 100))
    accuracy[0, np.arange(100) % 4 != 0] = np.nan
    accuracy[0, 99] = 0.5
    found = synthetic(fall, accuracy=lambda lr: accuracy)
    for of, smooth in (("loss", 0.1), ("accuracy", 0.2)):
        steps, values, slopes = found.curve(of, smooth)
        y = getattr(found, of)[0, steps]
        for i, step in enumerate(steps):
            near = np.abs(steps - step) <= 50 * smooth
            slope, constant = np.polyfit(steps[near] - step, y[near], 1)
            assert (slopes[i], values[i]) == pytest.approx((slope, constant), rel=1e-9, abs=1e-12)


def test_smoothing_finds_the_slope_under_noise():
    """Exact on the mean, within a quarter of a decade for single noisy curves."""
    errors = []
    for seed in range(50):
        noise = 0.05 * np.random.default_rng(seed).standard_normal(100)
        errors.append(np.log10(synthetic(lambda lr: fall(lr) + noise).suggest()) + 2)  # noqa: B023
    assert abs(np.mean(errors)) < 0.06 and np.std(errors) < 0.25


@pytest.mark.parametrize(("nesterov", "limit"), [(False, 3.8), (True, 1.36)])
def test_what_lesson_03_says_of_the_bowl_with_momentum(nesterov, limit):
    """Its limit of 2 / a moves to 3.8 / a, and with Nesterov's form to 1.36 / a; here a = 1."""
    for lr, ends in ((limit - 0.02, True), (limit + 0.02, False)):
        w = torch.ones(1, dtype=torch.double, requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=lr, momentum=0.9, nesterov=nesterov)
        for _ in range(3000):
            w.grad = w.detach().clone()
            optimizer.step()
        assert (abs(w.item()) < 1) == ends


def test_valley_by_hand():
    """A run of 11 from step 19 on: 11 // 3 + 11 // 6 = 4 steps behind its start."""
    loss = np.r_[np.full(20, 3.0), 3 - 0.1 * np.arange(1, 11), 2 + np.arange(70.0)]
    found = synthetic(lambda lr: loss)
    assert found.suggest("valley", 0) == found.lr[19 + 4]
    loss[25] = 9  # one bad batch does not cut the fall in two, it leaves 10: 3 + 1 behind step 20
    assert synthetic(lambda lr: loss).suggest("valley", 0) == found.lr[20 + 4]
    for run, behind in ((62, 20 + 10), (6, 2 + 1)):  # a long one, and the shortest that is taken
        loss = np.r_[np.full(10, 99.0), 98 - np.arange(run - 1.0), np.full(91 - run, 99.0)]
        assert synthetic(lambda lr, y=loss: y).suggest("valley", 0) == found.lr[9 + behind]
    loss[10] = 99  # shorter by one
    with pytest.raises(ValueError, match="fewer than 6"):
        synthetic(lambda lr: loss).suggest("valley", 0)


def test_slide_follows_its_definition():
    """By hand: from the right, pairs 15 apart, until their slopes differ by no more than 0.005."""
    found = synthetic(fall)
    slope = np.gradient(found.loss[0])
    right = 99
    while abs(slope[right] - slope[right - 15]) > 0.005:
        right -= 1
    assert right < 99
    assert found.suggest("slide", 0) == found.lr[right - 15 + 1]
    longer = synthetic(fall, n=1000).suggest("slide", 0)  # the same place with ten times the steps
    assert np.log10(longer / found.suggest("slide", 0)) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("every", [1, 10])
def test_accuracy_the_source_s_way(every):
    """Linear LR, evaluated every few steps: the LR of the steepest rise."""

    def rise(lr):
        accuracy = 0.1 + 0.6 / (1 + np.exp(-(lr - 0.12) / 0.03)) - 0.3 * lr
        accuracy[np.arange(len(lr)) % every != 0] = np.nan
        return accuracy

    found = synthetic(lambda lr: fall(lr, 0.1), "linear", rise, n=1000, lr=(1e-4, 0.5))
    for smooth in (0, 0.05, 0.1):
        assert found.suggest("accuracy", smooth) == pytest.approx(0.12, abs=0.006)


@pytest.mark.parametrize(
    "loss, rule, message",
    [
        (lambda lr: np.full(100, 2.3), "steep", "flat.*higher end_lr"),
        (lambda lr: np.full(100, 2.3), "minimum", "flat.*higher end_lr"),
        (lambda lr: np.full(100, 2.3), "slide", "flat.*higher end_lr"),
        (lambda lr: 1 + lr, "steep", "never better.*lower start_lr"),
        (lambda lr: -np.sqrt(lr), "steep", "higher end_lr"),
        (lambda lr: -np.sqrt(lr), "minimum", "higher end_lr"),
        (lambda lr: fall(lr, 1e-4, 0.2), "steep", None),
        (lambda lr: lr**-0.1 + lr, "steep", "lower start_lr"),
        (lambda lr: np.select([lr < 1e-2, lr < 2e-2], [3.0, 2.0], 2.5), "valley", "fewer than 6"),
        (lambda lr: np.r_[3.0, np.full(99, 2.0)], "slide", "ends flat.*higher end_lr"),
        (lambda lr: 0.5 * (np.arange(100.0) - 99) ** 2, "slide", "changes all the way"),
        (lambda lr: np.where(lr > 1.5e-5, np.nan, 2.0), "steep", "only 3 .*{0: 3}.*lower start_lr"),
        (lambda lr: np.full(100, np.nan), "slide", "only 0 steps have the loss"),
        (fall, "accuracy", "only 0 steps have the accuracy"),
        (fall, "steepest", "expected one of steep, valley"),
    ],
)
def test_a_rule_gives_one_float_or_says_what_to_change(loss, rule, message):
    found = synthetic(loss)
    if message is None:
        assert isinstance(found.suggest(rule, 0), float)
    else:
        with pytest.raises(ValueError, match=message):
            found.suggest(rule, 0)
    for value in found.suggestions().values():
        assert isinstance(value, float) or len(value) > 20


@pytest.mark.parametrize("n", range(1, 30))
def test_no_rule_breaks_on_a_short_curve(n):
    """fastai's fail with an IndexError on empty input; steep at 1 point, slide up to 5."""
    loss = fall(np.geomspace(1e-5, 10, 100))[:: 100 // n][:n]
    for value in synthetic(lambda lr: loss, n=n).suggestions().values():
        assert isinstance(value, float) or "take" in value


def test_steps_that_do_not_fill_a_window_are_told():
    """A sweep of 100 steps from far too high an LR: the loss is a number in the first 7 alone."""
    fast = synthetic(lambda lr: np.r_[7.0:0:-1, np.full(93, np.nan)])
    with pytest.raises(ValueError, match="too few steps: take a lower start_lr"):
        fast.suggest("steep", 0.2)
    assert "too few steps" in str(fast)


def test_a_fall_back_from_a_spike_is_no_descent():
    spike = lambda lr: np.where((lr > 0.4) & (lr < 1), 9.0, fall(lr))
    assert synthetic(spike).suggest("steep") == pytest.approx(1e-2, rel=0.2)


def test_it_says_when_the_rules_disagree():
    found = synthetic(fall)
    numbers = [v for v in found.suggestions().values() if isinstance(v, float)]
    assert len(numbers) == 4 and all(type(v) is float for v in numbers)
    ratio = max(numbers) / min(numbers)
    assert ratio > 10 and f"the rules disagree by a factor of {ratio:.0f}: " in str(found)
    assert all(rule in str(found) for rule in ("steep", "valley", "minimum", "slide", "accuracy"))
    narrow = synthetic(lambda lr: fall(lr) + (lr / 0.2) ** 4, lr=(1e-3, 10))
    assert "disagree" not in str(narrow), str(narrow)


def test_on_a_real_net_every_rule_speaks():
    model, optimizer = pair()
    batches = fixed_batches()
    found = lr_range_test(
        model, optimizer, F.cross_entropy, batches, 1e-4, 1000.0, steps=100, seeds=(0, 1, 2)
    )
    assert isinstance(found.suggest(), float), str(found)
    assert 1e-3 < found.suggest() < 10 and 1e-3 < found.suggest("accuracy") < 10


def test_numbers_that_cannot_be_are_refused_and_one_seed_is_one_number():
    for wrong in ({"diverge": math.nan}, {"diverge": 1}, {"every": 0}, {"seeds": -1}):
        with pytest.raises(ValueError, match="every 1 or more, diverge above 1, and seeds of 0"):
            lr_range_test(*pair(), F.cross_entropy, fixed_batches(), steps=8, **wrong)
    with pytest.raises(TypeError, match="integer"):
        lr_range_test(*pair(), F.cross_entropy, fixed_batches(), steps=8, every=1.5)
    one, list_of_one = (
        lr_range_test(*pair(), F.cross_entropy, fixed_batches(), steps=8, seeds=seeds)
        for seeds in (3, (3,))
    )
    np.testing.assert_array_equal(one.loss, list_of_one.loss)


@pytest.mark.parametrize("power", [0.5, 0.7, 1.5, 2.0, 4.0])
def test_a_skewed_fall_is_moved_by_less_than_a_tenth_of_a_decade(power):
    """As the docstring of `curve` says: Richards' curves, steeper on one side than on the other."""
    lr = np.geomspace(1e-5, 10, 601)
    fall = 2.3 - 1.5 * (1 / (1 + (lr / 0.01) ** -1.0)) ** power
    found = RangeTest(lr, fall[None], fall[None], (0,), "exp")
    true = lr[np.argmin(np.gradient(fall, np.log(lr)))]
    assert abs(np.log10(found.suggest("steep") / true)) < 0.1
