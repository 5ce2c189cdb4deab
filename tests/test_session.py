"""What a notebook opens with: the profile, the table, and which net a later lesson gets."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import environment, results, session
from helpers.data import ImageSet
from helpers.models import DavidNet


def test_the_arguments_go_before_the_environment(monkeypatch, capsys):
    monkeypatch.setenv("COURSE_PROFILE", "full")
    monkeypatch.setenv("COURSE_SEED", "5")
    monkeypatch.delenv("COURSE_DATA", raising=False)
    found = session.start("smoke", seed=3)
    assert (found.profile.name, found.seed, found.data.name) == ("smoke", 3, "shapes")
    table = capsys.readouterr().out
    assert table.startswith("profile     smoke: width 8, 2 epochs, batch 128")
    assert f"torch {torch.__version__}".split("+")[0] in table


def test_a_comparison_takes_images_from_everywhere():
    """Pictures of a folder lie class by class: the last class must not be cut off."""
    labels = np.arange(4).repeat(450)
    images = ImageSet(np.zeros((1800, 32, 32, 3), np.uint8), labels, tuple("abcd"))
    chosen = session.PROFILES["smoke"].comparison(SimpleNamespace(train=images))
    assert len(chosen) == 1000 and (np.bincount(chosen.labels) == 250).all()


@pytest.mark.parametrize("seed", ["-1", "x", "1.5", 2**32])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(ValueError, match="whole number"):
        session.start("smoke", seed=seed)


@pytest.mark.parametrize("works", [True, False])
def test_an_mps_that_gives_out_no_memory_is_left_alone(works, monkeypatch):
    def zeros(*size, device):
        if not works:
            raise RuntimeError("MPS backend out of memory (MPS allocated: 0 bytes)")

    monkeypatch.setattr(session, "cuda_works", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", zeros)
    assert session.find_device() == torch.device("mps" if works else "cpu")


def test_a_gpu_that_this_torch_has_no_code_for_is_left_alone(monkeypatch):
    def ones(*size, device):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    environment.cuda_works.cache_clear()
    try:
        assert session.find_device() == torch.device("cpu")
        assert session.choose_profile("auto").name == "cpu"
        assert results.origin()["device"].startswith("CPU")
        started = session.start("smoke")
        assert "this torch cannot compute on the GPU" in session.describe(started)
    finally:
        environment.cuda_works.cache_clear()


def test_an_unknown_profile_is_named():
    with pytest.raises(ValueError, match="'huge': expected auto, smoke, cpu, full"):
        session.start("huge")


def test_the_same_seed_gives_the_same_net():
    first, again = (session.start("smoke").net().state_dict() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.values(), again.values(), strict=True))


def test_each_profile_is_larger_than_the_one_before():
    smoke, cpu, full = session.PROFILES.values()
    for name in ("width", "epochs", "batch_size", "range_steps"):
        assert getattr(smoke, name) < getattr(cpu, name) < getattr(full, name)
    assert smoke.limit < cpu.limit and full.limit is None


def test_runs_go_where_the_reader_says(tmp_path, monkeypatch):
    monkeypatch.delenv("COURSE_RUNS", raising=False)
    assert session.start("smoke").folder == session.REPOSITORY / "runs" / "shapes-smoke-seed0"
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path / "my drive"))
    assert session.start("smoke").folder == tmp_path / "my drive" / "shapes-smoke-seed0"


def test_few_pictures_get_small_batches_and_a_net_of_their_own(tmp_path, monkeypatch, capsys):
    """An epoch of the lessons, which train on all images or a quarter of them, has a few steps."""
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path / "runs"))
    folders = set()
    for top, colour in (("a", 90), ("b", 91)):
        for name in ("train/cat", "train/dog", "test/cat", "test/dog"):
            folder = tmp_path / top / name
            folder.mkdir(parents=True)
            for i in range(20):
                Image.new("RGB", (32, 32), (colour, i, i)).save(folder / f"{i}.png")
        course = session.start("smoke", source=f"folder:{tmp_path / top}")
        said = " ".join(capsys.readouterr().out.split())
        assert "Few images, so the batch size is 4, not 128." in said
        assert len(course.data.train) == 36
        for name in ("batch_size", "range_batch", "compare_batch"):
            assert getattr(course.profile, name) == 4
        folders.add(course.folder)
    assert len(folders) == 2
    for profile in session.PROFILES.values():
        assert profile.fitted((profile.limit or 50_000) * 9 // 10) is profile


def test_the_full_profile_fits_a_small_gpu():
    """The README says: under 2 GB, computed in 32 bits. What a step keeps for its backward pass,
    and weights, gradients, velocities and their average."""
    full, images, kept = session.PROFILES["full"], 4, {}
    net = DavidNet(full.width).to(memory_format=torch.channels_last)

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.randn(images, 3, 32, 32).to(memory_format=torch.channels_last)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = torch.nn.functional.cross_entropy(net(x), torch.zeros(images).long())
    for parameter in net.parameters():  # they count once, below
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    weights = 4 * sum(parameter.numel() for parameter in net.parameters())
    total = sum(kept.values()) / images * full.batch_size + 4 * weights
    assert loss.requires_grad and 1e9 < total < 2e9


class TestTrainedNet:
    """Lesson 05's own net goes first, then the published one, then training."""

    @pytest.fixture
    def course(self, tmp_path, monkeypatch):
        monkeypatch.setenv("COURSE_RUNS", str(tmp_path))
        return session.start("smoke")

    @pytest.fixture
    def published(self, monkeypatch):
        torch.manual_seed(1)
        net = DavidNet(4)
        made = {"width": 4, "epochs": 24, "training_images": 50_000}
        monkeypatch.setattr(session, "published_net", lambda width: (net, made))
        return net

    def test_what_lesson_05_left_is_used(self, course, published, capsys):
        course.folder.mkdir(parents=True)
        torch.manual_seed(7)
        mine = DavidNet(8)
        torch.save(mine.state_dict(), course.folder / "model.pt")
        found = course.trained_net()
        assert torch.equal(found.classifier.weight.cpu(), mine.classifier.weight)
        assert not found.training
        assert "Loaded the net trained before" in capsys.readouterr().out
        (course.folder / "model.pt").write_bytes(b"half a file")
        with pytest.raises(ValueError, match="model.pt is damaged or from another net: delete it"):
            course.trained_net()

    def test_on_cifar10_the_published_net_stands_in(self, course, published, capsys):
        course.data.name = "cifar10"
        assert course.trained_net() is published
        said = " ".join(capsys.readouterr().out.split())
        assert "width 4, 24 epochs on all 50,000" in said

    def test_on_other_data_a_net_is_trained(self, course, published, capsys):
        found = course.trained_net()
        assert found.classifier.weight.shape == (10, 64)
        assert (course.folder / "model.pt").is_file()
        assert "so the net is trained now: 2 epochs" in capsys.readouterr().out


@pytest.mark.parametrize("profile, width", [("smoke", 16), ("cpu", 16), ("full", 64)])
def test_what_is_committed_can_be_loaded(profile, width):
    net, made = results.published_net(session.PROFILES[profile].width)
    assert made["width"] == width and made["data"] == "cifar10" and made["evaluated_on"] == "test"
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
