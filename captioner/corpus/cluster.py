"""Workers on Ray: scheduling of blocks, and recovery when a worker dies.

Uses plain actors rather than a Ray Data pipeline: a block keeps its number from one start to the
next, so each image is captioned exactly once however often the command is killed.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from types import FrameType
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from captioner.corpus.blocks import Block, Finished
from captioner.corpus.storage import said
from captioner.corpus.worker import Work, Worker
from captioner.errors import CaptionerError, ConfigError

logger = logging.getLogger(__name__)

_LOST = 3  # give up on a block after it has lost this many workers
_POLL = 1.0  # seconds
_REACHED = 5.0  # timeout in seconds for the head of a cluster
_MEMORY = 100 * 2**20  # bytes of Ray's object store, of which we use next to nothing


@dataclass(frozen=True)
class Workers:
    """The number of workers and their resources.

    Attributes:
        count: The number of workers; None for as many as fit on the machine or the cluster.
        cpus: CPU cores per worker.
        gpus: GPUs per worker; a fraction shares one.
    """

    count: int | None = None
    cpus: int = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: A number is out of range.
        """
        if (self.count is not None and self.count < 1) or self.cpus < 1 or self.gpus < 0:
            raise ConfigError(
                f"There are {self.count} workers with {self.cpus} CPUs and {self.gpus} GPUs each;"
                " expected at least 1 worker with 1 CPU."
            )


@contextmanager
def connected(address: str | None, workers: Workers) -> Iterator[None]:
    """Start Ray on this machine, or join a cluster; keep an existing connection of the process.

    Args:
        address: HOST:PORT of a cluster's head, or "auto" on one of its machines; None uses only
            this machine.
        workers: The workers to start.

    Raises:
        ConfigError: The cluster cannot be reached, or Ray doesn't start.
    """
    if address is not None:
        _check_address(address)
    if ray.is_initialized():
        yield
        return
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address is None:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
            cores = cores or os.cpu_count() or 1
            ray.init(
                address="local",
                num_cpus=max(cores, workers.cpus * (workers.count or 1)),
                include_dashboard=False,
                object_store_memory=_MEMORY,
                **quiet,
            )
        else:
            ray.init(address=address, **quiet)
    except Exception as error:  # Ray raises anything, up to Exception itself
        where = "on this machine" if address is None else f"at {address}"
        raise ConfigError(f"Ray cannot be reached {where}: {said(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM interrupt a wait for Ray, which handles Ctrl-C there but not `SystemExit`.

    Raises:
        SystemExit: SIGTERM was received; the status is 143, as in shells.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        if came:
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_address(address: str) -> None:
    """Fail fast where Ray would fail only after a minute."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "/" in host or not host or not port.isdigit():
        raise ConfigError(
            f"--address is {address}; expected HOST:PORT of the cluster's head, or auto on one of"
            " its machines."
        )
    try:
        socket.create_connection((host, int(port)), _REACHED).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"No Ray cluster answers at {address} ({said(error)}). Start one with: ray start --head"
        ) from error


def room_for(workers: Workers) -> int:
    """Return the number of workers that will run.

    Raises:
        ConfigError: The resources are too small for a single worker.
    """
    if workers.count is not None:
        return workers.count
    resources = ray.cluster_resources()
    count = int(resources.get("CPU", 0) // workers.cpus)
    if workers.gpus:
        count = min(count, int(resources.get("GPU", 0) // workers.gpus))
    if not count:
        raise ConfigError(
            f"A worker requires {workers.cpus} CPUs and {workers.gpus:g} GPUs; Ray has"
            f" {resources.get('CPU', 0):g} and {resources.get('GPU', 0):g}. If the cluster grows on"
            " demand, set the number of workers."
        )
    return count


@dataclass
class _Pool:
    """The workers, and the current block of each: `None` until it is ready."""

    work: Work
    workers: Workers
    doing: dict[Any, tuple[Any, tuple[int, Block] | None]] = field(default_factory=dict)
    asked: dict[Any, Any] = field(default_factory=dict)
    counts: dict[Any, int] = field(default_factory=dict)
    last_asked: float = 0.0

    def hire(self) -> None:
        """Request one more worker, which joins when resources are free and it is ready."""
        actor = (
            ray.remote(Worker)
            .options(num_cpus=self.workers.cpus, num_gpus=self.workers.gpus, max_concurrency=2)
            .remote(self.work)
        )
        self.doing[actor.ready.remote()] = actor, None

    def give(self, actor: Any, item: tuple[int, Block]) -> None:
        """Assign a block to a worker."""
        self.counts.pop(actor, None)
        self.doing[actor.caption.remote(*item)] = actor, item

    def dismiss(self) -> None:
        """Stop all workers."""
        for actor, _ in self.doing.values():
            ray.kill(actor)
        self.doing.clear()

    def busy(self) -> bool:
        """Whether any block is in progress."""
        return any(item is not None for _, item in self.doing.values())

    def ask(self) -> None:
        """Ask each worker for its progress from time to time; the answers are in `doing`."""
        if not self.asked and time.monotonic() - self.last_asked > _POLL:
            self.last_asked = time.monotonic()
            busy = [actor for actor, item in self.doing.values() if item is not None]
            self.asked = {actor.done.remote(): actor for actor in busy}

    def hear(self, answer: Any) -> None:
        """Record the progress of a worker; ignore one that has died."""
        actor = self.asked.pop(answer)
        with suppress(RayError):
            self.counts[actor] = ray.get(answer)

    def done(self) -> int:
        """Return how many images of unfinished blocks are done, by the latest answers."""
        busy = [actor for actor, item in self.doing.values() if item is not None]
        return sum(self.counts.get(actor, 0) for actor in busy)


class _Queue:
    """The remaining blocks; those that lost their worker come first."""

    def __init__(self, blocks: Iterator[tuple[int, Block]]) -> None:
        self._blocks = blocks
        self._next: deque[tuple[int, Block]] = deque()
        self._lost: Counter[int] = Counter()

    def __bool__(self) -> bool:
        if not self._next:
            self._next.extend(islice(self._blocks, 1))
        return bool(self._next)

    def take(self) -> tuple[int, Block]:
        """Take the next block; the queue must not be empty."""
        return self._next.popleft()

    def put_back(self, item: tuple[int, Block]) -> bool:
        """Requeue a block that has lost its worker; return False if it has lost too many."""
        self._lost[item[0]] += 1
        if self._lost[item[0]] < _LOST:
            self._next.appendleft(item)
        return self._lost[item[0]] < _LOST


def caption_blocks(
    blocks: Iterator[tuple[int, Block]],
    work: Work,
    workers: Workers,
    *,
    finish: Callable[[int, Finished], None],
    fail: Callable[[Block, str], None],
    tell: Callable[[int], None],
) -> None:
    """Caption blocks with workers on Ray, each block by one worker at a time.

    A worker that dies, or whose machine dies, is replaced, and its block is given to another.

    Args:
        blocks: The blocks with their numbers, taken on demand.
        work: The job that all workers share.
        workers: The workers to start.
        finish: Called with each finished block.
        fail: Called with each block that cannot be captioned, and the reason.
        tell: Called from time to time with the number of images done in unfinished blocks.

    Raises:
        CaptionerError: The model cannot be loaded, or a part cannot be written.
    """
    pool = _Pool(work, workers)
    queue = _Queue(blocks)
    unused = 0  # workers that died before they were ready
    try:
        for _ in range(room_for(workers)):
            pool.hire()
        while queue or pool.busy():
            answered, _ = ray.wait([*pool.doing, *pool.asked], num_returns=1, timeout=_POLL)
            for answer in answered:
                if answer in pool.asked:
                    pool.hear(answer)
                    continue
                actor, item = pool.doing.pop(answer)
                try:
                    found = ray.get(answer)
                except RayTaskError as error:
                    _raise_if_hopeless(error, item)
                    assert item is not None
                    fail(item[1], said(error.cause))
                except RayError as error:  # it died
                    ray.kill(actor)
                    pool.hire()
                    if item is None:
                        unused += 1
                        if unused > _LOST:
                            raise ConfigError(f"Workers don't start: {said(error)}") from error
                    elif not queue.put_back(item):
                        fail(item[1], f"{_LOST} workers died while they captioned it")
                    continue
                else:
                    if item is not None:
                        finish(item[0], found)
                if queue:
                    pool.give(actor, queue.take())
                else:
                    ray.kill(actor)
            pool.ask()
            tell(pool.done())
    finally:
        pool.dismiss()


def _raise_if_hopeless(error: RayTaskError, item: tuple[int, Block] | None) -> None:
    """Raise the error if other blocks would fail in the same way."""
    cause = error.cause
    if isinstance(cause, CaptionerError):
        raise cause
    if item is None:
        raise ConfigError(f"Workers don't start: {said(cause)}") from error
