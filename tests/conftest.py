"""Shared fixtures: a checkpoint of a tiny network with random weights, and pictures."""

import copy
import os
import sys

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # competing threads of several processes are many times slower
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["CAPTIONER_PRECISION"] = "float32"  # the same numbers on every processor

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner.decoding import DecodingOptions
from captioner.inference import Captioner
from captioner.preprocessing import Preprocessing
from captioner.vocabulary import END, SPECIAL_WORDS, Vocabulary

WORDS = """
a the on in of with and dog cat man woman child bird ball grass water street beach red blue green
's n't
"""


def pytest_collection_finish() -> None:
    """Prepare for exports, if any test may export."""
    if "torch" in sys.modules:
        read_operators_once()


def read_operators_once() -> None:
    """Let torch parse its ONNX operators once, not for every graph: 0.7 seconds each time."""
    with suppress(ImportError, AttributeError):  # they are no public part of torch
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        ONNXRegistry.from_torchlib = classmethod(cache(ONNXRegistry.from_torchlib.__func__))


@pytest.fixture(scope="session")
def graphs() -> dict[str, Any]:
    """The ONNX graphs of `checkpoint_folder`'s network by their first input, once traced."""
    return {}


def trace_once(patch: pytest.MonkeyPatch, graphs: dict[str, Any]) -> None:
    """Let exports of one network take its graphs, which hold none of its weights, from `graphs`."""
    from captioner import export

    trace = export.trace

    def remember(graph: Any, inputs: Any, names: list[str], *others: Any) -> Any:
        if names[0] not in graphs:
            graphs[names[0]] = trace(graph, inputs, names, *others)
        return copy.deepcopy(graphs[names[0]])

    patch.setattr(export, "trace", remember)


@pytest.fixture
def _traced(monkeypatch: pytest.MonkeyPatch, graphs: dict[str, Any]) -> None:
    """For tests that export `checkpoint_folder` anew: to trace its graphs takes seconds."""
    trace_once(monkeypatch, graphs)


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory, graphs: dict[str, Any]) -> Path:
    """A checkpoint with ONNX files and tags. Read-only: copy it to change it."""
    from filelock import FileLock

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # shared by all processes, as exporting takes seconds
    with FileLock(folder / "checkpoint.lock"):
        if not (folder / "checkpoint").exists():
            with pytest.MonkeyPatch.context() as patch:
                trace_once(patch, graphs)
                save_tiny_checkpoint(folder / "checkpoint")  # atomic
    return folder / "checkpoint"


def save_tiny_checkpoint(folder: Path) -> None:
    import torch

    from captioner.export import save_checkpoint
    from captioner.model.captioning import CaptioningModel
    from captioner.model.decoder import DecoderConfig
    from captioner.model.encoder import EncoderConfig
    from captioner.tags import TagConfig

    torch.manual_seed(2)
    vocabulary = Vocabulary([*SPECIAL_WORDS, *WORDS.split()])
    decoder = DecoderConfig(hidden_size=16, embedding_size=12, context_size=8, attention_size=8)
    model = CaptioningModel(
        EncoderConfig("squeezenet1_1"),
        decoder,
        image_size=64,
        vocab_size=len(vocabulary),
        tags=TagConfig(temperature=2.0),
    )
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(3)  # so that captions differ in words and length
        model.decoder.output.bias[END] += 4
        colours = torch.nn.functional.interpolate(torch.randn(16, 3, 4, 4), 64)
        features = model.eval().encoder(colours).mean(dim=(0, 1))
        model.classifier.weight.mul_(400)  # so that some tags are probable
        model.classifier.bias.copy_(-model.classifier.weight @ features)
    save_checkpoint(
        folder,
        model,
        vocabulary=vocabulary,
        preprocessing=Preprocessing(size=64),
        decoding=DecodingOptions(beam_size=3, max_length=12, no_repeat_ngram=2),
        card="# A tiny captioner\n\nIts weights are random.\n",
    )


@pytest.fixture(scope="session")
def captioner(checkpoint_folder: Path) -> Captioner:
    """The tiny network on ONNX Runtime."""
    return Captioner.from_pretrained(checkpoint_folder, backend="onnx")


@pytest.fixture(scope="session")
def picture() -> Callable[[int], Image.Image]:
    """Create the picture of a number: colourful blobs, in different sizes."""

    def make(number: int) -> Image.Image:
        random = np.random.default_rng(number)
        blobs = random.integers(
            0, 256, (random.integers(2, 6), random.integers(2, 6), 3), dtype=np.uint8
        )
        size = tuple(int(side) for side in random.integers(40, 120, 2))
        return Image.fromarray(blobs).resize(size, Image.Resampling.BICUBIC)

    return make
