"""Packed integers: bit by bit in Python, and unpacked by ONNX Runtime."""

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from captioner.quantization.packing import Store, pack, unpack_integers


def integers(bits: int, shape: tuple[int, ...] = (6, 8)) -> np.ndarray:
    return np.random.default_rng(0).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), shape, np.int8)


@pytest.mark.parametrize("bits", [4, 5, 6])
def test_packed_integers_come_back(bits: int) -> None:
    steps = integers(bits)
    low, high = pack(steps, bits)
    assert low.nbytes + high.nbytes == steps.size * bits / 8
    width = bits - 4
    back = []
    for i in range(steps.size):
        value = low[i % 24] >> 4 * (i // 24) & 15
        if width:
            place, part = i % len(high), i // len(high)
            value += (high[place] >> width * part & 2**width - 1) << 4
        back.append(int(value) - 2 ** (bits - 1))
    assert back == steps.ravel().tolist()


@pytest.mark.parametrize("bits", [4, 5, 6, 8])
def test_a_graph_unpacks_them(bits: int) -> None:
    steps, store = integers(bits, (3, 4, 2)), Store()
    model = ModelProto(ir_version=9, opset_import=[helper.make_opsetid("", 20)])
    model.graph.name = "unpack"
    nodes = unpack_integers(model, store, "w", steps, bits)
    model.graph.node.extend([*nodes, helper.make_node("Identity", ["w.steps"], ["out"])])
    model.graph.output.append(helper.make_tensor_value_info("out", TensorProto.INT8, None))
    for tensor in list(model.graph.initializer):
        if tensor.name in store.tensors:
            tensor.CopyFrom(numpy_helper.from_array(store.tensors[tensor.name], tensor.name))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert np.array_equal(session.run(None, {})[0], steps)
