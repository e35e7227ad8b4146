"""A plain training loop, the baseline of scripts/benchmark.py.

It works like the most popular tutorial (sgrvinod, a-PyTorch-Tutorial-to-Image-Captioning): one row
per caption, for which its image is loaded and encoded separately; rows are sorted by length, and
each step runs those that have not ended. Encoder, decoder, optimizer and clipping are ours, so the
loss is the same and only the time differs. It runs in float32, like the tutorial, and also in our
precision, to separate the effect of precision.

The tutorial stores the resized images of a data set in one file; many others decode a JPEG for each
caption.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from captioner.annotations.records import Record
from captioner.data.datamodule import CaptionData
from captioner.tokenizer import tokenize
from captioner.training.lightning_module import CaptioningModule
from captioner.training.train import TrainCLI
from captioner.vocabulary import PAD

Rows = tuple[
    Tensor, Tensor, Tensor
]  # images (R, 3, S, S), padded captions (R, T), their lengths (R,)


class CaptionRows(Dataset[tuple[Tensor, Tensor, int]]):
    """One example per caption: its image's pixels, its padded ids and its length.

    Args:
        data: The data module, for its words and preprocessing.
        records: The images.
        stored: Keep the resized images in memory; else files are read and decoded each time.
    """

    def __init__(
        self, data: CaptionData, records: Sequence[Record], *, stored: bool = False
    ) -> None:
        rows = [
            (record.path, caption)
            for record in records
            for caption in record.captions[: data.captions_per_image]
        ]
        self.rows = [
            (path, data.vocabulary.encode(tokenize(caption), data.max_length))
            for path, caption in rows
        ]
        self.longest = max(len(ids) for _, ids in self.rows)
        made = data.preprocessing
        interpolation = transforms.InterpolationMode(made.interpolation)
        self.resize = transforms.Resize((made.size, made.size), interpolation)
        if made.resize == "center_crop":
            resize = transforms.Resize(made.size, interpolation)
            self.resize = transforms.Compose([resize, transforms.CenterCrop(made.size)])
        self.normalize = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(made.mean, made.std)]
        )
        self.stored = (
            {path: np.array(self._read(path)) for path in {path for path, _ in rows}}
            if stored
            else None
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        path, ids = self.rows[index]
        padded = torch.full((self.longest,), PAD)
        padded[: len(ids)] = torch.tensor(ids)
        pixels = self._read(path) if self.stored is None else self.stored[path]
        return self.normalize(pixels), padded, len(ids)

    def _read(self, path: Path) -> Image.Image:
        with Image.open(path) as file:
            return self.resize(file.convert("RGB"))  # type: ignore[no-any-return]


def make_loader(cli: TrainCLI, *, stored: bool = False) -> DataLoader[Rows]:
    """Create a loader with the captions per step and the workers of the config."""
    data = cli.datamodule
    records = data.records["train"]
    captions = CaptionRows(data, records, stored=stored)
    count = min(round(data.batch_size * len(captions) / len(records)), len(captions))
    pin = torch.cuda.is_available()
    return DataLoader(
        captions, count, shuffle=True, num_workers=data.workers, pin_memory=pin, drop_last=True
    )


def train(cli: TrainCLI, batches: Iterable[Rows]) -> None:
    """Train the network of a config, including an encoder that trains from the first epoch."""
    module, trainer = cli.model, cli.trainer
    module.to(trainer.strategy.root_device).train()
    optimizer = module.configure_optimizers()["optimizer"]
    if module.finetune.trains(0):
        freeze_batchnorm = module.finetune.freeze_batchnorm
        module.network.encoder.unfreeze(module.finetune.stages, freeze_batchnorm=freeze_batchnorm)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for batch in batches:
        with trainer.precision_plugin.forward_context():
            loss = compute_loss(module, *batch)
        optimizer.zero_grad()
        loss.backward()
        if trainer.gradient_clip_val:
            nn.utils.clip_grad_norm_(trained, trainer.gradient_clip_val)
        optimizer.step()
        loss.item()  # as such loops print it
    module.cpu()


def compute_loss(
    module: CaptioningModule, images: Tensor, captions: Tensor, lengths: Tensor
) -> Tensor:
    """Compute the loss of R captions: mean over words, plus the doubly stochastic penalty.

    Args:
        module: The module, for its network and the terms of its loss.
        images: (R, 3, S, S).
        captions: (R, T) ids, padded.
        lengths: (R,).
    """
    encoder, decoder = module.network.encoder, module.network.decoder
    order = lengths.argsort(descending=True)
    with torch.set_grad_enabled(not encoder.frozen):
        features = encoder(images.to(module.device)[order])  # (R, L, D)
    output = decoder(features, captions[order].unsqueeze(1))
    logits = output.logits.float()  # (N, V)
    loss = nn.functional.cross_entropy(
        logits, output.targets, label_smoothing=module.loss.label_smoothing
    )
    if module.loss.coverage_penalty and output.coverage is not None:
        loss = (
            loss
            + module.loss.coverage_penalty
            * (1 - output.coverage.float()).square().sum(dim=2).mean()
        )
    return loss
