"""Drawing the built-in shapes in chunks against one at a time: `{"ratio": ...}`.

Both draw the same images and take turns, A B A B, in one process; the ratio is the median over the
rounds. The images per second are of processor time, whatever else the machine does.
"""

import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from helpers.shapes import draw  # noqa: E402

ROUNDS, IMAGES = 7, 1000


def images_per_second(chunk: int) -> float:
    start = time.process_time()
    for first in range(0, IMAGES, chunk):
        draw(range(first, first + chunk))
    return IMAGES / (time.process_time() - start)


def main() -> None:
    rounds = []
    print("images/s: one at a time | in chunks")
    for number in range(ROUNDS + 1):
        rates = images_per_second(1), images_per_second(IMAGES)
        if number:  # the first round warms up
            rounds.append(rates)
            print("".join(f"{rate:12,.0f}" for rate in rates))
    single, chunks = (round(statistics.median(column)) for column in zip(*rounds, strict=True))
    ratio = round(statistics.median(many / one for one, many in rounds), 2)
    print(json.dumps({"ratio": ratio, "images_per_second": chunks, "one_at_a_time": single}))


if __name__ == "__main__":
    main()
