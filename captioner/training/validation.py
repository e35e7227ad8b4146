"""Results of validation: the model's captions and their scores for each validation set."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from captioner.annotations.records import Record
from captioner.data.splits import ValidationSet
from captioner.decoding.options import DecodingOptions
from captioner.errors import DataError
from captioner.evaluation.assess import score
from captioner.evaluation.results import ImageId


@dataclass(frozen=True)
class Validated:
    """The captions of a validation set.

    Args:
        validation_set: The set.
        captions: The captions by their record's index in it, in order; unreadable images have none.
    """

    validation_set: ValidationSet
    captions: Mapping[int, str]

    @property
    def records(self) -> Sequence[Record]:
        """All records of the set."""
        return self.validation_set.records

    @property
    def prefix(self) -> str:
        """The prefix of its scores' names in the log."""
        return f"val/{self.validation_set.name}/" if self.validation_set.name else "val/"

    @property
    def results(self) -> dict[ImageId, str]:
        """The captions by image id."""
        return {self.records[index].image_id: text for index, text in self.captions.items()}

    def scores(self) -> Mapping[str, float]:
        """Compute the scores against the raw references."""
        captioned = [self.records[index] for index in self.captions]
        return score(
            {record.image_id: list(record.captions) for record in captioned}, self.results
        ).scores

    def samples(self, count: int) -> list[tuple[Record, str]]:
        """Return the first records with their captions."""
        return [(self.records[index], text) for index, text in list(self.captions.items())[:count]]


def divide_captions(
    sets: Sequence[ValidationSet], captions: Mapping[int, str], *, whole: bool = True
) -> list[Validated]:
    """Divide the captions of the validation split among its sets.

    Args:
        sets: The sets, whose records follow one another in the validation split.
        captions: The captions by their record's index in the split, in order.
        whole: Whether all sets were captioned. If only the first batches were, as before training
            or with `trainer.limit_val_batches`, sets without captions are skipped, unless no set
            has any.

    Raises:
        DataError: A set has no captions, because none of its images can be read.
    """
    divided = []
    first = 0
    for validation_set in sets:
        last = first + len(validation_set.records)
        own = {index - first: text for index, text in captions.items() if first <= index < last}
        if not own and (whole or not captions):
            which = f" of {validation_set.name}" if validation_set.name else ""
            raise DataError(
                f"None of the validation images{which} can be read; their names are logged above."
            )
        if own:
            divided.append(Validated(validation_set, own))
        first = last
    return divided


def fingerprint(
    sets: Sequence[ValidationSet], decoding: DecodingOptions, limit: float | None
) -> str:
    """Identify what is validated and how: scores are comparable if this is the same.

    Args:
        sets: The validation sets.
        decoding: How their images are captioned.
        limit: `trainer.limit_val_batches`.
    """
    digest = hashlib.sha256(repr((decoding, limit)).encode())
    for each in sets:
        digest.update(repr((each.name, each.style, each.weight)).encode())
        for record in each.records:
            digest.update(repr((record.image_id, record.captions)).encode())
    return digest.hexdigest()


def mean_scores(
    validated: Sequence[Validated], scores: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Compute the mean of each score over the sets, weighted by the sets' weights.

    Of the first batches, perhaps only sets of the weight 0 were captioned: then all count alike.
    """
    weights = [each.validation_set.weight for each in validated]
    if not any(weights):
        weights = [1.0] * len(weights)
    return {
        name: (
            sum(weight * own[name] for weight, own in zip(weights, scores, strict=True))
            / sum(weights)
        )
        for name in scores[0]
    }
