"""The nets against hand counts, the design's shapes, and a net written as one formula."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.models import DavidNet, LinearNet, SmallCNN, SpeedNet


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def davidnet_parameters(w: int, classes: int, shortcuts: bool) -> int:
    """The count by hand: 3x3 weights, two numbers per batch-normed channel, linear with bias."""
    main = 9 * (3 * w + w * 2 * w + 2 * (2 * w) ** 2 + 2 * w * 4 * w + 4 * w * 8 * w)
    main += 9 * 2 * (8 * w) ** 2
    norms = 2 * (w + 3 * 2 * w + 4 * w + 3 * 8 * w)
    side = w * 2 * w + 2 * 2 * w + 4 * w * 8 * w + 2 * 8 * w
    return main + norms + side * shortcuts + (8 * w + 1) * classes


def test_davidnet_has_the_source_parameter_count():
    assert count(DavidNet()) == 6_713_674
    # Page's net (no linear bias) plus two stride-2 1x1 shortcuts with batch norm plus the bias
    assert count(DavidNet()) == 6_573_120 + 140_544 + 10


@pytest.mark.parametrize("width, classes, shortcuts", [(1, 2, True), (8, 10, True), (16, 5, False)])
def test_davidnet_parameters_by_hand(width, classes, shortcuts):
    net = DavidNet(width, classes, shortcuts)
    assert count(net) == davidnet_parameters(width, classes, shortcuts)


@pytest.mark.parametrize(
    "net", [DavidNet(4, 7), DavidNet(4, 7, False), LinearNet(7), SmallCNN(4, 7)]
)
def test_logits_train_and_reach_every_parameter(net):
    x = torch.randn(6, 3, 32, 32)
    logits = net(x)
    assert logits.shape == (6, 7) and logits.dtype == torch.float32
    F.cross_entropy(logits, torch.arange(6)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    net.to(memory_format=torch.channels_last)(x)  # would raise on a view instead of a flatten


def test_speed_net_is_as_large_as_airbench94():
    """The widths of its paper by hand: 24 whitening filters, 64, 256 and 256 channels."""
    net = SpeedNet()
    trained = 24 + 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256) + 2 * (64 + 256 + 256) + 2560
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == trained
    x = torch.randn(6, 3, 32, 32)
    F.cross_entropy(SpeedNet(4, 7)(x), torch.arange(6)).backward()
    F.cross_entropy(net(x), torch.arange(6)).backward()
    assert all((p.grad is not None) == p.requires_grad for p in net.parameters())


def test_speed_net_computes_the_formula_of_airbench94():
    """Pool, norm without scale, GELU twice a block; running statistics move by 0.4 a batch."""
    torch.manual_seed(0)
    net, x = SpeedNet(4).double().train(), torch.randn(6, 3, 32, 32).double()
    out = net(x)
    y = F.gelu(F.conv2d(x, net.whitening.weight, net.whitening.bias))
    for block in (net.block1, net.block2, net.block3):
        for conv, bn, pool in ((block.conv1, block.bn1, 2), (block.conv2, block.bn2, 1)):
            y = F.max_pool2d(F.conv2d(y, conv.weight, padding=1), pool)
            mean = y.mean((0, 2, 3))
            torch.testing.assert_close(bn.running_mean, 0.4 * mean)
            torch.testing.assert_close(bn.running_var, 0.6 + 0.4 * y.var((0, 2, 3)))
            spread = (y.var((0, 2, 3), unbiased=False) + bn.eps).sqrt()
            y = F.gelu((y - mean[:, None, None]) / spread[:, None, None])
    torch.testing.assert_close(out, y.amax((2, 3)) @ net.classifier.weight.T / 9)


def test_whitened_patches_are_uncorrelated_and_of_equal_size():
    torch.manual_seed(0)
    x = (
        F.avg_pool2d(torch.randn(40, 3, 36, 36), 5, stride=1) * 5
    )  # neighbours alike, as in pictures
    x += x.roll(1, dims=1)  # channels too
    net = SpeedNet()
    before = np.cov(F.unfold(x, 2).transpose(0, 1).flatten(1))
    net.whiten(x, eps=0)
    out = F.conv2d(x, net.whitening.weight).transpose(0, 1).flatten(1)
    assert abs(before - np.diag(before.diagonal())).max() > 0.5
    np.testing.assert_allclose(np.cov(out[:12]), np.eye(12), atol=1e-3)
    torch.testing.assert_close(out[12:], -out[:12])
    assert not net.whitening.weight.requires_grad


def test_small_cnn_by_hand():
    assert count(SmallCNN(16, 10)) == 9 * (3 * 16 + 16 * 32 + 32 * 64) + 2 * (16 + 32 + 64) + 650
    assert count(LinearNet(10)) == 30_730


@pytest.mark.parametrize("shortcuts", [True, False])
def test_davidnet_computes_the_formula_of_the_design(shortcuts):
    """The same weights through functional calls, in the order the design gives."""
    torch.manual_seed(0)
    net = DavidNet(4, 10, shortcuts).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # fresh buffers would hide a swapped batch norm
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    weights = iter(net.state_dict().values())

    def conv(x, stride=1):
        weight = next(weights)
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(x):
        gamma, beta, mean, variance, _ = (next(weights) for _ in range(5))
        return F.batch_norm(x, mean, variance, gamma, beta)

    def residual(x):
        y = F.relu(norm(F.max_pool2d(conv(x), 2)))
        y = F.relu(norm(conv(y)))
        y = F.relu(norm(conv(y)))
        return y + norm(conv(x, stride=2)) if shortcuts else y

    x = torch.randn(3, 3, 32, 32)
    y = F.relu(norm(conv(x)))
    y = residual(y)
    y = F.relu(norm(F.max_pool2d(conv(y), 2)))
    y = residual(y)
    assert (y < 0).any() or not shortcuts  # no ReLU after the sum
    y = F.avg_pool2d(y, 4).reshape(3, -1)
    y = F.linear(y, next(weights), next(weights))
    assert next(weights, None) is None
    torch.testing.assert_close(net(x), y, rtol=1e-5, atol=1e-5)


def test_davidnet_starts_near_a_uniform_guess():
    """A fresh net's loss is close to ln 10: what lesson 05 checks before a long run."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 3, 32, 32), torch.arange(64) % 10
    assert abs(F.cross_entropy(DavidNet(8)(x), y).item() - math.log(10)) < 0.3


@pytest.mark.parametrize("make", [DavidNet, SpeedNet, SmallCNN])
def test_a_net_without_channels_is_refused(make):
    with pytest.raises(ValueError, match="channels to 0: take a width of 1 or more"):
        make(width=0)


def test_parameter_names_are_readable():
    stages = {name.split(".")[0] for name, _ in DavidNet(1).named_parameters()}
    assert stages == {"stem", "stage1", "stage2", "stage3", "classifier"}
