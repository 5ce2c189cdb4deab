"""One run of a model, seen call by call: what is computed, and which pixels each unit can see.

The rules are those of Araujo et al. 2019, "Computing Receptive Fields of Convolutional Neural
Networks", along height and width apart. Hooks see modules only; a TorchFunctionMode sees every
torch call, so functional pools, sums, concatenations and shared modules count for what they are.
A call without a rule (attention, upsampling, ...) is an error that names it, not a wrong number.
"""

import copy
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, reduce
from math import inf, prod

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ARGUMENTS = {  # the names of positional arguments
    "conv2d": "input weight bias stride padding dilation groups",
    "linear": "input weight bias",
    "max_pool2d": "input kernel_size stride padding dilation ceil_mode",
    "avg_pool2d": "input kernel_size stride padding ceil_mode",
    "adaptive_avg_pool2d": "input output_size",
    "adaptive_max_pool2d": "input output_size",
    "pad": "input pad",
    "getitem": "input index",
}
# A normalisation's statistics are taken as constants.
POINTWISE = set(
    "abs add alpha_dropout batch_norm cat celu channel_shuffle clamp clone concat contiguous "
    "detach div dropout dropout2d elu exp expand expand_as float gelu group_norm hardsigmoid "
    "hardswish hardtanh instance_norm layer_norm leaky_relu local_response_norm log_softmax "
    "logsigmoid maximum minimum mish mul neg normalize pow prelu reciprocal relu relu6 rsub selu "
    "sigmoid silu softmax softplus sqrt square sub tanh to where".split()
)
ALONG = set("cat concat softmax log_softmax".split())  # pointwise but along this one axis
REDUCE = set("amax amin max mean min norm std sum var".split())
REARRANGE = set("chunk permute select split transpose unbind".split())
RESHAPE = set("flatten reshape squeeze unflatten unsqueeze view".split())
CONSTANT = False  # _seen where no pixel matters; None: no map, or each unit sees all of it


@dataclass(frozen=True)
class Span:
    """Along one axis, unit i of a map sees the pixels low + i*jump ... high + i*jump."""

    low: float = 0
    high: float = 0
    jump: int = 1
    pooled: bool = False  # after a pool over the whole map

    def slide(self, kernel: int, stride: int, padding: int, dilation: int = 1) -> "Span":
        """What the units after a convolution or a pool see."""
        low = self.low - padding * self.jump
        high = self.high + (dilation * (kernel - 1) - padding) * self.jump
        return replace(self, low=low, high=high, jump=self.jump * stride)

    def join(self, other: "Span") -> "Span":
        """What the units of a sum, a product or a concatenation see."""
        if self.jump != other.jump:
            raise ValueError(f"its inputs have different jumps, {self.jump} and {other.jump}")
        low, high = min(self.low, other.low), max(self.high, other.high)
        return Span(low, high, self.jump, self.pooled and other.pooled)


@dataclass(frozen=True)
class Row:
    """One call. rf, jump: pixels, (height, width) where they differ, None where there is none."""

    name: str
    kind: str
    output: tuple[int, ...]  # without the batch
    params: int
    macs: int  # multiply-adds
    rf: int | tuple[int, int] | None = None
    jump: int | tuple[int, int] | None = None
    spans: tuple[Span, Span] | None = None  # height, width


def pair(value: int | tuple) -> tuple[int, int]:
    return tuple(value) * (2 // len(value)) if isinstance(value, (tuple, list)) else (value, value)


def _merged(height: float, width: float) -> int | tuple | None:
    return None if inf in (height, width) else height if height == width else (height, width)


def _tensors(value) -> list[Tensor]:
    value = list(value.values()) if isinstance(value, dict) else value
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in _tensors(part)]
    return [value] if isinstance(value, Tensor) else []


def window(op: str, call: dict) -> tuple[tuple, tuple, tuple, tuple]:
    """Kernel, stride, padding and dilation of a convolution or a pool, as pairs."""
    kernel = tuple(call["weight"].shape[2:]) if op == "conv2d" else pair(call["kernel_size"])
    stride = pair(call.get("stride") or (1 if op == "conv2d" else kernel))
    dilation, padding = pair(call.get("dilation", 1)), call.get("padding", 0)
    if padding == "same":  # torch pads less in front where the two sides differ
        padding = [d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True)]
    return kernel, stride, pair(0 if padding == "valid" else padding), dilation


def _union(inputs: list[Tensor], out: Tensor) -> tuple[Span, Span] | None:
    """Several maps combined; with a gate made from a whole map, each unit sees the whole image."""
    spans = []
    for k in (0, 1):
        full = [t._seen[k] for t in inputs if t._seen and t.shape[k - 2] == out.shape[k - 2]]
        if not full:
            return None
        gates = [Span(-inf, inf, full[0].jump)] * (len(full) < len(inputs))
        spans.append(reduce(Span.join, full + gates))
    return tuple(spans)


def _rule(op: str, call: dict, again: Callable, inputs: list[Tensor], out: Tensor):
    """What the output of a call sees, (Span, Span) or None; `again` repeats it on another input."""
    x, spans, before, after = inputs[0], inputs[0]._seen, inputs[0].shape[-2:], out.shape[-2:]
    if op in ("conv2d", "linear") and (len(inputs) > 1 or x is not call["input"]):
        raise ValueError("its weights depend on the input")
    if op in POINTWISE or (op in REDUCE and len(inputs) > 1):
        dim = call.get("dim", call.get("axis", 0)) if op in ALONG else 0
        if spans and dim % out.ndim >= out.ndim - 2:
            raise ValueError("it mixes the positions of a map")
        return _union(inputs, out)
    if op not in ARGUMENTS and op not in REDUCE | REARRANGE | RESHAPE:
        raise ValueError("there is no rule for it")
    if not spans:
        return None
    if op in RESHAPE:
        return spans if after == before else None
    if op in ("conv2d", "max_pool2d", "avg_pool2d"):
        sizes = window(op, call)
        # A head: a mean over the whole map. So is a maximum, unless its window is 2 or 3: such
        # pools shrink a map step by step, and the last step may leave 1x1.
        whole = op != "conv2d" and sizes[0] == tuple(before)
        head = whole and (op == "avg_pool2d" or max(sizes[0]) > 3)
        spans = tuple(map(Span.slide, spans, *sizes))
        return tuple(replace(s, pooled=True) for s in spans) if head else spans
    if op in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        if 1 in after or any(n % m for n, m in zip(before, after, strict=True)):
            return None  # it takes the whole map, or its windows differ in size
        steps = [n // m for n, m in zip(before, after, strict=True)]
        return tuple(map(Span.slide, spans, steps, steps, (0, 0)))
    if op == "pad":
        left, _, top = (*call["pad"], 0)[:3]
        return spans[0].slide(1, 1, top), spans[1].slide(1, 1, left)
    if op == "getitem":
        index = call["index"] if isinstance(call["index"], tuple) else (call["index"],)
        if all(isinstance(i, slice) for i in index):
            index = (*index, *[slice(None)] * (x.ndim - len(index)))
            cuts = [i.indices(n) for i, n in zip(index[-2:], before, strict=True)]
            return tuple(s.slide(1, c[2], -c[0]) for s, c in zip(spans, cuts, strict=True))
    # On a map of another size the same call shows whether the last two axes are still the map's.
    odd = (max(x.shape) + 1, max(x.shape) + 2)
    if op != "linear" and again(torch.empty(*x.shape[:-2], *odd, device="meta")).shape[-2:] == odd:
        return spans
    if op in REDUCE or prod(before) == 1:
        return None
    raise ValueError("it moves, cuts or mixes height and width")


class Reached(Exception):
    """The row that was asked for has been computed."""


class Run(TorchFunctionMode):
    """Names and counts the calls of one run; `compute` may replace them, `stop` names the last."""

    def __init__(self, model: nn.Module, compute: Callable | None = None, stop: str | None = None):
        super().__init__()
        self.compute, self.stop, self.op, self.path = compute, stop, "forward", [("", model)]
        self.rows, self.modules, self.out = [], [], None
        self.params, self.macs, self.counted, self.used = 0, 0, set(), Counter()
        for name, module in model.named_modules():
            module.register_forward_pre_hook(lambda m, _, name=name: self.path.append((name, m)))
            module.register_forward_hook(partial(self.leave, name))

    def leave(self, name: str, module: nn.Module, inputs: tuple, output):
        self.path.pop()
        if out := _tensors(output):
            self.modules.append((name, module, out[0]))
            if _is_leaf(module):
                self.add(name, type(module).__name__, out[0])

    def add(self, name: str, kind: str, out: Tensor):
        spans = getattr(out, "_seen", CONSTANT)
        if spans is CONSTANT:
            return
        self.used[name] += 1
        name += f":{self.used[name]}" * (self.used[name] > 1)
        row = Row(name, kind, tuple(out.shape[1:]), self.params, self.macs, spans=spans)
        if spans:
            rf, jump = [s.high - s.low + 1 for s in spans], [s.jump for s in spans]
            row = replace(row, rf=_merged(*rf), jump=_merged(*jump))
        self.rows.append(row)
        self.params = self.macs = 0
        if name == self.stop:
            self.out = out
            raise Reached

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.__self__.__name__ if func.__name__ == "__get__" else func.__name__
        op = name.strip("_").removesuffix("_with_indices")
        call = dict(zip(ARGUMENTS.get(op, "input dim").split(), args, strict=False)) | kwargs
        tensors = _tensors([args, kwargs])
        inputs = [t for t in tensors if getattr(t, "_seen", CONSTANT) is not CONSTANT]
        self.op = op if inputs else self.op
        if any(t.is_meta and not hasattr(t, "_seen") for t in tensors):
            raise ValueError(f"an input of '{op}' was made by code that torch does not show")
        if inputs and op == "setitem":
            raise ValueError("it writes into a part of a tensor: use torch.cat")
        out = self.compute(op, call, inputs) if self.compute and inputs else None
        out = func(*args, **kwargs) if out is None else out
        if not (outputs := _tensors(out)):
            return out  # a shape, a number
        new = {t for t in tensors if isinstance(t, nn.Parameter)} - self.counted
        self.params += sum(p.numel() for p in new)
        self.counted |= new
        again = lambda x: _tensors(func(x, *args[1:], **kwargs))[0]
        seen = _rule(op, call, again, inputs, outputs[0]) if inputs else CONSTANT
        for t in outputs:
            t._seen = seen
        if inputs and op in ("conv2d", "linear"):
            self.macs += out[0].numel() * call["weight"][0].numel()
        if inputs and not _is_leaf(self.path[-1][1]):
            self.add(f"{self.path[-1][0]}.{op}".lstrip("."), op, outputs[0])
        return out


def _is_leaf(module: nn.Module) -> bool:
    """One of torch's own layers: all calls in it make one row."""
    own = type(module).__module__.startswith("torch.nn.modules.")
    return own and not isinstance(module, nn.Sequential) and not any(module.children())


def uncompiled(model: nn.Module) -> nn.Module:
    """The net inside torch.compile, since compiled code keeps the hooks it was compiled with."""
    return getattr(model, "_orig_mod", model)


def refuse_lazy(model: nn.Module) -> None:
    """ValueError for a model whose weights have no shape yet."""
    if any(map(nn.parameter.is_lazy, model.parameters())):
        raise ValueError("a lazy layer has no weights yet: call the model on a batch first")


def run(model: nn.Module, x: Tensor, weights: bool = False, **options) -> Run:
    """Runs a copy of the model, in eval mode, without hooks; weights=True: with real weights."""
    model, memo = uncompiled(model), {}
    refuse_lazy(model)
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError("cannot follow a scripted model: give the module it was made from")
        memo |= {id(v): OrderedDict() for k, v in vars(module).items() if k.endswith("_hooks")}
        for t in _tensors(vars(module)):
            dtype = torch.float32 if t.is_floating_point() else t.dtype
            twin = torch.empty(t.shape, dtype=dtype, device="meta")
            twin = t.detach().clone() if weights else twin
            twin = nn.Parameter(twin, False) if isinstance(t, nn.Parameter) else twin
            twin._seen, memo[id(t)] = CONSTANT, twin
    model = copy.deepcopy(model, memo).eval()
    x._seen = (Span(), Span()) if x.ndim == 4 else None
    seen = Run(model, **options)
    try:
        with torch.random.fork_rng([x.device] if x.is_cuda else []), torch.device(x.device), seen:
            model(x)
    except Reached:
        pass
    except Exception as error:
        name, module = seen.path[-1]
        place = f"{name or 'the model'} ({type(module).__name__}), input {tuple(x.shape[1:])}"
        raise ValueError(f"cannot follow '{seen.op}' in {place}: {error}") from error
    return seen
