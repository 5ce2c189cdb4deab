"""The checks of lesson 06: what is right, what is wrong, and what it likely comes from."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from helpers.exercises.judging import Wrong, array, close, exercise, judge, need_shape, number

IMAGES = 1.96**2 * 0.0819 / 0.005**2
check_images_needed = number(  # for a 95 % interval of +-0.5 points at an accuracy of 91 %
    IMAGES,
    "About 12,600: the 10,000 images of the CIFAR-10 test set give +-0.56 points.",
    "Solve 0.005 = 1.96 * sqrt(0.91 * 0.09 / n) for n.",
    {
        1.96**2 * 0.25 / 0.005**2: "That is for 50 %, the worst case. Here p(1-p) is 0.91 * 0.09.",
        4 * IMAGES: "That is 0.5 points in all. The question asks for 0.5 to each side.",
        0.0819 / 0.005**2: "That is one standard error. 95 % needs 1.96, so 1.96**2 as many.",
        1.96**2 * 0.0819 / 0.5**2: "0.5 points are 0.005: the formula takes shares.",
        1.96 * 0.0819 / 0.005: "Square 1.96 and 0.005: both are outside the root.",
        2 * IMAGES: "That is for the difference between two nets. The question is about one.",
    },
    rtol=0.02,
)


@exercise
def check_confusion(function: Callable) -> str:
    """Counts by true class (rows) and predicted class (columns), on fixed labels."""
    true, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 2, 2, 1, 0, 2])
    right = np.array([[1, 0, 2, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    found = np.asarray(function(true, predicted, 4))
    need_shape(found, (4, 4), "four classes were asked for; class 3 just never occurs.")
    if np.array_equal(found, right.T):
        raise Wrong("Rows and columns are swapped: a row is a true class.")
    if np.array_equal(found, np.minimum(right, 1)):
        raise Wrong("Two images of class 0 were called 2. `m[t, p] += 1` on arrays adds only 1.")
    if not np.array_equal(found, right):
        raise Wrong(f"true {true.tolist()}, predicted {predicted.tolist()} gave {found.tolist()}")
    return "Rows are true classes, repeated pairs count, and a class without images keeps its row."


@exercise
def check_class_accuracy(function: Callable) -> str:
    """Per-class accuracy from a confusion matrix whose rows are true classes."""
    matrix = np.array([[8, 2, 0], [1, 3, 0], [0, 5, 1]])
    found = array(function(matrix))
    need_shape(found, (3,), "one number for each of the 3 classes is wanted.")
    if close(found, [8 / 9, 3 / 10, 1]):
        raise Wrong("That divides by columns, by what was *called* a class. Divide by the rows.")
    if close(found, [8 / 20, 3 / 20, 1 / 20]):
        raise Wrong("Divided by all images: the classes add up to the overall accuracy. Per row!")
    right = np.array([0.8, 0.75, 1 / 6])
    if close(found, 100 * right):
        raise Wrong("Right, in per cent: return shares, 0 to 1.")
    if close(found, 1 - right):
        raise Wrong("Those are the shares that were missed: 1 minus them.")
    if not close(found, right) and np.allclose(found, right, atol=6e-3):
        raise Wrong("Rounded, it seems: return the shares as they are.")
    if not close(found, right):
        raise Wrong(f"{found.round(3).tolist()} is not it: divide a row's right ones by its sum.")
    return "The diagonal over the sums of the rows."


@exercise
def check_grad_cam(function: Callable) -> str:
    """Grad-CAM from activations and gradients (B, K, h, w), on fixed random ones."""
    generator = torch.Generator().manual_seed(0)
    a, g = (torch.randn(2, 5, 4, 3, generator=generator) for _ in range(2))
    weighted = g.mean((2, 3), keepdim=True) * a
    right = F.relu(weighted.sum(1))
    found = array(function(a, g))
    need_shape(found, (2, 4, 3), "one map (h, w) an image is wanted.")
    if close(found, weighted.sum(1)):
        raise Wrong("The negative parts are still there: the ReLU is missing.")
    if close(found, F.relu(weighted).sum(1)):
        raise Wrong("The ReLU comes after the sum: channels may speak against the class.")
    if close(found, F.relu((g * a).sum(1))):
        raise Wrong("The gradients are used unit by unit: a channel's weight is their mean.")
    if close(found, 12 * right):
        raise Wrong("12 times too large: the weight is the mean over the map, not the sum.")
    if close(found, F.relu((g.mean((0, 2, 3), keepdim=True) * a).sum(1))):
        raise Wrong("The mean runs over the batch as well: each image has its own weights.")
    if close(found, right / 5):
        raise Wrong("A fifth of it: the channels are added up; only the weights are means.")
    if close(found, weighted.sum(1).abs()):
        raise Wrong("What speaks against the class is no evidence: ReLU makes it 0, abs does not.")
    if close(found, right / right.amax((1, 2), keepdim=True)) or close(found, right / right.max()):
        raise Wrong("Divided by a maximum: return the maps in logits, to compare them.")
    if not close(found, right):
        raise Wrong("The shape is right, the values are not. Mean over h and w, weight, sum, ReLU.")
    return "Mean over the map, weighted sum of the channels, ReLU: Grad-CAM."


@exercise
def check_ece(function: Callable) -> str:
    """The expected calibration error on six predictions in two (of four) bins; one on an edge."""
    sure = np.array([0.55, 0.75, 0.95, 0.95, 0.95, 1.0])
    right = np.array([1, 1, 1, 0, 1, 0], dtype=bool)
    gaps = np.array([1 - 0.65, 0.9625 - 0.5])  # of (0.5, 0.75] and (0.75, 1]
    found = float(function(sure, right, 4))
    if math.isnan(found):
        raise Wrong("An empty bin gave nan: leave bins without images out.")
    gap, distance = abs(sure.mean() - right.mean()), abs(sure - right).mean()
    likely = {
        gaps.mean(): "Both bins weigh the same, but one has 2 images, the other 4.",
        2 / 6 * (1 - 0.625) + 4 / 6 * (0.875 - 0.5): "That takes the middle of each bin: the "
        "confidence of a bin is the mean over its images.",
        gap: "Too sure here and too modest there cancel: take |...| bin by bin.",
        distance: "That is the distance image by image: average within a bin first.",
        2 / 6 * (1 - 0.75) + 4 / 6 * (1 - 0.5): "That takes the upper edge of each bin: the mean "
        "over its images is wanted.",
        1 / 6 * 0.45 + 4 / 6 * 0.15: "1.0 fell out of the last bin, and 0.75, on an edge, into the "
        "bin above: an upper edge belongs to its bin.",
        1 / 6 * 0.45 + 5 / 6 * 0.32: "0.75 lies on an edge, and belongs to the bin below it.",
        2 / 6 * 0.35
        + 5 / 6 * 0.32: "0.75 lies on an edge and counts twice: it belongs below only.",
    }
    hint = "2/6 of |0.65 - 1| and 4/6 of |0.9625 - 0.5|."
    judge(found, gaps @ [2 / 6, 4 / 6], hint, likely, rtol=2e-4)
    hint = "Two bins: all six lie in the second. Does your function use `bins`?"
    judge(float(function(sure, right, 2)), gap, hint)
    return "Each bin's gap between confidence and accuracy, weighted by its images: 0.4250."
