import json
import math
from typing import Any

import numpy as np
import pytest

from captioner.confidence import Calibration, Confidence
from captioner.confidence.config import sigmoid
from captioner.errors import ConfigError

PLAIN = {"good": 0.5, "photos": 60, "bias": 1.0, "weights": {"mean_log_prob": 2.0, "named": -1.0}}


def test_it_survives_json_and_other_styles_stay() -> None:
    confidence = Confidence({"": Calibration(**PLAIN)})
    both = confidence.with_style("long", Calibration(0.7, 80, 0.0, {"least_log_prob": 1.0}))
    assert Confidence.from_dict(json.loads(json.dumps(both.to_dict()))) == both
    assert both.to_dict()[""] == PLAIN
    assert set(confidence.styles) == {""}
    assert confidence.styles[""].needs_tags and not both.styles["long"].needs_tags


def test_the_probability_is_that_of_the_log_odds() -> None:
    signals = np.array([[-1.0, 5.0, 0.5], [0.0, 1.0, 0.0]])
    found = Calibration(**PLAIN).probability(signals, ("mean_log_prob", "recognised", "named"))
    expected = [1 / (1 + math.exp(1.5)), 1 / (1 + math.exp(-1))]  # 1 - 2 - 0.5, and 1
    np.testing.assert_allclose(found, expected)
    np.testing.assert_array_equal(sigmoid(np.array([-1e4, 0, 1e4])), [0, 0.5, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"weights": {"mood": 1.0}},
            "Unknown confidence signal 'mood'; expected some of mean_log_prob",
        ),
        ({"weights": {"named": "x"}}, "confidence.named is 'x'; expected a number"),
        ({"weights": [1]}, "confidence.weights"),
        ({"bias": math.nan}, "confidence.bias is nan; expected a finite number"),
        ({"bias": 10**400}, "confidence.bias is 10+; expected a finite number"),
        ({"good": 0}, "is 0; expected a number between 0 and 10"),
        ({"photos": 0}, "confidence.photos is 0; expected 1 or more"),
        ({"extra": 1}, "expected an object with the keys bias, good, photos, weights"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Confidence.from_dict({"": {**PLAIN, **changes}})
