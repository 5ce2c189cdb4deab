"""What pytest needs to execute notebooks: nbval that notices a dead kernel, and waits longer.

Without this a kernel that crashed, or was killed for its memory, is waited for until the cell's
timeout of 2000 seconds, and a cell fails when its output comes 5 seconds after its end.
"""

import functools
import time
from queue import Empty

import pytest

OUTPUT_SECONDS = 60


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("nbval_lax", False) or config.getoption("nbval", False):
        from nbval.kernel import RunningKernel

        if not hasattr(RunningKernel.await_reply, "__wrapped__"):
            RunningKernel.await_reply = watched(RunningKernel.await_reply)


def watched(await_reply):
    """nbval's wait for a cell's end, looking every second whether the kernel still lives."""

    @functools.wraps(await_reply)
    def wait(self, msg_id, timeout=None):
        deadline = time.monotonic() + (timeout or 2000)
        while True:
            try:
                return await_reply(self, msg_id, timeout=1)
            except Empty:
                if not self.is_alive():
                    raise RuntimeError("the kernel died in this cell (crash, or memory?)") from None
                if time.monotonic() > deadline:
                    raise

    return wait


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if hasattr(item, "output_timeout"):  # nbval's cells
            item.output_timeout = OUTPUT_SECONDS
