"""The commands python3 -m helpers run | test | lab | doctor | train | measure | publish.

Starts on a bare Python (no syntax newer than 3.6 here): finds or makes an interpreter that has
everything, and goes on in that one.
"""

import argparse
import errno
import os
import re
import sys
import traceback
from pathlib import Path

if not __package__:  # called as `python3 helpers`: the folder above is what belongs on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
from helpers import environment
from helpers.environment import ROOT, CourseError

NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "build"
TEST_PACKAGES = ROOT / "tests" / "requirements.txt"
PROFILES = ("smoke", "cpu", "full", "auto")
RECIPES = ("source", "course", "speedrun")


def like(pattern, wanted, convert):
    """An argparse type: text of this form, converted."""

    def parse(text):
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"{text!r}: expected {wanted}")
        return convert(text)

    return parse


a_profile = like("|".join(PROFILES), ", ".join(PROFILES), str)
from_0 = like("[0-9]+", "a whole number, 0 or more", int)
from_1 = like("0*[1-9][0-9]*", "a whole number, 1 or more", int)
address = like(r"[\w.-]+/[\w.-]+", "OWNER/NAME", lambda text: ("REPOSITORY", text))
version = like(r"\d+\.\d+\.\d+", "three numbers, as in 0.2.0", lambda text: ("VERSION", text))
a_source = like("auto|shapes|cifar10", "auto, shapes, cifar10 or folder:PATH", str)


def seed(text):
    """argparse type: a whole number that numpy and torch take as a seed."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 0 to 4294967295")
    return int(text)


def whole(path):
    """The absolute path, for a kernel that runs in another folder; an unknown ~user is kept."""
    return Path(os.path.expanduser(path)).resolve()


def folder(text):
    """argparse type: a folder, whose ~ no shell has replaced where it is written --out=~/x."""
    if not text:
        raise argparse.ArgumentTypeError("expected the name of a folder")
    return Path(os.path.expanduser(text))


def data_source(text):
    """argparse type: auto, shapes, cifar10 or folder:PATH, where PATH holds train/ and test/."""
    if not text.startswith("folder:"):
        return a_source(text)
    path = whole(text[7:])
    if not ((path / "train").is_dir() and (path / "test").is_dir()):
        wanted = "a folder with train/<class>/ and test/<class>/ of images"
        raise argparse.ArgumentTypeError(f"{text!r}: expected {wanted}")
    return f"folder:{path}"


def told_before(name, default):
    """The default from the environment, as for a notebook that is opened by hand."""
    return os.environ.get("COURSE_" + name) or default


def told(text):
    """The help of a command, in the list of all and in its own --help."""
    return {"help": text, "description": text}


def parser():
    top = argparse.ArgumentParser(
        prog="python3 -m helpers", description=(__doc__ or "").partition("\n")[0]
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    commands.required = True
    add = commands.add_parser
    run = add("run", help="execute the notebooks into build/")
    publish = add("publish", help="execute the notebooks and keep their outputs in notebooks/")
    on = "; further arguments go to "
    test = add("test", **told("pytest over tests/ and all notebooks" + on + "pytest"))
    train = add("train", help="train the net in one process or, with torchrun, in several")
    measure = add("measure", help="train recipes over several seeds for images/results/ and README")
    add("lab", **told("open JupyterLab in notebooks/ or a given folder" + on + "JupyterLab"))
    add("doctor", help="what a bug report needs")

    for command in (run, publish):
        command.add_argument("--only", metavar="03", help="one notebook")
    for command in (run, publish, test):
        default = told_before("PROFILE", "smoke")
        command.add_argument("--profile", type=a_profile, default=default, metavar="NAME",
                             help="smoke (the default), cpu, full or auto")  # fmt: skip
    for command in (run, publish, test, train):
        # A training from the shell is told by its own options alone.
        default = "0" if command is train else told_before("SEED", "0")
        command.add_argument("--seed", type=seed, default=default,
                             help="seed of all random numbers, 0 or more")  # fmt: skip
    for command in (run, publish, test, train, measure):
        default = {train: "auto", measure: "cifar10"}.get(command) or told_before("DATA", "auto")
        command.add_argument("--data", type=data_source, default=default, metavar="SOURCE",
                             help="auto, shapes, cifar10 or folder:PATH")  # fmt: skip
    for command in (train, measure):
        command.add_argument("--width", type=from_1, help="channels of the stem; default: 64")
        command.add_argument("--epochs", type=from_1, help="instead of the recipe's")
        command.add_argument("--limit", type=from_1, help="at most this many images in each part")
        where = "where the files go" if command is train else "default: images/results"
        command.add_argument("--out", type=folder, metavar="DIR", required=command is train,
                             help=where)  # fmt: skip

    test.add_argument("--all", action="store_true", help="the slow tests as well")
    train.add_argument("--recipe", choices=RECIPES, default="course")
    train.add_argument("--profile", type=a_profile, metavar="NAME",
                       help="default for width, epochs, batch size and limit")  # fmt: skip
    train.add_argument("--batch-size", type=from_1, help="instead of the recipe's")
    train.add_argument("--holdout", type=from_0, default=5000, metavar="N",
                       help="default: 5000; 0: train on all images, then test")  # fmt: skip
    train.add_argument("--resume", action="store_true",
                       help="go on from the checkpoint in DIR, else it is replaced")  # fmt: skip
    what = measure.add_mutually_exclusive_group()
    what.add_argument("--recipe", choices=RECIPES, nargs="+", default=["source", "course"])
    what.add_argument("--ladder", action="store_true", help="the course, one change at a time")
    measure.add_argument("--seeds", type=from_1, default=9, metavar="N", help="seeds 0 to N-1")
    publish.add_argument("--force", action="store_true", help="replace a larger profile's outputs")
    instead = publish.add_mutually_exclusive_group()  # of executing and keeping
    instead.add_argument("--check", action="store_true", help="fail if stored outputs are stale")
    instead.add_argument(
        "--student", type=folder, metavar="DIR", help="write notebooks without solutions"
    )
    instead.add_argument("--slides", type=folder, metavar="DIR", help="write slides of each lesson")
    instead.add_argument("--readme", action="store_true", help="only write the README's results")
    for name, kind, form in (("repository", address, "OWNER/NAME"), ("version", version, "1.2.3")):
        instead.add_argument(f"--{name}", dest="fact", type=kind, metavar=form,
                             help=f"only write this {name} wherever it is named")  # fmt: skip
    return top


def choose(only):
    """The notebooks in order, or those whose name starts with `only` (03, 3 or 03_lr)."""
    paths = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    if not paths:
        raise CourseError(f"No notebooks in {NOTEBOOKS}: this copy of the course is incomplete.")
    start = only.zfill(2) if only and only.isdecimal() else only
    chosen = [path for path in paths if only is None or start and path.name.startswith(start)]
    if not chosen:
        names = ", ".join(path.stem for path in paths)
        raise CourseError(f"--only {only}: no such notebook; there are {names}.")
    return chosen


def folders():
    """The folders that the environment names, as whole paths."""
    names = ("COURSE_DATA_ROOT", "COURSE_RUNS")
    return {name: str(whole(os.environ[name])) for name in names if os.environ.get(name)}


def choice(options):
    """What a kernel is told by its environment; `helpers.session` reads it."""
    return {**folders(), "COURSE_PROFILE": options.profile, "COURSE_DATA": options.data,
            "COURSE_SEED": str(options.seed), "COURSE_RUN": "1"}  # fmt: skip


def look_at_data(options):
    """Fail or download once, here and not in each notebook, and settle what "auto" stands for."""
    from helpers import launch, session

    profile = session.choose_profile(options.profile)
    source = profile.source if options.data == "auto" else options.data
    if source != "shapes":
        data = launch.load_or_say(source, limit=profile.limit)
        if source == "auto":
            options.data = data.name
            print(*filter(None, (f"data: {data.name}", data.notice)), sep="\n")


def run(options, rest):
    from helpers.notebooks import execute_all

    environment.check_pair(sys.executable)
    look_at_data(options)
    outcomes = execute_all(choose(options.only), choice(options), BUILD)
    print(f"The executed notebooks are in {BUILD}")
    return int(any(outcome.error for outcome in outcomes))


def publish(options, rest):
    from helpers import editions, publishing

    paths = choose(options.only)
    if options.fact:
        name, value = options.fact
        print(f"{value} is now in: {', '.join(publishing.write_fact(name, value))}")
    elif options.readme:
        from helpers import results

        results.write_readme()
    elif options.student:
        editions.write_student(paths, options.student)
        print(f"Without solutions, in {options.student}: {', '.join(path.stem for path in paths)}")
    elif options.check:
        return int(not publishing.check(paths))
    elif options.slides:
        publishing.check(paths)
        for name, count in editions.write_slides(paths, options.slides).items():
            print(f"{name}: {count} slides")
        print(f"The slides are in {options.slides}: open them in any browser, offline too")
    else:
        from helpers.session import choose_profile

        look_at_data(options)
        options.profile = choose_profile(options.profile).name
        outcomes = publishing.publish(paths, choice(options), BUILD, options.force)
        return int(any(outcome.error for outcome in outcomes))
    return 0


def test(options, rest):
    environment.complete(TEST_PACKAGES)
    environment.check_pair(sys.executable)
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env"]
    command += ["--durations=8"] + (["-m", ""] if options.all else []) + rest
    return environment.call(command, ROOT, choice(options))


def lab(options, rest):
    said = ("--notebook-dir", "--ServerApp.root_dir")  # JupyterLab refuses a second one
    named = any(word.startswith(said) or Path(word).exists() for word in rest)
    where = [] if named else [f"--notebook-dir={NOTEBOOKS}"]
    command = [sys.executable, "-m", "jupyterlab", *where, *rest]
    return environment.call(command, more={**folders(), "JUPYTER_PREFER_ENV_PATH": "1"})


def train(options, rest):
    from helpers import launch, session

    if options.profile:  # what is said on the command line overrides the profile
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
    size = options.width or 64, options.seeds, options.epochs
    data = load_or_say(options.data, 5000 if options.ladder else 0, options.limit)
    if data.name != "cifar10" and folder.resolve() == results.FOLDER:
        raise CourseError(f"{results.FOLDER} is for CIFAR-10 only: name another with --out DIR")
    names = ["course"] if options.ladder else options.recipe
    chosen = [getattr(recipes, name.upper()) for name in names]
    for recipe in chosen:
        measure.check_batch(recipe, data)
    with one_sentence():
        if options.ladder:
            measure.ladder(data, *size, folder)
        else:
            for recipe in chosen:
                measure.recipe(recipe, data, *size, folder)
    return 0


def doctor(options, rest):
    from helpers.doctor import report

    print(report())
    return 0


def main(arguments=None):
    """Exit code of the command line `arguments`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if hasattr(sys.stdout, "reconfigure"):  # on Windows a pipe cannot take every letter
        sys.stdout.reconfigure(errors="replace")
    options, rest = parser().parse_known_args(arguments)
    if rest and options.command not in ("test", "lab"):
        parser().error(f"{options.command} has no {' '.join(rest)}; see {options.command} --help")
    try:
        if options.command == "doctor":
            python = environment.ready() or sys.executable
        else:
            if options.command in ("run", "publish"):
                choose(options.only)  # before anything long
            no_notebook = options.command in ("train", "measure")
            python = environment.prepare(skip=environment.TOOLS if no_notebook else ())
        if python != sys.executable:
            return environment.call([python, str(ROOT / "helpers"), *arguments])
        code = globals()[options.command](options, rest)
        if sys.stdout:
            sys.stdout.flush()  # here, where a reader who has gone is no error
        return code
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder that is gone
        pipe = error.errno == errno.EINVAL and error.filename is None  # how Windows says it
        if isinstance(error, BrokenPipeError) or (os.name == "nt" and pipe):  # `doctor | head -1`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        print(f"A file cannot be read or written: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130


def begin():
    """`main`, and the end of this process with its exit code, also where it fails.

    One of several processes leaves at once, because a normal exit could wait for threads that wait
    for a process that is gone.
    """
    try:
        code = main()
    except Exception:
        traceback.print_exc()
        code = 1
    if "RANK" not in os.environ:
        sys.exit(code)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    begin()
