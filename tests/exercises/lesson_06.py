"""Plausible wrong answers of lesson 06; each is rejected, each with its own message."""

WRONG = {
    "check_images_needed": [
        "answer = 38416",
        "answer = 50344",
        "answer = 3276",
        "answer = 10000",
        "answer = 1.26",
        "answer = 6421",
        "answer = 25170",
    ],
    "check_confusion": [
        # rows and columns swapped
        """
def my_confusion(true, predicted, classes):
    matrix = np.zeros((classes, classes), dtype=int)
    np.add.at(matrix, (predicted, true), 1)
    return matrix
""",
        # repeated pairs are counted once
        """
def my_confusion(true, predicted, classes):
    matrix = np.zeros((classes, classes), dtype=int)
    matrix[true, predicted] += 1
    return matrix
""",
        # as many rows as classes that occur
        """
def my_confusion(true, predicted, classes):
    classes = max(true.max(), predicted.max()) + 1
    return np.bincount(true * classes + predicted, minlength=classes**2).reshape(classes, classes)
""",
    ],
    "check_class_accuracy": [
        "def class_accuracy(matrix): return matrix.diagonal() / matrix.sum(0)",
        "def class_accuracy(matrix): return matrix.diagonal() / matrix.sum()",
        "def class_accuracy(matrix): return (matrix.diagonal() / matrix.sum(1)).round(2)",
        "def class_accuracy(matrix): return matrix.diagonal()",
        "def class_accuracy(matrix): return matrix.trace() / matrix.sum()",
        "def class_accuracy(matrix): return 100 * matrix.diagonal() / matrix.sum(1)",
        "def class_accuracy(matrix): return 1 - matrix.diagonal() / matrix.sum(1)",
    ],
    "check_grad_cam": [
        # the mean of the channels, for the sum
        """
def my_grad_cam(activations, gradients):
    return torch.relu((gradients.mean((2, 3), keepdim=True) * activations).mean(1))
""",
        # abs, for the ReLU
        """
def my_grad_cam(activations, gradients):
    return (gradients.mean((2, 3), keepdim=True) * activations).sum(1).abs()
""",
        # each map to its own maximum
        """
def my_grad_cam(activations, gradients):
    maps = torch.relu((gradients.mean((2, 3), keepdim=True) * activations).sum(1))
    return maps / maps.amax((1, 2), keepdim=True)
""",
        # no ReLU
        """
def my_grad_cam(activations, gradients):
    return (gradients.mean((2, 3), keepdim=True) * activations).sum(1)
""",
        # ReLU on each channel
        """
def my_grad_cam(activations, gradients):
    return F.relu(gradients.mean((2, 3), keepdim=True) * activations).sum(1)
""",
        # gradients unit by unit
        """
def my_grad_cam(activations, gradients):
    return F.relu((gradients * activations).sum(1))
""",
        # sum for mean
        """
def my_grad_cam(activations, gradients):
    return F.relu((gradients.sum((2, 3), keepdim=True) * activations).sum(1))
""",
        # mean over the batch too
        """
def my_grad_cam(activations, gradients):
    return F.relu((gradients.mean((0, 2, 3), keepdim=True) * activations).sum(1))
""",
        # channels kept
        """
def my_grad_cam(activations, gradients):
    return F.relu(gradients.mean((2, 3), keepdim=True) * activations)
""",
    ],
    "check_ece": [
        # bins weigh the same
        """
def my_ece(confidence, correct, bins):
    index = np.ceil(confidence * bins).astype(int) - 1
    gaps = [abs(confidence[index == b].mean() - correct[index == b].mean()) for b in set(index)]
    return np.mean(gaps)
""",
        # the middle of a bin, for its mean confidence
        """
def my_ece(confidence, correct, bins):
    index, total = np.ceil(confidence * bins).astype(int) - 1, 0.0
    for b in set(index):
        inside = index == b
        total += inside.mean() * abs((b + 0.5) / bins - correct[inside].mean())
    return total
""",
        # the upper edges belong to the next bin
        """
def my_ece(confidence, correct, bins):
    index, total = (confidence * bins).astype(int), 0.0
    for b in range(bins):
        if (inside := index == b).any():
            gap = abs(confidence[inside].mean() - correct[inside].mean())
            total += gap * inside.mean()
    return total
""",
        # four bins, whatever is asked for
        """
def my_ece(confidence, correct, bins):
    index, total = np.ceil(confidence * 4).astype(int) - 1, 0.0
    for b in set(index):
        inside = index == b
        total += abs(confidence[inside].mean() - correct[inside].mean()) * inside.mean()
    return total
""",
        # gaps cancel
        """
def my_ece(confidence, correct, bins):
    return abs(confidence.mean() - correct.mean())
""",
        # image by image
        """
def my_ece(confidence, correct, bins):
    return np.abs(confidence - correct).mean()
""",
        # an edge belongs to the bin above it
        """
def my_ece(confidence, correct, bins):
    index, total = np.minimum(confidence * bins, bins - 1).astype(int), 0.0
    for b in set(index):
        inside = index == b
        total += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    return total
""",
        # empty bins
        """
def my_ece(confidence, correct, bins):
    index = np.ceil(confidence * bins).astype(int) - 1
    sizes = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        sure = np.bincount(index, confidence, minlength=bins) / sizes
        right = np.bincount(index, correct, minlength=bins) / sizes
    return (sizes / len(confidence) * abs(sure - right)).sum()
""",
    ],
}
