"""The encoder on OpenVINO, which is faster where the processor computes bfloat16."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, ClassVar

import numpy as np

from captioner.backends.onnx import (
    OnnxBackend,
    Session,
    check_graph,
    opens_by_path,
    unloadable,
    usual_threads,
)
from captioner.checkpoint import BUNDLED, WEIGHTS, Checkpoint
from captioner.errors import ConfigError, MissingExtraError

PRECISION = "CAPTIONER_PRECISION"
"""An environment variable: "float32" computes in float32 on every processor."""

_PRECISION_HINT = "INFERENCE_PRECISION_HINT"


class OpenVinoBackend(OnnxBackend):
    """Runs the encoder on OpenVINO and the decoder on ONNX Runtime, on the CPU.

    The encoder computes in bfloat16 where the processor does so natively, else in float32. The
    search's small steps are no faster on OpenVINO. The bundled model's encoder is kept as compiled
    in the user's cache folder (36 MB), for a faster start.

    Args, copies and processes are as for `OnnxBackend`.
    """

    name: ClassVar[str] = "openvino"

    @staticmethod
    def suits(checkpoint: Checkpoint, device: str | None) -> bool:
        """Return whether it can run the checkpoint, faster than ONNX Runtime.

        ONNX Runtime is faster with quantized checkpoints.
        """
        return (
            OnnxBackend.suits(checkpoint, device)
            and checkpoint.quantized is None
            and find_spec("openvino") is not None
            and precision() == "bf16"
        )

    @staticmethod
    def _load_encoder(path: Path, threads: int | None) -> Session:
        cache = cache_folder() if path.parent == BUNDLED else None
        return load_network(path, threads, precision(), cache)


def load_network(
    path: Path, threads: int | None, precision: str, cache: Path | None = None
) -> Session:
    """Load a graph of a checkpoint folder into OpenVINO.

    Args:
        path: The graph; its weights lie beside it.
        threads: Threads per operation; None uses OMP_NUM_THREADS, or else one per core.
        precision: OpenVINO's name of the precision to compute in, "bf16" or "f32".
        cache: A folder that keeps the compiled network, which takes a sixth of the time to load.
            OpenVINO compiles again after any change of the graph's file, the processor's
            instructions or its own version, and when what was kept is damaged.

    Raises:
        CheckpointError: The graph is missing or damaged.
        MissingExtraError: OpenVINO is not installed.
    """
    check_graph(path)
    core, settings = _core(), _settings(threads, precision)
    try:
        if opens_by_path(path):
            if cache:
                settings |= {"CACHE_DIR": cache}
            return _Network(core.compile_model(path, "CPU", settings))
        with TemporaryDirectory() as temporary:
            for name in (path.name, WEIGHTS):
                shutil.copyfile(path.with_name(name), Path(temporary) / name)
            settings |= {"ENABLE_MMAP": False}  # Windows cannot delete mapped files
            return _Network(core.compile_model(Path(temporary) / path.name, "CPU", settings))
    except Exception as error:  # OpenVINO's exceptions share no other base class
        raise unloadable(path, error) from error


def load_graph(graph: bytes, threads: int | None, precision: str) -> Session:
    """Load an ONNX graph that contains its weights; see `load_network`.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        Exception: OpenVINO cannot load it.
    """
    core = _core()
    return _Network(
        core.compile_model(core.read_model(graph), "CPU", _settings(threads, precision))
    )


def _settings(threads: int | None, precision: str) -> dict[str, Any]:
    return {
        _PRECISION_HINT: precision,
        "INFERENCE_NUM_THREADS": threads or usual_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # several processes would be pinned to the same cores
    }


def cache_folder() -> Path | None:
    """Return the user's cache folder for compiled networks; None if it can't be written to."""
    try:
        from platformdirs import user_cache_path
    except ModuleNotFoundError:  # OpenVINO was installed without captioner's extra
        return None
    folder = user_cache_path("captioner", appauthor=False) / "openvino"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def precision() -> str:
    """Return OpenVINO's name of the precision that the encoder computes in: "bf16" or "f32".

    Raises:
        ConfigError: The environment variable CAPTIONER_PRECISION has another value than float32.
        MissingExtraError: OpenVINO is not installed.
    """
    asked = os.environ.get(PRECISION)
    if asked == "float32":
        return "f32"
    if asked:
        raise ConfigError(f"{PRECISION} is {asked!r}; expected float32, or nothing.")
    return "bf16" if has_bfloat16() else "f32"


def has_bfloat16() -> bool:
    """Return whether the processor computes bfloat16 natively.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    # By default OpenVINO uses bfloat16 only where the processor doesn't have to emulate it.
    default: str = _core().get_property("CPU", _PRECISION_HINT).get_type_name()
    return default == "bf16"


# One for each process, never freed: OpenVINO gives signal handlers a stack, and when one of several
# is freed, signals such as Ctrl-C may find none that is still mapped. A forked process needs its
# own, as the threads of the first exist only in the parent.
_cores: dict[int, Any] = {}


def _core() -> Any:
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise MissingExtraError("The openvino backend", "openvino") from error
    process = os.getpid()
    if process not in _cores:
        _cores[process] = openvino.Core()
    return _cores[process]


@dataclass(frozen=True)
class _Entry:
    name: str
    shape: tuple[int | None, ...]  # None along axes that vary


def _entry(port: Any) -> _Entry:
    sizes = port.get_partial_shape()
    return _Entry(
        port.get_any_name(), tuple(None if s.is_dynamic else s.get_length() for s in sizes)
    )


class _Network:
    """OpenVINO's compiled model as a `Session`, which threads may share: they take turns."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._turn = Lock()  # a request that is running rejects another run

    def get_inputs(self) -> Sequence[_Entry]:
        return [_entry(each) for each in self._compiled.inputs]

    def get_outputs(self) -> Sequence[_Entry]:
        return [_entry(each) for each in self._compiled.outputs]

    def run(self, output_names: Sequence[str], feeds: dict[str, Any], /) -> list[Any]:
        with self._turn:
            # Views of the request's memory, which the next run overwrites.
            results = self._request.infer(feeds, share_inputs=True, share_outputs=True)
            return [np.array(results[name]) for name in output_names]
