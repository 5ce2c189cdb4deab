"""A GPU that is only pretended, so that machines without one see what CUDA would refuse.

    with pretended_gpu((7, 5)):  # a T4 of Colab; GPUs from (8, 0) on have bfloat16
        torch.ones(2, device="cuda") + torch.ones(2)  # RuntimeError: two devices
    with pretended_mps():  # Apple's, which has no float64
        torch.ones(2).double().to("mps")  # TypeError

A tensor "on the GPU" is a tensor of the CPU with the class `OnGPU`, which says cuda:0 or mps:0.
`call` sees each call of a torch function, refuses what the GPU would, computes on the CPU, and
gives the result its class. Autocast rounds what a layer takes and returns to 16 bits; inside, it
counts in 32. It knows nothing of memory, speed, streams, compilers, kernels that CUDA lacks, or
several GPUs. Huge products, as they measure a GPU's peak, are zeros. Hooks on gradients see CPU
tensors.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import Mock, patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity

MAY_MIX = {"to", "copy_", "__set__data", "_has_compatible_shallow_copy_type"}  # the two devices
OF_THE_CLASS = {"__deepcopy__", "__reduce_ex__"}  # nn.Parameter has its own
RANDOM = re.compile("rand|dropout|normal|uniform|bernoulli|multinomial|exponential")
HALF = {"conv2d", "linear", "matmul", "__matmul__"}  # what autocast does in 16 bits, and in 32:
WHOLE = {"cross_entropy", "nll_loss", "softmax", "log_softmax", "norm", "sum", "exp", "log", "pow"}
HUGE = 2**24  # values: products of more are not computed
STREAM = torch.Generator()  # the GPU's own random numbers


class OnGPU(Tensor):
    """A tensor that says it is on the GPU. torch takes it for a parameter if it has `_is_param`."""

    kind = "cuda"
    device = property(lambda self: torch.device(self.kind, 0))
    is_cuda = property(lambda self: self.kind == "cuda")
    is_mps = property(lambda self: self.kind == "mps")
    __iter__ = lambda self: iter(self.unbind())

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return call(func, args, kwargs or {})


class EachCall(TorchFunctionMode):
    """While it is entered, `call` sees the calls without tensors on the GPU as well."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return call(func, args, kwargs or {})


class Generator(torch.Generator):
    """torch.Generator, which can say that it is on the GPU."""

    device = None

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        made.device = torch.device(device)
        return made


def put(tensor: Tensor, on_gpu: bool) -> None:
    """Change where this very object says it is, so that all who hold it see that."""
    if on_gpu != isinstance(tensor, OnGPU):
        kind = nn.Parameter if isinstance(tensor, nn.Parameter) else Tensor
        if kind is nn.Parameter:
            tensor._is_param = True
        tensor.__class__ = OnGPU if on_gpu else kind


def tensors_in(value) -> list[Tensor]:
    value = list(value.values()) if isinstance(value, dict) else value
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_in(item)]
    return [value] if isinstance(value, Tensor) else []


def call(func, args: tuple, kwargs: dict):
    """func(*args, **kwargs), as it would be with a GPU."""
    name = func.__name__
    name += func.__self__.__name__ if name in ("__get__", "__set__") else ""  # of an attribute
    given = [args[0]] if name in OF_THE_CLASS else tensors_in((args, kwargs))
    on_gpu = [tensor for tensor in given if isinstance(tensor, OnGPU)]
    func, args, kwargs, there = without_device(func, name, args, kwargs, bool(on_gpu))
    generator = kwargs.get("generator")
    refuse(name, args, given, generator, there)
    drawn = there and generator is None and RANDOM.search(name)
    if name == "__reduce_ex__":
        args[0].untyped_storage().on_gpu = bool(on_gpu)  # see `location`
    for tensor in on_gpu:
        put(tensor, False)
    try:
        swap_streams(drawn)
        func = getattr(type(args[0]), name) if name in OF_THE_CLASS else func
        out = compute(func, name, args, kwargs, bool(on_gpu))
    finally:
        swap_streams(drawn)
        for tensor in on_gpu:
            put(tensor, True)
    for tensor in tensors_in(out):
        if there and OnGPU.kind == "mps" and tensor.dtype == torch.float64:
            raise TypeError(f"MPS framework doesn't support float64: {name}")
        if not any(tensor is other for other in given):
            put(tensor, there)
    if name == "__set__data":
        put(args[0], isinstance(args[1], OnGPU))
    return out


def without_device(func, name: str, args: tuple, kwargs: dict, was: bool):
    """The same call on the CPU, and whether its result will be on the GPU, where its tensors are
    if `was`."""
    if name in ("to", "cpu", "cuda"):
        was, rest = isinstance(args[0], OnGPU), args[1:] if name == "to" else [name]
        if rest and isinstance(rest[0], Tensor):
            rest = [rest[0].device, rest[0].dtype]
        options = {key: value for key, value in kwargs.items() if key != "copy"}
        device, dtype, _, layout = torch._C._nn._parse_to(*rest, **options)
    else:
        device = kwargs.get("device") and torch.device(kwargs["device"])
        if name in ("tensor", "as_tensor") and not isinstance(args[0], Tensor):
            was = False  # a list's numbers go to the CPU
    there = was if device is None else device.type == OnGPU.kind
    if device is not None and device.type not in ("cpu", "meta", OnGPU.kind):
        raise AssertionError(f"Torch not compiled with {device.type} enabled")
    if device is not None and device.type == "meta":
        return func, args, kwargs, False
    if name in ("to", "cpu", "cuda"):
        options = {"copy": kwargs.get("copy", False) or there != was}
        options["memory_format"] = layout or torch.preserve_format
        return Tensor.to, (args[0], dtype or args[0].dtype), options, there
    if name == "as_tensor" and there != was:  # the two devices share no memory
        func = lambda *args, **kwargs: torch.as_tensor(*args, **kwargs).clone()
    return func, args, kwargs | {"device": None} if device else kwargs, there


def refuse(name: str, args: tuple, given: list[Tensor], generator, there: bool) -> None:
    """Raise what the GPU raises."""
    wanted = OnGPU.kind if there else "cpu"
    if generator is not None and generator.device.type != wanted:
        raise RuntimeError(f"Expected a '{wanted}' device type for generator, not {generator}")
    if name in ("__getitem__", "__setitem__"):
        index = [tensor for tensor in tensors_in(args[1]) if tensor.dim()]
        if not isinstance(args[0], OnGPU) and any(isinstance(i, OnGPU) for i in index):
            raise RuntimeError("indices should be on the same device as the indexed tensor (cpu)")
        given = [args[0], *tensors_in(args[2:])] if index else []  # x[2:4] = y copies
    on_gpu = any(isinstance(tensor, OnGPU) for tensor in given)
    like_numbers = name not in ("cat", "stack")  # those of the CPU without dimensions
    here = [t for t in given if not isinstance(t, OnGPU) and (t.dim() or not like_numbers)]
    if here and on_gpu and name not in MAY_MIX:
        raise RuntimeError(
            f"Expected all tensors on the same device, found {OnGPU.kind}:0 and cpu: {name}"
        )
    if name in ("numpy", "__array__") and on_gpu:
        place = f"{OnGPU.kind}:0"
        raise TypeError(f"can't convert {place} device type tensor to numpy. Use Tensor.cpu().")
    if name == "_fused_sgd_" and on_gpu:  # the CPU's would go wrong without a word
        for same in zip(*filter(None, args[:3]), strict=True):  # weight, gradient, momentum
            orders = [[s for s, n in zip(t.stride(), t.shape, strict=True) if n > 1] for t in same]
            if any(order != orders[0] for order in orders):
                raise RuntimeError("Expected check_fast_path_restrictions(...) to be true")


def compute(func, name: str, args: tuple, kwargs: dict, on_gpu: bool):
    """The call itself, on CPU tensors, in the precision that a GPU would take."""
    if on_gpu and name in HALF and sum(tensor.numel() for tensor in tensors_in(args)) > HUGE:
        out = func(*(a.to("meta") if isinstance(a, Tensor) else a for a in args), **kwargs)
        return torch.zeros(out.shape, dtype=out.dtype)
    if on_gpu and name == "conv2d" and args[1].shape[2:] == (1, 1):
        # In the other order CPUs crash, see `preparation.memory_format`.
        usual = [x.clone(memory_format=torch.contiguous_format) for x in args[:2]]
        args = (*usual, *args[2:])
    if not on_gpu or name not in HALF | WHOLE or not torch.is_autocast_enabled("cuda"):
        return func(*args, **kwargs)
    half = torch.get_autocast_dtype("cuda")
    rounded = lambda x: x.to(half).float() if name in HALF else x.float()
    fits = lambda x: isinstance(x, Tensor) and x.is_floating_point()
    out = func(*(rounded(a) if fits(a) else a for a in args), **kwargs)
    return out.to(half) if name in HALF else out


def swap_streams(drawn) -> None:
    """Exchange the random numbers of CPU and GPU, if any are drawn."""
    if drawn:
        state = torch.get_rng_state()
        torch.set_rng_state(STREAM.get_state())
        STREAM.set_state(state)


def location(storage) -> str | None:
    """For torch.save: where a storage was."""
    return f"{OnGPU.kind}:0" if getattr(storage, "on_gpu", False) else None


def restore(storage, place: str):
    """For torch.load: the storage that a file, or map_location, wants at this place."""
    storage.on_gpu = place.startswith(OnGPU.kind)
    return storage if storage.on_gpu else None


def load(*args, real=torch.load, **kwargs):
    content = real(*args, **kwargs)
    for tensor in tensors_in(content):
        put(tensor, location(tensor.untyped_storage()) is not None)
    return content


@contextmanager
def pretended_gpu(capability: tuple[int, int] = (7, 5)) -> Iterator[None]:
    """Within it this thread has one GPU of this capability; after it all is as before."""
    major, minor = capability
    gpu = SimpleNamespace(name="Pretended GPU", major=major, minor=minor, total_memory=16e9)
    kinds, record = [ProfilerActivity.CPU], torch.profiler.profile
    of_the_cpu = lambda activities=None, **options: record(activities=kinds, **options)
    answers = dict(is_available=True, device_count=1, current_device=0, synchronize=None)
    answers |= dict(get_device_name=gpu.name, get_device_properties=gpu)
    answers |= dict(get_device_capability=capability, is_initialized=True)
    cuda = {name: Mock(return_value=answer) for name, answer in answers.items()}
    cuda |= {
        "manual_seed_all": STREAM.manual_seed,
        "get_rng_state": lambda device=None: STREAM.get_state(),
        "get_rng_state_all": lambda: [STREAM.get_state()],
        "set_rng_state": lambda state, device=None: STREAM.set_state(state),
    }
    with (
        patch.multiple(torch.cuda, **cuda),
        patch.object(torch.profiler, "profile", of_the_cpu),
        pretended("cuda"),
    ):
        yield


@contextmanager
def pretended_mps() -> Iterator[None]:
    """Within it this thread has Apple's GPU; after it all is as before."""
    available = Mock(return_value=True)
    available.__wrapped__ = available  # torch's own is cached, and its compiler looks behind that
    functions = {
        "get_rng_state": STREAM.get_state,
        "set_rng_state": STREAM.set_state,
        "manual_seed": STREAM.manual_seed,
        "synchronize": Mock(),
    }
    with (
        patch.object(torch.backends.mps, "is_available", available),
        patch.multiple(torch.mps, **functions),
        pretended("mps"),
    ):
        yield


@contextmanager
def pretended(kind: str) -> Iterator[None]:
    """What both have in common."""
    no_compiler = Mock(side_effect=RuntimeError("no compiler here"))
    places = [(5, location, restore), *torch.serialization._package_registry]
    STREAM.manual_seed(0)
    with (
        patch.object(OnGPU, "kind", kind),
        patch.multiple(torch, load=load, compile=no_compiler, Generator=Generator),
        patch.object(torch.serialization, "_package_registry", places),
        EachCall(),
    ):
        yield
