"""A folder of your own pictures: train/<class>/* and test/<class>/*, checked and converted."""

import os
import unicodedata
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

LAYOUT = "expected train/<class>/* and test/<class>/* in it"
UNASKED = ("Thumbs.db", "desktop.ini", "__MACOSX", "Icon\r")  # put there by systems; .* as well


class FolderError(ValueError):
    """The folder is not laid out as expected, or a picture in it cannot be used."""


def source(path: Path, size: int, tally: Counter) -> tuple:
    """The folder's pictures as `data.load` takes them; `tally`: what reading them converted."""
    classes, files = list_pictures(Path(os.path.expanduser(path)))

    def part(pictures: list[tuple[Path, int]]) -> tuple:
        def read(indices: np.ndarray) -> tuple[np.ndarray, None]:
            return np.stack([read_picture(pictures[i][0], size, tally) for i in indices]), None

        return np.array([label for _, label in pictures], dtype=np.int64), read

    return classes, part(files["train"]), part(files["test"])


def list_pictures(path: Path) -> tuple[tuple[str, ...], dict[str, list[tuple[Path, int]]]]:
    """The class names, and for "train" and "test" a list of (file, label), in order of names.
    FolderError where `path` is not laid out so."""
    top = path.resolve()
    if not top.is_dir():
        raise FolderError(f"{top} is not a folder: {LAYOUT}")
    parts = {entry.name: entry for entry in _entries(top, top)}
    classes, files = {}, {"train": [], "test": []}
    for part in files:
        if part not in parts or not parts[part].is_dir():
            raise FolderError(f"{top} has no folder {part}: {LAYOUT}")
        folders = sorted(_entries(parts[part], top), key=_class_name)
        classes[part] = tuple(map(_class_name, folders))
        if twice := [name for name, count in Counter(classes[part]).items() if count > 1]:
            raise FolderError(f"{parts[part]} has {twice} twice, with accents written in two ways")
        for label, entry in enumerate(folders):
            if not entry.is_dir():
                raise FolderError(f"{entry} is not the folder of a class: {LAYOUT}")
            pictures = [(file, label) for file in _entries(entry, top)]
            if inner := next((file for file, _ in pictures if file.is_dir()), None):
                raise FolderError(f"{inner} is a folder in a class: {LAYOUT}, pictures only")
            if odd := next((file for file, _ in pictures if not file.is_file()), None):
                raise FolderError(f"{odd} is not a file that could hold a picture: remove it")
            if not pictures:
                raise FolderError(f"{entry} is empty: every class needs pictures in both parts")
            files[part] += pictures
    train, test = set(classes["train"]), set(classes["test"])
    if train != test:
        raise FolderError(
            f"{top}: the classes differ. Only train has {sorted(train - test)}, only test has "
            f"{sorted(test - train)}: expected the same folders in both"
        )
    if len(train) < 2:
        raise FolderError(f"{top}/train holds {len(train)} class(es): expected at least two")
    return classes["train"], files


def _class_name(folder: Path) -> str:
    """The folder's name, with accents as parts of their letters; not all systems write them so."""
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise FolderError(
            f"{ascii(folder.name)} in {folder.parent} is not valid text: rename it"
        ) from None
    return unicodedata.normalize("NFC", folder.name)


def _entries(folder: Path, top: Path) -> list[Path]:
    found = [p for p in folder.iterdir() if not p.name.startswith(".") and p.name not in UNASKED]
    for entry in found:
        try:
            inside = entry.resolve().is_relative_to(top)
        except (OSError, RuntimeError) as error:  # a link that leads round in a circle
            raise FolderError(f"{entry} is a link that leads nowhere: remove it") from error
        if not inside:
            raise FolderError(f"{entry} is a link that leads outside {top}: copy it there instead")
    return sorted(found, key=lambda entry: entry.name)


def read_picture(file: Path, size: int, tally: Counter) -> np.ndarray:
    """One picture as (size,size,3) uint8; `tally` counts what had to be converted.
    FolderError names a file that cannot be read."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata does not matter
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # a huge picture does
            with Image.open(file) as opened:
                moves = opened.format != "MPO" and getattr(opened, "n_frames", 1) > 1
                turned = opened.getexif().get(0x0112, 1) != 1  # the camera's orientation
                image = ImageOps.exif_transpose(opened)
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            raise ValueError(f"mode {image.mode}: expected 8 bits a channel")
        grey, lowest = image.mode in ("1", "L", "LA"), 255
        if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
            image = image.convert("RGBA")
            lowest = image.getextrema()[3][0]
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        width, height = image.size
        image = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    except Exception as error:  # a damaged file can make a decoder raise nearly anything
        raise FolderError(
            f"{file} cannot be read as a picture ({error}): repair or remove it"
        ) from error
    tally["read"] += 1
    tally["resized"] += (width, height) != (size, size)
    tally["cropped"] += width != height
    tally["grey"] += grey
    tally["transparent"] += lowest < 255
    tally["turned"] += turned
    tally["animated"] += moves  # in an MPO, telephones keep a second view of the same picture
    return np.asarray(image)


def conversions(tally: Counter) -> str:
    """One sentence on what `read_picture` converted; empty where it was nothing."""
    says = {
        "resized": "resized",
        "cropped": "cropped to a centred square before that",
        "grey": "made RGB from grey",
        "transparent": "transparent and put on white",
        "turned": "turned upright as the camera noted",
        "animated": "animated, of which the first frame is used",
    }
    made = [f"{tally[key]} {text}" for key, text in says.items() if tally[key]]
    return f"Of {tally['read']} pictures read: {'; '.join(made)}." if made else ""
