"""Forgetting in continual learning: the part `continual` of scripts/benchmark.py.

A model learns domains one after the other with configs/finetune.yaml. After each it is scored on
all of them and on the domains that it knew before. The methods differ in how they prevent
forgetting. See docs/continual.md.
"""

import argparse
import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from captioner.annotations.records import Record, check_images, load_records
from captioner.backends.torch import TorchBackend
from captioner.checkpoint import Checkpoint, read_checkpoint
from captioner.commands.terminal import track
from captioner.data.sources import Source, ValidationSource
from captioner.datasets.shapes import draw_shapes
from captioner.errors import ConfigError
from captioner.evaluation.assess import score
from captioner.images import open_image
from captioner.inference import Captioner
from captioner.model.captioning import CaptioningModel
from captioner.model.classifier import stored_head
from captioner.training.distillation import INIT_FROM
from captioner.training.fast_encoder import fastest_encode
from captioner.training.train import main as train
from captioner.vocabulary import PAD
from scripts.transfer import transfer

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "finetune.yaml"
PHOTOS = 300  # training photos per domain
EPOCHS = 3
REPLAYED = 0.5  # share of replayed images in an epoch
TAUGHT = 0.5  # share of the distillation loss
AVERAGED = 0.5  # weight of the trained weights in the average
BATCH = 16  # images to encode at once

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
Row = dict[str, str | float | None]


# --- Domains
# ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Domain:
    """Photos with captions: for training or replay, and for scoring.

    Attributes:
        name: Its name.
        source: A table of the training photos, as in a training config.
        scored: The photos to score.
        style: The style of their captions.
    """

    name: str
    source: Source
    scored: list[Record]
    style: str = ""


def draw_digits(folder: Path, count: int, seed: int = 0) -> Path:
    """Draw rows of three printed digits on gray unless they exist; return their table."""
    if folder.exists():
        return folder / "digits.csv"
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    font = ImageFont.load_default(28)
    with (folder / "digits.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for number in range(count):
            image = Image.new("RGB", (96, 96), (int(rng.integers(170, 240)),) * 3)
            digits = rng.integers(0, 10, 3)
            for place, digit in enumerate(digits):
                at = (10 + 28 * place + rng.integers(-3, 4), rng.integers(15, 50))
                ink = tuple(int(part) for part in rng.integers(0, 110, 3))
                ImageDraw.Draw(image).text(at, str(digit), fill=ink, font=font)
            image.save(folder / f"{number}.png")
            first, second, third = (NAMES[digit] for digit in digits)
            for caption in (
                f"the digits {first} {second} {third} in a row",
                f"a row of the digits {first}, {second} and {third}",
            ):
                rows.writerow([f"{number}.png", caption])
    return folder / "digits.csv"


def _draw_shapes(folder: Path, count: int) -> Path:
    draw_shapes(folder, count)
    halves = [folder / "annotations" / f"captions_{split}.json" for split in ("train", "val")]
    table = folder / "shapes.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for half in halves:
            for record in load_records(half, folder / "images"):
                rows.writerows([record.path, caption] for caption in record.captions)
    return table


DRAWN: dict[str, Callable[[Path, int], Path]] = {"shapes": _draw_shapes, "digits": draw_digits}


def find_domains(
    file: Path | None, sequence: Sequence[str], photos: int, scored: int, folder: Path
) -> list[Domain]:
    """Find the domains that the model already knows, then those of a sequence, in order.

    Args:
        file: A YAML file with the sections `sources` and `validation`, as in `data` of a training
            config; None for drawn domains only. If a source has no validation, some of its photos
            are held out for scoring. Sources that are not in the sequence are those that the model
            already knows.
        sequence: Names of sources of the file, and of `DRAWN`.
        photos: The maximum number of training photos per domain.
        scored: The maximum number of scored photos per domain.
        folder: The folder for tables and drawings.

    Raises:
        ConfigError: The file or a name is invalid.
        DataError: Annotations are invalid.
    """
    sources, validation = _read_domains(file)
    unknown = [name for name in sequence if name not in sources and name not in DRAWN]
    if unknown or not sequence or len(set(sequence)) < len(sequence):
        raise ConfigError(
            f"--sequence is {','.join(sequence)!r}; expected different names of"
            f" {', '.join([*sources, *DRAWN])}, with commas."
        )
    for name in sequence:
        if name not in sources:
            sources[name] = Source(DRAWN[name](folder / name, photos + scored))
    known = [name for name in sources if name not in sequence]
    return [
        _make_domain(name, sources[name], validation.get(name), photos, scored, folder)
        for name in (*known, *sequence)
    ]


def _read_domains(file: Path | None) -> tuple[dict[str, Source], dict[str, ValidationSource]]:
    if file is None:
        return {}, {}
    try:
        read = yaml.safe_load(file.read_text(encoding="utf-8"))
        sources = {name: Source(**_paths(each)) for name, each in read["sources"].items()}
        validation = {
            name: ValidationSource(**_paths(each))
            for name, each in read.get("validation", {}).items()
        }
    except (OSError, UnicodeError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"--domains {file}: cannot be used ({error}); expected the sections sources and"
            " validation, as the section data of a config of training has them."
        ) from error
    return sources, validation


def _paths(section: Mapping[str, Any]) -> dict[str, Any]:
    paths = {key: Path(section[key]) for key in ("annotations", "images") if section.get(key)}
    return {**section, **paths}


def _make_domain(
    name: str,
    source: Source,
    validation: ValidationSource | None,
    photos: int,
    scored: int,
    folder: Path,
) -> Domain:
    """Choose the photos of a domain, and write the table of its training photos."""
    records = source.load("error")
    if validation is None or validation.annotations is None:
        own, style = _evenly(records, min(scored, len(records) // 2)), source.style
        gone = {record.image_id for record in own}
        records = [record for record in records if record.image_id not in gone]
    else:
        own = _evenly(load_records(validation.annotations, validation.images, "val"), scored)
        style = validation.style
        check_images(own)
    table = folder / f"{name}.json"
    _write_table(table, _evenly(records, photos))
    return Domain(name, replace(source, annotations=table, images=None), own, style)


def _evenly(records: Sequence[Record], most: int) -> list[Record]:
    count = min(most, len(records))
    return [records[number * len(records) // count] for number in range(count)]


def _write_table(path: Path, records: Sequence[Record]) -> None:
    """Write records in COCO's format, with the captions' ranks and paths from the root."""
    images = [
        {"id": number, "file_name": str(record.path.absolute())}
        for number, record in enumerate(records)
    ]
    ranked = [(number, *each) for number, record in enumerate(records) for each in record.ranked()]
    annotations = [
        {"id": place, "image_id": number, "rank": rank, "caption": caption}
        for place, (number, rank, caption) in enumerate(ranked)
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations}), encoding="utf-8")


# --- Methods
# ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A method against forgetting.

    Attributes:
        replay: Whether to replay earlier domains.
        config: Further training options, by their dotted names.
    """

    replay: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)


METHODS: dict[str, Method] = {
    "plain": Method(),
    "replay": Method(replay=True),
    "distillation": Method(
        config={"model.distillation": {"teachers": [INIT_FROM], "weight": TAUGHT}}
    ),
    "averaging": Method(config={"model.average_with_start": AVERAGED}),
}


class Scorer:
    """Scores checkpoints on all domains; they share the frozen encoder of the first one.

    Args:
        start: The checkpoint folder that the sequence starts from; None for the bundled one.
        domains: The domains.
        decoding: The decoding options for all models.
    """

    def __init__(
        self, start: Path | None, domains: Sequence[Domain], decoding: Mapping[str, Any]
    ) -> None:
        self.domains = domains
        self.decoding = dict(decoding)
        self.checkpoint = read_checkpoint(start)
        encoder = TorchBackend.from_checkpoint(self.checkpoint).model.encoder.eval()
        prepare = self.checkpoint.preprocessing
        paths = [record.path for domain in domains for record in domain.scored]
        encode = fastest_encode(encoder, prepare.size, len(paths))
        found = []
        for place in track(range(0, len(paths), BATCH), -(-len(paths) // BATCH)):
            images = [
                prepare(open_image(path, min_size=prepare.size))
                for path in paths[place : place + BATCH]
            ]
            found.append(torch.from_numpy(encode(torch.from_numpy(np.stack(images)))).float())
        self.features = torch.cat(found).split([len(domain.scored) for domain in domains])

    def scores(self, folder: Path | None) -> list[float]:
        """Return CIDEr-D x 100 of a checkpoint folder on each domain."""
        checkpoint = read_checkpoint(folder)
        return self._score(checkpoint, TorchBackend.from_checkpoint(checkpoint).model)

    def baseline(self) -> list[float]:
        """Return the scores of a decoder with random weights."""
        start = self.checkpoint
        torch.manual_seed(0)
        network = CaptioningModel.from_architecture(
            start.architecture,
            image_size=start.preprocessing.size,
            vocab_size=len(start.vocabulary),
            pad=PAD,
            tags=start.tags,
        )
        if start.tags is not None:
            network.keep_classifier(stored_head(start.folder), start.tags)
        network.name_tags(start.vocabulary.words)
        return self._score(start, network)

    def _score(self, checkpoint: Checkpoint, network: CaptioningModel) -> list[float]:
        backend = TorchBackend(network.eval())
        captioner = Captioner(
            backend, checkpoint.vocabulary, checkpoint.preprocessing, checkpoint.decoding
        )
        return [
            self._score_domain(captioner, backend, domain, features)
            for domain, features in zip(self.domains, self.features, strict=True)
        ]

    def _score_domain(
        self, captioner: Captioner, backend: TorchBackend, domain: Domain, features: Tensor
    ) -> float:
        captions = [
            caption.text
            for part in features.split(BATCH)
            for caption in captioner.decode(
                backend.start(part), style=domain.style, **self.decoding
            )
        ]
        references = {place: list(record.captions) for place, record in enumerate(domain.scored)}
        return 100 * score(references, dict(enumerate(captions))).scores["CIDEr-D"]


@dataclass(frozen=True)
class Learner:
    """Learns domains one after the other.

    Attributes:
        start: The checkpoint folder to start from; None for the bundled one.
        known: The domains that it knows.
        sequence: The domains to learn.
        epochs: The number of epochs per domain.
        seed: The random seed of training.
        changes: Further training options, as on the command line.
        folder: The folder for runs and features.
    """

    start: Path | None
    known: Sequence[Domain]
    sequence: Sequence[Domain]
    epochs: int
    seed: int
    changes: Sequence[str]
    folder: Path

    def learn(
        self, name: str, method: Method, scorer: Scorer, first: Sequence[float]
    ) -> list[list[float]]:
        """Learn the sequence with a method; return the scores of all domains after each step.

        Args:
            name: The method's name, used in the names of folders.
            method: The method.
            scorer: Scores models.
            first: The scores before the first step.
        """
        model, rows, earlier = self.start, [list(first)], list(self.known)
        for domain in self.sequence:
            run = self.folder / name / domain.name
            model = self._fine_tune(run, model, domain, method, earlier)
            earlier.append(domain)
            rows.append(scorer.scores(model))
        return rows

    def _fine_tune(
        self,
        run: Path,
        model: Path | None,
        domain: Domain,
        method: Method,
        earlier: Sequence[Domain],
    ) -> Path:
        sources: dict[str, Any] = {}
        if method.replay and earlier:
            share = {"share": REPLAYED / len(earlier), "weight": 1.0, "words": False}
            sources = {each.name: _plain(asdict(each.source) | share) for each in earlier}
        config = {
            "seed_everything": self.seed,
            "data.seed": self.seed,
            "data.train": str(domain.source.annotations),
            "data.sources": sources,
            "data.cache_folder": str(self.folder / "features"),
            "model.init_from": "bundled" if model is None else str(model),
            "model.average_with_start": None,
            "trainer.default_root_dir": str(run),
            "trainer.max_epochs": self.epochs,
            "trainer.check_val_every_n_epoch": self.epochs,
            "trainer.num_sanity_val_steps": 0,
            "trainer.logger": False,
            "checkpoint.onnx": False,
            "plan.memory": False,
            **method.config,
        }
        options = [
            f"--{name}={value if isinstance(value, str) else json.dumps(value)}"
            for name, value in config.items()
        ]
        if train([f"--config={CONFIG}", *options, *self.changes]):
            raise ConfigError(f"Training in {run} has failed; see the error above.")
        return run / "best"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: str(each) if isinstance(each, Path) else each for key, each in values.items()}


# --- The part
# ----------------------------------------------------------------------------


def continual(options: argparse.Namespace) -> tuple[str, list[Row]]:
    """Return each method's scores on all domains after each domain, and the forgetting."""
    chosen = _chosen_methods(options.methods)
    with TemporaryDirectory() as temporary:
        folder = (options.output or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        photos, sequence = options.photos or PHOTOS, options.sequence.split(",")
        domains = find_domains(options.domains, sequence, photos, options.scored, folder)
        known = len(domains) - len(sequence)
        decoding = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["model"]["decoding"]
        scorer = Scorer(options.model, domains, decoding)
        learner = Learner(
            options.model,
            domains[:known],
            domains[known:],
            options.epochs,
            options.seed,
            options.changes,
            folder,
        )
        baseline, first = scorer.baseline(), scorer.scores(options.model)
        learned = [0] * known + list(range(1, len(sequence) + 1))
        rows: list[Row] = [_row("", "random weights", domains, baseline)]
        for name in chosen:
            scores = learner.learn(name, METHODS[name], scorer, first)
            rows += _rows_of(name, domains[known:], domains, scores)
            rows[-1] |= {
                key: value for key, value in asdict(transfer(scores, learned, baseline)).items()
            }
            (folder / "rows.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
    model = options.model.name if options.model else "the bundled model"
    return (
        f"Continual learning: CIDEr-D x 100 on {options.scored} photos a domain, from {model};"
        f" {photos} photos and {options.epochs} epochs a domain, seed {options.seed}",
        rows,
    )


def _rows_of(
    name: str, sequence: Sequence[Domain], domains: Sequence[Domain], scores: Sequence[list[float]]
) -> list[Row]:
    steps = ["before", *(f"after {domain.name}" for domain in sequence)]
    return [_row(name, step, domains, each) for step, each in zip(steps, scores, strict=True)]


def _row(name: str, step: str, domains: Sequence[Domain], scores: Sequence[float]) -> Row:
    own = dict(zip([domain.name for domain in domains], scores, strict=True))
    empty = dict.fromkeys(["average", "forgetting", "backward", "forward"])
    return {"method": name, "step": step, **own, **empty}


def _chosen_methods(names: str | None) -> list[str]:
    chosen = list(METHODS) if names is None else [name.strip() for name in names.split(",")]
    unknown = [name for name in chosen if name not in METHODS]
    if unknown:
        raise ConfigError(
            f"--methods has {', '.join(unknown)}; expected some of {', '.join(METHODS)}, with"
            " commas."
        )
    return chosen
