"""The part of an encoder that doesn't train, by the fastest engine.

At first this is the whole encoder, if it is frozen; then the stages before the first one that
trains. Their weights never change, and no gradient flows through them, so a step can take their
output from ONNX Runtime or OpenVINO, and leave the rest to torch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from captioner.model.encoder import Encoder
from captioner.training.fast_encoder import Engine, find_engine

_PROBE = 2  # images that test whether the frozen stages are a chain


class FrozenPart:
    """The part of an encoder that doesn't train.

    The stages before the first trained one are separate if they are a chain of modules, as in
    timm's networks; in torchvision's, whose layers are a flat graph, only the whole encoder is.

    Args:
        encoder: The encoder, with any weights; it is left frozen.
        stages: The stages that will train, as `Encoder.unfreeze` takes them.

    Raises:
        ConfigError: A stage is not a module of the CNN.

    Attributes:
        stages: The names of the CNN's modules that are done before the first trained one, in order;
            empty if they cannot be separated.
        n_images: How many images the run will encode, which decides whether an engine is worth its
            start; 0 for few.
    """

    def __init__(self, encoder: Encoder, stages: tuple[str, ...] | list[str]) -> None:
        self.stages: list[str] = []
        self.n_images = 0
        self._engines: dict[bool, Engine | None] = {}  # for the whole encoder: True; the stages
        encoder.unfreeze(stages, freeze_batchnorm=False)  # in this run they may train
        flat = isinstance(encoder.cnn, torch.fx.GraphModule)
        done = _before_training(encoder) if stages and not flat else []
        encoder.unfreeze(())
        if done and _is_chain(encoder, done):
            self.stages = done

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenPart":
        return self  # engines can't be copied, and nothing that they depend on changes

    def encode(self, encoder: Encoder, pixels: Tensor) -> Tensor:
        """Encode images, or the frames of clips, as `encoder` does.

        Args:
            encoder: The encoder in its present state.
            pixels: As for the encoder.
        """
        if not encoder.frozen:
            return self.finish(encoder, pixels, self.output(encoder, pixels))
        engine = self._engine(encoder, encoder)
        if engine is None:
            return encoder(pixels)  # type: ignore[no-any-return]
        return torch.from_numpy(engine(pixels)).reshape(len(pixels), -1, encoder.width)

    def output(self, encoder: Encoder, pixels: Tensor) -> Tensor | None:
        """Compute the output of the frozen stages; None if they cannot be separated.

        Args:
            encoder: The encoder, some of whose stages train.
            pixels: As for the encoder.

        Returns:
            (N, C, H, W) for N images or frames.
        """
        if not self.stages:
            return None
        chain = _chain(encoder, self.stages)
        engine = self._engine(encoder, chain)
        with torch.no_grad():
            images = pixels.flatten(0, -4)
            if engine is None:
                return chain(images)  # type: ignore[no-any-return]
            return torch.from_numpy(engine(images)).contiguous(memory_format=torch.channels_last)

    def finish(self, encoder: Encoder, pixels: Tensor, done: Tensor | None) -> Tensor:
        """Encode images from the output of the frozen stages, or from pixels if there is none.

        Args:
            encoder: The encoder, or a copy of it with other weights in the other stages.
            pixels: As for the encoder.
            done: What `output` returns.
        """
        if done is None:
            return encoder(pixels)  # type: ignore[no-any-return]
        with _skipped(encoder, self.stages, done):
            return encoder(pixels)  # type: ignore[no-any-return]

    def _engine(self, encoder: Encoder, part: nn.Module) -> Engine | None:
        whole = part is encoder
        if whole not in self._engines:
            training = encoder.training
            try:
                found = find_engine(part.eval(), encoder.image_size, self.n_images)
            finally:
                encoder.train(training)
            self._engines = {whole: found}  # one at a time: stages that train end the whole
        return self._engines[whole]


def _chain(encoder: Encoder, stages: list[str]) -> nn.Sequential:
    """Return stages as one module that shares their weights; its input has channels last."""
    return nn.Sequential(_ChannelsLast(), *(encoder.cnn.get_submodule(name) for name in stages))


class _ChannelsLast(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.contiguous(memory_format=torch.channels_last)


@contextmanager
def _skipped(encoder: Encoder, stages: list[str], output: Tensor) -> Iterator[None]:
    """Let an encoder take the output of the last of some stages instead of computing them."""
    modules = [encoder.cnn.get_submodule(name) for name in stages]
    for module in modules:
        module.forward = lambda *inputs: output
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _is_chain(encoder: Encoder, stages: list[str]) -> bool:
    """Check that stages, one after the other, give all that the rest of the encoder needs."""
    random = torch.Generator().manual_seed(0)
    pixels = torch.randn(_PROBE, 3, encoder.image_size, encoder.image_size, generator=random)
    training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            expected = encoder(pixels)
            output = _chain(encoder, stages)(pixels)
            with _skipped(encoder, stages, output):
                return torch.equal(encoder(pixels), expected)
    except (RuntimeError, TypeError, AttributeError):  # the other modules need more than that
        return False
    finally:
        encoder.train(training)


def _before_training(encoder: Encoder) -> list[str]:
    """List the CNN's outermost modules that finish before the first trained one, in order."""
    done: list[str] = []
    begun = False

    def begin(module: nn.Module, inputs: object) -> None:
        nonlocal begun
        begun = begun or any(
            parameter.requires_grad for parameter in module.parameters(recurse=False)
        )

    training = encoder.training
    encoder.eval()
    handles = []
    for name, module in encoder.cnn.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(begin))
            handles.append(
                module.register_forward_hook(
                    lambda *_, name=name: None if begun else done.append(name)
                )
            )
    try:
        with torch.no_grad():
            encoder(torch.zeros(1, 3, encoder.image_size, encoder.image_size))
    finally:
        for handle in handles:
            handle.remove()
        encoder.train(training)
    return [name for name in done if not any(name.startswith(f"{other}.") for other in done)]
