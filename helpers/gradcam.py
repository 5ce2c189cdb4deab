"""Grad-CAM (Selvaraju et al. 2017): where a layer sees evidence for a class, and three checks of
how far to believe the map."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor, nn

from helpers.evaluation import eval_mode, predict
from helpers.tracing import uncompiled


@dataclass(frozen=True)
class Cam:
    """raw: maps (B, h, w) >= 0 in logits, at the layer's own resolution; logits: (B, C); target:
    the class (B,) each map explains."""

    raw: Tensor
    logits: Tensor
    target: Tensor

    def resized(self, size: tuple[int, int], normalize: bool = True) -> Tensor:
        """The maps (B, H, W), bilinear; normalised: each from 0 to 1, a flat one all 0."""
        # Before resizing, or rounding errors in a flat map would be blown up to 0..1; and again
        # after it, because resizing flattens the peaks.
        maps = _unit_range(self.raw) if normalize else self.raw
        maps = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        return _unit_range(maps) if normalize else maps


def _unit_range(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)


def grad_cam(
    model: nn.Module, x: Tensor, layer: nn.Module | str, target: int | Tensor | None = None
) -> Cam:
    """Maps of the evidence for `target` in the output A (B, K, h, w) of `layer`.

    A channel's weight is the mean of its gradient d logit / d A over the map; the weighted sum of
    the channels, negative parts cut off, is the map. One forward and one backward pass make all B.

    model: (B, 3, H, W) -> logits (B, C), without a softmax: its gradients would move the map.
    layer: a module of the model, or its dotted name. target: None (the predicted class), one class
    for all, or (B,). The model runs in eval mode and is left as found, also after an error.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(
            f"expected normalised images (B, 3, H, W), float, got {tuple(x.shape)}, {x.dtype}:"
            " a single image becomes a batch as x[None]"
        )
    if bad := int((~x.isfinite()).sum()):
        raise ValueError(f"{bad} of the {x.numel()} values are not finite: look at the images")
    name, layer = _find(model, layer)
    with eval_mode(model), torch.inference_mode(False), torch.no_grad():
        logits, maps = _forward(model, x, layer, name)
        target = _target(target, logits)
        score = logits.gather(1, target[:, None]).sum()  # in eval mode the images do not mix
        gradient = None  # where nothing behind the layer needs one, or it is not on the path
        if score.requires_grad:
            (gradient,) = torch.autograd.grad(score, maps, allow_unused=True)
    if gradient is None:
        raise ValueError(f"the logits do not depend on layer {name!r}: choose one on their path")
    weights = gradient.mean((2, 3), keepdim=True)
    return Cam(F.relu((weights * maps.detach()).sum(1)), logits.detach(), target)


def _find(model: nn.Module, layer: nn.Module | str) -> tuple[str, nn.Module]:
    modules = dict(uncompiled(model).named_modules())
    for name, module in modules.items():
        if name == layer or module is layer:
            return name, module
    names = ", ".join(name for name in modules if name)
    wanted = repr(layer) if isinstance(layer, str) else f"this {type(layer).__name__}"
    raise ValueError(f"the model has no layer {wanted}; its layers are: {names}")


def _forward(model: nn.Module, x: Tensor, layer: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """The logits, and the maps that `layer` returned, as the first node of the graph."""
    model, found = uncompiled(model), []

    def keep(module, inputs, output):
        if not isinstance(output, Tensor) or output.ndim != 4:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"layer {name!r} returns {got}, Grad-CAM needs maps (B, K, h, w): choose a layer"
                " before the image is flattened"
            )
        torch.set_grad_enabled(True)  # what comes before the layer needs no graph
        found.append(output.detach().clone().requires_grad_())
        return found[-1].clone()  # an in-place ReLU after the layer alters this copy only

    handle = layer.register_forward_hook(keep)
    # A CPU convolves and pools batches up to twice as fast with the channels last. On Apple's GPU
    # the gradient of a batch norm was wrong in that order (pytorch/pytorch issue 175189).
    fast = len(x) > 1 and x.device.type != "mps"
    order = torch.channels_last if fast else torch.contiguous_format
    try:
        logits = model(x.clone(memory_format=order))
    except RuntimeError as error:
        if "view" not in str(error):
            raise
        found.clear()  # a model that calls view() on maps needs the usual order
        logits = model(x.clone(memory_format=torch.contiguous_format))
    finally:
        handle.remove()
    if len(found) != 1:
        raise ValueError(
            f"layer {name!r} ran {len(found)} times in one forward pass, Grad-CAM needs exactly"
            " one map: choose a layer that the model calls once"
        )
    return logits, found[0]


def _target(target: int | Tensor | None, logits: Tensor) -> Tensor:
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"expected logits (B, C) from the model, got {got}")
    count, classes = logits.shape
    given = logits.argmax(1) if target is None else torch.as_tensor(target, device=logits.device)
    whole = not given.is_floating_point() and given.dtype != torch.bool
    if not whole or given.shape not in ((), (count,)) or ((given < 0) | (given >= classes)).any():
        raise ValueError(
            f"target must be None, a class 0 to {classes - 1}, or {count} of them, one an image;"
            f" got {target!r}"
        )
    return given.long().expand(count)


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's correlation (B,) of the maps a and b (B, h, w), image by image, ties sharing
    their mean rank; NaN where a map is flat."""
    if a.ndim != 3 or a.shape != b.shape:
        raise ValueError(
            f"expected maps (B, h, w) of equal shape, got {tuple(a.shape)}, {tuple(b.shape)}"
        )
    ranks = (rankdata(maps.detach().flatten(1).cpu().double(), axis=1) for maps in (a, b))
    u, v = (torch.from_numpy(rank - rank.mean(1, keepdims=True)) for rank in ranks)
    return ((u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1))).float().to(a.device)


def randomization_cascade(
    model: nn.Module, x: Tensor, layer: nn.Module | str, target=None, seed: int = 0
) -> dict[str, Tensor]:
    """Does the map depend on what was learned (Adebayo et al. 2018)? On a copy of the model its
    children get fresh random weights, one after the other from the top down; after each, the raw
    maps' rank correlations (B,) with the trained model's."""
    model = uncompiled(model)
    name, _ = _find(model, layer)
    trained = grad_cam(model, x, name, target)
    result, copied = {}, copy.deepcopy(model)
    with eval_mode(copied):  # which also puts the random state back
        torch.default_generator.manual_seed(seed)
        for part, child in reversed(list(copied.named_children())):
            if not list(child.parameters()):
                continue
            for module in child.cpu().modules():  # the same draw on any device
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
                elif list(module.parameters(recurse=False)):
                    raise ValueError(
                        f"{type(module).__name__} in {part!r} has weights of its own but no"
                        " reset_parameters(): give it that method"
                    )
            fresh = grad_cam(copied.to(x.device), x, name, trained.target)
            result[part] = rank_correlation(trained.raw, fresh.raw)
    return result


def deletion_curve(
    model: nn.Module,
    x: Tensor,
    maps: Tensor,
    target: int | Tensor,
    shares: Sequence[float],
) -> Tensor:
    """Logits (S, B) of `target`, one class or (B,), with each share (0..1) of the pixels hidden,
    the highest of `maps` (B, H, W) first (Petsiuk et al. 2018). A map that points at the evidence
    makes the logit fall faster than the same map shifted, or a random one.

    Hidden pixels are 0, the data's mean colour; equal values go in a random order."""
    if maps.shape != (len(x), *x.shape[2:]) or not all(0 <= share <= 1 for share in shares):
        raise ValueError(
            f"expected maps {(len(x), *x.shape[2:])}, as large as the images, and shares 0..1, got"
            f" {tuple(maps.shape)} and {list(shares)}"
        )
    target = torch.as_tensor(target).expand(len(x))
    generator = torch.Generator().manual_seed(0)
    tie = torch.rand(maps[0].numel(), generator=generator).argsort().to(maps.device)
    order = tie[maps.flatten(1)[:, tie].argsort(dim=1, descending=True, stable=True)]
    rank = order.argsort(dim=1).view_as(maps)[:, None]  # 0: the first pixel to go
    batches = [(x * (rank >= share * rank[0].numel()), target) for share in shares]
    logits = predict(model, batches).logits.view(len(shares), len(x), -1)
    return logits.gather(2, target.cpu().expand(len(shares), -1)[..., None])[..., 0]


def share_inside(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """How much of each map (B, H, W), not normalised, lies inside the object's mask (B, H, W)
    bool, and how much would by chance: two (B,), 0..1; NaN for an empty map."""
    if masks.dtype != torch.bool or masks.shape != maps.shape or maps.ndim != 3 or (maps < 0).any():
        got = f"{tuple(maps.shape)} and {masks.dtype} {tuple(masks.shape)}"
        raise ValueError(
            f"expected maps (B, H, W), 0 or more, and bool masks of that shape, got {got}"
        )
    masks = masks.to(maps)
    return (maps * masks).sum((1, 2)) / maps.sum((1, 2)), masks.mean((1, 2))
