"""Ten classes of drawn figures with object masks: a data set that needs no download.

A figure's class is its form alone. Position, size, rotation, colour, shading and background are
drawn from the same distribution for every class, so no pixel by itself tells the class: a linear
classifier stays near chance while a small convolutional net does not.
"""

from collections.abc import Sequence

import numpy as np

CLASSES = tuple("arrow bars circle crescent cross heart ring square star triangle".split())
TRAIN, TEST = 20_000, 5_000  # images in each part of the data set
SIZE = 32
_PARAMETERS = 32  # random numbers an image may use besides its noise
_CHUNK = 200  # images drawn at a time: its arrays fit a processor's cache
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _scramble(x: np.ndarray) -> np.ndarray:
    """splitmix64's output function (Steele, Lea & Flood 2014): equal on every machine and numpy."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _uniform(seed: int, indices: np.ndarray, count: int) -> np.ndarray:
    """(N, count) float32 in 0..1. Row i depends on `seed` and `indices[i]` only."""
    key = _scramble(np.array([seed], dtype=np.uint64) + _GOLDEN)
    key = _scramble(key + (indices.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    counter = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    return (_scramble(key[:, None] + counter) >> np.uint64(40)).astype(np.float32) / 2**24


def _distance(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance to the figure's outline (negative inside), in units of its radius.

    `u`, `v`: coordinates in the figure's own frame; every figure lies within radius 1.05.
    """
    a, b = np.abs(u), np.abs(v)
    if name == "circle":
        return np.hypot(u, v) - 0.9
    if name == "ring":
        return np.abs(np.hypot(u, v) - 0.75) - 0.22
    if name == "crescent":
        u = u - 0.29  # puts its centre of mass in the middle
        return np.maximum(np.hypot(u, v) - 0.84, 0.68 - np.hypot(u - 0.42, v))
    if name == "square":
        return np.maximum(a, b) - 0.72
    if name == "triangle":
        slopes = np.float32(0.75**0.5) * a - 0.5 * v
        return np.maximum(v, slopes) - np.float32(0.52)  # v points down: flat side below
    if name == "cross":
        return np.maximum(np.minimum(a, b) - 0.26, np.maximum(a, b) - 0.95)
    if name == "bars":
        nearest = np.abs(v - 0.58 * np.clip(np.round(v / 0.58), -1, 1))
        return np.maximum(a - 0.74, nearest - 0.15)
    if name == "heart":  # a square with a disc on each of two neighbouring sides
        u, v = (u - v) * np.float32(0.5**0.5), (-u - v) * np.float32(0.5**0.5)
        u, v, r = u + 0.16, v + 0.16, 0.5
        discs = np.minimum(np.hypot(u - r, v), np.hypot(u, v - r)) - r
        return np.minimum(discs, np.maximum(np.abs(u), np.abs(v)) - r)
    if name == "arrow":
        shaft = np.maximum(np.abs(u + 0.4) - 0.6, b - 0.2)
        head = np.maximum(-u, 0.6 * u + 0.8 * b - 0.6)
        return np.minimum(shaft, head)
    # A star: fold the plane onto one of ten equal half-points.
    sector = np.float32(np.pi / 5)
    angle = np.abs(np.mod(np.arctan2(u, -v), 2 * sector) - sector)
    radius = np.hypot(u, v)
    x, y = radius * np.cos(angle - sector), radius * np.abs(np.sin(angle - sector))
    inner = 0.45 * np.exp(1j * np.pi / 5)
    length = np.hypot(1 - inner.real, inner.imag)
    return ((x - 1) * inner.imag + y * (1 - inner.real)) / length


def _draw_chunk(indices: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    n = len(indices)
    random = _uniform(seed, indices, _PARAMETERS + SIZE * SIZE)
    noise = random[:, _PARAMETERS:].reshape(n, SIZE, SIZE) - 0.5
    p = random[:, :_PARAMETERS, None, None]  # p[:, k]: (n, 1, 1), one number an image
    turn = np.float32(2 * np.pi)
    x = np.arange(SIZE, dtype=np.float32)[None, None, :] - (SIZE - 1) / 2
    y = np.arange(SIZE, dtype=np.float32)[None, :, None] - (SIZE - 1) / 2

    radius = 8.5 + 4.5 * p[:, 0]
    room = (SIZE - 1) / 2 - 1.05 * radius  # the figure stays inside the image
    dx, dy = x - room * (2 * p[:, 1] - 1), y - room * (2 * p[:, 2] - 1)
    tilt = (p[:, 3] - 0.5) * np.float32(np.pi / 2)  # up to 45 degrees either way
    cos, sin = np.cos(tilt) / radius, np.sin(tilt) / radius
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    distance = np.empty((n, SIZE, SIZE), dtype=np.float32)
    labels = indices % len(CLASSES)
    for label, name in enumerate(CLASSES):
        rows = labels == label
        distance[rows] = _distance(name, u[rows], v[rows])
    distance *= radius  # in pixels
    cover = np.clip(0.5 - distance, 0, 1)  # anti-aliased: 1 inside, 0 outside

    # Shading of the background: a gradient, a wave, noise and two thin lines that lead nowhere.
    def ramp(k: int) -> np.ndarray:
        return (x * np.cos(turn * p[:, k]) + y * np.sin(turn * p[:, k])) / SIZE

    wave = np.sin(ramp(6) * (15 + 45 * p[:, 7]) + turn * p[:, 8])
    back = (p[:, 5] - 0.5) * ramp(4) + 0.12 * p[:, 9] * wave + (0.03 + 0.17 * p[:, 10]) * noise
    for k in (11, 14):
        line = np.clip(1.2 - np.abs(ramp(k) * SIZE - 24 * (p[:, k + 1] - 0.5)), 0, 1)
        back += 0.9 * (p[:, k + 2] - 0.5) * line
    front = (p[:, 18] - 0.5) * ramp(17) + 0.15 * p[:, 19] * noise
    shade = (back + cover * (front - back))[..., None]

    # Two colours whose channels all differ by at least 0.3, either way: neither is special.
    ground = random[:, None, None, 20:23]
    figure = np.mod(ground + 0.3 + 0.4 * random[:, None, None, 23:26], 1)
    tint = 0.5 + random[:, None, None, 26:29]
    colour = ground + cover[..., None] * (figure - ground) + shade * tint
    return (np.clip(colour, 0, 1) * 255 + 0.5).astype(np.uint8), distance < 0


def draw(
    indices: Sequence[int] | np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The images numbered `indices` (>= 0) of the endless series that `seed` determines.

    Image i is the same whichever others are drawn with it. Returns images (N,32,32,3) uint8,
    labels (N,) int64 (image i shows class i mod 10 of `CLASSES`) and masks (N,32,32) bool, true
    where the figure is.
    """
    indices = np.asarray(indices, dtype=np.int64)
    if seed < 0 or (len(indices) and indices.min() < 0):
        raise ValueError(f"seed ({seed}) and indices must not be negative")
    images = np.empty((len(indices), SIZE, SIZE, 3), dtype=np.uint8)
    masks = np.empty((len(indices), SIZE, SIZE), dtype=bool)
    for start in range(0, len(indices), _CHUNK):
        part = slice(start, start + _CHUNK)
        images[part], masks[part] = _draw_chunk(indices[part], seed)
    return images, indices % len(CLASSES), masks


def source(seed: int) -> tuple:
    """The data set that `seed` determines, as `data.load` takes it: images are drawn when read."""

    def part(first: int, count: int) -> tuple:
        numbers = np.arange(first, first + count, dtype=np.int64)

        def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            images, _, masks = draw(numbers[indices], seed)
            return images, masks

        return numbers % len(CLASSES), read

    return CLASSES, part(0, TRAIN), part(TRAIN, TEST)
