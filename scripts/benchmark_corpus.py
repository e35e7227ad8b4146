"""Compare `captioner corpus` and `captioner caption`: scripts/benchmark.py corpus --photos 2000.

Measures whole commands, including their start, and a corpus where Ray is already running, as on a
cluster, whose workers still load the model.
"""

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median

from captioner.corpus.cluster import Workers, connected
from captioner.corpus.run import Corpus, Model, caption_corpus
from captioner.errors import ConfigError
from captioner.images import find_images
from scripts.benchmark import BEAMS, ROOT, Row, in_turn, timed

PHOTOS = 300  # the default

PLAIN, WHOLE, RUNNING = (
    "captioner caption",
    "captioner corpus, Ray's start included",
    "captioner corpus, Ray running",
)
_BLOCKS = 4  # per core, so that none is idle for long at the end


def corpus(options: argparse.Namespace) -> tuple[str, list[Row]]:
    """Return images per second of each way, and as a share of the plain command's."""
    found = list(find_images(options.images or ROOT / "examples"))
    if not found:
        raise ConfigError(f"{options.images} has no images.")
    with tempfile.TemporaryDirectory(prefix="captioner-benchmark-") as place:
        photos, output = Path(place, "photos"), Path(place, "output")
        photos.mkdir()
        for number, path in enumerate(islice(cycle(found), options.photos or PHOTOS)):
            shutil.copy(path, photos / f"{number:07}{path.suffix}")
        with connected(None, Workers()):
            seconds = in_turn(_cases(options, photos, output), options.repeat or 3)
    rows: list[Row] = []
    for name, taken in seconds.items():
        share = median(a / b for a, b in zip(seconds[PLAIN], taken, strict=True))
        rows.append({"": name, "images/s": 1 / median(taken), "of the plain command": share})
    return f"Corpus: {options.photos or PHOTOS} images of {len(found)}, beam {BEAMS}", rows


def _cases(
    options: argparse.Namespace, photos: Path, output: Path
) -> dict[str, Callable[[], float]]:
    block_size = math.ceil((options.photos or PHOTOS) / (_BLOCKS * (os.cpu_count() or 1)))
    model = ["--model", str(options.model)] if options.model else []
    plain = ["caption", str(photos), "--output", str(output.with_suffix(".tsv"))]
    whole = ["corpus", str(photos), "--output", str(output), "--block-size", str(block_size)]

    def command(arguments: list[str]) -> None:
        call = [sys.executable, "-m", "captioner", *arguments, *model, "--beam-size", str(BEAMS)]
        subprocess.run(call, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)

    def running() -> None:
        caption_corpus(
            Corpus(str(photos), block_size=block_size),
            str(output),
            Model(options.model and [options.model], decoding={"beam_size": BEAMS}),
        )

    def anew(action: Callable[[], None]) -> float:
        shutil.rmtree(output, ignore_errors=True)
        for left in output.parent.glob("output.tsv*"):
            left.unlink()
        return timed(action, options.photos or PHOTOS)

    actions = {PLAIN: partial(command, plain), WHOLE: partial(command, whole), RUNNING: running}
    return {name: partial(anew, action) for name, action in actions.items()}
