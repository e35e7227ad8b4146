"""Benchmarks: python scripts/benchmark.py [PART] [--model DIR] [--images DIR] ...

The cases of a comparison run alternately, round after round, so that temporary load slows all of
them alike; the results are medians over the rounds. Training and the rows about torch require the
extra `train`. Options such as --data.KEY=VALUE, --model.KEY=VALUE or --trainer.KEY=VALUE change the
training config.
"""

import argparse
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from statistics import mean, median
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch on huge pages, as in `captioner train`

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))  # a script finds only its own folder

from captioner.checkpoint import read_checkpoint
from captioner.errors import CaptionerError, ConfigError, MissingExtraError
from captioner.files import check_folder_of
from captioner.images import find_images, open_image
from captioner.inference import Captioner
from scripts.pages import check_markers, markdown_table, write_between

ROOT = Path(__file__).parents[1]
BEAMS = 5
FEW = 8  # images of a round at batch size 1
READ, ENCODER = "read and preprocess, one thread", "encoder alone"
IMPORTS = "import numpy, PIL, onnxruntime"

Case = Callable[[], float]  # runs something once, and returns the seconds per item
Row = dict[str, str | float | None]
Part = Callable[[argparse.Namespace], tuple[str, list[Row]]]


def main(args: Sequence[str] | None = None) -> int:
    """Run the requested parts, print a table for each, and optionally write all results to a file.

    Args:
        args: The arguments; those of the process by default.

    Returns:
        The exit status: 0, or 2 after a user's mistake.
    """
    options = parse(args)
    results: dict[str, Any] = {"machine": machine()}
    print("\n".join(f"{name:10} {fact}" for name, fact in results["machine"].items()))
    try:
        if options.json:
            check_folder_of(options.json)  # parts may take hours
        for part in PARTS if options.part == "all" else [options.part]:
            if options.page:
                check_markers(options.page, part)
            title, rows = PARTS[part](options)
            results[part] = {"about": title, "rows": rows}
            print("", title, *table(rows), sep="\n")
            if options.page:
                write_between(options.page, part, f"{title}:\n\n{markdown_table(cells(rows))}")
    except CaptionerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


def machine() -> dict[str, str]:
    """Return the hardware and software that the results depend on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.partition(":")[2].strip()
            for line in info.read_text().splitlines()
            if "model name" in line
        ]
        cpu = names[0] if names else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    names = ["captioner", "numpy", "pillow", "onnxruntime", "torch", "torchvision", "lightning"]
    installed = {
        distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()
    }
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names if name in installed]
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return {
        "CPU": cpu,
        "cores": f"{cores}, load {load}",
        "system": system,
        "packages": ", ".join(versions),
    }


def in_turn(cases: Mapping[Any, Case], rounds: int) -> dict[Any, list[float]]:
    """Run all cases alternately, once to warm up and then `rounds` times; return their seconds."""
    for case in cases.values():
        case()
    measured = [{name: case() for name, case in cases.items()} for _ in range(rounds)]
    return {name: [seconds[name] for seconds in measured] for name in cases}


def timed(action: Callable[[], object], items: int = 1) -> float:
    """Return the seconds that an action takes, per item."""
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) / items


def table(rows: Sequence[Row]) -> list[str]:
    """Format a table with one column per key; text left-aligned, numbers right-aligned."""
    head, *body = cells(rows)
    columns = zip(head, *body, strict=True)
    widths = [max(map(len, column)) for column in columns]
    left = [isinstance(value, str) for value in rows[0].values()]
    rule = ["-" * width for width in widths]
    return [
        "  ".join(
            f"{cell:{'<' if side else '>'}{width}}"
            for cell, width, side in zip(line, widths, left, strict=True)
        )
        for line in (head, rule, *body)
    ]


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """Format rows of a table, the names of its columns first."""
    return [list(rows[0]), *(list(map(formatted, row.values())) for row in rows)]


def formatted(value: str | float | None) -> str:
    """Format a cell of a table."""
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return "" if value is None else str(value)


# --- Inference
# ----------------------------------------------------------------------------


def inference(options: argparse.Namespace) -> tuple[str, list[Row]]:
    """Measure images per second of each stage and end to end, by batch size and backend."""
    backends = ["onnx", *(name for name in ("openvino", "torch") if find_spec(name))]
    captioners = {name: Captioner.from_pretrained(options.model, backend=name) for name in backends}
    preprocessing = captioners["onnx"].preprocessing
    folder = options.images or ROOT / "examples"
    found = list(find_images(folder))
    if not found:
        raise ConfigError(f"{folder} has no images.")
    largest = options.batch_size or 32
    paths = list(islice(cycle(found), 4 * max(largest, FEW)))
    some = paths[: max(largest, FEW)]

    def read() -> list[np.ndarray]:
        return [preprocessing(open_image(path, min_size=preprocessing.size)) for path in some]

    pixels = np.stack(read())
    cases: dict[tuple[int, str, str], Case] = {(1, READ, ""): lambda: timed(read, len(some))}
    for batch_size in sorted({1, largest}):
        chosen = (pixels[:FEW], paths[:FEW]) if batch_size == 1 else (pixels, paths)
        for name, captioner in captioners.items():
            for what, case in inference_cases(captioner, *chosen, batch_size).items():
                cases[batch_size, what, name] = case
    seconds = in_turn(cases, options.repeat or 7)
    words = mean(
        len(caption.words) for caption in captioners["onnx"].caption(some, beam_size=BEAMS)
    )
    return f"Inference: {len(found)} images, captions of {words:.1f} words", inference_rows(seconds)


def inference_cases(
    captioner: Captioner, pixels: np.ndarray, paths: list[Path], batch_size: int
) -> dict[str, Case]:
    """Return the cases of one backend at one batch size."""
    batches = [pixels[start : start + batch_size] for start in range(0, len(pixels), batch_size)]

    def encode() -> float:
        return timed(lambda: [captioner.backend.encode(batch) for batch in batches], len(pixels))

    def decode() -> float:
        encoded = [captioner.backend.encode(batch) for batch in batches]
        return timed(
            lambda: [captioner.decode(stepper, beam_size=BEAMS) for stepper in encoded], len(pixels)
        )

    def caption(beam_size: int) -> float:
        return timed(
            lambda: captioner.caption(paths, batch_size=batch_size, beam_size=beam_size), len(paths)
        )

    return {
        ENCODER: encode,
        f"decoder alone, beam {BEAMS}": decode,
        f"file to caption, beam {BEAMS}": partial(caption, BEAMS),
        "file to caption, greedy": partial(caption, 1),
    }


def inference_rows(seconds: Mapping[tuple[int, str, str], list[float]]) -> list[Row]:
    """Return images/s, and the speed relative to the encoder alone (median over rounds)."""
    rows: list[Row] = []
    for (batch_size, what, backend), taken in sorted(seconds.items(), key=lambda item: item[0][0]):
        alone = seconds.get((batch_size, ENCODER, backend), [])
        share = (
            median(one / all_ for one, all_ in zip(alone, taken, strict=True)) if alone else None
        )
        row: Row = {
            "": what,
            "backend": backend,
            "batch": batch_size,
            "images/s": 1 / median(taken),
        }
        rows.append({**row, "of encoder": share})
    return rows


# --- Start
# ----------------------------------------------------------------------------


def start(options: argparse.Namespace) -> tuple[str, list[Row]]:
    """Measure the running time of commands, and of the minimal imports for captioning.

    Captioning is measured by ONNX Runtime and, where it is installed, by OpenVINO.
    """
    read_checkpoint(options.model)  # fails early if it is damaged
    image = next(find_images(ROOT / "examples")).relative_to(ROOT)
    model = ["--model", str(options.model)] if options.model else []
    backends = ["onnx", *(["openvino"] if find_spec("openvino") else [])]
    captioning = {name: f"captioner caption {image} --backend {name}" for name in backends}
    commands = {
        "captioner --help": ["-m", "captioner", "--help"],
        IMPORTS: ["-c", IMPORTS],
        **{command: ["-m", *command.split(), *model] for command in captioning.values()},
    }
    run = partial(subprocess.run, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    cases = {
        name: partial(timed, partial(run, [sys.executable, *command]))
        for name, command in commands.items()
    }
    seconds = in_turn(cases, options.repeat or 7)
    rows: list[Row] = [{"": name, "seconds": median(taken)} for name, taken in seconds.items()]
    for backend, command in captioning.items():
        beyond = (
            whole - part for whole, part in zip(seconds[command], seconds[IMPORTS], strict=True)
        )
        rows.append({"": f"{backend}, beyond the imports", "seconds": median(beyond)})
    return "Start", rows


def _in(module: str, part: str, needs: tuple[str, str, str] | None = None) -> Part:
    """Return a part that has its own module, which is imported when the part runs.

    Args:
        module: The module in scripts/.
        part: The name of its function.
        needs: A package that it requires, the purpose of the package, and the extra with it.
    """

    def run(options: argparse.Namespace) -> tuple[str, list[Row]]:
        if needs is not None and find_spec(needs[0]) is None:
            raise MissingExtraError(*needs[1:])
        run_part: Part = getattr(import_module(f"scripts.{module}"), part)
        return run_part(options)

    return run


PARTS: dict[str, Part] = {
    "inference": inference,
    "training": _in("benchmark_training", "training", ("lightning", "Training", "train")),
    "start": start,
    "attention": _in("benchmark_attention", "attention"),
    "metrics": _in("benchmark_metrics", "metrics"),
    "corpus": _in("benchmark_corpus", "corpus", ("ray", "Captioning a corpus", "ray")),
    "video": _in("benchmark_video", "video"),
    "shots": _in("benchmark_video", "shots"),
    "engines": _in("benchmark_engines", "engines"),
    "robustness": _in("benchmark_robustness", "robustness"),
    "adversarial": _in(
        "benchmark_adversarial", "adversarial", ("torch", "Attacking photos", "train")
    ),
    "peers": _in("benchmark_peers", "peers"),
    "continual": _in("benchmark_continual", "continual", ("lightning", "Training", "train")),
}


def _count(text: str) -> int:
    """Read a number of things, of which there is at least one."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is too few; expected 1 or more")
    return number


def _minutes(text: str) -> float:
    """Read the length of a clip that is drawn."""
    if not 0 < (minutes := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no length; expected more than 0")
    return minutes


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; changes to the training config are in `changes`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument(
        "part", nargs="?", choices=[*PARTS, "all"], default="all", help="what to measure [all]"
    )
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="checkpoint folder [the bundled model]"
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="images to caption [examples/] or to train on"
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="annotations to train on or score [drawn photos, COCO]",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=ROOT / "configs/flickr8k.yaml",
        help="of training",
    )
    parser.add_argument(
        "--photos",
        type=_count,
        metavar="N",
        help="number of photos: at most, for attention [300], corpus [300], robustness [60],"
        " adversarial [10]; per domain, for continual [300]",
    )
    parser.add_argument(
        "--minutes",
        type=_minutes,
        metavar="N",
        default=60,
        help="minutes of the long clip of video [60]",
    )
    parser.add_argument(
        "--short",
        type=_minutes,
        metavar="N",
        default=1,
        help="minutes of the short clips of video [1]",
    )
    parser.add_argument(
        "--clips", type=_count, metavar="N", default=20, help="clips to draw for shots [20]"
    )
    parser.add_argument(
        "--film-shots", type=_count, metavar="N", default=8, help="shots in each of these clips [8]"
    )
    parser.add_argument(
        "--damages",
        metavar="NAMES",
        help="damages for robustness: all, groups or names, separated by commas",
    )
    parser.add_argument(
        "--severities", metavar="NUMBERS", default="1,3,5", help="severities for robustness [1,3,5]"
    )
    parser.add_argument(
        "--domains",
        type=Path,
        metavar="FILE",
        help="domains for continual: a YAML file, see its page",
    )
    parser.add_argument(
        "--sequence",
        metavar="NAMES",
        default="shapes,digits",
        help="domains that it learns, in order",
    )
    parser.add_argument(
        "--methods", metavar="NAMES", help="methods for continual, separated by commas [all]"
    )
    parser.add_argument(
        "--epochs", type=_count, metavar="N", default=3, help="epochs per domain of continual [3]"
    )
    parser.add_argument(
        "--scored",
        type=_count,
        metavar="N",
        default=100,
        help="photos of each domain to score [100]",
    )
    parser.add_argument("--seed", type=int, metavar="N", default=0, help="random seed [0]")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="output folder of robustness, continual"
    )
    parser.add_argument("--target", metavar="SENTENCE", help="target caption of adversarial photos")
    parser.add_argument("--repeat", type=_count, metavar="N", help="rounds [7, for training 3]")
    parser.add_argument(
        "--steps", type=_count, metavar="N", default=4, help="training steps per round [4]"
    )
    parser.add_argument(
        "--batch-size",
        type=_count,
        metavar="N",
        help="batch size of inference, besides 1 [32], or of training",
    )
    parser.add_argument(
        "--int8", type=Path, metavar="DIR", help="a quantized copy of the model, for engines"
    )
    parser.add_argument(
        "--page",
        type=Path,
        metavar="FILE",
        help="write the tables between the markers in this page",
    )
    parser.add_argument(
        "--rows", metavar="NAMES", help="peers to measure, separated by commas [all]"
    )
    parser.add_argument("--count", type=_count, metavar="N", default=4, help="images per peer [4]")
    parser.add_argument(
        "--docs", type=Path, metavar="FILE", help="write the table of peers to this page"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file")
    options, options.changes = parser.parse_known_args(args)
    for change in options.changes:
        if options.part not in ("training", "continual", "all") or not re.fullmatch(
            r"--(data|model|trainer)\..+=.*", change
        ):
            parser.error(f"unrecognized argument: {change}")
    return options


if __name__ == "__main__":
    sys.exit(main())
