"""Statistics of a model's tensors on calibration photos: ranges, means and channel products."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from captioner.backends.onnx import CLASSES, OnnxStepper
from captioner.checkpoint import Checkpoint
from captioner.errors import CheckpointError
from captioner.images import open_image
from captioner.inference import Captioner

Floats = NDArray[np.float32]

PHOTOS = 256  # used for calibration
_SAMPLES = 4096  # sampled values of a tensor per photo
_PLACES = 256  # sampled positions of a feature map per photo
_PERCENTILES = (99.0, 99.9, 99.99, 99.999, 100.0)


@dataclass
class Statistics:
    """Statistics of tensors, by their names.

    Attributes:
        ranges: The range (low, high) whose 256 steps represent the values with the least error.
        means: The mean of each channel, (C,).
        grams: The mean of the outer products of the channels, (C, C).
    """

    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    means: dict[str, Floats] = field(default_factory=dict)
    grams: dict[str, Floats] = field(default_factory=dict)


def calibrate(
    checkpoint: Checkpoint,
    photos: Iterable[Path],
    encoder: ModelProto,
    decoder: ModelProto,
    ranges: Sequence[str],
    inputs: tuple[Mapping[str, int], Mapping[str, int]],
) -> Statistics:
    """Run a model on photos, and collect statistics of its tensors.

    Args:
        checkpoint: The model's checkpoint, with an ONNX pair.
        photos: The photos; only the first 256 are used.
        encoder: Its encoder, with its weights.
        decoder: Its decoder, with its weights; it generates the captions of the photos.
        ranges: Tensors of the encoder whose ranges to measure.
        inputs: Tensors of the encoder, and of the decoder, whose means and grams to measure, and
            the axis of the channels of each.

    Raises:
        CheckpointError: There is no photo.
        ImageError: A photo cannot be read.
    """
    recorder = _Recorder(encoder, inputs[0], ranges)
    outputs = [output.name for output in encoder.graph.output]
    runs = [recorder.run(outputs, {"pixels": one}) for one in _pixels(checkpoint, photos)]
    arrays = {
        name: np.concatenate([run[number] for run in runs]) for number, name in enumerate(outputs)
    }
    image = {name: array for name, array in arrays.items() if name.startswith("image.")}
    state = {name: array for name, array in arrays.items() if name.startswith("state.")}
    writer = _Recorder(decoder, inputs[1])
    stepper = OnnxStepper(writer, image, state, len(runs), arrays.get(CLASSES))
    Captioner.from_pretrained(checkpoint.folder, backend="onnx").decode(stepper)
    seen = recorder.statistics()
    words = writer.statistics()
    return Statistics(seen.ranges, seen.means | words.means, seen.grams | words.grams)


def _pixels(checkpoint: Checkpoint, photos: Iterable[Path]) -> list[Floats]:
    size = checkpoint.preprocessing.size
    chosen = [path for path, _ in zip(photos, range(PHOTOS), strict=False)]
    if not chosen:
        raise CheckpointError("No photos for calibration; expected a folder with photos.")
    return [checkpoint.preprocessing(open_image(path, min_size=size))[None] for path in chosen]


class _Recorder:
    """A session of a graph that also records the values of its tensors.

    Args:
        model: The graph, with its weights.
        inputs: The tensors whose means and grams to measure, and the axis of each one's channels.
        ranges: The tensors whose ranges to measure.
    """

    def __init__(
        self, model: ModelProto, inputs: Mapping[str, int], ranges: Sequence[str] = ()
    ) -> None:
        self._inputs, self._ranges = dict(inputs), set(ranges)
        probe = ModelProto()
        probe.CopyFrom(model)
        given = {entry.name for entry in (*probe.graph.input, *probe.graph.output)}
        self._names = sorted(self._inputs.keys() | self._ranges)
        probe.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in self._names
            if name not in given
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._random = np.random.default_rng(0)
        self._samples: dict[str, list[Floats]] = {}
        self._sums: dict[str, Floats] = {}
        self._products: dict[str, Floats] = {}
        self._counts: dict[str, int] = {}

    def get_outputs(self) -> list[Any]:
        """Return the graph's outputs, as a session does."""
        outputs: list[Any] = self._session.get_outputs()
        return outputs

    def run(self, wanted: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """Run the graph, as a session does."""
        more = [name for name in self._names if name not in feeds]
        results = self._session.run([*wanted, *more], feeds)
        arrays = dict(zip(more, results[len(wanted) :], strict=True))
        for name in self._names:
            self._note(name, arrays[name] if name in arrays else feeds[name])
        return list(results[: len(wanted)])

    def _note(self, name: str, array: Floats) -> None:
        if name in self._ranges:
            flat = array.ravel()
            kept = flat[self._random.integers(0, flat.size, _SAMPLES)]
            self._samples.setdefault(name, []).extend(
                (kept, np.array([flat.min(), flat.max()], np.float32))
            )
        if name not in self._inputs:
            return
        rows = np.moveaxis(array, self._inputs[name], -1)
        rows = rows.reshape(-1, rows.shape[-1])
        mean = rows.mean(axis=0)
        if array.ndim == 4 and len(rows) > _PLACES:
            rows = rows[self._random.integers(0, len(rows), _PLACES)]
        count = len(rows)
        self._counts[name] = self._counts.get(name, 0) + count
        self._sums[name] = self._sums.get(name, np.float32(0)) + mean * np.float32(count)
        self._products[name] = self._products.get(name, np.float32(0)) + rows.T @ rows

    def statistics(self) -> Statistics:
        """Return the statistics so far."""
        counts = {name: np.float32(count) for name, count in self._counts.items()}
        return Statistics(
            {name: _best_range(np.concatenate(parts)) for name, parts in self._samples.items()},
            {name: total / counts[name] for name, total in self._sums.items()},
            {name: total / counts[name] for name, total in self._products.items()},
        )


def _best_range(values: Floats) -> tuple[float, float]:
    """Return the range whose 256 steps represent values with the least squared error.

    0 is one of the steps.
    """
    best, least = (0.0, 1.0), np.inf
    for percentile in _PERCENTILES:
        low = min(0.0, float(np.percentile(values, 100 - percentile)))
        high = max(0.0, float(np.percentile(values, percentile)))
        if high - low == 0:
            continue
        scale, zero = scale_of((low, high))
        steps = np.clip(np.rint(values / scale) + zero, 0, 255)
        error = float(np.square((steps - zero) * scale - values).mean())
        if error < least:
            best, least = (low, high), error
    return best


def scale_of(bounds: tuple[float, float]) -> tuple[np.float32, int]:
    """Return the scale of 256 steps over a range, and the zero point."""
    low, high = bounds
    scale = np.float32((high - low) / 255)
    return scale, round(-low / float(scale))
