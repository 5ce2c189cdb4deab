"""The checks of lesson 02: what is right, what is wrong, and what it likely comes from."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from helpers.exercises.judging import (
    Wrong,
    close,
    exercise,
    judge,
    need_shape,
    number,
    two,
    watched,
)

check_conv_parameters = number(  # of a 5x5 convolution, 32 -> 48 channels, with bias
    5 * 5 * 32 * 48 + 48,
    "38,400 weights and 48 biases.",
    "Kernel height x width x inputs x outputs, then the bias.",
    {
        5 * 5 * 32 * 48: "That is without the biases: there is one for each output channel.",
        5 * 5 * 48 + 48: "Each output channel has a kernel for every input channel, not just one.",
        5 * 5 * 32 * 48 + 32: "There is one bias for each *output* channel, 48 in all.",
        5 * 5 * 33 * 48: "There is one bias for an output channel, not for each of its weights.",
        5 * 5 * 32 * 48 + 32 * 48: "An output channel has one bias, not one for each input.",
        5 * 32 * 48: "A 5x5 kernel has 25 weights, not 5.",
        5 * 32 * 48 + 48: "A 5x5 kernel has 25 weights, not 5.",
    },
)


@exercise
def check_receptive_field(function: Callable) -> str:
    """(size, jump) after layers (kernel, stride, padding, dilation)."""
    conv, halve, strided, dilated = (3, 1, 1, 1), (2, 2, 0, 1), (3, 2, 1, 1), (3, 1, 2, 2)
    covers = "a dilated kernel covers dilation * (k - 1) + 1"
    for name, layers, right, rule in [
        ("one 3x3 convolution", [conv], (3, 1), "1 + (k - 1) * jump; stride 1 keeps the jump"),
        ("two 3x3 convolutions", [conv, conv], (5, 1), "each adds 2; padding adds nothing"),
        ("stride 2, then 3x3", [halve, conv], (6, 2), "a stride counts in the layers after it"),
        ("two strides of 2", [strided, strided], (7, 4), "jumps multiply, they do not add"),
        ("dilation 2", [dilated], (5, 1), covers),
        ("5x5 with dilation 2", [(5, 1, 4, 2)], (9, 1), covers),
        ("stride 2, then dilation 2", [halve, dilated], (10, 2), "multiply all of it by the jump"),
        ("stride 3 and dilation 3, then 3x3", [(3, 3, 3, 3), conv], (13, 3), "both multiply by 3"),
    ]:
        found = two(function(layers), "size, jump")
        if found != right:
            raise Wrong(f"{name}: expected (size, jump) = {right}, got {found}. Rule: {rule}.")
    return "Strides, padding and dilation all count as they should."


@exercise
def check_residual_stage(stage: type) -> str:
    """Two 3x3 convolutions beside a 1x1, each with batch norm; no ReLU after the sum."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 8, 8)
    for stride, size in ((1, 8), (2, 4)):
        module, given = stage(4, 6, stride), x.clone()
        why = f"at stride {stride}. Padding of the 3x3 convolutions, or the stride of one path?"
        try:
            out = watched(module)(given)
        except RuntimeError as error:
            if "size of tensor" not in str(error):
                raise
            raise Wrong(f"The two paths differ in size {why}") from error
        need_shape(out, (2, 6, size, size), why)
        if not torch.equal(given, x):
            raise Wrong("The input has changed, but the other path needs it: avoid in-place steps.")
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    kernels = sorted(conv.kernel_size[0] for conv in convs)
    if not kernels:
        raise Wrong(
            "No nn.Conv2d is registered: make them in __init__, as attributes or in nn.Sequential."
        )
    if kernels != [1, 3, 3]:
        raise Wrong(f"Expected two 3x3 convolutions and one 1x1, found kernels {kernels}.")
    if any(conv.bias is not None for conv in convs):
        raise Wrong("A convolution has a bias: the batch norm after it subtracts it again.")
    if any((c.groups, c.dilation, c.padding_mode) != (1, (1, 1), "zeros") for c in convs):
        raise Wrong("A convolution has groups, a dilation or another padding: here all are plain.")
    called, behind = [], {}  # convolutions in order, and the batch norm that takes their output

    def note(layer, inputs, output):
        if isinstance(layer, nn.Conv2d):
            called.append((layer, output))
        for conv, made in called:
            if inputs[0] is made:
                behind[conv] = layer

    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    out = module.eval()(x.clone())  # with fixed statistics the norms do the same again
    for hook in hooks:
        hook.remove()
    if len(called) != 3:
        raise Wrong(f"Of the three convolutions, {len(called)} are called: both paths are needed.")
    thick = [conv for conv, _ in called if conv.kernel_size == (3, 3)]
    if [conv.stride[0] for conv in thick] != [2, 1]:
        raise Wrong("The stride belongs to the first 3x3 convolution: the second keeps the size.")
    if thick[0].out_channels != 6:
        raise Wrong("The first 3x3 convolution leads to `outputs` channels, the second keeps them.")
    if len(set(behind.values())) != 3:
        raise Wrong("Each convolution needs a batch norm of its own, right after it.")
    (first, second), (short,) = (
        [lambda x, conv=conv: behind[conv](conv(x)) for conv, _ in called if conv.kernel_size == k]
        for k in ((3, 3), (1, 1))
    )
    main, shortcut = second(F.relu(first(x))), short(x)
    likely = {
        "There is a ReLU after the sum: this stage should have none.": F.relu(main + shortcut),
        "There is a ReLU at the end of the main path: sum first.": F.relu(main) + shortcut,
        "There is a ReLU on the shortcut: it only adjusts the shape.": main + F.relu(shortcut),
        "There is no ReLU on the main path, so both convolutions act as a single one.": (
            second(first(x)) + shortcut
        ),
        "The shortcut is computed, but not added.": main,
    }
    for reason, wrong in likely.items():
        if close(out, wrong):
            raise Wrong(reason)
    if not close(out, main + shortcut):
        raise Wrong("The layers are right. Return main + shortcut, with one ReLU inside main.")
    weights = list(module.parameters())
    if not out.requires_grad or None in torch.autograd.grad(out.sum(), weights, allow_unused=True):
        raise Wrong("No gradient reaches some of the weights: use no detach() or no_grad().")
    return "Shapes, layers and the sum are right."


@exercise
def check_mended_counter(counter: Callable) -> str:
    """The source's counter of layers (branch, kernel, stride), with the shortcuts left out."""
    conv, pool = ("main", 3, 1), ("main", 2, 2)
    residual = [conv, pool, conv, conv, ("shortcut", 1, 2)]
    net = [conv, *residual, conv, pool, *residual]
    if np.ndim(counter([conv])) != 0:
        raise Wrong("Return one number, the size.")
    if counter([conv, pool, conv]) != 8:
        raise Wrong("A net without shortcuts has changed too: 3x3, pool 2, 3x3 must give 8.")
    likely = {114: "Still 114: a shortcut's stride still changes the jump of the main path."}
    judge(counter(net), 64, "DavidNet has 64: leave out exactly the shortcut's layers.", likely)
    if counter([conv, ("main", 1, 2), conv]) != 7:
        raise Wrong("A 1x1 on the main path counts as well: look at the branch, not the kernel.")
    if counter([conv, ("main", 3, 3), ("shortcut", 3, 3), conv]) != 11:
        raise Wrong("3x3, 3x3 with stride 3 beside a shortcut like it, 3x3 must give 11.")
    if counter(net) != 64:
        raise Wrong("A second call gives another number: something is kept between the calls.")
    return "64, and the same at every call."
