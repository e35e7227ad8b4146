import numpy as np
import pytest

from captioner.errors import ConfigError
from captioner.tags import TagConfig, Tagger, TagTable


def test_what_is_written_is_read() -> None:
    config = TagConfig(temperature=1.7)
    assert config.to_dict() == {"table": "imagenet", "temperature": 1.7}
    assert TagConfig.from_dict(config.to_dict()) == config


def test_its_tagger_is_that_of_its_table() -> None:
    assert TagConfig().classes == 1000
    assert TagConfig("imagenet", 1.7).tagger == Tagger(TagTable.imagenet(), 1.7)


def test_classes_of_ones_own_are_their_own_tags() -> None:
    config = TagConfig(("Crack", "hot dog"), 0.5)
    assert config.to_dict() == {"table": ["Crack", "hot dog"], "temperature": 0.5}
    assert TagConfig.from_dict(config.to_dict()) == config
    assert config.classes == 2
    ((tag,),) = config.tagger.tags(np.log([[0.9, 0.1]]) / 2, threshold=0.5)
    assert (tag.noun, round(tag.probability, 6)) == ("crack", 0.9)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"table": "places", "temperature": 1}, "tags.table is 'places'; expected imagenet"),
        ({"table": "imagenet", "temperature": 0}, "temperature is 0"),
        ({"table": "imagenet", "temperature": float("nan")}, "temperature is nan"),
        ({"table": "imagenet", "temperature": "1"}, "temperature is '1'"),
        ({"table": "imagenet", "temperature": True}, "temperature is True"),
        ({"table": ["cat", "cat"], "temperature": 1}, "a list of different names"),
        ({"table": ["cat", " "], "temperature": 1}, "tags.table is"),
        ({"table": ["cat", 7], "temperature": 1}, "tags.table is"),
        ({"table": [], "temperature": 1}, "tags.table is"),
        ({"table": {"cat": 1}, "temperature": 1}, "tags.table is"),
        ({"table": "imagenet"}, "tags has the keys"),
        ({"table": "imagenet", "temperature": 1, "bias": 0}, "tags has the keys"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TagConfig.from_dict(values)
