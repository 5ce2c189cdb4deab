"""Finds or makes the interpreter that has everything in requirements.txt. Standard library only.

Old Pythons must be able to read this file and __main__.py, so that they can say what is wrong:
no syntax newer than 3.6 here. Nothing is replaced where that would break something: the torch,
torchvision, numpy and OpenCV of a running environment stay as they are.
"""

import importlib
import json
import os
import platform
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from subprocess import PIPE, STDOUT

from helpers import packages
from helpers.packages import NEWEST, OLDEST, OPENCV, REQUIREMENTS, digest, installed, problems

REPOSITORY = "OWNER/REPO"  # the public address; `python3 -m helpers publish --repository` sets it
VERSION = "0.1.0"  # of the release that Colab fetches, by the tag "v" + it; CONTRIBUTING says how
ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
OWN = Path(sys.prefix).resolve() == VENV.resolve()  # is this the course's own interpreter?
STAMP = VENV / "course-stamp"  # digest of what was installed, written last; "installing" until then
KEEP = ("torch", "torchvision", "numpy")  # replaced under a running kernel, they break it
KERNEL = ("ipykernel", "ipython", "jupyter-client", "tornado", "pyzmq")  # so do these
MODULES = {"Pillow": "PIL", **dict.fromkeys(OPENCV, "cv2")}  # where the names differ
TOOLS = ("jupyterlab", "ipykernel", "nbclient", "nbval")  # around the notebooks, not in them
NO_NETWORK = ("NewConnectionError", "ConnectTimeout", "NameResolution", "getaddrinfo", "ProxyError",
              "name resolution", "ReadTimeout", "Connection refused", "Network is unreachable",
              "SSLError", "Connection reset")  # fmt: skip
NO_SPACE = ("No space left on device", "Errno 28", "not enough space on the disk", "Disk quota")

# The first code cell of every notebook; tests/test_notebooks.py holds them together.
BOOTSTRAP_CELL = """\
# The same first cell in every notebook: find the course or fetch it, then install what is missing.
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY, TAG = "OWNER/REPO", "v0"
places = [Path.cwd(), *Path.cwd().parents, Path.cwd() / REPOSITORY.split("/")[1]]
course = next((p for p in places if (p / "helpers" / "environment.py").is_file()), None)
if course is None:
    course = places[-1]
    address = f"https://github.com/{REPOSITORY}"
    clone = ["git", "clone", "--depth=1", f"--branch={TAG}", address, str(course)]
    try:
        quiet = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
        how = {"capture_output": True, "text": True, "errors": "replace", "env": quiet}
        subprocess.run(clone, check=True, **how)
        print(f"Fetched {address} {TAG} into {course.name}/")
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        raise RuntimeError(f"No course here, and fetching its {TAG} failed: {reason}") from None
sys.path.insert(0, str(course))  # before any other `helpers`
from helpers import environment

environment.bootstrap()""".replace('"OWNER/REPO", "v0"', f'"{REPOSITORY}", "v{VERSION}"')


class CourseError(Exception):
    """What went wrong and what to do about it, for the reader of the terminal; no traceback."""


def git(*words: str) -> str:
    """What git says of the course's own repository, and of none around it; "" where it has none."""
    own = dict(os.environ, GIT_CEILING_DIRECTORIES=str(ROOT.parent))
    command = ["git", "-C", str(ROOT)] + list(words)
    try:
        done = subprocess.run(command, stdout=PIPE, stderr=subprocess.DEVNULL, env=own)
    except OSError:
        return ""
    return done.stdout.decode().strip() if done.returncode == 0 else ""


def write_whole(path: Path, content) -> None:
    """Write text or bytes; whatever happens, the file is the old one or the whole new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        rename(part, path)
    finally:
        if part.exists():
            part.unlink()


def rename(old: Path, new: Path) -> None:
    """`os.replace`, a few times where Windows refuses because a scanner or a synchronising program
    has the file open for a moment."""
    for pause in (0.1, 0.2, 0.4, 0.8, None):
        try:
            return os.replace(str(old), str(new))
        except PermissionError:
            if os.name != "nt" or pause is None:
                raise
            time.sleep(pause)


@lru_cache(1)  # one answer for the whole session
def cuda_works() -> bool:
    """Can torch compute on a GPU here? A driver also shows GPUs for which this torch has no code,
    and those that somebody else keeps."""
    import torch  # here: this module is imported before torch is installed

    try:
        return torch.cuda.is_available() and torch.ones(1, device="cuda").add(1).item() == 2
    except RuntimeError:
        return False


def check_python() -> None:
    """Raise CourseError unless this Python is one the packages support."""
    if not packages.supported():
        names = [f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
        found = next((name for name in names if runs(name)), None)
        todo = f"run {found} instead" if found else "install one from python.org and run that"
        span, here = f"3.{OLDEST[1]} to 3.{NEWEST[1]}", sys.version.split()[0]
        raise CourseError(f"The course needs Python {span}, but this is {here}: {todo}.")


def runs(name: str) -> bool:
    """Does this command start? pyenv has one for each version, installed or not."""
    found = shutil.which(name)
    try:
        return bool(found) and subprocess.call([found, "--version"], stdout=PIPE, stderr=PIPE) == 0
    except OSError:  # it is no program
        return False


def venv_python() -> Path:
    """The interpreter of the course's own environment."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def stamp() -> str:
    """What the course's own environment says about itself; "" without one."""
    return STAMP.read_text(encoding="utf-8").strip() if STAMP.is_file() else ""


def ask(python: Path) -> "list | None":
    """`problems()` of another interpreter; None where it does not run or could not be repaired."""
    command = [str(python), str(Path(packages.__file__).resolve()), str(REQUIREMENTS)]
    try:
        quiet = {"stdout": PIPE, "stderr": subprocess.DEVNULL, "timeout": 60}
        done = subprocess.run(command, env=variables(command[0]), **quiet)
        return json.loads(done.stdout.decode()) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def variables(python: str) -> dict:
    """The environment variables for an interpreter; another one must not get our PYTHONPATH."""
    own = python == sys.executable
    return {name: value for name, value in os.environ.items() if own or name != "PYTHONPATH"}


def in_environment() -> bool:
    """Is this interpreter a venv, a conda environment, Colab or Kaggle, not the system's own?"""
    hosted = any(name in os.environ for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"))
    conda = (Path(sys.prefix) / "conda-meta").is_dir()
    return hosted or conda or sys.prefix != sys.base_prefix


def ready(skip: tuple = ()) -> "str | None":
    """An interpreter that has everything already: this one, else the course's own, else None.

    This one may lack the packages in `skip`.
    """
    if packages.supported() and not (OWN and stamp() == "installing"):
        if {name for name, _, _ in problems()} <= set(skip):
            return sys.executable
    if not OWN and stamp() == digest() and ask(venv_python()) == []:
        return str(venv_python())
    return None


def prepare(skip: tuple = ()) -> str:
    """Path of an interpreter that has everything, installing what is missing where it belongs.

    The current one if it satisfies requirements.txt; else the course's own .venv if that does; else
    the current one completed, if it is an environment that has torch; else a new .venv. `skip`
    names packages that are not needed now: nothing is installed for their sake.

    Raises:
        CourseError: unsupported Python, one without venv or a library, a system that a package is
            not made for, no network, full disk, an outdated or mismatched torch that must not be
            replaced.
    """
    python = ready(skip)
    if python:
        return python
    check_python()
    if not OWN and in_environment() and installed("torch"):
        complete(skip=skip)
        return sys.executable
    return make_venv()


def make_venv() -> str:
    """Make, repair or update .venv from requirements.txt; its interpreter."""
    python, lacks = str(venv_python()), ask(venv_python())
    broken = lacks is None or stamp() == "installing"  # absent, damaged or interrupted
    if broken and not OWN:  # from the start, but nobody saws off the branch they sit on
        for module in ("venv", "ensurepip", "ssl", "lzma", "bz2", "ctypes"):
            try:
                importlib.import_module(module)
            except ImportError as error:
                todo = "use another Python, or install that library and rebuild this one"
                if module in ("venv", "ensurepip"):
                    todo = "on Debian or Ubuntu, sudo apt install python3-venv"
                raise CourseError(
                    f"This Python has no {module} module ({error}): {todo}, then run this again."
                ) from error
        print(f"Making the environment {VENV}", flush=True)
        _call([sys.executable, "-m", "venv", "--clear", str(VENV)])
    if broken or lacks:
        STAMP.write_text("installing\n", encoding="utf-8")
        free = shutil.disk_usage(str(ROOT)).free / 1e9
        size = f"a few minutes, up to 7 GB of the {free:.0f} GB free"
        print(f"Installing requirements.txt: {size}", flush=True)
        pip_install(python, ["-r", str(REQUIREMENTS)])
        check_pair(python)
    STAMP.write_text(digest() + "\n", encoding="utf-8")
    return python


def complete(path: Path = REQUIREMENTS, skip: tuple = ()) -> list:
    """Install what this interpreter lacks of `path`; returns that, in the form of `problems`.

    `skip` names packages that are not needed now.

    Raises:
        CourseError: torch, torchvision or numpy is there and too old or too new; it is not touched.
    """
    lacks = [row for row in problems(path) if row[0] not in skip]
    for name, here, line in lacks:
        if here and name in KEEP:
            raise CourseError(
                f"{name} {here} is here, and the course needs {line}. Replacing it could break the "
                "environment: upgrade torch, torchvision and numpy yourself, together, or run "
                "`python3 -m helpers run` outside this environment: the course then makes its own."
            )
    if lacks:
        held = [n for n in KEEP + OPENCV + KERNEL if n not in [row[0] for row in lacks]]
        pins = [f"{name}=={installed(name)}" for name in held if installed(name)]
        cv2 = next((installed(name) for name in OPENCV if installed(name)), None)
        if cv2 and not installed(OPENCV[0]):  # albumentations asks for this build: the same cv2
            pins.append(f"{OPENCV[0]}=={cv2}")
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder) / "constraints.txt"
            kept.write_text("\n".join(pins) + "\n", encoding="utf-8")
            pip_install(sys.executable, ["-c", str(kept)] + [line for _, _, line in lacks])
        importlib.invalidate_caches()
        mine = site.getusersitepackages()
        if site.ENABLE_USER_SITE and os.path.isdir(mine) and mine not in sys.path:
            sys.path.insert(1, mine)  # absent when this Python started; before what is too old
        check_pair(sys.executable)
    return lacks


def pip_install(python: str, arguments: list) -> None:
    """Run `pip install` in `python`, showing what it fetches. Its CourseError says what to do."""
    shown = ("Collecting", "Downloading", "Installing", "Successfully")
    command = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    if python != sys.executable or not site.ENABLE_USER_SITE:
        command.append("--no-user")  # an environment has no such folder, whatever PIP_USER says
    _call(command + arguments, shown)


def _call(command: list, shown: tuple = ()) -> None:
    """Run a command, print its lines that start with one of `shown`, explain its failure."""
    child = subprocess.Popen(command, stdout=PIPE, stderr=STDOUT, env=variables(command[0]))
    before, lines = signal.signal(signal.SIGTERM, lambda *_: child.terminate()), []
    try:
        for raw in child.stdout:
            lines.append(raw.decode("utf-8", "replace").strip())
            if lines[-1].startswith(shown):
                print("  " + lines[-1][:120], flush=True)
        if child.wait() == 0:
            return
    finally:
        child.terminate()  # interrupted, it must not go on alone; where it has ended, nothing
        signal.signal(signal.SIGTERM, before)
    text = "\n".join(lines)
    if any(sign in text for sign in NO_SPACE):
        reason = f"the disk is full; make room under {VENV.parent} and run this again."
    elif "CERTIFICATE_VERIFY_FAILED" in text:
        reason = "the package index's certificate is not trusted here, as happens behind some "
        reason += "companies' proxies: name their certificate file in PIP_CERT and run this again."
    elif any(sign in text for sign in NO_NETWORK):
        reason = "the package index cannot be reached; connect to the network and run this again."
    elif "externally-managed-environment" in text:
        reason = "this Python belongs to the system; run `python3 -m helpers lab` instead."
    elif "No matching distribution" in text:
        here = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
        missing = next(line for line in lines if "No matching distribution" in line)
        reason = f"{missing}. It is not made for {here}, or not where pip looks. The README says "
        reason += "which systems the course runs on."
    else:
        reason = "\n".join(lines[-12:])
    raise CourseError(f"Installation failed: {reason}")


def check_pair(python: str) -> None:
    """Raise CourseError unless torch and torchvision can be imported together there."""
    command = [python, "-c", "import torch, torchvision"]
    done = subprocess.run(command, stdout=PIPE, stderr=STDOUT, env=variables(python))
    if done.returncode != 0:
        _mismatch((done.stdout.decode("utf-8", "replace").strip().splitlines() or ["killed"])[-1])


def _mismatch(reason: str) -> None:
    todo = "Both must come from the same build: reinstall them in one call, pip install "
    todo += "--force-reinstall torch torchvision."
    if "WinError 126" in reason or "WinError 1114" in reason:
        todo = "Windows lacks a library: install https://aka.ms/vs/17/release/vc_redist.x64.exe."
    elif "No module named" in reason:
        todo = "A module is missing: install it, or delete the folder .venv, and run this again."
    raise CourseError(f"torch and torchvision cannot be imported together ({reason}). {todo}")


def bootstrap() -> None:
    """What a notebook's first cell calls: install what the running kernel lacks, say so, go on.

    Raises:
        CourseError: as `prepare`, and torch and torchvision that do not match.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no question to the network at import
    check_python()
    if not REQUIREMENTS.is_file():  # this kernel imported `helpers` from where the course was
        raise CourseError(f"The course is gone from {ROOT}: restart the kernel to find it again.")
    done = complete(skip=TOOLS)
    if done:
        print("Installed into this kernel: " + ", ".join(line for _, _, line in done))
        loaded = [name for name, _, _ in done if MODULES.get(name, name) in sys.modules]
        if loaded:
            print(f"Restart the kernel: it still uses the previous {', '.join(loaded)}.")
    try:
        import torch  # noqa: F401
        import torchvision  # noqa: F401
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        _mismatch(f"{type(error).__name__}: {error}")


def call(command: list, cwd: "Path | None" = None, more: "dict | None" = None) -> int:
    """Run a command with `more` in its environment; wait for its end even when interrupted."""
    child = subprocess.Popen(command, cwd=cwd, env=dict(variables(command[0]), **(more or {})))
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while True:
        try:
            code = child.wait()
            return code if code >= 0 else 128 - code
        except KeyboardInterrupt:  # the terminal sent it to the child too, which is about to end
            continue
