"""What a learner sees: `python -m helpers lab` in a real browser, on a copy of the course.

Screenshots are left in build/screenshots, for people to look at.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest

webdriver = pytest.importorskip(
    "selenium.webdriver", reason="no selenium here (pip install -r tests/requirements.txt)"
)
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

from helpers import editions  # noqa: E402
from helpers.session import PROFILES  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="JupyterLab is stopped by signals of POSIX"),
]

ROOT = Path(__file__).resolve().parents[1]
SCREENSHOTS = ROOT / "build" / "screenshots"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
CHROMEDRIVER = shutil.which("chromedriver")
TOKEN = "course"
START, RUN, REACT = 90, 300, 30  # seconds: JupyterLab or a kernel starts; a notebook; the page

# What the notebook in front holds, cell by cell; the page itself keeps only cells near the window.
CELLS = """
const panel = window.jupyterapp.shell.currentWidget;
return panel.content.widgets.map((cell, index) => ({
    index, code: cell.model.type === "code", source: cell.model.sharedModel.getSource(),
    ran: Boolean(cell.model.executionCount) && cell.model.executionState !== "running",
    outputs: cell.model.type === "code" ? cell.model.outputs.toJSON() : [],
})).filter(cell => cell.code);
"""
READY = """
const panel = window.jupyterapp && window.jupyterapp.shell.currentWidget;
if (!panel || !panel.context || panel.context.path !== arguments[0]) return false;
const kernel = panel.context.isReady && panel.sessionContext.session?.kernel;
return Boolean(kernel) && kernel.status === "idle";
"""
GO_TO = """
const panel = window.jupyterapp.shell.currentWidget, notebook = panel.content;
panel.activate();  // it gets the keyboard
notebook.activeCellIndex = arguments[0];
return notebook.scrollToItem(arguments[0], "start");
"""
NODE = "window.jupyterapp.shell.currentWidget.content.widgets[arguments[0]].node"

# Everything the output of a cell ever says, however short.
WATCH = f"""
const node = {NODE}, text = () => node.querySelector(".jp-Cell-outputArea")?.innerText || "";
window.shown = [text()];
new MutationObserver(() => window.shown.push(text())).observe(
    node, {{subtree: true, childList: true, characterData: true}});
"""


class Page:
    """One notebook open in JupyterLab."""

    def __init__(self, driver, address: str, name: str):
        self.driver, self.name = driver, name
        driver.get(f"{address}/lab/tree/{name}?reset&token={TOKEN}")
        self.wait(lambda: driver.execute_script(READY, name), START, "a kernel that is ready")

    def wait(self, condition: Callable, seconds: float, what: str, pause: float = 0.2):
        """What `condition` returns as soon as that is true."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            if time.monotonic() > deadline:
                self.photograph("given-up")
                pytest.fail(f"{self.name}: waited {seconds} s for {what}; see {SCREENSHOTS}")
            time.sleep(pause)
        return found

    def photograph(self, what: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(SCREENSHOTS / f"{self.name[:2]}-{what}.png"))

    def cells(self) -> list[dict]:
        return self.driver.execute_script(CELLS)

    def find(self, text: str) -> int:
        """Index of the first code cell with that text."""
        found = [cell["index"] for cell in self.cells() if text in cell["source"]]
        assert found, f"{self.name}: no code cell with {text!r}, which this test looks for"
        return found[0]

    def go_to(self, index: int) -> None:
        self.driver.execute_script(GO_TO, index)

    def menu(self, name: str, entry: str) -> None:
        """Click an entry of the menu bar, as people do."""
        for kind, label in ((".lm-MenuBar-itemLabel", name), (".lm-Menu-itemLabel", entry)):
            found = self.wait(lambda k=kind, n=label: self.labelled(k, n), REACT, f"menu {label}")
            found.click()

    def labelled(self, selector: str, text: str):
        for element in self.driver.find_elements(By.CSS_SELECTOR, selector):
            if element.text.strip() == text and element.is_displayed():
                return element
        return None

    def run_active_cell(self) -> None:
        ActionChains(self.driver).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(
            Keys.CONTROL
        ).perform()

    def wait_until_run(self, before: int | None = None) -> list[dict]:
        """The code cells (those above cell `before`) once all have run, none with an error."""

        def ran():
            cells = [c for c in self.cells() if before is None or c["index"] < before]
            for cell in cells:
                for output in cell["outputs"]:
                    if output["output_type"] == "error":
                        self.go_to(cell["index"])
                        self.photograph("error")
                        trace = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(output["traceback"]))
                        pytest.fail(f"{self.name}, cell {cell['index']}:\n{trace}")
            return all(c["ran"] for c in cells) and cells

        return self.wait(ran, RUN, "all its cells", pause=0.5)

    def image(self, index: int, selector: str = ".jp-OutputArea-output img") -> str | None:
        """Source of the first drawn picture below that cell; None while there is none."""
        script = f"""
        const found = [...{NODE}.querySelectorAll(arguments[1])];
        const drawn = found.find(image => image.complete && image.naturalWidth > 100
                                 && image.getBoundingClientRect().width > 100);
        return drawn ? drawn.src : null;
        """
        return self.driver.execute_script(script, index, selector)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    if not (CHROMIUM and CHROMEDRIVER):
        missing = "chromedriver" if CHROMIUM else "Chromium"
        pytest.skip(f"no {missing} here (Debian, Ubuntu: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", "--window-size=1600,1200",
        f"--user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):  # fmt: skip
        options.add_argument(argument)
    service = webdriver.ChromeService(CHROMEDRIVER)  # named, so that nothing is downloaded
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(REACT)
    # JupyterLab's current notebook is the one that has the focus, which no window gives here.
    driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """JupyterLab, started by the course's command on a copy, whose outputs are cleared."""
    place = tmp_path_factory.mktemp("lab") / "course"
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "test_*")
    for folder in ("helpers", "notebooks", "tests/reference"):
        shutil.copytree(ROOT / folder, place / folder, ignore=ignore)
    shutil.copy(ROOT / "requirements.txt", place)
    for path in (place / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, path)

    # As a learner starts it: bars and sliders are shown, and nobody's settings are read or changed.
    told = {k: v for k, v in os.environ.items() if k not in ("CI", "COURSE_RUN", "PYTHONPATH")}
    told |= {"COURSE_PROFILE": "smoke", "COURSE_DATA": "shapes", "COURSE_SEED": "0"}
    told.setdefault("OMP_NUM_THREADS", "1")  # threads that wait for a busy core make all of it slow
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        told[name] = str(place.parent / name.lower())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "helpers", "lab", "--no-browser", "--ip=127.0.0.1",
        f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}",
        "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    log = place.parent / "lab.log"
    with open(log, "wb") as file:
        server = subprocess.Popen(
            command, cwd=place, env=told, stdout=file, stderr=file, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{url}/api/status?token={TOKEN}", server, log)
        yield url
    finally:
        server.send_signal(signal.SIGTERM)  # JupyterLab gets it too, and stops its kernels
        try:
            server.wait(REACT)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START
    while True:
        try:
            with direct.open(url, timeout=5) as answer:
                return json.load(answer)
        except OSError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(
                    f"JupyterLab did not start: {error}\n{log.read_text('utf-8', 'replace')}"
                )
            time.sleep(0.2)


def test_a_whole_lesson(browser, address: str):
    """Run > Run All Cells in lesson 01: no error, no warning, and every figure is drawn."""
    page = Page(browser, address, "01_data_and_augmentation.ipynb")
    page.photograph("opened")
    page.menu("Run", "Run All Cells")
    cells = page.wait_until_run()
    warned = [o["text"] for c in cells for o in c["outputs"] if o.get("name") == "stderr"]
    assert not warned
    figures = [
        c["index"] for c in cells if any("image/png" in o.get("data", {}) for o in c["outputs"])
    ]
    assert len(figures) > 5
    for number, index in enumerate(figures):
        page.go_to(index)
        page.wait(lambda i=index: page.image(i), REACT, f"the figure of cell {index}")
        if number % 3 == 0:
            page.photograph(f"figure-{index}")
    for what, index in (("start", cells[1]["index"]), ("end", cells[-1]["index"])):
        page.go_to(index)
        page.photograph(what)


@pytest.mark.skipif(
    version("ipywidgets").startswith("7."), reason="ipywidgets 7 has no front end for JupyterLab 4"
)
def test_the_explorer(browser, address: str):
    """Lesson 04's sliders: an arrow key on one of them draws another figure."""
    page = Page(browser, address, "04_cyclic_lr.ipynb")
    index = page.find("interact(")
    page.go_to(index)
    page.menu("Run", "Run All Above Selected Cell")
    page.wait_until_run(before=index)
    page.go_to(index)
    page.run_active_cell()
    page.wait_until_run(before=index + 1)
    inside = ".widget-output img"
    first = page.wait(lambda: page.image(index, inside), REACT, "the explorer's figure")
    page.photograph("explorer")
    handles = browser.find_elements(By.CSS_SELECTOR, ".widget-slider .noUi-handle")
    assert len(handles) == 3
    readouts = [e.text for e in browser.find_elements(By.CSS_SELECTOR, ".widget-readout")]
    assert readouts[0] == "200"
    handles[0].send_keys(Keys.ARROW_RIGHT)
    page.wait(lambda: page.image(index, inside) not in (None, first), REACT, "another figure")
    assert browser.find_element(By.CSS_SELECTOR, ".widget-readout").text == "201"
    page.photograph("explorer-moved")


def test_the_progress_bar(browser, address: str):
    """Lesson 05's training shows a bar while it runs, a line an epoch, and no bar afterwards."""
    page = Page(browser, address, "05_training.ipynb")
    index = page.find("history = fit(\n    model, course.data.train")
    page.go_to(index)
    page.menu("Run", "Run All Above Selected Cell")
    page.wait_until_run(before=index)
    page.go_to(index)
    browser.execute_script(WATCH, index)
    page.run_active_cell()
    bar = re.compile(r"epoch \d+/\d+: +\d+%")
    shown = "return window.shown"
    page.wait(lambda: bar.search("".join(browser.execute_script(shown))), RUN, "the bar", 0.05)
    page.photograph("bar")
    page.wait_until_run(before=index + 1)

    def only_lines() -> bool:
        last = browser.execute_script(shown)[-1]
        lines = re.findall(r"^epoch +\d+ ", last, re.M)
        return len(lines) == PROFILES["smoke"].epochs and not bar.search(last)

    page.wait(only_lines, REACT, "one line an epoch and no bar")
    page.photograph("trained")


def test_the_slides(browser, tmp_path: Path):
    """Printed, no slide of lesson 05 is cut off. An arrow scrolls a slide too long for the screen
    before it turns the page; the keyboard's focus is on the slide that is shown."""
    paths = [next((ROOT / "notebooks").glob(f"{number}_*.ipynb")) for number in ("02", "05")]
    editions.write_slides(paths, tmp_path / "out")
    long, printed = sorted((tmp_path / "out").iterdir())
    browser.get(printed.as_uri())
    print_it = """
    dispatchEvent(new Event("beforeprint"));
    document.documentElement.classList.remove("js");  // as on paper: all at once
    const high = slides.map(slide => slide.scrollHeight - slide.clientHeight);
    const smaller = slides.filter(slide => slide.style.fontSize != "100%");
    return [high.filter(over => over > 1).length, smaller.length];
    """
    cut_off, smaller = browser.execute_script(print_it)
    assert cut_off == 0 and smaller > 3

    browser.get(long.as_uri())
    find = """
    const tall = slide => slide.scrollHeight > slide.clientHeight + 1;
    for (let n = 0; n < slides.length; n++) { show(n); if (tall(slides[n])) return n; }
    """
    number = browser.execute_script(find)
    state = "return [now, slides[now].scrollTop > 0, document.activeElement === slides[now]]"
    assert browser.execute_script(state) == [number, False, True]
    ActionChains(browser).send_keys(Keys.ARROW_DOWN).perform()
    deadline = time.monotonic() + REACT
    while browser.execute_script(state) != [number, True, True] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert browser.execute_script(state) == [number, True, True]
    shift_space = ActionChains(browser).key_down(Keys.SHIFT).send_keys(" ").key_up(Keys.SHIFT)
    shift_space.perform()
    assert browser.execute_script(state) == [number - 1, False, True]
