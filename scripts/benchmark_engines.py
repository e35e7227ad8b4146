"""Compare engines for the encoder: ONNX Runtime, OpenVINO, torch and torch.compile.

Measures the time from a JPEG file of 640 x 480 or of 12 megapixels to its region features, in
batches of 4, with one thread and with two. Engines that are not installed are skipped; bfloat16
rows require a processor that supports it.
"""

from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.backends.onnx import Session, load_session
from captioner.backends.openvino import has_bfloat16, load_network
from captioner.checkpoint import ONNX_PAIR, Checkpoint, read_checkpoint
from captioner.images import open_image
from scripts.benchmark import Case, Row, in_turn, timed

SIDES = {"640 x 480": (640, 480), "12 megapixels": (4000, 3000)}
COUNT, AT_ONCE = 8, 4
THREADS = (1, 2)

Pixels = NDArray[np.float32]  # (B, 3, S, S)
Encode = Callable[[Pixels], object]


def engines(options: Namespace) -> tuple[str, list[Row]]:
    """Return images per second of each engine, and its speed relative to ONNX Runtime."""
    checkpoint = read_checkpoint(options.model)
    ways = {
        (name, threads): encode
        for threads in THREADS
        for name, encode in encoders(checkpoint, options.int8, threads)
    }
    with TemporaryDirectory() as temporary:
        photos = {what: draw(Path(temporary), sides) for what, sides in SIDES.items()}
        cases: dict[tuple[str, str, int], Case] = {}
        for (name, threads), encode in ways.items():
            for what, paths in photos.items():
                cases[what, name, threads] = partial(_run, checkpoint, encode, paths)
            pixels = read(checkpoint, photos["640 x 480"])
            cases["encoder alone", name, threads] = partial(_alone, encode, pixels)
        seconds = in_turn(cases, options.repeat or 7)
    rows: list[Row] = []
    for (what, name, threads), taken in sorted(seconds.items()):
        base = seconds[what, "ONNX Runtime", threads]
        times = median(one / other for one, other in zip(base, taken, strict=True))
        row: Row = {"": what, "engine": name, "threads": threads, "images/s": 1 / median(taken)}
        rows.append({**row, "x ONNX Runtime": times})
    return "Engines: the encoder, in batches of 4", rows


def encoders(
    checkpoint: Checkpoint, quantized: Path | None, threads: int
) -> Iterator[tuple[str, Encode]]:
    """Yield the encoder of a checkpoint on each installed engine."""
    graph = ONNX_PAIR[0]
    yield "ONNX Runtime", by_session(load_session(checkpoint.folder / graph, threads))
    if quantized is not None:
        yield "ONNX Runtime, int8", by_session(load_session(quantized / graph, threads))
    if find_spec("torch"):
        import torch

        from captioner.backends.torch import TorchBackend

        encoder = TorchBackend.from_checkpoint(checkpoint).model.encoder
        compiled = torch.compile(encoder)
        yield "torch", partial(by_torch, encoder, threads)
        yield "torch.compile", partial(by_torch, compiled, threads)
    if find_spec("openvino"):
        path = checkpoint.folder / graph
        yield "OpenVINO", by_session(load_network(path, threads, "f32"))
        if has_bfloat16():
            yield "OpenVINO, bfloat16", by_session(load_network(path, threads, "bf16"))


def by_session(session: Session) -> Encode:
    """Return the encoder as captioner runs it, on ONNX Runtime or OpenVINO."""
    names = [output.name for output in session.get_outputs()]
    return lambda pixels: session.run(names, {"pixels": pixels})


def by_torch(encoder: Callable[..., object], threads: int, pixels: Pixels) -> object:
    """Compute the region features with torch, in float32."""
    import torch

    torch.set_num_threads(threads)
    with torch.inference_mode():
        return encoder(torch.from_numpy(pixels))


def draw(folder: Path, sides: tuple[int, int]) -> list[Path]:
    """Draw JPEGs of a given size."""
    paths = [folder / f"{sides[0]}-{number}.jpg" for number in range(COUNT)]
    for number, path in enumerate(paths):
        blobs = np.random.default_rng(number).integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(blobs).resize(sides, Image.Resampling.BICUBIC).save(path, quality=92)
    return paths


def read(checkpoint: Checkpoint, paths: list[Path]) -> Pixels:
    """Read and preprocess photos."""
    fit = checkpoint.preprocessing
    return np.stack([fit(open_image(path, min_size=fit.size)) for path in paths])


def _run(checkpoint: Checkpoint, encode: Encode, paths: list[Path]) -> float:
    return timed(
        lambda: [
            encode(read(checkpoint, paths[start : start + AT_ONCE]))
            for start in range(0, COUNT, AT_ONCE)
        ],
        COUNT,
    )


def _alone(encode: Encode, pixels: Pixels) -> float:
    return timed(
        lambda: [encode(pixels[start : start + AT_ONCE]) for start in range(0, COUNT, AT_ONCE)],
        COUNT,
    )
