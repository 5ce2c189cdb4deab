"""The command line: arguments, notebooks that fail or kill their kernel, publishing."""

import base64
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from PIL import Image

from helpers import __main__ as cli
from helpers import doctor, environment, launch, notebooks, publishing
from helpers.environment import CourseError

ROOT = Path(__file__).resolve().parents[1]
WHERE = "import os, sys\nprint(sys.executable, os.getcwd(), os.environ['COURSE_PROFILE'])"


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch):
    """As in a terminal where nobody has set the course's variables; `helpers test` sets them."""
    for name in ("PROFILE", "DATA", "SEED"):
        monkeypatch.delenv("COURSE_" + name, raising=False)


def write(folder: Path, name: str, *sources: str, course: dict | None = None) -> Path:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    if course:
        notebook.metadata["course"] = course
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / name)
    return folder / name


def texts(path: Path) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    return ["".join(o.get("text", "") for o in cell.outputs) for cell in cells]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course with no notebooks yet, in a folder with spaces, that needs no set-up."""
    folder = tmp_path / "a place" / "notebooks"
    folder.mkdir(parents=True)
    monkeypatch.setattr(cli, "NOTEBOOKS", folder)
    monkeypatch.setattr(cli, "BUILD", tmp_path / "a place" / "build")
    monkeypatch.setattr(environment, "prepare", lambda skip: sys.executable)
    monkeypatch.setattr(environment, "check_pair", lambda python: None)
    return folder


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("run --profile huge", "'huge': expected smoke, cpu, full, auto"),
        ("train --out=", "expected the name of a folder"),
        ("run --data imagenet", "'imagenet': expected auto, shapes, cifar10 or folder:PATH"),
        ("run --data folder:/nowhere", "expected a folder with train/<class>/ and test/<class>/"),
        ("run --seed -1", "expected"),
        ("run --seed 1.5", "'1.5': expected a whole number from 0 to 4294967295"),
        ("run --seed 4294967296", "'4294967296': expected a whole number from 0 to 4294967295"),
        ("train --width 0 --out x", "'0': expected a whole number, 1 or more"),
        ("train --epochs two --out x", "'two': expected a whole number, 1 or more"),
        ("train --holdout -1 --out x", "'-1': expected a whole number, 0 or more"),
        ("run --sed 1", "run has no --sed 1"),
        ("train --recipe best --out x", "invalid choice: 'best'"),
        ("publish --repository https://example.org", "expected OWNER/NAME"),
        ("publish --version v2", "'v2': expected three numbers, as in 0.2.0"),
        ("publish --version 1.2.3 --repository a/b", "not allowed with argument"),
        ("", "COMMAND"),
    ],
)
def test_wrong_arguments_cost_no_time(arguments: str, expected: str, monkeypatch, capsys):
    monkeypatch.setattr(environment, "prepare", lambda skip: pytest.fail("the set-up was started"))
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments.split())
    assert stopped.value.code == 2
    assert expected in capsys.readouterr().err


def test_only(place: Path, capsys):
    for name in ("01_one.ipynb", "02_two.ipynb", "notes.ipynb"):
        write(place, name, "1")
    assert [p.name for p in cli.choose(None)] == ["01_one.ipynb", "02_two.ipynb"]
    assert (
        [p.name for p in cli.choose("2")] == [p.name for p in cli.choose("02")] == ["02_two.ipynb"]
    )
    for none in ("09", ""):  # the latter from a variable that is not set
        assert cli.main(["run", "--only", none]) == 1
        assert "no such notebook; there are 01_one, 02_two" in capsys.readouterr().err


def test_what_the_environment_chose_holds_until_an_option_says_otherwise(monkeypatch, capsys):
    for name, value in (("PROFILE", "cpu"), ("DATA", "shapes"), ("SEED", "7")):
        monkeypatch.setenv("COURSE_" + name, value)
    for command in ("run", "test", "publish"):
        options = cli.parser().parse_args([command])
        assert (options.profile, options.data, options.seed) == ("cpu", "shapes", 7)
    options = cli.parser().parse_args(["run", "--profile", "full", "--seed", "1"])
    assert (options.profile, options.data, options.seed) == ("full", "shapes", 1)
    trained = cli.parser().parse_args(["train", "--out", "~/mine"])
    assert (trained.profile, trained.data, trained.seed) == (None, "auto", 0)
    assert trained.out == Path.home() / "mine"
    monkeypatch.setenv("COURSE_PROFILE", "huge")
    with pytest.raises(SystemExit):
        cli.main(["run"])
    assert "'huge': expected smoke, cpu, full, auto" in capsys.readouterr().err


def test_a_folder_that_takes_no_file_is_said_before_a_lesson_runs(place: Path, capsys):
    write(place, "01_fine.ipynb", "1")
    (place.parent / "build").write_text("a file")
    assert cli.main(["run"]) == 1
    said = capsys.readouterr()
    assert "A file cannot be read or written" in said.err and "started" not in said.out


@pytest.mark.parametrize("text", ["{}", '{"nbformat": 4}', '{"nbformat": 4, "cells": [3]}'])
def test_a_notebook_of_another_shape_is_none(text, tmp_path: Path):
    (tmp_path / "01_odd.ipynb").write_text(text)
    outcome = notebooks.execute(tmp_path / "01_odd.ipynb", {}, tmp_path)
    assert "is not a notebook: get it again" in outcome.error


def test_the_loop_of_windows_is_no_news(tmp_path: Path, monkeypatch, recwarn):
    """zmq warns there, at each start, that it brings what Windows' event loop lacks."""
    words = "Proactor event loop does not implement add_reader family of methods required for zmq."
    says = lambda *_, **__: warnings.warn(words, RuntimeWarning, stacklevel=1)
    monkeypatch.setattr(notebooks.NotebookClient, "execute_cell", says)
    write(tmp_path, "01_fine.ipynb", "1")
    assert notebooks.execute(tmp_path / "01_fine.ipynb", {}, tmp_path).ran == 1
    assert not [warning for warning in recwarn if str(warning.message) == words]


@pytest.mark.parametrize("home", ["/", None])
def test_addresses_survive_a_home_that_is_none(home, monkeypatch):
    text = f"at https://x.org/y, in {ROOT}{os.sep}helpers"
    monkeypatch.setattr(publishing.os.path, "expanduser", lambda path: home or path)
    assert publishing._portable(text) == "at https://x.org/y, in helpers"


def test_folder_paths_become_absolute(tmp_path: Path, monkeypatch):
    """Kernels work in notebooks/, not where the command was called."""
    (tmp_path / "mine" / "train").mkdir(parents=True)
    (tmp_path / "mine" / "test").mkdir()
    monkeypatch.chdir(tmp_path)
    options = cli.parser().parse_args(["run", "--data", "folder:mine"])
    assert options.data == f"folder:{(tmp_path / 'mine').resolve()}"


def test_run_goes_on_after_failures(place: Path, monkeypatch, capsys):
    """A failing cell and a dead kernel are reported at once; the others still run."""
    bogus = place.parent / "jupyter" / "kernels" / "python3"
    bogus.mkdir(parents=True)
    (bogus / "kernel.json").write_text('{"argv": ["false"], "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(bogus.parents[1]))  # another kernel of that name
    write(place, "01_raises.ipynb", "print('before')", "1 / 0", "print('after')")
    write(place, "02_dies.ipynb", "print('before')", "import os\nos._exit(1)", "print('after')")
    (place / "00_damaged.ipynb").write_text("<<<<<<< of a merge")
    write(place, "03_warns.ipynb", WHERE, "import warnings\nwarnings.warn('careful')")
    begun = time.monotonic()
    assert cli.main(["run", "--seed", "3"]) == 1
    assert time.monotonic() - begun < 60
    shown = capsys.readouterr().out
    assert "[2/4] 01_raises: FAILED" in shown and "ZeroDivisionError" in shown
    assert "the kernel died in cell 2" in shown
    rows = [line.split(maxsplit=3) for line in shown.splitlines() if line.startswith("0")]
    assert f"{place / '00_damaged.ipynb'} is not a notebook: get it again" in shown
    assert [row[:2] for row in rows[:4]] == [
        ["00_damaged", "0/0"],
        ["01_raises", "1/3"],
        ["02_dies", "1/3"],
        ["03_warns", "2/2"],
    ]
    assert rows[3][3] == "ok" and "1 of 4 ok" in shown
    assert "stderr: 1\n03_warns cell 2: " in shown and "careful" in shown
    build = place.parent / "build"
    assert (
        texts(build / "01_raises.ipynb") == texts(build / "02_dies.ipynb") == ["before\n", "", ""]
    )
    assert texts(build / "03_warns.ipynb")[0] == f"{sys.executable} {place} smoke\n"


@pytest.mark.parametrize("command", ["run", "publish"])
def test_data_that_cannot_be_used_is_said_once_and_not_by_each_notebook(command, place, capsys):
    write(place, "01_fine.ipynb", "1")
    pictures = place.parent / "pictures"
    for folder in ("train/cat", "train/dog", "test/cat", "test/bird"):
        (pictures / folder).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(pictures / folder / "1.png")
    assert cli.main([command, "--data", f"folder:{pictures}"]) == 1
    said = capsys.readouterr()
    assert (
        "the classes differ" in said.err and said.err.count("\n") == 1 and "[1/1]" not in said.out
    )


def test_run_succeeds(place: Path, capsys):
    write(place, "01_fine.ipynb", WHERE, "1 + 1")
    assert cli.main(["run", "--profile", "cpu"]) == 0
    assert texts(place.parent / "build" / "01_fine.ipynb")[0].endswith("cpu\n")
    assert "stderr" not in capsys.readouterr().out
    assert texts(place / "01_fine.ipynb") == ["", ""]  # the lesson itself is left alone


def test_nbval_reports_a_dead_kernel_within_seconds(tmp_path: Path):
    write(tmp_path, "01_dies.ipynb", "1", "import os\nos._exit(1)")
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-c"]
    command += [str(ROOT / "pytest.ini"), "--confcutdir", str(ROOT), "conftest.py", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "the kernel died in this cell" in done.stdout and "1 failed, 1 passed" in done.stdout


def test_publish_cleans_and_stamps(place: Path, capsys):
    path = write(place, "01_fine.ipynb", f"print({str(ROOT / 'data')!r})", "2")
    assert cli.main(["publish", "--profile", "cpu"]) == 0
    stored = nbformat.read(path, as_version=4)
    assert texts(path)[0] == "data\n"
    assert [cell.execution_count for cell in stored.cells] == [1, 2]
    assert set(stored.metadata) == {"kernelspec", "language_info", "course"}
    course = stored.metadata["course"]
    assert course["profile"] == "cpu" and course["digest"] == publishing.code_digest(stored)
    assert not list(place.glob(".*"))

    assert cli.main(["publish", "--check"]) == 0
    assert cli.main(["publish", "--profile", "smoke"]) == 1  # a smaller run replaces nothing
    assert "holds the outputs of a cpu run" in capsys.readouterr().err
    stored.cells[1].source = "3"
    nbformat.write(stored, path)
    assert cli.main(["publish", "--check"]) == 1
    assert cli.main(["publish", "--profile", "smoke", "--force"]) == 0
    assert cli.main(["publish", "--check"]) == 0


def test_publish_keeps_what_fails(place: Path):
    path = write(place, "01_raises.ipynb", "1 / 0")
    before = path.read_bytes()
    assert cli.main(["publish"]) == 1
    assert path.read_bytes() == before


def test_clean_drops_widgets():
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "slider"}
    cell = nbformat.v4.new_code_cell("w", outputs=[nbformat.v4.new_output("display_data", view)])
    cell.metadata = {"tags": ["nbval-check-output"], "execution": {"time": "now"}}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
    publishing.clean(notebook)
    assert "widgets" not in notebook.metadata
    assert notebook.cells[0].metadata == {"tags": ["nbval-check-output"]}
    assert notebook.cells[0].outputs[0].data == {"text/plain": "slider"}


def test_the_address_is_written_everywhere(tmp_path: Path):
    (tmp_path / "helpers").mkdir()
    own = tmp_path / "helpers" / "environment.py"
    own.write_text('"""x"""\nREPOSITORY = "OWNER/REPO"\nCELL = "OWNER/REPO".replace(REPOSITORY)\n')
    (tmp_path / "README.md").write_text("git clone https://github.com/OWNER/REPO")
    cell = 'REPOSITORY = "OWNER/REPO"'
    digest = publishing.code_digest(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    )
    path = write(tmp_path / "notebooks", "01_x.ipynb", cell, course={"digest": digest})
    files = publishing.write_fact("REPOSITORY", "ada/course", tmp_path)
    assert files == ["README.md", "01_x.ipynb", "environment.py"]
    assert own.read_text().splitlines()[1] == 'REPOSITORY = "ada/course"'
    assert (tmp_path / "README.md").read_text().endswith("github.com/ada/course")
    assert nbformat.read(path, as_version=4).cells[0].source == 'REPOSITORY = "ada/course"'
    assert publishing.fresh(nbformat.read(path, as_version=4))


def test_a_damaged_lesson_stops_an_edit_before_anything_is_written(tmp_path: Path):
    (tmp_path / "helpers").mkdir()
    shutil.copy(ROOT / "helpers" / "environment.py", tmp_path / "helpers")
    shutil.copy(ROOT / "README.md", tmp_path)
    write(tmp_path / "notebooks", "01_x.ipynb", environment.BOOTSTRAP_CELL)
    (tmp_path / "notebooks" / "02_y.ipynb").write_text("<<<<<<< HEAD")
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    before = [path.read_bytes() for path in files]
    with pytest.raises(CourseError, match="02_y.ipynb is not a notebook"):
        publishing.write_fact("VERSION", "9.8.7", tmp_path)
    assert [path.read_bytes() for path in files] == before


@pytest.mark.parametrize(
    ("profile", "asked", "loaded", "told"),
    [
        ("smoke", "auto", None, "auto"),
        ("cpu", "auto", "auto", "shapes"),  # as it comes out without a network
        ("cpu", "shapes", None, "shapes"),
        ("smoke", "cifar10", "cifar10", "cifar10"),
    ],
)
def test_what_auto_is_stays_decided(profile, asked, loaded, told, monkeypatch, capsys):
    calls = []

    def load_or_say(source, limit):
        calls.append(source)
        return SimpleNamespace(name="shapes", notice="No network: shapes instead.")

    monkeypatch.setattr(launch, "load_or_say", load_or_say)
    options = SimpleNamespace(profile=profile, data=asked)
    cli.look_at_data(options)
    assert calls == [loaded] * bool(loaded) and options.data == told
    assert ("No network" in capsys.readouterr().out) == (loaded == "auto")


def test_a_release_is_written_everywhere(tmp_path: Path):
    """Badges, the tag that is fetched, the citation; outputs stay valid only where they were."""
    for name in ("helpers", "notebooks"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "helpers" / "environment.py", tmp_path / "helpers")
    for name in ("README.md", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)
    badge = f"/{environment.REPOSITORY}/blob/v{environment.VERSION}/notebooks/01_x.ipynb"
    for name, digest in (("01_x.ipynb", None), ("02_y.ipynb", "stale")):
        notebook = nbformat.v4.new_notebook()
        code = nbformat.v4.new_code_cell(environment.BOOTSTRAP_CELL)
        notebook.cells = [nbformat.v4.new_markdown_cell(badge), code]
        notebook.metadata["course"] = {"digest": digest or publishing.code_digest(notebook)}
        nbformat.write(notebook, tmp_path / "notebooks" / name)
    files = publishing.write_fact("VERSION", "9.8.7", tmp_path)
    assert files == ["README.md", "CITATION.cff", "01_x.ipynb", "02_y.ipynb", "environment.py"]
    assert '\nVERSION = "9.8.7"  #' in (tmp_path / "helpers" / "environment.py").read_text("utf-8")
    assert "\nversion: 9.8.7\n" in (tmp_path / "CITATION.cff").read_text("utf-8")
    assert (tmp_path / "README.md").read_text("utf-8").count("/blob/v9.8.7/notebooks/") == 7
    paths = sorted((tmp_path / "notebooks").glob("*"))
    for path in paths:
        cells = nbformat.read(path, as_version=4).cells
        assert "/blob/v9.8.7/notebooks/" in cells[0].source
        assert f'"{environment.REPOSITORY}", "v9.8.7"' in cells[1].source
    fresh = lambda: [publishing.fresh(nbformat.read(path, as_version=4)) for path in paths]
    assert fresh() == [True, False]

    assert publishing.renew_first_cells(tmp_path) == ["01_x.ipynb", "02_y.ipynb"]
    assert nbformat.read(paths[0], as_version=4).cells[1].source == environment.BOOTSTRAP_CELL
    assert fresh() == [True, False]
    assert publishing.renew_first_cells(tmp_path) == []


def test_publish_writes_a_fact(place: Path, monkeypatch, capsys):
    write(place, "01_x.ipynb", "1")
    told = []
    monkeypatch.setattr(publishing, "write_fact", lambda *fact: told.append(fact) or ["README.md"])
    assert cli.main(["publish", "--repository", "ada/course"]) == 0
    assert cli.main(["publish", "--version", "1.2.3"]) == 0
    assert told == [("REPOSITORY", "ada/course"), ("VERSION", "1.2.3")]
    assert capsys.readouterr().out.splitlines()[1] == "1.2.3 is now in: README.md"


def test_a_terminal_that_cannot_take_every_letter(place: Path, monkeypatch):
    """As a pipe on Windows: a letter is lost, not the run."""
    write(place, "01_raises.ipynb", "raise ValueError('\u2192 here')")
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", pipe)
    assert cli.main(["run"]) == 1
    pipe.flush()
    assert b"? here" in pipe.buffer.getvalue()


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_child_gets_the_signals(number: int, tmp_path: Path):
    """The command goes on in another interpreter, which must not be left behind."""
    (tmp_path / "helpers").mkdir()
    child = "import signal, sys, time\nprint('child', flush=True)\n"
    child += "signal.signal(signal.SIGTERM, lambda *a: sys.exit(143))\n"
    child += "try:\n    time.sleep(30)\nexcept KeyboardInterrupt:\n    sys.exit(130)\n"
    (tmp_path / "helpers" / "__main__.py").write_text(child)
    code = "import sys; from helpers import environment as e\n"
    code += f"sys.exit(e.call([sys.executable, {str(tmp_path / 'helpers')!r}]))"
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert parent.stdout.readline() == "child\n"
    time.sleep(0.2)
    # A terminal sends Ctrl-C to both; SIGTERM reaches the parent only.
    (os.killpg if number == signal.SIGINT else os.kill)(parent.pid, number)
    assert parent.wait(timeout=10) == 128 + number


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_installation_does_not_go_on_alone(number: int):
    """SIGINT as a notebook sends it, to this process alone."""
    child = "import os, time; print('child', os.getpid(), flush=True); time.sleep(30)"
    code = "import sys; from helpers import environment as e\n"
    code += f"e._call([sys.executable, '-c', {child!r}], ('child',))"
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    pid = int(parent.stdout.readline().split()[1])
    parent.send_signal(number)
    told = parent.communicate(timeout=10)[1]
    assert parent.returncode != 0 and ("Interrupt" in told) == (number == signal.SIGINT)
    for _ in range(100):
        if subprocess.run(["kill", "-0", str(pid)], capture_output=True).returncode:
            return
        time.sleep(0.1)
    raise AssertionError("the child is still there")


@pytest.mark.skipif(os.name == "nt", reason="a link to a venv's Python does not start there")
def test_exit_code_is_passed_on(tmp_path: Path, monkeypatch):
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "__main__.py").write_text("import sys; sys.exit(len(sys.argv))")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment.signal, "signal", lambda *a: None)
    monkeypatch.setattr(environment, "prepare", lambda skip: str(tmp_path / "python"))
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    os.symlink(sys.executable, tmp_path / "python")
    assert cli.main(["lab", "b c"]) == 3


def test_an_error_of_the_set_up_is_one_sentence(monkeypatch, capsys):
    def fail(skip):
        raise CourseError("no network; connect")

    monkeypatch.setattr(environment, "prepare", fail)
    assert cli.main(["run"]) == 1
    assert capsys.readouterr().err == "no network; connect\n"


def test_a_full_disk_leaves_the_old_file_and_is_one_sentence(tmp_path, monkeypatch, capsys):
    resource = pytest.importorskip("resource")
    before, limits = "old " * 1000, resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "a.md").write_text(before)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, limits[1]))
    try:
        with pytest.raises(OSError):
            environment.write_whole(tmp_path / "a.md", "new " * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "a.md").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.md"]

    def fail(skip):
        raise OSError(28, "No space left on device", "a.md")

    monkeypatch.setattr(environment, "prepare", fail)
    assert cli.main(["run"]) == 1
    said = "A file cannot be read or written: [Errno 28] No space left on device: 'a.md'\n"
    assert capsys.readouterr().err == said


def test_folders_of_the_environment_are_whole_paths_for_kernels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COURSE_DATA_ROOT", "mine/data")
    monkeypatch.setenv("COURSE_RUNS", "~nobody-here/runs")  # Windows would guess a folder
    told = cli.choice(SimpleNamespace(profile="smoke", data="auto", seed=0))
    assert told["COURSE_DATA_ROOT"] == str(tmp_path / "mine" / "data")
    assert os.name == "nt" or told["COURSE_RUNS"] == str(tmp_path / "~nobody-here" / "runs")
    monkeypatch.delenv("COURSE_RUNS")
    assert "COURSE_RUNS" not in cli.folders()


def test_the_commit_is_none_of_a_folder_above(tmp_path, monkeypatch):
    from helpers import results

    if not shutil.which("git"):
        pytest.skip("needs git")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    (tmp_path / "course").mkdir()
    monkeypatch.setattr(environment, "ROOT", tmp_path / "course")
    assert results.origin()["commit"] is None and "no git commit" in doctor.report()
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    assert len(results.origin()["commit"]) == 40


def test_windows_says_otherwise_that_nobody_reads_on(monkeypatch, capfd):
    def gone(*_, name=None):
        raise OSError(errno.EINVAL, "Invalid argument", name)

    monkeypatch.setattr(environment, "ready", lambda: sys.executable)
    monkeypatch.setattr(cli, "doctor", gone)
    turned = []
    names = {name: getattr(os, name) for name in ("open", "devnull", "O_WRONLY", "environ")}
    system = SimpleNamespace(dup2=lambda *which: turned.append(which), **names)
    monkeypatch.setattr(cli, "os", system)
    system.name = "posix"
    assert cli.main(["doctor"]) == 1
    assert "A file cannot be read" in capfd.readouterr().err and not turned
    system.name = "nt"
    assert cli.main(["doctor"]) == 1
    assert capfd.readouterr().err == "" and len(turned) == 1
    monkeypatch.setattr(cli, "doctor", lambda *_: gone(name="a?b.txt"))
    assert cli.main(["doctor"]) == 1  # and this is how it says all it has no number for
    assert "A file cannot be read or written: [Errno 22]" in capfd.readouterr().err


def test_a_program_without_any_output(monkeypatch):
    monkeypatch.setattr(environment, "ready", lambda: sys.executable)
    with monkeypatch.context() as patch:  # as `pythonw`, or a shell's `>&-`
        patch.setattr(sys, "stdout", None)
        assert cli.main(["doctor"]) == 0


def test_nobody_reads_on(monkeypatch):
    command = [sys.executable, "-m", "helpers", "doctor"]
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    child.stdout.close()
    assert child.stderr.read() == "" and child.wait() == 1
    child.stderr.close()


def test_doctor_reports(capsys):
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for name in ("python", "torch", "device", "memory", "cores", "disk", "shapes", "smoke run"):
        assert name in shown


def test_doctor_knows_an_archive_that_waits_to_be_unpacked(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA_ROOT", str(tmp_path))
    assert f"CIFAR-10: not in {tmp_path}: fetched" in doctor.report()
    (tmp_path / "cifar-10-python.tar.gz").touch()
    assert f"CIFAR-10: the archive is in {tmp_path}" in doctor.report()
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "test_batch").touch()
    assert f"CIFAR-10: in {tmp_path}\n" in doctor.report()


def test_lab_opens_the_notebooks_or_the_folder_named(tmp_path, monkeypatch):
    called = []
    named = ["--notebook-dir=x"], ["--notebook-dir", "x"], ["--ServerApp.root_dir=x"]
    monkeypatch.setattr(environment, "call", lambda command, **more: called.append(command[3:]))
    for words in ([], ["--port", "8889"], [str(tmp_path), "--no-browser"], *named):
        cli.main(["lab", *words])
    notebooks = f"--notebook-dir={cli.NOTEBOOKS}"
    assert called[:2] == [[notebooks], [notebooks, "--port", "8889"]]
    assert called[2:] == [[str(tmp_path), "--no-browser"], *named]


def test_doctor_tells_the_time_of_a_full_run_only_where_it_was_measured(tmp_path: Path):
    def measured(name: str, profile: str, device: str, seconds: float) -> str:
        runs = [{"device": device, "seconds": seconds}]
        (tmp_path / name).write_text(json.dumps({"profile": profile, "runs": runs}), "utf-8")
        return doctor.full_run(tmp_path)

    assert "nobody has measured it" in doctor.full_run(tmp_path / "nowhere")
    assert "nobody has measured it" in measured("course-w64.json", "full", "CPU, x86_64", 9000)
    assert "nobody has measured it" in measured("course-w16.json", "full", "NVIDIA X", 60)
    assert "nobody has measured it" in measured("ladder-w64.json", "ladder", "NVIDIA X", 60)
    told = measured("source-w64.json", "full", "NVIDIA X", 90)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "course-w64.json").write_text("[]")
    assert doctor.full_run(tmp_path / "a") == "unknown, course-w64.json is damaged"
    assert told == "expected: each full training takes 1.5 minutes on NVIDIA X"


def test_test_passes_arguments_on(monkeypatch, tmp_path: Path):
    called = []
    monkeypatch.setattr(environment, "check_pair", lambda python: None)
    monkeypatch.setattr(environment, "complete", lambda path: [])
    monkeypatch.setattr(environment, "call", lambda *arguments: called.append(arguments))
    cli.main(["test"])
    cli.main(["test", "--all", "-k", "word", "tests/test_main.py", "--profile", "full"])
    (first, where, told), (second, _, larger) = called
    assert first[-1].startswith("--durations") and "-m" not in first[3:]
    assert second[-3:] == ["-k", "word", "tests/test_main.py"]
    assert second[second.index("-m", 3) + 1] == ""
    assert where == ROOT and (told["COURSE_PROFILE"], told["COURSE_DATA"]) == ("smoke", "auto")
    assert larger["COURSE_PROFILE"] == "full"


def test_train_takes_the_profile_where_nothing_is_said(tmp_path: Path, monkeypatch):
    from helpers import launch
    from helpers.session import PROFILES

    told = []
    monkeypatch.setattr(environment, "prepare", lambda skip: sys.executable)
    monkeypatch.setattr(launch, "train", lambda options: told.append(vars(options)) or 0)
    out = ["train", "--out", str(tmp_path)]
    assert cli.main(out) == cli.main([*out, "--profile", "smoke", "--epochs", "7"]) == 0
    bare, smoke = told
    assert (bare["width"], bare["epochs"], bare["batch_size"], bare["limit"]) == (
        64,
        None,
        None,
        None,
    )
    assert (bare["seed"], bare["data"], bare["holdout"]) == (0, "auto", 5000)
    assert (smoke["epochs"], smoke["data"]) == (7, "shapes")
    for name in ("width", "batch_size", "limit"):
        assert smoke[name] == getattr(PROFILES["smoke"], name)


def test_tagged_figures_become_images(tmp_path: Path):
    png = b"\x89PNG the bytes of a figure"
    data = {"image/png": base64.b64encode(png).decode(), "text/plain": "alt"}
    shown = nbformat.v4.new_code_cell("p", outputs=[nbformat.v4.new_output("display_data", data)])
    shown.metadata = {"tags": ["image:curve"]}
    other = nbformat.v4.new_code_cell("q", outputs=shown.outputs)
    notebook = nbformat.v4.new_notebook(cells=[other, shown])
    publishing.save_images(notebook, tmp_path / "images")
    assert (tmp_path / "images" / "curve.png").read_bytes() == png
    shown.outputs = []
    with pytest.raises(CourseError, match="tagged image:curve shows no figure"):
        publishing.save_images(notebook, tmp_path / "images")
