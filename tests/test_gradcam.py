"""Grad-CAM against captum, grad-cam and scipy, and the traps it must not fall into."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from scipy.stats import spearmanr
from test_evaluation import OnApple, assert_same, snapshot
from torch import nn
from torchvision.models import resnet18

from helpers import gradcam as gc
from helpers.models import DavidNet

LAYERS = ("stem", "stage1", "stage1.bn2", "stage2", "stage3.conv3", "stage3")


@pytest.fixture(scope="module")
def x():
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(x):
    torch.manual_seed(1)
    net = DavidNet(width=4)
    for _ in range(3):
        net(x)
    return net.eval()


class Plain(nn.Module):
    """A small net with a shared ReLU and a layer that nothing calls."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.unused = nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.relu(self.conv2(self.relu(self.conv(x))))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("target", [None, 3, torch.tensor([0, 1, 9, 3, 3, 5])])
def test_raw_equals_captum(model, x, layer, target):
    cam = gc.grad_cam(model, x, layer, target)
    classes = model(x).argmax(1) if target is None else target
    expected = LayerGradCam(model, model.get_submodule(layer)).attribute(
        x, classes, relu_attributions=True
    )
    assert cam.raw.max() > 0
    torch.testing.assert_close(cam.raw, expected[:, 0].detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(cam.logits, model(x).detach())
    assert torch.equal(cam.target, torch.as_tensor(classes).expand(6))


@pytest.mark.parametrize("layer", LAYERS)
def test_normalised_equals_grad_cam(model, x, layer):
    targets = [0, 1, 9, 3, 3, 5]
    cam = gc.grad_cam(model, x, layer, torch.tensor(targets))
    with GradCAM(model, [model.get_submodule(layer)]) as other:
        expected = other(x, [ClassifierOutputTarget(t) for t in targets])
    found = cam.resized((32, 32))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found.min() >= 0 and found.max() <= 1 and (found.amax((1, 2)) > 0.999).any()


def test_layer_by_name_or_module_and_one_by_one(model, x):
    batch = gc.grad_cam(model, x, "stage3", 2)
    assert torch.equal(batch.raw, gc.grad_cam(model, x, model.stage3, 2).raw)
    for i in range(len(x)):
        one = gc.grad_cam(model, x[i : i + 1], "stage3", 2)
        torch.testing.assert_close(one.raw[0], batch.raw[i], rtol=1e-4, atol=1e-6)
    assert batch.raw.shape == (6, 4, 4) and batch.resized((20, 30)).shape == (6, 20, 30)


def test_raw_resize_keeps_the_scale(model, x):
    cam = gc.grad_cam(model, x, "stage2", 2)
    expected = F.interpolate(cam.raw[:, None], (32, 32), mode="bilinear", align_corners=False)
    assert torch.equal(cam.resized((32, 32), normalize=False), expected[:, 0])
    assert torch.equal(cam.resized((8, 8), normalize=False), cam.raw)


def test_in_place_relu_behind_the_layer_changes_nothing(x):
    """The map of torchvision's in-place net is captum's of the same net with ordinary ReLUs."""
    torch.manual_seed(0)
    net, clean = resnet18(num_classes=10).eval(), resnet18(num_classes=10).eval()
    clean.load_state_dict(net.state_dict())
    for module in clean.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    x = F.interpolate(x[:3], (64, 64))
    for layer in ("conv1", "bn1", "layer1.0.bn1", "layer2.0.bn1", "layer2", "layer3"):
        found = gc.grad_cam(net, x, layer, 1)
        expected = LayerGradCam(clean, clean.get_submodule(layer)).attribute(
            x, 1, relu_attributions=True
        )
        assert expected.max() > 0
        torch.testing.assert_close(found.raw, expected[:, 0].detach(), rtol=1e-5, atol=1e-6)


def test_a_model_that_views_its_maps_works_in_batches(x):
    torch.manual_seed(0)

    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, stride=8)
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            return self.head(self.conv(x).view(len(x), -1))

    net = Viewing()
    found = gc.grad_cam(net, x, "conv", 1).raw
    expected = LayerGradCam(net, net.conv).attribute(x, 1, relu_attributions=True)
    torch.testing.assert_close(found, expected[:, 0].detach(), rtol=1e-6, atol=1e-6)


def test_the_layers_output_may_be_overwritten_elsewhere(x):
    torch.manual_seed(0)

    class Overwriting(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.same, self.head = nn.Conv2d(3, 4, 3), nn.Identity(), nn.Linear(4, 10)

        def forward(self, x):
            maps = self.conv(x)
            out = self.same(maps).mean((2, 3))
            maps.zero_()
            return self.head(out)

    net = Overwriting()
    assert torch.equal(gc.grad_cam(net, x, "same", 1).raw, gc.grad_cam(net, x, "conv", 1).raw)
    assert gc.grad_cam(net, x, "same", 1).raw.max() > 0


def test_flat_maps_are_zero_when_normalised():
    """Bilinear weights do not sum to 1 exactly: the rounding must not become the picture."""
    for side in (1, 3, 4, 7):
        cam = gc.Cam(torch.full((2, side, side), 0.3), torch.zeros(2, 1), torch.zeros(2))
        assert torch.equal(cam.resized((32, 32)), torch.zeros(2, 32, 32))


def test_zero_maps_are_zero(model, x):
    nn.init.zeros_(model.classifier.weight)
    cam = gc.grad_cam(model, x, "stage3")
    for maps in (cam.raw, cam.resized((32, 32)), cam.resized((32, 32), normalize=False)):
        assert torch.equal(maps, torch.zeros_like(maps))


def test_normalised_is_independent_of_the_scale(model, x):
    """Faint maps reach 1 as well."""
    cam = gc.grad_cam(model, x, "stage3", 2)
    faint = gc.Cam(cam.raw * 1e-12, cam.logits, cam.target)
    torch.testing.assert_close(faint.resized((32, 32)), cam.resized((32, 32)))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_everything_is_left_as_found(model, x, context):
    model(x).sum().backward()
    model.train()
    model.stage1.eval()
    x = x.clone().requires_grad_()
    kept = x.detach().clone()
    before = snapshot(model)
    expected = gc.grad_cam(model, x, "stage2", 2).raw
    with context():
        cam = gc.grad_cam(model, x, "stage2", 2)
    assert torch.equal(cam.raw, expected) and not cam.raw.requires_grad
    assert x.grad is None and torch.equal(x, kept) and not cam.logits.requires_grad
    for bad in ({"layer": "stage2", "target": 10}, {"layer": "classifier"}):
        with pytest.raises(ValueError):
            gc.grad_cam(model, x, **bad)
    with pytest.raises(RuntimeError):
        gc.grad_cam(model, x[..., :2, :2], "stage3")
    gc.randomization_cascade(model, x, "stage3")
    gc.deletion_curve(model, x, cam.resized((32, 32)), cam.target, [0.5])
    assert_same(before, snapshot(model))


def test_images_made_in_inference_mode_are_accepted(model, x):
    with torch.inference_mode():
        frozen = x.clone()
    assert torch.equal(
        gc.grad_cam(model, frozen, "stage3").raw, gc.grad_cam(model, x, "stage3").raw
    )


def test_frozen_weights_still_give_a_map(model, x):
    expected = gc.grad_cam(model, x, "stage3", 1).raw
    assert torch.equal(gc.grad_cam(model.requires_grad_(False), x, "stage3", 1).raw, expected)


def test_errors_say_what_to_do(model, x):
    plain, nan = Plain(), torch.tensor([torch.nan])
    with pytest.raises(ValueError, match="no layer 'stage4'; its layers are: stem, .*classifier"):
        gc.grad_cam(model, x, "stage4")
    with pytest.raises(ValueError, match="no layer this Conv2d"):
        gc.grad_cam(model, x, nn.Conv2d(3, 3, 1))
    with pytest.raises(ValueError, match="'unused' ran 0 times"):
        gc.grad_cam(plain, x, plain.unused)
    with pytest.raises(ValueError, match="'relu' ran 2 times"):
        gc.grad_cam(plain, x, "relu")
    with pytest.raises(ValueError, match=r"'head' returns \(6, 5\).*before the image is flattened"):
        gc.grad_cam(plain, x, "head")
    with pytest.raises(ValueError, match="1 of the 3072 values are not finite"):
        gc.grad_cam(model, torch.cat([x[0].flatten()[1:], nan]).view(1, 3, 32, 32), "stage3")
    with pytest.raises(ValueError, match=r"a batch as x\[None\]"):
        gc.grad_cam(model, x[0], "stage3")
    with pytest.raises(ValueError, match="float"):
        gc.grad_cam(model, x.to(torch.uint8), "stage3")
    for bad in (10, -1, 1.0, True, torch.tensor([1, 2]), torch.zeros(6), torch.zeros(6, 1).long()):
        with pytest.raises(ValueError, match="a class 0 to 9, or 6 of them"):
            gc.grad_cam(model, x, "stage3", bad)
    with pytest.raises(ValueError, match=r"logits \(B, C\)"):
        gc.grad_cam(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), x, "0")

    class Detour(Plain):
        def forward(self, x):
            self.unused(x)
            return super().forward(x)

    for net in (Detour(), Detour().requires_grad_(False)):
        with pytest.raises(ValueError, match="do not depend on layer 'unused'"):
            gc.grad_cam(net, x, "unused")


def test_rank_correlation_equals_scipy():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(5, 8, 8, generator=generator).relu()  # ReLU: ties at zero
    b = (a + torch.randn(5, 8, 8, generator=generator)).relu()
    b[3], b[4] = 2 * a[3] ** 3, 0
    found = gc.rank_correlation(a, b)
    expected = [
        spearmanr(u.flatten(), v.flatten()).statistic for u, v in zip(a[:4], b, strict=False)
    ]
    np.testing.assert_allclose(found[:4], expected, atol=1e-12)
    assert found[3] == pytest.approx(1) and found[4].isnan()
    there = gc.rank_correlation(a.as_subclass(OnApple), b)  # a GPU without doubles
    assert torch.equal(there[:4], found[:4])


def test_cascade_goes_from_the_top_and_keeps_what_it_randomised(model, x):
    found = gc.randomization_cascade(model, x, "stage2", seed=3)
    assert list(found) == ["classifier", "stage3", "stage2", "stage1", "stem"]
    assert all(v.shape == (6,) for v in found.values())
    again = gc.randomization_cascade(model, x, "stage2", seed=3)
    for part in found:
        torch.testing.assert_close(found[part], again[part], rtol=0, atol=0, equal_nan=True)
    other = gc.randomization_cascade(model, x, model.stage2, seed=4)
    assert any(not torch.equal(found[p], other[p]) for p in found)

    # By hand: the classifier alone, then everything above stage2's output with it.
    target = model(x).argmax(1)
    before = gc.grad_cam(model, x, "stage2", target).raw
    torch.manual_seed(3)
    for part in ("classifier", "stage3"):
        for module in model.get_submodule(part).modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        after = gc.grad_cam(model, x, "stage2", target).raw
        expected = [
            spearmanr(u.flatten(), v.flatten()).statistic
            for u, v in zip(before, after, strict=True)
        ]
        np.testing.assert_allclose(found[part], expected, atol=1e-10)


def test_cascade_sees_what_is_off_the_path_and_refuses_what_it_cannot_reset(x):
    torch.manual_seed(0)
    plain = Plain()
    found = gc.randomization_cascade(plain, x, "conv2", 1)
    assert list(found) == ["head", "unused", "conv2", "conv"]
    assert torch.equal(found["unused"], found["head"])  # nothing that the map depends on
    assert not torch.allclose(found["head"], torch.ones(6))
    assert not torch.allclose(found["conv2"], found["head"])
    plain.head.scale = nn.Module()
    plain.head.scale.register_parameter("a", nn.Parameter(torch.ones(1)))
    with pytest.raises(ValueError, match="'head' has weights of its own"):
        gc.randomization_cascade(plain, x, "conv2", 1)


class Corner(nn.Module):
    """Logit 1 is the sum over a 16x16 corner, logit 0 nothing: the evidence is known."""

    def forward(self, x):
        evidence = x[:, :, :16, :16].sum((1, 2, 3))
        return torch.stack([0 * evidence, evidence], 1)


def test_a_compiled_net_is_looked_into(model, x):
    compiled = torch.compile(model, backend="eager")
    for layer in ("stage3", "stage1"):  # compiled with a hook on the first, it misses the second
        assert torch.equal(gc.grad_cam(compiled, x, layer).raw, gc.grad_cam(model, x, layer).raw)
    steps = gc.randomization_cascade(compiled, x, "stage3")
    assert list(steps) == list(gc.randomization_cascade(model, x, "stage3"))


def test_deletion_hides_the_highest_pixels_first():
    x = torch.ones(2, 3, 32, 32)
    maps = torch.zeros(2, 32, 32)
    maps[0, :16, :16] = 1  # right
    maps[1, 16:, 16:] = 1  # wrong
    target = torch.tensor([1, 1])
    shares = [0, 0.125, 0.25, 1]
    found = gc.deletion_curve(Corner(), x, maps, target, shares)
    assert found[:, 0].tolist() == [768, 384, 0, 0]
    assert found[:, 1].tolist() == [768, 768, 768, 0]
    assert gc.deletion_curve(Corner(), x, maps, 1 - target, [0.5]).tolist() == [[0, 0]]
    assert torch.equal(gc.deletion_curve(Corner(), x, maps, 1, shares), found)  # one for all


def test_deletion_refuses_shares_and_maps_that_do_not_fit():
    x, target = torch.ones(2, 3, 32, 32), torch.tensor([1, 1])
    for maps, shares in ((torch.ones(2, 4, 4), [0.5]), (torch.ones(2, 32, 32), [0, 50, 100])):
        with pytest.raises(ValueError, match=r"expected maps \(2, 32, 32\).* and shares 0..1, got"):
            gc.deletion_curve(Corner(), x, maps, target, shares)


def test_deletion_breaks_ties_at_random():
    x, flat = torch.ones(4, 3, 32, 32), torch.zeros(4, 32, 32)
    target = torch.ones(4).long()
    found = gc.deletion_curve(Corner(), x, flat, target, [0.5])
    assert ((found > 300) & (found < 468)).all(), "half the corner is left, give or take"
    assert torch.equal(found, gc.deletion_curve(Corner(), x, flat, target, [0.5]))


def test_share_inside_against_chance():
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[:, :2, :2] = True
    maps = torch.stack([torch.ones(4, 4), masks[0] + 0.0, torch.zeros(4, 4)])
    maps[1, 3, 3] = 4
    share, chance = gc.share_inside(maps, masks)
    assert share[:2].tolist() == [0.25, 0.5] and share[2].isnan()
    assert chance.tolist() == [0.25] * 3


def test_what_is_no_map_and_no_mask_is_refused():
    maps, masks = torch.rand(2, 8, 8), torch.ones(2, 8, 8, dtype=torch.bool)
    for a, b in ((maps - 1, masks), (maps, 7 * masks), (maps, masks[:1]), (maps[0], masks[0])):
        with pytest.raises(ValueError, match="bool masks of that shape"):
            gc.share_inside(a, b)
    pair = lambda x: (x.mean((2, 3)), x)  # a model that returns two things
    with pytest.raises(ValueError, match="expected logits .B, C. from the model, got tuple"):
        gc._target(None, pair(torch.rand(1, 3, 4, 4)))
    for a, b in ((maps[0], maps[0]), (maps, maps[:1])):
        with pytest.raises(ValueError, match="expected maps"):
            gc.rank_correlation(a, b)
