"""All metrics by their name in `--metrics`. To add one, see docs/extending.md."""

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from captioner.errors import ConfigError

if TYPE_CHECKING:
    from captioner.evaluation.metric import Metric

# In display order. A metric, or its "module:class": that is imported on first use, as the command's
# help lists the names and must not import numpy.
METRICS: "dict[str, Metric | str]" = {
    "bleu": "captioner.evaluation.bleu:BleuMetric",
    "rouge": "captioner.evaluation.rouge:RougeLMetric",
    "cider": "captioner.evaluation.cider:CiderDMetric",
    "meteor": "captioner.evaluation.meteor:MeteorMetric",
    "spice": "captioner.evaluation.spice:SpiceMetric",
    "chair": "captioner.evaluation.chair:ChairMetric",
}
DEFAULT_METRICS = ("bleu", "rouge", "cider")
LOWER_IS_BETTER = frozenset(("CHAIR_i", "CHAIR_s"))  # scores that count errors


def find_metric(name: str) -> "Metric":
    """Return the metric of a name in `METRICS`."""
    found = METRICS[name]
    if isinstance(found, str):
        module, _, kind = found.partition(":")
        metric: Metric = getattr(import_module(module), kind)()
        return metric
    return found


def check_metrics(names: Sequence[str]) -> None:
    """Check the names of metrics.

    Raises:
        ConfigError: A name is unknown, or there are none.
    """
    expected = f"expected some of {', '.join(METRICS)}"
    if not any(names):
        raise ConfigError(f"No metrics given; {expected}.")
    for name in names:
        if not name:
            raise ConfigError(
                f"The list of metrics has an empty name before or after a comma; {expected}."
            )
        if name not in METRICS:
            raise ConfigError(f"Unknown metric {name!r}; {expected}.")
