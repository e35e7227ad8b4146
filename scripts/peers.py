"""Other captioners to compare with, each run in its own process by scripts/benchmark_peers.py.

    python scripts/peers.py save NAME FOLDER
    python scripts/peers.py caption NAME FOLDER PHOTO...

The networks have the published shapes and random weights, which changes the captions but not the
cost. All write captions of `TOKENS` tokens, ours too. They compute in float32, which is fastest on
a CPU, whatever the precision of their published weights. No tokenizer runs.

`save` writes the weights to a folder and prints their number. `caption` loads them and captions the
photos: it prints a line after the first caption, and at the end a line of JSON with the images per
second of the others and the peak memory. Libraries are imported on use, so a process loads only
those of its network.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TOKENS = 20
FIRST = "first caption"  # the line that says so

Caption = Callable[[Sequence[Path]], object]  # captions a batch of photos


@dataclass(frozen=True)
class Peer:
    """A captioner to measure.

    Attributes:
        title: Its name in the table.
        beams: The beam size.
        batch: The batch size.
        bytes: Bytes per weight as published.
        load: Loads weights from a folder.
        save: Writes random weights to a folder and counts them; None for ours, which has its own.
        packages: Required packages besides captioner.
    """

    title: str
    beams: int
    batch: int
    bytes: int
    load: Callable[[Path], Caption]
    save: Callable[[Path], int] | None = None
    packages: tuple[str, ...] = ("torch", "transformers")


def main(args: Sequence[str]) -> None:
    """Save the weights of a captioner, or caption photos with it."""
    command, name, folder, *photos = args
    peer = PEERS[name]
    if command == "save":
        assert peer.save is not None
        print(peer.save(Path(folder)))
        return
    caption = peer.load(Path(folder))
    paths = [Path(photo) for photo in photos]
    caption(paths[:1])
    print(FIRST, flush=True)
    start = time.perf_counter()
    for first in range(0, len(paths), peer.batch):
        caption(paths[first : first + peer.batch])
    seconds = time.perf_counter() - start
    print(json.dumps({"images/s": len(paths) / seconds, "peak MB": peak_memory() / 1e6}))


def peak_memory() -> int:
    """Return the peak memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # of this process only, not of its parent
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


# --- Ours
# ----------------------------------------------------------------------------


def load_ours(beams: int, folder: Path) -> Caption:
    """Load a checkpoint folder with ONNX Runtime."""
    from captioner import Captioner

    captioner = Captioner.from_pretrained(folder, backend="onnx")
    return lambda paths: captioner.caption(
        paths, batch_size=len(paths), beam_size=beams, min_length=TOKENS, max_length=TOKENS
    )


def ours(beams: int, batch: int) -> Peer:
    """Create the row of the bundled model, or of the requested one."""
    title = "captioner, greedy" if beams == 1 else "captioner"
    return Peer(title, beams, batch, 2, lambda folder: load_ours(beams, folder), packages=())


# --- By transformers
# ----------------------------------------------------------------------------

Prompt = dict[str, Any]


@dataclass(frozen=True)
class Published:
    """A network of transformers with its published sizes.

    Attributes:
        kind: The class of the network.
        config: Creates its config.
        side: The side of its square input in pixels.
        dtype: The precision of the published weights.
        inputs: Creates its other inputs from the pixels (3, S, S) of one photo.
    """

    kind: str
    config: Callable[[], Any]
    side: int
    dtype: str = "float32"
    inputs: Callable[["torch.Tensor"], Prompt] = lambda pixels: {"pixel_values": pixels[None]}

    def save(self, folder: Path) -> int:
        """Write random weights in the published precision, and count them."""
        import torch
        import transformers

        network = getattr(transformers, self.kind)(self.config())
        network.to(getattr(torch, self.dtype)).save_pretrained(folder)
        return sum(weights.numel() for weights in network.parameters())

    def load(self, beams: int, folder: Path) -> Caption:
        """Load the weights and caption greedily, or by beam search."""
        import torch
        import transformers

        network = getattr(transformers, self.kind).from_pretrained(folder, dtype=torch.float32)
        network.eval()

        @torch.inference_mode()
        def caption(paths: Sequence[Path]) -> list[object]:
            inputs = [self.inputs(read(path, self.side)) for path in paths]
            length = {"min_new_tokens": TOKENS, "max_new_tokens": TOKENS}
            search = {"num_beams": beams, "do_sample": False}
            return [network.generate(**one, **length, **search) for one in inputs]

        return caption

    def peer(self, title: str, beams: int) -> Peer:
        """Create its row."""
        size = 4 if self.dtype == "float32" else 2
        return Peer(title, beams, 1, size, lambda folder: self.load(beams, folder), self.save)


def read(path: Path, side: int) -> "torch.Tensor":
    """Read a photo, squash it to a square and normalize its values to about -2 to 2."""
    import numpy as np
    import torch
    from PIL import Image

    with Image.open(path) as photo:
        fitted = photo.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    pixels = np.asarray(fitted, np.float32).transpose(2, 0, 1) / 255
    return torch.from_numpy((pixels - 0.45) / 0.25)


def blip() -> Any:
    """Create the config of BLIP-base."""
    from transformers import BlipConfig

    return BlipConfig(
        text_config={"vocab_size": 30524, "num_attention_heads": 12},
        vision_config={"image_size": 384},
    )


def vit_gpt2() -> Any:
    """Create the config of a ViT-base and a GPT-2 that attends to it."""
    from transformers import GPT2Config, VisionEncoderDecoderConfig, ViTConfig

    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(), GPT2Config())
    config.decoder_start_token_id = config.decoder.bos_token_id
    config.pad_token_id = config.decoder.eos_token_id
    return config


FLORENCE_WORDS, FLORENCE_REGIONS, FLORENCE_PROMPT = 51289, 577, 9


def florence() -> Any:
    """Create the config of Florence-2-base."""
    from transformers import Florence2Config

    text = {
        "model_type": "bart",
        "vocab_size": FLORENCE_WORDS,
        "d_model": 768,
        "encoder_layers": 6,
        "decoder_layers": 6,
        "encoder_attention_heads": 12,
        "decoder_attention_heads": 12,
        "encoder_ffn_dim": 3072,
        "decoder_ffn_dim": 3072,
    }
    return Florence2Config(
        text_config=text,
        vision_config={"projection_dim": 768},
        image_token_id=FLORENCE_WORDS - 1,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )


def florence_inputs(pixels: "torch.Tensor") -> Prompt:
    """Create the inputs: a photo and the prompt of its task."""
    import torch

    ids = [FLORENCE_WORDS - 1] * FLORENCE_REGIONS + [5] * FLORENCE_PROMPT
    return {"input_ids": torch.tensor([ids]), "pixel_values": pixels[None]}


SMOL_IMAGE, SMOL_TILE, SMOL_PROMPT = 49190, 64, 20


def smol() -> Any:
    """Create the config of SmolVLM-256M."""
    from transformers import Idefics3Config

    text = {
        "model_type": "llama",
        "vocab_size": 49280,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "max_position_embeddings": 8192,
        "pad_token_id": 2,
    }
    vision = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 512,
        "patch_size": 16,
    }
    return Idefics3Config(
        text_config=text,
        vision_config=vision,
        scale_factor=4,
        image_token_id=SMOL_IMAGE,
        pad_token_id=2,
    )


def smol_inputs(tiles: int, pixels: "torch.Tensor") -> Prompt:
    """Create the inputs: a photo as a number of tiles, and a prompt."""
    import torch

    ids = [SMOL_IMAGE] * (SMOL_TILE * tiles) + [5] * SMOL_PROMPT
    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "pixel_values": pixels.expand(1, tiles, *pixels.shape),
    }


BLIP = Published("BlipForConditionalGeneration", blip, 384)
VIT_GPT2 = Published("VisionEncoderDecoderModel", vit_gpt2, 224)
FLORENCE = Published("Florence2ForConditionalGeneration", florence, 768, "float16", florence_inputs)
SMOL = Published(
    "Idefics3ForConditionalGeneration",
    smol,
    512,
    "bfloat16",
    lambda pixels: smol_inputs(1, pixels),
)
SMOL_TILES = Published(
    "Idefics3ForConditionalGeneration",
    smol,
    512,
    "bfloat16",
    lambda pixels: smol_inputs(13, pixels),
)


# --- The loop of a tutorial
# ----------------------------------------------------------------------------

LOOP_WORDS, LOOP_WIDTH, LOOP_FEATURES, LOOP_GRID, LOOP_SIDE = 9490, 512, 2048, 14, 256


def tutorial(encoder: "torch.nn.Module | None" = None) -> "torch.nn.ModuleDict":
    """Create ResNet-101 and an LSTM that attends to its regions, like the most popular tutorial.

    sgrvinod, a-PyTorch-Tutorial-to-Image-Captioning: 14 x 14 regions, a vocabulary of COCO.

    Args:
        encoder: Another encoder, (B, 3, S, S) -> (B, D, L).
    """
    from torch import nn

    if encoder is None:
        from torchvision.models import resnet101

        trunk = list(resnet101(weights=None).children())[:-2]
        encoder = nn.Sequential(*trunk, nn.AdaptiveAvgPool2d(LOOP_GRID), nn.Flatten(2))
    width, features = LOOP_WIDTH, LOOP_FEATURES
    return nn.ModuleDict(
        {
            "encoder": encoder,
            "embed": nn.Embedding(LOOP_WORDS, width),
            "first_state": nn.Linear(features, 2 * width),
            "of_region": nn.Linear(features, width),
            "of_state": nn.Linear(width, width),
            "energy": nn.Linear(width, 1),
            "gate": nn.Linear(width, features),
            "cell": nn.LSTMCell(width + features, width),
            "output": nn.Linear(width, LOOP_WORDS),
        }
    )


def save_tutorial(folder: Path) -> int:
    """Write random weights, and count them."""
    import torch

    network = tutorial()
    torch.save(network.state_dict(), folder / "weights.pt")
    return sum(weights.numel() for weights in network.parameters())


def load_tutorial(beams: int, folder: Path) -> Caption:
    """Load the weights and caption image by image."""
    import torch

    network = tutorial()
    network.load_state_dict(torch.load(folder / "weights.pt"))
    network.eval()

    @torch.inference_mode()
    def caption(paths: Sequence[Path]) -> list[object]:
        return [search(network, read(path, LOOP_SIDE), beams) for path in paths]

    return caption


def search(
    network: "torch.nn.ModuleDict", pixels: "torch.Tensor", beams: int
) -> tuple[list[int], float]:
    """Find the most probable caption of `TOKENS` words by beam search.

    Like such loops, it recomputes the attention for each hypothesis, including the projection of
    the regions.

    Returns:
        The words and their log-probability.
    """
    import torch

    regions = network["encoder"](pixels[None]).transpose(1, 2)  # (1, L, D)
    state, memory = network["first_state"](regions.mean(dim=1)).chunk(2, dim=1)  # (1, H) each
    words = torch.zeros(1, 1, dtype=torch.long)  # the start
    scores = torch.zeros(1)
    for _ in range(TOKENS):
        here = regions.expand(len(words), -1, -1)  # (B, L, D)
        mixed = network["of_region"](here) + network["of_state"](state)[:, None]
        weights = network["energy"](mixed.relu()).softmax(dim=1)  # (B, L, 1)
        seen = network["gate"](state).sigmoid() * (weights * here).sum(dim=1)
        fed = torch.cat([network["embed"](words[:, -1]), seen], dim=1)
        state, memory = network["cell"](fed, (state, memory))
        totals = scores[:, None] + network["output"](state).log_softmax(dim=1)  # (B, V)
        scores, chosen = totals.flatten().topk(beams)
        parents, following = chosen // totals.shape[1], chosen % totals.shape[1]
        words = torch.cat([words[parents], following[:, None]], dim=1)
        state, memory = state[parents], memory[parents]
    return words[0, 1:].tolist(), float(scores[0])


MANY = 32

PEERS = {
    "captioner": ours(5, 1),
    "captioner-batch": ours(5, MANY),
    "captioner-greedy": ours(1, 1),
    "captioner-greedy-batch": ours(1, MANY),
    "tutorial": Peer(
        "tutorial's loop: ResNet-101, LSTM",
        5,
        1,
        4,
        lambda folder: load_tutorial(5, folder),
        save_tutorial,
        ("torch", "torchvision"),
    ),
    "vit-gpt2": VIT_GPT2.peer("ViT-GPT2", 4),
    "blip": BLIP.peer("BLIP-base, greedy", 1),
    "blip-beams": BLIP.peer("BLIP-base", 3),
    "florence": FLORENCE.peer("Florence-2-base", 3),
    "smolvlm": SMOL.peer("SmolVLM-256M, one tile, greedy", 1),
    "smolvlm-tiles": SMOL_TILES.peer("SmolVLM-256M, 13 tiles, greedy", 1),
}

if __name__ == "__main__":
    main(sys.argv[1:])
