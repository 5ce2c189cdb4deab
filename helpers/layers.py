"""Layer table and receptive field, by theory and by gradient.

The model runs once, without data (torch's meta device). Every torch call is seen as it happens, so
functional pools, sums, concatenations and shared modules count for what they are. Beside each map
travels the interval of input pixels its units see (Araujo et al. 2019, "Computing Receptive Fields
of Convolutional Neural Networks"): unit i sees low + i*jump ... high + i*jump, in height and width.

Conventions. Multiply-adds: convolutions and linear layers, for one image; no bias, norm, pool or
sum. Statistics of a normalisation are constants. A part of the channels sees what all see.
What has no such interval (attention, upsampling, ...) is refused by name: never a wrong number.
"""

import copy
import html
import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, reduce

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

POINTWISE = set(
    "abs add alpha_dropout batch_norm celu channel_shuffle clamp clamp_max clamp_min clone concat "
    "cat contiguous data detach div double dropout dropout2d elu exp expand expand_as float gelu "
    "group_norm half hardsigmoid hardswish hardtanh instance_norm layer_norm leaky_relu "
    "local_response_norm log log_softmax logsigmoid max maximum min minimum mish mul neg normalize "
    "pow prelu rdiv relu relu6 requires_grad rms_norm rrelu rsqrt rsub selu sigmoid silu softmax "
    "softplus softsign sqrt square sub tanh threshold to type where".split()
)
REDUCE = set("mean sum amax amin max min std var norm select unbind".split())
REARRANGE = set("permute transpose swapaxes movedim T mT chunk split tensor_split".split())
RESHAPE = set("flatten reshape squeeze unflatten unsqueeze view".split())
NO_FIELD, CONSTANT = None, False  # depends on every pixel, or on none


@dataclass(frozen=True)
class Span:
    """Along one axis, unit i of a map sees the pixels low + i*jump ... high + i*jump."""

    low: float = 0
    high: float = 0
    jump: int = 1

    def slide(self, kernel: int, stride: int, padding: int, dilation: int) -> "Span":
        high = self.high + (dilation * (kernel - 1) - padding) * self.jump
        return Span(self.low - padding * self.jump, high, self.jump * stride)


@dataclass(frozen=True)
class Field:
    """What the units of a map see; `axes`: where height and width are, counted from the end."""

    spans: tuple[Span, Span] = (Span(), Span())
    axes: tuple[int, int] = (-2, -1)
    pooled: bool = False  # behind a pool over the whole map


@dataclass(frozen=True)
class Row:
    """One call. rf and jump: pixels, (height, width) where they differ, None where there is none."""

    name: str
    kind: str
    output: tuple[int, ...]
    params: int
    macs: int
    rf: int | tuple[int, int] | None
    jump: int | tuple[int, int] | None
    field: Field | None = None

    def window(self, row: int, column: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """((top, bottom), (left, right)): the pixels unit (row, column) sees, the last included."""
        if self.rf is None:
            raise ValueError(f"{self.name} has no receptive field: choose a row that has one")
        spans = zip(self.field.spans, (row, column), strict=True)
        return tuple((s.low + i * s.jump, s.high + i * s.jump) for s, i in spans)


@dataclass(frozen=True)
class LayerTable:
    """rf: of the last row before a flatten or a pool over the whole map."""

    rows: tuple[Row, ...]
    rf: int | tuple[int, int] | None

    @property
    def total_params(self) -> int:
        return sum(row.params for row in self.rows)

    @property
    def total_macs(self) -> int:
        return sum(row.macs for row in self.rows)

    def _cells(self) -> list[tuple[str, ...]]:
        show = lambda v: "–" if v is None else "x".join(map(str, v if type(v) is tuple else [v]))
        head = ("layer", "kind", "output", "parameters", "multiply-adds", "rf", "jump")
        body = [
            (r.name, r.kind, show(r.output), f"{r.params:,}", f"{r.macs:,}", show(r.rf), show(r.jump))
            for r in self.rows
        ]
        total = ("total", "", "", f"{self.total_params:,}", f"{self.total_macs:,}", show(self.rf), "")
        return [head, *body, total]

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        align = [str.ljust, str.ljust] + 5 * [str.rjust]
        line = lambda row: "  ".join(a(c, w) for a, c, w in zip(align, row, widths, strict=True))
        rule = "-" * len(line(cells[0]))
        return "\n".join([line(cells[0]), rule, *map(line, cells[1:-1]), rule, line(cells[-1])])

    def _repr_html_(self) -> str:
        style = [' style="text-align:left"'] * 2 + [' style="text-align:right"'] * 5
        line = lambda row, tag: "<tr>{}</tr>".format(
            "".join(f"<{tag}{s}>{html.escape(c)}</{tag}>" for s, c in zip(style, row, strict=True))
        )
        head, *body, total = self._cells()
        body = "".join(line(row, "td") for row in body)
        return f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody><tfoot>{line(total, 'th')}</tfoot></table>"
