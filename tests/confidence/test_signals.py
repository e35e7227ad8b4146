import numpy as np
import pytest
from scipy.special import softmax

from captioner.confidence import SignalReader
from captioner.tags import TagConfig, TagTable

TABLE = TagTable.imagenet()


def test_signals_by_hand() -> None:
    classes = np.zeros((3, 1000), np.float32)
    tabby, fireboat = TABLE.classes.index("tabby"), TABLE.classes.index("fireboat")
    classes[[0, 1], tabby] = 9
    classes[2, fireboat] = 8
    texts = ["two kittens on a sofa", "a dog on a sofa", ""]
    log_probs = [(-1.0, -3.0, -0.5), (-2.0,), ()]
    reader = SignalReader(TagConfig())
    assert reader.names == ("mean_log_prob", "least_log_prob", "recognised", "named")
    found = reader.read(texts, log_probs, classes)
    cat = softmax(classes[0]) @ np.array([words[0] == "cat" for words in TABLE.words])
    boat = softmax(classes[2]) @ np.array(
        [words[0] == TABLE.words[fireboat][0] for words in TABLE.words]
    )
    expected = [[-1.5, -3.0, cat, cat], [-2.0, -2.0, cat, 0], [0, 0, boat, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_new_temperature_of_the_tags_changes_nothing() -> None:
    classes = np.random.default_rng(0).normal(0, 3, (4, 1000))
    texts, log_probs = ["a dog and a cat"] * 4, [(-1.0, -2.0)] * 4
    one, other = (
        SignalReader(TagConfig(temperature=temperature)).read(texts, log_probs, classes)
        for temperature in (1.0, 3.0)
    )
    np.testing.assert_array_equal(one, other)


def test_without_a_classifier_words_are_all_there_is() -> None:
    reader = SignalReader(None)
    assert reader.names == ("mean_log_prob", "least_log_prob")
    np.testing.assert_array_equal(reader.read(["a"], [(-1.0,)], None), [[-1, -1]])
    assert reader.read([], [], None).shape == (0, 2)
    with pytest.raises(ValueError, match="no class logits"):
        SignalReader(TagConfig()).read(["a"], [(-1.0,)], None)
