"""Plausible mistakes in the exercises of lesson 02."""

STAGE = """
class Stage(torch.nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        conv = lambda i, s: torch.nn.Conv2d(i, outputs, 3, s, padding={padding}, bias={bias})
        self.main = torch.nn.Sequential(
            conv(inputs, stride), torch.nn.BatchNorm2d(outputs), torch.nn.ReLU(),
            conv(outputs, 1), torch.nn.BatchNorm2d(outputs),
        )
        self.shortcut = torch.nn.Sequential(
            torch.nn.Conv2d(inputs, outputs, 1, {shortcut}, bias=False),
            torch.nn.BatchNorm2d(outputs),
        )

    def forward(self, x):
        return {out}
"""
GOOD = {"padding": 1, "bias": False, "shortcut": "stride", "out": "self.main(x) + self.shortcut(x)"}

LISTED = """
class Stage(torch.nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        conv = lambda i, k, s: torch.nn.Conv2d(i, outputs, k, s, padding=k // 2, bias=False)
        self.layers = [conv(inputs, 3, stride), conv(outputs, 3, 1), conv(inputs, 1, stride)]

    def forward(self, x):
        first, second, short = self.layers
        return second(F.relu(first(x))) + short(x)
"""

FIELD = """
def receptive_field(layers):
    size, jump = 1, 1
    for kernel, stride, padding, dilation in layers:
        {body}
    return size, jump
"""

COUNTER = """
def mended_counter(layers):
    rf, jump = 1, 1
    for branch, kernel, stride in layers:
        {body}
    return rf
"""

WRONG = {
    "check_conv_parameters": [
        "answer = 5 * 5 * 32 * 48",
        "answer = 5 * 5 * 48 + 48",
        "answer = 1",
        "answer = 5 * 5 * 32 * 48 + 32",
        "answer = 5 * 5 * 33 * 48",
        "answer = 5 * 5 * 32 * 48 + 32 * 48",
    ],  # fmt: skip
    "check_receptive_field": [
        FIELD.format(body="jump *= stride; size += dilation * (kernel - 1) * jump"),
        FIELD.format(body="size += (kernel - 1) * jump; jump *= stride"),
        FIELD.format(body="size += dilation * (kernel - 1) * jump; jump += stride - 1"),
        FIELD.format(body="size += dilation * kernel * jump; jump *= stride"),
        FIELD.format(body="size += (kernel - 1) * (jump + dilation - 1); jump *= stride"),
        FIELD.format(body="size += (kernel - 1 + 2 * (dilation - 1)) * jump; jump *= stride"),
        FIELD.format(
            body="size += dilation ** (stride == 1) * (kernel - 1) * jump; jump *= stride"
        ),
        FIELD.format(body="size += dilation * (kernel - 1) * jump; jump *= stride").replace(
            "size, jump\n", "size\n"
        ),
    ],
    "check_residual_stage": [
        STAGE.format(**GOOD | {"padding": 0}).replace("self.shortcut(x)", "0"),
        STAGE.format(**GOOD | {"bias": True}),
        STAGE.format(**GOOD | {"out": "F.relu(self.main(x) + self.shortcut(x))"}),
        STAGE.format(**GOOD | {"out": "self.main(x)"}),
        STAGE.format(**GOOD | {"shortcut": 1}),
        STAGE.format(**GOOD).replace("torch.nn.ReLU()", "torch.nn.Identity()"),
        STAGE.format(**GOOD | {"out": "F.relu(self.main(x)) + self.shortcut(x)"}),
        STAGE.format(**GOOD | {"out": "self.main(x) + F.relu(self.shortcut(x))"}),
        STAGE.format(**GOOD | {"out": "self.main(x) - self.shortcut(x)"}),
        STAGE.format(**GOOD | {"out": "self.main(x) + 0 * self.shortcut(x)"}),
        STAGE.format(**GOOD)
        .replace("conv(inputs, stride)", "conv(inputs, 1)")
        .replace("conv(outputs, 1)", "conv(outputs, stride)"),
        STAGE.format(**GOOD).replace("self.main(x) +", "self.main(F.relu_(x)) +"),
        STAGE.format(**GOOD | {"out": "self.main(x) + self.shortcut(x).detach()"}),
        STAGE.format(**GOOD).replace("bias=False)", "bias=False, groups=2)"),
        LISTED,
        # inputs channels to begin with
        STAGE.format(**GOOD)
        .replace("lambda i, s:", "lambda i, s, outputs=inputs:")
        .replace(
            "torch.nn.BatchNorm2d(outputs), torch.nn.ReLU()",
            "torch.nn.BatchNorm2d(inputs), torch.nn.ReLU()",
        )
        .replace("conv(outputs, 1)", "conv(inputs, 1, outputs)"),
        # the ReLU before the batch norm
        STAGE.format(**GOOD).replace(
            "torch.nn.BatchNorm2d(outputs), torch.nn.ReLU()",
            "torch.nn.ReLU(), torch.nn.BatchNorm2d(outputs)",
        ),
    ],
    "check_mended_counter": [
        COUNTER.format(body="rf += (kernel - 1) * jump; jump *= 1 if branch != 'main' else stride"),
        COUNTER.format(body="if kernel > 1: rf += (kernel - 1) * jump; jump *= stride"),
        COUNTER.format(body="rf += (kernel - 1) * jump; jump *= stride"),
        COUNTER.format(body="rf += (kernel - 1) * jump; jump *= stride").replace(
            "rf\n", "rf, jump\n"
        ),
        COUNTER.format(body="rf += (kernel - 1) * jump; jump *= 1 if kernel == 2 else stride"),
        COUNTER.format(
            body="rf += (kernel - 1) * jump; jump = jump * stride if branch == 'main' else 1"
        ),
    ],
}
