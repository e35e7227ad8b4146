"""What a sequence of tasks does to each of them: forgetting, backward and forward transfer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean


@dataclass(frozen=True)
class Transfer:
    """Figures of a sequence of tasks, in the scores' unit; None where no task goes into them.

    Attributes:
        average: The mean score of all tasks at the end.
        forgetting: How much lower it is there than the best one on the way, mean over earlier tasks
            (Chaudhry et al. 2018). Lower is better.
        backward: What is gained since a task was learned, mean over earlier tasks: backward
            transfer (Lopez-Paz and Ranzato 2017). Mostly negative.
        forward: The score before a task is learned, above the baseline, mean over later tasks:
            forward transfer (Lopez-Paz and Ranzato 2017).
    """

    average: float
    forgetting: float | None
    backward: float | None
    forward: float | None


def transfer(
    scores: Sequence[Sequence[float]], learned: Sequence[int], baseline: Sequence[float]
) -> Transfer:
    """Compute the figures of a sequence of tasks.

    Args:
        scores: R, a row for each step: R[i][j] is the score of task j after step i. Row 0 is from
            before anything of the sequence was learned.
        learned: The step in which each task was learned; 0 if the model began with it.
        baseline: b, the score of each task by a model of random weights.
    """
    first, last = min(learned), len(scores) - 1
    earlier = [task for task, step in enumerate(learned) if step < last]
    later = [task for task, step in enumerate(learned) if step > first]
    best = [max(row[task] for row in scores[first:last]) for task in earlier]
    return Transfer(
        average=mean(scores[last]),
        forgetting=_mean(top - scores[last][task] for top, task in zip(best, earlier, strict=True)),
        backward=_mean(scores[last][task] - scores[learned[task]][task] for task in earlier),
        forward=_mean(scores[learned[task] - 1][task] - baseline[task] for task in later),
    )


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return mean(listed) if listed else None
