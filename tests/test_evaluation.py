"""Evaluation against scikit-learn, scipy and plain loops."""

import copy
import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import binomtest, norm
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, recall_score
from sklearn.neighbors import NearestNeighbors
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from helpers import evaluation as ev
from helpers import randomness
from helpers.data import ImageSet
from helpers.models import DavidNet


def snapshot(model):
    """Everything that a helper must leave as it found it."""
    return copy.deepcopy(
        {
            "state": dict(model.state_dict()),
            "modes": [m.training for m in model.modules()],
            "grads": [p.grad for p in model.parameters()],
            "requires": [p.requires_grad for p in model.parameters()],
            "hooks": [
                len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
                for m in model.modules()
            ],
            "torch": torch.get_rng_state(),
            "numpy": np.random.get_state()[1],
            "python": random.getstate(),
        }
    )


def assert_same(before, after):
    for key in before:
        torch.testing.assert_close(after[key], before[key], rtol=0, atol=0, msg=f"{key} changed")


def image_set(n=23, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    return ImageSet(images, np.arange(n, dtype=np.int64) % 10, tuple("abcdefghij"), None, mean, std)


def by_hand(data):
    """The tensor (N, 3, 32, 32) that a model should see."""
    x = data.images.astype(np.float64) / 255
    x = (x - np.array(data.mean)) / np.array(data.std)
    return torch.from_numpy(x.transpose(0, 3, 1, 2)).float(), torch.from_numpy(data.labels)


@pytest.fixture
def model():
    torch.manual_seed(1)
    net = DavidNet(width=2)
    net(torch.randn(16, 3, 32, 32))  # BN statistics that differ from a batch's own
    net.train()
    net.stage2.eval()  # a mixed state, which a plain model.train() would not bring back
    net(torch.randn(4, 3, 32, 32)).sum().backward()
    return net


@pytest.fixture
def guesses():
    """Predictions over 7 classes, class 5 without images, with 300 sure and unsure rows."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 7, generator=generator) * torch.rand(300, 1, generator=generator) * 4
    labels = torch.randint(0, 7, (300,), generator=generator)
    labels = torch.where(torch.rand(300, generator=generator) < 0.6, logits.argmax(1), labels)
    return ev.Predictions(logits, torch.where(labels == 5, 6, labels))


def test_a_forked_process_predicts_where_its_parent_has_used_the_gpu(monkeypatch):
    """It keeps the parent's answer that the GPU works, and may not touch the GPU."""

    def refuse():
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")

    monkeypatch.setattr(randomness, "cuda_works", lambda: True)
    monkeypatch.setattr(torch.cuda, "_initialized", True)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", refuse)
    assert len(ev.predict(DavidNet(4), image_set())) == 23
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: False)
    with pytest.raises(RuntimeError, match="re-initialize"):  # the parent's stream is kept
        randomness.random_state()


def test_a_logit_that_is_not_a_number_is_never_right():
    logits = torch.tensor([[torch.nan, 0.0], [1.0, 0.0], [0.0, torch.nan], [0.0, 1.0]])
    found = ev.Predictions(logits, torch.tensor([0, 0, 1, 0]))
    assert found.correct.tolist() == [False, True, False, False]
    assert found.accuracy == 0.25


class OnApple(torch.Tensor):
    """As on Apple's GPU, which has no 64-bit numbers: only what has left it becomes double."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.double:
            raise TypeError("Cannot convert a MPS Tensor to float64")
        if function is torch.Tensor.cpu:
            return args[0].as_subclass(torch.Tensor)
        return super().__torch_function__(function, types, args, kwargs or {})


def test_accuracy_and_loss_need_no_doubles_on_the_device(guesses):
    there = ev.Predictions(*(x.as_subclass(OnApple) for x in (guesses.logits, guesses.labels)))
    assert there.accuracy == guesses.accuracy and there.loss == guesses.loss


def test_image_set_is_normalised_with_its_own_statistics(model):
    data = image_set()
    x, y = by_hand(data)
    expected = copy.deepcopy(model).eval()(x)
    for size in (500, 7):
        found = ev.predict(model, data, batch_size=size)
        torch.testing.assert_close(found.logits, expected.detach(), rtol=1e-4, atol=1e-5)
        assert torch.equal(found.labels, y)
    hits = sum(int(row.argmax()) == int(label) for row, label in zip(expected, y, strict=True))
    assert found.accuracy == hits / len(y)
    assert found.loss == pytest.approx(F.cross_entropy(expected, y).item(), rel=1e-5)


def test_uneven_batches_weigh_by_their_size(model):
    x, y = by_hand(image_set(23))
    whole = ev.predict(model, [(x, y)])
    cut = ev.predict(model, [(x[:20], y[:20]), (x[20:22], y[20:22]), (x[22:], y[22:])])
    assert cut.loss == pytest.approx(whole.loss, rel=1e-5)
    assert cut.accuracy == whole.accuracy
    means = [
        F.cross_entropy(a, b) for a, b in ((cut.logits[:20], y[:20]), (cut.logits[20:], y[20:]))
    ]
    assert abs(sum(means).item() / 2 - cut.loss) > 1e-4, "the data must tell the two apart"


def test_flip_tta_is_the_mean_of_two_passes(model):
    data = image_set()
    x, _ = by_hand(data)
    net = copy.deepcopy(model).eval()
    expected = torch.stack([net(x), net(torch.from_numpy(x.numpy()[..., ::-1].copy()))]).mean(0)
    found = ev.predict(model, data, tta=True).logits
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)


def test_predict_leaves_everything_as_found(model):
    x, y = by_hand(image_set())
    loader = DataLoader(TensorDataset(x, y), batch_size=5, shuffle=True)
    before = snapshot(model)
    ev.predict(model, loader, tta=True)
    assert_same(before, snapshot(model))
    with pytest.raises(RuntimeError, match="too small"):
        ev.predict(model, [(x, y), (x[:, :, :4, :4], y)])
    assert_same(before, snapshot(model))


def test_predictions_can_be_learned_from(model):
    """Temperature scaling needs logits that may enter a graph."""
    temperature = torch.ones((), requires_grad=True)
    (ev.predict(model, image_set()).logits * temperature).sum().backward()
    assert temperature.grad is not None


def test_predict_names_what_is_wrong(model):
    x, y = by_hand(image_set())
    with pytest.raises(ValueError, match="no images"):
        ev.predict(model, [])
    for labels in (torch.arange(23) % 11, y - 1):  # one class more than the net has, one of -1
        with pytest.raises(ValueError, match="as many classes as the data"):
            ev.predict(model, [(x, labels)])
    with pytest.raises(TypeError, match="integer labels .*got a Tensor .* labels of torch.float32"):
        ev.predict(model, [(x, y / 2)])
    two_heads = nn.Module()
    two_heads.forward = lambda x: (model(x), model(x))
    with pytest.raises(TypeError, match="got a tuple for images"):
        ev.predict(two_heads, [(x, y)])
    with pytest.raises(ValueError, match="one row of logits"):
        ev.predict(nn.Identity(), [(x, y)])


def test_probabilities_and_confidence(guesses):
    exponents = guesses.logits.double().exp()
    expected = exponents / exponents.sum(1, keepdim=True)
    torch.testing.assert_close(guesses.probabilities.double(), expected, rtol=1e-5, atol=1e-6)
    rows = range(len(guesses))
    assert torch.equal(guesses.confidence, guesses.probabilities[rows, guesses.predicted])


def test_confusion_equals_scikit_learn(guesses):
    true, predicted = guesses.labels, guesses.predicted
    expected = confusion_matrix(true, predicted, labels=range(7))
    assert (expected != expected.T).any(), "rows and columns must be distinguishable"
    for classes in (None, tuple("abcdefg")):
        found = ev.confusion(true, predicted, classes)
        assert found.dtype == np.int64 and np.array_equal(found, expected)
    assert ev.confusion(true, predicted, tuple("abcdefghi")).shape == (9, 9)
    assert ev.confusion(np.uint8([0, 200]), np.uint8([1, 200]))[200, 200] == 1, "uint8 overflow"
    with pytest.raises(ValueError, match="expected 0 to 5"):
        ev.confusion(true, predicted, tuple("abcdef"))
    with pytest.raises(ValueError, match="run from -1"):
        ev.confusion(true, predicted - 1)
    for bad in (predicted[:-1], predicted[:, None], guesses.confidence, []):
        with pytest.raises((ValueError, TypeError), match="expected true and predicted|cast"):
            ev.confusion(true, bad)


def test_per_class_accuracy_equals_scikit_learns_recall(guesses):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an empty class is no fault
        found = ev.per_class_accuracy(guesses.labels, guesses.predicted, tuple("abcdefg"))
    expected = recall_score(
        guesses.labels, guesses.predicted, labels=range(7), average=None, zero_division=np.nan
    )
    np.testing.assert_allclose(found, expected)
    assert np.isnan(found[5])


def test_misclassified_come_most_confident_first(guesses):
    rows = [i for i in range(300) if guesses.logits[i].argmax() != guesses.labels[i]]
    rows.sort(key=lambda i: -guesses.logits[i].softmax(0).max())
    assert ev.misclassified(guesses).tolist() == rows
    assert ev.misclassified(guesses, 3).tolist() == [i for i in rows if guesses.labels[i] == 3]
    perfect = ev.Predictions(torch.eye(3), torch.arange(3))
    assert ev.misclassified(perfect).tolist() == []
    alike = ev.Predictions(torch.zeros(100, 2), torch.ones(100, dtype=torch.int64))
    assert ev.misclassified(alike).tolist() == list(range(100))  # equally sure: in their order


@pytest.mark.parametrize("correct, n", [(9131, 10000), (0, 10), (10, 10), (1, 1), (7, 9)])
def test_wilson_equals_scipy(correct, n):
    expected = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    found = ev.wilson_interval(correct, n, z=norm.ppf(0.975))
    assert found == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert ev.wilson_interval(correct, n) == pytest.approx(found, abs=1e-4)
    assert 0 <= found[0] <= correct / n <= found[1] <= 1


def test_wilson_refuses_impossible_counts():
    for counts in ((5, 4), (-1, 4), (0, 0)):
        with pytest.raises(ValueError, match="correct <= n"):
            ev.wilson_interval(*counts)


def test_reliability_equals_scikit_learn(guesses):
    curve = ev.reliability(guesses, bins=12)
    full = curve.counts > 0
    assert not full.all(), "an empty bin belongs to the test"
    accuracy, confidence = calibration_curve(guesses.correct, guesses.confidence, n_bins=12)
    np.testing.assert_allclose(curve.accuracy[full], accuracy, atol=1e-6)
    np.testing.assert_allclose(curve.confidence[full], confidence, atol=1e-6)
    assert curve.accuracy[~full].isnan().all() and curve.counts.sum() == 300
    ece = 0.0
    for low in range(12):
        rows = [i for i, c in enumerate(guesses.confidence) if low < 12 * c <= low + 1]
        right = sum(bool(guesses.correct[i]) for i in rows)
        ece += abs(right - sum(float(guesses.confidence[i]) for i in rows)) / 300
    assert curve.ece == pytest.approx(ece, abs=1e-6)


def test_counting_nothing_or_in_no_bins_is_refused(guesses):
    with pytest.raises(ValueError, match="bins=0: expected 1 or more"):
        ev.reliability(guesses, bins=0)
    with pytest.raises(ValueError, match="no labels to count"):
        ev.confusion([], [])


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    """As in Guo et al. 2017 and scikit-learn."""
    curve = ev.reliability(ev.Predictions(torch.zeros(3, 2), torch.tensor([0, 0, 1])), bins=2)
    assert curve.counts.tolist() == [3, 0]


def test_sure_and_always_right_is_perfectly_calibrated():
    curve = ev.reliability(ev.Predictions(100 * torch.eye(4), torch.arange(4)))
    assert curve.ece == 0 and curve.counts[-1] == 4


def test_noise_has_the_stated_spread_and_a_seed():
    grey = np.full((8, 32, 32, 3), 128, np.uint8)
    state = np.random.get_state()[1].copy()
    for severity, spread in enumerate((0.04, 0.06, 0.08, 0.09, 0.10), start=1):
        found = ev.corrupt(grey, "noise", severity)
        assert found.astype(float).std() == pytest.approx(255 * spread, rel=0.02)
        assert found.mean() == pytest.approx(128, abs=0.5)
    assert np.array_equal(found, ev.corrupt(grey, "noise", 5))
    assert not np.array_equal(found, ev.corrupt(grey, "noise", 5, seed=1))
    assert np.array_equal(state, np.random.get_state()[1])


def test_noise_stops_at_black_and_white():
    for value in (0, 255):
        flat = np.full((1, 32, 32, 3), value, np.uint8)
        found = ev.corrupt(flat, "noise", 5).astype(int)
        assert np.abs(found - value).max() < 150 and (found == value).mean() > 0.4


def test_blur_equals_scipys():
    images = image_set(3).images
    for severity, sigma in enumerate((0.4, 0.6, 0.7, 0.8, 1.0), start=1):
        found = ev.corrupt(images, "blur", severity).astype(float)
        expected = [
            gaussian_filter(i.astype(float), (sigma, sigma, 0), mode="mirror", truncate=4.0)
            for i in images
        ]
        assert np.abs(found - expected).max() < 2  # 8-bit arithmetic


def test_contrast_shrinks_the_distance_to_the_mean():
    images = image_set(3).images
    for severity, left in enumerate((0.75, 0.5, 0.4, 0.3, 0.15), start=1):
        found = ev.corrupt(images, "contrast", severity).astype(float)
        mean = images.astype(float).mean((1, 2))
        np.testing.assert_allclose(found.mean((1, 2)), mean, atol=0.3)
        np.testing.assert_allclose(found.std((1, 2)), left * images.std((1, 2)), rtol=0.01)


@pytest.mark.parametrize("kind", ["noise", "blur", "contrast"])
def test_corruption_grows_with_severity_and_spares_the_original(kind):
    images = image_set(4).images
    kept = images.copy()
    shift = [np.abs(ev.corrupt(images, kind, s).astype(float) - images).mean() for s in range(6)]
    assert shift[0] == 0 and shift == sorted(shift) and len(set(shift)) == 6
    assert np.array_equal(images, kept)


def test_corrupt_refuses_what_it_does_not_know():
    images = image_set(1).images
    for bad in ((images, "fog", 1), (images, "blur", 6), (images / 255, "blur", 1)):
        with pytest.raises(ValueError, match="severity 0 to 5"):
            ev.corrupt(*bad)
    assert np.array_equal(ev.corrupt(images, "blur", 2.0), ev.corrupt(images, "blur", 2))


def test_photo_is_upright_and_square_on_white(tmp_path):
    """Left half red, right half blue, lying on its side as a telephone stores it."""
    photo = np.zeros((300, 100, 3), np.uint8)
    photo[:150, :, 2], photo[150:, :, 0] = 255, 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees to the right
    Image.fromarray(photo).save(tmp_path / "photo.png", exif=exif)
    found = ev.prepare_photo(str(tmp_path / "photo.png"))
    assert found.shape == (32, 32, 3) and found.dtype == np.uint8
    assert (found[:, :12] == (255, 0, 0)).all() and (found[:, 20:] == (0, 0, 255)).all()
    clear = Image.fromarray(np.zeros((40, 40, 4), np.uint8))
    clear.save(tmp_path / "clear.png")
    assert (ev.prepare_photo(tmp_path / "clear.png", size=8) == 255).all()


def test_a_photo_of_the_right_size_stays_as_it_is_and_a_missing_one_is_named(tmp_path):
    small = image_set(1).images[0]
    Image.fromarray(small).save(tmp_path / "small.png")
    assert np.array_equal(ev.prepare_photo(tmp_path / "small.png"), small)
    with pytest.raises(ValueError, match="missing.jpg"):
        ev.prepare_photo(tmp_path / "missing.jpg")


def test_nearest_equals_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    queries, bank = (torch.randn(n, 16, generator=generator) for n in (1205, 30))
    similarity, index = ev.nearest(queries, bank, k=3)
    distance, expected = NearestNeighbors(metric="cosine").fit(bank).kneighbors(queries, 3)
    assert np.array_equal(index, expected)
    np.testing.assert_allclose(similarity, 1 - distance, atol=1e-5)


def test_accuracy_of_a_known_model_on_real_cifar(cifar_root):
    """The labels as the predicted class give 1.0; always 'class 3' gives the class's share."""
    from helpers.data import load

    data = load("cifar10", root=cifar_root, limit=200).train

    class Constant(nn.Module):
        def forward(self, x):
            return F.one_hot(torch.full((len(x),), 3), 10).float()

    found = ev.predict(Constant(), data)
    assert found.accuracy == pytest.approx((data.labels == 3).mean())
    matrix = ev.confusion(found.labels, found.predicted, data.classes)
    assert matrix[:, 3].sum() == len(data) == matrix.sum()


def test_what_is_no_class_no_picture_and_no_number_is_refused(guesses):
    for of_class in ("dog", -1, 99, True):
        with pytest.raises(ValueError, match="of_class .* expected a number, 0 to"):
            ev.misclassified(guesses, of_class)
    with pytest.raises(ValueError, match=r"\(N, H, W, 3\).* got uint8 \(32, 32, 3\)"):
        ev.corrupt(np.zeros((32, 32, 3), np.uint8), "blur", 5)
    broken = ev.Predictions(torch.tensor([[1.0, 2], [float("nan"), 0]]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="1 predictions are not a number"):
        ev.reliability(broken)
    for size in (0, -1, 1.5, "3"):
        with pytest.raises(ValueError, match="expected a whole number of pixels"):
            ev.prepare_photo("absent.png", size)
    for queries, bank, k in (((2, 3), 3, 0), ((2, 3), 3, 5), ((2, 3), 2, 1), ((3,), 3, 1)):
        with pytest.raises(ValueError, match="expected .Q, D. and .N, D."):
            ev.nearest(torch.zeros(queries), torch.zeros(4, bank), k)


def test_predicting_leaves_every_random_stream_where_it_was():
    class Noisy(Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return torch.rand(3, 32, 32) + float(np.random.rand()) + random.random(), i

    model = DavidNet(2)
    draw = lambda: (float(torch.rand(())), np.random.rand(), random.random())
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    expected = draw()
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
    ev.predict(model, DataLoader(Noisy(), 2))
    assert draw() == expected
