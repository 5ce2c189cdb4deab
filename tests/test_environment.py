"""The set-up, tried for real with fake wheels: small environments, no network."""

import ast
import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from helpers import __main__ as cli
from helpers import doctor, environment, packages
from helpers.environment import CourseError

REPOSITORY = Path(environment.__file__).resolve().parents[1]
REQUIREMENTS = "torch>=2,<3\ntorchvision>=0.20\nthing>=1  # why\n"
PREPARE = "from helpers import environment as e; print(e.prepare())"


def wheel(folder: Path, name: str, version: str, code: str = "", needs: str = "") -> None:
    info = f"{name}-{version}.dist-info"
    needs = f"Requires-Dist: {needs}\n" if needs else ""
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}/__init__.py", code)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A python3 with nothing but itself."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=sys.platform != "win32")
    return folder / environment.venv_python().relative_to(environment.VENV)


@pytest.fixture(scope="session")
def with_pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of the learner's own, to copy."""
    folder = tmp_path_factory.mktemp("own")
    venv.create(folder, with_pip=True, symlinks=sys.platform != "win32")
    return folder


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The course's set-up part, with three small requirements, in a folder with spaces."""
    folder, wheels = tmp_path / "the course" / "my copy", tmp_path / "wheels"
    (folder / "helpers").mkdir(parents=True)
    wheels.mkdir()
    for name in ("__init__.py", "__main__.py", "doctor.py", "environment.py", "packages.py"):
        shutil.copy(REPOSITORY / "helpers" / name, folder / "helpers")
    (folder / "requirements.txt").write_text(REQUIREMENTS)
    wheel(wheels, "torch", "2.5.0")
    wheel(wheels, "torch", "2.6.0")
    wheel(wheels, "torchvision", "0.20.0")
    wheel(wheels, "thing", "1.0", needs="torch")
    wheel(wheels, "thing", "1.1", needs="torch>=2.6")  # a reason to replace an older torch
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)  # nothing of this machine's own settings
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "cache"))
    return folder


def ask(python: Path, course: Path, code: str = PREPARE) -> subprocess.CompletedProcess:
    return subprocess.run([str(python), "-c", code], cwd=course, capture_output=True, text=True)


def version(python: Path, name: str) -> str:
    code = f"from importlib.metadata import version; print(version('{name}'))"
    return ask(python, REPOSITORY, code).stdout.strip()


def test_made_once_then_used_then_repaired(
    course: Path, bare: Path, with_pip: Path, monkeypatch: pytest.MonkeyPatch
):
    """One story, because an environment takes seconds to make."""
    monkeypatch.setenv("PIP_USER", "1")  # as some shared machines have it: not for an environment
    own = course / ".venv"
    python = own / environment.venv_python().relative_to(environment.VENV)
    wheels = course.parents[1] / "wheels"

    shutil.copytree(with_pip, own, symlinks=True)  # what an interrupted installation leaves
    (own / "course-stamp").write_text("installing\n")
    (own / "half-written").touch()
    wheel(course.parent, "thing", "9")  # what PYTHONPATH has for another Python
    shutil.unpack_archive(course.parent / "thing-9-py3-none-any.whl", course.parent, "zip")
    (course.parent / "torch.py").write_text("raise ImportError('of another Python')")
    monkeypatch.setenv("PYTHONPATH", str(course.parent))
    first = ask(bare, course)
    monkeypatch.delenv("PYTHONPATH")
    assert first.stdout.splitlines()[-1] == str(python), first.stderr
    assert "Installing requirements.txt" in first.stdout
    assert not (own / "half-written").exists()  # made anew
    assert version(python, "thing") == "1.1"

    second = ask(bare, course)
    assert second.stdout.split("\n") == [str(python), ""]  # nothing installed
    newer = "import sys; sys.version_info = (3, 14, 0); " + PREPARE
    assert ask(bare, course, newer).stdout.split("\n") == [str(python), ""]  # it is made already

    (own / "mine").touch()
    (course / "requirements.txt").write_text(REQUIREMENTS + "later\n")
    wheel(wheels, "later", "3")
    changed = ask(bare, course)
    assert version(python, "later") == "3", changed.stderr
    assert (own / "mine").exists()  # completed, not made anew

    (own / "course-stamp").write_text("installing\n")
    inside = ask(python, course)  # called by itself, it is finished and not made anew
    assert inside.stdout.splitlines()[-1] == str(python), inside.stderr
    assert "Installing requirements.txt" in inside.stdout and (own / "mine").exists()
    assert ask(bare, course).stdout == f"{python}\n"

    python.unlink()  # the Python it was made from was upgraded
    repaired = ask(bare, course)
    assert repaired.stdout.splitlines()[-1] == str(python), repaired.stderr
    assert version(python, "later") == "3"


@pytest.mark.slow
def test_killed_in_the_middle(course: Path, bare: Path):
    """A killed installation leaves "installing", and the next call starts again."""
    kill = "import os, signal\nfrom helpers import environment as e\n"
    kill += "e.pip_install = lambda *a: os.kill(os.getpid(), signal.SIGTERM)\ne.prepare()"
    assert ask(bare, course, kill).returncode != 0
    assert (course / ".venv" / "course-stamp").read_text() == "installing\n"
    done = ask(bare, course)
    assert "Making the environment" in done.stdout and done.returncode == 0


def test_an_environment_with_torch_is_completed(course: Path, with_pip: Path, tmp_path: Path):
    """What is missing arrives, in a version that fits the torch that is there and stays."""
    shutil.copytree(with_pip, tmp_path / "env", symlinks=True)
    python = tmp_path / "env" / environment.venv_python().relative_to(environment.VENV)
    install = [str(python), "-m", "pip", "install", "torch==2.5.0"]
    subprocess.run(install, check=True, capture_output=True)
    wheels = tmp_path / "wheels"
    hidden = wheels.rename(tmp_path / "hidden")
    offline = ask(python, course)
    assert "No matching distribution found for " in offline.stderr
    assert f"not made for Python {platform.python_version()} on " in offline.stderr
    hidden.rename(wheels)
    done = ask(python, course)
    assert done.stdout.splitlines()[-1] == str(python), done.stderr
    assert [version(python, n) for n in ("torch", "torchvision", "thing")] == [
        "2.5.0",
        "0.20.0",
        "1.0",
    ]
    assert not (course / ".venv").exists()
    (course / "requirements.txt").write_text(REQUIREMENTS + "jupyterlab>=4\n")  # no cell needs it
    again = ask(python, course, "from helpers import environment as e; e.bootstrap()")
    assert (again.stdout, again.returncode) == ("", 0), again.stderr

    (course / "requirements.txt").write_text("torch>=2.6\nthing>=1\n")
    refused = ask(python, course)
    assert "torch 2.5.0 is here, and the course needs torch>=2.6" in refused.stderr
    assert version(python, "torch") == "2.5.0"


def test_torch_and_torchvision_that_do_not_match(course: Path, with_pip: Path, tmp_path: Path):
    shutil.copytree(with_pip, tmp_path / "env", symlinks=True)
    python = tmp_path / "env" / environment.venv_python().relative_to(environment.VENV)
    code = "raise RuntimeError('operator torchvision::nms does not exist')"
    wheel(tmp_path / "wheels", "torchvision", "0.21.0", code)
    install = [str(python), "-m", "pip", "install", "torch", "torchvision", "thing"]
    subprocess.run(install, check=True, capture_output=True)
    for call in ("e.bootstrap()", "import sys; e.check_pair(sys.executable)"):
        done = ask(python, course, "from helpers import environment as e; " + call)
        last = done.stderr.strip().splitlines()[-1]
        assert "torch and torchvision cannot be imported together" in last
        assert "nms does not exist" in last and "reinstall them in one call" in last


def test_works_from_anywhere_and_says_what_is_missing(course: Path, bare: Path, tmp_path: Path):
    """`python3 "/a path/helpers" doctor`, in a Python that has nothing."""
    command = [str(bare), str(course / "helpers"), "doctor"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "missing: torch>=2,<3 (here: none)" in done.stdout
    assert "torch cannot be imported" in done.stdout and "CIFAR-10: " in done.stdout


@pytest.mark.parametrize("found", [None, "python3.12"])
def test_unsupported_python(monkeypatch: pytest.MonkeyPatch, found: str | None):
    monkeypatch.setattr(environment, "runs", lambda name: name == found)
    for version_info in ((3, 9, 1), (3, 15, 0)):
        monkeypatch.setattr(sys, "version_info", version_info)
        with pytest.raises(CourseError, match="needs Python 3.10 to 3.14") as error:
            environment.check_python()
        assert ("run python3.12 instead" if found else "python.org") in str(error.value)


@pytest.mark.skipif(os.name == "nt", reason="shell scripts")
def test_a_command_that_does_not_start_is_no_python(tmp_path: Path, monkeypatch, capfd):
    """pyenv has one for each version, also for those that are not installed."""
    codes = {
        "python3.11": "no program",
        "python3.12": "echo not installed >&2; exit 127",
        "python3.13": "exit 0",
    }
    for name, code in codes.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{code}\n" if "exit" in code else code)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = [minor for minor in range(10, 15) if environment.runs(f"python3.{minor}")]
    assert found == [13] and capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "name", ["environment.py", "packages.py", "__main__.py", "doctor.py", "__init__.py"]
)
def test_old_pythons_can_read_it(name: str):
    """So that they can say they are too old: nothing newer than 3.6, and nothing but `helpers`
    and the standard library imported at the top."""
    tree = ast.parse((REPOSITORY / "helpers" / name).read_text("utf-8"), feature_version=(3, 6))
    for node in tree.body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        for module in names:
            assert module.split(".")[0] in {*sys.stdlib_module_names, "helpers"}


def test_old_pythons_without_importlib_metadata_get_their_report(monkeypatch, capsys):
    monkeypatch.delattr(importlib, "metadata")
    monkeypatch.setitem(sys.modules, "importlib.metadata", None)
    monkeypatch.setitem(sys.modules, "torch", None)  # or it would be imported by half, for good
    monkeypatch.setattr(packages, "supported", lambda: False)
    assert environment.ready() is None
    assert re.search("packages +The course needs Python", doctor.report())


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_no_venv_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(environment, "OWN", False)
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(environment, "STAMP", tmp_path / ".venv" / "course-stamp")
    with pytest.raises(CourseError, match=f"no {module} module .*: on Debian.*python3-venv"):
        environment.make_venv()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full; make room"),
        ("NewConnectionError: Temporary failure in name resolution", "cannot be reached"),
        ("error: externally-managed-environment", "belongs to the system"),
        ("SSLError: CERTIFICATE_VERIFY_FAILED", "certificate is not trusted here.*PIP_CERT"),
        ("ERROR: No matching distribution found for torch", "for torch. It is not made for Python"),
        ("ERROR: ResolutionImpossible", "ResolutionImpossible"),
    ],
)
def test_a_failed_installation_says_what_to_do(said: str, expected: str):
    with pytest.raises(CourseError, match=expected):
        environment._call([sys.executable, "-c", f"print({said!r}); raise SystemExit(1)"])


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("operator torchvision::nms does not exist", "from the same build"),
        ("No module named 'torch'", "install it, or delete the folder .venv"),
        ("[WinError 126] Error loading c10.dll", "https://aka.ms/vs/17/release/vc_redist.x64.exe"),
        ("DLL load failed: The specified procedure could not be found", "from the same build"),
    ],
)
def test_a_torch_that_cannot_be_imported_is_told_from_one_that_is_absent(said: str, expected: str):
    with pytest.raises(CourseError, match=re.escape(f"({said}). ") + f".*{expected}"):
        environment._mismatch(said)


def test_a_python_that_was_built_without_a_library(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(environment, "OWN", False)
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    monkeypatch.setitem(sys.modules, "lzma", None)
    with pytest.raises(CourseError, match="no lzma module .*: use another Python"):
        environment.make_venv()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("visible", "works", "smi", "told"),
    [
        (True, True, True, "cuda: Tesla K80, 12 GB, CUDA 13.0"),
        (True, False, True, "cpu: this torch cannot compute on Tesla K80, 12 GB, CUDA 13.0"),
        (
            False,
            False,
            True,
            "cpu: there may be a GPU, but this torch is built without CUDA (README)",
        ),
        (False, False, False, "cpu"),
    ],
)
def test_a_report_tells_why_a_gpu_is_not_used(visible, works, smi, told, monkeypatch):
    gpu = SimpleNamespace(name="Tesla K80", total_memory=12e9)
    cuda = SimpleNamespace(is_available=lambda: visible, get_device_properties=lambda i: gpu)
    none = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: False))
    made = SimpleNamespace(cuda="13.0" if visible else None)
    torch = SimpleNamespace(cuda=cuda, backends=none, version=made)
    monkeypatch.setattr(environment, "cuda_works", lambda: works)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name if smi else None)
    assert doctor.gpu_or_cpu(torch) == told


def test_another_interpreter_sees_nothing_of_pythonpath(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "of/this/one")
    assert "PYTHONPATH" not in environment.variables("another")
    assert environment.variables(sys.executable)["PYTHONPATH"] == "of/this/one"


def test_what_pip_puts_into_a_new_folder_of_the_user_is_found(monkeypatch, tmp_path: Path):
    """As on a hub whose own folder is read-only, where the user has installed nothing before."""
    mine = tmp_path / "mine"

    def install(python, arguments):
        mine.mkdir()
        (mine / "just_arrived.py").touch()

    monkeypatch.setattr(environment, "pip_install", install)
    monkeypatch.setattr(environment, "problems", lambda path: [("thing", None, "thing>=1")])
    monkeypatch.setattr(environment, "check_pair", lambda python: None)
    monkeypatch.setattr(environment.site, "ENABLE_USER_SITE", True)
    monkeypatch.setattr(environment.site, "getusersitepackages", lambda: str(mine))
    monkeypatch.setattr(sys, "path", ["first", *sys.path])
    assert environment.complete() == [("thing", None, "thing>=1")]
    assert importlib.import_module("just_arrived") and sys.path[1] == str(mine)


def test_a_module_that_was_imported_before_its_new_version_came(monkeypatch, capsys):
    rows = [("Pillow", "9", "Pillow>=10"), ("thing", None, "thing>=1")]
    monkeypatch.setattr(environment, "complete", lambda skip: rows)
    importlib.import_module("PIL")
    environment.bootstrap()
    assert "Restart the kernel: it still uses the previous Pillow." in capsys.readouterr().out


@pytest.mark.parametrize(("system", "refusals", "works"),
                         [("nt", 2, True), ("nt", 9, False), ("posix", 1, False)])  # fmt: skip
def test_a_file_that_windows_holds_for_a_moment(system, refusals, works, monkeypatch):
    calls = []

    def replace(old, new):
        calls.append((old, new))
        if len(calls) <= refusals:
            raise PermissionError("another program has it open")

    quick = SimpleNamespace(replace=replace, name=system)
    monkeypatch.setattr(environment, "os", quick)
    monkeypatch.setattr(environment.time, "sleep", lambda seconds: None)
    with nullcontext() if works else pytest.raises(PermissionError):
        environment.rename("old", "new")
    assert calls == [("old", "new")] * (3 if works else 5 if system == "nt" else 1)


@pytest.mark.parametrize("bounds", [">=2.4,<3", ">=2.0.8,<2.1", ">=0.11,<0.12", ">=1.26,!=2.1", ""])
@pytest.mark.parametrize("here", ["2.4", "2.4.0+cu126", "2.3.9", "3.0", "2.0.8", "0.11", "2.1.0"])
def test_ranges_agree_with_packaging(tmp_path: Path, bounds: str, here: str):
    path = tmp_path / "requirements.txt"
    path.write_text(f"# comment\n\nthing{bounds}   # why\n")
    ((name, signs, line),) = packages.requirements(path)
    assert (name, line) == ("thing", f"thing{bounds}")
    assert all(packages.holds(here, *s) for s in signs) == (here in Requirement(line).specifier)


def test_a_vendor_build_counts_as_its_release():
    assert packages.holds("2.6.0a0+ecf3bae40a", ">=", "2.6")


def test_any_build_of_opencv_will_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    path = tmp_path / "requirements.txt"
    path.write_text("opencv-python-headless>=4.9,<6\n")
    monkeypatch.setattr(packages, "installed", {"opencv-python": "4.12.0.88"}.get)
    assert packages.problems(path) == []


def test_this_interpreter_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environment, "_call", lambda *a: pytest.fail("something was installed"))
    assert environment.prepare() == sys.executable
    environment.bootstrap()


def test_a_training_needs_none_of_the_notebook_tools(monkeypatch: pytest.MonkeyPatch):
    """As on Colab, where the first cell leaves them out and lesson 07 trains from the shell."""
    lacks = [("jupyterlab", None, "jupyterlab>=4"), ("nbval", None, "nbval")]
    asked = []
    monkeypatch.setattr(environment, "problems", lambda *a: lacks)
    monkeypatch.setattr(environment, "OWN", False)
    monkeypatch.setattr(environment, "stamp", lambda: "")
    monkeypatch.setattr(environment, "in_environment", lambda: True)
    monkeypatch.setattr(environment, "check_pair", lambda python: None)
    monkeypatch.setattr(environment, "pip_install", lambda python, words: asked.append(words))
    monkeypatch.setattr(cli, "train", lambda options, rest: 0)
    assert cli.main(["train", "--out", "anywhere"]) == 0 and not asked
    lacks.append(("albumentations", None, "albumentations>=2"))
    assert cli.main(["train", "--out", "anywhere"]) == 0
    (words,) = asked
    assert "albumentations>=2" in words and not {"jupyterlab>=4", "nbval"} & set(words)
    assert environment.prepare() == sys.executable  # for the lessons, all three
    assert {"albumentations>=2", "jupyterlab>=4", "nbval"} <= set(asked[1])


def test_the_first_cell_finds_the_course(tmp_path: Path):
    """From its notebooks folder, whatever the course's folder is called."""
    stub = tmp_path / "renamed course" / "helpers" / "environment.py"
    notebooks = tmp_path / "renamed course" / "notebooks"
    stub.parent.mkdir(parents=True)
    notebooks.mkdir()
    stub.write_text("def bootstrap():\n    print('bootstrap of', __file__)\n")
    cell = environment.BOOTSTRAP_CELL
    done = ask(Path(sys.executable), notebooks, f"{cell}\n{cell}")  # again: as good as once
    assert done.stdout.splitlines() == [f"bootstrap of {stub}"] * 2, done.stderr


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands in for git")
def test_the_first_cell_cannot_fetch_the_course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Only the notebook is there, and no network: one sentence says so."""
    git = tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.write_text("#!/bin/sh\necho could not resolve host >&2; exit 128\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{git.parent}{os.pathsep}{os.environ['PATH']}")
    empty = tmp_path / "content"
    empty.mkdir()
    failed = ask(Path(sys.executable), empty, environment.BOOTSTRAP_CELL)
    assert "failed: could not resolve host" in failed.stderr.strip().splitlines()[-1]


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Only the notebook is there: its first cell fetches the tag, once, and finds it afterwards.

    A repository on this disk stands in for the public one, empty modules for torch.
    """
    fake, work, content = (tmp_path / name for name in ("fake", "work", "content"))
    for name in ("google/colab", "torch", "torchvision"):
        (fake / name).mkdir(parents=True)
        (fake / name / "__init__.py").touch()
    bare = tmp_path / "public" / environment.REPOSITORY
    for folder in (work / "helpers", content, bare.parent):
        folder.mkdir(parents=True)
    for name in ("__init__.py", "environment.py", "packages.py"):
        shutil.copy(REPOSITORY / "helpers" / name, work / "helpers")
    (work / "requirements.txt").write_text("numpy>=1\n")

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=work, check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    git("clone", "--bare", str(work), str(bare))
    monkeypatch.setenv("PYTHONPATH", str(fake))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{(tmp_path / 'public').as_uri()}/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://github.com/")
    tag, name = f"v{environment.VERSION}", environment.REPOSITORY.split("/")[1]
    cell = "import google.colab\n" + environment.BOOTSTRAP_CELL
    python = Path(sys.executable)

    untagged = ask(python, content, cell)
    assert f"fetching its {tag} failed: " in untagged.stderr
    assert f"{tag} not found" in untagged.stderr and not list(content.iterdir())
    subprocess.run(["git", "tag", tag], cwd=bare, check=True)
    fetched = ask(python, content, f"{cell}\n{cell}")  # twice: as good as once
    address = f"https://github.com/{environment.REPOSITORY}"
    assert fetched.stdout == f"Fetched {address} {tag} into {name}/\n", fetched.stderr
    bare.rename(tmp_path / "gone")  # no network
    assert ask(python, content, cell).stdout == ask(python, content, cell).stderr == ""

    (content / name).rename(content / "mine")
    inside = content / "mine" / "notebooks"
    inside.mkdir()
    renamed = ask(python, inside, cell)
    assert (renamed.stdout, renamed.returncode) == ("", 0), renamed.stderr
    move = f"\nimport os; os.rename({str(content / 'mine')!r}, {str(content / 'other')!r})\n"
    if os.name != "nt":  # which holds on to the folder a program works in
        moved = ask(python, inside, cell + move + cell)
        assert "restart the kernel" in moved.stderr.strip().splitlines()[-1]


def test_environment_yml_delegates():
    lines = [line.strip() for line in (REPOSITORY / "environment.yml").read_text().splitlines()]
    lines = lines[lines.index("dependencies:") + 1 :]
    low, high = environment.OLDEST, environment.NEWEST
    python = f"- python>={low[0]}.{low[1]},<{high[0]}.{high[1] + 1}"
    assert lines == [python, "- pip", "- pip:", "- -r requirements.txt"]


def test_every_import_is_named_in_the_requirements():
    """What a helper or a notebook imports, requirements.txt names, with a bound and a reason."""
    modules = dict.fromkeys(["IPython", "jupyter_client", "psutil"], "ipykernel")
    modules |= {
        "certifi": "jupyterlab",
        "PIL": "Pillow",
        "cv2": "opencv-python-headless",
        "nbformat": "nbclient",
    }
    modules |= dict.fromkeys(["pygments", "traitlets", "jinja2"], "nbconvert")
    named = {name for name, bounds, _ in packages.requirements() if bounds}
    assert named == {name for name, _, _ in packages.requirements()}
    for path in (REPOSITORY / "helpers").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            found = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            found += [node.module] if isinstance(node, ast.ImportFrom) else []
            for module in {name.split(".")[0] for name in found}:
                known = {*sys.stdlib_module_names, "helpers", "pip"}
                assert module in known or modules.get(module, module) in named, (path.name, module)
