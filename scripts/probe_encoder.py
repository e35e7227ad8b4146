"""What a frozen encoder knows of photos: python scripts/probe_encoder.py TRAIN VAL --images DIR ...

A linear probe, as of pretrained encoders: a logistic regression tells from the mean of an encoder's
region features which things the captions of a photo name. Its words are the nouns of the tags that
the captions of most training photos name. What is told is their mean average precision on the
validation photos, with a 95 % interval by the bootstrap over photos. How strongly weights are
decayed is chosen on every fifth training photo.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))  # a script finds only its own folder

from captioner.annotations.records import Record, check_images, load_records
from captioner.commands.terminal import track
from captioner.errors import CaptionerError, DataError
from captioner.evaluation.statistics import interval
from captioner.images import open_image
from captioner.model.encoder import Encoder, EncoderConfig
from captioner.model.own_weights import read_facts
from captioner.model.pretrained import load_pretrained
from captioner.preprocessing import Preprocessing
from captioner.tags import TagTable
from captioner.tags.matching import NounMatcher

NOUNS = 30
DECAYS = (1e-3, 1e-2, 1e-1)
RESAMPLES = 500
BATCH = 64


def main(args: Sequence[str] | None = None) -> int:
    """Probe an encoder, and print how well its features tell what is in photos.

    Args:
        args: The arguments; those of the process by default.

    Returns:
        The exit status: 0, or 2 after a user's mistake.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("train", type=Path, metavar="TRAIN", help="Captions of training photos.")
    parser.add_argument("val", type=Path, metavar="VAL", help="Captions of validation photos.")
    parser.add_argument("--images", type=Path, metavar="DIR", help="The folder of their images.")
    parser.add_argument("--encoder", default="resnet18", help="As in a config. [%(default)s]")
    parser.add_argument("--weights", help="As model.weights in a config. [random ones]")
    parser.add_argument("--size", type=int, help="Pixels a side. [of the weights, or 224]")
    parser.add_argument(
        "--mean", type=float, metavar="M", help="Of pixels, of each channel. [of the weights]"
    )
    parser.add_argument("--std", type=float, metavar="S", help="Likewise. [of the weights]")
    options = parser.parse_args(args)
    try:
        splits = [load_records(path, options.images) for path in (options.train, options.val)]
        for records in splits:
            check_images(records)
        train, val = splits
        labels, val_labels = find_labels(train, val)
        given = {key: vars(options)[key] for key in ("size", "mean", "std")}
        encoder, preprocessing = build(options.encoder, options.weights, **given)
        features = [features_of(records, encoder, preprocessing) for records in splits]
    except CaptionerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = probe(features[0], labels, features[1])
    low, high = bootstrap_interval(found, val_labels)
    value = mean_average_precision(found, val_labels)
    print(
        f"{options.encoder}, {options.weights or 'random weights'}: mean average precision of"
        f" {labels.shape[1]} nouns {100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    )
    return 0


def find_labels(
    train: Sequence[Record], val: Sequence[Record]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell which of the commonest nouns the captions of each photo name: (N, W) of each split.

    Raises:
        DataError: There is nothing to probe with.
    """
    if len(train) < 2:
        raise DataError("There is one training photo; expected two or more, to choose a decay on.")
    matcher = NounMatcher(TagTable.imagenet())
    named, val_named = (
        np.stack([matcher.named(record.captions) for record in records]) for records in (train, val)
    )
    usable = named.any(0) & val_named.any(0)
    if not usable.any():
        raise DataError(
            "No noun of the tags is named by captions of both training and validation photos;"
            " expected captions in English, of everyday things."
        )
    order = np.argsort(-(named.sum(0) * usable), kind="stable")[: min(NOUNS, int(usable.sum()))]
    return named[:, order], val_named[:, order]


def build(
    name: str,
    weights: str | None,
    *,
    size: int | None = None,
    mean: float | None = None,
    std: float | None = None,
) -> tuple[Encoder, Preprocessing]:
    """Build the encoder, and how it sees images: as its weights' file says, unless it is given."""
    facts = read_facts(weights) if weights else None
    preprocessing = facts.preprocessing if facts else Preprocessing()
    given = {"size": size, "mean": None if mean is None else (mean,) * 3}
    given["std"] = None if std is None else (std,) * 3
    changes = {key: value for key, value in given.items() if value is not None}
    preprocessing = replace(preprocessing, **changes)
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(name), preprocessing.size)
    if weights:
        load_pretrained(encoder, name, weights)
    return encoder.eval(), preprocessing


def features_of(
    records: Sequence[Record], encoder: Encoder, preprocessing: Preprocessing
) -> Tensor:
    """Compute the mean of each photo's region features: (N, D)."""
    found = []
    starts = range(0, len(records), BATCH)
    for start in track(list(starts), len(starts)):
        pixels = [
            preprocessing(open_image(record.path, min_size=preprocessing.size))
            for record in records[start : start + BATCH]
        ]
        with torch.inference_mode():
            found.append(encoder(torch.from_numpy(np.stack(pixels))).mean(1))
    return torch.cat(found).clone()


def probe(train: Tensor, labels: NDArray[np.bool_], val: Tensor) -> NDArray[np.float32]:
    """Fit on the training photos, and score the others.

    Args:
        train: (N, D) features.
        labels: (N, W) which nouns each names.
        val: (M, D) features.

    Returns:
        (M, W), higher where a noun is likelier.
    """
    mean, std = train.mean(0), train.std(0) + 1e-6
    train, val = (train - mean) / std, (val - mean) / std
    targets = torch.from_numpy(labels.astype(np.float32))
    fifth = np.arange(len(train)) % 5 == 0

    def quality(decay: float) -> float:
        scores = _fit(train[~fifth], targets[~fifth], decay)(train[fifth])
        return mean_average_precision(scores, labels[fifth])

    return _fit(train, targets, max(DECAYS, key=quality))(val)


def _fit(features: Tensor, targets: Tensor, decay: float) -> Callable[[Tensor], NDArray[Any]]:
    """Fit a logistic regression to each column of targets; gives what scores features."""
    weight = torch.zeros(features.shape[1], targets.shape[1], requires_grad=True)
    bias = torch.zeros(targets.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            features @ weight + bias, targets
        )
        loss = targets.shape[1] * loss + decay * (weight**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    fitted, shift = weight.detach(), bias.detach()
    return lambda others: (others @ fitted + shift).numpy()


def mean_average_precision(scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> float:
    """Return the mean of the average precision of each column that has a positive.

    Args:
        scores: (N, W), higher where likelier.
        labels: (N, W).
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    right = np.take_along_axis(labels, order, 0).astype(np.float64)
    precision = right.cumsum(0) / np.arange(1, len(right) + 1)[:, None]
    positives = right.sum(0)
    known = positives > 0
    return float(((precision * right).sum(0)[known] / positives[known]).mean())


def bootstrap_interval(
    scores: NDArray[np.float32], labels: NDArray[np.bool_]
) -> tuple[float, float]:
    """Return the 95 % interval of the mean average precision, by drawing photos anew."""
    random = np.random.default_rng(0)
    draws = random.integers(0, len(scores), (RESAMPLES, len(scores)))
    return interval(
        np.array([mean_average_precision(scores[rows], labels[rows]) for rows in draws])
    )


if __name__ == "__main__":
    sys.exit(main())
