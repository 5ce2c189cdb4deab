"""What a training shows: a bar for whoever is watching, and one line an epoch to keep."""

import os
import sys

from tqdm import tqdm


class Cell:
    """Where a notebook shows the bar; emptied at the end, so that the bar is not stored.

    To tqdm it looks like a file.
    """

    encoding = "utf-8"  # or tqdm draws the bar in ASCII

    def __init__(self):
        from IPython.display import display

        self.handle = display({"text/plain": ""}, raw=True, display_id=True)

    def write(self, text: str) -> None:
        self.handle.update({"text/plain": text.strip()}, raw=True)

    def flush(self) -> None:
        """Nothing is held back."""


def progress_bar(total: int, done: int, shown: bool) -> tqdm:
    """Steps done and time left, in a terminal or an open notebook; elsewhere an invisible bar.

    CI (any value), and COURSE_RUN, which `python3 -m helpers run` gives its kernels, also hide it.
    """
    file = None
    if shown and not os.environ.get("CI") and not os.environ.get("COURSE_RUN"):
        shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
        if hasattr(shell, "kernel"):
            file = Cell()
        elif sys.stderr.isatty():
            file = sys.stderr
    return tqdm(total=total, initial=done, file=file, disable=file is None, leave=False)


def print_line(bar: tqdm, record: dict) -> None:
    """Print one epoch's record, names and values, on standard output, above the bar."""
    forms = {"epoch": "2d", "seconds": ".1f"}
    found = {name: value for name, value in record.items() if value is not None}
    parts = (f"{name} {value:{forms.get(name, '.4f')}}" for name, value in found.items())
    bar.write("  ".join(parts), file=sys.stdout)
    sys.stdout.flush()
