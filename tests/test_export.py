"""Exported pairs compute what torch computes, from the one weights file that both use."""

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from captioner.backends.onnx import OnnxBackend
from captioner.backends.torch import TorchBackend
from captioner.checkpoint import ONNX_PAIR, WEIGHTS, Checkpoint, read_checkpoint
from captioner.decoding import DecodingOptions, Step, Stepper
from captioner.export import save_checkpoint
from captioner.inference import Captioner
from captioner.model.captioning import CaptioningModel
from captioner.model.decoder import DECODERS, DecoderConfig
from captioner.model.encoder import EncoderConfig
from captioner.preprocessing import Preprocessing
from captioner.vocabulary import SPECIAL_WORDS, START, Vocabulary
from captioner.weights import weight_places
from tests.model.decoders import enlarge

TOLERANCE = 1e-4
WORDS = ["a", "the", "on", "in", "of", "with", "dog", "cat", "man", "red", "blue", "green"]
VOCABULARY = Vocabulary([*SPECIAL_WORDS, *WORDS])


def make_model(encoder: str, decoder: str, size: int, grid: int | None = None) -> CaptioningModel:
    torch.manual_seed(5)
    config = DecoderConfig(
        decoder, hidden_size=12, embedding_size=10, context_size=8, attention_size=6
    )
    model = CaptioningModel(
        EncoderConfig(encoder, grid), config, image_size=size, vocab_size=len(VOCABULARY)
    )
    with torch.no_grad():
        model.train()
        model.encoder.unfreeze(["all"], freeze_batchnorm=False)
        for _ in range(
            20
        ):  # BatchNorm sees some images, so that random layers neither explode nor vanish
            model.encoder(torch.randn(4, 3, size, size))
        model.encoder.unfreeze([])
    enlarge(model.decoder)
    return model


def save(folder: Path, model: CaptioningModel, size: int, **options: bool) -> Path:
    save_checkpoint(
        folder,
        model,
        vocabulary=VOCABULARY,
        preprocessing=Preprocessing(size=size),
        decoding=DecodingOptions(beam_size=3, max_length=8),
        card="# A tiny captioner\n",
        **options,
    )
    return folder


def save_changed(folder: Path, model: CaptioningModel, before: Checkpoint, **more: bool) -> Path:
    """Save a model that was loaded from a checkpoint and changed, with what else that one has."""
    save_checkpoint(
        folder,
        model,
        vocabulary=before.vocabulary,
        preprocessing=before.preprocessing,
        decoding=before.decoding,
        card="",
        **more,
    )
    return folder


@pytest.fixture(scope="module")
def model() -> CaptioningModel:
    """A grid of 2 x 2 over a CNN's 3 x 3, without attention. Not to be changed."""
    return make_model("timm/test_resnet", "show_tell", 96, grid=2)


@pytest.fixture(scope="module")
def full_folder(model: CaptioningModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in float32; `checkpoint_folder` has attention and is in float16."""
    return save(tmp_path_factory.mktemp("full") / "checkpoint", model, 96, half=False)


@pytest.fixture(scope="module")
def up_down_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(
        tmp_path_factory.mktemp("up_down") / "checkpoint",
        make_model("plain_cnn", "up_down", 12),
        12,
    )


FOLDERS = {
    "show_attend_tell, float16": "checkpoint_folder",
    "show_tell, float32": "full_folder",
    "up_down, float16": "up_down_folder",
}


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(FOLDERS[request.param])


def backends(folder: Path) -> tuple[TorchBackend, OnnxBackend]:
    return TorchBackend.from_checkpoint(read_checkpoint(folder)), OnnxBackend(folder)


def random_pixels(folder: Path, count: int) -> np.ndarray:
    size = read_checkpoint(folder).preprocessing.size
    return np.random.default_rng(count).normal(size=(count, 3, size, size)).astype(np.float32)


# Each step: for each image its beams' parents as (image, beam) of the step before.
Plan = list[list[list[tuple[int, int]]]]
ONE: Plan = [[[(0, 0)]]] * 3
BEAMS: Plan = [
    [[(b, 0)] for b in range(5)],
    [[(b, 0)] * 3 for b in range(5)],
    [
        [(0, 2), (0, 0), (0, 0)],
        [(1, 1)] * 3,
        [(2, 0), (2, 1), (2, 2)],
        [(3, 2), (3, 1), (3, 0)],
        [(4, 1), (4, 0), (4, 1)],
    ],
    [
        [(0, 1), (0, 2), (0, 1)],
        [(2, 2), (2, 0), (2, 0)],
        [(4, 0), (4, 1), (4, 1)],
    ],  # two images are done
    [[(0, 1), (0, 0)], [(1, 2), (1, 1)], [(2, 0), (2, 2)]],  # fewer beams
    [[(2, 1), (2, 0)]],
    [[(0, 1)]],
    [[(0, 0)] * 7],
]


def run(stepper: Stepper, plan: Plan, vocab_size: int) -> list[Step]:
    random, beams, steps = np.random.default_rng(0), 1, []
    for number, images in enumerate(plan):
        parents = np.array([[image * beams + beam for image, beam in rows] for rows in images])
        words = (
            random.integers(0, vocab_size, parents.shape)
            if number
            else np.full(parents.shape, START)
        )
        steps.append(stepper.step(parents, words, 1 + number, all_log_probs=True))
        beams = parents.shape[1]
    return steps


def assert_same_steps(
    first: Stepper, second: Stepper, plan: Plan, vocab_size: int, tolerance: float = TOLERANCE
) -> None:
    for a, b in zip(run(first, plan, vocab_size), run(second, plan, vocab_size), strict=True):
        assert a.all_log_probs is not None and b.all_log_probs is not None
        np.testing.assert_allclose(a.all_log_probs, b.all_log_probs, atol=tolerance, rtol=0)
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=tolerance, rtol=0)
        assert (a.attention is None) == (b.attention is None)
        if a.attention is not None:
            np.testing.assert_allclose(a.attention, b.attention, atol=tolerance, rtol=0)
        for step in (a, b):
            assert step.words.dtype == np.int64
            assert step.log_probs.shape == step.words.shape
            best = np.take_along_axis(step.all_log_probs, step.words, 2)
            np.testing.assert_array_equal(step.log_probs, best)
            np.testing.assert_allclose(
                best, np.sort(step.all_log_probs, 2)[:, :, ::-1][:, :, : best.shape[2]]
            )
            np.testing.assert_allclose(np.exp(step.all_log_probs).sum(2), 1, atol=1e-5)


@pytest.mark.parametrize(
    "plan", [ONE, BEAMS], ids=["one image, one beam", "images dropped, beams reordered"]
)
def test_onnx_computes_what_torch_computes(folder: Path, plan: Plan) -> None:
    on_torch, on_onnx = backends(folder)
    pixels = random_pixels(folder, len(plan[0]))
    vocab_size = len(read_checkpoint(folder).vocabulary)
    assert_same_steps(on_torch.encode(pixels), on_onnx.encode(pixels), plan, vocab_size)


def test_steps_differ_between_images_and_beams(folder: Path) -> None:
    """What the comparison above would not notice to be mixed up if all rows were alike."""
    for backend in backends(folder):
        steps = run(
            backend.encode(random_pixels(folder, 5)), BEAMS, len(read_checkpoint(folder).vocabulary)
        )
        for step in steps[2:4]:
            rows = step.all_log_probs.reshape(-1, step.all_log_probs.shape[2])
            distances = np.abs(rows[:, None] - rows).max(2)[~np.eye(len(rows), dtype=bool)]
            assert np.median(distances) > 100 * TOLERANCE


def test_both_backends_write_the_same_captions(
    full_folder: Path, picture: Callable[[int], Image.Image]
) -> None:
    pictures = [picture(number) for number in range(6)]
    first, second = (
        Captioner.from_pretrained(full_folder, backend=name).caption(pictures, alternatives=3)
        for name in ("onnx", "torch")
    )
    for a, b in zip(first, second, strict=True):
        assert [caption.text for caption in a.alternatives] == [
            caption.text for caption in b.alternatives
        ]
        assert a.log_prob == pytest.approx(b.log_prob, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("encoder", "size", "grid"),
    [
        ("resnet50", 64, None),
        ("mobilenet_v2", 96, 2),
        ("mobilenet_v3_large", 64, None),
        ("efficientnet_b0", 64, 3),
        ("convnext_tiny", 64, None),
        ("regnet_y_400mf", 64, None),
        ("vgg16", 64, None),
        ("timm/tf_efficientnet_lite0", 64, None),
        ("timm/mobilenetv4_conv_small", 64, None),
        ("timm/convnext_atto", 64, None),
        ("timm/fastvit_t8", 64, None),
    ],
)
def test_every_kind_of_cnn_is_exported(
    encoder: str, decoder: str, size: int, grid: int | None, tmp_path: Path
) -> None:
    model = make_model(encoder, decoder, size, grid)
    folder = save(tmp_path / "checkpoint", model, size, half=decoder == "show_attend_tell")
    on_torch, on_onnx = backends(folder)
    pixels = random_pixels(folder, 5)
    # Many random layers multiply rounding errors.
    assert_same_steps(
        on_torch.encode(pixels), on_onnx.encode(pixels), BEAMS, len(VOCABULARY), tolerance=1e-3
    )
    assert sum((folder / name).stat().st_size for name in ONNX_PAIR) < 300_000


# --- The weights file ---


def header_of(weights: Path) -> dict[str, Any]:
    """Where each tensor lies in a safetensors file: name -> dtype and absolute (start, end)."""
    with open(weights, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    places = {
        name: [8 + length + offset for offset in entry["data_offsets"]]
        for name, entry in header.items()
    }
    return {name: (header[name]["dtype"], *places[name]) for name in header}


def test_a_model_is_stored_as_it_is_and_left_as_it_was(
    model: CaptioningModel, full_folder: Path
) -> None:
    assert model.training and not model.encoder.cnn.training
    assert model.encoder.frozen
    loaded = TorchBackend.from_checkpoint(read_checkpoint(full_folder)).model
    assert not loaded.training
    assert loaded.architecture() == model.architecture()
    state = loaded.portable_state()
    assert state.keys() == model.portable_state().keys() == header_of(full_folder / WEIGHTS).keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.portable_state().items())


def test_half_precision_rounds_each_weight(model: CaptioningModel, tmp_path: Path) -> None:
    folder = save(tmp_path / "half", model, 96, half=True, onnx=False)
    assert not read_checkpoint(folder).has_onnx
    state = TorchBackend.from_checkpoint(read_checkpoint(folder)).model.portable_state()
    for name, tensor in model.portable_state().items():
        assert state[name].dtype == torch.float32
        assert torch.equal(state[name], tensor.half().float())
    assert (folder / WEIGHTS).stat().st_size < 2.1 * sum(
        tensor.numel() for tensor in state.values()
    )


@pytest.mark.slow
def test_values_beyond_half_precision_are_kept(tmp_path: Path) -> None:
    """In float16, a variance above 65,504 would be infinite, and its channel lost."""
    model = make_model("resnet20", "up_down", 16).eval()
    name = "encoder.cnn.stem.1.running_var"
    with torch.no_grad():
        model.get_buffer(name)[:] = 100_000
        model.get_parameter("encoder.cnn.stem.1.weight")[:] *= 300
    folder = save(tmp_path / "large", model, 16)
    places = weight_places(folder / WEIGHTS)
    assert {key for key, place in places.items() if place.dtype == "F32"} == {name}
    pixels = random_pixels(folder, 2)
    exact, *loaded = (
        backend.encode(pixels).step(np.array([[0], [1]]), np.full((2, 1), START), 3)
        for backend in (TorchBackend(model), *backends(folder))
    )
    for step in loaded:
        np.testing.assert_allclose(step.log_probs, exact.log_probs, atol=0.01)


def test_the_pair_holds_no_weights_but_refers_to_all_of_them_in_their_file(folder: Path) -> None:
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors", ".onnx", ".md"}
    tensors, referred = header_of(folder / WEIGHTS), set()
    for name in ONNX_PAIR:
        assert (folder / name).stat().st_size < 100_000
        graph = onnx.load(folder / name, load_external_data=False).graph
        within = [
            tensor
            for tensor in graph.initializer
            if tensor.data_location != onnx.TensorProto.EXTERNAL
        ]
        within += [
            attribute.t
            for node in graph.node
            for attribute in node.attribute
            if attribute.HasField("t")
        ]
        assert sum(len(tensor.SerializeToString()) for tensor in within) < 2000
        for tensor in graph.initializer:
            place = {entry.key: entry.value for entry in tensor.external_data}
            if place:
                assert place["location"] == WEIGHTS
                start = int(place["offset"])
                dtype = {"F16": onnx.TensorProto.FLOAT16, "F32": onnx.TensorProto.FLOAT}
                referred |= {
                    (dtype[kind], *where) for kind, *where in tensors.values() if where[0] == start
                }
                assert (tensor.data_type, start, start + int(place["length"])) in referred
    assert {where[1:] for where in referred} == {tuple(where) for _, *where in tensors.values()}


def test_graphs_hold_nothing_twice(folder: Path) -> None:
    """Fewer nodes load faster."""
    for name in ONNX_PAIR:
        graph = onnx.load(folder / name, load_external_data=False).graph
        made = {output for node in graph.node for output in node.output if node.op_type != "Cast"}
        assert all(node.op_type != "Constant" for node in graph.node)
        assert not made & {node.input[-1] for node in graph.node if node.op_type == "Conv"}
        assert not graph.value_info
        own = [tensor for tensor in graph.initializer if not tensor.external_data]
        arrays = [onnx.numpy_helper.to_array(tensor) for tensor in own]
        assert len({(a.dtype.str, a.shape, a.tobytes()) for a in arrays}) == len(arrays)
        read = {entry for node in graph.node for entry in node.input}
        assert {tensor.name for tensor in graph.initializer} <= read


def test_the_pair_tells_nothing_of_the_machine_that_exported_it(folder: Path) -> None:
    for name in ONNX_PAIR:
        content = (folder / name).read_bytes()
        assert not [
            trace
            for trace in (b".py", b"File ", b"site-packages", b"captioner.")
            if trace in content
        ]


@contextmanager
def tensor_in_file(folder: Path, name: str) -> Iterator[np.ndarray]:
    """Change a tensor where it lies in a folder's weights file."""
    dtype, start, end = header_of(folder / WEIGHTS)[name]
    kind = np.dtype({"F16": np.float16, "F32": np.float32}[dtype])
    content = bytearray((folder / WEIGHTS).read_bytes())
    yield np.frombuffer(content, kind, (end - start) // kind.itemsize, start)
    (folder / WEIGHTS).write_bytes(content)


@pytest.mark.parametrize("name", ["decoder.output.bias", "decoder.embedding.weight", "encoder"])
def test_another_weight_in_the_file_changes_what_onnx_computes(
    folder: Path, name: str, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    if name == "encoder":
        name = next(
            key
            for key in header_of(copy / WEIGHTS)
            if key.startswith("encoder.cnn.") and "weight" in key
        )
    with tensor_in_file(copy, name) as tensor:
        tensor += np.random.default_rng(0).normal(size=tensor.shape).astype(tensor.dtype)
    pixels = random_pixels(folder, 5)
    before, after = (
        run(OnnxBackend(path).encode(pixels), BEAMS[:1], len(VOCABULARY))[0].all_log_probs
        for path in (folder, copy)
    )
    assert np.abs(before - after).max() > 100 * TOLERANCE
    on_torch, on_onnx = backends(copy)
    vocab_size = len(read_checkpoint(folder).vocabulary)
    assert_same_steps(on_torch.encode(pixels), on_onnx.encode(pixels), BEAMS, vocab_size)
