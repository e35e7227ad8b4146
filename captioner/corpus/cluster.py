"""Workers on Ray: who captions which block, and what happens when one dies.

Plain actors, not a pipeline of Ray Data: a block keeps its number from one start to the next, which
is what captions each image once however often the command is killed.
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

_LOST = 3  # times that a block may lose its worker
_POLL = 1.0  # seconds
_REACHED = 5.0  # seconds in which the head of a cluster must answer
_MEMORY = 100 * 2**20  # bytes of Ray's object store, which holds next to nothing of ours


@dataclass(frozen=True)
class Workers:
    """Which workers there are.

    Attributes:
        count: How many; as many as the machine or the cluster has room for if None.
        cpus: CPU cores of each.
        gpus: GPUs of each; a part of one if it is less than 1.
    """

    count: int | None = None
    cpus: int = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be.

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
    """Start Ray on this machine, or join a cluster; a process that has joined one stays there.

    Args:
        address: HOST:PORT of a cluster's head, or "auto" on one of its machines; None for this
            machine alone.
        workers: Which workers there will be.

    Raises:
        ConfigError: No cluster answers, or Ray doesn't start.
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
    """Let SIGTERM end what waits for Ray, which takes Ctrl-C there but no `SystemExit`.

    Raises:
        SystemExit: SIGTERM came; with the status 143, as shells have it.
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
    """Say soon what Ray says after a minute."""
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
    """Count the workers that there will be.

    Raises:
        ConfigError: There is no room for a single one.
    """
    if workers.count is not None:
        return workers.count
    resources = ray.cluster_resources()
    count = int(resources.get("CPU", 0) // workers.cpus)
    if workers.gpus:
        count = min(count, int(resources.get("GPU", 0) // workers.gpus))
    if not count:
        raise ConfigError(
            f"A worker needs {workers.cpus} CPUs and {workers.gpus:g} GPUs; Ray has"
            f" {resources.get('CPU', 0):g} and {resources.get('GPU', 0):g}. If the cluster grows on"
            " demand, say how many workers there shall be."
        )
    return count


@dataclass
class _Pool:
    """The workers, and what each of them is doing: `None` until it is ready."""

    work: Work
    workers: Workers
    doing: dict[Any, tuple[Any, tuple[int, Block] | None]] = field(default_factory=dict)
    asked: dict[Any, Any] = field(default_factory=dict)
    counts: dict[Any, int] = field(default_factory=dict)
    last_asked: float = 0.0

    def hire(self) -> None:
        """Ask for one more worker, which takes part as soon as there is room and it is ready."""
        actor = (
            ray.remote(Worker)
            .options(num_cpus=self.workers.cpus, num_gpus=self.workers.gpus, max_concurrency=2)
            .remote(self.work)
        )
        self.doing[actor.ready.remote()] = actor, None

    def give(self, actor: Any, item: tuple[int, Block]) -> None:
        """Let a worker caption a block."""
        self.counts.pop(actor, None)
        self.doing[actor.caption.remote(*item)] = actor, item

    def dismiss(self) -> None:
        """End all workers, wherever they are."""
        for actor, _ in self.doing.values():
            ray.kill(actor)
        self.doing.clear()

    def busy(self) -> bool:
        """Whether a block is in work."""
        return any(item is not None for _, item in self.doing.values())

    def ask(self) -> None:
        """Ask now and then how far each worker is; the answers are among those of `doing`."""
        if not self.asked and time.monotonic() - self.last_asked > _POLL:
            self.last_asked = time.monotonic()
            busy = [actor for actor, item in self.doing.values() if item is not None]
            self.asked = {actor.done.remote(): actor for actor in busy}

    def hear(self, answer: Any) -> None:
        """Note how far a worker is; one that has died says nothing."""
        actor = self.asked.pop(answer)
        with suppress(RayError):
            self.counts[actor] = ray.get(answer)

    def done(self) -> int:
        """How many images of unfinished blocks are done, by the last answers."""
        busy = [actor for actor, item in self.doing.values() if item is not None]
        return sum(self.counts.get(actor, 0) for actor in busy)


class _Queue:
    """The blocks that are still to be captioned; those that lost their worker come first."""

    def __init__(self, blocks: Iterator[tuple[int, Block]]) -> None:
        self._blocks = blocks
        self._next: deque[tuple[int, Block]] = deque()
        self._lost: Counter[int] = Counter()

    def __bool__(self) -> bool:
        if not self._next:
            self._next.extend(islice(self._blocks, 1))
        return bool(self._next)

    def take(self) -> tuple[int, Block]:
        """Take the next one; there is one."""
        return self._next.popleft()

    def put_back(self, item: tuple[int, Block]) -> bool:
        """Put a block back that has lost its worker; not if it has lost too many."""
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
    """Caption blocks by workers on Ray, each block by one worker at a time.

    A worker that dies, or whose machine does, is replaced, and its block is given to another.

    Args:
        blocks: The blocks with their numbers, taken as they are needed.
        work: What the workers are told.
        workers: Which workers.
        finish: Is told of each block that is done.
        fail: Is told of each block that cannot be done, and why.
        tell: Is told now and then how many images of the blocks in work are done.

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
    """Raise what other blocks would come to grief of, too."""
    cause = error.cause
    if isinstance(cause, CaptionerError):
        raise cause
    if item is None:
        raise ConfigError(f"Workers don't start: {said(cause)}") from error
