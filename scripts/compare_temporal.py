"""The ways to join the frames of a clip, compared on drawn clips: what each makes of their order.

    python scripts/compare_temporal.py
    python scripts/compare_temporal.py attention --trainer.max_epochs=5

It trains `configs/tiny_video.yaml` with each temporal encoder, and prints a row of a table for
each: the share of held-out captions that are exactly right, as the clips are, with their frames
shuffled, and with one frame of each alone; and how often the model gives what happens a higher
probability than what would be seen if the clip were played backwards. Half of the time is chance.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from captioner.annotations.records import Record, load_records
from captioner.backends.torch import TorchBackend
from captioner.checkpoint import read_checkpoint
from captioner.data.dataset import as_input, load_pixels
from captioner.data.sampling import Key
from captioner.data.views import ImageViews
from captioner.datasets.clips import draw_happening
from captioner.decoding.scoring import log_probs_of
from captioner.inference import Captioner
from captioner.model.temporal import TEMPORAL_ENCODERS
from captioner.tokenizer import tokenize
from captioner.training.feature_cache import cached_features
from captioner.training.train import main as train

CONFIG = Path(__file__).parents[1] / "configs" / "tiny_video.yaml"
CONDITIONS = ("in order", "shuffled", "one frame")
_BATCH = 100


class Row(NamedTuple):
    """What a model makes of clips, as shares of them.

    Attributes:
        exact: Captions that are one of the clip's own.
        forwards: Clips of which what happens is more probable than the same backwards.
    """

    exact: float
    forwards: float


def encode(folder: Path, records: Sequence[Record]) -> Tensor:
    """Return the features of clips' frames (N, F, L, D) by a checkpoint's encoder, cached."""
    checkpoint = read_checkpoint(folder)
    preprocessing = checkpoint.preprocessing
    model = TorchBackend.from_checkpoint(checkpoint).model

    def load(views: ImageViews, keys: Sequence[Key]) -> Iterator[tuple[Tensor, Tensor]]:
        for key in keys:
            pixels = torch.from_numpy(load_pixels(records[key[1]], preprocessing, views.frames))
            yield as_input(pixels[None], preprocessing), torch.tensor([key[1]])

    views = ImageViews(records, preprocessing, frames=model.frames)
    features = cached_features(Path("data/features"), model.encoder, views, load)
    clips = [torch.from_numpy(features[0, index]).float() for index in range(len(records))]
    return torch.stack(clips).unflatten(1, (model.frames, -1))


def arrange(features: Tensor, condition: str, seed: int = 0) -> Tensor:
    """Frames' features (N, F, L, D) under a condition.

    Args:
        features: In their order.
        condition: "in order" leaves them; "shuffled" puts the frames of each clip in an order drawn
            at random; "one frame" puts one of them, drawn at random, in the place of all.
        seed: Of what is drawn.
    """
    random = torch.Generator().manual_seed(seed)
    clips, frames = features.shape[:2]
    order = torch.arange(frames).expand(clips, -1)
    if condition == "shuffled":
        order = torch.rand(clips, frames, generator=random).argsort(dim=1)
    elif condition == "one frame":
        order = torch.randint(frames, (clips, 1), generator=random).expand(-1, frames)
    return features[torch.arange(clips)[:, None], order]


def judge(folder: Path, records: Sequence[Record], features: Tensor) -> Row:
    """How a model captions drawn clips whose features (N, F, L, D) are given."""
    checkpoint = read_checkpoint(folder)
    backend = TorchBackend.from_checkpoint(checkpoint)
    words = checkpoint.vocabulary
    captioner = Captioner(
        backend, words, checkpoint.preprocessing, checkpoint.decoding, frames=checkpoint.frames
    )
    exact, forwards = [], []
    for start in range(0, len(records), _BATCH):
        some = records[start : start + _BATCH]
        clips = features[start : start + _BATCH].flatten(1, 2)  # (B, F * L, D)
        for record, caption in zip(some, captioner.decode(backend.start(clips)), strict=True):
            known = [tokenize(text) for text in record.captions]
            exact.append(tokenize(caption.text) in known)
        happenings = [
            draw_happening(np.random.default_rng((0, int(record.path.stem)))) for record in some
        ]
        told = [
            log_probs_of(
                backend.start(clips),
                [words.encode(tokenize(each.captions()[0]), 30)[1:] for each in told],
            )
            for told in (happenings, [each.backwards() for each in happenings])
        ]
        forwards += [ahead.sum() > back.sum() for ahead, back in zip(*told, strict=True)]
    return Row(float(np.mean(exact)), float(np.mean(forwards)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train with each temporal encoder that is named, or all, and print the table."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    names = [name for name in given if name in TEMPORAL_ENCODERS] or list(TEMPORAL_ENCODERS)
    options = [argument for argument in given if argument not in TEMPORAL_ENCODERS]
    features = None
    rows = []
    for name in names:
        run = Path("runs") / f"tiny_video_{name}"
        ours = [f"--model.temporal.name={name}", f"--trainer.default_root_dir={run}"]
        if train([f"--config={CONFIG}", *ours, *options]):
            return 1
        records = load_records("data/clips/val.csv")
        if features is None:  # the encoder is frozen, and the same for all
            features = encode(run / "best", records)
        found = [judge(run / "best", records, arrange(features, each)) for each in CONDITIONS]
        cells = [f"{100 * share:.0f} %" for row in found for share in row]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    heads = [f"{each}: {what}" for each in CONDITIONS for what in ("exact", "forwards")]
    print(f"| frames joined by | {' | '.join(heads)} |", f"|{'---|' * 7}", *rows, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
