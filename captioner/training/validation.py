"""What a validation finds: captions that the model gave freely, beside the references."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from captioner.annotations.records import Record
from captioner.evaluation.assess import score
from captioner.evaluation.results import ImageId


@dataclass(frozen=True)
class Validated:
    """The captions of a validation set.

    Args:
        records: All records of the set.
        captions: The captions by their record's index, in order; images that could not be read have none.
    """

    records: Sequence[Record]
    captions: Mapping[int, str]

    @property
    def results(self) -> dict[ImageId, str]:
        """The captions by image id."""
        return {self.records[index].image_id: text for index, text in self.captions.items()}

    def scores(self) -> Mapping[str, float]:
        """The scores against the raw references."""
        captioned = [self.records[index] for index in self.captions]
        return score({record.image_id: list(record.captions) for record in captioned}, self.results).scores

    def samples(self, count: int) -> list[tuple[Record, str]]:
        """The first records with their captions."""
        return [(self.records[index], text) for index, text in list(self.captions.items())[:count]]
