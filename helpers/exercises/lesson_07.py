"""The checks of lesson 07: what is right, what is wrong, and what it likely comes from."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from helpers.exercises.judging import Untouched, Wrong, array, close, exercise, judge, number

CONV_ADDS = 16 * 16 * 256 * 128 * 9  # multiply-adds of a 3x3 convolution, 128 -> 256, 16x16 map
check_layer_flops = number(  # FLOP to train it on one image
    6 * CONV_ADDS,
    "16 x 16 x 256 x 128 x 9 multiply-adds, x 2 x 3: 0.45 GFLOP.",
    "Outputs (16 x 16 x 256) times kernel weights, x 2 x 3.",
    {
        CONV_ADDS: "Those are the forward pass's multiply-adds: each is two operations, and the "
        "backward pass is still missing.",
        4 * CONV_ADDS: "The backward pass costs two forward passes: a step costs three.",
        2 * CONV_ADDS: "That is the forward pass alone: the backward pass costs twice as much.",
        3 * CONV_ADDS: "Forward and backward are there, but a multiply-add is two operations.",
        6 * CONV_ADDS / 9: "The 3x3 kernel is missing: each output value sums 9 x 128 products.",
    },
    rtol=1e-2,
)


check_amdahl = number(  # 90 % of the time becomes 10 times faster
    1 / 0.19,
    "1 / (0.1 + 0.9 / 10) = 5.26; even an infinite factor would give only 10.",
    "The new time is 0.1 (untouched) + 0.9 / 10.",
    {
        10: "That part is 10 times faster, but the rest takes as long as before.",
        9: "Shares of speed-ups cannot be added or multiplied: add up the times instead.",
        0.19: "That is the new time, as a share of the old. How many times faster is that?",
    },
    rtol=1e-2,
)


@exercise
def check_ring_bytes(function: Callable) -> str:
    """Bytes that each process sends for one ring all-reduce."""
    likely = {
        2_000_000: "Only half of it: a ring goes round twice, to add up and to hand the sums on.",
        1_000_000: "A parameter is not a byte: multiply by the bytes of one.",
        8_000_000: "Twice the answer: a process sends pieces of 1/N, and only its own bytes count.",
    }
    judge(function(1000, 4, 1), 0, "One process sends nothing, 0 bytes.")
    hint = "{} processes, 1,000,000 {}floats: expected {:,} bytes."
    judge(function(10**6, 4, 2), 4e6, hint.format(2, "", 4_000_000), likely)
    judge(function(10**6, 2, 8), 3.5e6, hint.format(8, "half ", 3_500_000))
    return "Each process sends nearly twice the model, however many there are."


@exercise
def check_shard(function: Callable) -> str:
    """Indices of each rank: together each image once, another order each epoch."""
    every = lambda count, epoch: np.concatenate([function(count, r, 3, epoch) for r in range(3)])
    first, second = every(12, 0), every(12, 1)
    for joined in (first, second):
        if len(joined) != 12:
            raise Wrong(f"3 ranks have {len(joined)} of 12 images in all: each takes a third.")
        if sorted(joined) != list(range(12)):
            raise Wrong(
                "Some images come twice and others never: all ranks must shuffle with the "
                "same seed, and then take different places of that one order."
            )
    shares = [array(function(60, 0, 3, epoch)) for epoch in (0, 1)]
    if any((np.diff(share, append=share[:1]) < 0).sum() <= 1 for share in shares):
        raise Wrong("Nothing is shuffled: rank 0 has its images in the order of their numbers.")
    if (first == second).all():
        raise Wrong("Epochs 0 and 1 have the same order: the seed must depend on the epoch.")
    if sorted(every(10, 0)) != list(range(10)):
        raise Wrong("10 images, 3 ranks: not each image once. The ranks may differ by one image.")
    if [len(function(10, r, 3, 0)) for r in range(3)] not in ([4, 3, 3], [3, 4, 3], [3, 3, 4]):
        raise Wrong("10 images, 3 ranks: the shares should differ by at most one image.")
    if sorted(len(function(11, r, 3, 0)) for r in range(3)) != [3, 4, 4]:
        raise Wrong("11 images, 3 ranks: 4, 4 and 3 of them. Do not give the rest to one rank.")
    if len({frozenset(array(function(12, 0, 3, epoch)).tolist()) for epoch in range(4)}) == 1:
        raise Wrong("Rank 0 has the same images in each epoch: shuffle all, then take places.")
    return "Each image once an epoch, in an order that changes from epoch to epoch."


@exercise
def check_timing_faults(answer: dict) -> str:
    """What is wrong with each of three measurements."""
    right = {"A": "warm-up", "B": "sync", "C": "median"}
    if set(answer) != set(right) or not set(answer.values()) <= set(right.values()):
        raise Wrong('Expected {"A": ..., "B": ..., "C": ...} of "warm-up", "sync", "median".')
    hints = {
        "A": "A: look where the long one stands, and what its neighbours are.",
        "B": "B: can ten steps together take less than the end of them alone?",
        "C": "C: the long ones stand anywhere. Which summary forgets them?",
    }
    if told := [hint for name, hint in hints.items() if answer[name] != right[name]]:
        raise Wrong(" ".join(told))
    return "Warm up first, wait for the device before the clock is read, and take the median."


check_global_lr = number(  # 0.4 at batch 512; 8 GPUs of 128 images each
    0.8,
    "8 x 128 = 1,024 images a step, twice 512: 0.8.",
    "LR in proportion to the global batch.",
    {
        3.2: "That is 8 times 0.4: it would be right for 512 images on each GPU.",
        0.1: "That belongs to 128 images. One step averages over the images of all GPUs.",
        0.4: "The batch is not 512 any more: add up the images of all GPUs.",
    },
    rtol=1e-6,
)


check_training_time = number(  # seconds: 30 % of 312 TFLOP/s, 10,000 images a second
    120,
    "The GPU would need 29.5 s, but waits for the images: 1,200,000 / 10,000 = 120 s.",
    "Two times, side by side: FLOP / (share x peak), and images / (images a second).",
    {
        29.487: "That is the GPU's arithmetic alone: does the CPU deliver that fast?",
        30: "That is the GPU's arithmetic alone, rounded: does the CPU deliver that fast?",
        1.2286: "That is the GPU's arithmetic for one epoch of 24.",
        8.846: "That is at the full peak, but you expect 30 % of it.",
        149.487: "They work side by side: the slower one counts, not the sum.",
        5: "That is one epoch of 24.",
    },
    rtol=1e-2,
)


@partial(exercise, returns=False)
def check_accumulate(function: Callable) -> str:
    """The gradient of the mean loss of a batch that the model may only see in parts."""
    g = torch.Generator().manual_seed(0)
    net, x, y = nn.Linear(6, 3), torch.randn(10, 6, generator=g), torch.arange(10) % 3
    loss = lambda part: F.cross_entropy(net(x[part]), y[part])
    gradient = lambda part: torch.autograd.grad(loss(part), (net.weight, net.bias))
    (right, bias), means = gradient(slice(10)), [gradient(slice(i, i + 3))[0] for i in (0, 3, 6, 9)]
    before = net.weight.detach().clone()
    net.weight.grad, net.bias.grad = torch.ones(3, 6), torch.ones(3)  # of an earlier step
    sizes, waiting = [], []

    def watch(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if waiting:
            raise Wrong(
                "The second part comes before the backward pass of the first: memory then holds "
                "both. Call backward() for each part; it adds to the existing gradient."
            )
        sizes.append(len(output) if output.ndim > 1 else 1)  # or a single image
        waiting.append(output)
        output.register_hook(lambda _: waiting.clear())

    net.register_forward_hook(watch)
    function(net, x, y, 3)
    found = net.weight.grad
    if not sizes:
        raise Untouched("The function has not called the model, so nothing was checked.")
    if max(sizes) > 3:
        raise Wrong(f"The model was given {max(sizes)} images at once, where 3 are allowed.")
    if not torch.equal(net.weight, before):
        raise Wrong("The weights have changed: leave the step to the optimiser.")
    if sum(sizes) != 10:
        raise Wrong(f"The model has seen {sum(sizes)} of 10 images: mind the last, smaller part.")
    if found is None or waiting:
        raise Wrong("No gradient is left: call backward() for each part, and clear only at first.")
    if close(found, 1 + right):
        raise Wrong("The gradient of an earlier step is still in it: clear it first.")
    if close(found, 10 * right):
        raise Wrong("That is the gradient of the sum over the batch: divide by its images.")
    if close(found, sum(means)):
        raise Wrong("Four means are added up, so it is about four times as large as it should be.")
    if close(found, sum(means) / 4):
        raise Wrong("A mean of means: the last part has 1 image and counts as much as 3.")
    if close(found, 0.3 * sum(means)):
        raise Wrong("Each part counts as 3 images, but the last has 1: weigh each by its own.")
    if close(found, 0.1 * sum(means)):
        raise Wrong("Divided twice: a part's mean has been divided by the part's images already.")
    if close(found, 10 / 3 * right):
        raise Wrong("Each part's sum is divided by `most`: divide it by all 10 images.")
    if not close(found, right):
        raise Wrong("It differs from the gradient of the whole batch: was it cleared in between?")
    if not close(net.bias.grad, bias):
        raise Wrong("The weight's gradient is right, the bias's is not: treat both alike.")
    return "The gradient of the whole batch, with at most 3 images in memory."
