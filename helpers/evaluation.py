"""What a trained model gets right, how sure it is, and where it breaks."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from helpers.augment import normalise
from helpers.data import ImageSet
from helpers.folder import read_picture


@dataclass(frozen=True)
class Predictions:
    """A model's logits (N, C), float32, and the labels (N,), int64, both on the CPU."""

    logits: Tensor
    labels: Tensor

    def __post_init__(self):
        shapes = tuple(self.logits.shape), tuple(self.labels.shape)
        if self.logits.ndim != 2 or shapes[1] != shapes[0][:1] or not len(self):
            raise ValueError(f"expected one row of logits an image, (N, C) and (N,), got {shapes}")
        if self.labels.min() < 0 or self.labels.max() >= shapes[0][1]:
            raise ValueError(
                f"the model knows classes 0 to {shapes[0][1] - 1}, the labels run from"
                f" {self.labels.min()} to {self.labels.max()}: give it as many classes as the data"
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
        """Whether the predicted class is the label, (N,) bool."""
        return self.predicted == self.labels

    @property
    def accuracy(self) -> float:
        """Share of correct predictions, 0..1."""
        return self.correct.double().mean().item()

    @property
    def loss(self) -> float:
        """Cross-entropy in nats, each image weighing the same however the batches were cut."""
        return F.cross_entropy(self.logits.double(), self.labels).item()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode; on leaving, each module gets its own mode and torch its random
    state back."""
    modes = [(module, module.training) for module in model.modules()]
    device = device_of(model)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
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
    device: torch.device | str | None = None,
    batch_size: int = 500,
    tta: bool = False,
) -> Predictions:
    """Run the model over `data`, in eval mode and without gradients.

    data: an ImageSet, which is normalised with its own mean and std and cut into `batch_size`,
    or batches (x (B, 3, H, W) float, y (B,) int), taken as they are.
    device: where the model is, unless given; tta: average the logits of image and mirror image.
    The model, its mode and torch's random state are left as found, also after an error.
    """
    device = torch.device(device) if device is not None else device_of(model)
    if device.type != device_of(model).type:
        raise ValueError(
            f"the model is on {device_of(model)}, not on {device}: call model.to('{device}') first"
        )
    logits, labels = [], []
    with eval_mode(model), torch.no_grad():
        for x, y in _batches(data, batch_size, device):
            x = x.to(device)
            out = (model(x) + model(x.flip(-1))) / 2 if tta else model(x)
            logits.append(out.float())
            labels.append(torch.as_tensor(y))
    if not logits:
        raise ValueError("no images to predict: the data is empty, or an iterator already used up")
    return Predictions(torch.cat(logits).cpu(), torch.cat(labels).cpu().long())


def _batches(data, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    if isinstance(data, ImageSet):
        for i in range(0, len(data), batch_size):
            images = torch.from_numpy(data.images[i : i + batch_size]).to(device)
            labels = torch.from_numpy(data.labels[i : i + batch_size])
            yield normalise(images, data.mean, data.std), labels
        return
    for batch in data:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(
                f"expected an ImageSet or batches (x, y), got a {type(batch).__name__}: one batch"
                " alone goes into a list, [(x, y)]"
            )
        yield batch


def confusion(true, predicted, classes: int | Sequence[str] | None = None) -> np.ndarray:
    """Counts (C, C), int64: row = true class, column = predicted class.

    true, predicted: (N,) integers; classes: how many, or their names; default: as many as occur.
    """
    true, predicted = np.asarray(true), np.asarray(predicted)
    for a in (true, predicted):
        if a.shape != (len(true),) or not len(a) or a.dtype.kind not in "iu":
            raise ValueError(f"expected class numbers (N,), got {a.shape} {a.dtype}")
    low, high = int(min(true.min(), predicted.min())), int(max(true.max(), predicted.max()))
    count = high + 1 if classes is None else classes if np.isscalar(classes) else len(classes)
    if low < 0 or high >= count:
        raise ValueError(f"classes run from {low} to {high}, expected 0 to {count - 1}")
    cells = true.astype(np.int64) * count + predicted.astype(np.int64)  # uint8 would overflow
    return np.bincount(cells, minlength=count**2).reshape(count, count)


def per_class_accuracy(true, predicted, classes: int | Sequence[str] | None = None) -> np.ndarray:
    """Share of each class's images that were recognised, (C,); NaN for a class without images."""
    matrix = confusion(true, predicted, classes)
    with np.errstate(invalid="ignore"):
        return matrix.diagonal() / matrix.sum(1)


def misclassified(predictions: Predictions, of_class: int | None = None) -> Tensor:
    """Indices (M,) of the errors, the most confident first; `of_class`: only of this true class."""
    wrong = ~predictions.correct
    if of_class is not None:
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

    edges: Tensor  # (K+1,)
    counts: Tensor
    confidence: Tensor
    accuracy: Tensor
    ece: float


def reliability(predictions: Predictions, bins: int = 15) -> Reliability:
    """Does 80 % sure mean 80 % right? Bins (low, high] of equal width (Guo et al. 2017)."""
    edges = torch.linspace(0, 1, bins + 1)
    index = torch.bucketize(predictions.confidence, edges[1:-1])
    counts, sure, right = (
        torch.bincount(index, weights, bins)
        for weights in (None, predictions.confidence.double(), predictions.correct.double())
    )
    ece = (sure - right).abs().sum().item() / len(predictions)
    return Reliability(edges, counts, sure / counts, right / counts, ece)


CORRUPTIONS = {  # severities 1 to 5, those of CIFAR-10-C (Hendrycks and Dietterich 2019)
    "noise": (0.04, 0.06, 0.08, 0.09, 0.10),  # standard deviation, of 0..1
    "blur": (0.4, 0.6, 0.7, 0.8, 1.0),  # standard deviation in pixels
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),  # what is left of the distance to the mean
}


def corrupt(images: np.ndarray, kind: str, severity: int, seed: int = 0) -> np.ndarray:
    """Corrupted copies of images (N, H, W, 3) uint8; severity 0 (unchanged) to 5."""
    if kind not in CORRUPTIONS or severity not in range(6) or images.dtype != np.uint8:
        raise ValueError(
            f"expected uint8 images, a kind of {tuple(CORRUPTIONS)} and a severity 0 to 5,"
            f" got {images.dtype}, {kind!r}, {severity!r}"
        )
    if severity == 0:
        return images.copy()
    amount = CORRUPTIONS[kind][severity - 1]
    if kind == "blur":
        return np.stack([cv2.GaussianBlur(image, (0, 0), amount) for image in images])
    x = images.astype(np.float32)
    if kind == "noise":
        x += 255 * amount * np.random.default_rng(seed).standard_normal(x.shape, np.float32)
    else:
        mean = x.mean((1, 2), keepdims=True)
        x = mean + amount * (x - mean)
    return x.round().clip(0, 255).astype(np.uint8)


def prepare_photo(photo: str | Path | np.ndarray, size: int = 32) -> np.ndarray:
    """Your own picture as (size, size, 3) uint8, prepared like a folder's: upright, on white, its
    centred square resized. photo: a file, or an array (H, W, 3) uint8 of any size."""
    file = photo
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
            raise ValueError(f"expected (H, W, 3) uint8, got {photo.shape} {photo.dtype}")
        Image.fromarray(photo).save(file := BytesIO(), "png")
    return read_picture(file, size, Counter())


def nearest(queries: Tensor, bank: Tensor | None = None, k: int = 1) -> tuple[Tensor, Tensor]:
    """Cosine similarity and index, (Q, k) each, of the k rows of `bank` (N, D) closest to each
    of `queries` (Q, D). Without a bank: the closest others among the queries themselves."""
    q = F.normalize(queries.float(), dim=1)
    b = q if bank is None else F.normalize(bank.float(), dim=1)
    found = []
    for i in range(0, len(q), 1000):  # the whole table would be (Q, N)
        similarity = q[i : i + 1000] @ b.T
        if bank is None:
            similarity.diagonal(i).fill_(-2.0)  # below any cosine: no image is its own neighbour
        found.append(similarity.topk(k, dim=1))
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
