"""One ImageSet from three sources: the split, the lock, the folder's conversions and errors."""

import hashlib
import math
import os
import pickle
import shutil
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import data as data_module
from helpers import download, shapes
from helpers.data import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    ImageSet,
    LockedTestSet,
    channel_statistics,
    load,
)
from helpers.folder import FolderError


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No CIFAR-10 on disk, and no mirror but this machine's closed port 1."""
    monkeypatch.setattr(download, "MIRRORS", ("http://127.0.0.1:1/file",))
    monkeypatch.delenv("CIFAR10_MIRROR", raising=False)
    monkeypatch.setenv("COURSE_DATA_ROOT", str(tmp_path / "nothing here"))
    return tmp_path / "nothing here"


def small_set(n=6, **options):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    return ImageSet(images, np.arange(n) % 3, ("a", "b", "c"), **options)


# ImageSet


def test_statistics_are_those_of_the_pixels_in_0_to_1():
    images = np.random.default_rng(0).integers(0, 200, (7001, 4, 5, 3), dtype=np.uint8)
    images[..., 1] //= 3
    mean, std = channel_statistics(images)
    x = images.reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-9)
    np.testing.assert_allclose(std, x.std(0), rtol=1e-9)


def test_a_subset_keeps_the_statistics_and_the_masks():
    masks = np.random.default_rng(1).random((6, 32, 32)) < 0.5
    whole = small_set(masks=masks)
    for chosen in ([4, 1], np.array([4, 1]), np.arange(6) > 3, []):
        part = whole.subset(chosen)
        rows = np.arange(6)[np.asarray(chosen, dtype=None if len(chosen) else int)]
        assert len(part) == len(rows)
        np.testing.assert_array_equal(part.images, whole.images[rows])
        np.testing.assert_array_equal(part.labels, whole.labels[rows])
        np.testing.assert_array_equal(part.masks, masks[rows])
        assert (part.mean, part.std, part.classes) == (whole.mean, whole.std, whole.classes)


def test_the_digest_tells_sets_apart():
    whole = small_set()
    by_hand = hashlib.sha256(whole.images.tobytes() + whole.labels.tobytes()).hexdigest()
    assert whole.digest == by_hand == pickle.loads(pickle.dumps(whole)).digest
    changed = small_set()
    changed.labels[0] = 2
    turned = ImageSet(whole.images[:, :, ::-1], whole.labels, whole.classes)
    assert len({whole.digest, changed.digest, turned.digest, whole.subset([0]).digest}) == 4
    assert repr(whole) == "ImageSet(6 images, 3 classes)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((6, 32, 32, 3), np.float32)}, "images are .* expected .* uint8"),
        ({"images": np.zeros((6, 3, 32, 32), np.uint8)}, "images are .* expected .*32, 32, 3"),
        ({"images": np.zeros((5, 32, 32, 3), np.uint8)}, "images are .* expected .6"),
        ({"labels": np.zeros(6, np.int32)}, "labels are .* expected .* int64"),
        ({"labels": np.full(6, 3)}, "labels must be in 0..2"),
        ({"labels": np.full(6, -1)}, "labels must be in 0..2"),
        ({"masks": np.zeros((6, 32, 32))}, "masks are .* expected .* bool"),
    ],
)
def test_an_image_set_refuses_what_does_not_fit(change, message):
    good = small_set()
    fields = {"images": good.images, "labels": good.labels, "classes": good.classes} | change
    with pytest.raises(ValueError, match=message):
        ImageSet(**fields)


def test_a_constant_channel_can_be_divided_by():
    """As scikit-learn's StandardScaler does it."""
    red = np.zeros((6, 32, 32, 3), dtype=np.uint8)
    red[:3, ..., 0] = 255
    images = ImageSet(red, np.zeros(6, dtype=np.int64), ("red",))
    assert images.mean == (0.5, 0, 0) and images.std == (0.5, 1, 1)


def test_no_images_need_statistics_from_elsewhere():
    none = small_set().subset(np.arange(0))
    assert len(none) == 0 and none.mean == small_set().mean
    with pytest.raises(ValueError, match="no images to compute mean and std from"):
        replace(none, mean=None)


def test_a_home_that_nobody_has_is_just_a_folder_that_is_not_there():
    with pytest.raises(FolderError, match="nobody-here.* is not a folder"):
        load("folder:~nobody-here/pictures")


# The shapes, and what load does with any source


def test_shapes():
    data = load("shapes")
    assert (len(data.train), len(data.val), data.name, data.notice) == (15000, 5000, "shapes", "")
    assert np.bincount(data.train.labels).tolist() == [1500] * 10
    assert np.bincount(data.val.labels).tolist() == [500] * 10
    assert data.train.masks.shape == (15000, 32, 32) and data.classes == data.val.classes
    assert data.train.mean == data.val.mean == channel_statistics(data.train.images)[0]
    images = {image.tobytes() for part in (data.train, data.val) for image in part.images}
    test = data.unlock_test()
    assert np.bincount(test.labels).tolist() == [500] * 10 and test.mean == data.train.mean
    assert len(images | {image.tobytes() for image in test.images}) == 25000  # all different


def test_the_test_set_is_locked_until_it_is_unlocked():
    data = load("shapes", limit=20)
    with pytest.raises(LockedTestSet, match=r"held-out images.*Notebook 06.*unlock_test\(\)"):
        _ = data.test
    assert data.unlock_test() is data.test is data.unlock_test()


def test_limits_keep_the_same_images_of_each_class_whatever_the_seed():
    whole, part, smaller = load("shapes"), load("shapes", limit=300), load("shapes", limit=103)
    for name in ("train", "val"):
        images = [{i.tobytes() for i in getattr(d, name).images} for d in (smaller, part, whole)]
        assert images[0] < images[1] < images[2]
        assert np.bincount(getattr(part, name).labels).tolist() == [30] * 10
        assert sorted(np.bincount(getattr(smaller, name).labels)) == [10] * 7 + [11] * 3
    assert len(smaller.unlock_test()) == 103
    other = load("shapes", limit=300, seed=1)
    np.testing.assert_array_equal(other.train.labels, part.train.labels)
    assert other.train.digest != part.train.digest == load("shapes", limit=300).train.digest


def test_without_a_holdout_everything_trains(monkeypatch):
    monkeypatch.setattr(shapes, "TRAIN", 1000)
    data = load("shapes", holdout=0)
    assert data.val is None and len(data.train) == 1000


def test_the_choice_is_stratified_for_unequal_classes():
    labels = np.repeat(np.arange(4), [1000, 300, 30, 2])
    np.random.default_rng(0).shuffle(labels)
    among = np.arange(len(labels))
    for count in (4, 50, 133, 600, 1328):
        chosen = data_module._choose(labels, among, count, spare=1)
        assert len(set(chosen)) == count
        taken = np.bincount(labels[chosen], minlength=4)
        assert taken.min() >= 1 and (np.array([1000, 300, 30, 2]) - taken).min() >= 1
        assert abs(taken - count * np.array([1000, 300, 30, 2]) / 1332).max() < 2.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "imagenet"}, "unknown source 'imagenet': expected auto, shapes, cifar10"),
        ({"source": "folder:"}, "unknown source"),
        ({"holdout": 20000}, "holdout=20000 does not fit 20000 .* expected 0, or 10 to 19990"),
        ({"holdout": 9}, "expected 0, or 10 to 19990"),
        ({"holdout": -1}, "holdout=-1 .* expected 0, or 10 to"),
        ({"holdout": 0.1}, "holdout=0.1 .* expected 0, or 10 to"),
        ({"holdout": None}, "holdout=None .* expected 0, or 10 to"),
        ({"limit": 9}, "limit=9: expected None, or 10 or more, one image a class"),
        ({"limit": 10.5}, "limit=10.5: expected"),
        ({"limit": "all"}, "limit='all': expected"),
        ({"seed": -1}, "must not be negative"),
    ],
)
def test_load_refuses_what_makes_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        load(**({"source": "shapes"} | options))


def test_auto_falls_back_on_the_shapes_and_says_so(offline, capfd, recwarn):
    data = load("auto", limit=20)
    assert data.name == "shapes" and len(data.train) == 20
    for word in ("stand in for CIFAR-10", str(offline), 'load("cifar10")'):
        assert word in data.notice
    assert capfd.readouterr().err == "" and not recwarn.list
    assert [name for name in os.listdir(offline) if not name.endswith(".lock")] == []


def test_cifar10_that_cannot_be_had_is_an_error_with_reasons(offline):
    with pytest.raises(download.DownloadError, match=r"(?s)127.0.0.1:1/file: .*By hand"):
        load("cifar10")


def test_loading_the_shapes_needs_neither_torch_nor_pillow():
    code = (
        "import sys; from helpers.data import load; load('shapes', limit=10); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'torchvision', 'PIL')))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True)


# CIFAR-10


def test_cifar10(cifar_root):
    data = load("auto", root=cifar_root)
    assert (data.name, data.notice, data.train.masks) == ("cifar10", "", None)
    assert data.classes == (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )
    assert np.bincount(data.train.labels).tolist() == [4500] * 10
    assert np.bincount(data.val.labels).tolist() == [500] * 10
    assert data.train.mean == CIFAR10_MEAN and data.val.std == CIFAR10_STD
    # The official images, by torchvision; the split by its definition, in other words.
    from torchvision.datasets import CIFAR10

    official = CIFAR10(cifar_root, train=True)
    mean, std = channel_statistics(official.data)
    np.testing.assert_allclose(mean, CIFAR10_MEAN, atol=5e-5)
    np.testing.assert_allclose(std, CIFAR10_STD, atol=5e-5)
    for part in (data.train, load("cifar10", cifar_root, limit=12000).train):  # as lesson 01 says
        np.testing.assert_allclose(channel_statistics(part.images)[0], CIFAR10_MEAN, atol=2e-3)
        np.testing.assert_allclose(channel_statistics(part.images)[1], CIFAR10_STD, atol=2e-3)
    targets, held = np.array(official.targets), []
    for c in range(10):
        rows = sorted(
            np.flatnonzero(targets == c), key=lambda i: hashlib.sha256(b"%d" % i).digest()
        )
        held += rows[:500]
    held = np.sort(held)
    assert hashlib.sha256(",".join(map(str, held)).encode()).hexdigest()[:16] == "b8f02a64a42b83af"
    np.testing.assert_array_equal(data.val.images, official.data[held])
    np.testing.assert_array_equal(data.val.labels, targets[held])
    rest = np.setdiff1d(np.arange(50000), held)
    np.testing.assert_array_equal(data.train.images, official.data[rest])
    np.testing.assert_array_equal(data.train.labels, targets[rest])
    test = data.unlock_test()
    official = CIFAR10(cifar_root, train=False)
    np.testing.assert_array_equal(test.images, official.data)
    np.testing.assert_array_equal(test.labels, official.targets)


def test_damaged_cifar10_is_not_read(cifar_root, offline):
    folder = offline / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for file in (cifar_root / "cifar-10-batches-py").iterdir():
        if file.name != "data_batch_3":
            shutil.copy(file, folder)
    evil = b"cos\nsystem\n(S'touch %s'\ntR." % str(offline / "executed").encode()
    (folder / "data_batch_3").write_bytes(evil)
    with pytest.raises(download.DownloadError, match="could not be downloaded"):
        load("cifar10")
    assert load("auto", limit=10).name == "shapes"
    assert not (offline / "executed").exists()


# A folder


def picture(file: Path, size=(32, 32), mode="RGB", colour=(200, 40, 40), **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", size, (*colour, 255)).convert(mode).save(file, **options)


@pytest.fixture
def pets(tmp_path):
    """train: 12 cats, 8 dogs; test: 2 each; all 32x32 RGB."""
    top = tmp_path / "my pets"
    for i in range(12):
        picture(top / "train" / "cat" / f"{i:02}.png", colour=(i * 20, 0, 0))
        if i < 8:
            picture(top / "train" / "dog" / f"{i:02}.png", colour=(0, i * 20, 0))
        if i < 2:
            picture(top / "test" / "cat" / f"{i}.png", colour=(i, 0, 200))
            picture(top / "test" / "dog" / f"{i}.png", colour=(0, i, 100))
    return top


def test_a_folder(pets):
    for junk in (".DS_Store", "Thumbs.db", "train/.DS_Store", "train/cat/desktop.ini", "Icon\r"):
        if os.name == "nt" and "\r" in junk:
            continue  # a name that only macOS gives
        (pets / junk).write_bytes(b"junk")
    data = load(f"folder:{pets}")
    assert (data.name, data.classes) == ("folder", ("cat", "dog"))
    assert data.notice == "2 of the 20 training pictures are held out."
    assert np.bincount(data.val.labels).tolist() == [1, 1] and len(data.train) == 18
    assert data.train.mean == data.val.mean == channel_statistics(data.train.images)[0]
    assert data.unlock_test().images[:, 5, 5].tolist() == [
        *([0, 0, 200], [1, 0, 200]),
        *([0, 0, 100], [0, 1, 100]),
    ]
    data = load(f"folder:{pets}", holdout=5)
    assert np.bincount(data.val.labels).tolist() == [3, 2] and data.notice == ""
    data = load(f"folder:{pets}", holdout=0, limit=5)
    assert np.bincount(data.train.labels).tolist() == [3, 2]


def test_conversions_are_made_and_stated(pets):
    shutil.rmtree(pets / "test")
    test = pets / "test"
    wide = Image.new("RGB", (96, 64), "red")
    wide.paste("blue", (16, 0, 80, 64))  # the central square
    wide.save(pets / "wide.png")
    os.makedirs(test / "cat"), os.makedirs(test / "dog")
    os.rename(pets / "wide.png", test / "cat" / "0 wide.png")
    picture(test / "cat" / "1 small.png", size=(16, 16))
    picture(test / "cat" / "2 grey.png", mode="L", colour=(77, 77, 77))
    picture(test / "cat" / "3 black and white.png", mode="1", colour=(255, 255, 255))
    clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (0, 0, 16, 32))
    clear.save(test / "cat" / "4 transparent.png")
    picture(test / "cat" / "5 opaque.png", mode="RGBA")
    turned = Image.new("RGB", (64, 64), "red")
    turned.paste("blue", (0, 0, 64, 32))  # blue above; to be turned a quarter clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(test / "cat" / "6 turned.png", exif=exif)
    frames = [Image.new("P", (32, 32), i) for i in (1, 2)]
    frames[0].putpalette([0, 0, 0, 10, 200, 30, 99, 99, 99])
    frames[0].save(test / "cat" / "7.gif", save_all=True, append_images=frames[1:])
    picture(test / "dog" / "0.jpg", mode="CMYK", colour=(255, 255, 255))
    palette = Image.new("P", (32, 32), 0)
    palette.putpalette([9, 9, 9])
    palette.save(test / "dog" / "1.png", transparency=0)
    data = load(f"folder:{pets}", holdout=0)
    cat = data.unlock_test().images[:8]
    assert (cat[0][:, 2:-2] == [0, 0, 255]).all()  # the filter reaches over the edge
    assert (cat[1] == [200, 40, 40]).all() and (cat[5] == [200, 40, 40]).all()
    assert (cat[2] == 77).all() and (cat[3] == 255).all()
    assert (cat[4][:, :16] == 0).all() and (cat[4][:, 16:] == 255).all()
    assert (cat[6][:, 20:] == [0, 0, 255]).all() and (cat[6][:, :12] == [255, 0, 0]).all()
    assert (data.test.images[8:] == 255).all()
    assert data.notice == (
        "Of 30 pictures read: 3 resized; 1 cropped to a centred square before that; 2 made RGB "
        "from grey; 2 transparent and put on white; 1 turned upright as the camera noted; "
        "1 animated, of which the first frame is used."
    )


def test_accents_may_be_written_either_way(tmp_path):
    """As letters of their own, which macOS likes, or as parts of letters."""
    for part, form in (("train", "NFC"), ("test", "NFD")):
        for name in ("\u00c4pfel", "Zitronen"):
            folder = tmp_path / part / unicodedata.normalize(form, name)
            folder.mkdir(parents=True)
            for i in range(4):
                colour = "red" if name == "Zitronen" else "blue"
                Image.new("RGB", (32, 32), colour).save(folder / f"{i}.png")
    data = load(f"folder:{tmp_path}", holdout=2)
    assert data.classes == ("Zitronen", "\u00c4pfel")
    for images in (data.train, data.unlock_test()):
        assert (images.images[:, 0, 0, 0] == 255 * (1 - images.labels)).all()


def test_two_folders_of_one_name_are_refused(tmp_path):
    """The labels of the classes after them would be others in train than in test."""
    for place in ("train/caf\u00e9", "train/cafe\u0301", "train/dog", "test/caf\u00e9", "test/dog"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        picture(tmp_path / place / "0.png")
    if len(list((tmp_path / "train").iterdir())) == 2:
        pytest.skip("here both are one folder")
    with pytest.raises(FolderError, match="train has .* twice"):
        load(f"folder:{tmp_path}", holdout=0)


def test_a_telephones_second_view_is_no_animation(tmp_path):
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            view = Image.new("RGB", (32, 32), "red")
            for i in range(2):
                file = tmp_path / part / name / f"{i}.jpg"
                view.save(file, format="MPO", save_all=True, append_images=[view])
    assert load(f"folder:{tmp_path}", holdout=0).notice == ""


def broken(name, link):
    """A way to spoil the folder of pets; `link` makes links."""

    def spoil(top: Path) -> None:
        cat = top / "train" / "cat"
        match name:
            case "no such folder":
                shutil.rmtree(top)
            case "no test":
                shutil.rmtree(top / "test")
            case "train is a file":
                shutil.rmtree(top / "train")
                (top / "train").write_bytes(b"")
            case "classes differ":
                os.rename(top / "test" / "dog", top / "test" / "bird")
            case "one class":
                shutil.rmtree(top / "train" / "dog"), shutil.rmtree(top / "test" / "dog")
            case "empty class":
                shutil.rmtree(top / "test" / "dog"), os.mkdir(top / "test" / "dog")
                (top / "test" / "dog" / ".DS_Store").write_bytes(b"")
            case "picture beside the classes":
                picture(top / "train" / "stray.png")
            case "no picture":
                (cat / "05.png").write_text("these are notes")
            case "pipe":
                if not hasattr(os, "mkfifo"):
                    pytest.skip("Windows has no named pipes in folders")
                (cat / "05.png").unlink()
                os.mkfifo(cat / "05.png")
            case "truncated":
                noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(noise).save(cat / "05.png")
                (cat / "05.png").write_bytes((cat / "05.png").read_bytes()[:4000])
            case "folder in a class":
                os.mkdir(cat / "more")
            case "no text":
                if sys.platform != "linux":
                    pytest.skip("here every name of a file is text")
                os.mkdir(os.fsencode(top / "train") + b"/caf\xe9")
            case "16 bits":
                Image.fromarray(np.full((32, 32), 40000, np.uint16)).save(cat / "05.png")
            case "huge":
                Image.new("1", (10000, 10000)).save(cat / "05.png")
            case "link outside":
                picture(top.parent / "outside.png")
                link(top.parent / "outside.png", cat / "link.png")
            case "link to itself":
                link(cat / "link.png", cat / "link.png")
            case "train outside":
                os.rename(top / "train", top.parent / "elsewhere")
                link(top.parent / "elsewhere", top / "train")

    return spoil


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no such folder", "my pets is not a folder: expected train/<class>/"),
        ("no test", "has no folder test: expected train/<class>/"),
        ("train is a file", "has no folder train"),
        ("classes differ", r"Only train has \['dog'\], only test has \['bird'\]"),
        ("one class", "expected at least two"),
        ("empty class", "dog is empty"),
        ("picture beside the classes", "stray.png is not the folder of a class"),
        ("no picture", "05.png cannot be read as a picture"),
        ("truncated", "05.png cannot be read as a picture .*truncated"),
        ("folder in a class", "more is a folder in a class: expected .*, pictures only"),
        ("no text", r"'caf\\udce9' in .*train is not valid text: rename it"),
        ("pipe", "05.png is not a file that could hold a picture"),
        ("16 bits", "05.png cannot be read .*expected 8 bits"),
        ("huge", "05.png cannot be read .*decompression bomb"),
        ("link outside", "link.png is a link that leads outside"),
        (
            "link to itself",
            "link.png is a link that leads nowhere|link.png cannot be read|link.png is not a file",
        ),
        ("train outside", "train is a link that leads outside"),
    ],
)
def test_a_folder_that_cannot_be_used_is_an_error_that_names_the_place(pets, name, message, link):
    broken(name, link)(pets)
    with pytest.raises(FolderError, match=message):
        load(f"folder:{pets}", holdout=0)


def test_a_holdout_that_does_not_fit_a_folder(pets):
    with pytest.raises(ValueError, match="holdout=19 .* expected 0, or 2 to 18"):
        load(f"folder:{pets}", holdout=19)
    for file in sorted((pets / "train" / "dog").iterdir())[1:]:
        file.unlink()
    with pytest.raises(ValueError, match="smallest, 'dog', has 1.: expected 0, or 2 to"):
        load(f"folder:{pets}")
    assert len(load(f"folder:{pets}", holdout=0).train) == 13


class Touch:
    """A pickle of it makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_an_altered_cifar10_file_is_never_unpickled(tmp_path, monkeypatch):
    folder, trace = tmp_path / download.FOLDER, tmp_path / "it-ran"
    folder.mkdir()
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(Touch(trace)))
    pickle.loads((folder / "test_batch").read_bytes()).close()
    assert trace.exists()  # so it would
    trace.unlink()
    monkeypatch.setattr(download, "MIRRORS", ())
    monkeypatch.delenv("CIFAR10_MIRROR", raising=False)
    with pytest.raises(download.DownloadError):
        load("cifar10", tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "mean, std",
    [((125, 123, 114), (63, 62, 67)), ((0.5,) * 3, (0.0,) * 3), ((math.nan,) * 3, (0.2,) * 3),
     ((0.5,), (0.2,))],
)  # fmt: skip
def test_statistics_that_cannot_be_are_refused(mean, std):
    with pytest.raises(ValueError, match="expected three numbers each, for red, green"):
        ImageSet(np.zeros((2, 32, 32, 3), np.uint8), np.arange(2), ("a", "b"), None, mean, std)


def test_a_seed_of_the_shapes_is_a_whole_number():
    with pytest.raises(TypeError, match="integer"):
        load("shapes", seed=1.5, limit=10)
