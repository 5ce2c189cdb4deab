"""The other forms of the lessons, and what `publish --check` says of the helpers."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers import __main__ as cli
from helpers import editions, environment, publishing
from helpers.environment import ROOT, CourseError
from helpers.notebooks import execute

LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA"
    "AABJRU5ErkJggg=="
)


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def lesson(request: pytest.FixtureRequest) -> NotebookNode:
    return nbformat.read(request.param, as_version=4)


def sources(notebook: NotebookNode, kind: str = "markdown") -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == kind)


# Without solutions


def test_every_folded_text_is_a_hint_or_a_solution(lesson):
    labels = {label for label in re.findall(r"<summary>(.*?)</summary>", sources(lesson))}
    assert labels and all(re.fullmatch(r"Hint( \d)?|Solution", label) for label in labels), labels
    assert sources(lesson).count("<details>") == sources(lesson).count("</details>")


def test_students_get_no_solution(lesson):
    edition = editions.student_edition(lesson)
    solutions = re.findall(r"Solution</summary>(.*?)</details>", sources(lesson), re.S)
    exercises = [c for c in lesson.cells if "exercise" in c.metadata.get("tags", [])]
    assert len(solutions) == len(exercises) >= 4
    text = sources(edition) + sources(edition, "code")
    for solution in solutions:
        for block in filter(None, map(str.strip, re.split(r"\n\n|```\w*", solution))):
            assert block not in text or re.match(r"(from|import) [^\n]*$", block)
    assert "colab.research" not in text  # it would open the edition with the solutions


def test_students_get_all_the_rest(lesson):
    edition = editions.student_edition(lesson)
    code = lambda notebook: [(c.source, c.id) for c in notebook.cells if c.cell_type == "code"]
    assert code(edition) == code(lesson)
    exercises = [
        [c.source for c in n.cells if "exercise" in c.metadata.get("tags", [])]
        for n in (lesson, edition)
    ]
    assert exercises[0] == exercises[1] and len(exercises[1]) >= 4
    assert sources(edition).count("<summary>Hint") == sources(lesson).count("<summary>Hint") > 0
    assert re.findall(r"^#+ .*", sources(edition), re.M) == re.findall(
        r"^#+ .*", sources(lesson), re.M
    )
    assert all(not c.outputs for c in edition.cells if c.cell_type == "code")
    nbformat.validate(edition)


@pytest.mark.slow
@pytest.mark.parametrize("number", ["02", "04"])
def test_the_students_edition_runs(number, tmp_path, monkeypatch, link):
    """In a folder of a copy of the course, where its first cell finds the helpers."""
    monkeypatch.setattr(environment, "prepare", lambda skip: sys.executable)
    link(ROOT / "helpers", tmp_path / "helpers")
    folder = tmp_path / "student"
    assert cli.main(["publish", "--only", number, "--student", str(folder)]) == 0
    assert sorted(p.name for p in folder.iterdir()) == [
        next(p.name for p in LESSONS if p.name.startswith(number)),
        "GLOSSARY.md",
    ]
    choice = {"COURSE_PROFILE": "smoke", "COURSE_DATA": "shapes", "COURSE_SEED": "0"}
    choice["COURSE_RUN"] = "1"
    outcome = execute(next(folder.glob("*.ipynb")), choice, tmp_path / "build")
    assert outcome.error is None and outcome.ran == outcome.cells > 20
    told = [
        str(output.data)
        for cell in outcome.notebook.cells
        if "exercise" in cell.metadata.get("tags", [])
        for output in cell.outputs
    ]
    assert len(told) >= 4 and all("Not attempted." in text for text in told)


# Where they are written


@pytest.mark.parametrize("option", ["--student", "--slides"])
def test_nothing_is_overwritten(option, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(environment, "prepare", lambda skip: sys.executable)
    (tmp_path / "full").mkdir()
    mine = tmp_path / "full" / "02_model_and_receptive_field.ipynb"
    mine.write_text("my own work")
    for folder, reason in (
        (ROOT / "notebooks", "belongs to the course itself"),
        (ROOT / "notebooks" / "new", "belongs to the course itself"),
        (ROOT, "belongs to the course itself"),
        (tmp_path / "full", "is not empty. Nothing in it is replaced: name a new folder"),
        (mine, "is a file: name a new folder"),
    ):
        assert cli.main(["publish", "--only", "02", option, str(folder)]) == 1
        assert reason in capsys.readouterr().err
    assert mine.read_text() == "my own work"
    assert [p.name for p in tmp_path.iterdir()] == ["full"]
    assert not (ROOT / "notebooks" / "new").exists()


def test_a_failure_leaves_nothing(tmp_path):
    bad = tmp_path / "02_bad.ipynb"
    bad.write_text("{")
    nbformat.write(small_lesson(), good := tmp_path / "01_good.ipynb")
    for write in (editions.write_student, editions.write_slides):
        with pytest.raises(CourseError, match="02_bad.ipynb is not a notebook"):
            write([good, bad], tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["01_good.ipynb", "02_bad.ipynb"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CourseError, match="out cannot be written"):
        editions.write_student(LESSONS[:1], tmp_path / "file" / "out")


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    editions.write_student(LESSONS[:2], tmp_path / "out")
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == sorted([*(p.name for p in LESSONS[:2]), "GLOSSARY.md"])


def test_one_thing_at_a_time(capsys):
    with pytest.raises(SystemExit):
        cli.main(["publish", "--student", "a", "--slides", "b"])
    assert "not allowed with argument" in capsys.readouterr().err


# Slides


class Page(HTMLParser):
    """What the tests ask of a page of slides."""

    def __init__(self, text: str):
        super().__init__()
        self.images, self.loaded, self.sections, self.depth = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "img":
            self.images.append(attributes)
        for name in ("src", "href") if tag in ("img", "script", "link", "iframe") else ():
            self.loaded.append(attributes.get(name) or "data:")
        if tag == "section":
            self.depth += 1
            if self.depth == 2:
                self.sections.append("")

    def handle_endtag(self, tag):
        self.depth -= tag == "section"

    def handle_data(self, data):
        if self.depth == 2:
            self.sections[-1] += data


def small_lesson() -> NotebookNode:
    figure = new_output(
        "execute_result", {"image/png": PIXEL, "text/plain": "A line."}, metadata={}
    )
    figure.metadata = {"image/png": {"alt": "A line.", "width": 648}}
    exercise = new_code_cell("answer = ...", outputs=[new_output("stream", text="Not attempted.")])
    exercise.metadata = {"tags": ["exercise"]}
    live = new_code_cell("answer = interact()", outputs=[new_output("stream", text="Hidden")])
    live.metadata = {"tags": ["live"]}
    cells = [
        new_markdown_cell("# 09 Lesson\n\nWhat it is about.\n\n## Goals\n\n- One goal\n\n"
                          "## Prerequisites\n\nHidden knowledge."),  # fmt: skip
        new_markdown_cell("## Setting up\n\nHidden set-up."),
        new_code_cell(environment.BOOTSTRAP_CELL),
        new_markdown_cell("## 1 A part\n\nThe idea $x_1$.\n\nThe teacher's words.\n\n- a list\n\n"
                          "```py\n# no heading\n\nx = 1\n```"),  # fmt: skip
        new_code_cell("plots.line()", outputs=[figure]),
        new_code_cell("quiet = 1"),
        new_code_cell("print(2)", outputs=[new_output("stream", text="two\n")]),
        new_markdown_cell("More of the teacher's words."),
        new_markdown_cell("**Predict.** How many?"),
        exercise,
        live,
        new_markdown_cell("<details><summary>Hint</summary>\n\nHidden hint.\n\n</details>"),
        new_markdown_cell("### A subsection\n\nText."),
        new_markdown_cell("### Bare"),
        new_code_cell("print(3)", outputs=[new_output("stream", text="three\n")]),
        new_markdown_cell("## Exercises\n\n### Exercise 1\n\nHidden task."),
        new_markdown_cell("## Further reading\n\nHidden paper."),
    ]  # fmt: skip
    return new_notebook(cells=cells)


def test_the_rules_of_the_slides():
    deck = editions.as_slides(small_lesson())
    told = [(c.metadata["slideshow"]["slide_type"], c.source) for c in deck.cells]
    kinds = [kind for kind, _ in told]
    assert kinds == ["slide", "slide", "slide", "notes", "subslide", "notes", "-", "notes",
                     "subslide", "-", "notes", "subslide", "subslide", "subslide", "-"]  # fmt: skip
    assert told[2][1].startswith("## 1 A part\n\nThe idea <img") and "x_1" in told[2][1]
    assert "- a list\n\n```py\n# no heading\n\nx = 1\n```" in told[2][1]
    assert told[3][1] == "The teacher's words."
    assert told[4][1] == told[8][1] == "### 1 A part"
    assert told[5][1] == "```python\nplots.line()\n```"
    assert (told[6][1], told[7][1], told[9][1]) == ("", "quiet = 1", "print(2)")
    assert told[11][1] == "### 1 A part\n\n**Predict.** How many?"
    assert told[12][1] == "### A subsection\n\nText."
    assert told[13][1] == "### Bare"
    text = " ".join(source for _, source in told)
    assert "Hidden" not in text and "answer" not in text and "bootstrap" not in text


def test_a_formula_or_list_brings_what_leads_to_it():
    text = "## 1 A part\n\nFirst.\n\nWords.\n\nThe whole costs\n\n$$x$$\n\nSo:\n\n- a list\n\nCode:"
    deck = editions.as_slides(new_notebook(cells=[new_markdown_cell(text)]))
    shown, told = (cell.source for cell in deck.cells)
    assert "First.\n\nThe whole costs\n\n<img" in shown and "So:\n\n- a list" in shown
    assert told == "Words.\n\nCode:"


def test_a_displayed_formula_is_larger():
    small, large = (editions.with_formulas(f"{m}\\frac{{1}}{{2}}{m}") for m in ("$", "$$"))
    height = [float(re.search(r"height:([\d.]+)em", image)[1]) for image in (small, large)]
    style = (Path(editions.__file__).parent / "slides.html.j2").read_text()
    letter = float(re.search(r"img\.math\.display \{.*font-size: ([\d.]+)em", style)[1])
    assert letter > 1 and height[1] > height[0] and 'class="math display"' in large
    assert letter * height[1] > 1.5 * height[0]  # as the reader sees it


def test_slides_are_made_at_conversion_and_stored_nowhere(tmp_path):
    notebook = small_lesson()
    before = nbformat.writes(notebook)
    editions.as_slides(notebook)
    assert nbformat.writes(notebook) == before


def test_a_page_of_slides(tmp_path):
    nbformat.write(small_lesson(), tmp_path / "09_lesson.ipynb")
    assert editions.write_slides([tmp_path / "09_lesson.ipynb"], tmp_path / "out") == {
        "09_lesson": 8
    }
    (file,) = (tmp_path / "out").iterdir()
    page = Page(file.read_text(encoding="utf-8"))
    assert file.name == "09_lesson.slides.html" and len(page.sections) == 8
    assert [i["alt"] for i in page.images] == ["x_1", "A line."]
    assert all(address.startswith("data:") for address in page.loaded)  # nothing from a network


@pytest.fixture(scope="module")
def decks(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("slides") / "out"
    editions.write_slides(LESSONS, out)
    return out


@pytest.mark.slow
def test_slides_of_the_lessons(decks, lesson):
    name = re.match(r"# (\d\d)", lesson.cells[0].source).group(1)
    text = next(decks.glob(f"{name}_*")).read_text(encoding="utf-8")
    page = Page(text)
    assert lesson.cells[0].source.split("\n")[0][2:] in page.sections[0]
    assert 25 <= len(page.sections) <= 90
    outputs = [o for cell in lesson.cells for o in cell.get("outputs", [])]
    figures = [o.metadata["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    alts = {image["alt"] for image in page.images}
    assert all(alts) and "No description has been provided for this image" not in alts
    assert {figure["alt"] for figure in figures} <= alts
    assert all(image["src"].startswith("data:image/") for image in page.images)
    assert all(address.startswith("data:") for address in page.loaded)
    shown = " ".join(page.sections)
    assert "Solution" not in shown and "exercises.check_" not in shown
    headings = re.findall(r"^#{2,3} (.*)", sources(lesson).split("## Exercises")[0], re.M)
    for heading in set(headings) - set(editions.UNTAUGHT):
        assert re.sub(r"[`*$].*", "", heading) in shown


@pytest.mark.slow
def test_every_formula_is_set(lesson):
    """MathJax, which would set them in a notebook, comes from the network."""
    plain = re.sub(r"```.*?```|`[^`]*`", "", editions.with_formulas(sources(lesson)), flags=re.S)
    assert re.findall(r"\$[^$]*\$", plain) == []


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_the_pages_turn(decks):
    """In a browser: the script starts on the slide the address names, and shows only that one."""
    page = next(decks.glob("03_*"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    done = subprocess.run(
        [*command, f"{page.as_uri()}#5"], capture_output=True, text=True, timeout=120
    )
    slides = Page(page.read_text(encoding="utf-8")).sections
    assert f'<div id="where" role="status">5 / {len(slides)}</div>' in done.stdout
    assert len(re.findall(r'<section[^>]*class="now"', done.stdout)) == 1


# Outputs and helpers


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of helpers, with nothing in it."""
    folder = tmp_path / "helpers"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.setattr(publishing, "HELPERS", folder)
    return folder


def test_helpers_are_found_through_each_other(own):
    (own / "one.py").write_text("def f():\n    import helpers.two\n")
    (own / "two.py").write_text("from helpers.one import f\nfrom helpers import three\n")
    for name in ("four", "environment"):
        (own / f"{name}.py").write_text("import numpy\n")
    (own / "three").mkdir()
    for name, code in (("__init__", "from helpers.three.part import f"), ("part", "x = 1")):
        (own / "three" / f"{name}.py").write_text(code)
    cells = [
        new_code_cell("%matplotlib inline\nfrom helpers import (\n    environment,\n    one,\n)")
    ]
    found = publishing.helper_digests(new_notebook(cells=cells))
    assert list(found) == ["one.py", "three/", "two.py"]
    assert found["one.py"] != found["two.py"]
    (own / "three" / "part.py").write_text("x = 2")
    changed = publishing.helper_digests(new_notebook(cells=cells))
    assert {name for name in found if found[name] != changed[name]} == {"three/"}


def test_check_names_the_helpers_that_changed(own, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(environment, "prepare", lambda skip: sys.executable)
    monkeypatch.setattr(cli, "NOTEBOOKS", tmp_path)
    (own / "plots.py").write_text("x = 1")
    (own / "data.py").write_text("y = 1")
    notebook = new_notebook(cells=[new_code_cell("from helpers import data, plots")])
    digest, helpers = publishing.code_digest(notebook), publishing.helper_digests(notebook)
    for name, course in (
        ("01_noted", {"digest": digest, "helpers": helpers}),
        ("02_before", {"digest": digest}),
    ):
        notebook.metadata["course"] = course
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    check = ["publish", "--check"]
    assert cli.main(check) == 0 and capsys.readouterr().out == ""
    (own / "plots.py").write_text("x = 2")
    assert cli.main(check) == 0  # a warning, since a comment may be all that changed
    assert capsys.readouterr().out == "01_noted.ipynb: its outputs are older than plots.py\n"
    (own / "data.py").unlink()
    assert cli.main(check) == 0
    assert (
        capsys.readouterr().out == "01_noted.ipynb: its outputs are older than data.py, plots.py\n"
    )
    notebook.cells[0].source += "\nx = 3"
    nbformat.write(notebook, tmp_path / "02_before.ipynb")
    assert cli.main(check) == 1


def test_publishing_notes_the_helpers(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "prepare", lambda skip: sys.executable)
    monkeypatch.setattr(cli, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(cli, "BUILD", tmp_path / "build")
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks" / "01_x.ipynb"
    cell = new_code_cell("def later():\n    import helpers.shapes")
    nbformat.write(new_notebook(cells=[cell]), path)
    assert cli.main(["publish"]) == 0
    made = nbformat.read(path, as_version=4)
    assert list(made.metadata["course"]["helpers"]) == ["shapes.py"]
    assert publishing.changed_helpers(made) == []
