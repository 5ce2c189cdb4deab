"""Layer table and receptive field, by theory (helpers/tracing.py) and by gradient.

Nothing here changes the model: copies of it run, in eval mode; the table needs no data.
"""

import html
from dataclasses import dataclass
from functools import reduce
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.tracing import POINTWISE, Row, pair, run, window


@dataclass(frozen=True)
class LayerTable:
    """Rows in the order of the calls; rf: of the last row before a flatten or a global pool.

    print() shows it as text, a notebook as HTML. rf None beside a jump means the whole image.
    """

    rows: tuple[Row, ...]
    rf: int | tuple[int, int] | None

    @property
    def total_params(self) -> int:
        return sum(row.params for row in self.rows)

    @property
    def total_macs(self) -> int:
        return sum(row.macs for row in self.rows)

    def _cells(self) -> list[list[str]]:
        size = lambda v: "–" if v is None else "x".join(map(str, v)) if type(v) is tuple else str(v)
        total = Row("total", "", (), self.total_params, self.total_macs, self.rf, ())
        cells = [["layer", "kind", "output", "parameters", "multiply-adds", "rf", "jump"]]
        for r in (*self.rows, total):
            numbers = [size(r.output), f"{r.params:,}", f"{r.macs:,}", size(r.rf), size(r.jump)]
            cells.append([r.name, r.kind, *numbers])
        return cells

    def __str__(self) -> str:
        cells = self._cells()
        width = [max(map(len, column)) for column in zip(*cells, strict=True)]
        form = "  ".join(f"{{:{'<<>>>>>'[k]}{w}}}" for k, w in enumerate(width))
        return "\n".join(form.format(*row).rstrip() for row in cells)

    __repr__ = __str__  # a notebook without HTML shows the table too

    def _repr_html_(self) -> str:
        cell = '<{0} align="{1}" style="text-align:{1}">{{}}</{2}>'.format  # GitHub drops styles
        left, right = cell("td", "left", "td"), cell("td", "right", "td")
        named = cell('th scope="row"', "left", "th")
        head = "".join(cell('th scope="col"', side, "th") for side in ["left"] * 2 + ["right"] * 5)
        first, *rest = [list(map(html.escape, row)) for row in self._cells()]
        rows = "".join(f"<tr>{(named + left + right * 5).format(*row)}</tr>" for row in rest)
        return f"<table><thead><tr>{head.format(*first)}</tr></thead><tbody>{rows}</tbody></table>"


def layer_table(
    model: nn.Module, input_size: tuple[int, ...] = (3, 32, 32), counting: str = "graph"
) -> LayerTable:
    """The table for one image of input_size (channels, height, width), model in eval mode.

    Multiply-adds: of convolutions and linear layers, without bias. Parameters: each once, where it
    is first used. A part of a map's channels counts as seeing what all of them see.
    counting: "graph", or "sequential", as the source's table was made: modules in the order of
    their calls, as if they were one chain. It runs through the shortcuts as well, so it is wrong
    for every net that branches (114 for DavidNet, where 64 is true); kept to show the mistake.
    Raises ValueError that names the operation where a model cannot be followed.
    """
    if counting not in ("graph", "sequential"):
        raise ValueError(f'counting is {counting!r}: expected "graph" or "sequential"')
    with torch.no_grad():
        seen = run(model, torch.empty(2, *input_size, device="meta"))
    if counting == "sequential":
        return _sequential(seen.modules)
    rest = sum(p.numel() for p in model.parameters()) - sum(row.params for row in seen.rows)
    unused = [Row("(never called)", "Parameter", (), rest, 0)] * (rest > 0)
    fields = [row.rf for row in seen.rows if row.spans and not row.spans[0].pooled]
    return LayerTable((*seen.rows, *unused), fields[-1] if fields else None)


def _sequential(modules: list[tuple[str, nn.Module, Tensor]]) -> LayerTable:
    rows, rf, jump = [], 1, 1
    for name, module, out in modules:
        if isinstance(module, nn.Sequential):
            continue
        kind, macs, field = type(module).__name__, 0, (0, 0)
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            macs = out[0].numel() * module.weight[0].numel()
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
            rf += (pair(module.kernel_size)[0] - 1) * jump
            field, jump = (rf, jump), jump * pair(module.stride)[0]
        params = sum(p.numel() for p in module.parameters(recurse=False))
        rows.append(Row(name or kind, kind, tuple(out.shape[1:]), params, macs, *field))
    return LayerTable(tuple(rows), rf)


def _averages(op: str, call: dict, inputs: list[Tensor]) -> Tensor | None:
    """What replaces a call: an average or a sum of its inputs; None: the call stays."""
    if op in POINTWISE - {"cat", "concat", "contiguous", "expand", "expand_as"}:
        return reduce(torch.add, inputs)
    if op == "linear":
        mean = call["input"].mean(-1, keepdim=True)
        return mean.expand(*mean.shape[:-1], len(call["weight"]))
    if op not in ("conv2d", "max_pool2d", "avg_pool2d"):
        return None
    kernel, stride, padding, dilation = window(op, call)
    # A dilated window without holes has the same extent, and shows at the border where it is cut.
    kernel = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if op != "conv2d":
        return F.avg_pool2d(call["input"], kernel, stride, padding, call.get("ceil_mode", False))
    groups = call.get("groups", 1)
    x = call["input"].unflatten(1, (groups, -1)).mean(2)
    weight = x.new_full((groups, 1, *kernel), 1 / prod(kernel))
    x = F.conv2d(x, weight, None, stride, call.get("padding", 0), groups=groups)
    return x.repeat_interleave(len(call["weight"]) // groups, 1)


def _gradient(model: nn.Module, layer: str, x: Tensor, **options) -> tuple[Tensor, Tensor]:
    """|d unit / dx|, (N, C, H, W), of the centre unit over all channels, and the layer's map."""
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        seen = run(model, x, stop=layer, **options)
        if seen.out is None:
            raise ValueError(f"no row {layer!r}: expected one of {[r.name for r in seen.rows]}")
        if seen.rows[-1].rf is None:
            raise ValueError(f"{layer} has no receptive field at {tuple(x.shape)}: choose another")
        height, width = seen.out.shape[-2:]
        unit = seen.out[..., height // 2, width // 2].sum()
        return torch.autograd.grad(unit, x)[0].abs(), seen.out


def empirical_receptive_field(
    model: nn.Module, layer: str, input_size: tuple[int, int, int] | None = None
) -> tuple[int, int]:
    """(height, width) in pixels, measured: how far the gradient of the layer's centre unit reaches.

    On a copy in which windows average and the rest adds up, so that no path can cancel another.
    layer: a row's name. input_size: (channels, height, width), by default grown until the field
    is clear of the border; ValueError where it is not, or where the layer has no field.
    """
    for size in [input_size] if input_size else [(3, 2**n, 2**n) for n in range(6, 12)]:
        x = torch.zeros(1, *size, dtype=torch.float64)
        gradient, out = _gradient(model, layer, x, compute=_averages)
        ends = [gradient.sum((0, 1, 3 - k)).nonzero().flatten()[[0, -1]].tolist() for k in (0, 1)]
        # A field that is cut ends within a unit of the border, and of 9 units in its first eighth.
        clear = [n // 8 <= a and b < n - n // 8 for n, (a, b) in zip(size[1:], ends, strict=True)]
        if all(clear) and min(out.shape[-2:]) > 8:
            return tuple(b - a + 1 for a, b in ends)
    raise ValueError(
        f"the field of {layer} is too near the border of {size}: use larger input_size"
    )


def effective_receptive_field(model: nn.Module, layer: str, images: Tensor) -> np.ndarray:
    """(H, W): mean |gradient| of the layer's centre unit, over images (N, 3, H, W) and channels.

    Luo et al. 2016, "Understanding the Effective Receptive Field in Deep CNNs". With the
    model's own weights, in eval mode. images: normalised, on its device; layer: a row's name.
    """
    return _gradient(model, layer, images, weights=True)[0].mean((0, 1)).cpu().numpy()
