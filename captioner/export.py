"""Save a trained model as a checkpoint folder, with ONNX files that are verified against torch.

The folder contains the weights once, in `model.safetensors`. The ONNX graphs refer to them as
external data (a safetensors file is a header followed by the raw tensors), so the folder is half as
large as with copies.
"""

import logging
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper, save_model
from onnxscript import ir, optimizer
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from captioner.backends.onnx import CLASSES, EVENTS, OnnxBackend
from captioner.backends.protocol import Encoded
from captioner.backends.torch import TorchBackend
from captioner.checkpoint import (
    ONNX_PAIR,
    WEIGHTS,
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from captioner.decoding.search import DecodingOptions
from captioner.errors import CheckpointError
from captioner.model.beams import Beams
from captioner.model.captioning import CaptioningModel
from captioner.preprocessing import Preprocessing
from captioner.vocabulary import START, Vocabulary
from captioner.weights import WeightPlace, weight_places

logger = logging.getLogger(__name__)

OPSET = 20
_OWN = "model."  # prefix of the names of a model's weights in a traced graph
_FEW = 16  # maximum size of a constant that is compared with others
_CONSTANTS = {
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_float": np.float32,
    "value_floats": np.float32,
}
_KINDS = {"F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT}  # of safetensors' dtypes
# Absolute for log-probabilities, relative to the largest for class logits: rounding in float32
# accumulates to 1e-4 over fifty layers, a bug causes far more.
TOLERANCE = 1e-3


def save_checkpoint(
    folder: Path,
    model: CaptioningModel,
    *,
    vocabulary: Vocabulary,
    preprocessing: Preprocessing,
    decoding: DecodingOptions,
    card: str,
    half: bool = True,
    onnx: bool = True,
) -> Checkpoint:
    """Write a model as a checkpoint folder.

    Args:
        folder: The output folder; replaced if it exists.
        model: The model, on any device.
        vocabulary: Its words.
        preprocessing: Its preprocessing.
        decoding: The decoding defaults.
        card: The model card, Markdown.
        half: Whether to store weights as float16; computations still use float32. A tensor with a
            value beyond float16's range, such as a large variance of BatchNorm, stays float32.
        onnx: Whether to export the ONNX pair too; otherwise `export_onnx` can add it later.

    Returns:
        The checkpoint as written. The model itself is unchanged.
    """

    def fill(temporary: Path) -> None:
        state = model.portable_state()
        tensors = {}
        for name, tensor in state.items():
            dtype = torch.float16 if half and _fits(tensor) else torch.float32
            tensors[name] = tensor.to("cpu", dtype).contiguous()
        try:
            save_file(tensors, temporary / WEIGHTS)
        except SafetensorError as error:
            raise CheckpointError(
                f"{folder} cannot be written ({error}); is the disk full?"
            ) from error
        if onnx:
            export_onnx(temporary)

    write_checkpoint(
        folder,
        architecture=model.architecture(),
        preprocessing=preprocessing,
        decoding=decoding,
        vocabulary=vocabulary,
        card=card,
        fill=fill,
        tags=model.tags,
        events=model.events,
    )
    return read_checkpoint(folder)


def _fits(tensor: Tensor) -> bool:
    """Return whether all finite values of a tensor are finite in float16 too."""
    return bool((tensor.half().isfinite() == tensor.isfinite()).all())


def export_onnx(folder: Path) -> None:
    """Write `encoder.onnx` and `decoder.onnx` into a checkpoint folder, and verify them.

    Existing files are replaced only after the new ones are verified against torch.

    Args:
        folder: A checkpoint folder with its `model.safetensors`.

    Raises:
        CheckpointError: The folder is not a checkpoint, or the results differ from torch's.
    """
    checkpoint = read_checkpoint(folder)
    backend = TorchBackend.from_checkpoint(checkpoint)
    model, size = backend.model.eval(), checkpoint.preprocessing.size
    shape = (2, model.frames, 3, size, size) if model.frames else (2, 3, size, size)
    pixels = torch.from_numpy(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    with torch.no_grad():  # tracing doesn't accept tensors of inference mode
        image, state = model.decoder.prepare(model.regions_of(model.encoder(pixels)))
    names = [f"image.{name}" for name in image], [f"state.{name}" for name in state]
    scores = [CLASSES] * (model.classifier is not None) + [EVENTS] * (model.event_head is not None)
    encoder = trace(
        _EncoderGraph(model), (pixels,), ["pixels"], [*names[0], *names[1], *scores], ({0: "B"},)
    )

    # Lists, not tuples: the exporter mistakes an empty tuple of shapes (a decoder without image
    # arrays) for a list.
    grid = torch.tensor([[0, 1, 2], [3, 4, 3]])
    inputs = (
        [*image.values()],
        [array.repeat(3, 1) for array in state.values()],
        [torch.arange(5), grid, torch.arange(5), torch.arange(4) + START, grid % 4],  # Beams
    )
    shapes = (
        [{0: "B"} for _ in image],
        [{0: "R"} for _ in state],
        [{0: "P"}, {0: "B", 1: "K"}, {0: "P"}, {0: "W"}, {0: "B", 1: "K"}],
    )
    graph = _DecoderGraph(model, list(image), list(state))
    outputs = [
        "log_probs",
        *(f"{name}.next" for name in names[1]),
        *(["attention"] if "values" in image else []),
    ]
    decoder = trace(graph, inputs, [*names[0], *names[1], *Beams._fields], outputs, shapes)
    _find_distinct(decoder)
    _add_top_k(decoder)
    pointers = {tensor.data_ptr(): name for name, tensor in model.portable_state().items()}
    places = model.encoder.current_names(weight_places(folder / WEIGHTS), "encoder.")
    stored = {
        name: places[tied]
        for name, tensor in model.state_dict().items()
        if (tied := pointers.get(tensor.data_ptr(), name)) in places
    }
    new = (
        f"{ONNX_PAIR[0]}.new",
        f"{ONNX_PAIR[1]}.new",
    )  # temporary names until they are verified
    try:
        for name, proto in zip(new, (encoder, decoder), strict=True):
            _share_weights(proto, stored)
            save_model(proto, folder / name, format="protobuf")
        _verify(backend, OnnxBackend(folder, pair=new), pixels.numpy())
        for name, final in zip(new, ONNX_PAIR, strict=True):
            os.replace(
                folder / name, folder / final
            )  # replaces a link to a shared file, not the file
    except OSError as error:
        reason = (
            f"{folder}: the ONNX pair cannot be written ({error.strerror or error}). Free some"
            " space"
        )
        raise CheckpointError(f"{reason}, and run: captioner export {folder}") from error
    finally:
        for name in new:
            (folder / name).unlink(missing_ok=True)


class _EncoderGraph(nn.Module):
    """Pixels -> the decoder's inputs for the image, and the logits of classes and events."""

    def __init__(self, model: CaptioningModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        features = self.model.encoder(pixels)
        regions, events = self.model.look(features)
        image, state = self.model.decoder.prepare(regions)
        scores = (self.model.classes(features), events)
        return (*image.values(), *state.values(), *(each for each in scores if each is not None))


class _DecoderGraph(nn.Module):
    """One step of the decoder, including the reordering by parents."""

    def __init__(self, model: CaptioningModel, image: Sequence[str], state: Sequence[str]) -> None:
        super().__init__()
        # the whole model, so that parameters have the same names as in the checkpoint
        self.model = model
        self.image, self.state = image, state

    def forward(
        self, image: list[Tensor], state: list[Tensor], beams: list[Tensor]
    ) -> tuple[Tensor, ...]:
        shared = dict(zip(self.image, image, strict=True))
        before = dict(zip(self.state, state, strict=True))
        logits, after, attention = self.model.decoder.step_beams(shared, before, Beams(*beams))
        rows = (after[name].flatten(0, 1) for name in self.state)  # (B * K, H)
        pointing = self.model.decoder.pointer is not None  # gives log-probabilities
        log_probs = logits if pointing else logits.log_softmax(dim=2)
        return (log_probs, *rows, *(() if attention is None else (attention,)))


def trace(
    graph: nn.Module,
    inputs: tuple[object, ...],
    names: list[str],
    outputs: list[str],
    shapes: tuple[object, ...],
) -> ModelProto:
    """Export a module to an ONNX graph that holds its weights.

    Args:
        graph: The module; put into evaluation mode.
        inputs: Example inputs.
        names: The names of the graph's inputs.
        outputs: The names of its outputs.
        shapes: The dynamic sizes of the inputs, as for `torch.onnx.export`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.eval(),
            inputs,
            input_names=names,
            output_names=outputs,
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    assert program is not None
    optimizer.fold_constants(program.model, should_fold=_may_fold)
    optimizer.remove_unused_nodes(
        program.model
    )  # they would prevent ONNX Runtime from fusing their inputs
    proto = program.model_proto
    graph = proto.graph
    for part in (
        proto,
        graph,
        *graph.node,
        *graph.value_info,
        *graph.input,
        *graph.output,
        *graph.initializer,
    ):
        del part.metadata_props[
            :
        ]  # stack traces with local paths, many times larger than the graph
    simplify(proto)
    return proto


def simplify(model: ModelProto) -> None:
    """Remove redundant parts of an exported graph, so that ONNX Runtime loads it faster.

    Constants become initializers, shared if equal; convolutions lose biases of zeros, which cost
    three nodes each; and shapes that ONNX Runtime infers anyway are removed.

    Args:
        model: The graph, with its weights; changed in place.
    """
    graph = model.graph
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        (attribute,) = node.attribute
        value = helper.get_attribute_value(attribute)
        if attribute.name == "value":
            array = numpy_helper.to_array(value)
        elif attribute.name in _CONSTANTS:
            array = np.array(value, _CONSTANTS[attribute.name])
        else:
            continue
        graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
        graph.node.remove(node)
    known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    names: dict[str, str] = {}
    zeros: set[str] = set()
    for tensor in graph.initializer:
        if tensor.name.startswith(_OWN) or math.prod(tensor.dims) > _FEW:
            continue  # a weight, which is stored in the checkpoint
        array = numpy_helper.to_array(tensor)
        key = array.dtype.str, array.shape, array.tobytes()
        names[tensor.name] = known.setdefault(key, tensor.name)
        zeros |= set() if array.any() else {tensor.name}
    spread = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Expand"}
    for node in graph.node:
        if node.op_type == "Conv" and spread.get(node.input[-1]) in zeros:
            del node.input[-1]  # the bias
        node.input[:] = [names.get(name, name) for name in node.input]
    used = {name for node in graph.node for name in node.input}
    used |= {output.name for output in graph.output}
    nodes = [node for node in graph.node if used.intersection(node.output)]
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    for part, rest in ((graph.node, nodes), (graph.initializer, kept)):
        copies = [type(entry).FromString(entry.SerializeToString()) for entry in rest]
        del part[:]
        part.extend(copies)
    del graph.value_info[:]


def _may_fold(node: ir.Node) -> bool | None:
    """Prevent folding of nodes that use weights, which stay in their own file."""
    uses_weights = any(value is not None and value.is_initializer() for value in node.inputs)
    return False if uses_weights else None


def _find_distinct(decoder: ModelProto) -> None:
    """Replace the fields of `Beams` by inputs `parents` and `words`, (B, K) each."""
    graph, make = decoder.graph, helper.make_node
    inputs = [entry for entry in graph.input if entry.name not in Beams._fields]
    fields = ("parents", "rows", "first", "row_of"), ("words", "words.distinct", "", "word_of")
    for node in graph.node:
        node.input[:] = ["words.distinct" if name == "words" else name for name in node.input]
    del graph.input[:]
    graph.input.extend(inputs)
    found = []
    for name, distinct, first, inverse in fields:
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "K"]))
        found += [
            make("Unique", [name], [distinct, first, f"{inverse}.flat"]),
            make("Shape", [name], [f"{name}.shape"]),
            make("Reshape", [f"{inverse}.flat", f"{name}.shape"], [inverse]),
        ]
    nodes = [*found, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _add_top_k(decoder: ModelProto) -> None:
    """Add an input `k`, and outputs with the k best words and their log-probabilities."""
    graph = decoder.graph
    graph.input.append(helper.make_tensor_value_info("k", TensorProto.INT64, [1]))
    graph.node.append(
        helper.make_node("TopK", ["log_probs", "k"], ["top_log_probs", "top_words"], axis=2)
    )
    graph.output.append(
        helper.make_tensor_value_info("top_log_probs", TensorProto.FLOAT, ["B", "K", "k"])
    )
    graph.output.append(
        helper.make_tensor_value_info("top_words", TensorProto.INT64, ["B", "K", "k"])
    )


def _share_weights(proto: ModelProto, stored: Mapping[str, WeightPlace]) -> None:
    """Make the graph read its weights from the safetensors file, and cast them to float32.

    Args:
        proto: The graph.
        stored: The model's name of a tensor -> its location; tied tensors share one.
    """
    casts = []
    for tensor in proto.graph.initializer:
        place = stored.get(tensor.name.removeprefix(_OWN))
        if place is None:
            continue
        if place.dtype not in _KINDS:
            raise CheckpointError(
                f"{WEIGHTS} has {tensor.name.removeprefix(_OWN)} as {place.dtype}; expected"
                f" {' or '.join(_KINDS)}. Convert the weights to one of these."
            )
        kind = _KINDS[place.dtype]
        if kind == TensorProto.FLOAT16:
            casts.append(
                helper.make_node(
                    "Cast", [f"{tensor.name}.half"], [tensor.name], to=TensorProto.FLOAT
                )
            )
            tensor.name += ".half"
        tensor.ClearField("raw_data")
        tensor.data_type = kind
        tensor.data_location = TensorProto.EXTERNAL
        del tensor.external_data[:]
        for key, value in (
            ("location", WEIGHTS),
            ("offset", place.offset),
            ("length", place.length),
        ):
            tensor.external_data.add(key=key, value=str(value))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _verify(expected: TorchBackend, exported: OnnxBackend, pixels: np.ndarray) -> None:
    """Compare two backends over two steps with a reordering between them.

    Raises:
        CheckpointError: Their log-probabilities, or their logits of classes or events, differ by
            more than `TOLERANCE`.
    """

    def run(stepper: Encoded) -> list[np.ndarray]:
        vocab_size = expected.model.decoder.embedding.num_embeddings
        first = stepper.step(np.array([[0], [1]]), np.full((2, 1), START), 3, all_log_probs=True)
        words = np.arange(6).reshape(2, 3) % vocab_size
        second = stepper.step(np.array([[0, 0, 0], [1, 1, 1]]), words, 3, all_log_probs=True)
        third = stepper.step(np.array([[5, 3]]), words[1:, :2], 3, all_log_probs=True)
        return [
            step.all_log_probs for step in (first, second, third) if step.all_log_probs is not None
        ]

    def check(ours: np.ndarray, theirs: np.ndarray, what: str, scale: float = 1.0) -> None:
        difference = float(np.abs(ours - theirs).max()) / scale
        if not difference <= TOLERANCE:
            raise CheckpointError(
                f"The exported ONNX pair differs from torch by {difference:.1e} in {what}; "
                f"expected at most {TOLERANCE:.0e}. Please report this architecture."
            )

    ours, theirs = expected.encode(pixels), exported.encode(pixels)
    for what in (CLASSES, EVENTS):
        scores, exported_scores = getattr(ours, what), getattr(theirs, what)
        if scores is not None and exported_scores is not None:
            scale = max(1.0, float(np.abs(scores).max()))
            check(scores, exported_scores, f"scores of {what}", scale)
    for own, other in zip(run(ours), run(theirs), strict=True):
        check(own, other, "log-probabilities")
