"""All metrics by the name that `--metrics` has for them. To add one: docs/extending.md."""

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from captioner.errors import ConfigError

if TYPE_CHECKING:
    from captioner.evaluation.metric import Metric

# In the order in which their scores are shown. A metric, or "module:class" of one: that is imported
# when it is first asked for, as the command's help lists the names and must not wait for numpy.
METRICS: "dict[str, Metric | str]" = {
    "bleu": "captioner.evaluation.bleu:BleuMetric",
    "rouge": "captioner.evaluation.rouge:RougeLMetric",
    "cider": "captioner.evaluation.cider:CiderDMetric",
    "meteor": "captioner.evaluation.meteor:MeteorMetric",
    "spice": "captioner.evaluation.spice:SpiceMetric",
    "chair": "captioner.evaluation.chair:ChairMetric",
}
DEFAULT_METRICS = ("bleu", "rouge", "cider")
LOWER_IS_BETTER = frozenset(("CHAIR_i", "CHAIR_s"))  # scores that count mistakes


def find_metric(name: str) -> "Metric":
    """The metric of that name in `METRICS`."""
    found = METRICS[name]
    if isinstance(found, str):
        module, _, kind = found.partition(":")
        metric: Metric = getattr(import_module(module), kind)()
        return metric
    return found


def check_metrics(names: Sequence[str]) -> None:
    """Makes sure that metrics are there.

    Raises:
        ConfigError: One is not, or none is named.
    """
    expected = f"expected some of {', '.join(METRICS)}"
    if not any(names):
        raise ConfigError(f"No metric is named; {expected}.")
    for name in names:
        if not name:
            raise ConfigError(
                f"A name is missing before or after a comma of the metrics; {expected}."
            )
        if name not in METRICS:
            raise ConfigError(f"There is no metric {name!r}; {expected}.")
