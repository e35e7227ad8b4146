"""Compare captioner with the alternatives: scripts/benchmark.py peers --rows blip.

Each captioner runs in its own processes (`scripts.peers`), one after the other: the first writes
random weights, the second loads them and captions. The time to the first caption is measured from
the start of the second process, including imports and loading, with its files in the page cache.
The speed is measured after that. The rows of transformers require: pip install transformers.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path

from captioner.checkpoint import WEIGHTS, read_checkpoint
from captioner.errors import CaptionerError, ConfigError
from captioner.images import find_images
from scripts.benchmark import ROOT, Row, cells
from scripts.pages import check_markers, markdown_table, write_between
from scripts.peers import FIRST, PEERS, TOKENS, Peer

MARKERS = "peers"


class LeftOut(CaptionerError):
    """A captioner cannot be measured here."""


def peers(options: argparse.Namespace) -> tuple[str, list[Row]]:
    """Measure speed, start, memory and size of each captioner; write them to the `--docs` page."""
    names = options.rows.split(",") if options.rows else list(PEERS)
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise ConfigError(f"--rows has {', '.join(unknown)}; expected some of {', '.join(PEERS)}.")
    if options.docs:
        check_markers(options.docs, MARKERS)
    folder = options.images or ROOT / "examples"
    found = list(find_images(folder))
    if not found:
        raise ConfigError(f"{folder} has no images.")
    model = read_checkpoint(options.model).folder
    rows: list[Row] = []
    for name in names:
        count = max(options.count, PEERS[name].batch)
        try:
            rows.append(measure(name, model, list(islice(cycle(found), count))))
        except LeftOut as error:
            print(f"left out: {PEERS[name].title}: {error}", file=sys.stderr)
        if options.docs and rows:
            # at once: all rows take minutes
            write_between(options.docs, MARKERS, markdown_table(cells(rows)))
    if not rows:
        raise ConfigError("None of the rows can be measured here.")
    return f"Peers: captions of {TOKENS} tokens, {options.count} images or one batch", rows


def measure(name: str, model: Path, photos: Sequence[Path]) -> Row:
    """Run one captioner on photos.

    Raises:
        LeftOut: Its packages are missing, or too old to know it.
    """
    peer = PEERS[name]
    missing = [package for package in peer.packages if find_spec(package) is None]
    if missing:
        raise LeftOut(f"needs {' and '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="captioner-benchmark-") as place:
        folder = Path(place) if peer.save else model
        weights = int(run("save", name, place)) if peer.save else count_weights(model)
        seconds, figures = caption(name, folder, photos)
    return row(peer, weights, seconds, json.loads(figures))


def row(peer: Peer, weights: int, seconds: float, figures: dict[str, float]) -> Row:
    """Put the figures of one captioner into a row."""
    return {
        "": peer.title,
        "beams": peer.beams,
        "batch": peer.batch,
        "images/s": figures["images/s"],
        "first caption, s": seconds,
        "peak memory, MB": figures["peak MB"],
        "weights, MB": weights * peer.bytes / 1e6,
    }


def run(*args: str) -> str:
    """Run `scripts.peers`, and return the last line that it prints."""
    done = subprocess.run(command(*args), cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LeftOut(last_line(done.stderr))
    return last_line(done.stdout)


def caption(name: str, folder: Path, photos: Sequence[Path]) -> tuple[float, str]:
    """Run one captioner; return the seconds to its first caption, and its last line."""
    call = command("caption", name, str(folder), *map(str, (path.resolve() for path in photos)))
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        with subprocess.Popen(
            call, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            assert process.stdout is not None
            seconds, line = float("nan"), ""
            for line in process.stdout:
                if line.strip() == FIRST:
                    seconds = time.perf_counter() - start
        if process.returncode:
            errors.seek(0)
            raise LeftOut(last_line(errors.read()))
    return seconds, line


def command(*args: str) -> list[str]:
    """Return the command line of `scripts.peers`."""
    return [sys.executable, "-m", "scripts.peers", *args]


def last_line(text: str) -> str:
    """Return the last non-empty line."""
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["no output"])[-1]


def count_weights(folder: Path) -> int:
    """Count the weights of a checkpoint folder from the header of their file."""
    with (folder / WEIGHTS).open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            start, end = tensor["data_offsets"]
            total += (end - start) // 2 if tensor["dtype"] == "F16" else (end - start) // 4
    return total
