"""The command line of the course: python3 -m helpers run | test | lab | doctor | train | publish.

Starts on a bare Python (no syntax newer than 3.6 here): finds or makes an interpreter that has
everything, and goes on in that one.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

if not __package__:  # called as `python3 helpers`: the folder above is what belongs on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
from helpers import environment
from helpers.environment import ROOT, CourseError

NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "build"
TEST_PACKAGES = ROOT / "tests" / "requirements.txt"
# What `doctor` says: the bounds the course keeps to, without installation and download.
MINUTES = (
    ("smoke", "under 4 minutes on 2 cores"),
    ("cpu", "under 25 minutes on 2 cores"),
    ("full", "made for a GPU, not timed yet; not meant for a CPU"),
)


def seed(text):
    """argparse type: a whole number that numpy and torch take as a seed."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 0 to 4294967295")
    return text


def whole(text):
    """argparse type: a whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 0 on")
    return int(text)


def positive(text):
    """argparse type: a whole number from 1 on."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1 on")
    return int(text)


def data_source(text):
    """argparse type: auto, shapes, cifar10 or folder:PATH, where PATH holds train/ and test/."""
    if text.startswith("folder:"):
        path = Path(text[7:]).expanduser().resolve()  # a kernel works elsewhere
        if not ((path / "train").is_dir() and (path / "test").is_dir()):
            wanted = "a folder with train/<class>/ and test/<class>/ of images"
            raise argparse.ArgumentTypeError(f"{text!r}: expected {wanted}")
        return f"folder:{path}"
    if text not in ("auto", "shapes", "cifar10"):
        wanted = "expected auto, shapes, cifar10 or folder:PATH"
        raise argparse.ArgumentTypeError(f"{text!r}: {wanted}")
    return text


def choose(only):
    """The notebooks in order, or those whose name starts with `only` (03, 3 or 03_lr)."""
    paths = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    if only:
        start = only.zfill(2) if only.isdecimal() else only
        chosen = [path for path in paths if path.name.startswith(start)]
        if not chosen:
            names = ", ".join(path.stem for path in paths)
            raise CourseError(f"--only {only}: no such notebook; there are {names}.")
        return chosen
    if not paths:
        raise CourseError(f"No notebooks in {NOTEBOOKS}: the course's copy is not whole.")
    return paths


def parser():
    top = argparse.ArgumentParser(prog="python3 -m helpers", description=__doc__.splitlines()[0])
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    commands.required = True
    add = commands.add_parser
    run = add("run", help="execute the notebooks into build/")
    publish = add("publish", help="execute the notebooks and keep what came out in notebooks/")
    test = add("test", help="pytest over tests/ and all notebooks; further arguments go to pytest")
    test.add_argument("--all", action="store_true", help="the slow tests as well")
    for command in (run, publish):
        command.add_argument("--only", metavar="03", help="one notebook")
    for command in (run, publish, test):
        command.add_argument("--profile", choices=["smoke", "cpu", "full", "auto"], default="smoke")
    train = add("train", help="train the net, also by torchrun, in one process or several")
    train.add_argument("--profile", choices=["smoke", "cpu", "full", "auto"],
                       help="take width, epochs, batch and images from it")  # fmt: skip
    for command in (run, publish, train, test):
        command.add_argument("--data", type=data_source, default="auto", metavar="SOURCE",
                             help="auto, shapes, cifar10 or folder:PATH")  # fmt: skip
        command.add_argument("--seed", type=seed, default="0")
    publish.add_argument("--force", action="store_true", help="replace a larger profile's outputs")
    instead = publish.add_mutually_exclusive_group()  # of executing and keeping
    instead.add_argument("--check", action="store_true", help="fail if stored outputs are stale")
    instead.add_argument("--student", type=Path, metavar="DIR", help="write them without solutions")
    instead.add_argument("--slides", type=Path, metavar="DIR", help="write slides of each lesson")
    instead.add_argument("--readme", action="store_true", help="only write the README's results")
    instead.add_argument("--repository", metavar="OWNER/NAME", help="only write this address")
    instead.add_argument("--version", metavar="1.2.3", help="only write this version")
    train.add_argument("--recipe", choices=["source", "course", "speedrun"], default="course")
    train.add_argument("--width", type=positive, help="channels of the stem, 64 in the course")
    train.add_argument("--epochs", type=positive, help="default: the recipe's")
    train.add_argument("--batch-size", type=positive, help="default: the recipe's")
    train.add_argument("--limit", type=positive, help="at most so many images of each part")
    train.add_argument("--holdout", type=whole, default=5000, help="0: train on all, then test")
    train.add_argument("--out", type=Path, required=True, metavar="DIR")
    train.add_argument("--resume", action="store_true")
    measure = add("measure", help="train recipes over seeds into images/results/, for the README")
    measure.add_argument("--recipe", choices=["source", "course", "speedrun"], nargs="+",
                         default=["source", "course"])  # fmt: skip
    measure.add_argument("--ladder", action="store_true", help="the course less one change each")
    measure.add_argument("--seeds", type=positive, default=9, metavar="N", help="seeds 0 to N-1")
    measure.add_argument("--width", type=positive, default=64)
    measure.add_argument("--epochs", type=positive, help="default: the recipe's")
    measure.add_argument("--data", type=data_source, default="cifar10", metavar="SOURCE")
    measure.add_argument("--limit", type=positive, help="at most so many images of each part")
    measure.add_argument("--out", type=Path, metavar="DIR", help="default: images/results")
    add("lab", help="open JupyterLab on notebooks/; further arguments go to it")
    add("doctor", help="what a bug report needs")
    return top


def run(options, rest):
    from helpers.notebooks import execute_all

    environment.check_pair(sys.executable)
    if options.data not in ("auto", "shapes"):  # once here, not in each notebook
        from helpers import launch, session

        launch.load_or_say(options.data, limit=session.choose_profile(options.profile).limit)
    outcomes = execute_all(choose(options.only), choice(options), BUILD)
    print(f"The executed notebooks are in {BUILD}")
    return int(any(outcome.error for outcome in outcomes))


def choice(options):
    """What a kernel is told by its environment; `helpers.session` reads it."""
    return {"COURSE_PROFILE": options.profile, "COURSE_DATA": options.data,
            "COURSE_SEED": options.seed, "COURSE_RUN": "1"}  # fmt: skip


def publish(options, rest):
    from helpers import editions, publishing

    paths = choose(options.only)
    if options.repository:
        if not re.match(r"[\w.-]+/[\w.-]+$", options.repository):
            raise CourseError(f"--repository {options.repository}: expected OWNER/NAME.")
        files = publishing.set_repository(environment.REPOSITORY, options.repository)
        print(f"{options.repository} is now the address in: {', '.join(files)}")
        return 0
    if options.version:
        if not re.match(r"\d+\.\d+\.\d+$", options.version):
            raise CourseError(f"--version {options.version}: expected three numbers, as in 0.2.0.")
        files = publishing.set_version(environment.VERSION, options.version)
        print(f"{options.version} is now the version in: {', '.join(files)}")
        return 0
    if options.readme:
        from helpers import results

        results.write_readme()
        return 0
    if options.student:
        editions.write_student(paths, options.student)
        print(f"{len(paths)} notebooks without solutions are in {options.student}")
        return 0
    if options.check or options.slides:
        old = publishing.stale(paths)
        for name in old:
            print(f"{name}: its outputs are not those of its code cells; publish it again")
    if options.check:
        for path in paths:
            changed = publishing.changed_helpers(path)
            if changed:
                print(f"{path.name}: its outputs are older than {', '.join(changed)}")
        return int(bool(old))
    if options.slides:
        for name, count in editions.write_slides(paths, options.slides).items():
            print(f"{name}: {count} slides")
        print(f"They are in {options.slides}, for any browser, and need no network")
        return 0
    if options.profile == "auto":
        from helpers.session import choose_profile

        options.profile = choose_profile("auto").name
    outcomes = publishing.publish(paths, options.profile, choice(options), BUILD, options.force)
    return int(any(outcome.error for outcome in outcomes))


def test(options, rest):
    environment.complete(TEST_PACKAGES)
    environment.check_pair(sys.executable)
    rest = [str(Path(a).resolve()) if Path(a.split("::")[0]).exists() else a for a in rest]
    own = [] if any(Path(a.split("::")[0]).exists() for a in rest) else ["tests", "notebooks"]
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env"]
    command += ["--durations=8"] + (["-m", ""] if options.all else []) + own + rest
    return environment.call(command, ROOT, choice(options))


def lab(options, rest):
    command = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={NOTEBOOKS}"]
    return environment.call(command + rest, more={"JUPYTER_PREFER_ENV_PATH": "1"})


def train(options, rest):
    from helpers import launch, session

    options.seed = int(options.seed)
    if options.profile:  # what is said on the command line goes before the profile
        profile = session.choose_profile(options.profile)
        for name in ("width", "epochs", "batch_size", "limit"):
            if getattr(options, name) is None:
                setattr(options, name, getattr(profile, name))
        if options.data == "auto":
            options.data = profile.source
    options.width = options.width or 64
    return launch.train(options)


def measure(options, rest):
    from helpers import measure, recipes, results
    from helpers.launch import load_or_say, make_folder, one_sentence

    folder = make_folder(options.out or results.FOLDER)
    size = options.width, options.seeds, options.epochs
    data = load_or_say(options.data, 5000 if options.ladder else 0, options.limit)
    known = {r.name: r for r in (recipes.SOURCE, recipes.COURSE, recipes.SPEEDRUN)}
    with one_sentence():
        if options.ladder:
            measure.ladder(data, *size, folder)
        else:
            for name in options.recipe:
                measure.recipe(known[name], data, *size, folder)
    return 0


def doctor(options, rest):
    """Print what there is, as text for a bug report; whatever is missing is said, never raised."""
    rows = [("course", _output(["git", "-C", str(ROOT), "describe", "--always", "--dirty"]))]
    rows.append(("python", f"{platform.python_version()}, {sys.executable}"))
    rows.append(("platform", platform.platform()))
    try:
        environment.check_python()
        lacks = ", ".join(f"{line} (here: {v or 'none'})" for _, v, line in environment.problems())
        rows.append(("packages", f"missing: {lacks}" if lacks else "requirements.txt is satisfied"))
        names = [name for name, _, _ in environment.requirements()]
        found = [(name, environment.installed(name)) for name in names]
        rows.append(("versions", ", ".join(f"{name} {v}" for name, v in found if v) or "none"))
    except (CourseError, ImportError) as error:
        rows.append(("packages", str(error)))
    rows += _hardware()
    free = shutil.disk_usage(str(ROOT)).free / 1e9
    rows.append(("disk", f"{free:.0f} GB free where the course is"))
    data = Path(os.environ.get("COURSE_DATA_ROOT") or ROOT / "data")
    cifar = (data / "cifar-10-batches-py" / "test_batch").is_file()
    where = f"in {data}" if cifar else f"not in {data}: fetched at first use (170 MB)"
    rows.append(("data", f"shapes: built in; CIFAR-10: {where}"))
    rows += [(f"{name} run", f"expected: {text}") for name, text in MINUTES]
    print("\n".join(f"{name:<12}{text}" for name, text in rows))
    return 0


def _hardware():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        import psutil

        memory = psutil.virtual_memory()
        text = f"{memory.total / 1e9:.0f} GB, {memory.available / 1e9:.0f} GB of it free"
    except Exception:  # psutil comes with ipykernel; without it the report goes on
        text = "not known without the environment"
    rows = [("cores", f"{cores}, so at most {cores} loader workers"), ("memory", text)]
    try:
        import torch
        import torchvision  # noqa: F401

        if torch.cuda.is_available():
            gpu = torch.cuda.get_device_properties(0)
            device = f"cuda: {gpu.name}, {gpu.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}"
        else:
            device = "mps" if torch.backends.mps.is_available() else "cpu"
        return rows + [("device", f"{device}; {torch.get_num_threads()} threads")]
    except Exception as error:  # absent or mismatched: exactly what the report is for
        return rows + [("device", f"unknown, torch cannot be imported: {error}")]


def _output(command):
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return done.stdout.decode().strip() or "no git commit"
    except OSError:
        return "no git"


def main(arguments=None):
    """Exit code of the command line `arguments`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options, rest = parser().parse_known_args(arguments)
    if rest and options.command not in ("test", "lab"):
        parser().error(f"unknown: {' '.join(rest)}")
    try:
        if options.command == "doctor":
            python = environment.ready() or sys.executable
        else:
            environment.check_python()
            if options.command in ("run", "publish"):
                choose(options.only)  # before anything long
            python = environment.prepare()
        if python != sys.executable:
            return environment.hand_over(python, arguments)
        return globals()[options.command](options, rest)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
