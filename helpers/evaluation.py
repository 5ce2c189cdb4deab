"""What a trained model gets right, how sure it is, and where it breaks."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.augment import Batches
from helpers.data import ImageSet
from helpers.folder import read_picture
from helpers.randomness import random_state_kept


@dataclass(frozen=True)
class Predictions:
    """A model's logits (N, C), float32, and the labels (N,), int64; `predict`'s are on the CPU."""

    logits: Tensor
    labels: Tensor

    def __post_init__(self):
        shape, labels = tuple(self.logits.shape), self.labels
        if len(shape) != 2 or labels.shape != shape[:1] or not len(labels):
            raise ValueError(
                f"expected one row of logits an image, (N, C) and (N,), got {shape} and"
                f" {tuple(labels.shape)}"
            )
        if labels.min() < 0 or labels.max() >= shape[1]:
            raise ValueError(
                f"the model knows classes 0 to {shape[1] - 1}, the labels run from {labels.min()}"
                f" to {labels.max()}: give the model as many classes as the data"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> Tensor:
        """The class with the largest logit, (N,)."""
        return self.logits.argmax(1)

    @property
    def probabilities(self) -> Tensor:
        """Softmax of the logits, (N, C)."""
        return self.logits.softmax(1)

    @property
    def confidence(self) -> Tensor:
        """Probability of the predicted class, (N,)."""
        return self.probabilities.amax(1)

    @property
    def correct(self) -> Tensor:
        """Whether the predicted class is the label, (N,) bool; never where a logit is NaN."""
        return (self.predicted == self.labels) & ~self.logits.isnan().any(1)

    @property
    def accuracy(self) -> float:
        """Share of correct predictions, 0..1."""
        return self.correct.cpu().double().mean().item()  # Apple's GPU has no doubles

    @property
    def loss(self) -> float:
        """Cross-entropy in nats, each image weighing the same however the batches were cut."""
        return F.cross_entropy(self.logits.cpu().double(), self.labels.cpu()).item()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode; on exit, each module gets its old mode back, and torch, numpy and
    random their states."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        with random_state_kept():
            yield model.eval()
    finally:
        for module, training in modes:
            module.training = training


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first weight (or buffer) lies; the CPU for a model that has none."""
    tensors = (t for group in (model.parameters(), model.buffers()) for t in group)
    return next((t.device for t in tensors), torch.device("cpu"))


def predict(
    model: nn.Module,
    data: ImageSet | Iterable[tuple[Tensor, Tensor]],
    batch_size: int = 500,
    tta: bool = False,
) -> Predictions:
    """Run the model over `data`, in eval mode and without gradients.

    data: an ImageSet, which is normalised with its own mean and std and cut into `batch_size`,
    or batches (x (B, 3, H, W) float, y (B,) int), taken as they are.
    tta: test-time augmentation, which averages the logits of image and mirror image.
    The model, its mode and all random states are left as found, also after an error.
    """
    device = device_of(model)
    if isinstance(data, ImageSet):
        data = Batches(data, batch_size, device=device, shuffle=False)
    logits, labels = [], []
    with eval_mode(model), torch.no_grad():
        for x, y in data:
            x = x.to(device)
            out, y = model(x), torch.as_tensor(y)
            if not isinstance(out, Tensor) or y.is_floating_point():
                got = f"{type(out).__name__} for images and labels of {y.dtype}"
                raise TypeError(f"expected logits (B, C) and integer labels (B,), got a {got}")
            logits.append(((out + model(x.flip(-1))) / 2 if tta else out).float())
            labels.append(y)
    if not logits:
        raise ValueError("no images to predict: the data is empty, or an iterator already used up")
    return Predictions(torch.cat(logits).cpu(), torch.cat(labels).cpu().long())


def confusion(true, predicted, classes: Sequence[str] | None = None) -> np.ndarray:
    """Counts (C, C), int64: row = true class, column = predicted class.

    true, predicted: (N,) integers; classes: their names; default: as many as occur.
    """
    if not len(true):
        raise ValueError("no labels to count")
    shapes = tuple(np.shape(true)), tuple(np.shape(predicted))
    if len(shapes[0]) != 1 or shapes[0] != shapes[1]:
        raise ValueError(f"expected true and predicted classes (N,), got {shapes[0]}, {shapes[1]}")
    both = np.stack([true, predicted]).astype(np.int64, casting="same_kind")  # refuses floats
    low, high = both.min(), both.max()
    count = high + 1 if classes is None else len(classes)
    if low < 0 or high >= count:
        raise ValueError(f"classes run from {low} to {high}, expected 0 to {count - 1}")
    return np.bincount(both[0] * count + both[1], minlength=count**2).reshape(count, count)


def per_class_accuracy(true, predicted, classes: Sequence[str] | None = None) -> np.ndarray:
    """Share of each class's images that were recognised, (C,); NaN for a class without images."""
    matrix = confusion(true, predicted, classes)
    with np.errstate(invalid="ignore"):
        return matrix.diagonal() / matrix.sum(1)


def misclassified(predictions: Predictions, of_class: int | None = None) -> Tensor:
    """Indices (M,) of the errors, the most confident first; `of_class`: only of this true class."""
    wrong, classes = ~predictions.correct, predictions.logits.shape[1]
    if of_class is not None:
        if isinstance(of_class, (str, bool)) or of_class not in range(classes):
            raise ValueError(f"of_class {of_class!r}: expected a number, 0 to {classes - 1}")
        wrong &= predictions.labels == of_class
    errors = wrong.nonzero().flatten()
    return errors[predictions.confidence[errors].argsort(descending=True, stable=True)]


def wilson_interval(correct: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Bounds of an accuracy measured on n images (Wilson 1927); z = 1.96 for 95 %."""
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"expected 0 <= correct <= n and n > 0, got correct={correct}, n={n}")
    centre = (correct + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * (correct * (n - correct) / n + z**2 / 4) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Reliability:
    """By bin of confidence (K,): counts, mean confidence and accuracy, NaN where a bin is empty;
    ece: the expected calibration error, 0..1."""

    counts: Tensor
    confidence: Tensor
    accuracy: Tensor
    ece: float


def reliability(predictions: Predictions, bins: int = 15) -> Reliability:
    """Does 80 % sure mean 80 % right? Bins (low, high] of equal width (Guo et al. 2017)."""
    if bins < 1:
        raise ValueError(f"bins={bins}: expected 1 or more")
    if broken := int(predictions.confidence.isnan().sum()):
        raise ValueError(f"{broken} predictions are not a number: they are neither sure nor unsure")
    inner_edges = torch.linspace(0, 1, bins + 1)[1:-1]
    index = torch.bucketize(predictions.confidence, inner_edges)
    counts, sure, right = (
        torch.bincount(index, weights, bins)
        for weights in (None, predictions.confidence.double(), predictions.correct.double())
    )
    ece = (sure - right).abs().sum().item() / len(predictions)
    return Reliability(counts, sure / counts, right / counts, ece)


CORRUPTIONS = {  # severities 1 to 5, those of CIFAR-10-C (Hendrycks and Dietterich 2019)
    "noise": (0.04, 0.06, 0.08, 0.09, 0.10),  # standard deviation, of 0..1
    "blur": (0.4, 0.6, 0.7, 0.8, 1.0),  # standard deviation in pixels
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),  # what is left of the distance to the mean
}


def corrupt(images: np.ndarray, kind: str, severity: int, seed: int = 0) -> np.ndarray:
    """Corrupted copies of images (N, H, W, 3) uint8; severity 0 (unchanged) to 5."""
    pictures = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3
    if kind not in CORRUPTIONS or severity not in range(6) or not pictures:
        raise ValueError(
            f"expected uint8 images (N, H, W, 3), a kind of {tuple(CORRUPTIONS)} and a severity 0"
            f" to 5, got {images.dtype} {images.shape}, {kind!r}, {severity!r}"
        )
    if severity == 0:
        return images.copy()
    amount = CORRUPTIONS[kind][int(severity) - 1]
    if kind == "blur":
        return np.stack([cv2.GaussianBlur(image, (0, 0), amount) for image in images])
    x = images.astype(np.float32)
    if kind == "noise":
        x += 255 * amount * np.random.default_rng(seed).standard_normal(x.shape, np.float32)
    else:
        mean = x.mean((1, 2), keepdims=True)
        x = mean + amount * (x - mean)
    return x.round().clip(0, 255).astype(np.uint8)


def prepare_photo(photo: str | Path, size: int = 32) -> np.ndarray:
    """The picture in a file as (size, size, 3) uint8, prepared like a folder's: upright, on white,
    its centred square resized. Raises `folder.FolderError` where it cannot be read."""
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"size {size!r}: expected a whole number of pixels, 1 or more")
    return read_picture(Path(photo), size, Counter())


def nearest(queries: Tensor, bank: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Cosine similarity and index, (Q, k) each, of the k rows of `bank` (N, D) closest to each
    of `queries` (Q, D)."""
    fits = queries.ndim == bank.ndim == 2 and queries.shape[1] == bank.shape[1]
    if not fits or k not in range(1, len(bank) + 1):
        shapes = f"{tuple(queries.shape)} and {tuple(bank.shape)}, k = {k}"
        raise ValueError(f"{shapes}: expected (Q, D) and (N, D), and k from 1 to N")
    q, b = F.normalize(queries.float(), dim=1), F.normalize(bank.float(), dim=1)
    found = [(part @ b.T).topk(k, dim=1) for part in q.split(1000)]  # the whole would be (Q, N)
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
