"""The workflows in .github: every command in them is parsed, and they give away nothing."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from helpers.__main__ import parser
from helpers.environment import NEWEST, OLDEST

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".github" / "workflows"
PATHS = sorted(FOLDER.glob("*.yml"))
VERSIONS = [f"3.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1)]


def read(path: Path) -> dict:
    workflow = yaml.safe_load(path.read_text("utf-8"))
    workflow["on"] = workflow.pop(True)  # YAML 1.1 reads `on` as a truth value
    return workflow


def steps(workflow: dict) -> list[dict]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def workflow(path: Path) -> dict:
    return read(path)


def test_there_are_four():
    assert [path.stem for path in PATHS] == ["canary", "cuda", "links", "tests"]


def test_every_command_is_one_of_the_course(workflow: dict):
    """`python -m helpers ...` is parsed, and the files and scripts that are named exist."""
    for step in steps(workflow):
        for line in step.get("run", "").splitlines():
            words = shlex.split(line)
            if words[:1] not in (["python"], ["python3"]):
                continue
            if words[1:3] != ["-m", "helpers"]:
                assert (ROOT / words[1]).is_file(), line
                continue
            options, rest = parser().parse_known_args(words[3:])
            assert options.command == "test" or not rest, line
            for word in rest:
                assert word.startswith("-") or (ROOT / word).exists(), line


def test_actions_are_pinned(path: Path):
    """To a commit, with the release it belongs to beside it: a tag can be moved."""
    used = re.findall(r"uses: (.*)", path.read_text("utf-8"))
    assert used
    for line in used:
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_nothing_runs_for_hours_or_twice(workflow: dict):
    assert {"group", "cancel-in-progress"} == set(workflow["concurrency"])
    for name, job in workflow["jobs"].items():
        assert 1 <= job["timeout-minutes"] <= 180, name


def test_permissions_are_the_least(path: Path, workflow: dict):
    assert workflow["permissions"] == {"contents": "read"}
    given = {
        name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job
    }
    assert given == ({"report": {"issues": "write"}} if path.stem == "canary" else {})
    assert "pull_request_target" not in workflow["on"]
    for step in steps(workflow):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"] == {"persist-credentials": False}
        assert "${{" not in step.get("run", ""), "a title or a branch's name would become shell"


def test_only_the_gpu_job_has_a_machine_of_the_owner(path: Path, workflow: dict):
    for job in workflow["jobs"].values():
        own = "self-hosted" in job["runs-on"]
        assert own == (path.stem == "cuda")
        if own:
            assert "pull_request" not in workflow["on"]
            assert "!github.event.repository.fork" in job["if"]


def test_the_gpu_job_needs_a_gpu_and_keeps_what_it_made():
    runs = [step.get("run", "") for step in steps(read(FOLDER / "cuda.yml"))]
    asserts = next(i for i, run in enumerate(runs) if "assert torch.cuda.is_available()" in run)
    full = [i for i, run in enumerate(runs) if "--profile full" in run]
    assert len(full) == 2 and asserts < min(full)
    kept = steps(read(FOLDER / "cuda.yml"))[-1]
    assert kept["if"] == "always()" and "build/" in kept["with"]["path"]


def test_pythons_are_the_supported_ones():
    matrix = read(FOLDER / "tests.yml")["jobs"]["cpu"]["strategy"]["matrix"]
    assert (matrix["os"], matrix["python"]) == (["ubuntu-latest"], VERSIONS)
    for system in ("macos-latest", "windows-latest"):
        tried = [row["python"] for row in matrix["include"] if row["os"] == system]
        assert tried == [VERSIONS[0], VERSIONS[-1]], system
    for path in PATHS:
        for step in steps(read(path)):
            version = step.get("with", {}).get("python-version", VERSIONS[-1])
            assert version in ("${{ matrix.python }}", VERSIONS[-1]), path.name


def test_the_canary_drops_every_upper_bound():
    """Its sed, read from the workflow and done here: what stays are names and lower bounds."""
    line = next(
        run for s in steps(read(FOLDER / "canary.yml")) if "sed" in (run := s.get("run", ""))
    )
    pattern, new = re.search(r"'s/(.*)/(.*)/'", line).groups()
    for name in shlex.split(line)[4:]:
        text = re.sub(r"#.*", "", re.sub(pattern, new, (ROOT / name).read_text("utf-8")))
        assert text.strip() and "<" not in text and "==" not in text
        assert all(
            re.fullmatch(r"[\w.-]+>=[\d.]+", row.strip()) for row in text.split("\n") if row.strip()
        )


def test_the_issue_form_asks_for_doctor():
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/problem.yml").read_text("utf-8"))
    asked = next(field for field in form["body"] if field["id"] == "doctor")
    assert "python3 -m helpers doctor" in asked["attributes"]["label"]
    assert asked["validations"]["required"]
