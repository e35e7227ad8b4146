"""Build classification networks by name: torchvision's, timm's and two small ones."""

import difflib
import warnings
from functools import cache
from types import ModuleType
from typing import Any

import torchvision
from torch import nn

from captioner.errors import ConfigError, MissingExtraError
from captioner.model import efficientnet_lite
from captioner.model.small import SMALL
from captioner.preprocessing import Interpolation, Preprocessing

TIMM = "timm/"
_REWRITING = ("googlenet", "inception_v3")  # torchvision maps these networks' pixels to -1..1
# Image classifiers that are not CNNs. Cut like a CNN, a ViT would return its raw patches.
TRANSFORMERS = ("maxvit_", "swin_", "vit_")


def timm_name(name: str) -> str | None:
    """Convert a network's name to timm's, or None if it is torchvision's."""
    name = efficientnet_lite.NETWORKS.get(name, name)
    return name.removeprefix(TIMM) if name.startswith(TIMM) else None


def build_network(
    name: str, image_size: int, weights: str | None = None, classes: int | None = None
) -> nn.Module:
    """Build a classification network.

    Args:
        name: Its name, as in `EncoderConfig`.
        image_size: S, the side of the images in pixels; it matters only for networks with a fixed
            input size.
        weights: The name of weights that are downloaded on first use: torchvision's name; or for
            timm, "pretrained" or the tag of the weights such as "in1k". Null initialises randomly.
        classes: C, the number of classes; null keeps the network's own, usually the 1,000 of
            ImageNet. Leave it out if weights are given.

    Raises:
        ConfigError: There is no such network, it has no such weights, or they cannot be downloaded.
    """
    if name in SMALL:
        if weights is not None:
            raise ConfigError(f"{name} has no weights {weights!r}; expected null or a file.")
        return SMALL[name](image_size, classes or 1000)
    timms = timm_name(name)
    return (
        _torchvision_network(name, weights, classes)
        if timms is None
        else _timm_network(timms, image_size, weights, classes)
    )


def pretraining(name: str, weights: str | None = None) -> Preprocessing | None:
    """Look up the preprocessing that pretrained weights of a network expect; None if unknown.

    Args:
        name: The network's name, as in `EncoderConfig`.
        weights: The name of torchvision's weights; timm's are known by the network's name.
    """
    timms = timm_name(name)
    if timms is None:
        return None if weights is None else _torchvision_pretraining(name, weights)
    facts = _timm().get_pretrained_cfg(timms) if _timm().is_model(timms) else None
    if facts is None:
        return None
    return Preprocessing(
        size=facts.input_size[1],
        interpolation=_interpolation(facts.interpolation),
        mean=tuple(facts.mean),
        std=tuple(facts.std),
    )


def _torchvision_pretraining(name: str, weights: str) -> Preprocessing | None:
    """Look up the preprocessing that torchvision's weights expect; None if there are none such."""
    if name not in torchvision.models.list_models(module=torchvision.models):
        return None
    named = torchvision.models.get_model_weights(name).__members__.get(weights)
    if named is None:
        return None
    facts = named.transforms()
    mean, std = tuple(facts.mean), tuple(facts.std)
    if name in _REWRITING:
        mean, std = (0.5,) * 3, (0.5,) * 3
    return Preprocessing(
        size=facts.crop_size[0],
        interpolation=_interpolation(facts.interpolation.value),
        mean=mean,
        std=std,
    )


def _interpolation(name: str) -> Interpolation:
    """Return our filter for one of timm's or torchvision's."""
    return "bilinear" if name == "bilinear" else "bicubic"


def _torchvision_network(name: str, weights: str | None, classes: int | None) -> nn.Module:
    every = torchvision.models.list_models(module=torchvision.models)
    known = [each for each in every if not each.startswith(TRANSFORMERS)]
    if name not in known:
        known = [*SMALL, *efficientnet_lite.NETWORKS, *known]
        raise ConfigError(
            f"There is no classification CNN {name!r}; expected timm/ and a name of timm's, or one"
            f" of: {', '.join(known)}."
        )
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if name == "googlenet":
        options["aux_logits"] = True  # by default, torchvision drops those of its weights
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "auxiliary heads in the pretrained googlenet")
            return torchvision.models.get_model(name, weights=weights, **options)  # type: ignore[no-any-return]
    except (KeyError, ValueError) as error:
        names = ", ".join(entry.name for entry in torchvision.models.get_model_weights(name))
        raise ConfigError(
            f"{name} has no weights {weights!r}; expected null, a file or one of: {names}."
        ) from error


def _timm_network(
    name: str, image_size: int, weights: str | None, classes: int | None
) -> nn.Module:
    timm = _timm()
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), 8)
        near = f" Close to it: {', '.join(TIMM + each for each in close)}." if close else ""
        raise ConfigError(
            f"timm has no network {name!r}.{near} All names: python -c 'import timm;"
            " timm.list_models()'"
        )
    facts = timm.get_pretrained_cfg(name)
    options = {"img_size": image_size} if facts is not None and facts.fixed_input_size else {}
    if classes is not None:
        options["num_classes"] = classes
    if weights is None:
        return timm.create_model(name, **options)  # type: ignore[no-any-return]
    architecture = name.partition(".")[0]
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{architecture}.*")]
    if not tags or weights not in ("pretrained", *tags):
        raise ConfigError(
            f"{TIMM}{name} has no weights {weights!r}; expected null, a file, or one of: "
            f"{', '.join(['pretrained', *tags] if tags else ['(timm has none)'])}."
        )
    tagged = name if weights == "pretrained" else f"{architecture}.{weights}"
    try:
        return timm.create_model(tagged, pretrained=True, **options)  # type: ignore[no-any-return]
    except Exception as error:  # downloads raise several unrelated types
        raise ConfigError(
            f"timm's weights {weights!r} of {name} cannot be downloaded ({error}). Connect to the"
            " internet, or download them elsewhere and give the .safetensors file as weights."
        ) from error


@cache
def _timm() -> ModuleType:
    """Import timm only where it is used, because importing takes as long as building a network."""
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError("A network of timm", "train") from error
    return timm  # type: ignore[no-any-return]
