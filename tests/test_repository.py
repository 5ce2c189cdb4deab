"""The repository as a whole: style, one public address, weight."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.environment import REPOSITORY

ROOT = Path(__file__).resolve().parents[1]
CODE = ["helpers", "tests", "notebooks", "conftest.py"]
TEXTS = [p for p in [*ROOT.glob("*.md"), *ROOT.glob("*.cff"), *(ROOT / "notebooks").glob("*.md")]]


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


def test_nothing_heavy():
    for folder in ("helpers", "tests", "notebooks", "images"):
        for path in (ROOT / folder).rglob("*"):
            assert not path.is_file() or path.stat().st_size < 1_500_000, path
