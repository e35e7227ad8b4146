"""Drawn images in the file formats of MNIST and CIFAR, whose checksums torchvision then expects."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ImageFilter
from torchvision import datasets

from tests.pretraining.shapes import CLASSES, draw


def drawn(count: int, size: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(N, S, S, 3) images and their classes, from 0 to 2."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    images = [
        np.array(draw(CLASSES[label], rng, size).filter(ImageFilter.SMOOTH)) for label in labels
    ]
    return np.stack(images), labels.astype(np.uint8)


def write_mnist(folder: Path, train: int, test: int) -> None:
    """MNIST's four files: a magic number, the sizes, the bytes."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for seed, (name, count) in enumerate((("train", train), ("t10k", test))):
        images, labels = drawn(count, 28, seed)
        header = np.array([0x803, count, 28, 28], ">i4").tobytes()
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + images[..., 0].tobytes())
        header = np.array([0x801, count], ">i4").tobytes()
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


def write_cifar10(folder: Path, each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-10's seven pickles: pixels as (N, 3072), channel by channel."""
    inside = folder / datasets.CIFAR10.base_folder
    inside.mkdir(parents=True)

    def write(name: str, content: object) -> str:
        data = pickle.dumps(content)
        (inside / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    sums = {}
    names = [name for name, _ in datasets.CIFAR10.train_list + datasets.CIFAR10.test_list]
    for seed, name in enumerate(names):
        images, labels = drawn(each, 32, seed)
        rows = images.transpose(0, 3, 1, 2).reshape(each, -1)
        sums[name] = write(name, {"data": rows, "labels": labels.tolist()})
    words = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship"]
    meta = write("batches.meta", {"label_names": [*words, "truck"]})
    *training, testing = ([name, sums[name]] for name in names)
    monkeypatch.setattr(datasets.CIFAR10, "train_list", training)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [testing])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": meta})
