"""Executes the notebooks in fresh kernels of this interpreter."""

import os
import re
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode, ValidationError

from helpers.environment import CourseError, write_whole


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


def read(path: Path) -> NotebookNode:
    """The notebook; CourseError if the file is not one, as after a merge or a broken download."""
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, TypeError, AttributeError, ValidationError) as error:
        raise CourseError(f"{path} is not a notebook: get it again\n{str(error)[:200]}") from error


def execute(path: Path, choice: dict[str, str], out: Path) -> Outcome:
    """Run one notebook in a fresh kernel in its own folder; write it to `out`, also when it fails.

    `choice` is added to the kernel's environment variables. Never raises for what a cell does: an
    exception or a dead kernel ends up in the outcome's `error`.
    """
    try:
        notebook = read(path)
    except CourseError as error:
        return Outcome(path.stem, nbformat.v4.new_notebook(), 0, error=str(error))
    cells = [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
    for cell in cells:
        cell.outputs, cell.execution_count = [], None
    outcome = Outcome(path.stem, notebook, len(cells))
    # Without folders to look in, the only kernel is this interpreter's own, whatever is installed.
    manager = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
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
        with warnings.catch_warnings():  # zmq says how it gets along with Windows' event loop
            warnings.filterwarnings("ignore", "Proactor event loop", RuntimeWarning)
            with client.setup_kernel(env=environment, cwd=str(path.parent), cleanup_kc=True):
                for cell in cells:
                    index = notebook.cells.index(cell)
                    client.execute_cell(cell, index, execution_count=outcome.ran + 1)
                    outcome.ran += 1
    except CellExecutionError as error:
        text = str(error) if sys.stdout.isatty() else re.sub(r"\x1b\[[0-9;]*m", "", str(error))
        outcome.error = f"cell {outcome.ran + 1} failed\n{text}"
    except DeadKernelError:
        source = cells[outcome.ran].source
        outcome.error = f"the kernel died in cell {outcome.ran + 1} (crash, or memory?)\n{source}"
    except RuntimeError as error:  # the kernel never answered
        outcome.error = f"no kernel: {error}"
    finally:
        outcome.seconds = time.perf_counter() - begun
        out.mkdir(parents=True, exist_ok=True)
        write(out / path.name, notebook)
    outcome.stderr = [
        f"{path.stem} cell {number}: {output.text.strip().splitlines()[0][:90]}"
        for number, cell in enumerate(cells, 1)
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stderr" and output.text.strip()
    ]
    return outcome


def execute_all(paths: list[Path], choice: dict[str, str], out: Path) -> list[Outcome]:
    """Run the notebooks one after the other, failed ones included; print progress and a table."""
    out.mkdir(parents=True, exist_ok=True)
    TemporaryFile(dir=out).close()  # an error here if files cannot be written, before a lesson runs
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


def write(path: Path, notebook: NotebookNode) -> None:
    """Write the notebook completely or not at all."""
    write_whole(path, nbformat.writes(notebook).rstrip("\n") + "\n")
