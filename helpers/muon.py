"""Muon: steps in which every direction counts (Jordan and others, 2024).

https://kellerjordan.github.io/posts/muon/
"""

import torch
from torch import Tensor


class Muon(torch.optim.SGD):
    """SGD, except for groups with "muon": True, the convolutions followed by a batch norm.

    As a matrix (outputs, inputs x height x width), the momentum of a convolution is dominated by
    a few directions, which all its filters then follow. `orthogonal` makes all directions equally
    long, and the rare ones, in which there is as much to learn, get their share.

    The norm undoes any scale of the weights, so it is fixed here, in place of weight decay: filters
    have length 1 on average. `lr` is then roughly the length of a step relative to that of the
    weights; less where a layer has more outputs than inputs, and so fewer directions.
    """

    @torch.no_grad()
    def step(self, closure=None):
        if closure is not None:
            raise ValueError("Muon takes no closure: call backward() first, then step()")
        for group in self.param_groups:
            for weight in group["params"] if group.get("muon") else []:
                if weight.grad is not None:
                    self.move(weight, weight.grad, group)
                    weight.grad = None  # done: SGD passes over what has no gradient
        return super().step()

    def move(self, weight: Tensor, gradient: Tensor, group: dict) -> None:
        """One step of one convolution (outputs, inputs, height, width)."""
        state, momentum = self.state[weight], group["momentum"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        buffer = state["momentum_buffer"].mul_(momentum).add_(gradient)
        direction = gradient.add(buffer, alpha=momentum) if group["nesterov"] else buffer
        weight.mul_(len(weight) ** 0.5 / weight.norm().clamp_min(1e-7))
        weight.sub_(orthogonal(direction.flatten(1)).view(weight.shape), alpha=group["lr"])


def orthogonal(matrix: Tensor, steps: int = 3) -> Tensor:
    """U V^T of matrix = U S V^T (n, m), about: its singular values, all brought near 1.

    By a Newton-Schulz iteration: matrix products only, fast on any device. Its polynomial is
    Jordan's: three steps of it bring all that is above some hundredth of the whole matrix's norm
    between about 0.5 and 1.2, instead of to 1.
    """
    x = matrix / (matrix.norm() + 1e-7)  # so that no singular value is above 1
    tall = len(x) > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if tall else x
