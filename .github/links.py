"""Asks every address in the prose whether it still answers. Standard library only.

    python .github/links.py [FILE ...]

Without files: all Markdown and all Markdown cells of the notebooks. Fails when a page is gone or
its host does not answer; a host that refuses machines (403, 429, ...) is only named.
"""

import http.client
import json
import re
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UNASKED = ("OWNER/REPO", "//192.168.")  # not set yet; an example of a room's own server
GONE = (404, 410)
# Up to white space, a quote, a bracket or what Markdown puts behind an address.
ADDRESS = re.compile(r"https?://(?:[^\s<>\"'`\[\]{}|\\^()]|\([^\s()]*\))+")


def prose(path: Path) -> str:
    """A Markdown file, or the Markdown cells of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "markdown"]
    return "\n".join("".join(cell["source"]) for cell in cells)


def addresses(paths: list[Path]) -> dict[str, list[str]]:
    """Address (without its #part) -> the names of the files it stands in."""
    found = defaultdict(list)
    for path in paths:
        for match in sorted(set(ADDRESS.findall(prose(path)))):
            address = match.rstrip(".,;:!?*_").split("#")[0]
            if path.name not in found[address]:
                found[address].append(path.name)
    return dict(found)


def ask(address: str, tries: int = 3, timeout: float = 20.0, pause: float = 5.0) -> str:
    """Nothing where the page is there, "gone: ..." where not, "unsure: ..." where none can say."""
    headers = {"User-Agent": "Mozilla/5.0 (link check of a course)", "Accept": "*/*"}
    for left in reversed(range(tries)):
        try:
            request = urllib.request.Request(address, headers=headers)
            with urllib.request.urlopen(request, timeout=timeout):
                return ""
        except urllib.error.HTTPError as error:
            if error.code in GONE:
                return f"gone: answers {error.code}"
            reason = f"unsure: answers {error.code}"
        except http.client.HTTPException as error:
            reason = f"unsure: {type(error).__name__}"
        except (OSError, ValueError) as error:
            reason = f"gone: {getattr(error, 'reason', error)}"
        if left:
            time.sleep(pause)
    return reason


def check(paths: list[Path], **how) -> int:
    """Print what does not answer and where it stands; the number of addresses that are gone."""
    found = addresses(paths)
    skipped = [address for address in found if any(part in address for part in UNASKED)]
    asked = sorted(set(found) - set(skipped))
    with ThreadPoolExecutor(8) as pool:
        answers = dict(zip(asked, pool.map(lambda a: ask(a, **how), asked), strict=True))
    for address, answer in answers.items():
        if answer:
            print(f"{answer}\n  {address}\n  in {', '.join(found[address])}")
    gone = sum(answer.startswith("gone") for answer in answers.values())
    unsure = sum(answer.startswith("unsure") for answer in answers.values())
    print(f"{len(asked)} addresses: {gone} gone, {unsure} unsure; {len(skipped)} not asked")
    return gone


if __name__ == "__main__":
    notebooks = ROOT / "notebooks"
    everything = [*ROOT.glob("*.md"), *notebooks.glob("*.md"), *notebooks.glob("*.ipynb")]
    sys.exit(bool(check([Path(name) for name in sys.argv[1:]] or sorted(everything))))
