"""What a validation finds: captions that the model gave freely, beside the references, for each set of images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from captioner.annotations.records import Record
from captioner.data.splits import ValidationSet
from captioner.errors import DataError
from captioner.evaluation.assess import score
from captioner.evaluation.results import ImageId


@dataclass(frozen=True)
class Validated:
    """The captions of a validation set.

    Args:
        images: The set.
        captions: The captions by their record's index in it, in order; images that could not be
            read have none.
    """

    images: ValidationSet
    captions: Mapping[int, str]

    @property
    def records(self) -> Sequence[Record]:
        """All records of the set."""
        return self.images.records

    @property
    def prefix(self) -> str:
        """What the names of its scores begin with in a log."""
        return f"val/{self.images.name}/" if self.images.name else "val/"

    @property
    def results(self) -> dict[ImageId, str]:
        """The captions by image id."""
        return {self.records[index].image_id: text for index, text in self.captions.items()}

    def scores(self) -> Mapping[str, float]:
        """The scores against the raw references."""
        captioned = [self.records[index] for index in self.captions]
        return score(
            {record.image_id: list(record.captions) for record in captioned}, self.results
        ).scores

    def samples(self, count: int) -> list[tuple[Record, str]]:
        """The first records with their captions."""
        return [(self.records[index], text) for index, text in list(self.captions.items())[:count]]


def divide_captions(
    sets: Sequence[ValidationSet], captions: Mapping[int, str], *, whole: bool = True
) -> list[Validated]:
    """The captions of each set.

    Args:
        sets: The sets, whose records follow one another in the validation split.
        captions: The captions by their record's index in the split, in order.
        whole: Whether all sets were captioned. If only the first batches were, as before training,
            sets without a caption are left out, unless none has one.

    Raises:
        DataError: A set has no caption, for none of its images can be read.
    """
    divided = []
    first = 0
    for images in sets:
        last = first + len(images.records)
        own = {index - first: text for index, text in captions.items() if first <= index < last}
        if not own and (whole or not captions):
            which = f" of {images.name}" if images.name else ""
            raise DataError(
                f"None of the validation images{which} can be read, whose names stand above."
            )
        if own:
            divided.append(Validated(images, own))
        first = last
    return divided


def mean_scores(
    validated: Sequence[Validated], scores: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """The mean of each score over the sets, by their weights."""
    weights = [each.images.weight for each in validated]
    return {
        name: (
            sum(weight * own[name] for weight, own in zip(weights, scores, strict=True))
            / sum(weights)
        )
        for name in scores[0]
    }
