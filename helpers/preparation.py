"""What `fit` settles before the first step: batches, memory order, weights, who takes part."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DistributedSampler

from helpers.augment import BatchAugment, Batches
from helpers.data import ImageSet
from helpers.evaluation import predict
from helpers.randomness import check_repeatable
from helpers.recipes import Recipe


def as_batches(train, recipe: Recipe, device: torch.device, seed: int):
    """`train` as something with a length that yields batches, again and again."""
    if isinstance(train, ImageSet):
        augment = BatchAugment(train.mean, train.std, recipe.pad, recipe.cutout, recipe.flip)
        share, size = rank_and_processes(), recipe.batch_size
        return Batches(train, size, augment, device, True, recipe.drop_last, seed, share)
    check_repeatable("train", train)
    try:
        len(train)
    except TypeError:
        raise TypeError(
            f"train is a {type(train).__name__} without a length, which the learning rate needs: "
            "expected an ImageSet, a DataLoader or a list of batches"
        ) from None
    samplers = [getattr(o, "sampler", None) for o in (train, getattr(train, "batch_sampler", None))]
    if dist.is_initialized() and any(isinstance(s, DistributedSampler) for s in samplers):
        raise ValueError(
            "train has a DistributedSampler, and fit shares each batch between the processes "
            "itself: make the loader without one"
        )
    return train


def try_out(model: nn.Module, device: torch.device, parts: dict) -> torch.memory_format:
    """Move the model to `device`, in the memory order that is fast there, or else the usual one;
    returns that order. Two images of each of `parts`, {name: data or None}, show that it works.

    ValueError or TypeError, before anything long, for a model and data that do not fit together.
    """
    layout = memory_format(model, device)
    model.to(device, memory_format=layout)
    for two in [two_images(name, data) for name, data in parts.items() if data is not None]:
        if isinstance(two, ImageSet):
            two = list(Batches(two, 2, device=device, shuffle=False))
        try:
            predict(model, [(x.to(memory_format=layout), y) for x, y in two])  # as a step has them
        except torch.cuda.OutOfMemoryError:
            pass  # the first step says which batch would fit
        except RuntimeError as error:
            if "view size" not in str(error):
                raise
            layout = torch.contiguous_format  # a net that calls view() on maps needs it
            predict(model.to(memory_format=layout), two)
    return layout


def two_images(name: str, data) -> ImageSet | list[tuple[Tensor, Tensor]]:
    """The images with the lowest and the highest label; of batches, from the first one."""
    if isinstance(data, ImageSet):
        order = data.labels.argsort()
        return data.subset(order[:: max(len(order) - 1, 1)])
    batch = next(iter(data), None)
    if batch is None:
        raise ValueError(f"{name} is empty: it gave no batch")
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        size = f" of {len(batch)}" if hasattr(batch, "__len__") else ""
        raise TypeError(f"{name} gave a {type(batch).__name__}{size}, expected batches (x, y)")
    x, y = batch[0], torch.as_tensor(batch[1])
    if not isinstance(x, Tensor) or x.ndim != 4 or not x.is_floating_point():
        found = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"{name} gave images as {found}, expected normalised ones, float (B, channels, H, W)"
        )
    ends = torch.stack([y.argmin(), y.argmax()])
    return [(x[ends], y[ends])]


def memory_format(model: nn.Module, device: torch.device) -> torch.memory_format:
    """Channels last: the order in which convolutions are fast on CUDA and on CPUs.

    Not on Apple's GPU, where gradients of batch norms were wrong in it (pytorch/pytorch issue
    175189), nor where it crashes: on a CPU, in the weight gradient of a strided 1x1 convolution
    with few input channels. Seen in PyTorch 2.14 and 2.15: below 8 channels on CPUs without
    AVX-512, below 16 with several threads and an odd batch on others.
    """
    narrow = any(
        isinstance(layer, nn.Conv2d)
        and (layer.kernel_size, layer.stride) == ((1, 1), (2, 2))
        and layer.in_channels < 16
        for layer in model.modules()
    )
    if device.type == "mps" or (device.type == "cpu" and narrow):
        return torch.contiguous_format
    return torch.channels_last


def is_fresh(model: nn.Module) -> bool:
    """Whether the model has batch norms and none has seen an image: without any, who could tell?"""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats]
    return bool(norms) and not any(norm.running_mean.any() for norm in norms)


@torch.no_grad()
def dirac_(model: nn.Module) -> None:
    """Make each 3x3 convolution without groups pass on its inputs as its first outputs.

    Frozen ones stay as they are, because somebody has chosen their weights.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and (layer.kernel_size, layer.groups) == ((3, 3), 1):
            if layer.weight.requires_grad:
                weight = layer.weight[: layer.in_channels].zero_()
                weight[:, :, 1, 1].fill_diagonal_(1)  # at once: nn.init.dirac_ sets one by one


def rank_and_processes() -> tuple[int, int]:
    """This process's number and how many train together: (0, 1) outside of torchrun."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def sum_over_processes(values: list[float], device: torch.device) -> list[float]:
    if not dist.is_initialized():
        return values
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return sums.tolist()
