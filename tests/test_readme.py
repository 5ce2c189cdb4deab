"""What the texts tell people to type works: small things are run, long ones are parsed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from helpers.__main__ import parser
from helpers.data import load

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
OTHERS = [ROOT / "CONTRIBUTING.md", ROOT / "notebooks" / "TEACHING.md"]
FENCED = re.compile(r"```\n(.*?)```", re.S)
COMMAND = re.compile(r"(\w+=\S+ )*(python3[\d.]* |\S*torchrun .*)-m helpers \w")


def commands(text: str) -> set[str]:
    """Those in its fenced blocks, a line each, and in its spans of code."""
    blocks = [line for block in FENCED.findall(text) for line in block.split("\n")]
    spans = re.findall(r"`([^`]+)`", FENCED.sub("", text))
    typed = {" ".join(words.split()) for words in blocks + spans}
    return {words for words in typed if COMMAND.match(words)}


COMMANDS = sorted(commands(README).union(*(commands(p.read_text("utf-8")) for p in OTHERS)))


def words_of(command: str) -> list[str]:
    """The arguments behind `-m helpers`; what the README leaves to the reader is filled in."""
    _, _, rest = command.partition("-m helpers ")
    return [word for word in shlex.split(rest.split("#")[0]) if word != "..."]


def test_the_readme_names_its_commands():
    assert {words_of(command)[0] for command in commands(README)} == {
        "run", "test", "lab", "doctor", "train", "measure", "publish"
    }  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_parsed(command: str, tmp_path: Path, monkeypatch):
    for part in ("train", "test"):
        (tmp_path / "pictures" / part).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    options, rest = parser().parse_known_args(words_of(command))
    made = ROOT / "notebooks", ROOT / "student", ROOT / "build"  # what `lab` may be given
    known = {"test": lambda word: (ROOT / word).exists(), "lab": lambda word: ROOT / word in made}
    files = [word for word in rest if options.command in known and known[options.command](word)]
    assert rest == files, f"{command}: {rest} is no argument of it"


@pytest.mark.parametrize("option", sorted(set(re.findall(r"`(--[\w-]+)", README))))
def test_options_named_alone_exist(option: str):
    helps = [
        choice.format_help() for choice in parser()._subparsers._group_actions[0].choices.values()
    ]
    assert any(option in text for text in helps)


def pictures(folder: Path) -> Path:
    """Some drawn shapes as a reader's own pictures: three classes, 150 and 40 of each."""
    data = load("shapes", holdout=0)
    for part, images, count in (("train", data.train, 150), ("test", data.unlock_test(), 40)):
        for label, name in enumerate(images.classes[:3]):
            (folder / part / name).mkdir(parents=True)
            for i, image in enumerate(images.images[images.labels == label][:count]):
                Image.fromarray(image).save(folder / part / name / f"{i}.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["doctor"],
        ["run", "--profile", "smoke", "--only", "04"],
        ["run", "--profile", "smoke", "--only", "01", "--data", "folder:PICTURES"],
        ["publish", "--only", "04", "--student", "OUT"],
        ["publish", "--only", "04", "--slides", "OUT"],
        [
            "measure",
            "--recipe",
            "course",
            "--data",
            "shapes",
            "--width",
            "4",
            "--epochs",
            "1",
            "--limit",
            "600",
            "--seeds",
            "1",
            "--out",
            "OUT",
        ],
        ["train", "--profile", "smoke", "--out", "OUT"],
        ["train", "--profile", "smoke", "--out", "OUT", "--resume"],
    ],
    ids=" ".join,
)
def test_commands_work(arguments: list[str], tmp_path: Path):
    """From another folder, as a reader types them."""
    typed = [word.replace("OUT", str(tmp_path / "out")) for word in arguments]
    if "folder:PICTURES" in typed:
        typed[-1] = f"folder:{pictures(tmp_path / 'pictures')}"
    if "--resume" in typed:
        first = [word for word in typed if word != "--resume"]
        subprocess.run([sys.executable, str(ROOT / "helpers"), *first], check=True)
    command = [sys.executable, str(ROOT / "helpers"), *typed]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    made = {"train": ["model.pt", "results.json"], "measure": ["course-w4.json", "course-w4.pt"]}
    for name in made.get(arguments[0], []):
        assert (tmp_path / "out" / name).is_file()
    if arguments[0] == "publish":
        assert any((tmp_path / "out").glob("04_*"))
