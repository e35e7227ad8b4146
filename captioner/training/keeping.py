"""Learning without forgetting (Li and Hoiem 2016): preserve the classifier's predictions."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from captioner.model.captioning import CaptioningModel
from captioner.model.encoder import Encoder

_PROBE = 2  # images that test whether the frozen stages can be shared


class OriginalClasses:
    """The predictions of the encoder's classifier before fine-tuning.

    Contains a copy of the encoder. This is not an `nn.Module`, so the copy is neither trained nor
    saved with the network. If the network is a chain of modules up to its first trained stage, like
    timm's, the frozen stages run only once for both encoders.

    Args:
        network: The network at the start of its run, before any state is resumed; it has a
            classifier. It is left frozen.
        stages: The stages that will train, as `Encoder.unfreeze` takes them.
    """

    def __init__(self, network: CaptioningModel, stages: tuple[str, ...] | list[str]) -> None:
        self.encoder = copy.deepcopy(network.encoder).requires_grad_(False)
        self._last: str | None = None  # the CNN's last module that both encoders share
        if isinstance(self.encoder.cnn, torch.fx.GraphModule):
            # its layers are a flat graph, not a chain of stages
            return
        network.encoder.unfreeze(stages)
        done = _before_training(network.encoder)
        network.encoder.unfreeze(())
        if done:
            self._share(done)

    def __deepcopy__(self, memo: dict[int, Any]) -> "OriginalClasses":
        return self  # it never changes

    @property
    def nbytes(self) -> int:
        """Bytes of its weights."""
        return sum(
            tensor.nbytes for tensor in (*self.encoder.parameters(), *self.encoder.buffers())
        )

    def encode(self, network: CaptioningModel, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images with the trained encoder, and measure how far its classifier has drifted.

        Args:
            network: The network that trains.
            pixels: (B, 3, S, S).

        Returns:
            The region features (B, L, D), and KL(original || current) of the classifier's
            distributions in nats, mean over images.
        """
        shared: list[Tensor] = []
        handle = None
        if self._last is not None:
            stage = network.encoder.cnn.get_submodule(self._last)
            handle = stage.register_forward_hook(
                lambda module, inputs, output: shared.append(output)
            )
        try:
            features = network.encoder(pixels)
        finally:
            if handle is not None:
                handle.remove()
        with torch.no_grad():
            original = network.classes(self._encode(pixels, *shared))
        return features, _divergence(network.classes(features), original)

    def _encode(self, pixels: Tensor, shared: Tensor | None = None) -> Tensor:
        """Compute region features by the original encoder, from the shared stages' output."""
        encoder = self.encoder.to(pixels.device).eval()
        if self._last is None:
            return encoder(pixels)  # type: ignore[no-any-return]
        stage = encoder.cnn.get_submodule(self._last)
        handle = stage.register_forward_hook(lambda module, inputs, output: shared)
        try:
            return encoder(pixels)  # type: ignore[no-any-return]
        finally:
            handle.remove()

    def _share(self, done: list[str]) -> None:
        """Remove the frozen stages from the copy, if the output of the last one is sufficient."""
        whole, last = self.encoder, done[-1]
        outputs: list[Tensor] = []
        handle = whole.cnn.get_submodule(last).register_forward_hook(
            lambda *call: outputs.append(call[2])
        )
        pixels = torch.randn(
            _PROBE,
            3,
            whole.image_size,
            whole.image_size,
            generator=torch.Generator().manual_seed(0),
        )
        with torch.no_grad():
            expected = whole.eval()(pixels)
            handle.remove()
            self.encoder, self._last = copy.deepcopy(whole), last
            for name in done:
                self.encoder.cnn.set_submodule(name, nn.Identity())
            try:
                if torch.equal(self._encode(pixels, *outputs), expected):
                    return
            except (
                RuntimeError,
                TypeError,
                AttributeError,
            ):  # the remaining modules need more than that output
                pass
        self.encoder, self._last = whole, None


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


def _divergence(current: Tensor | None, original: Tensor | None) -> Tensor:
    """Compute KL(original || current) of the distributions of logits (B, C), mean over images."""
    assert current is not None
    assert original is not None
    return nn.functional.kl_div(
        current.float().log_softmax(dim=1),
        original.float().log_softmax(dim=1),
        log_target=True,
        reduction="batchmean",
    )
