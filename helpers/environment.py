"""Finds or makes the interpreter that has everything in requirements.txt. Standard library only.

Old Pythons must be able to read this file and __main__.py, so that they can say what is wrong:
no syntax newer than 3.6 here. What is present is never replaced where it would break something:
torch, torchvision, numpy and OpenCV of a running environment stay as they are.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from subprocess import PIPE, STDOUT

REPOSITORY = "OWNER/REPO"  # the public address; `python3 -m helpers publish --repository` sets it
VERSION = "0.1.0"  # of the release that Colab fetches, by its tag v0.1.0; CONTRIBUTING says how
ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements.txt"
VENV = ROOT / ".venv"
STAMP = VENV / "course-stamp"  # digest of what was installed, written last; "installing" until then
OLDEST, NEWEST = (3, 10), (3, 13)
OPENCV = ("opencv-python-headless", "opencv-python",
          "opencv-contrib-python-headless", "opencv-contrib-python")  # fmt: skip
KEEP = ("torch", "torchvision", "numpy")  # replaced under a running kernel, they break it
KERNEL = ("ipykernel", "ipython", "jupyter-client", "tornado", "pyzmq")  # so do these
TOOLS = ("jupyterlab", "ipykernel", "nbclient", "nbval")  # around the notebooks, not in them
NO_NETWORK = ("NewConnectionError", "ConnectTimeout", "NameResolution", "getaddrinfo", "ProxyError",
              "name resolution", "ReadTimeout", "Connection refused", "Network is unreachable",
              "SSLError", "Connection reset", "from versions: none")  # fmt: skip
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
        subprocess.run(clone, check=True, capture_output=True, text=True, env=quiet)
        print(f"Fetched {address} {TAG} into {course.name}/")
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        raise RuntimeError(f"No course here, and fetching its {TAG} failed: {reason}") from None
if str(course) not in sys.path:
    sys.path.insert(0, str(course))
from helpers import environment

environment.bootstrap()""".replace('"OWNER/REPO", "v0"', f'"{REPOSITORY}", "v{VERSION}"')


class CourseError(Exception):
    """What went wrong and what to do about it, for the reader of the terminal; no traceback."""


def check_python() -> None:
    """Raise CourseError unless this Python is one the packages support."""
    if not OLDEST <= tuple(sys.version_info[:2]) <= NEWEST:
        names = [f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
        found = next((name for name in names if shutil.which(name)), None)
        todo = f"call {found} instead" if found else "install one from python.org and call that"
        span, here = f"3.{OLDEST[1]} to 3.{NEWEST[1]}", sys.version.split()[0]
        raise CourseError(f"The course needs Python {span}, and this is {here}: {todo}.")


def requirements(path: Path = REQUIREMENTS) -> list:
    """The file's lines as (name, [(operator, version), ...], the line without its comment)."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        if line:
            name = re.match(r"[\w.-]+", line).group()
            rows.append((name, re.findall(r"(>=|<=|==|!=|<|>)\s*([\w.]+)", line), line))
    return rows


def digest(path: Path = REQUIREMENTS) -> str:
    """What a finished environment's stamp says: changes when a requirement does."""
    return hashlib.sha256("\n".join(row[2] for row in requirements(path)).encode()).hexdigest()


def installed(name: str) -> "str | None":
    """The version of a package in this interpreter, None if it is absent or half removed."""
    try:
        from importlib import metadata
    except ImportError:  # before Python 3.8, where nothing of the course can be installed
        return None
    try:
        return metadata.version(name) or None
    except (metadata.PackageNotFoundError, KeyError):
        return None


def problems(path: Path = REQUIREMENTS) -> list:
    """What this interpreter lacks: (name, version here or None, requirement). Empty: all there."""
    rows = []
    for name, bounds, line in requirements(path):
        builds = OPENCV if name in OPENCV else (name,)  # any build of OpenCV is the same cv2
        here = next((v for v in map(installed, builds) if v), None)
        if here is None or not all(_holds(here, sign, bound) for sign, bound in bounds):
            rows.append((name, here, line))
    return rows


def _holds(version: str, sign: str, bound: str) -> bool:
    """Compare release numbers; a nightly or vendor build (2.6.0a0+abc) counts as its release."""
    here, there = ([int(n) for n in re.findall(r"\d+", re.match(r"[\d.]*", v).group())]
                   for v in (version, bound))  # fmt: skip
    size = max(len(here), len(there))
    here, there = (n + [0] * (size - len(n)) for n in (here, there))
    return {">=": here >= there, "<=": here <= there, "==": here == there,
            "!=": here != there, "<": here < there, ">": here > there}[sign]  # fmt: skip


def venv_python() -> Path:
    """The interpreter of the course's own environment."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def stamp() -> str:
    """What the course's own environment says about itself; "" without one."""
    return STAMP.read_text(encoding="utf-8").strip() if STAMP.is_file() else ""


def ask(python: Path) -> "list | None":
    """`problems()` of another interpreter; None where it does not run or could not be repaired."""
    command = [str(python), str(Path(__file__).resolve()), str(REQUIREMENTS)]
    try:
        done = subprocess.run(command, stdout=PIPE, stderr=subprocess.DEVNULL, timeout=60)
        return json.loads(done.stdout.decode()) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def in_environment() -> bool:
    """Is this interpreter a venv, a conda environment, Colab or Kaggle, not the system's own?"""
    hosted = any(name in os.environ for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"))
    conda = (Path(sys.prefix) / "conda-meta").is_dir()
    return hosted or conda or sys.prefix != sys.base_prefix


def ready() -> "str | None":
    """An interpreter that has everything already: this one, else the course's own, else None."""
    own = Path(sys.prefix).resolve() == VENV.resolve()
    if not problems() and not (own and stamp() == "installing"):
        return sys.executable
    if not own and stamp() == digest() and ask(venv_python()) == []:
        return str(venv_python())
    return None


def prepare() -> str:
    """Path of an interpreter that has everything, installing what is missing where it belongs.

    The current one if it satisfies requirements.txt; else the course's own .venv if that does; else
    the current one completed, if it is an environment that has torch; else a new .venv.

    Raises:
        CourseError: unsupported Python, no venv module, no network, full disk, an outdated or
            mismatched torch that must not be replaced.
    """
    check_python()
    python = ready()
    if python:
        return python
    own = Path(sys.prefix).resolve() == VENV.resolve()
    if own or (in_environment() and installed("torch")):
        complete(everything=own)
        if own:
            STAMP.write_text(digest() + "\n", encoding="utf-8")
        return sys.executable
    return make_venv()


def make_venv() -> str:
    """Make, repair or update .venv from requirements.txt; its interpreter."""
    python, lacks = venv_python(), ask(venv_python())
    if lacks is None or stamp() == "installing":  # absent, broken or interrupted: from the start
        for module in ("venv", "ensurepip"):
            if not importlib.util.find_spec(module):
                todo = "on Debian or Ubuntu, sudo apt install python3-venv, then call this again"
                raise CourseError(f"This Python has no {module} module: {todo}.")
        print(f"Making the environment {VENV}", flush=True)
        _call([sys.executable, "-m", "venv", "--clear", str(VENV)])
        lacks = requirements()
    if lacks:
        STAMP.write_text("installing\n", encoding="utf-8")
        free = shutil.disk_usage(str(ROOT)).free / 1e9
        print(
            f"Installing requirements.txt: some minutes, up to 7 GB of {free:.0f} free", flush=True
        )
        pip_install(str(python), ["-r", str(REQUIREMENTS)])
        check_pair(str(python))
    STAMP.write_text(digest() + "\n", encoding="utf-8")
    return str(python)


def complete(path: Path = REQUIREMENTS, everything: bool = False, skip: tuple = ()) -> list:
    """Install into this interpreter what it lacks of `path`; the requirements installed.

    `everything` asks pip about the whole file, and so about what those packages need themselves;
    `skip` names packages that are not needed now.

    Raises:
        CourseError: torch, torchvision or numpy is there and too old or too new; it is not touched.
    """
    lacks = [row for row in problems(path) if row[0] not in skip]
    for name, here, line in lacks:
        if here and name in KEEP:
            raise CourseError(
                f"{name} {here} is here, and the course needs {line}. Replacing it could break the "
                "environment: upgrade torch, torchvision and numpy yourself, together, or call "
                "`python3 -m helpers run` outside this environment, and the course makes its own."
            )
    if lacks or everything:
        held = [n for n in KEEP + OPENCV + KERNEL if n not in [row[0] for row in lacks]]
        pins = [f"{name}=={installed(name)}" for name in held if installed(name)]
        cv2 = next((installed(name) for name in OPENCV if installed(name)), None)
        if cv2 and not installed(OPENCV[0]):  # albumentations asks for this build: the same cv2
            pins.append(f"{OPENCV[0]}=={cv2}")
        wanted = ["-r", str(path)] if everything else [line for _, _, line in lacks]
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder) / "constraints.txt"
            kept.write_text("\n".join(pins) + "\n", encoding="utf-8")
            pip_install(sys.executable, ["-c", str(kept)] + wanted)
        importlib.invalidate_caches()
        check_pair(sys.executable)
    return [line for _, _, line in lacks]


def pip_install(python: str, arguments: list) -> None:
    """Run `pip install` there, showing what it fetches. Raises CourseError with what to do."""
    shown = ("Collecting", "Downloading", "Installing", "Successfully")
    _call([python, "-m", "pip", "install", "--disable-pip-version-check"] + arguments, shown)


def _call(command: list, shown: tuple = ("\0",)) -> None:
    """Run a command, print its lines that start with one of `shown`, explain its failure."""
    child = subprocess.Popen(command, stdout=PIPE, stderr=STDOUT)
    lines = []
    for raw in child.stdout:
        lines.append(raw.decode("utf-8", "replace").strip())
        if lines[-1].startswith(shown):
            print("  " + lines[-1][:120], flush=True)
    if child.wait() == 0:
        return
    text = "\n".join(lines)
    if any(sign in text for sign in NO_SPACE):
        reason = f"the disk is full; make room under {VENV.parent} and call this again."
    elif any(sign in text for sign in NO_NETWORK):
        reason = "the package index cannot be reached; connect to the network and call this again."
    elif "externally-managed-environment" in text:
        reason = "this Python belongs to the system; call `python3 -m helpers lab` instead."
    else:
        reason = "\n".join(lines[-12:])
    raise CourseError(f"Installation failed: {reason}")


def check_pair(python: str) -> None:
    """Raise CourseError unless torch and torchvision can be imported together there."""
    done = subprocess.run([python, "-c", "import torch, torchvision"], stdout=PIPE, stderr=STDOUT)
    if done.returncode != 0:
        _mismatch((done.stdout.decode("utf-8", "replace").strip().splitlines() or ["killed"])[-1])


def _mismatch(reason: str) -> None:
    raise CourseError(
        f"torch and torchvision cannot be imported together ({reason}). Both must come from the "
        "same build: reinstall them in one call, pip install --force-reinstall torch torchvision."
    )


def bootstrap() -> None:
    """What a notebook's first cell calls: install what the running kernel lacks, say so, go on.

    Raises:
        CourseError: as `prepare`, and torch and torchvision that do not match.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no question to the network at import
    check_python()
    if not REQUIREMENTS.is_file():  # this kernel imported `helpers` from where the course was
        raise CourseError(f"The course has left {ROOT}: restart the kernel, and it is found again.")
    done = complete(skip=TOOLS)
    if done:
        print("Installed into this kernel: " + ", ".join(done))
        names = [re.match(r"[\w.-]+", line).group() for line in done]
        loaded = [name for name in names if name in sys.modules]
        if loaded:
            print(f"Restart the kernel: it still uses the previous {', '.join(loaded)}.")
    try:
        import torch  # noqa: F401
        import torchvision  # noqa: F401
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        _mismatch(f"{type(error).__name__}: {error}")


def hand_over(python: str, arguments: list) -> int:
    """Run the command line in that interpreter; its exit code."""
    return call([python, str(ROOT / "helpers")] + arguments)


def call(command: list, cwd: "Path | None" = None, more: "dict | None" = None) -> int:
    """Run a command with `more` in its environment, to its end, however this one is stopped."""
    child = subprocess.Popen(command, cwd=cwd, env=dict(os.environ, **(more or {})))
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while True:
        try:
            code = child.wait()
            return code if code >= 0 else 128 - code
        except KeyboardInterrupt:  # the terminal sent it to the child too, which is about to end
            continue


if __name__ == "__main__":  # `ask` runs this file in the interpreter in question
    check_python()
    lacking = problems(Path(sys.argv[1]))
    if lacking:
        import pip  # noqa: F401  without it nothing can be repaired
    print(json.dumps(lacking))
