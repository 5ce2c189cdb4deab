"""Publishes the notebooks: outputs of a real run, cleaned, stamped with where they come from."""

import ast
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
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from helpers.environment import BOOTSTRAP_CELL, REPOSITORY, ROOT, CourseError
from helpers.notebooks import BUILD, Outcome, execute_all, write

HELPERS = ROOT / "helpers"
PROFILES = ("smoke", "cpu", "full")  # from small to large


def code_digest(notebook: NotebookNode) -> str:
    """sha256 of the code cells: what the stored outputs belong to."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def publish(
    paths: list[Path], profile: str, choice: dict[str, str], out: Path = BUILD, force: bool = False
) -> list[Outcome]:
    """Run the notebooks and write those that succeed back in place, cleaned and stamped.

    Raises:
        CourseError: a larger profile's outputs would be replaced by a smaller one's, without force.
    """
    for path in paths:
        stored = nbformat.read(path, as_version=4).metadata.get("course", {}).get("profile")
        if stored and PROFILES.index(profile) < PROFILES.index(stored) and not force:
            raise CourseError(
                f"{path.name} holds the outputs of a {stored} run; a {profile} run replaces them "
                "only with --force."
            )
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


def save_images(notebook: NotebookNode, folder: Path) -> list[str]:
    """Write the figure of each cell tagged `image:NAME` to `folder`/NAME.png, for the README."""
    names = []
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            if tag.startswith("image:"):
                name = tag.removeprefix("image:") + ".png"
                png = next(
                    o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})
                )
                folder.mkdir(exist_ok=True)
                (folder / name).write_bytes(base64.b64decode(png))
                names.append(name)
    return names


def provenance(notebook: NotebookNode, profile: str) -> dict:
    """Where the outputs come from."""
    import torch

    packages = ("torch", "torchvision", "numpy", "albumentations", "matplotlib")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
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
    names, found = _imported("\n".join(code)), {}
    while names := names - {"environment"} - {Path(file).stem for file in found}:
        file = HELPERS / f"{names.pop()}.py"
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            found[file.name] = hashlib.sha256(text.encode()).hexdigest()[:12]
            names |= _imported(text)
    return dict(sorted(found.items()))


def _imported(source: str) -> set[str]:
    """The modules of helpers/ that Python source imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "helpers":
            names |= {f"helpers.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.split(".")[1] for name in names if name.startswith("helpers.")}


def changed_helpers(path: Path) -> list[str] | None:
    """The helpers that changed since the notebook's outputs were made; None: nothing is noted."""
    notebook = nbformat.read(path, as_version=4)
    stored = notebook.metadata.get("course", {}).get("helpers")
    if stored is None:
        return None
    now = helper_digests(notebook)
    return sorted(name for name in {*stored, *now} if stored.get(name) != now.get(name))


def stale(paths: list[Path]) -> list[str]:
    """The names of the notebooks whose stored outputs are not those of their code cells."""
    notebooks = [nbformat.read(path, as_version=4) for path in paths]
    return [
        path.name
        for path, notebook in zip(paths, notebooks, strict=True)
        if notebook.metadata.get("course", {}).get("digest") != code_digest(notebook)
    ]


def edit_all(edit: Callable[[str], str], root: Path = ROOT) -> list[str]:
    """Apply `edit` to the prose and to every cell's source; the files that changed.

    For edits that change no output: where the stored outputs belonged to the cells, they still do.
    """
    changed = []
    names = ("README.md", "CITATION.cff", "CONTRIBUTING.md", "CHANGELOG.md")
    texts = [root / name for name in names if (root / name).is_file()]
    for path in [*texts, *sorted((root / "notebooks").glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        if edit(text) != text:
            path.write_text(edit(text), encoding="utf-8")
            changed.append(path.name)
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        fresh = notebook.metadata.get("course", {}).get("digest") == code_digest(notebook)
        sources = [cell.source for cell in notebook.cells]
        for cell in notebook.cells:
            cell.source = edit(cell.source)
        if sources != [cell.source for cell in notebook.cells]:
            if fresh:
                notebook.metadata["course"]["digest"] = code_digest(notebook)
            write(path, notebook)
            changed.append(path.name)
    return changed


def set_repository(old: str, new: str, root: Path = ROOT) -> list[str]:
    """Write the public address into badges, bootstrap cells and texts; the files that changed."""
    own = root / "helpers" / "environment.py"
    text = own.read_text(encoding="utf-8")
    own.write_text(text.replace(f'\nREPOSITORY = "{old}"', f'\nREPOSITORY = "{new}"', 1), "utf-8")
    return [*edit_all(lambda text: text.replace(old, new), root), own.name]


def set_version(old: str, new: str, root: Path = ROOT) -> list[str]:
    """Write the version whose tag Colab opens and fetches; the files that changed."""
    own = root / "helpers" / "environment.py"
    text = own.read_text(encoding="utf-8")
    own.write_text(text.replace(f'\nVERSION = "{old}"', f'\nVERSION = "{new}"', 1), "utf-8")
    places = ("/blob/v{}/notebooks/", f'{REPOSITORY}", "v{{}}"', "\nversion: {}\n")

    def edit(text: str) -> str:
        for place in places:
            text = text.replace(place.format(old), place.format(new))
        return text

    return [*edit_all(edit, root), own.name]


def renew_first_cells(root: Path = ROOT) -> list[str]:
    """Put `environment.BOOTSTRAP_CELL` into every notebook; the files that changed."""
    first_line = BOOTSTRAP_CELL.split("\n")[0]
    return edit_all(lambda text: BOOTSTRAP_CELL if text.startswith(first_line) else text, root)


def _portable(text: str) -> str:
    text = re.sub(r"\S*ipykernel_\d+[/\\]\d+\.py", "this cell", text)
    for folder, name in ((ROOT, ""), (Path(sys.prefix), "python"), (Path.home(), "~")):
        text = text.replace(str(folder) + os.sep, f"{name}/" if name else "")
    return text
