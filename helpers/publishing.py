"""Publishes the notebooks: outputs of a real run, cleaned, stamped with where they come from."""

import base64
import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from modulefinder import ModuleFinder
from pathlib import Path
from tempfile import TemporaryFile

from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from helpers import environment
from helpers.environment import (
    BOOTSTRAP_CELL,
    REPOSITORY,
    ROOT,
    CourseError,
    cuda_works,
    write_whole,
)
from helpers.notebooks import Outcome, execute_all, read, write

HELPERS = ROOT / "helpers"
PROFILES = ("smoke", "cpu", "full")  # from small to large
FACTS = {  # of helpers/environment.py, and how other files name them
    "REPOSITORY": ("{}",),
    "VERSION": ("/blob/v{}/notebooks/", f'{REPOSITORY}", "v{{}}"', "\nversion: {}\n"),
}


def code_digest(notebook: NotebookNode) -> str:
    """sha256 of the code cells: what the stored outputs belong to."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def publish(
    paths: list[Path], choice: dict[str, str], out: Path, force: bool = False
) -> list[Outcome]:
    """Run the notebooks and write those that succeed back in place, cleaned and stamped.

    choice: the kernels' variables; its COURSE_PROFILE is one of PROFILES.

    Raises:
        CourseError: a larger profile's outputs would be replaced by a smaller one's, without force.
    """
    profile = choice["COURSE_PROFILE"]
    for path in paths:
        stored = read(path).metadata.get("course", {}).get("profile")
        if stored and PROFILES.index(profile) < PROFILES.index(stored) and not force:
            raise CourseError(
                f"{path.name} holds the outputs of a {stored} run; a {profile} run replaces them "
                "only with --force."
            )
    TemporaryFile(dir=paths[0].parent).close()  # as execute_all does for `out`
    outcomes = execute_all(paths, choice, out)
    for path, outcome in zip(paths, outcomes, strict=True):
        if outcome.error is None:
            clean(outcome.notebook)
            outcome.notebook.metadata["course"] = provenance(outcome.notebook, profile)
            write(path, outcome.notebook)
            save_images(outcome.notebook, path.parent.with_name("images"))
    return outcomes


def clean(notebook: NotebookNode) -> None:
    """Drop what differs from machine to machine: widget state, timestamps, absolute paths."""
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    for cell in notebook.cells:
        cell.metadata = NotebookNode({k: v for k, v in cell.metadata.items() if k == "tags"})
        for output in cell.get("outputs", []):
            if "text" in output:
                output.text = _portable(output.text)
            data = output.get("data", {})
            data.pop("application/vnd.jupyter.widget-view+json", None)
            for kind in data:
                if kind.startswith("text/"):
                    data[kind] = _portable(data[kind])


def save_images(notebook: NotebookNode, folder: Path) -> None:
    """Write the figure of each cell tagged `image:NAME` to `folder`/NAME.png, for the README."""
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            if tag.startswith("image:"):
                data = [output.get("data", {}) for output in cell.get("outputs", [])]
                pngs = [kinds["image/png"] for kinds in data if "image/png" in kinds]
                if not pngs:
                    raise CourseError(f"The cell tagged {tag} shows no figure.")
                folder.mkdir(exist_ok=True)
                write_whole(folder / f"{tag[6:]}.png", base64.b64decode(pngs[0]))


def provenance(notebook: NotebookNode, profile: str) -> dict:
    """Where the outputs come from."""
    import torch

    packages = ("torch", "torchvision", "numpy", "albumentations", "matplotlib")
    device = torch.cuda.get_device_name() if cuda_works() else platform.machine()
    return {
        "profile": profile,
        "device": device,
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
        "date": date.today().isoformat(),
        "digest": code_digest(notebook),
        "helpers": helper_digests(notebook),
    }


def helper_digests(notebook: NotebookNode) -> dict[str, str]:
    """sha256, shortened, of each helper the code cells import, and of those that these import.

    environment.py is left out: it installs, and holds the course's address, but computes nothing.
    """
    plain = TransformerManager().transform_cell  # Python without IPython's magics
    code = [plain(cell.source) for cell in notebook.cells if cell.cell_type == "code"]
    finder = ModuleFinder([str(HELPERS.parent)], excludes=["helpers.environment"])
    finder.scan_code(compile("\n".join(code), "lesson", "exec"), finder.add_module("lesson"))
    found = {}
    for name in {name.split(".")[1] for name in finder.modules if name.startswith("helpers.")}:
        file, package = HELPERS / f"{name}.py", sorted(HELPERS.glob(f"{name}/*.py"))
        text = "\n".join(path.read_text(encoding="utf-8") for path in package or [file])
        key = f"{name}/" if package else file.name
        found[key] = hashlib.sha256(text.encode()).hexdigest()[:12]
    return dict(sorted(found.items()))


def changed_helpers(notebook: NotebookNode) -> list[str]:
    """The helpers that changed since the notebook's outputs were made, if they were recorded."""
    now = helper_digests(notebook)
    stored = notebook.metadata.get("course", {}).get("helpers", now)
    return sorted(name for name in {*stored, *now} if stored.get(name) != now.get(name))


def fresh(notebook: NotebookNode) -> bool:
    """Whether the stored outputs come from the code cells as they are now."""
    return notebook.metadata.get("course", {}).get("digest") == code_digest(notebook)


def check(paths: list[Path]) -> bool:
    """Whether no outputs are stale; prints which are, and the helpers that changed since."""
    good = True
    for path in paths:
        notebook = read(path)
        if not fresh(notebook):
            good = False
            print(f"{path.name}: its outputs do not come from its current code; publish it again")
        if changed := changed_helpers(notebook):
            print(f"{path.name}: its outputs are older than {', '.join(changed)}")
    return good


def edit_all(edit: Callable[[str], str], root: Path = ROOT) -> list[str]:
    """Apply `edit` to the prose and to every cell's source; returns the files that changed.

    For edits that change no output: where the stored outputs belonged to the cells, they still do.
    All files are read before the first is written, so that a damaged one leaves all unchanged.
    """
    prose, lessons = {}, {}
    names = ("README.md", "CITATION.cff", "CONTRIBUTING.md", "CHANGELOG.md")
    texts = [root / name for name in names if (root / name).is_file()]
    for path in [*texts, *sorted((root / "notebooks").glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        if edit(text) != text:
            prose[path] = edit(text)
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = read(path)
        was_fresh, sources = fresh(notebook), [cell.source for cell in notebook.cells]
        for cell in notebook.cells:
            cell.source = edit(cell.source)
        if sources != [cell.source for cell in notebook.cells]:
            if was_fresh:
                notebook.metadata["course"]["digest"] = code_digest(notebook)
            lessons[path] = notebook
    for path, text in prose.items():
        write_whole(path, text)
    for path, notebook in lessons.items():
        write(path, notebook)
    return [path.name for path in [*prose, *lessons]]


def write_fact(name: str, new: str, root: Path = ROOT) -> list[str]:
    """Write a new REPOSITORY or VERSION into environment.py and all that names it; what changed."""

    def edit(text: str, *places: str) -> str:
        old = getattr(environment, name)
        for place in places:
            text = text.replace(place.format(old), place.format(new))
        return text

    changed = edit_all(lambda text: edit(text, *FACTS[name]), root)
    own = root / "helpers" / "environment.py"  # last: what it names is what a next call looks for
    write_whole(own, edit(own.read_text("utf-8"), f'\n{name} = "{{}}"'))
    return [*changed, own.name]


def renew_first_cells(root: Path = ROOT) -> list[str]:
    """Put `environment.BOOTSTRAP_CELL` into every notebook; the files that changed."""
    first_line = BOOTSTRAP_CELL.split("\n")[0]
    return edit_all(lambda text: BOOTSTRAP_CELL if text.startswith(first_line) else text, root)


def _portable(text: str) -> str:
    text = re.sub(r"\S*ipykernel_\d+[/\\]\d+\.py", "this cell", text)
    home = Path(os.path.expanduser("~"))  # which a container may lack
    for folder, name in ((ROOT, ""), (Path(sys.prefix), "python"), (home, "~")):
        if folder.is_absolute() and folder != Path(folder.anchor):
            text = text.replace(str(folder) + os.sep, f"{name}/" if name else "")
    return text
