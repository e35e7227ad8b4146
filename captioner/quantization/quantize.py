"""Write the quantized copy of a checkpoint.

In the CNN, biases correct the mean error of the weights (Nagel et al. 2019, "Data-free quantization
through weight equalization and bias correction"). Matrices of the decoder and the classifier are
unpacked to float32 and multiplied in it.
"""

import os
from collections.abc import Iterable, Sequence
from itertools import count, filterfalse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, load_model, numpy_helper, save_model
from safetensors import SafetensorError
from safetensors.numpy import save_file

from captioner.backends.onnx import OnnxBackend
from captioner.checkpoint import (
    CARD,
    ONNX_PAIR,
    WEIGHTS,
    Checkpoint,
    check_replaceable,
    read_checkpoint,
    write_checkpoint,
)
from captioner.errors import CheckpointError
from captioner.quantization.calibration import Statistics, calibrate, scale_of
from captioner.quantization.packing import PIECE, Store, narrow_indices, refer, unpack_integers
from captioner.quantization.rounding import by_block, by_channel
from captioner.weights import weight_places

Floats = NDArray[np.float32]

# Bits of weights: more where errors cost more, as measured on the bundled model.
_SMALL_BITS, _CNN_BITS, _LARGE_BITS = 8, 6, 5  # of small and depthwise convolutions, others, large
_LEAST, _LARGE = 4096, 100_000  # minimum number of weights of a medium tensor; of a large one
_TINY = 16  # maximum number of weights of a tensor that stays in the graph
_DECODER_BITS, _ENCODER_BITS = 5, 4  # of matrices
_QUANTIZED = {
    "cnn": [_LARGE_BITS, _CNN_BITS, _SMALL_BITS],
    "matrices": [_ENCODER_BITS, _DECODER_BITS],
}


def quantize(folder: Path, output: Path, photos: Iterable[Path]) -> Checkpoint:
    """Write a quantized copy of a checkpoint.

    Args:
        folder: A checkpoint folder with its ONNX pair.
        output: The output folder; replaced if it is another checkpoint.
        photos: Representative photos for calibration; the first 256 are used.

    Returns:
        The copy. It requires ONNX Runtime, and cannot be fine-tuned.

    Raises:
        CheckpointError: The folder has no ONNX pair, is quantized already, is a model of clips, or
            is the output folder too; or the output folder has other files than a checkpoint's.
        ImageError: A photo cannot be read.
    """
    checkpoint = read_checkpoint(folder)
    if checkpoint.frames:
        raise CheckpointError(f"{folder} captions clips; expected a model of photos.")
    if checkpoint.quantized or not checkpoint.has_onnx:
        what = "is quantized already" if checkpoint.quantized else "has no ONNX pair"
        raise CheckpointError(f"{folder} {what}; expected a folder that captioner export wrote.")
    if output.exists() and output.samefile(folder):
        raise CheckpointError(
            f"{output} is the model itself, whose weights would be lost; choose another folder for"
            " the quantized copy."
        )
    check_replaceable(output.resolve())  # before minutes of work
    encoder, decoder = _float_encoder(folder), load_model(folder / ONNX_PAIR[1])
    statistics = calibrate(
        checkpoint,
        photos,
        encoder,
        decoder,
        _tensors(encoder),
        (_inputs(encoder), _inputs(decoder)),
    )
    store = Store()
    _pack_matrices(encoder, store, statistics, _ENCODER_BITS)
    _quantize_cnn(encoder, statistics, store)
    _pack_matrices(decoder, store, statistics, _DECODER_BITS)

    def fill(temporary: Path) -> None:
        try:
            save_file(store.tensors, temporary / WEIGHTS)
        except SafetensorError as error:
            raise CheckpointError(
                f"{output} cannot be written ({error}); is the disk full?"
            ) from error
        places = weight_places(temporary / WEIGHTS)
        for name, graph in zip(ONNX_PAIR, (encoder, decoder), strict=True):
            refer(graph, places)
            _strip(graph)
            narrow_indices(graph)
            save_model(graph, temporary / name)
        OnnxBackend(temporary)  # can be loaded

    card_file = folder / CARD
    card = card_file.read_text(encoding="utf-8", errors="replace") if card_file.is_file() else ""
    write_checkpoint(
        output,
        architecture=checkpoint.architecture,
        preprocessing=checkpoint.preprocessing,
        decoding=checkpoint.decoding,
        vocabulary=checkpoint.vocabulary,
        card=f"{card.rstrip()}\n\n{_CARD}".lstrip(),
        fill=fill,
        tags=checkpoint.tags,
        quantized=_QUANTIZED,
    )
    return read_checkpoint(output)


_CARD = f"""## Quantized

Activations of the CNN are 8-bit integers; its weights are stored in {_LARGE_BITS} to {_SMALL_BITS}
bits, those of the decoder and the classifier in {_ENCODER_BITS} and {_DECODER_BITS}. The scores
above were measured before quantization.
"""


def _float_encoder(folder: Path) -> ModelProto:
    """Export the encoder in float32, with BatchNorm folded into its convolutions."""
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


# --- Calibrated tensors ---


class _Product(NamedTuple):
    """The product that a matrix takes part in."""

    # the tensors of inputs, whose last axis is multiplied; several if each has its own columns
    sources: tuple[str, ...]
    transposed: bool  # whether the matrix is (inputs, outputs)


def _inputs(model: ModelProto) -> dict[str, int]:
    """Return the inputs of all weights that are rounded for them, and the axis of their channels.

    Some CNNs, such as ConvNeXt, multiply feature maps (B, H, W, C) by matrices.
    """
    convolutions = [node.input[0] for node in _quantized_nodes(model) if node.op_type == "Conv"]
    matrices = [
        source
        for tensor in _matrices(model)
        if (product := _product(model, tensor.name)) is not None
        for source in product.sources
    ]
    return dict.fromkeys(matrices, -1) | dict.fromkeys(convolutions, 1)


def _tensors(model: ModelProto) -> list[str]:
    """Return the tensors around the convolutions, which are quantized."""
    made = {name for node in model.graph.node for name in node.output}
    around = [
        name
        for node in _quantized_nodes(model)
        for name in (*_activations(node), _result(model, node))
        if name in made
    ]
    return list(dict.fromkeys(around))


def _matrices(model: ModelProto) -> list[TensorProto]:
    return [
        tensor
        for tensor in model.graph.initializer
        if len(tensor.dims) == 2 and tensor.dims[0] * tensor.dims[1] >= _LEAST
    ]


def _product(model: ModelProto, name: str) -> _Product | None:
    """Find the product of a stored matrix, after its cast to float32 and a possible transpose.

    The inputs of a matrix may be split, as a decoder multiplies some of them for fewer rows.
    """
    # the matrix's names -> which part it is, and whether it is (inputs, outputs) there
    names = {name: (0, True)}
    products: dict[int, tuple[str, bool]] = {}
    for node in model.graph.node:
        if node.op_type in ("Cast", "Transpose", "Split") and node.input[0] in names:
            part, transposed = names[node.input[0]]
            for index, output in enumerate(node.output):
                names[output] = part + index, transposed != (node.op_type == "Transpose")
        elif node.op_type in ("MatMul", "Gemm") and node.input[1] in names:
            part, transposed = names[node.input[1]]
            flipped = node.op_type == "Gemm" and _attribute(node, "transB", 0)
            products.setdefault(part, (node.input[0], transposed != bool(flipped)))
    if not products:
        return None
    sources, sides = zip(*(products[part] for part in sorted(products)), strict=True)
    return _Product(sources, sides[0])


def _gram(statistics: Statistics, product: _Product) -> Floats:
    """Return the gram of a product's inputs; between inputs that are split, it is unknown: 0."""
    grams = [statistics.grams[source] for source in product.sources]
    whole = np.zeros((sum(map(len, grams)),) * 2, np.float32)
    start = 0
    for gram in grams:
        whole[start : start + len(gram), start : start + len(gram)] = gram
        start += len(gram)
    return whole


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((entry.i for entry in node.attribute if entry.name == name), default)


# --- The CNN ---


def _quantized_nodes(model: ModelProto) -> list[NodeProto]:
    """Return all convolutions except those that see pixels, and sums of feature maps.

    The first sees them, and others may beside it, as in RepVGG.
    """
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
    pixels = {node.input[0] for node in convolutions[:1]}
    inner = [
        node for node in convolutions if node.input[0] not in pixels and node.input[1] in weights
    ]
    return [*inner, *sums]


def _activations(node: NodeProto) -> list[str]:
    return list(node.input[:1] if node.op_type == "Conv" else node.input)


def _result(model: ModelProto, node: NodeProto) -> str:
    """Find the tensor of a node that is quantized: after its activation, if it has one."""
    after = [other for other in model.graph.node if node.output[0] in other.input]
    clipped = len(after) == 1 and after[0].op_type in ("Clip", "Relu")
    return str(after[0].output[0] if clipped else node.output[0])


def _quantize_cnn(model: ModelProto, statistics: Statistics, store: Store) -> None:
    """Insert Q/DQ pairs after tensors, and replace weights and biases with integers."""
    graph, ranges = model.graph, statistics.ranges
    arrays = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_location != TensorProto.EXTERNAL
    }
    prepared: list[NodeProto] = []
    for node in _quantized_nodes(model):
        if node.op_type != "Conv":
            continue
        source = node.input[0]
        weight = arrays[node.input[1]]
        bits, gram = _CNN_BITS, None
        groups = _attribute(node, "group", 1)
        if groups > 1 or weight.size < _LEAST or weight.size % PIECE:
            bits = _SMALL_BITS
        elif weight.shape[2:] == (1, 1):
            bits = _LARGE_BITS if weight.size >= _LARGE else _CNN_BITS
            gram = statistics.grams[source]
        steps, scale = by_channel(weight, bits, gram)
        error = weight - steps * scale.reshape(-1, 1, 1, 1)
        bias = arrays[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight), np.float32)
        mean = statistics.means[source].reshape(groups, 1, -1)
        by_group = error.sum(axis=(2, 3)).reshape(groups, -1, weight.shape[1])
        bias = bias + (by_group * mean).sum(axis=2).ravel()
        name = f"cnn{len(prepared)}"  # short, as it occurs thirty times in the graph
        prepared += unpack_integers(model, store, name, steps.astype(np.int8), bits)
        store.add(model, f"{name}.half", scale.astype(np.float16))
        whole = scale * scale_of(ranges[source])[0]
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
        step, zero = scale_of(bounds)
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


# --- Matrices and other weights ---


def _pack_matrices(model: ModelProto, store: Store, statistics: Statistics, bits: int) -> None:
    """Store all weights but those of convolutions: matrices as integers, the rest as float16.

    Args:
        model: The graph, changed in place.
        store: The store of the weights.
        statistics: The statistics of the products' inputs.
        bits: The number of bits for matrices.
    """
    graph = model.graph
    halves = {node.input[0]: node for node in graph.node if node.op_type == "Cast"}
    large = {tensor.name for tensor in _matrices(model)}
    inner = {node.input[1] for node in _quantized_nodes(model) if node.op_type == "Conv"}
    inner |= {name for node in _quantized_nodes(model) for name in node.input[2:]}
    prepared: list[NodeProto] = []
    for tensor in list(graph.initializer):
        stored = tensor.data_location == TensorProto.EXTERNAL or tensor.name in inner
        if stored or tensor.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
            continue
        values = numpy_helper.to_array(tensor).astype(np.float32)
        if values.size < _TINY:
            continue
        product = _product(model, tensor.name)
        name = tensor.name.removeprefix("model.").removesuffix(".half")
        target = tensor.name
        if tensor.name in halves and tensor.data_type == TensorProto.FLOAT16:
            cast = halves[tensor.name]
            target = cast.output[0]
            graph.node.remove(cast)
        if tensor.name in large:
            transposed = product is not None and product.transposed
            matrix = np.ascontiguousarray(values.T) if transposed else values
            gram = None if product is None else _gram(statistics, product)
            nodes = _pack_matrix(model, store, name, matrix, gram, bits)
            nodes[-1].output[0] = f"{name}.rows" if transposed else target
            if transposed:
                nodes.append(helper.make_node("Transpose", [f"{name}.rows"], [target]))
            prepared += nodes
        else:
            stored_name = store.add(model, f"{name}.stored", _halved(values))
            prepared.append(helper.make_node("Cast", [stored_name], [target], to=TensorProto.FLOAT))
        graph.initializer.remove(tensor)
    _set_nodes(model, [*prepared, *graph.node])


def _halved(values: Floats) -> NDArray[np.float16] | Floats:
    """Round values to float16, unless one is beyond its range."""
    return values if np.abs(values).max() > np.finfo(np.float16).max else values.astype(np.float16)


def _pack_matrix(
    model: ModelProto, store: Store, name: str, matrix: Floats, gram: Floats | None, bits: int
) -> list[NodeProto]:
    """Store a matrix as integers; return the nodes that unpack it, the last with its values."""
    steps, scale = by_block(matrix, bits, gram)
    nodes = unpack_integers(model, store, name, steps.astype(np.int8), bits)
    store.add(model, f"{name}.scale", scale.astype(np.float16))
    constants = {
        "shape": np.array(matrix.shape, np.int64),
        "start": np.array([0], np.int64),
        "end": np.array([matrix.size], np.int64),
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
        make("Reshape", [f"{name}.cut", f"{name}.shape"], [f"{name}.matrix"]),
    ]


def _strip(model: ModelProto) -> None:
    """Drop what ONNX Runtime doesn't need: types that it infers, and long names."""
    graph = model.graph
    del graph.value_info[:]
    kept = {entry.name for entry in (*graph.input, *graph.output, *graph.initializer)}
    short = filterfalse(kept.__contains__, (f"t{number:x}" for number in count()))
    names = {name: name for name in kept} | {"": ""}  # "" is an optional input that is left out
    for node in graph.node:  # in their order, so inputs have their new names
        node.ClearField("name")
        node.input[:] = [names[name] for name in node.input]
        for name in node.output:
            names.setdefault(name, next(short))
        node.output[:] = [names[name] for name in node.output]


def _set_nodes(model: ModelProto, nodes: Sequence[NodeProto]) -> None:
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
