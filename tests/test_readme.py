"""What the README tells people to type works: small things are run, long ones are parsed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.__main__ import parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
FENCED = re.compile(r"```\n(.*?)```", re.S)
BLOCKS = [line for block in FENCED.findall(README) for line in block.split("\n")]
SPANS = re.findall(r"`([^`]+)`", FENCED.sub("", README))
COMMANDS = sorted(
    {
        " ".join(text.split())
        for text in BLOCKS + SPANS
        if re.match(
            r"(\w+=\S+ )*(python3[\d.]* |\S*torchrun .*)-m helpers \w", " ".join(text.split())
        )
    }
)


def words_of(command: str) -> list[str]:
    """The arguments behind `-m helpers`; what the README leaves to the reader is filled in."""
    _, _, rest = command.partition("-m helpers ")
    return [word for word in shlex.split(rest.split("#")[0]) if word != "..."]


def test_the_readme_names_its_commands():
    assert {words_of(command)[0] for command in COMMANDS} == {
        "run", "test", "lab", "doctor", "train", "measure", "publish"
    }  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_parsed(command: str, tmp_path: Path, monkeypatch):
    for part in ("train", "test"):
        (tmp_path / "pictures" / part).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    options, rest = parser().parse_known_args(words_of(command))
    assert not rest, f"{command}: {rest} is no argument of it"


@pytest.mark.parametrize("option", sorted(set(re.findall(r"`(--[\w-]+)", README))))
def test_options_named_alone_exist(option: str):
    helps = [
        choice.format_help() for choice in parser()._subparsers._group_actions[0].choices.values()
    ]
    assert any(option in text for text in helps)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["doctor"],
        ["run", "--profile", "smoke", "--only", "04"],
        ["train", "--profile", "smoke", "--out", "OUT"],
        ["train", "--profile", "smoke", "--out", "OUT", "--resume"],
    ],
    ids=" ".join,
)
def test_commands_work(arguments: list[str], tmp_path: Path):
    """From another folder, as a reader types them."""
    typed = [str(tmp_path / "out") if word == "OUT" else word for word in arguments]
    if "--resume" in typed:
        first = [word for word in typed if word != "--resume"]
        subprocess.run([sys.executable, str(ROOT / "helpers"), *first], check=True)
    command = [sys.executable, str(ROOT / "helpers"), *typed]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    if arguments[0] == "train":
        assert (tmp_path / "out" / "model.pt").is_file()
        assert (tmp_path / "out" / "results.json").is_file()
