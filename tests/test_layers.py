"""The layer table against the source's, published numbers, torchsummary, and two measurements.

The measurements: gradients (`empirical_receptive_field`), and, apart from all of the helper's code,
NaNs: a unit of the unchanged model sees a pixel if it becomes NaN when the pixel does.
"""

import copy
import csv
import io
import random
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from helpers.layers import effective_receptive_field, empirical_receptive_field, layer_table
from helpers.models import DavidNet, LinearNet, SmallCNN

SOURCE = Path(__file__).parent / "reference" / "layer_table.csv"


def seen_by_nan(model, shape, axis):
    """(pixels, units) bool: which units of the model's map see which row (axis 0) or column (1)."""
    n = shape[1 + axis]
    x = torch.ones(n, *shape, dtype=torch.float64)  # float64: no Winograd, which spreads a NaN
    for i in range(n):
        x[i].select(1 + axis, i).fill_(float("nan"))
    with torch.no_grad():
        out = copy.deepcopy(model).double().eval()(x)
    return out.isnan().any(1).any(2 - axis)


def window(row, axis, unit):
    """First and last pixel that a unit sees along the height (axis 0) or the width (1)."""
    span = row.spans[axis]
    return span.low + unit * span.jump, span.high + unit * span.jump


def assert_windows_are_what_nan_shows(row, model, shape):
    """No unit sees more than its window; those in the middle third, clear of padding, all of it."""
    for axis in (0, 1):
        seen = seen_by_nan(model, shape, axis)
        n, units = seen.shape
        assert units == row.output[1 + axis]
        whole = 0
        for unit in range(units):
            low, high = window(row, axis, unit)
            pixels = seen[:, unit].nonzero().flatten().tolist() or [low, high]
            assert min(pixels) >= low and max(pixels) <= high, (row.name, axis, unit, low, high)
            if units / 3 <= unit < units * 2 / 3 and low >= n / 8 and high < n - n / 8:
                assert (min(pixels), max(pixels)) == (low, high), (row.name, axis, unit, pixels)
                whole += 1
        assert whole, "the image is too small for this test"


class Until(nn.Module):
    """DavidNet up to the end of a stage."""

    def __init__(self, net, stage):
        super().__init__()
        self.net, self.stage = net, stage

    def forward(self, x):
        x = F.relu(self.net.stem(x))
        for stage in (self.net.stage1, self.net.stage2, self.net.stage3)[: self.stage]:
            x = stage(x)
        return x


# The course net


def test_the_source_table_row_by_row():
    """28 rows, 114: module by module, as the source counted."""
    net = DavidNet()
    table = layer_table(net, counting="sequential")
    with SOURCE.open() as file:
        source = list(csv.DictReader(file))
    assert len(table.rows) == len(source) == 28
    for row, expected in zip(table.rows[:-1], source[:-1], strict=True):
        assert row.kind == expected["layer"]
        assert row.output == tuple(map(int, expected["output"].split("x")))
        assert row.params == int(expected["params"])
        assert row.rf == int(expected["receptive_field"])
        assert row.jump == int(expected["jump_in"])
    assert (table.rows[-1].kind, table.rows[-1].output) == ("DavidNet", (10,))
    assert (table.rf, table.total_params) == (114, 6_713_674)
    assert layer_table(net, counting="sequential").rf == 114  # the source's second call: 3730


def test_course_net_totals():
    table = layer_table(DavidNet())
    assert (table.total_params, table.total_macs, table.rf) == (6_713_674, 383_456_256, 64)
    w, macs = 64, 0  # by hand: pixels x inputs x outputs x 9, shortcuts without the 9
    macs += 32**2 * (3 * w * 9 + w * 2 * w * 9) + 16**2 * (2 * (2 * w) ** 2 * 9 + w * 2 * w)
    macs += 16**2 * 2 * w * 4 * w * 9 + 8**2 * 4 * w * 8 * w * 9
    macs += 4**2 * (2 * (8 * w) ** 2 * 9 + 4 * w * 8 * w) + 8 * w * 10
    assert macs == 383_456_256


def test_course_net_fields_and_jumps():
    table = {row.name: row for row in layer_table(DavidNet()).rows}
    path = ["stem.0"] + [f"stage1.{n}" for n in ("conv1", "pool", "conv2", "conv3")]
    path += ["stage2.conv", "stage2.pool"]
    path += [f"stage3.{n}" for n in ("conv1", "pool", "conv2", "conv3")]
    assert [table[n].rf for n in path] == [3, 5, 6, 10, 14, 18, 20, 28, 32, 48, 64]
    assert [table[n].jump for n in path] == [1, 1, 2, 2, 2, 2, 4, 4, 8, 8, 8]
    assert (table["stage1.shortcut.0"].rf, table["stage3.shortcut.0"].rf) == (3, 20)
    assert (table["stage1.add"].rf, table["stage3.add"].rf) == (14, 64)
    assert (table["avg_pool2d"].rf, table["avg_pool2d"].jump) == (88, 32)
    assert table["classifier"].rf is None and table["classifier"].jump is None
    assert table["stage1.add"].output == (128, 16, 16) and table["classifier"].output == (10,)


def test_baselines():
    assert layer_table(LinearNet()).rf is None
    assert layer_table(LinearNet()).total_macs == 30_720
    assert layer_table(DavidNet(shortcuts=False)).rf == 64
    table = layer_table(SmallCNN(16))
    assert table.rf == 22 and table.total_macs == 9 * (32**2 * 48 + 16**2 * 512 + 8**2 * 2048) + 640


def test_course_net_gradients_reach_what_the_table_says():
    net = DavidNet(2)
    rows = [row for row in layer_table(net).rows if row.spans]
    assert len(rows) == 34
    for row in rows:
        field = empirical_receptive_field(net, row.name)
        assert field == (row.rf, row.rf), row.name


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_course_net_nan_shows_the_same_windows(stage):
    torch.manual_seed(0)
    net, n = Until(DavidNet(1), stage), (24, 32, 48, 112)[stage]
    row = [row for row in layer_table(net, (3, n, n)).rows if row.spans][-1]
    assert row.rf == (3, 14, 20, 64)[stage]
    assert_windows_are_what_nan_shows(row, net, (3, n, n))


# Other nets


class Two(nn.Module):
    """Two branches of one jump and one size, added, multiplied or concatenated."""

    def __init__(self, left, right, how):
        super().__init__()
        self.left, self.right, self.how = left, right, how

    def forward(self, x):
        a, b = self.left(x), self.right(x)
        if self.how == "cat":
            return torch.cat([a, b], dim=1)[:, : a.shape[1] + b.shape[1]]
        return a + b if self.how == "add" else a * b


def random_net(seed):
    """A stack of dilated, grouped, strided, oblong and branching layers; 4 channels in and out."""
    draw = random.Random(seed)

    def conv():
        kernel = (draw.randint(1, 5), draw.randint(1, 5))
        dilation = (draw.randint(1, 3), draw.randint(1, 3))
        padding = tuple(draw.randint(0, d * (k - 1)) for k, d in zip(kernel, dilation, strict=True))
        stride = (draw.randint(1, 2), draw.randint(1, 2))
        groups = draw.choice([1, 2, 4])
        return nn.Conv2d(4, 4, kernel, stride, padding, dilation, groups)

    def layer():
        kind = draw.choice(["conv", "conv", "same", "max", "avg", "branch", "branch", "pad"])
        if kind == "conv":
            return conv()
        if kind == "same":
            return nn.Conv2d(4, 4, draw.randint(2, 5), 1, "same", draw.randint(1, 3))
        if kind == "max":
            return nn.MaxPool2d((2, 3), draw.randint(1, 2), 1, ceil_mode=draw.random() < 0.5)
        if kind == "avg":
            return nn.AvgPool2d(draw.randint(2, 3), draw.randint(1, 2), draw.randint(0, 1))
        if kind == "pad":
            return nn.ZeroPad2d((1, 2, 0, 3))
        how, kernel, stride = (draw.choice(c) for c in (["add", "mul", "cat"], [3, 5, 7], [1, 2]))
        channels, groups = 2 if how == "cat" else 4, draw.choice([1, 2])
        left = nn.Conv2d(4, channels, kernel, stride, kernel // 2, groups=groups)
        right = nn.Sequential(nn.Conv2d(4, channels, 1, stride), nn.BatchNorm2d(channels))
        return Two(nn.Sequential(left, nn.ReLU()), right, how)

    layers = [nn.Conv2d(3, 4, 3)]
    for _ in range(draw.randint(3, 5)):
        activation = draw.choice([nn.ReLU(True), nn.GELU(), nn.Identity()])
        layers += [layer(), nn.Conv2d(4, 4, 1), activation]
    return nn.Sequential(*layers)


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # says that torch copies, no more
@pytest.mark.parametrize("seed", range(12))
def test_random_nets_by_theory_by_gradient_and_by_nan(seed):
    torch.manual_seed(seed)
    net = random_net(seed)
    row = layer_table(net, (3, 72, 88)).rows[-1]
    field = row.rf if isinstance(row.rf, tuple) else (row.rf, row.rf)
    assert empirical_receptive_field(net, row.name) == field
    assert_windows_are_what_nan_shows(row, net, (3, 72, 88))


def build(name):
    weights = torchvision.models.get_model_weights(name).DEFAULT
    with torch.device("meta"):  # no memory, no time: the table needs no values
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        return torchvision.models.get_model(name, weights=None, **options), weights.meta


# Fields: Araujo et al. 2019 for alexnet, vgg16 and inception_v3, by hand for resnet50 (below), and
# measured by gradient (test_torchvision_nets_by_gradient) for most of the others.
PUBLISHED = {
    "alexnet": 195,
    "vgg11_bn": 150,
    "vgg16": 212,
    "resnet18": 435,
    "resnet50": 427,
    "resnext50_32x4d": 427,
    "squeezenet1_0": 155,
    "mobilenet_v2": 491,
    "densenet121": 2071,
    "inception_v3": 1311,
    "googlenet": 379,
    "shufflenet_v2_x1_0": 527,
    "efficientnet_b0": None,  # squeeze-and-excitation: every unit behind one sees the whole image
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_torchvision_nets(name):
    """Field as published; multiply-adds and parameters as torchvision states them."""
    model, meta = build(name)
    size = 299 if name == "inception_v3" else 224
    table = layer_table(model, (3, size, size))
    assert table.rf == PUBLISHED[name]
    assert abs(table.total_macs / 1e9 - meta["_ops"]) < 0.0006 + 0.005 * meta["_ops"]
    aside = sum(row.params for row in table.rows if row.name == "(never called)")
    assert table.total_params - aside == meta["num_params"] - aside * (name == "inception_v3")
    assert table.total_params == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "name, layer",
    [
        ("resnet18", "layer4.1.add"),
        ("vgg16", "features.30"),
        ("alexnet", "features.12"),
        ("squeezenet1_0", "features.12.cat"),
        pytest.param("googlenet", "inception5b.cat", marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", "features.18.0", marks=pytest.mark.slow),
        pytest.param("shufflenet_v2_x1_0", "conv5.0", marks=pytest.mark.slow),
    ],
)
def test_torchvision_nets_by_gradient(name, layer):
    field = empirical_receptive_field(build(name)[0], layer)
    assert field == 2 * (PUBLISHED[name],)


class Apply(nn.Module):
    """A function as a model, with a convolution before it and one that it may use."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.first, self.conv = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.scale, self.fc = nn.Parameter(torch.ones(4, 1, 1)), nn.Linear(4, 4)

    def forward(self, x):
        return self.function(self, self.first(x))


def squeeze_excite(m, x):
    return x * torch.sigmoid(m.fc(x.mean((2, 3))))[:, :, None, None]


def option_a(m, x):  # the parameter-free shortcut of He et al.'s CIFAR nets
    return F.conv2d(x, m.conv.weight, None, 2, 1) + F.pad(x[:, :, ::2, ::2], (0, 0) * 2 + (0, 0))


def shuffle(m, x):
    n, c, h, w = x.size()
    x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
    a, b = x.chunk(2, dim=1)
    return torch.cat((a, m.conv(torch.cat((b, b), 1))), 1)


@pytest.mark.parametrize(
    "function, output, rf, jump",
    [
        (lambda m, x: F.max_pool2d(F.relu(m.conv(x)), 3, 2, 1), (4, 16, 16), 7, 2),
        (lambda m, x: F.avg_pool2d(input=x, kernel_size=(2, 4)), (4, 16, 8), (4, 6), (2, 4)),
        (lambda m, x: F.adaptive_avg_pool2d(x, 8), (4, 8, 8), 6, 4),
        (lambda m, x: F.adaptive_avg_pool2d(x, 32), (4, 32, 32), 3, 1),
        (lambda m, x: F.adaptive_max_pool2d(x, 1), (4, 1, 1), None, None),
        (lambda m, x: F.adaptive_avg_pool2d(x, 7), (4, 7, 7), None, None),  # windows of two sizes
        (lambda m, x: x.mean([2, 3]), (4,), None, None),
        (lambda m, x: x.mean(dim=1, keepdim=True), (1, 32, 32), 3, 1),
        (lambda m, x: x.amax(1, keepdim=True) * x, (4, 32, 32), 3, 1),
        (lambda m, x: m.conv(m.conv(x)) * m.scale + 1, (4, 32, 32), 7, 1),
        (lambda m, x: 1 - x.div(2).add_(m.conv(x)), (4, 32, 32), 5, 1),
        (lambda m, x: torch.cat([x, m.conv(x)], -3), (8, 32, 32), 5, 1),
        (lambda m, x: torch.softmax(x, 1), (4, 32, 32), 3, 1),
        (lambda m, x: x.flatten(2), (4, 1024), None, None),
        (squeeze_excite, (4, 32, 32), None, 1),
        (lambda m, x: m.conv(squeeze_excite(m, x)), (4, 32, 32), None, 1),
        (option_a, (4, 16, 16), 5, 2),
        (lambda m, x: x[:, :2, 1:, 3:-1], (2, 31, 28), 3, 1),
        (shuffle, (6, 32, 32), 5, 1),
        (lambda m, x: m.conv(x) if x.shape[1] == 4 else x, (4, 32, 32), 5, 1),  # flow by shape
    ],
)
def test_functional_forms(function, output, rf, jump):
    table = layer_table(Apply(function))
    row = [r for r in table.rows if r.name != "(never called)"][-1]
    assert (row.output, row.rf, row.jump) == (output, rf, jump)
    parameters = sum(p.numel() for p in Apply(function).parameters())
    assert table.total_params == parameters
    if rf and function is not option_a and "adaptive" not in row.kind:  # that depends on the input
        field = rf if isinstance(rf, tuple) else (rf, rf)
        assert empirical_receptive_field(Apply(function), row.name) == field


def test_windows_follow_shifts():
    for function in (option_a, lambda m, x: F.pad(x, (3, 0, 1, 2)), lambda m, x: x[:, :, 2:, 1::3]):
        net = Apply(function)
        assert_windows_are_what_nan_shows(layer_table(net).rows[-2], net, (3, 32, 32))


def test_shared_modules_and_bare_parameters_count_once():
    table = layer_table(Apply(lambda m, x: m.conv(m.conv(m.conv(x))) * m.scale))
    conv = [row for row in table.rows if row.name.startswith("conv")]
    assert [row.name for row in conv] == ["conv", "conv:2", "conv:3"]
    assert [row.params for row in conv] == [148, 0, 0]
    assert [row.macs for row in conv] == [4 * 4 * 9 * 1024] * 3
    assert next(row.params for row in table.rows if row.kind == "mul") == 4
    assert table.rows[-1].name == "(never called)" and table.rows[-1].params == 20  # fc
    assert [row.rf for row in conv] == [5, 7, 9]
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    assert layer_table(net, (4,)).total_params == 16 + 4 + 4


def test_a_weight_used_without_its_module_is_counted():
    table = layer_table(Apply(lambda m, x: F.conv2d(x, m.conv.weight.flip(3) * 2, padding=1)))
    row = next(row for row in table.rows if row.name == "conv2d")
    assert (row.params, row.macs, row.rf) == (144, 4 * 4 * 9 * 1024, 5)


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.roll(1, 3)

    @staticmethod
    def backward(ctx, g):
        return g


def assign(m, x):
    x[:, :1] = 0
    return x


def uneven(m, x):  # 16 units of jump 2 beside 16 units of jump 1
    return F.max_pool2d(x, 2) + x[:, :, :16, :16]


@pytest.mark.parametrize(
    "function, operation",
    [
        (lambda m, x: F.interpolate(x, scale_factor=2), "interpolate"),
        (lambda m, x: F.conv_transpose2d(x, m.conv.weight), "conv_transpose2d"),
        (lambda m, x: F.pixel_shuffle(x, 2), "pixel_shuffle"),
        (lambda m, x: x @ x, "matmul"),
        (lambda m, x: F.scaled_dot_product_attention(x, x, x), "scaled_dot_product_attention"),
        (lambda m, x: torch.einsum("nchw,nchv->nhwv", x, x), "einsum"),
        (lambda m, x: x.flip(3), "flip"),
        (lambda m, x: x.transpose(2, 3), "transpose"),
        (lambda m, x: x.permute(0, 2, 3, 1), "permute"),
        (lambda m, x: x.cumsum(2), "cumsum"),
        (lambda m, x: torch.cat([x, x], 2), "cat"),
        (lambda m, x: torch.concat([x, x], axis=3), "concat"),
        (lambda m, x: x.softmax(-1), "softmax"),
        (lambda m, x: x.chunk(2, 3)[0], "chunk"),
        (lambda m, x: x[:, :, 0], "getitem"),
        (lambda m, x: F.linear(x, torch.ones(4, 32)), "linear"),
        (lambda m, x: F.conv2d(x, x), "conv2d"),
        (lambda m, x: F.unfold(x, 3), "unfold"),
        (lambda m, x: torch.fft.fft2(x), "fft_fft2"),
        (lambda m, x: x if x.sum() > 0 else -x, "gt"),
        (lambda m, x: x if x.mean() else -x, "bool"),
        (lambda m, x: Hidden.apply(x), "roll"),
        (assign, "setitem"),
        (uneven, "add"),
    ],
)
def test_what_cannot_be_followed_is_named(function, operation):
    with pytest.raises(ValueError, match=f"'{operation}'"):
        layer_table(Apply(function))


def test_modules_that_are_refused_are_named():
    for module, operation in [
        (nn.MultiheadAttention(4, 2), "multi_head_attention_forward"),
        (nn.LSTM(4, 4), "lstm"),
    ]:
        net = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(2))
        net.append(type("Tokens", (nn.Module,), {"forward": lambda s, x: s.m(*[x.mT] * s.n)})())
        net[2].m, net[2].n = module, 3 if operation.startswith("multi") else 1
        with pytest.raises(ValueError, match=f"2.m|'{operation}'|'mT'"):
            layer_table(net)
    model, _ = build("vit_b_16")
    with pytest.raises(ValueError, match="'multi_head_attention_forward' in encoder.layers"):
        layer_table(model, (3, 224, 224))


def test_code_that_torch_does_not_show_is_refused():
    with pytest.raises(ValueError, match="torch does not show"):
        layer_table(Apply(lambda m, x: m.conv(torch.vmap(lambda image: image.flip(0))(x))))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_models_without_weights_or_code_are_refused():
    lazy, bare = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU()), nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match="call the model on a batch first"):
        layer_table(lazy)
    lazy(torch.zeros(1, 3, 32, 32))
    assert layer_table(lazy).total_params == layer_table(bare).total_params == 112
    with pytest.raises(ValueError, match="give the module it was made from"):
        layer_table(torch.jit.trace(bare, torch.zeros(1, 3, 32, 32)))


def test_wrong_arguments():
    with pytest.raises(ValueError, match="sequential"):
        layer_table(DavidNet(1), counting="serial")
    with pytest.raises(ValueError, match="'linear' in classifier"):
        layer_table(DavidNet(1), (3, 64, 64))
    with pytest.raises(ValueError, match="'conv2d' in stem.0"):
        layer_table(DavidNet(1), (1, 32, 32))
    with pytest.raises(ValueError, match="no row 'stage9'.*stage1.conv1"):
        empirical_receptive_field(DavidNet(1), "stage9")
    with pytest.raises(ValueError, match="flatten has no receptive field"):
        empirical_receptive_field(DavidNet(1), "flatten")
    with pytest.raises(ValueError, match="border"):  # clipped: the trap of measuring at 32x32
        empirical_receptive_field(DavidNet(1), "stage3.add", (3, 32, 32))
    assert empirical_receptive_field(DavidNet(1), "stage3.add", (3, 160, 160)) == (64, 64)


def test_a_dilation_that_jumps_over_the_border_is_not_mistaken_for_a_small_field():
    net = nn.Sequential(nn.Conv2d(3, 1, (3, 1), padding=(40, 0), dilation=(40, 1)))
    assert layer_table(net).rf == (81, 1)
    assert empirical_receptive_field(net, "0") == (81, 1)


# Nothing is changed


@pytest.mark.parametrize("case", ["table", "sequential", "empirical", "effective", "refused"])
def test_the_model_stays_as_it_was(case):
    torch.manual_seed(0)
    net = DavidNet(2)
    if case == "refused":
        net = nn.Sequential(net.stem, nn.Dropout2d(), nn.Upsample(scale_factor=2))
    net.train()
    next(net.modules()).custom = torch.ones(2, requires_grad=True) * 2  # cannot be deep-copied
    net(torch.randn(4, 3, 32, 32)).sum().backward()
    calls = []
    for module in net.modules():
        module.register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy([p.grad for p in net.parameters()])
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    rng = torch.get_rng_state()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    if case == "refused":
        with pytest.raises(ValueError, match="interpolate"):
            layer_table(net)
    elif case == "empirical":
        empirical_receptive_field(net, "stage2.pool")
    elif case == "effective":
        effective_receptive_field(net, "stage2.pool", images)
        assert not images.requires_grad and images.grad is None
    else:
        layer_table(net, counting="graph" if case == "table" else case)

    assert not calls and all(m.training for m in net.modules())
    assert all(len(m._forward_hooks) == 1 and not m._forward_pre_hooks for m in net.modules())
    assert torch.equal(rng, torch.get_rng_state())
    for name, value in net.state_dict().items():
        assert torch.equal(value, weights[name]), name
    for p, grad in zip(net.parameters(), before, strict=True):
        assert p.requires_grad and torch.equal(p.grad, grad) and not hasattr(p, "_seen")
    first = "0.0" if case == "refused" else "stem.0"
    with torch.inference_mode():
        assert effective_receptive_field(net, first, images).any()


# The effective field


def test_effective_field_lies_in_the_theoretical_one_and_is_the_mean_gradient():
    torch.manual_seed(0)
    net, x = DavidNet(4).eval(), torch.randn(3, 3, 64, 64)
    field = effective_receptive_field(net, "stage2.relu", x)
    assert field.shape == (64, 64)
    row = next(row for row in layer_table(net).rows if row.name == "stage2.relu")
    first, last = window(row, 0, 8)
    inside = field[max(first, 0) : last + 1, max(first, 0) : last + 1]
    assert inside.sum() == pytest.approx(field.sum()) and field.sum() > 0
    x.requires_grad_()
    out = Until(net, 2)(x)
    (gradient,) = torch.autograd.grad(out[:, :, 8, 8].sum(), x)
    assert torch.from_numpy(field).equal(gradient.abs().mean((0, 1)))


def test_effective_field_is_heavier_in_the_middle():
    """Luo et al.: of stacked equal convolutions the effective field is a Gaussian's."""
    net = nn.Sequential(*[nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(10)])
    for p in net.parameters():
        nn.init.constant_(p, 1 / 9)
    field = effective_receptive_field(net, "9", torch.zeros(1, 1, 41, 41))
    offsets = torch.arange(41) - 20.0
    rows = torch.from_numpy(field).sum(1)
    assert rows.sum().item() == pytest.approx(1)
    assert (rows * offsets**2).sum().item() == pytest.approx(10 * 2 / 3, rel=1e-4)  # variances add


# Beside torchsummary, and on the page


def from_torchsummary(model):
    from torchsummary import summary

    with redirect_stdout(io.StringIO()) as out:
        summary(model, (3, 32, 32), device="cpu")
    text = out.getvalue().replace(",", "")
    rows = re.findall(r"^\s*(\w+)-\d+\s+\[-1 ([\d ]+)\]\s+(\d+)$", text, re.M)
    rows = [(kind, tuple(map(int, size.split())), int(n)) for kind, size, n in rows]
    return rows, int(re.search(r"Total params: (\d+)", text)[1])


@pytest.mark.parametrize("build_net", [lambda: DavidNet(8), torchvision.models.resnet18])
def test_rows_and_totals_agree_with_torchsummary(build_net):
    rows, total = from_torchsummary(build_net())
    table = layer_table(build_net(), counting="sequential")
    ours = [(r.kind, r.output, r.params) for r in table.rows[:-1]]  # it leaves the root out
    assert ours == rows and table.total_params == total == layer_table(build_net()).total_params
    modules = [(r.kind, r.output, r.params) for r in layer_table(build_net()).rows]
    leaves = [row for row in rows if row[0] not in ("BasicBlock", "TransitionBlock")]
    assert [row for row in modules if row[0] in {leaf[0] for leaf in leaves}] == leaves


def test_where_torchsummary_is_wrong_the_table_is_right():
    net = Apply(lambda m, x: m.conv(m.conv(x)) * m.scale)
    _, total = from_torchsummary(net)
    parameters = sum(p.numel() for p in net.parameters())
    assert total != parameters == layer_table(net).total_params


def test_text_and_html():
    table = layer_table(DavidNet())
    lines = str(table).splitlines()
    assert len(lines) == len(table.rows) + 2
    assert lines[-1].split() == ["total", "6,713,674", "383,456,256", "64"]
    assert lines[1].split() == ["stem.0", "Conv2d", "64x32x32", "1,728", "1,769,472", "3", "1"]
    page = table._repr_html_()
    assert page.count("<tr>") == page.count("</tr>") == len(lines)
    assert page.count("</td>") + page.count("</th>") == 7 * len(lines)
    assert page.count('<th scope="col"') == 7 and page.count('<th scope="row"') == len(lines) - 1
    assert page.count('align="right"') == 5 * len(lines)  # styles are taken out on GitHub
    assert "383,456,256" in page
    net = nn.Sequential()
    net.add_module("<b>", nn.Conv2d(3, 1, (1, 3)))
    page = layer_table(net)._repr_html_()
    assert "&lt;b&gt;" in page and ">1x3<" in page and "<b>" not in page


def test_what_lesson_02_says_of_the_cores_of_stage3():
    """Along the shortcuts four units of a row see pixels 0 to 29 of an image, side by side."""
    torch.manual_seed(0)
    net, x = DavidNet(16).eval(), torch.randn(16, 3, 32, 32, requires_grad=True)
    for main_path in (net.stage1.bn3, net.stage3.bn3):
        main_path.weight.data.zero_()
    seen = []
    for unit in range(4):
        out = net.stage3(net.stage2(net.stage1(net.stem(x))))
        (gradient,) = torch.autograd.grad(out[:, :, 0, unit].sum(), x)
        columns = gradient.abs().sum((0, 1, 2)).nonzero().flatten()
        seen.append((columns.min().item(), columns.max().item()))
    assert seen == [(0, 5), (5, 13), (13, 21), (21, 29)]


@pytest.mark.parametrize(
    "pool, size, expected",
    [
        (nn.AvgPool2d(3), 28, 22),  # the mean over the whole 3x3 map, written in two ways
        (nn.AdaptiveAvgPool2d(1), 28, 22),
        (nn.MaxPool2d(3), 28, 38),  # one more step down
        (nn.AvgPool2d(4), 56, 46),  # leaves 1x1 of 7x7, but does not see all of it
    ],
)
def test_a_head_is_a_pool_over_the_whole_map(pool, size, expected):
    stages = [nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.MaxPool2d(2)) for _ in range(3)]
    net = nn.Sequential(nn.Conv2d(1, 2, 1), *stages, nn.CELU(), pool, nn.Flatten())
    assert layer_table(net, (1, size, size)).rf == expected
