"""The encoder: a pretrained CNN that computes region features, partly trainable."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from captioner.errors import ConfigError
from captioner.model import efficientnet_lite
from captioner.model.cutting import cut
from captioner.model.depthwise import train_depthwise_in_float32
from captioner.model.networks import build_network
from captioner.sections import is_count

Value = TypeVar("Value")


@dataclass(frozen=True)
class EncoderConfig:
    """The architecture of an encoder.

    Args:
        name: A torchvision classification CNN by its torchvision name, such as "resnet101" or
            "mobilenet_v2", or a network of timm such as "timm/mobilenetv4_conv_small";
            "efficientnet_lite2" is an alias of "timm/tf_efficientnet_lite2", and likewise
            "efficientnet_lite0" to "efficientnet_lite4". For small images "plain_cnn" and
            "resnet20".
        grid: Side of the region grid, so that L = grid * grid; null keeps the CNN's own (usually 7
            for 224 pixels).

    Raises:
        ConfigError: The name is no string, or the grid no positive whole number.
    """

    name: str = "resnet50"
    grid: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if not isinstance(self.name, str):
            raise ConfigError(f"encoder.name is {self.name!r}; expected the name of a network.")
        if self.grid is not None and not is_count(self.grid):
            raise ConfigError(
                f"encoder.grid is {self.grid!r}; expected a positive number of regions per side,"
                " or null."
            )


class Encoder(nn.Module):
    """A CNN without its classifier: pixels (B, 3, S, S) -> region features (B, L, D).

    The CNN is cut at its last spatial layer, and its parameters keep their names below `cnn`. It
    starts frozen: `unfreeze` says what trains.

    Args:
        config: The encoder's config.
        image_size: S, the side of the images in pixels.

    Attributes:
        image_size: S.
        grid: Side of the region grid.
        regions: L, the number of regions.
        width: D, the feature width.
        even: Whether the regions are the CNN's own, or each covers the same number of these, so
            that the mean over the regions equals the mean over the CNN's last feature map.
    """

    def __init__(self, config: EncoderConfig, image_size: int) -> None:
        super().__init__()
        network = build_network(config.name, image_size)
        cnn, self._run, side, self.width = cut(network, config.name, image_size)
        train_depthwise_in_float32(cnn)
        self.cnn = cnn.to(memory_format=torch.channels_last)  # convolutions are 1.5 times as fast
        self.image_size = image_size
        self.grid = config.grid or side
        self.regions = self.grid**2
        self.even = self.grid % side == 0 or side % self.grid == 0
        self.pool = nn.Identity() if self.grid == side else nn.AdaptiveAvgPool2d(self.grid)
        self._lite = efficientnet_lite.is_lite(config.name)
        self._trained: tuple[str, ...] = ()
        self._freeze_batchnorm = True
        self.unfreeze(())

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode preprocessed images, or the frames of clips.

        Args:
            pixels: (B, 3, S, S) float, from `Preprocessing`; (B, F, 3, S, S) for clips.

        Returns:
            Region features (B, L, D), row by row over the grid; (B, F * L, D) for clips, frame by
            frame.
        """
        if pixels.ndim == 5:
            features = self.forward(pixels.flatten(0, 1))  # (B * F, L, D)
            return features.reshape(pixels.shape[0], -1, self.width)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        features = self.pool(self._run(self.cnn, pixels))  # (B, D, grid, grid)
        return features.flatten(2).transpose(1, 2)  # type: ignore[no-any-return]  # (B, L, D)

    def unfreeze(
        self, stages: tuple[str, ...] | list[str], *, freeze_batchnorm: bool = True
    ) -> None:
        """Let some stages of the CNN train and freeze the rest.

        Args:
            stages: Names of the CNN's modules, such as "layer4" or "blocks.5"; empty freezes the
                whole CNN, and "all" trains it whole. EfficientNet-Lite has its older names too,
                such as "features.6".
            freeze_batchnorm: Keep BatchNorm's statistics, scale and shift fixed, in trained stages
                too.

        Raises:
            ConfigError: A stage is not a module of this CNN.
        """
        if self._lite:
            stages = [
                current for stage in stages for current in efficientnet_lite.current_stages(stage)
            ]
        modules = dict(self.cnn.named_modules())
        for stage in stages:
            if stage != "all" and (not stage or stage not in modules):
                near = [name for name in modules if name and name.count(".") < 2]
                known = ", ".join(name for name in near if list(modules[name].parameters()))
                raise ConfigError(
                    f"The CNN has no stage {stage!r} to train; expected 'all' or some of: {known}."
                )
        self._trained = tuple(stages)
        self._freeze_batchnorm = freeze_batchnorm
        for name, module in self.cnn.named_modules():
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(self._trains(name, module))
        self.train(self.training)

    @property
    def frozen(self) -> bool:
        """Whether no parameter of the CNN trains, so that its features can be cached."""
        return not self._trained

    def train(self, mode: bool = True) -> "Encoder":
        """Set the mode of the stages that train; frozen modules stay in evaluation mode."""
        super().train(mode)
        for name, module in self.cnn.named_modules():
            module.training = mode and self._trains(name, module)
        return self

    def _trains(self, name: str, module: nn.Module) -> bool:
        if self._freeze_batchnorm and isinstance(module, nn.modules.batchnorm._BatchNorm):
            return False
        return any(
            stage == "all" or name == stage or name.startswith(f"{stage}.")
            for stage in self._trained
        )

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the CNN that train."""
        return (parameter for parameter in self.cnn.parameters() if parameter.requires_grad)

    def current_names(self, state: Mapping[str, Value], prefix: str = "") -> dict[str, Value]:
        """Rename tensors of this encoder that an earlier version saved to their current names.

        Args:
            state: Values by tensor name.
            prefix: The prefix of this encoder's tensor names, such as "encoder.".
        """
        return (
            efficientnet_lite.current_names(state, f"{prefix}cnn.") if self._lite else dict(state)
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load states of earlier versions too, including those of interrupted training runs."""
        current = self.current_names(state_dict, prefix)
        state_dict.clear()
        state_dict.update(current)
        super()._load_from_state_dict(state_dict, prefix, *args)
