"""The part `training` of scripts/benchmark.py: training compared with a plain loop; a profile.

Ours is the Trainer's own run of a config with all callbacks: `Feed` passes it its batches and
measures the time. Each round is a new run, whose first steps are not counted; no loader processes
of other cases run at the same time.
"""

import gc
import json
import logging
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, cycle, islice, repeat
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch.utils.data import DataLoader

from captioner.annotations.records import Record, load_records
from captioner.data.datamodule import CaptionData
from captioner.images import find_images, open_image
from captioner.training import fast_encoder
from captioner.training.lightning_module import CaptioningModule
from captioner.training.precision import resolve_precision
from captioner.training.train import TrainCLI
from captioner.vocabulary import PAD
from scripts import plain_loop

EXAMPLES = Path(__file__).parents[1] / "examples"
COCO = 113_287  # training images of COCO 2014 in Karpathy's splits
PHOTOS, SIDES, QUALITY = (
    48,
    (640, 480),
    98,
)  # of drawn JPEGs: COCO's sides, and files almost as large as its 160 kB
WORDS = 10_000  # about COCO's vocabulary
# more warm-up steps: on a CPU, torch creates kernels for each new number of rows
SETTLE = 8
KEPT = 16  # batches that are reused, to measure training without loading

PLAIN, PLAIN_SAME = "plain loop, encoder frozen", "plain loop, frozen, in our precision"
STORED = "plain loop, frozen, images resized before"
CACHED, COMPUTED = "ours, frozen, features cached", "ours, frozen, computing them included"
READ = "ours, frozen, images read"
PLAIN_TUNED, TUNED = "plain loop, fine-tuned", "ours, fine-tuned"

Row = dict[str, str | float | None]
Figures = dict[str, float]  # of a run: seconds per step of each timed part, and other results
Case = Callable[[], Figures]


@dataclass(frozen=True)
class Plan:
    """The plan of a measurement.

    Attributes:
        arguments: The arguments of the config and the command line, changed for the measurement.
        config: The parsed config.
        warm_up: Steps before timing starts: they consume the prefetched batches.
        steps: Timed steps of ours; the plain loop, which is several times slower, runs half as
            many.
        images: A description of the images.
    """

    arguments: list[str]
    config: Any
    warm_up: int
    steps: int
    images: str

    @property
    def batch_size(self) -> int:
        """Images per step; a step of the plain loop has as many captions as these."""
        return int(self.config.data.batch_size)

    @property
    def epochs(self) -> tuple[int, int]:
        """Epochs with the encoder frozen, and with it fine-tuned."""
        epochs, finetune = self.config.trainer.max_epochs or 1, self.config.model.finetune
        frozen = min(epochs, finetune.from_epoch) if finetune.stages else epochs
        return frozen, epochs - frozen


def training(options: Namespace) -> tuple[str, list[Row]]:
    """Measure captions/s and images/s of training and of the plain loop in turn; estimate a run.

    Args:
        options: The parsed command line.

    Returns:
        A description of the measurement, and the rows of a table.
    """
    few = fast_encoder.WORTHWHILE
    fast_encoder.WORTHWHILE = 0  # whole runs are long enough, unlike the measured ones
    logging.disable(logging.WARNING)  # Lightning's warnings about its environment, irrelevant here
    try:
        with TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plan = make_plan(options, Path(folder))
            cases = make_cases(plan, Path(folder))
            rounds = [
                {name: case() for name, case in cases.items()} for _ in range(options.repeat or 3)
            ]
    finally:
        logging.disable(logging.NOTSET)
        fast_encoder.WORTHWHILE = few
    for figures in rounds:
        if CACHED in figures and plan.epochs[0]:
            computing = figures[CACHED]["features"] * plan.batch_size / plan.epochs[0]
            both = {
                "together": figures[CACHED]["together"] + computing,
                "step": 0.0,
                "loading": 0.0,
            }
            figures[COMPUTED] = figures[CACHED] | both
    return about(plan, rounds, options.config.name), rows(plan, rounds)


def make_plan(options: Namespace, folder: Path) -> Plan:
    """Read the config, and write as much data as it needs, given or drawn.

    Args:
        options: The parsed command line.
        folder: The folder for the data.
    """
    asked = [f"--config={options.config}", *options.changes]
    if options.batch_size:
        asked.append(f"--data.batch_size={options.batch_size}")
    config = _OnlyRead(
        CaptioningModule, CaptionData, save_config_callback=None, args=asked, run=False
    ).config
    warm_up = 2 + 2 * config.data.workers
    count = config.data.batch_size * (warm_up + SETTLE + options.steps)
    if options.annotations is None:
        records = draw_photos(folder, count)
        size = mean(path.stat().st_size for path in folder.iterdir()) / 1000
        images = f"{count} drawn images, JPEGs of {SIDES[0]} x {SIDES[1]} pixels and {size:.0f} kB"
    else:
        records = load_records(options.annotations, options.images, "train")[:count]
        images = f"{len(records)} images of {options.annotations.name}"
    _write(folder / "captions.json", records)
    changes = {
        "data": (
            {
                "train": folder / "captions.json",
                "val": folder / "captions.json",
                "val_images": "null",
            }
            | {
                "train_images": folder,
                "min_count": 1,
                "draw_shapes": 0,
                "sources": "{}",
                "validation": "{}",
            }
        ),
        "model": {"weights": "null"},
        "trainer": (
            {"max_epochs": 1, "max_steps": SETTLE + 2 * (warm_up + options.steps) + 1}
            | {"default_root_dir": folder / "run", "logger": "false", "limit_val_batches": 0}
            | {"enable_progress_bar": "false", "enable_model_summary": "false"}
        ),
    }
    measured = [
        f"--{group}.{key}={value}"
        for group, changed in changes.items()
        for key, value in changed.items()
    ]
    return Plan([*asked, *measured], config, warm_up, options.steps, images)


class _OnlyRead(TrainCLI):
    """Reads a config and builds nothing."""

    def instantiate_classes(self) -> None:
        pass


def draw_photos(folder: Path, count: int) -> list[Record]:
    """Draw images like COCO's: crops of example photos, with five random sentences each.

    Args:
        folder: The folder for the files, at most `PHOTOS`.
        count: The number of records; several records share a file.
    """
    rng = np.random.default_rng(0)
    sources = [open_image(path) for path in find_images(EXAMPLES)]
    paths = [folder / f"{number}.jpg" for number in range(min(PHOTOS, count))]
    for number, path in enumerate(paths):
        image = sources[number % len(sources)]
        width = min(image.width, image.height * SIDES[0] / SIDES[1]) * rng.uniform(0.6, 1)
        height = width * SIDES[1] / SIDES[0]
        left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
        photo = image.resize(
            SIDES, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height)
        )
        ImageEnhance.Brightness(photo).enhance(rng.uniform(0.7, 1.3)).save(path, quality=QUALITY)
    words = cycle(f"word{number}" for number in range(WORDS))
    lengths = iter(
        np.clip(rng.normal(10.5, 2.4, 5 * count).round().astype(int), 6, 20)
    )  # about COCO's
    return [
        Record(
            number,
            paths[number % len(paths)],
            tuple(" ".join(islice(words, next(lengths))) for _ in range(5)),
        )
        for number in range(count)
    ]


def _write(path: Path, records: Sequence[Record]) -> None:
    images = [
        {"id": number, "file_name": str(record.path.resolve())}
        for number, record in enumerate(records)
    ]
    captions = [
        (number, caption) for number, record in enumerate(records) for caption in record.captions
    ]
    annotations = [
        {"id": i, "image_id": number, "caption": text} for i, (number, text) in enumerate(captions)
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations}), encoding="utf-8")


# --- What runs
# ----------------------------------------------------------------------------


def make_cases(plan: Plan, folder: Path) -> dict[str, Case]:
    """Return the ways of training to measure: the config's, and a frozen encoder without cache."""
    read = "--data.cache_features=0"
    frozen, tuned = ["--model.finetune.stages=[]"], ["--model.finetune.from_epoch=0", read]
    full = "--trainer.precision=32-true"  # as in the tutorial
    cases = {
        name: plain(plan, [*frozen, read, full], stored=name == STORED) for name in (PLAIN, STORED)
    }
    cases[PLAIN_SAME] = plain(plan, [*frozen, read])
    if plan.config.data.cache_features:
        cases[CACHED] = partial(ours, plan, folder, frozen)
    cases[READ] = partial(ours, plan, folder, [*frozen, read])
    if plan.config.model.finetune.stages:
        cases |= {
            PLAIN_TUNED: plain(plan, [*tuned, full]),
            TUNED: partial(ours, plan, folder, tuned),
        }
    return cases


def build(plan: Plan, changes: Sequence[str]) -> TrainCLI:
    """Build the Trainer, the module and the data of a config with some changes."""
    return TrainCLI(
        CaptioningModule,
        CaptionData,
        save_config_callback=None,
        seed_everything_default=0,
        trainer_defaults={"use_distributed_sampler": False},
        args=[*plan.arguments, *changes],
        run=False,
    )


def plain(plan: Plan, changes: Sequence[str], *, stored: bool = False) -> Case:
    """Prepare a plain loop."""
    cli = build(plan, changes)
    loader = plain_loop.make_loader(cli, stored=stored)

    def run() -> Figures:
        figures: Figures = {"captions": loader.batch_size or 0}
        batches = timed(
            "together",
            chain.from_iterable(repeat(loader)),
            plan.warm_up,
            (plan.steps + 1) // 2,
            figures,
        )
        plain_loop.train(cli, batches)
        return figures

    return run


def ours(plan: Plan, folder: Path, changes: Sequence[str]) -> Figures:
    """Train with a config and some changes; recompute the features."""
    gc.collect()  # the previous run has reference cycles; its loader processes end with it
    figures: Figures = {}
    with TemporaryDirectory(dir=folder) as cache:
        cli = build(plan, [*changes, f"--data.cache_folder={cache}"])
        load = cli.datamodule.train_dataloader
        cli.datamodule.train_dataloader = lambda: Feed(load, plan, figures)
        cli.trainer.fit(cli.model, cli.datamodule)
    return {**figures, "words": len(cli.model.vocabulary)}


class Feed:
    """A loader for the Trainer: the real loader's batches, then a few of them repeatedly.

    Args:
        load: Creates the loader, and computes the features that it needs.
        plan: The plan, with the number of steps.
        figures: Receives the seconds per image of computing "features", and the seconds per step of
            "loading" without training, of both "together", and of a training "step" without
            loading.
    """

    def __init__(self, load: Callable[[], DataLoader[Any]], plan: Plan, figures: Figures) -> None:
        self.load, self.plan, self.figures = load, plan, figures

    def __len__(self) -> int:
        return 1_000_000  # the Trainer stops before

    def __iter__(self) -> Iterator[Any]:
        start = now()
        loader = self.load()
        self.figures["features"] = (now() - start) / len(loader.dataset)  # type: ignore[arg-type]
        warm_up, steps, figures = self.plan.warm_up, self.plan.steps, self.figures
        for _ in timed("loading", chain.from_iterable(repeat(loader)), warm_up, steps, figures):
            pass
        kept: list[Any] = []
        captions: list[int] = []
        for batch in timed(
            "together", chain.from_iterable(repeat(loader)), warm_up + SETTLE, steps, figures
        ):
            kept += [batch] if len(kept) < KEPT else []
            captions.append(int((batch.captions != PAD).any(dim=2).sum()))
            yield batch
        figures["captions"] = mean(captions)
        yield from timed("step", cycle(kept), warm_up, steps, figures)
        yield from cycle(kept)


def timed(
    name: str, batches: Iterable[Any], warm_up: int, steps: int, figures: Figures
) -> Iterator[Any]:
    """Pass batches on, and record the seconds between requests."""
    batches = iter(batches)
    yield from islice(batches, warm_up)
    start = now()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    yield from islice(batches, steps)
    figures[name] = (now() - start) / steps
    if torch.cuda.is_available():
        figures["peak GB"] = torch.cuda.max_memory_allocated() / 1e9


def now() -> float:
    """Return the time after the device has finished all pending work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


# --- Results
# ----------------------------------------------------------------------------


def rows(plan: Plan, rounds: Sequence[dict[str, Figures]]) -> list[Row]:
    """Captions and images per second, medians over the rounds.

    On a GPU also the share of the training time spent in steps, which is below 1 if the GPU waits
    for images, and the peak memory.
    """
    table: list[Row] = []
    for name in (PLAIN, STORED, PLAIN_SAME, CACHED, COMPUTED, READ, PLAIN_TUNED, TUNED):
        if name not in rounds[0]:
            continue
        runs = [figures[name] for figures in rounds]
        others = [
            figures[PLAIN_TUNED if name in (PLAIN_TUNED, TUNED) else PLAIN] for figures in rounds
        ]
        gains = [
            _captions_a_second(run) / _captions_a_second(other)
            for run, other in zip(runs, others, strict=True)
        ]
        alone = {
            stage: median(run.get(stage, 0.0) for run in runs) for stage in ("loading", "step")
        }
        row: Row = {
            "": name,
            "captions/s": median(map(_captions_a_second, runs)),
            "x plain loop": median(gains),
        }
        row["images/s"] = plan.batch_size / median(run["together"] for run in runs)
        row |= {
            f"{stage} alone": plan.batch_size / seconds if seconds else None
            for stage, seconds in alone.items()
        }
        if torch.cuda.is_available():
            row["of step alone"] = (
                median(run["step"] / run["together"] for run in runs) if alone["step"] else None
            )
            row["peak GB"] = max(run["peak GB"] for run in runs)
        table.append(row)
    return table


def _captions_a_second(run: Figures) -> float:
    return run["captions"] / run["together"]


def about(plan: Plan, rounds: Sequence[dict[str, Figures]], config: str) -> str:
    """Describe the measurements, and estimate the time to train on COCO without validation."""

    def hours(name: str, figure: str, images: int) -> float:
        return COCO / images * median(figures[name][figure] for figures in rounds) / 3600

    frozen, tuned = plan.epochs
    parts: dict[str, float] = {}
    if frozen and CACHED in rounds[0]:
        parts["features"] = hours(CACHED, "features", 1)
    if frozen:
        way = CACHED if CACHED in rounds[0] else READ
        parts[f"{frozen} with the encoder frozen"] = frozen * hours(
            way, "together", plan.batch_size
        )
    if tuned:
        parts[f"{tuned} fine-tuning it"] = tuned * hours(TUNED, "together", plan.batch_size)
    sums = ", ".join(f"{name} {value:.3g}" for name, value in parts.items())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
    data, trainer = plan.config.data, plan.config.trainer
    precision = resolve_precision(trainer.precision, trainer.accelerator) or "32-true"
    return (
        f"Training with {config} on {device} in {precision}, {data.batch_size} images of"
        f" {data.preprocessing.size} pixels a step, {data.workers} loader processes\n{plan.images};"
        f" {rounds[0][READ]['words']:.0f} words; images/s count an image once, with all its"
        f" captions\n{frozen + tuned} epochs of {COCO:,} images, but for validation:"
        f" {sum(parts.values()):.3g} hours ({sums})"
    )
