"""Integers of 4 to 8 bits in a weights file, and the graph nodes that unpack them.

The nodes are standard operators with constant inputs, which ONNX Runtime evaluates once, when it
loads a graph.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from captioner.checkpoint import WEIGHTS
from captioner.weights import WeightPlace

Bytes = NDArray[np.uint8]

_MANY = 256  # minimum number of indices that are narrowed
PIECE = 8  # the number of packed integers is a multiple of this
_KINDS = {
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int32": TensorProto.INT32,
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
}


@dataclass
class Store:
    """The tensors of the new weights file by name."""

    tensors: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    def add(self, model: ModelProto, name: str, array: NDArray[np.generic]) -> str:
        """Store a tensor, and add an initializer for it to a graph; `refer` sets its location."""
        self.tensors[name] = np.ascontiguousarray(array)
        kind = _KINDS[array.dtype.name]
        model.graph.initializer.append(
            TensorProto(name=name, data_type=kind, dims=array.shape, data_location="EXTERNAL")
        )
        return name


def refer(model: ModelProto, places: Mapping[str, WeightPlace]) -> None:
    """Make the initializers that a `Store` added refer to the weights file."""
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            _, offset, length = places[tensor.name]
            del tensor.external_data[:]
            for key, value in (("location", WEIGHTS), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))


def unpack_integers(
    model: ModelProto, store: Store, name: str, steps: NDArray[np.int8], bits: int
) -> list[NodeProto]:
    """Store integers of 4, 5, 6 or 8 bits; return nodes that unpack them to `NAME.steps` (int8)."""
    if bits == 8:
        store.add(model, f"{name}.steps", steps)
        return []
    low, high = pack(steps, bits)
    make = helper.make_node
    store.add(model, f"{name}.low", low)
    model.graph.initializer.append(
        numpy_helper.from_array(np.array(steps.shape, np.int64), f"{name}.steps_shape")
    )
    nodes = [
        make("BitwiseAnd", [f"{name}.low", _constant(model, 15)], [f"{name}.l0"]),
        make("BitShift", [f"{name}.low", _constant(model, 4)], [f"{name}.l1"], direction="RIGHT"),
        make("Concat", [f"{name}.l0", f"{name}.l1"], [f"{name}.u4"], axis=0),
    ]
    whole = f"{name}.u4"
    if bits > 4:
        store.add(model, f"{name}.high", high)
        width, parts = bits - 4, []
        for index in range(8 // width):
            part = f"{name}.high"
            if index:
                shift = _constant(model, index * width)
                nodes.append(
                    make("BitShift", [part, shift], [f"{name}.s{index}"], direction="RIGHT")
                )
                part = f"{name}.s{index}"
            mask = _constant(model, 2**width - 1)
            nodes.append(make("BitwiseAnd", [part, mask], [f"{name}.h{index}"]))
            parts.append(f"{name}.h{index}")
        nodes += [
            make("Concat", parts, [f"{name}.u"], axis=0),
            make("BitShift", [f"{name}.u", _constant(model, 4)], [f"{name}.us"], direction="LEFT"),
            make("BitwiseOr", [whole, f"{name}.us"], [f"{name}.whole_steps"]),
        ]
        whole = f"{name}.whole_steps"
    middle = _constant(model, 2 ** (bits - 1), np.int32)
    return [
        *nodes,
        make("Cast", [whole], [f"{name}.wide"], to=TensorProto.INT32),
        make("Sub", [f"{name}.wide", middle], [f"{name}.signed"]),
        make("Cast", [f"{name}.signed"], [f"{name}.narrow"], to=TensorProto.INT8),
        make("Reshape", [f"{name}.narrow", f"{name}.steps_shape"], [f"{name}.steps"]),
    ]


def _constant(
    model: ModelProto, value: int, dtype: type[np.uint8] | type[np.int32] = np.uint8
) -> str:
    """Return the name of an initializer with a number; add it if the graph has none."""
    name = f"unpack.{dtype.__name__}.{value}"
    if all(tensor.name != name for tensor in model.graph.initializer):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), name))
    return name


def pack(steps: NDArray[np.int8], bits: int) -> tuple[Bytes, Bytes]:
    """Pack integers of 4, 5 or 6 bits into bytes.

    Args:
        steps: Their number is divisible by 8.
        bits: 4, 5 or 6.

    Returns:
        The lower 4 bits of each integer, (N / 2,), with the first half of the integers in the lower
        half of each byte; and the upper bits: for 6 bits (N / 4,), with the first quarter in the
        lowest 2 bits; for 5 bits (N / 8,), with the first eighth in the lowest bit; empty for 4
        bits.
    """
    assert steps.size % PIECE == 0
    values = (steps.astype(np.int32) + 2 ** (bits - 1)).ravel().astype(np.uint8)
    first, second = np.split(values & 15, 2)
    low, width = first | second << 4, bits - 4
    if not width:
        return low, np.zeros(0, np.uint8)
    parts = np.split(values >> 4, 8 // width)
    high = np.bitwise_or.reduce([part << (index * width) for index, part in enumerate(parts)])
    return low, high.astype(np.uint8)


def narrow_indices(model: ModelProto) -> None:
    """Store long arrays of indices, as a pointer has, in 16 bits; see `Pointer`."""
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.INT64 or math.prod(tensor.dims) < _MANY:
            continue
        array, name = numpy_helper.to_array(tensor), tensor.name
        if array.min() >= 0 and array.max() <= np.iinfo(np.uint16).max:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.uint16), f"{name}.narrow"))
            widen = helper.make_node("Cast", [tensor.name], [name], to=TensorProto.INT64)
            graph.node.insert(0, widen)
