"""A checkpoint -> a bundle of a third of its size, whose CNN computes in 8-bit integers.

The CNN is quantized statically. Activations are 8-bit integers whose ranges come from calibration
photos: of the largest values of each tensor as many are clipped as makes the squared error least,
for plain minimum and maximum let rare outliers take the range of all others. Weights have a scale
for each output channel, and biases make up for the mean error of the weights (Nagel et al. 2019,
"Data-free quantization through weight equalization and bias correction").

Weights of the CNN are stored in 6 bits, and those of matrices (decoder, classifier) in 4 bits with
a scale for every 64 of them. Both graphs unpack them by ordinary operators, which ONNX Runtime
computes once, when it loads them; matrices multiply in float32.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, load_model, numpy_helper, save_model
from safetensors.numpy import save_file

from captioner.backends.onnx import OnnxBackend
from captioner.checkpoint import (
    ONNX_PAIR,
    WEIGHTS,
    Checkpoint,
    WeightPlace,
    read_checkpoint,
    weight_places,
    write_checkpoint,
)
from captioner.errors import CheckpointError
from captioner.images import open_image

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

CNN_BITS, MATRIX_BITS, BLOCK = 6, 4, 64
PHOTOS = 64  # that calibration takes
_SAMPLES = 4096  # values of a tensor that are kept of each photo
_SMALLEST = 1e-5  # scale, of rows that are all but 0
_LEAST = 4096  # weights of a tensor; smaller ones stay half floats
_PERCENTILES = (99.0, 99.9, 99.99, 99.999, 100.0)
_KINDS = {
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int32": TensorProto.INT32,
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
}


def quantize(folder: Path, output: Path, photos: Iterable[Path]) -> Checkpoint:
    """Write a quantized copy of a checkpoint.

    Args:
        folder: A checkpoint folder with its ONNX pair.
        output: Where; replaced if it is a checkpoint.
        photos: Photos like those that will be captioned; the first 64 that can be read count.

    Returns:
        The copy. It captions on ONNX Runtime alone, and cannot be trained on.

    Raises:
        CheckpointError: The folder has no ONNX pair, is quantized already, or is a model of clips.
        ImageError: A photo cannot be read.
    """
    checkpoint = read_checkpoint(folder)
    if checkpoint.frames:
        raise CheckpointError(f"{folder} captions clips; expected a model of photos.")
    if checkpoint.quantized or not checkpoint.has_onnx:
        what = "is quantized already" if checkpoint.quantized else "has no ONNX pair"
        raise CheckpointError(f"{folder} {what}; expected a folder that captioner export wrote.")
    encoder, decoder = _float_encoder(folder), load_model(folder / ONNX_PAIR[1])
    ranges, means = _calibrate(encoder, _pixels(checkpoint, photos))
    store = _Store()
    _quantize_cnn(encoder, ranges, means, store)
    _pack_matrices(encoder, store)
    _pack_matrices(decoder, store)

    def fill(temporary: Path) -> None:
        save_file(store.tensors, temporary / WEIGHTS)
        places = weight_places(temporary / WEIGHTS)
        for name, graph in zip(ONNX_PAIR, (encoder, decoder), strict=True):
            _refer(graph, places)
            save_model(graph, temporary / name)
        OnnxBackend(temporary)  # can be loaded

    card = (folder / "README.md").read_text(encoding="utf-8")
    write_checkpoint(
        output,
        architecture=checkpoint.architecture,
        preprocessing=checkpoint.preprocessing,
        decoding=checkpoint.decoding,
        vocabulary=checkpoint.vocabulary,
        card=f"{card.rstrip()}\n\n{_CARD}",
        fill=fill,
        tags=checkpoint.tags,
        quantized={"cnn": CNN_BITS, "matrices": MATRIX_BITS},
    )
    return read_checkpoint(output)


_CARD = f"""## Quantized

Activations of the CNN are 8-bit integers, its weights are stored in {CNN_BITS} bits, those of the
decoder and the classifier in {MATRIX_BITS}. The scores above were measured before quantization.
"""


@dataclass
class _Store:
    """The tensors of the new weights file by name."""

    tensors: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    def add(self, model: ModelProto, name: str, array: NDArray[np.generic]) -> str:
        """Store a tensor, and give a graph an initializer for it, whose place `_refer` fills in."""
        self.tensors[name] = np.ascontiguousarray(array)
        kind = _KINDS[array.dtype.name]
        model.graph.initializer.append(
            TensorProto(name=name, data_type=kind, dims=array.shape, data_location="EXTERNAL")
        )
        return name


def _refer(model: ModelProto, places: Mapping[str, WeightPlace]) -> None:
    """Let initializers that `_Store` added be read from the weights file."""
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            _, offset, length = places[tensor.name]
            del tensor.external_data[:]
            for key, value in (("location", WEIGHTS), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))


def _float_encoder(folder: Path) -> ModelProto:
    """The encoder in float32, with BatchNorm folded into its convolutions."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with TemporaryDirectory() as temporary:
        path = os.path.join(temporary, "float.onnx")
        options.optimized_model_filepath = path
        onnxruntime.InferenceSession(
            folder / ONNX_PAIR[0], options, providers=["CPUExecutionProvider"]
        )
        return load_model(path)


def _pixels(checkpoint: Checkpoint, photos: Iterable[Path]) -> list[Floats]:
    size = checkpoint.preprocessing.size
    chosen = [path for path, _ in zip(photos, range(PHOTOS), strict=False)]
    if not chosen:
        raise CheckpointError("There is no photo to calibrate on; expected a folder of some.")
    return [checkpoint.preprocessing(open_image(path, min_size=size))[None] for path in chosen]


# --- Calibration ---

Ranges = dict[str, tuple[float, float]]


def _calibrate(model: ModelProto, pixels: Sequence[Floats]) -> tuple[Ranges, dict[str, Floats]]:
    """The range of each tensor around the convolutions, and the means of its channels."""
    nodes = {output: node for node in model.graph.node for output in node.output}
    wanted = [
        name
        for node in _quantized_nodes(model)
        for name in (*_activations(node), _result(model, node))
        if name in nodes
    ]
    wanted = list(dict.fromkeys(wanted))
    probe = ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted
    )
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(0)
    samples: dict[str, list[Floats]] = {name: [] for name in wanted}
    sums: dict[str, Floats] = {}
    for one in pixels:
        for name, array in zip(wanted, session.run(wanted, {"pixels": one}), strict=True):
            flat = array.ravel()
            samples[name].append(flat[random.integers(0, flat.size, _SAMPLES)])
            samples[name].append(np.array([flat.min(), flat.max()]))
            sums[name] = sums.get(name, 0) + array.mean(axis=(0, 2, 3))
    ranges = {name: _best_range(np.concatenate(values)) for name, values in samples.items()}
    return ranges, {
        name: np.asarray(total / len(pixels), np.float32) for name, total in sums.items()
    }


def _best_range(values: Floats) -> tuple[float, float]:
    """The range whose 256 steps give values with the least squared error; 0 is one of the steps."""
    best, least = (0.0, 1.0), np.inf
    for percentile in _PERCENTILES:
        low = min(0.0, float(np.percentile(values, 100 - percentile)))
        high = max(0.0, float(np.percentile(values, percentile)))
        if high - low == 0:
            continue
        scale, zero = _scale((low, high))
        steps = np.clip(np.rint(values / scale) + zero, 0, 255)
        error = float(np.square((steps - zero) * scale - values).mean())
        if error < least:
            best, least = (low, high), error
    return best


def _scale(bounds: tuple[float, float]) -> tuple[np.float32, int]:
    low, high = bounds
    scale = np.float32((high - low) / 255)
    return scale, round(-low / float(scale))


# --- The CNN ---


def _quantized_nodes(model: ModelProto) -> list[NodeProto]:
    """Convolutions but for the first, which sees pixels, and sums of feature maps."""
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    weights = {tensor.name for tensor in model.graph.initializer}
    maps = {name for node in convolutions for name in node.output}
    sums = []
    for node in model.graph.node:
        if node.op_type == "Clip" and node.input[0] in maps:
            maps.update(node.output)
        if node.op_type == "Add" and all(name in maps for name in node.input):
            maps.update(node.output)
            sums.append(node)
    inner = [node for node in convolutions[1:] if node.input[1] in weights]
    return [*inner, *sums]


def _activations(node: NodeProto) -> list[str]:
    return list(node.input[:1] if node.op_type == "Conv" else node.input)


def _result(model: ModelProto, node: NodeProto) -> str:
    """What is quantized of a node's result: that behind its activation, if it has one."""
    after = [other for other in model.graph.node if node.output[0] in other.input]
    clipped = len(after) == 1 and after[0].op_type in ("Clip", "Relu")
    return str(after[0].output[0] if clipped else node.output[0])


def _quantize_cnn(
    model: ModelProto, ranges: Ranges, means: Mapping[str, Floats], store: _Store
) -> None:
    """Insert Q/DQ pairs behind tensors, and replace weights and biases by integers."""
    graph = model.graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    prepared: list[NodeProto] = []
    for node in _quantized_nodes(model):
        if node.op_type != "Conv":
            continue
        source = node.input[0]
        weight = arrays[node.input[1]]
        steps, scale = _per_channel(weight, CNN_BITS if weight.size >= _LEAST else 8)
        error = weight - steps * scale.reshape(-1, 1, 1, 1)
        bias = arrays[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight), np.float32)
        if source in means:
            mean = means[source].reshape(_groups(node), 1, -1)
            by_group = error.sum(axis=(2, 3)).reshape(_groups(node), -1, weight.shape[1])
            bias = bias + (by_group * mean).sum(axis=2).ravel()
        name = f"cnn{len(prepared)}"  # short: it stands in the graph thirty times
        bits = CNN_BITS if weight.size >= _LEAST else 8
        prepared += _unpack_integers(model, store, name, steps, bits)
        store.add(model, f"{name}.half", scale.astype(np.float16))
        whole = scale * _scale(ranges[source])[0]
        store.add(model, f"{name}.bias", np.rint(bias / whole).astype(np.int32))
        make = helper.make_node
        prepared += [
            make("Cast", [f"{name}.half"], [f"{name}.scale"], to=TensorProto.FLOAT),
            make("DequantizeLinear", [f"{name}.steps", f"{name}.scale"], [f"{name}.value"], axis=0),
            make("Mul", [f"{name}.scale", f"{source}.s"], [f"{name}.whole"]),
            make("DequantizeLinear", [f"{name}.bias", f"{name}.whole"], [f"{name}.add"], axis=0),
        ]
        node.input[:] = [source, f"{name}.value", f"{name}.add"]
    outputs = {output.name for output in graph.output}
    made = {name for node in graph.node for name in node.output}
    behind: dict[str, list[NodeProto]] = {}
    for name, bounds in ranges.items():
        if name not in made or name in outputs:
            continue
        step, zero = _scale(bounds)
        graph.initializer.append(numpy_helper.from_array(np.array(step), f"{name}.s"))
        graph.initializer.append(numpy_helper.from_array(np.array(zero, np.uint8), f"{name}.z"))
        behind[name] = [
            helper.make_node("QuantizeLinear", [name, f"{name}.s", f"{name}.z"], [f"{name}.q"]),
            helper.make_node(
                "DequantizeLinear", [f"{name}.q", f"{name}.s", f"{name}.z"], [f"{name}.dq"]
            ),
        ]
    nodes = list(prepared)
    for node in graph.node:
        node.input[:] = [f"{name}.dq" if name in behind else name for name in node.input]
        nodes.append(node)
        for name in node.output:
            nodes += behind.get(name, [])
    _set_nodes(model, nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _groups(node: NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


def _per_channel(weight: Floats, bits: int) -> tuple[NDArray[np.int8], Floats]:
    """Quantize to so many bits, with the scale per output channel of least squared error."""
    largest = 2 ** (bits - 1) - 1
    flat = weight.reshape(len(weight), -1)
    steps, scale = _least_error(flat, largest, -largest)
    return steps.astype(np.int8).reshape(weight.shape), scale[:, 0]


def _least_error(rows: Floats, most: int, least: int) -> tuple[Floats, Floats]:
    """Yield each row's integers and scale (rows, 1), for scales that clip more or less."""
    extreme = np.maximum(np.abs(rows).max(axis=1, keepdims=True) / most, _SMALLEST)
    best = np.full((len(rows), 1), np.inf, np.float32)
    steps, scales = np.zeros_like(rows), extreme.astype(np.float32)
    for share in np.linspace(0.7, 1.05, 15, dtype=np.float32):
        scale = (extreme * share).astype(np.float16).astype(np.float32)
        scale = np.where(scale > 0, scale, extreme).astype(np.float32)
        rounded = np.clip(np.rint(rows / scale), least, most)
        error = np.square(rounded * scale - rows).sum(axis=1, keepdims=True)
        better = error < best
        best = np.where(better, error, best)
        scales = np.where(better, scale, scales)
        steps = np.where(better, rounded, steps)
    return steps, scales


# --- Packing ---


def _pack_matrices(model: ModelProto, store: _Store) -> None:
    """Store the weights that are still floats: matrices in 4 bits, the rest as half floats."""
    graph = model.graph
    halves = {node.input[0]: node for node in graph.node if node.op_type == "Cast"}
    folder = [tensor for tensor in graph.initializer if tensor.data_location != 1]
    prepared: list[NodeProto] = []
    for tensor in folder:
        if tensor.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
            continue
        array = numpy_helper.to_array(tensor)
        if array.size < 16:
            continue
        name = tensor.name.removeprefix("model.").removesuffix(".half")
        target = tensor.name
        if tensor.name in halves and tensor.data_type == TensorProto.FLOAT16:
            cast = halves[tensor.name]
            target = cast.output[0]
            graph.node.remove(cast)
        graph.initializer.remove(tensor)
        values = array.astype(np.float32)
        if array.ndim == 2 and array.size >= _LEAST:
            prepared += _pack_matrix(model, store, name, values, target)
        else:
            stored = store.add(model, f"{name}.stored", values.astype(np.float16))
            prepared.append(helper.make_node("Cast", [stored], [target], to=TensorProto.FLOAT))
    _set_nodes(model, [*prepared, *graph.node])


def _pack_matrix(
    model: ModelProto, store: _Store, name: str, values: Floats, target: str
) -> list[NodeProto]:
    flat = values.ravel()
    padded = np.pad(flat, (0, -flat.size % BLOCK)).reshape(-1, BLOCK)
    steps, scale = _least_error(padded, 7, -8)
    nodes = _unpack_integers(model, store, name, steps.astype(np.int8), MATRIX_BITS)
    store.add(model, f"{name}.scale", scale.astype(np.float16))
    constants = {
        "shape": np.array(values.shape, np.int64),
        "start": np.array([0], np.int64),
        "end": np.array([flat.size], np.int64),
        "flat": np.array([-1], np.int64),
    }
    for key, array in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(array, f"{name}.{key}"))
    make = helper.make_node
    return [
        *nodes,
        make("Cast", [f"{name}.steps"], [f"{name}.floats"], to=TensorProto.FLOAT),
        make("Cast", [f"{name}.scale"], [f"{name}.factor"], to=TensorProto.FLOAT),
        make("Mul", [f"{name}.floats", f"{name}.factor"], [f"{name}.blocks"]),
        make("Reshape", [f"{name}.blocks", f"{name}.flat"], [f"{name}.row"]),
        make("Slice", [f"{name}.row", f"{name}.start", f"{name}.end"], [f"{name}.cut"]),
        make("Reshape", [f"{name}.cut", f"{name}.shape"], [target]),
    ]


def _unpack_integers(
    model: ModelProto, store: _Store, name: str, steps: NDArray[np.int8], bits: int
) -> list[NodeProto]:
    """Store integers of 4, 6 or 8 bits; nodes that give them as int8 under `NAME.steps`."""
    if bits == 8:
        store.add(model, f"{name}.steps", steps)
        return []
    low, high = pack(steps, bits)
    make, graph = helper.make_node, model.graph
    store.add(model, f"{name}.low", low)
    shape = np.array(steps.shape, np.int64)
    constants: dict[str, np.integer[Any]] = {
        "four": np.uint8(4),
        "nibble": np.uint8(15),
        "three": np.uint8(3),
    }
    constants |= {"two": np.uint8(2), "six": np.uint8(6), "middle": np.int32(2 ** (bits - 1))}
    known = {tensor.name for tensor in graph.initializer}
    for key, value in constants.items():
        if f"unpack.{key}.{bits}" not in known:
            graph.initializer.append(
                numpy_helper.from_array(np.array(value), f"unpack.{key}.{bits}")
            )
    graph.initializer.append(numpy_helper.from_array(shape, f"{name}.steps_shape"))
    four, nibble, three, two, six, middle = (f"unpack.{key}.{bits}" for key in constants)
    nodes = [
        make("BitwiseAnd", [f"{name}.low", nibble], [f"{name}.l0"]),
        make("BitShift", [f"{name}.low", four], [f"{name}.l1"], direction="RIGHT"),
        make("Concat", [f"{name}.l0", f"{name}.l1"], [f"{name}.u4"], axis=0),
    ]
    whole = f"{name}.u4"
    if bits == 6:
        store.add(model, f"{name}.high", high)
        parts = []
        for index, shift in enumerate((None, two, four, six)):
            part = f"{name}.high"
            if shift is not None:
                nodes.append(
                    make("BitShift", [part, shift], [f"{name}.s{index}"], direction="RIGHT")
                )
                part = f"{name}.s{index}"
            nodes.append(make("BitwiseAnd", [part, three], [f"{name}.h{index}"]))
            parts.append(f"{name}.h{index}")
        nodes += [
            make("Concat", parts, [f"{name}.u2"], axis=0),
            make("BitShift", [f"{name}.u2", four], [f"{name}.u2s"], direction="LEFT"),
            make("BitwiseOr", [whole, f"{name}.u2s"], [f"{name}.u6"]),
        ]
        whole = f"{name}.u6"
    return [
        *nodes,
        make("Cast", [whole], [f"{name}.wide"], to=TensorProto.INT32),
        make("Sub", [f"{name}.wide", middle], [f"{name}.signed"]),
        make("Cast", [f"{name}.signed"], [f"{name}.narrow"], to=TensorProto.INT8),
        make("Reshape", [f"{name}.narrow", f"{name}.steps_shape"], [f"{name}.steps"]),
    ]


def pack(steps: NDArray[np.int8], bits: int) -> tuple[Bytes, Bytes]:
    """Pack integers of 4 or 6 bits into bytes.

    Args:
        steps: Their number is divisible by 4.
        bits: 4 or 6.

    Returns:
        The lower 4 bits of each, (N / 2,), of the first half of them in the lower half of the
        bytes; and the upper 2, (N / 4,), of the first quarter in the lowest bits.
    """
    assert steps.size % 4 == 0
    values = (steps.astype(np.int32) + 2 ** (bits - 1)).ravel().astype(np.uint8)
    first, second = np.split(values & 15, 2)
    quarters = np.split(values >> 4, 4)
    high = quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
    return first | second << 4, high


def _set_nodes(model: ModelProto, nodes: Sequence[NodeProto]) -> None:
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
