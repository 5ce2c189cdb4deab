"""The net of the course, and the other nets it is compared with.

DavidNet goes back to the 9-layer residual net that David Page trained on CIFAR-10 in 79 seconds
("How to Train Your ResNet", 2018). The 2020 net differs in strided 1x1 shortcuts around whole
stages, pooling before batch norm, and the average pool at the end. Every net takes normalised
images (B, 3, 32, 32), float, and returns logits (B, classes): the loss applies softmax.
No convolution before a batch norm has a bias: the norm would subtract it again.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps height and width: (B, inputs, H, W) -> (B, outputs, H, W)."""
    if min(inputs, outputs) < 1:
        raise ValueError(f"{inputs} channels to {outputs}: take a width of 1 or more")
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)


class TransitionBlock(nn.Module):
    """A plain stage: (B, inputs, H, W) -> (B, outputs, H/2, W/2)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = conv3x3(inputs, outputs)
        self.pool = nn.MaxPool2d(2)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        # Pooling first leaves a quarter of the values to normalise.
        return F.relu(self.bn(self.pool(self.conv(x))))


class BasicBlock(nn.Module):
    """A residual stage: (B, inputs, H, W) -> (B, outputs, H/2, W/2)."""

    def __init__(self, inputs: int, outputs: int, shortcut: bool = True):
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs)
        self.pool = nn.MaxPool2d(2)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv3 = conv3x3(outputs, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        halve = nn.Conv2d(inputs, outputs, kernel_size=1, stride=2, bias=False)
        self.shortcut = nn.Sequential(halve, nn.BatchNorm2d(outputs)) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        main = F.relu(self.bn1(self.pool(self.conv1(x))))
        main = F.relu(self.bn2(self.conv2(main)))
        main = F.relu(self.bn3(self.conv3(main)))
        # Not `main += ...`: the ReLU needs its output unchanged for the backward pass.
        return main if self.shortcut is None else main + self.shortcut(x)


class DavidNet(nn.Module):
    """(B, 3, 32, 32) -> logits (B, classes); 6,713,674 parameters at width 64 with 10 classes.

    width: channels behind the stem, doubled by each stage. shortcuts=False leaves the main paths.
    """

    def __init__(self, width: int = 64, classes: int = 10, shortcuts: bool = True):
        super().__init__()
        self.stem = nn.Sequential(conv3x3(3, width), nn.BatchNorm2d(width))
        self.stage1 = BasicBlock(width, 2 * width, shortcuts)  # 32x32 -> 16x16
        self.stage2 = TransitionBlock(2 * width, 4 * width)  # 16x16 -> 8x8
        self.stage3 = BasicBlock(4 * width, 8 * width, shortcuts)  # 8x8 -> 4x4
        self.classifier = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.classifier(F.avg_pool2d(x, 4).flatten(1))


class LinearNet(nn.Module):
    """One linear layer on the pixels, the first baseline: (B, 3, 32, 32) -> logits (B, classes)."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.classifier = nn.Linear(3 * 32 * 32, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(x.flatten(1))


class SmallCNN(nn.Module):
    """Three plain stages, the second baseline: (B, 3, 32, 32) -> logits (B, classes)."""

    def __init__(self, width: int = 16, classes: int = 10):
        super().__init__()
        self.stage1 = TransitionBlock(3, width)  # 32x32 -> 16x16
        self.stage2 = TransitionBlock(width, 2 * width)  # 16x16 -> 8x8
        self.stage3 = TransitionBlock(2 * width, 4 * width)  # 8x8 -> 4x4
        self.classifier = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.classifier(F.avg_pool2d(x, 4).flatten(1))


class SpeedNet(nn.Module):
    """Few operations, high accuracy: (B, 3, 32, 32) -> logits (B, classes); 1,972,792 parameters.

    The net of Jordan's "94 % on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024, arXiv:2404.00498):
    a first layer that is computed, not trained (`whiten`), three blocks without shortcuts, GELU,
    batch norms without scale, and logits divided by 9, so that the net is not sure too early.
    width: channels of the first block; the other two have four times as many.
    """

    def __init__(self, width: int = 64, classes: int = 10):
        super().__init__()
        self.whitening = nn.Conv2d(3, 24, kernel_size=2)  # 32x32 -> 31x31
        self.whitening.weight.requires_grad_(False)
        self.block1 = SpeedBlock(24, width)  # 31x31 -> 15x15
        self.block2 = SpeedBlock(width, 4 * width)  # 15x15 -> 7x7
        self.block3 = SpeedBlock(4 * width, 4 * width)  # 7x7 -> 3x3
        self.classifier = nn.Linear(4 * width, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.whitening(x))
        x = self.block3(self.block2(self.block1(x)))
        return self.classifier(F.max_pool2d(x, 3).flatten(1)) / 9

    @torch.no_grad()
    def whiten(self, x: Tensor, eps: float = 5e-4) -> None:
        """Set the first layer from images x (B, 3, H, W), normalised.

        12 filters are the principal components of the images' 2x2 patches (the directions in which
        patches vary independently), each divided by its standard deviation: their outputs are
        uncorrelated and of equal size. The other 12 are their negatives: GELU loses no half.
        """
        patches = F.unfold(x, kernel_size=2).transpose(1, 2).flatten(0, 1)  # (B*31*31, 12)
        variances, components = torch.linalg.eigh(torch.cov(patches.double().T))
        filters = (components / (variances + eps).sqrt()).T.reshape(12, 3, 2, 2)
        self.whitening.weight.copy_(torch.cat([filters, -filters]))


class SpeedBlock(nn.Module):
    """(B, inputs, H, W) -> (B, outputs, H // 2, W // 2)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, outputs), nn.BatchNorm2d(outputs, momentum=0.4)
        self.conv2, self.bn2 = conv3x3(outputs, outputs), nn.BatchNorm2d(outputs, momentum=0.4)
        self.bn1.weight.requires_grad_(False)  # the layer behind can scale as well, almost
        self.bn2.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.bn1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.bn2(self.conv2(x)))
