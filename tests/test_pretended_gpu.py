"""The course on a GPU that is only pretended: what CUDA would refuse is found without one."""

import ast
import os
import signal
from contextlib import contextmanager, nullcontext
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pretended_gpu import pretended_gpu, pretended_mps
from test_exercises import NOTEBOOKS, find_exercises

from helpers import environment, notebooks, session
from helpers.augment import BatchAugment, Batches
from helpers.data import load
from helpers.evaluation import predict
from helpers.gradcam import grad_cam
from helpers.layers import empirical_receptive_field, layer_table
from helpers.lr_finder import lr_range_test
from helpers.measure import new_net
from helpers.models import DavidNet
from helpers.recipes import COURSE, SOURCE, SPEEDRUN
from helpers.training import Run, fit

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="has a real one: test_cuda.py")

ROOT = environment.ROOT
CUDA = torch.device("cuda", 0)
MACHINES = {"T4": (7, 5), "A100": (8, 0), "Mac": None}  # and what CUDA they are capable of


@contextmanager
def a_gpu(capability):
    """The pretended GPU, and nothing that the helpers remember of it; yields "cuda" or "mps"."""
    benchmark = torch.backends.cudnn.benchmark
    environment.cuda_works.cache_clear()
    try:
        with pretended_gpu(capability) if capability else pretended_mps():
            yield "cuda" if capability else "mps"
    finally:
        torch.backends.cudnn.benchmark = benchmark
        environment.cuda_works.cache_clear()


@pytest.fixture(params=[(7, 5), (8, 0)], ids=["T4", "A100"])
def gpu(request):
    with a_gpu(request.param):
        yield request.param


@pytest.fixture(params=MACHINES)
def device(request):
    """The GPU's kind, "cuda" or "mps", on each of the machines."""
    with a_gpu(MACHINES[request.param]) as kind:
        yield kind


@pytest.fixture(scope="module")
def shapes():
    return load("shapes", limit=400)


# The pretence itself


@pytest.mark.parametrize("machine", MACHINES)
def test_all_is_undone(machine):
    def state():
        modules = torch.cuda, torch.mps, torch.backends.mps
        return torch.load, torch.compile, torch.Generator, *(dict(vars(m)) for m in modules)

    before = state()
    with a_gpu(MACHINES[machine]) as kind:
        assert session.find_device().type == kind == torch.ones(2, device=kind).device.type
    assert before == state()
    assert type(torch.ones(2) + 1) is torch.Tensor


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(2, dtype=torch.float64).to("mps"),
        lambda: torch.from_numpy(np.ones(2)).to("mps"),
        lambda: torch.ones(2, device="mps").double(),
        lambda: torch.zeros(2, dtype=torch.float64, device="mps"),
        lambda: torch.nn.Linear(2, 2).double().to("mps"),
    ],
)
def test_a_mac_has_no_doubles(make):
    with pretended_mps(), pytest.raises(TypeError, match="MPS framework doesn't support float64"):
        make()


def test_a_gpu_of_another_maker_is_refused():
    with pretended_mps(), pytest.raises(AssertionError, match="not compiled with cuda"):
        torch.ones(2).cuda()
    with pretended_gpu(), pytest.raises(AssertionError, match="not compiled with mps"):
        torch.ones(2, device="mps")


@pytest.mark.parametrize(
    "mixed",
    [
        lambda here, there: here + there,
        lambda here, there: there @ here.T,
        lambda here, there: there.sum() + here,
        lambda here, there: torch.cat([there, here]),
        lambda here, there: torch.stack([there.sum(), here.sum()]),
        lambda here, there: F.linear(there, here),
        lambda here, there: torch.where(there > 0, there, here),
        lambda here, there: torch.equal(here, there),
        lambda here, there: here[there.argmax(1)],
        lambda here, there: there.gather(1, here.long()),
        lambda here, there: there.index_select(0, here[0].long()),
        lambda here, there: there.__setitem__(there > 0, here[0]),
        lambda here, there: torch.optim.SGD([there], 0.1).param_groups[0]["params"][0].add_(here),
        lambda here, there: setattr(there, "grad", here),
        lambda here, there: torch.nn.Linear(3, 3)(there),
    ],
)
def test_two_devices_do_not_mix(mixed, gpu):
    with pytest.raises(RuntimeError, match="on the same device"):
        mixed(torch.ones(2, 3), torch.ones(2, 3, device="cuda"))


def test_what_cuda_allows(gpu):
    here, there = torch.arange(6.0).view(2, 3), torch.arange(6.0, device="cuda").view(2, 3)
    for result in (
        there * here.sum(), there[here[0].long() % 2], there[:, [0, 1]], there.mean(), -there,
        here.to("cuda"), here.cuda(), here.to(there), torch.as_tensor(here, device="cuda"),
        torch.zeros_like(there), there.new_zeros(2), there.max(1)[1],
        *there, torch.empty(2, 3, device="cuda").copy_(here), there.clone().T, there.detach(),
    ):  # fmt: skip
        assert result.device == CUDA and result.is_cuda and type(result) is not torch.Tensor
    for result in (there.cpu(), there.to("cpu"), there.to(here), torch.tensor([there[0, 1]])):
        assert result.device.type == "cpu" and type(result) is torch.Tensor
    there[0] = here[1]
    assert there.tolist()[0] == [3, 4, 5] and float(there[1, 1]) == 4 == there[1, 1].item()
    here.zero_()  # another memory
    assert there[0, 0] == 3
    shared = torch.ones(2)
    torch.as_tensor(shared, device="cuda").zero_()
    assert shared.tolist() == [1, 1]


def test_parameters_stay_the_same_objects(gpu):
    layer = torch.nn.Linear(3, 2)
    weight, optimizer = layer.weight, torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer.to("cuda")
    assert layer.weight is weight and isinstance(weight, torch.nn.Parameter) and weight.is_cuda
    layer(torch.ones(4, 3, device="cuda")).sum().backward()
    assert weight.grad.device == CUDA and weight.grad is weight.grad
    before = weight.clone()
    optimizer.step()
    assert not torch.equal(before, weight)
    layer.cpu()
    assert layer.weight is weight and type(weight) is torch.nn.Parameter
    layer(torch.ones(4, 3))


@pytest.mark.parametrize("read", [torch.Tensor.numpy, np.asarray, lambda x: np.array(list(x))])
def test_numpy_cannot_read_it(read, gpu):
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        read(torch.ones(2, device="cuda"))
    read(torch.ones(2, device="cuda").cpu())


def test_random_numbers_are_those_of_the_device(gpu):
    for device in ("cpu", "cuda"):
        drawn = torch.rand(3, device=device, generator=torch.Generator(device).manual_seed(0))
        assert drawn.device.type == device
        other = torch.Generator({"cpu": "cuda", "cuda": "cpu"}[device])
        with pytest.raises(RuntimeError, match=f"Expected a '{device}' device type for generator"):
            torch.rand(3, device=device, generator=other)
    torch.manual_seed(0)
    here, there = torch.get_rng_state(), torch.cuda.get_rng_state()
    drawn = torch.rand(3, device="cuda")
    assert torch.equal(here, torch.get_rng_state())
    assert not torch.equal(there, torch.cuda.get_rng_state())
    torch.cuda.set_rng_state(there)
    torch.rand(3)
    assert torch.equal(drawn, torch.rand(3, device="cuda"))


def test_fused_sgd_wants_one_memory_order(gpu):
    """A dimension of 1 has none."""
    for shape, refused in (((4, 3, 3, 3), True), ((4, 3, 1, 1), False), ((4, 1, 3, 3), False)):
        weight = torch.nn.Parameter(torch.ones(shape, device="cuda"))
        optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, fused=True)
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        weight.data = weight.data.to(memory_format=torch.channels_last)
        weight.grad = torch.ones_like(weight)
        if refused:
            with pytest.raises(RuntimeError, match="check_fast_path_restrictions"):
                optimizer.step()
        else:
            optimizer.step()


def test_autocast_makes_16_bits(gpu):
    half, x = (torch.bfloat16, torch.float16)[gpu < (8, 0)], torch.ones(2, 3, device="cuda")
    weight = torch.full((4, 3), 1e5, device="cuda", requires_grad=True)
    with torch.autocast("cuda", half):
        out = F.linear(x, weight)
        assert out.dtype == half and out.isinf().all() == (half == torch.float16)
        assert F.cross_entropy(out, torch.tensor([0, 1], device="cuda")).dtype == torch.float32
    assert F.linear(x, weight).dtype == torch.float32


def test_files_know_where_their_tensors_were(tmp_path):
    path, places = tmp_path / "both.pt", lambda found: [x.device.type for x in found.values()]
    with pretended_gpu():
        torch.save({"there": torch.ones(2, device="cuda"), "here": torch.ones(2)}, path)
        for wanted, found in ((None, ["cuda", "cpu"]), ("cpu", ["cpu"] * 2), (CUDA, ["cuda"] * 2)):
            assert places(torch.load(path, wanted, weights_only=True)) == found
    with pytest.raises(RuntimeError, match="Attempting to deserialize object on a CUDA device"):
        torch.load(path, weights_only=True)
    assert places(torch.load(path, map_location="cpu", weights_only=True)) == ["cpu", "cpu"]


# The helpers


def devices(value) -> set[str]:
    """Of all tensors in a nest of dicts and lists."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return set().union(*map(devices, value))
    return {value.device.type} if isinstance(value, torch.Tensor) else set()


class Interrupted(Batches):
    """Presses Ctrl-C before the third batch of the second epoch."""

    def __iter__(self):
        for i, batch in enumerate(super().__iter__()):
            if (self.epoch, i) == (2, 2):
                signal.raise_signal(signal.SIGINT)
            yield batch


def training(shapes, recipe, device, kind=Batches):
    """A fresh net, and a function that trains it."""
    torch.manual_seed(0)
    model, recipe = new_net(recipe, shapes, 4).to(device), recipe.with_batch(64)
    augment = BatchAugment(shapes.train.mean, shapes.train.std, flip=recipe.flip)
    batches = kind(shapes.train, 64, augment, device, drop_last=True)
    return model, lambda **options: fit(
        model, batches, shapes.val, recipe=recipe, epochs=3, verbose=False, **options
    )


@pytest.mark.parametrize("recipe", [COURSE, SOURCE, SPEEDRUN], ids=lambda recipe: recipe.name)
def test_a_training_is_stopped_and_resumed(recipe, device, shapes, tmp_path):
    _, start = training(shapes, recipe, device, Interrupted)
    with pytest.raises(KeyboardInterrupt):
        start(out=tmp_path)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    scaled = device == "cuda" and torch.cuda.get_device_capability() < (8, 0)
    assert len(saved["begun"]["counts"]) == 3 and bool(saved["scaler"]) == scaled
    for part in ("model", "final", "optimizer"):
        assert devices(saved[part]) == {device}, part
    model, start = training(shapes, recipe, device)
    history = start(out=tmp_path, resume=True)
    assert devices(model.state_dict()) == {device}
    assert len(history) == 3 and all(np.isfinite(row["loss"]) for row in history)
    whole, start = training(shapes, recipe, device)
    start()
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


@pytest.mark.parametrize("recipe", [COURSE, SPEEDRUN], ids=lambda recipe: recipe.name)
@pytest.mark.parametrize(
    ("first", "second"),
    [*((name, "none") for name in MACHINES), *(("none", name) for name in MACHINES)]
    + [("A100", "Mac"), ("Mac", "A100")],
)
def test_a_training_moves_to_another_machine(first, second, recipe, shapes, tmp_path):
    """To one without a GPU, from it, or to another maker's."""
    machine = lambda name: nullcontext("cpu") if name == "none" else a_gpu(MACHINES[name])
    with machine(first) as device, pytest.raises(KeyboardInterrupt):
        training(shapes, recipe, device, Interrupted)[1](out=tmp_path)
    with machine(second) as device:
        model, start = training(shapes, recipe, device)
        assert len(start(out=tmp_path, resume=True)) == 3
        assert devices(model.state_dict()) == {device}


def test_a_failed_training_leaves_the_net_where_it_was(device, shapes):
    model = DavidNet(4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bad = [(torch.full((8, 3, 32, 32), torch.inf), torch.arange(8))]
    with pytest.raises(RuntimeError, match="the loss is nan"):
        fit(model, bad, epochs=2, device=device, verbose=False)
    assert devices(model.state_dict()) == {"cpu"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_helpers_work_there(device, shapes):
    assert session.find_device().type == device
    net = DavidNet(4).to(device)
    torch.rand(3, device=device)
    numbers = getattr(torch, device)  # torch.cuda or torch.mps
    state = numbers.get_rng_state()
    augment = BatchAugment(shapes.train.mean, shapes.train.std)
    batches, val = Batches(shapes.train, 32, augment), Batches(shapes.val, 50)  # on the CPU
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=True)
    found = lr_range_test(net, optimizer, F.cross_entropy, batches, steps=6, val=val)
    assert np.isfinite(found.loss).all() and torch.equal(state, numbers.get_rng_state())
    for tta in (False, True):
        assert devices(vars(predict(net, shapes.val, tta=tta))) == {"cpu"}
    x, y = next(iter(batches))
    for target in (None, 3, y):
        cam = grad_cam(net, x.to(device), "stage1", target)
        assert devices([cam.raw, cam.target, cam.resized((32, 32))]) == {device}
    assert layer_table(net).rf == layer_table(DavidNet(4)).rf
    fields = [empirical_receptive_field(model, "stage1.add") for model in (net, DavidNet(4))]
    assert fields[0] == fields[1]


def test_the_steps_are_those_of_the_cpu(shapes):
    """But for 16 bits and other sums."""

    def losses(device, half):
        torch.manual_seed(0)
        batches = Batches(shapes.train, 64, None, device, drop_last=True)
        run = Run(DavidNet(4), batches, COURSE.with_batch(64), 10, torch.device(device))
        run.half = half and run.half
        steps = enumerate(batches, 5)
        return [run.train_step(x, y, step, len(y))[0].item() for step, (x, y) in steps]

    here = losses("cpu", False)
    with pretended_gpu():
        assert np.allclose(losses("cuda", False), here, rtol=2e-3)
        rounded = losses("cuda", True)
        assert np.allclose(rounded, here, rtol=0.02) and rounded != here


# The lessons


def solved(path: Path) -> nbformat.NotebookNode:
    """The notebook with each solution written into its exercise."""
    notebook = nbformat.read(path, 4)
    solutions = {stub: solution for _, stub, solution in find_exercises(path)}
    for cell in notebook.cells:
        if solution := solutions.get(cell.source):
            lines = cell.source.splitlines()
            begins = ast.parse(cell.source).body[-1].lineno - 1
            check = "\n".join(lines[begins:])
            told = f"verdict = {check}\nassert verdict.status == 'right', verdict"
            cell.source = "\n".join([*lines[:begins], solution, told])
    return notebook


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name[:2])
def test_a_lesson_runs_there(path, tmp_path, link):
    """Every cell, with the solutions, in a kernel that believes it has a T4."""
    link(ROOT / "helpers", tmp_path / "helpers")
    (tmp_path / "sitecustomize.py").write_text(
        "from pretended_gpu import pretended_gpu\nkept = pretended_gpu()\nkept.__enter__()\n"
    )
    (tmp_path / "notebooks").mkdir()
    nbformat.write(solved(path), copy := tmp_path / "notebooks" / path.name)
    places = os.pathsep.join([str(tmp_path), str(ROOT / "tests")])
    choice = {"COURSE_PROFILE": "smoke", "COURSE_DATA": "shapes", "PYTHONPATH": places}
    outcome = notebooks.execute(copy, choice | {"COURSE_RUNS": str(tmp_path / "runs")}, tmp_path)
    assert outcome.error is None, outcome.error
    cells = [cell for cell in outcome.notebook.cells if cell.cell_type == "code"]
    told = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    assert "device      Pretended GPU" in told
