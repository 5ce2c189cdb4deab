"""Executes the notebooks in fresh kernels of this interpreter, and publishes what came out."""

import base64
import hashlib
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from helpers.environment import BOOTSTRAP_CELL, REPOSITORY, ROOT, CourseError

BUILD = ROOT / "build"
PROFILES = ("smoke", "cpu", "full")  # from small to large


@dataclass
class Outcome:
    """What became of a notebook. `error`: None or the text to show; `stderr`: the cells, if any."""

    name: str
    notebook: NotebookNode
    cells: int
    ran: int = 0
    seconds: float = 0.0
    error: str | None = None
    stderr: list[str] | None = None


class ThisPython(KernelSpecManager):
    """Whatever kernel a notebook or the machine names, it is this interpreter's."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(**get_kernel_dict())


def execute(path: Path, choice: dict[str, str], out: Path = BUILD) -> Outcome:
    """Run one notebook in a fresh kernel in its own folder; write it to `out`, also when it fails.

    `choice` is added to the kernel's environment variables. Never raises for what a cell does: an
    exception or a dead kernel ends up in the outcome's `error`.
    """
    notebook = nbformat.read(path, as_version=4)
    cells = [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
    for cell in cells:
        cell.outputs, cell.execution_count = [], None
    outcome = Outcome(path.stem, notebook, len(cells))
    manager = AsyncKernelManager(kernel_spec_manager=ThisPython())
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=None,
        record_timing=False,
        shutdown_kernel="immediate",
        extra_arguments=["--log-level=40"],
    )
    environment = {**os.environ, "JUPYTER_PREFER_ENV_PATH": "1", **choice}
    environment.pop("JUPYTER_PATH", None)
    begun = time.perf_counter()
    try:
        with client.setup_kernel(env=environment, cwd=str(path.parent), cleanup_kc=True):
            for cell in cells:
                index = notebook.cells.index(cell)
                client.execute_cell(cell, index, execution_count=outcome.ran + 1)
                outcome.ran += 1
    except CellExecutionError as error:
        outcome.error = f"cell {outcome.ran + 1} failed\n{_plain(str(error))}"
    except DeadKernelError:
        source = cells[outcome.ran].source
        outcome.error = f"the kernel died in cell {outcome.ran + 1} (crash, or memory?)\n{source}"
    except RuntimeError as error:  # the kernel never answered
        outcome.error = f"no kernel: {error}"
    finally:
        outcome.seconds = time.perf_counter() - begun
        out.mkdir(parents=True, exist_ok=True)
        _write(out / path.name, notebook)
    outcome.stderr = [
        f"{path.stem} cell {number}: {output.text.strip().splitlines()[0][:90]}"
        for number, cell in enumerate(cells, 1)
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stderr" and output.text.strip()
    ]
    return outcome


def execute_all(paths: list[Path], choice: dict[str, str], out: Path = BUILD) -> list[Outcome]:
    """Run the notebooks one after the other, failed ones included; print progress and a table."""
    outcomes = []
    for number, path in enumerate(paths, 1):
        head = f"[{number}/{len(paths)}] {path.stem}"
        print(f"{head}: started", flush=True)
        outcome = execute(path, choice, out)
        result = "FAILED" if outcome.error else "done"
        print(f"{head}: {result} after {outcome.seconds:.0f} s", flush=True)
        if outcome.error:
            print(outcome.error, flush=True)
        outcomes.append(outcome)
    print("\n" + table(outcomes))
    return outcomes


def table(outcomes: list[Outcome]) -> str:
    """Notebook, cells, seconds, result; then every output that went to stderr."""
    wide = max(len(o.name) for o in outcomes)
    rows = [f"{'notebook':<{wide}}  {'cells':>7}  {'seconds':>7}  result"]
    for o in outcomes:
        result = f"FAILED: {o.error.splitlines()[0]}" if o.error else "ok"
        rows.append(f"{o.name:<{wide}}  {f'{o.ran}/{o.cells}':>7}  {o.seconds:7.1f}  {result}")
    good = sum(o.error is None for o in outcomes)
    total = sum(o.seconds for o in outcomes)
    rows.append(f"{'all':<{wide}}  {'':>7}  {total:7.1f}  {good} of {len(outcomes)} ok")
    warned = [line for o in outcomes for line in o.stderr or []]
    return "\n".join(rows + [f"Outputs with text on stderr: {len(warned)}"] * bool(warned) + warned)


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
            _write(path, outcome.notebook)
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
    }


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
            _write(path, notebook)
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


def _plain(text: str) -> str:
    return text if sys.stdout.isatty() else re.sub(r"\x1b\[[0-9;]*m", "", text)


def _write(path: Path, notebook: NotebookNode) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    nbformat.write(notebook, part)
    os.replace(part, path)
