"""What a bug report needs: versions, hardware, data, times. What is absent is reported, not raised.

Standard library only, and no syntax newer than 3.6: it describes broken machines too.
"""

import json
import os
import platform
import shutil
import sys
from pathlib import Path

from helpers import environment, packages
from helpers.environment import ROOT, CourseError


def report() -> str:
    """The text for the issue form, a line each."""
    free = shutil.disk_usage(str(ROOT)).free / 1e9
    data = Path(os.path.expanduser(os.environ.get("COURSE_DATA_ROOT") or str(ROOT / "data")))
    cifar = f"not in {data}: fetched at first use (170 MB)"
    if (data / "cifar-10-batches-py" / "test_batch").is_file():
        cifar = f"in {data}"
    elif (data / "cifar-10-python.tar.gz").is_file():
        cifar = f"the archive is in {data}: checked and unpacked at first use"
    rows = {
        "course": environment.git("describe", "--always", "--dirty") or "no git commit",
        "python": f"{platform.python_version()}, {sys.executable}",
        "platform": platform.platform(),
        **what_is_installed(),
        **hardware(),
        "disk": f"{free:.0f} GB free where the course is",
        "data": f"shapes: built in; CIFAR-10: {cifar}",
        # The bounds the course keeps to, without installation and download.
        "smoke run": "expected: under 4 minutes on 2 cores",
        "cpu run": "expected: under 25 minutes on 2 cores",
        "full run": full_run(),
    }
    return "\n".join(f"{name:<12}{text}" for name, text in rows.items())


def what_is_installed() -> dict:
    """What is missing of requirements.txt, and what is there."""
    try:
        environment.check_python()
    except CourseError as error:
        return {"packages": str(error)}
    lacks = ", ".join(f"{line} (here: {v or 'none'})" for _, v, line in packages.problems())
    names = [name for name, _, _ in packages.requirements()]
    found = [(name, packages.installed(name)) for name in names]
    return {
        "packages": f"missing: {lacks}" if lacks else "requirements.txt is satisfied",
        "versions": ", ".join(f"{name} {v}" for name, v in found if v) or "none",
    }


def hardware() -> dict:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        import psutil

        found = psutil.virtual_memory()
        memory = f"{found.total / 1e9:.0f} GB, {found.available / 1e9:.0f} GB of it free"
    except Exception:  # psutil comes with ipykernel; without it the report goes on
        memory = "not known without the environment"
    try:
        import torch
        import torchvision  # noqa: F401

        threads = torch.get_num_threads()
        device = f"{gpu_or_cpu(torch)}; {threads} thread" + "s" * (threads > 1)
    except Exception as error:  # absent or mismatched: exactly what the report is for
        device = f"unknown, torch cannot be imported: {error}"
    return {"cores": str(cores), "memory": memory, "device": device}


def gpu_or_cpu(torch) -> str:
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        told = f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}"
        works = environment.cuda_works()
        return f"cuda: {told}" if works else f"cpu: this torch cannot compute on {told}"
    if shutil.which("nvidia-smi") and not torch.version.cuda:
        return "cpu: there may be a GPU, but this torch is built without CUDA (README)"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def full_run(folder: Path = ROOT / "images" / "results") -> str:
    """The longest training of the full profile that was measured on a GPU, if any was."""
    runs = []
    for path in folder.glob("*-w64.json"):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["profile"] == "full":
                runs += [(run["seconds"] / 60, run["device"]) for run in content["runs"]]
        except (ValueError, TypeError, KeyError):
            return f"unknown, {path.name} is damaged"
    on_gpu = [run for run in runs if not run[1].startswith("CPU")]
    if not on_gpu:
        return "made for a GPU, where nobody has measured it yet; not meant for a CPU"
    minutes, device = max(on_gpu)
    return f"expected: each full training takes {minutes:.1f} minutes on {device}"
