"""The repository as a whole: style, one public address, weight."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.environment import REPOSITORY, VERSION
from helpers.results import FOLDER

ROOT = Path(__file__).resolve().parents[1]
CODE = ["helpers", "tests", "notebooks", "conftest.py", ".github"]
TEXTS = [*ROOT.glob("*.md"), *ROOT.glob("*.cff"), *ROOT.glob("[hn]*/*.md")]


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(command: list[str]):
    run = [sys.executable, "-m", "ruff", *command, *CODE]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_one_public_address(path: Path):
    """Badges and clone commands name the address that helpers/environment.py holds."""
    text = path.read_text("utf-8")
    for found in re.findall(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob", text):
        assert found == REPOSITORY
    for found in re.findall(r"colab\.research\.google\.com/\S+?/blob/([^/]+)/", text):
        assert found == f"v{VERSION}"  # notebook and helpers of one release
    for found in re.findall(r"git clone https://github\.com/([\w.-]+/[\w.-]+)", text):
        assert found.removesuffix(".git") == REPOSITORY


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(path: Path):
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text("utf-8")):
        if "://" not in link:
            assert (path.parent / link).exists(), link


def test_the_readme_names_every_notebook():
    text = (ROOT / "README.md").read_text("utf-8")
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        assert f"(notebooks/{path.name})" in text, path.name


def test_the_guide_to_the_helpers_names_each():
    guide = (ROOT / "helpers" / "README.md").read_text("utf-8")
    linked = set(re.findall(r"\]\((\S+?)\)", guide))
    files = [p for p in (ROOT / "helpers").rglob("*.*") if p.suffix in (".py", ".j2")]
    names = {p.relative_to(ROOT / "helpers").as_posix() for p in files if p.stem != "__init__"}
    assert linked == names


def test_nothing_heavy():
    """But the weights of the published net, 6.7 million at 2 bytes."""
    for folder in ("helpers", "tests", "notebooks", "images"):
        for path in (ROOT / folder).rglob("*"):
            most = 16_000_000 if path.parent == FOLDER and path.suffix == ".pt" else 1_500_000
            assert not path.is_file() or path.stat().st_size < most, path


def test_the_repository_is_small():
    """What a learner fetches. The notebooks' outputs are most of it."""
    if not (git := shutil.which("git")):
        pytest.skip("no git: which files belong to the repository is not known")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("no git repository: which files belong to it is not known")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert len(files) > 50
    assert sum(path.stat().st_size for path in files if path.is_file()) < 25_000_000


def test_one_version():
    """The tag Colab fetches, the citation and the newest change are of one release."""
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.M)
    changes = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert cited[1] == changes[1] == VERSION


def test_every_requirement_says_why():
    """And what would take its place, so that a dead package costs a day and not a month."""
    for name in ("requirements.txt", "tests/requirements.txt"):
        for line in (ROOT / name).read_text("utf-8").splitlines():
            if re.match(r"\w", line):
                assert len(line.partition("#")[2].split()) >= 2, line
                assert re.search(r"; else\b", line), line
