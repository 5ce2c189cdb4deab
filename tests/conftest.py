"""What the tests share: where the official CIFAR-10 is, if anywhere."""

import os
import signal
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_is_heard():
    """A job in the background inherits an ignored SIGINT: Python then leaves it so, and all that it
    starts inherit it too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def link():
    """A function that makes the link `place` to `target`; the test skips where none may be made."""

    def make(target: Path, place: Path) -> None:
        try:
            place.symlink_to(target)
        except OSError as error:
            pytest.skip(f"no links here: {error}")  # Windows, without the developer's mode

    return make


@pytest.fixture(scope="session")
def cifar_root() -> Path:
    """The folder that holds `cifar-10-batches-py`; the test skips where there is none."""
    root = Path(os.environ.get("COURSE_DATA_ROOT", REPOSITORY / "data"))
    if not (root / "cifar-10-batches-py" / "test_batch").is_file():
        pytest.skip(f"no official CIFAR-10 in {root}: set COURSE_DATA_ROOT to where it is")
    return root
