"""The lessons in other forms: without solutions, for students, and as slides, for a projector.

Both are made from the notebooks as they are stored; nothing is executed.
"""

import base64
import copy
import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from helpers.environment import BOOTSTRAP_CELL, ROOT, CourseError
from helpers.notebooks import read

FOLDED = re.compile(r"<details>.*?</details>\s*", re.S)
SOLUTION = re.compile(r"<details>\s*<summary>(?!\s*Hint).*?</details>\s*", re.S)
BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)\s*")
UNTAUGHT = ("Prerequisites", "Setting up", "Exercises", "Further reading")  # not on slides
TEMPLATE = Path(__file__).with_name("slides.html.j2")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes `out` at the end, or vanishes if anything fails.

    Raises:
        CourseError: `out` lies in the course's own folders, is a file, or holds something already.
    """
    out = Path(os.path.expanduser(out)).resolve()
    if out == ROOT or any(out.is_relative_to(ROOT / f) for f in ("notebooks", "helpers", "tests")):
        raise CourseError(f"{out} belongs to the course itself: name a new folder.")
    if out.is_file():
        raise CourseError(f"{out} is a file: name a new folder.")
    if out.is_dir() and any(out.iterdir()):
        raise CourseError(f"{out} is not empty. Nothing in it is replaced: name a new folder.")
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield part
        if out.is_dir():
            out.rmdir()
        part.rename(out)
    except OSError as error:
        raise CourseError(f"{out} cannot be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_student(paths: list[Path], out: Path) -> None:
    """Write the lessons and the glossary to the new folder `out`, by `student_edition`."""
    with new_folder(out) as part:
        for path in paths:
            lesson = student_edition(read(path))
            nbformat.write(lesson, part / path.name)
        for glossary in paths[0].parent.glob("GLOSSARY.md"):
            shutil.copy(glossary, part)


def student_edition(notebook: NotebookNode) -> NotebookNode:
    """A copy to hand out: hints stay, solutions go, and so does what would give answers away.

    No outputs: a prediction is no fun beside its result, and a learner's own numbers take their
    place. No badge: it opens the edition with the solutions.
    """
    lesson = copy.deepcopy(notebook)
    lesson.metadata.pop("course", None)  # says where outputs come from
    for cell in lesson.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            tags = [t for t in cell.metadata.pop("tags", []) if t != "nbval-check-output"]
            if tags:
                cell.metadata["tags"] = tags
        else:
            cell.source = BADGE.sub("", SOLUTION.sub("", cell.source)).strip()
    lesson.cells = [c for c in lesson.cells if c.cell_type == "code" or c.source]
    return lesson


def write_slides(paths: list[Path], out: Path) -> dict[str, int]:
    """Write one HTML file a lesson to the new folder `out`; returns the number of slides of each.

    The files need no other files and no network: figures, formulas, styles and the few lines
    of script that turn the pages are inside.
    """
    from nbconvert import SlidesExporter
    from pygments.formatters import HtmlFormatter

    colours = HtmlFormatter(style="default").get_style_defs(".highlight")
    exporter = SlidesExporter(
        template_file=str(TEMPLATE), exclude_input_prompt=True, exclude_output_prompt=True
    )
    counts = {}
    with new_folder(out) as part:
        for path in paths:
            deck = as_slides(read(path))
            title = re.match(r"# (.*)", deck.cells[0].source).group(1)
            resources = {"title": title, "colours": colours}
            html, _ = exporter.from_notebook_node(deck, resources=resources)
            (part / f"{path.stem}.slides.html").write_text(html, encoding="utf-8")
            types = [cell.metadata["slideshow"]["slide_type"] for cell in deck.cells]
            counts[path.stem] = types.count("slide") + types.count("subslide")
    return counts


def as_slides(notebook: NotebookNode) -> NotebookNode:
    """A copy whose cells say in `slideshow` what nbconvert makes of them. The rules:

    - `#` and `##` start a slide, `###` a subslide. Prerequisites, set-up, exercises and further
      reading are left out.
    - Of a text, its first paragraph under a heading, lists, tables, quotes, formulas, what leads
      to these, and calls to predict are shown; the rest becomes the speaker's notes.
    - A code cell is a subslide of its own under the section's heading: a figure without its code,
      other outputs below theirs. Code that prints nothing is a note, unless it defines something.
      What needs a kernel, tagged `live`, is left out.
    """
    deck, cells, section, skipped = copy.deepcopy(notebook), [], "", False

    def add(kind: str, cell: NotebookNode) -> None:
        cell.metadata = NotebookNode(slideshow={"slide_type": kind})
        cells.append(cell)

    for cell in deck.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "markdown":
            for heading, text in _pieces(BADGE.sub("", FOLDED.sub("", cell.source))):
                if heading:
                    level, section = heading.split(" ", 1)
                    skipped = section in UNTAUGHT if len(level) < 3 else skipped
                shown, told = _shown(text, bool(heading))
                if skipped:
                    continue
                opens = heading and len(level) < 3
                if opens or shown:  # a bare ### stands above the code that follows anyway
                    kind = "slide" if opens else "subslide"
                    top = heading or f"### {section}"
                    add(kind, new_markdown_cell("\n\n".join([top, *map(with_formulas, shown)])))
                if told:
                    add("notes", new_markdown_cell("\n\n".join(map(with_formulas, told))))
        elif not (skipped or cell.source == BOOTSTRAP_CELL or {"exercise", "live"} & {*tags}):
            kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
            if not (cell.outputs or re.search(r"^(def|class) ", cell.source, re.M)):
                add("notes", cell)
                continue
            add("subslide", new_markdown_cell(f"### {section}"))
            if kinds & {"image/png", "text/markdown"}:  # a figure, a helper's source: not the call
                add("notes", new_markdown_cell(f"```python\n{cell.source}\n```"))
                cell.source = ""
            add("-", cell)
    deck.cells = cells
    if course := notebook.metadata.get("course"):
        about = f"Numbers and figures: {course['profile']} profile, {course['date']}"
        cells[0].source += f"\n\n<small>{about}</small>"
    return deck


def _blocks(text: str) -> list[str]:
    """The paragraphs of a Markdown text; a fenced block of code is one, with its empty lines."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.M | re.S)
    return [
        block.strip("\n")
        for part in parts
        for block in ([part] if part.startswith("```") else re.split(r"\n\s*\n", part))
        if block.strip()
    ]


def _pieces(text: str) -> list[tuple[str, list[str]]]:
    """(heading or "", the blocks below it) for each part of a Markdown cell."""
    pieces = [("", [])]
    for block in _blocks(text):
        first, _, rest = block.partition("\n")
        if re.match(r"#{1,4} ", first):
            pieces.append((first, [rest] if rest.strip() else []))
        else:
            pieces[-1][1].append(block)
    return [piece for piece in pieces if any(piece)]


def _shown(blocks: list[str], under_heading: bool) -> tuple[list[str], list[str]]:
    """What a slide shows of a text, and what is left for the notes."""
    striking = re.compile(r"([-*>|!]|\d+\.) |\*\*(Predict|Question)|\$\$|```|\|")
    shown, told = [], []
    for number, block in enumerate(blocks):
        after = "".join(blocks[number + 1 : number + 2])
        first = under_heading and number == 0
        leads = after.startswith("$$") or (block.endswith(":") and striking.match(after))
        (shown if first or leads or striking.match(block) else told).append(block)
    return shown, told


def with_formulas(text: str) -> str:
    """Markdown whose formulas are pictures, with their LaTeX as alt text: MathJax needs a network.

    What matplotlib cannot typeset stays as it is.
    """
    pattern = r"```.*?```|`[^`]*`|(?P<mark>\$\$?)(?P<formula>[^$]+)(?P=mark)"
    return re.sub(pattern, _formula, text, flags=re.S)


def _formula(found: re.Match) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.mathtext import MathTextParser

    if not found["mark"]:
        return found.group()
    tex = " ".join(found["formula"].split())
    plain = re.sub(r"\\[tbB]ig[lr]?(?![a-z])", "", tex)
    if found["mark"] == "$$":
        plain = plain.replace(r"\frac", r"\dfrac")
    plain = re.sub(r"\\tfrac(\d)(\d)", r"\\frac{\1}{\2}", plain)
    plain = re.sub(r"\\sqrt +(\w)", r"\\sqrt{\1}", plain)
    plain = re.sub(r"\\[lr]Vert\b", r"\\Vert", re.sub(r"\\le\b", r"\\leq", plain))
    with rc_context({"mathtext.fontset": "cm", "font.size": 12, "svg.hashsalt": "course"}):
        try:
            width, height, depth, *_ = MathTextParser("path").parse(f"${plain}$")
        except ValueError:
            return found.group()
        figure = Figure(figsize=((width + 2) / 72, (height + 2) / 72))
        figure.text(1 / (width + 2), (depth + 1) / (height + 2), f"${plain}$")
        svg = io.BytesIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    data = base64.b64encode(svg.getvalue()).decode()
    size = f"height:{(height + 2) / 12:.2f}em;vertical-align:{-(depth + 1) / 12:.2f}em"
    kind = "display" if found["mark"] == "$$" else "inline"
    return (
        f'<img class="math {kind}" alt="{escape(tex)}" style="{size}" '
        f'src="data:image/svg+xml;base64,{data}">'
    )
