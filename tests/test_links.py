"""The link check, against a server of our own."""

import importlib.util
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / ".github" / "links.py"
spec = importlib.util.spec_from_file_location("links", SCRIPT)
links = importlib.util.module_from_spec(spec)
spec.loader.exec_module(links)


class Pages(BaseHTTPRequestHandler):
    """/200, /404 ... answer so; /moved leads to /200; /busy is there the second time."""

    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.path)
        if self.path == "/moved":
            self.send_response(301)
            self.send_header("Location", "/200")
        elif self.path == "/garbage":
            self.wfile.write(b"no answer that HTTP knows\r\n")
            return
        elif self.path == "/busy":
            self.send_response(503 if self.asked.count("/busy") == 1 else 200)
        else:
            self.send_response(int(self.path.strip("/")))
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Pages.asked = []
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("page", "answer"),
    [
        ("200", ""),
        ("moved", ""),
        ("busy", ""),
        ("404", "gone: answers 404"),
        ("410", "gone: answers 410"),
        ("403", "unsure: answers 403"),
        ("429", "unsure: answers 429"),
        ("500", "unsure: answers 500"),
        ("garbage", "unsure: BadStatusLine"),
    ],
)
def test_answers(site: str, page: str, answer: str):
    assert links.ask(f"{site}/{page}", tries=2, pause=0) == answer
    assert len(Pages.asked) == (
        2 if page in ("busy", "moved", "403", "429", "500", "garbage") else 1
    )


def test_no_host(site: str):
    closed = "http://127.0.0.1:9/x"
    assert links.ask(closed, tries=1).startswith("gone: ")
    assert links.ask("http://no-such-host.invalid/", tries=1).startswith("gone: ")


def test_addresses_of_prose(tmp_path: Path):
    page = tmp_path / "a.md"
    page.write_text(
        "See [x](https://a.org/b#part), <https://a.org/c>. And https://a.org/d_(e).\n"
        "[![badge](https://a.org/s.svg)](https://a.org/t) `https://a.org/code`; a/file.md\n"
    )
    cells = [
        {"cell_type": "markdown", "source": ["[y](https://a.org/b)\n", "https://a.org/f, too"]},
        {"cell_type": "code", "source": ["get('https://a.org/in-code')"]},
    ]
    notebook = tmp_path / "n.ipynb"
    notebook.write_text(json.dumps({"cells": cells}))
    found = links.addresses([page, notebook])
    names = ("b", "c", "code", "d_(e)", "f", "s.svg", "t")
    assert sorted(found) == [f"https://a.org/{name}" for name in names]
    assert found["https://a.org/b"] == ["a.md", "n.ipynb"]


def test_check_names_what_is_gone_and_where(site: str, tmp_path: Path, capsys):
    page = tmp_path / "a.md"
    skipped = "https://github.com/OWNER/REPO http://192.168.1.10:8000/x"
    page.write_text(f"{site}/404 {site}/403 {site}/200 {skipped}")
    assert links.check([page], tries=1) == 1
    shown = capsys.readouterr().out
    assert f"gone: answers 404\n  {site}/404\n  in a.md" in shown
    assert "3 addresses: 1 gone, 1 unsure; 2 not asked" in shown
    page.write_text(f"{site}/403 {site}/200")
    assert links.check([page], tries=1) == 0
