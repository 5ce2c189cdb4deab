"""No code of strangers runs: no pickle, no shell, no unpacking by the archive's own wishes.

What is refused in an archive is in test_download.py; links out of a folder of pictures and altered
CIFAR-10 files are in test_data.py. Here: that nobody goes around what those tests hold.
"""

import ast
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).resolve().parents[1]
COURSE = [
    *ROOT.glob("helpers/**/*.py"),
    *ROOT.glob(".github/*.py"),
    *ROOT.glob("notebooks/*.ipynb"),
]
TESTS = [ROOT / "conftest.py", *ROOT.glob("tests/**/*.py")]
# Each of them runs what a file or a string says, or unpacks to where an archive says.
REFUSED = {
    *("eval", "exec", "os.system", "os.popen", "get_ipython().system", "get_ipython().getoutput"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "shutil.unpack_archive"),
    *("joblib.load", "pandas.read_pickle", "torch.hub.load", "yaml.load", "subprocess.getoutput"),
}


def calls(text: str) -> list[tuple[str, ast.Call]]:
    """Every call in it with the name as written, also of `!command` lines in a cell."""
    tree = ast.parse(TransformerManager().transform_cell(text))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [(ast.unparse(node.func), node) for node in nodes]


def faults(text: str, course: bool = True) -> list[str]:
    """What is wrong with this code; `course`: not a test, which may unpickle what it pickled."""
    found = []
    for name, node in calls(text):
        told = {key.arg: ast.unparse(key.value) for key in node.keywords}
        first = node.args[0] if node.args else None
        if name.endswith("torch.load") and told.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if told.get("shell") not in (None, "False"):
            found.append("shell=")
        if told.get("allow_pickle") not in (None, "False"):
            found.append("allow_pickle=")
        if name.startswith("subprocess.") and isinstance(first, ast.JoinedStr | ast.Constant):
            found.append(f"{name} of a string")
        if course and (name in REFUSED or name.endswith((".extractall", ".extract"))):
            found.append(name)
    return found


def sources(path: Path) -> list[str]:
    if path.suffix == ".py":
        return [path.read_text("utf-8")]
    return [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


@pytest.mark.parametrize("path", COURSE + TESTS, ids=lambda path: path.name)
def test_nothing_runs_what_a_file_says(path: Path):
    found = [fault for text in sources(path) for fault in faults(text, path in COURSE)]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "subprocess.run(f'ls {name}')",
        "os.system(text)",
        "!ls {name}",
        "files = !ls",
        "pickle.load(file)",
        "tar.extractall(folder)",
        "eval(text)",
    ],
)
def test_it_would_be_noticed(code: str):
    assert faults(code)
