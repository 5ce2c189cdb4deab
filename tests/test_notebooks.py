"""What holds for every notebook without running it: shape, stored outputs, their origin.

That they run is what `python3 -m helpers test` adds: it executes each of them.
"""

import re
import statistics
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from helpers.environment import BOOTSTRAP_CELL, REPOSITORY, VERSION
from helpers.publishing import code_digest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("[0-9]*.ipynb"))
SECTIONS = ["## Goals", "## Prerequisites", "## Recap", "## Exercises", "## Further reading"]
# A folder that exists on one machine only.
MACHINE = re.compile(r"(/home/|/root/|/Users/|/tmp/|/work/|/private/|[A-Z]:\\Users)\S*")


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def notebook(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in code(notebook) for output in cell.outputs]


def bullets(text: str, heading: str) -> list[str]:
    """The list under a heading, each item on one line of words."""
    section = re.split(r"^## ", text.split(f"\n{heading}\n")[1], flags=re.M)[0]
    items = re.findall(r"^- (.*(?:\n  +\S.*)*)", section, re.M)
    return [" ".join(item.split()) for item in items]


def prose(notebook: NotebookNode) -> str:
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return "\n" + "\n\n".join(cells) + "\n"


def test_there_are_seven():
    assert [path.name[:2] for path in PATHS] == [f"0{n}" for n in range(1, 8)]


def test_is_valid(notebook: NotebookNode):
    nbformat.validate(notebook)
    assert set(notebook.metadata) <= {"kernelspec", "language_info", "course"}


def test_opens_with_the_one_bootstrap_cell(notebook: NotebookNode):
    assert code(notebook)[0].source == BOOTSTRAP_CELL
    assert sum(cell.source == BOOTSTRAP_CELL for cell in code(notebook)) == 1


def test_opens_with_title_and_badge(path: Path, notebook: NotebookNode):
    first = notebook.cells[0]
    assert first.cell_type == "markdown" and re.match(rf"# {path.name[:2]} \S", first.source)
    assert f"/github/{REPOSITORY}/blob/v{VERSION}/notebooks/{path.name})" in prose(notebook)


def test_has_its_sections_in_order(notebook: NotebookNode):
    headings = re.findall(r"^## .*$", prose(notebook), re.M)
    assert [heading for heading in headings if heading in SECTIONS] == SECTIONS
    assert headings[-1] == "## Further reading"


def test_recap_repeats_the_goals(notebook: NotebookNode):
    goals = bullets(prose(notebook), "## Goals")
    assert 3 <= len(goals) <= 5
    assert bullets(prose(notebook), "## Recap") == goals


def test_size_of_cells(notebook: NotebookNode):
    lines = [len(cell.source.splitlines()) for cell in code(notebook)]
    assert 20 <= len(lines) <= 60
    assert statistics.median(lines) < 8 and max(lines) <= 25


def test_size_of_file(path: Path):
    assert path.stat().st_size < 1_500_000


def test_some_output_is_compared(notebook: NotebookNode):
    checked = [c for c in code(notebook) if "nbval-check-output" in c.metadata.get("tags", [])]
    assert checked
    for cell in checked:
        assert cell.outputs, f"nothing is stored to compare with: {cell.source}"


def test_outputs_belong_to_the_cells(path: Path, notebook: NotebookNode):
    stored = notebook.metadata.get("course", {}).get("digest")
    todo = f"python3 -m helpers publish --only {path.name[:2]} --profile cpu"
    assert stored == code_digest(notebook), f"the outputs are stale: {todo}"


def test_no_errors_and_no_warnings(notebook: NotebookNode):
    for output in outputs(notebook):
        assert output.output_type != "error", output.get("evalue")
        assert output.get("name") != "stderr", output.get("text")


def test_every_figure_has_alt_text(notebook: NotebookNode):
    for output in outputs(notebook):
        if "image/png" in output.get("data", {}):
            alt = output.metadata.get("image/png", {}).get("alt", "")
            assert len(alt.split()) >= 5, "end the cell with a Picture of helpers.plots"
            assert alt in output.data.get("text/plain", "")


def test_nothing_of_one_machine(notebook: NotebookNode):
    for cell in notebook.cells:
        assert not MACHINE.search(cell.source), cell.source
    for output in outputs(notebook):
        texts = [output.get("text", ""), output.get("data", {}).get("text/html", "")]
        for text in [*texts, output.get("data", {}).get("text/plain", "")]:
            assert not MACHINE.search(text), text
        assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})


def test_what_lesson_02_says_of_the_shares_of_stage_3():
    """Larger than the image's, a quarter of the square, with shortcuts and without."""
    shown = " ".join(o.get("text", "") for o in outputs(nbformat.read(PATHS[1], as_version=4)))
    (shares,) = re.findall(r"stage3 +without shortcuts +(\d+)% .* with them +(\d+)%", shown)
    assert min(map(int, shares)) > 25


def test_the_glossary_is_in_order():
    terms = re.findall(r"^- \*\*(.+?)\*\*", (FOLDER / "GLOSSARY.md").read_text("utf-8"), re.M)
    assert len(terms) > 100 and terms == sorted(set(terms), key=str.lower)


def test_links_to_files_lead_somewhere(notebook: NotebookNode):
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose(notebook)):
        if "://" not in link:
            assert (FOLDER / link).exists(), link
