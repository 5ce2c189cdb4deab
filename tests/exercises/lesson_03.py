"""Plausible wrong answers of lesson 03; each is rejected, each with its own message."""

WRONG = {
    "check_sweep_lr": [
        "answer = 1e-4 + 0.6 * (10 - 1e-4)",
        "answer = 1e-4 * 1e5 ** (60 / 101)",
        "answer = 1e5**0.6",
        "answer = 0.06",
    ],
    "check_smallest_every": [
        # one forward pass a training image
        "import math\nsmallest_every = lambda images, batch: math.ceil(images / batch)",
        # rounded down
        "smallest_every = lambda images, batch: max(1, images // (3 * batch))",
        # rounded up once too often
        "smallest_every = lambda images, batch: images // (3 * batch) + 1",
        # forward and backward taken for two passes
        "import math\nsmallest_every = lambda images, batch: math.ceil(images / (2 * batch))",
        "smallest_every = lambda images, batch: round(images / (3 * batch) + 0.5)",
        "smallest_every = lambda images, batch: int(images / (3 * batch) + 0.99)",
        "smallest_every = lambda images, batch: int(images / (3 * batch) + 0.999)",
        # not a whole number
        "smallest_every = lambda images, batch: images / (3 * batch)",
    ],
    "check_my_steep": [
        "my_steep = lambda lr, loss: lr[np.argmin(loss)]",
        "my_steep = lambda lr, loss: lr[np.argmin(np.gradient(loss, lr))]",
        "my_steep = lambda lr, loss: lr[np.argmax(np.gradient(loss, np.log(lr)))]",
        "my_steep = lambda lr, loss: np.argmin(np.gradient(loss, np.log(lr)))",
        "my_steep = lambda lr, loss: lr[np.argmin(np.gradient(loss))]",
        "my_steep = lambda lr, loss: np.gradient(loss, np.log(lr))",
        "my_steep = lambda lr, loss: lr[40]",
        "my_steep = lambda lr, loss: lr[np.argmin(np.gradient(loss, np.log(lr, out=lr)))]",
        "my_steep = lambda lr, loss: lr[:-1][np.argmin(np.diff(loss) / np.diff(np.log(lr)))]",
        "my_steep = lambda lr, loss: lr[1:][np.argmin(np.diff(loss) / np.diff(np.log(lr)))]",
    ],
    "check_centred": [
        # looks back only
        """
def my_centred(values, reach):
    return np.array([values[max(0, i - reach) : i + 1].mean() for i in range(len(values))])
""",
        # zeros beyond the ends
        """
def my_centred(values, reach):
    return np.convolve(values, np.full(2 * reach + 1, 1 / (2 * reach + 1)), mode="same")
""",
        # lopsided at the ends
        """
def my_centred(values, reach):
    return np.array([values[max(0, i - reach) : i + reach + 1].mean() for i in range(len(values))])
""",
        # whole windows only
        """
def my_centred(values, reach):
    return np.convolve(values, np.full(2 * reach + 1, 1 / (2 * reach + 1)), mode="valid")
""",
        # the right mean, written over the values that the next one needs
        """
def my_centred(values, reach):
    smooth = values.copy()
    for i in range(len(values)):
        r = min(reach, i, len(values) - 1 - i)
        smooth[i] = values[i - r : i + r + 1].mean()
    values[:] = smooth
    return values
""",
        # nothing done
        "my_centred = lambda values, reach: values",
        # the right end of a slice left out
        """
def my_centred(values, reach):
    out = values.copy()
    for i in range(len(values)):
        r = min(reach, i, len(values) - 1 - i)
        out[i] = values[i - r : i + max(r, 1)].mean()
    return out
""",
        # the ends as they are
        """
def my_centred(values, reach):
    out = values.copy()
    for i in range(reach, len(values) - reach):
        out[i] = values[i - reach : i + reach + 1].mean()
    return out
""",
    ],
    "check_divided_rules": [
        "answer = set()",
        'answer = {"slide", "minimum"}',
        'answer = {"slide", "steep"}',
        'answer = {"slide", "valley"}',
        'answer = {"steep", "valley", "minimum", "slide", "accuracy"}',
        'answer = {"fastest"}',
    ],
}
