"""A `Stepper` on ONNX Runtime: captioning without torch."""

import ctypes
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar, Protocol
from weakref import WeakSet

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from captioner.checkpoint import BUNDLED, ONNX_PAIR, WEIGHTS, Checkpoint, read_checkpoint
from captioner.decoding.search import Step
from captioner.errors import CheckpointError, ConfigError

Arrays = dict[str, NDArray[np.float32]]
_GIVE_BYTES = "add_external_initializers_from_files_in_memory"
# The batch size of the CNN. Larger ones are no faster and take more memory: 32 images of 256 pixels
# take 600 MB in EfficientNet-Lite3, this one 130 MB.
_AT_ONCE = 4
CLASSES = "classes"  # an output of the encoder, if the model has a classifier
EVENTS = "events"  # another output, if it recognises events


class Entry(Protocol):
    """An input or output of a graph."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def shape(self) -> Sequence[Any]:
        """Its size along each axis; anything but a number for one that varies."""


class Graph(Protocol):
    """A graph that computes its outputs."""

    def get_outputs(self) -> Sequence[Entry]:
        """Return the graph's outputs."""

    def run(self, output_names: Sequence[str], feeds: dict[str, Any], /) -> list[Any]:
        """Compute outputs by name, in their order, of inputs by name; all are NumPy arrays."""


class Session(Graph, Protocol):
    """A loaded graph, such as ONNX Runtime's `InferenceSession`."""

    def get_inputs(self) -> Sequence[Entry]:
        """Return the graph's inputs."""


_Sessions = tuple[Session, Session]


class OnnxBackend:
    """Runs the ONNX pair of a checkpoint folder, on the CPU.

    It can be copied and sent to other processes, which load the folder again; a forked process also
    loads it again.

    Args:
        folder: The checkpoint folder.
        threads: Threads per operation; None uses OMP_NUM_THREADS, or else one per core.
        pair: The names of its two files.

    Raises:
        CheckpointError: The pair is missing, damaged, or not one of ours.
    """

    name: ClassVar[str] = "onnx"

    def __init__(
        self,
        folder: str | os.PathLike[str],
        threads: int | None = None,
        pair: tuple[str, str] = ONNX_PAIR,
    ) -> None:
        # absolute, because the process may change its own folder before the next load
        self._folder, self._threads, self._pair = Path(folder).absolute(), threads, pair
        self._sessions: _Sessions | None = self._load()
        _alive.add(self)

    @staticmethod
    def suits(checkpoint: Checkpoint, device: str | None) -> bool:
        """Return whether the folder has its ONNX pair and the device is the CPU."""
        return device in (None, "cpu") and checkpoint.has_onnx

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, device: str | None = None) -> "OnnxBackend":
        """Load a checkpoint's ONNX pair.

        Raises:
            CheckpointError: The pair is missing, damaged, or not that of the checkpoint's config.
            ConfigError: The device is not the CPU.
        """
        if device not in (None, "cpu"):
            raise ConfigError(
                f"The {cls.name} backend runs on the CPU, not on {device!r}; use the torch backend"
                " instead."
            )
        backend = cls(checkpoint.folder)
        backend._check_shapes(checkpoint)
        return backend

    def encode(self, pixels: NDArray[np.float32]) -> "OnnxStepper":
        """Encode images (B, 3, S, S) or clips (B, F, 3, S, S); return a stepper over them."""
        sessions = self._sessions
        if sessions is None:  # in a forked process
            sessions = self._sessions = self._load()
        encoder, decoder = sessions
        outputs = [output.name for output in encoder.get_outputs()]
        parts = [
            encoder.run(outputs, {"pixels": pixels[start : start + _AT_ONCE]})
            for start in range(0, len(pixels), _AT_ONCE)
        ]
        arrays = {
            name: np.concatenate(part) if len(parts) > 1 else part[0]
            for name, part in zip(outputs, zip(*parts, strict=True), strict=True)
        }
        image = {name: array for name, array in arrays.items() if name.startswith("image.")}
        state = {name: array for name, array in arrays.items() if name.startswith("state.")}
        scores = arrays.get(CLASSES), arrays.get(EVENTS)
        return OnnxStepper(decoder, image, state, len(pixels), *scores)

    def abandon_sessions(self) -> None:
        """Drop the sessions inherited by fork, without freeing them.

        Their threads exist only in the parent process: running a session would wait for them
        forever, and so would freeing it when Python exits.
        """
        for session in self._sessions or ():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
        self._sessions = None

    def __reduce__(self) -> tuple[Any, ...]:
        bundled = self._folder == BUNDLED  # which lies elsewhere on another machine
        folder = None if bundled else str(self._folder)
        return _load_backend, (type(self), folder, self._threads)

    def _check_shapes(self, checkpoint: Checkpoint) -> None:
        """Check that the graphs take and give what the checkpoint's other files say.

        Raises:
            CheckpointError: They don't, so one of the files belongs to another model.
        """
        assert self._sessions is not None
        encoder, decoder = self._sessions
        entries = (*encoder.get_inputs(), *encoder.get_outputs(), *decoder.get_outputs())
        shapes = {entry.name: tuple(entry.shape) for entry in entries}
        frames = (checkpoint.frames,) if checkpoint.frames else ()
        expected = {
            "pixels": (*frames, 3, *[checkpoint.preprocessing.size] * 2),
            "log_probs": (len(checkpoint.vocabulary),),
        }
        if checkpoint.tags is not None:
            expected[CLASSES] = (checkpoint.tags.classes,)
        if checkpoint.events is not None:
            expected[EVENTS] = (*frames, len(checkpoint.events.labels))
        for name, sizes in expected.items():
            found = shapes.get(name, ())[-len(sizes) :]
            if len(found) < len(sizes) or any(
                isinstance(one, int) and one != other
                for one, other in zip(found, sizes, strict=True)
            ):
                raise CheckpointError(
                    f"{self._folder}: {name} of the ONNX pair is {_sizes(found)}, but of the other"
                    f" files {_sizes(sizes)}. Copy the whole folder again."
                )

    def _load(self) -> "_Sessions":
        first, second = (self._folder / name for name in self._pair)
        encoder, decoder = _load_both(first, second, self._threads, self._load_encoder)
        outputs = {output.name for output in encoder.get_outputs()} - {CLASSES, EVENTS}
        if (
            _inputs(encoder) != {"pixels"}
            or _inputs(decoder) != {"parents", "words", "k"} | outputs
        ):
            raise CheckpointError(f"{first} and {second.name} don't match. {_advice(self._folder)}")
        return encoder, decoder

    @staticmethod
    def _load_encoder(path: Path, threads: int | None) -> Session:
        """Load the encoder's graph; `threads` as for the class."""
        return load_session(path, threads)


_alive: WeakSet[OnnxBackend] = WeakSet()


def _abandon_all() -> None:
    for backend in list(_alive):
        backend.abandon_sessions()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)


def _load_backend(
    backend: type[OnnxBackend], folder: str | None, threads: int | None
) -> OnnxBackend:
    return backend(read_checkpoint(folder).folder, threads)


class OnnxStepper:
    """Decode a batch of encoded images; see `captioner.decoding.search.Stepper`.

    Inputs and outputs are NumPy arrays: ONNX Runtime uses their memory without copying, so its own
    containers (`OrtValue`, IO binding) are no faster.

    Args:
        decoder: The session of decoder.onnx, which also reorders the states by the parents.
        image: The arrays that all rows of an image share, (B, ...) each, named "image.*".
        state: The first state, (B, H) each, named "state.*".
        batch_size: B.
        classes: The classifier's scores of the images, (B, C); None for a model without it.
        events: The logits of events at each frame, (B, F, E); None for a model without.
    """

    def __init__(
        self,
        decoder: Graph,
        image: Arrays,
        state: Arrays,
        batch_size: int,
        classes: NDArray[np.float32] | None = None,
        events: NDArray[np.float32] | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.classes = classes
        self.events = events
        self.pooled = _pooled(image, state)
        self._decoder = decoder
        self._image = image
        self._state = state
        self._start = image, state
        self._grid = (batch_size, 1)  # (B, K) of the last step, the rows of `_state`
        self._attends = any(output.name == "attention" for output in decoder.get_outputs())

    def step(
        self,
        parents: NDArray[np.int64],
        words: NDArray[np.int64],
        k: int,
        *,
        all_log_probs: bool = False,
    ) -> Step:
        """Continue the previous rows `parents` (B, K) by `words` (B, K); see `Stepper.step`."""
        images, beams = self._grid
        if len(parents) < images:
            going = parents[:, 0] // beams
            self._image = {name: array[going] for name, array in self._image.items()}
        self._grid = parents.shape
        feeds = {
            **self._image,
            **self._state,
            "parents": parents,
            "words": words,
            "k": np.array([k], np.int64),
        }
        wanted = ["top_words", "top_log_probs", *(f"{name}.next" for name in self._state)]
        wanted += ["attention"] * self._attends + ["log_probs"] * all_log_probs
        outputs: dict[str, NDArray[Any]] = dict(
            zip(wanted, self._decoder.run(wanted, feeds), strict=True)
        )
        self._state = {name: outputs[f"{name}.next"] for name in self._state}  # (B * K, H) each
        return Step(
            words=outputs["top_words"],
            log_probs=outputs["top_log_probs"],
            attention=outputs.get("attention"),
            all_log_probs=outputs.get("log_probs"),
        )

    def again(self, images: NDArray[np.int64]) -> "OnnxStepper":
        """Return a stepper before its first step over some of the images; see `Encoded.again`."""
        image, state = (
            {name: array[images] for name, array in part.items()} for part in self._start
        )
        classes = None if self.classes is None else self.classes[images]
        return OnnxStepper(self._decoder, image, state, len(images), classes)


def _pooled(image: Arrays, state: Arrays) -> NDArray[np.float32]:
    """Return the mean of the regions' features, or the first state if the decoder keeps none."""
    if "image.values" in image:
        mean: NDArray[np.float32] = image["image.values"].mean(axis=1)
        return mean
    return np.concatenate([*state.values()], axis=1)


def _load_both(
    first: Path,
    second: Path,
    threads: int | None,
    load_encoder: Callable[[Path, int | None], Session],
) -> _Sessions:
    """Load both graphs at once: ONNX Runtime doesn't hold Python's lock while it loads."""
    loaded: list[Session | CheckpointError] = []

    def load() -> None:
        try:
            loaded.append(load_session(second, threads))
        except CheckpointError as error:
            loaded.append(error)

    thread = Thread(target=load, name="captioner-loader")
    thread.start()
    try:
        encoder = load_encoder(first, threads)
    finally:
        thread.join()
    (decoder,) = loaded
    if isinstance(decoder, CheckpointError):
        raise decoder
    return encoder, decoder


def load_session(path: Path, threads: int | None) -> Session:
    """Load a graph of a checkpoint folder into ONNX Runtime.

    Args:
        path: The graph; its weights lie beside it.
        threads: Threads per operation; None uses OMP_NUM_THREADS, or else one per core.

    Raises:
        CheckpointError: The graph is missing or damaged.
    """
    check_graph(path)
    options = session_options(threads)
    weights = path.parent / WEIGHTS
    # Newer versions of ONNX Runtime don't follow links to another folder; older ones do, and don't
    # accept bytes. No version accepts a path that is not UTF-8.
    by_bytes = not opens_by_path(path) and hasattr(options, _GIVE_BYTES)
    if not by_bytes and not _is_utf8(path):
        raise CheckpointError(
            f"{path}: this ONNX Runtime requires a path in UTF-8; rename the folder."
        )
    content = None
    try:
        if by_bytes:
            content = weights.read_bytes()
            getattr(options, _GIVE_BYTES)([WEIGHTS], [content], [len(content)])
        session: Any = onnxruntime.InferenceSession(
            path.read_bytes() if by_bytes else path, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's exceptions share no other base class
        raise unloadable(path, error) from error
    session.weights = content  # it uses their memory without keeping a reference
    loaded: Session = session
    return loaded


def session_options(threads: int | None) -> onnxruntime.SessionOptions:
    """Return the options of every session; `threads` as for `load_session`."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # we raise and report errors ourselves
    options.intra_op_num_threads = threads or usual_threads()
    # Spinning threads gain little on an idle machine, and double the time on a busy one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def check_graph(path: Path) -> None:
    """Check that a graph is there.

    Raises:
        CheckpointError: It is missing.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing. {_advice(path.parent)}")


def opens_by_path(path: Path) -> bool:
    """Return whether engines open a graph and its weights: no links, a path in UTF-8."""
    return _is_utf8(path) and not path.is_symlink() and not (path.parent / WEIGHTS).is_symlink()


def unloadable(path: Path, error: Exception) -> CheckpointError:
    """Return an error about a graph that an engine cannot load."""
    return CheckpointError(f"{path} cannot be loaded: {_short(error)}. {_advice(path.parent)}")


def usual_threads() -> int:
    """Return OMP_NUM_THREADS, which schedulers set; 0, for all cores, if it is unset."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdecimal() else 0


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _sizes(shape: Sequence[object]) -> str:
    return " x ".join(map(str, shape)) or "missing"


def _inputs(session: Session) -> set[str]:
    return {entry.name for entry in session.get_inputs()}


def _advice(folder: Path) -> str:
    return f"Export both ONNX files again from the weights: captioner export {folder}"


def _short(error: Exception, length: int = 200) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= length else f"{text[:length]}..."
