"""Muon against torch's own (2.9 and later), and its parts against linear algebra."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.models import SpeedNet
from helpers.muon import Muon, orthogonal
from helpers.recipes import SPEEDRUN
from helpers.training import muon


def step(optimizer, net, x, y):
    optimizer.zero_grad()
    F.cross_entropy(net(x), y).backward()
    optimizer.step()


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (16, 16), (1, 9)])
def test_orthogonal_keeps_the_directions_and_evens_out_their_lengths(shape):
    torch.manual_seed(0)
    u, s, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    s = torch.linspace(1, 0.1, len(s))
    found = u.T @ orthogonal(u @ torch.diag(5 * s) @ v) @ v.T
    lengths = found.diagonal()
    torch.testing.assert_close(found, torch.diag(lengths), atol=1e-5, rtol=0)
    assert lengths.min() > 0.5 and lengths.max() < 1.25
    five = u.T @ orthogonal(u @ torch.diag(1e-3 * s) @ v, steps=5) @ v.T
    assert five.diagonal().min() > 0.65 and five.diagonal().max() < 1.25
    assert orthogonal(torch.zeros(shape)).count_nonzero() == 0


def test_each_step_is_torchs_muon_on_weights_of_fixed_length():
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch.optim.Muon came with torch 2.9")
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(6, 4, 3, 3))
    theirs = nn.Parameter(ours.detach().flatten(1).clone())
    mine = Muon([{"params": [ours], "muon": True}], lr=0.1, momentum=0.6, nesterov=True)
    torchs = torch.optim.Muon(
        [theirs], lr=0.1, weight_decay=0.0, momentum=0.6, nesterov=True, ns_steps=3
    )
    for _ in range(4):
        gradient = torch.randn(6, 36)
        with torch.no_grad():
            theirs.mul_(6**0.5 / theirs.norm())
        ours.grad, theirs.grad = gradient.view(6, 4, 3, 3).clone(), gradient.clone()
        mine.step()
        torchs.step()  # in bfloat16
        torch.testing.assert_close(ours.flatten(1), theirs, atol=0.005, rtol=0)


def test_other_groups_are_torchs_sgd():
    torch.manual_seed(0)
    net, settings = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), {"lr": 0.1, "momentum": 0.9}
    twin = copy.deepcopy(net)
    ours = Muon(net.parameters(), **settings, nesterov=True, weight_decay=0.01)
    theirs = torch.optim.SGD(twin.parameters(), **settings, nesterov=True, weight_decay=0.01)
    for _ in range(3):
        x, y = torch.randn(5, 3, 2, 2), torch.randint(3, (5,))
        step(ours, net, x, y)
        step(theirs, twin, x, y)
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_moves_what_in_the_speed_run():
    torch.manual_seed(0)
    net = SpeedNet(4)
    optimizer = muon(net, SPEEDRUN, torch.device("cpu"))
    names = {id(p): name for name, p in net.named_parameters()}
    sets = [{names[id(p)] for p in group["params"]} for group in optimizer.param_groups]
    assert sets[0] == {"classifier.weight"} and all(name.endswith("bias") for name in sets[1])
    assert sets[2] == {f"block{b}.conv{c}.weight" for b in (1, 2, 3) for c in (1, 2)}
    rates = [SPEEDRUN.peak * group["scale"] for group in optimizer.param_groups]
    assert rates == pytest.approx([SPEEDRUN.peak, SPEEDRUN.peak * SPEEDRUN.bias_lr, SPEEDRUN.muon])
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    fixed = net.whitening.weight.clone()
    x, y = torch.randn(20, 3, 32, 32), torch.randint(10, (20,))
    for _ in range(3):
        step(optimizer, net, x, y)
    assert torch.equal(net.whitening.weight, fixed)
    for group in optimizer.param_groups:
        assert all("momentum_buffer" in optimizer.state[p] for p in group["params"])
    # A length of sqrt(outputs) before the last step, which is itself at most 1.25 x LR as long.
    for p in optimizer.param_groups[2]["params"]:
        assert abs(p.norm() / len(p) ** 0.5 - 1) < 1.25 * SPEEDRUN.muon


def test_a_state_goes_on_where_it_was():
    torch.manual_seed(0)
    net = SpeedNet(4)
    x, y = torch.randn(12, 3, 32, 32), torch.randint(10, (12,))
    optimizer = muon(net, SPEEDRUN, torch.device("cpu"))
    for group in optimizer.param_groups:
        group["lr"] = 0.01 * group["scale"]
    step(optimizer, net, x, y)
    twin = copy.deepcopy(net)
    restored = muon(twin, SPEEDRUN, torch.device("cpu"))
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(optimizer, net, x, y)
    step(restored, twin, x, y)
    assert all(map(torch.equal, net.state_dict().values(), twin.state_dict().values()))


def test_a_closure_is_refused():
    with pytest.raises(ValueError, match="takes no closure"):
        Muon([nn.Parameter(torch.ones(2, 2))]).step(lambda: 0)
