"""Encoders: region features, cutting, and trained stages."""

import copy
import importlib
import multiprocessing
import sys

import pytest
import torch
from torch import Tensor, nn

from captioner.errors import ConfigError
from captioner.model.encoder import Encoder, EncoderConfig
from captioner.model.networks import build_network

SIZE = 64  # a stride of 32 leaves two regions a side

# CNN -> feature width; the module whose output the features are
CNNS = {
    "resnet18": (512, "layer4"),
    "resnet34": (512, "layer4"),
    "resnet50": (2048, "layer4"),
    "resnet101": (2048, "layer4"),
    "resnet152": (2048, "layer4"),
    "mobilenet_v2": (1280, "features"),
    "mobilenet_v3_large": (960, "features"),
    "efficientnet_b0": (1280, "features"),
    "convnext_tiny": (768, "features"),
    "regnet_y_400mf": (440, "trunk_output"),
    "vgg16": (512, "features"),
}
ALIKE = {"resnet34", "resnet50", "resnet101", "resnet152", "mobilenet_v2"}  # built as others are


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE)


def layer_output(network: nn.Module, layer: str, pixels: Tensor) -> Tensor:
    """What a layer gives inside the whole network."""
    seen: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(
        lambda module, inputs, output: seen.append(output)
    )
    network.eval()(pixels)
    handle.remove()
    return seen[0]  # (B, D, G, G)


def by_region(output: Tensor) -> Tensor:
    """(B, D, G, G) -> (B, L, D), region by region."""
    _, _, height, width = output.shape
    return torch.stack([output[:, :, y, x] for y in range(height) for x in range(width)], dim=1)


@torch.inference_mode()
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else []) for name in CNNS],
)
def test_features_are_the_last_spatial_layer_of_the_whole_network(
    name: str, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_network(name, SIZE)
    monkeypatch.setattr(
        "captioner.model.encoder.build_network", lambda name, size: network
    )  # building takes the most time
    width, layer = CNNS[name]
    encoder = Encoder(EncoderConfig(name), SIZE).eval()
    assert (encoder.grid, encoder.regions, encoder.width) == (2, 4, width)
    features = encoder(pixels)
    assert features.shape == (2, 4, width)
    assert features.std() > 0
    torch.testing.assert_close(features, by_region(layer_output(network, layer, pixels)))
    assert encoder.cnn.state_dict().keys() < network.state_dict().keys()  # so weight files fit


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "size", "width"),
    [
        ("tf_efficientnet_lite0", 64, 1280),
        ("mobilenetv4_conv_small_035", 64, 336),
        ("convnext_atto", 64, 320),
        ("fastvit_t8", 64, 768),
        (
            "vit_tiny_patch16_224",
            32,
            192,
        ),  # made for one size of images; its class token is no region
        ("swin_tiny_patch4_window7_224", 64, 768),  # channels last
    ],
)
def test_features_of_timm_are_those_of_its_own_network(
    name: str, size: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_network(f"timm/{name}", size).eval()
    original = copy.deepcopy(network)
    monkeypatch.setattr("captioner.model.encoder.build_network", lambda name, size: network)
    encoder = Encoder(EncoderConfig(f"timm/{name}"), size).eval()
    assert (encoder.grid, encoder.width) == (2, width)
    pixels = torch.randn(2, 3, size, size)
    expected = original.forward_features(pixels)
    if expected.ndim == 4:
        expected = expected.flatten(1, 2) if expected.shape[3] == width else by_region(expected)
    torch.testing.assert_close(encoder(pixels), expected[:, -4:], atol=1e-4, rtol=1e-4)
    copied = copy.deepcopy(encoder)  # as averaging weights does
    torch.nn.init.zeros_(next(encoder.parameters()))
    torch.testing.assert_close(copied(pixels), expected[:, -4:], atol=1e-4, rtol=1e-4)


def test_a_name_that_timm_does_not_know_is_refused_with_those_that_are_close() -> None:
    with pytest.raises(
        ConfigError, match=r"no network 'mobilenetv4_conv_smal'.*timm/mobilenetv4_conv_small,"
    ):
        Encoder(EncoderConfig("timm/mobilenetv4_conv_smal"), SIZE)


def import_anew_and_build() -> None:
    """Exit with whether timm is imported, in a forked process, which already has torch."""
    torch.set_num_threads(1)  # the threads of the process that it was forked from aren't there
    for name in list(sys.modules):
        if name.partition(".")[0] == "timm" or name.startswith("captioner.model"):
            del sys.modules[name]
    encoder = importlib.import_module("captioner.model.encoder")
    importlib.import_module("captioner.model.pretrained")
    assert encoder.Encoder is not Encoder
    encoder.Encoder(encoder.EncoderConfig("squeezenet1_1"), SIZE)
    sys.exit("timm" in sys.modules)


def test_timm_is_imported_only_for_its_networks() -> None:
    process = multiprocessing.get_context("fork").Process(target=import_anew_and_build)
    process.start()
    process.join()
    assert process.exitcode == 0


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [("resnet18", 224, 3), ("mobilenet_v3_large", 96, 2), ("squeezenet1_1", 64, 5)],
)
def test_a_configured_grid_is_adaptive_average_pooling(name: str, size: int, grid: int) -> None:
    encoder = Encoder(EncoderConfig(name, grid=grid), size).eval()
    assert (encoder.grid, encoder.regions) == (grid, grid**2)
    pixels = torch.randn(2, 3, size, size)
    own = encoder.cnn(pixels)["features"]
    assert own.shape[2] % grid  # not a divisor, so that regions overlap
    expected = by_region(torch.nn.functional.adaptive_avg_pool2d(own, grid))
    torch.testing.assert_close(encoder(pixels), expected)


def test_a_grid_of_the_cnns_own_size_changes_nothing(pixels: Tensor) -> None:
    encoder = Encoder(EncoderConfig("resnet18", grid=2), SIZE).eval()
    assert torch.equal(encoder(pixels), by_region(encoder.cnn(pixels)["features"]))


def test_224_pixels_leave_7_regions_a_side() -> None:
    assert Encoder(EncoderConfig("resnet18"), 224).regions == 49


@pytest.mark.parametrize("name", ["squeezenet1_1", "mnasnet0_5"])
def test_other_cnns_encode_too(name: str, pixels: Tensor) -> None:
    encoder = Encoder(EncoderConfig(name), SIZE).eval()
    assert encoder(pixels).shape == (2, encoder.regions, encoder.width)


@pytest.mark.parametrize(
    "name",
    [
        "vit_b_16",
        "swin_t",
        "swin_v2_t",
        "maxvit_t",
        "resnet19",
        "ResNet18",
        "",
        "fcn_resnet50",
        "raft_small",
    ],
)
def test_what_is_no_cnn_of_torchvision_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no classification CNN") as caught:
        Encoder(EncoderConfig(name), SIZE)
    choices = str(caught.value).split("or one of: ")[1]
    assert "resnet18" in choices
    assert "vit_" not in choices


@pytest.mark.parametrize("grid", [0, -7])
def test_a_grid_that_is_not_positive_is_refused(grid: int) -> None:
    with pytest.raises(ConfigError, match=rf"encoder\.grid is {grid}"):
        Encoder(EncoderConfig("resnet18", grid=grid), SIZE)


@pytest.mark.parametrize(("name", "size"), [("alexnet", 16), ("squeezenet1_1", 1)])
def test_images_that_are_too_small_are_refused(name: str, size: int) -> None:
    with pytest.raises(ConfigError, match=rf"{name} .*images of {size} pixels"):
        Encoder(EncoderConfig(name), size)


# --- What trains ---


def statistics(encoder: Encoder) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in encoder.cnn.named_buffers()}


def weights(encoder: Encoder) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in encoder.cnn.named_parameters()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def training_step(encoder: Encoder, pixels: Tensor) -> None:
    """One training step of the encoder and a head, with all parameters in the optimizer."""
    head = nn.Linear(encoder.width, 1)
    model = nn.ModuleDict({"encoder": encoder, "head": head}).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    head(encoder(pixels)).square().sum().backward()
    optimizer.step()


def in_stage(names: set[str] | dict[str, Tensor], stage: str) -> set[str]:
    return {name for name in names if name.startswith(f"{stage}.")}


def test_a_frozen_encoder_stays_in_evaluation_mode(encoder: Encoder, pixels: Tensor) -> None:
    expected = encoder.eval()(pixels)
    nn.Sequential(encoder).train()
    assert encoder.training and encoder.frozen
    assert not any(module.training for module in encoder.cnn.modules())
    assert torch.equal(encoder(pixels), expected)


@pytest.mark.parametrize("name", ["efficientnet_b0"])
def test_frozen_layers_that_are_random_in_training_are_still(name: str, pixels: Tensor) -> None:
    encoder = Encoder(EncoderConfig(name), SIZE)  # with stochastic depth
    assert torch.equal(encoder.train()(pixels), encoder.eval()(pixels))


def test_a_training_step_leaves_a_frozen_encoder_as_it_is(encoder: Encoder, pixels: Tensor) -> None:
    before = statistics(encoder), weights(encoder)
    training_step(encoder, pixels)
    assert not changed(before[0], statistics(encoder))
    assert not changed(before[1], weights(encoder))
    assert not list(encoder.trained_parameters())
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_only_unfrozen_stages_get_gradients_and_batchnorm_stays_as_it_is(
    encoder: Encoder, pixels: Tensor
) -> None:
    encoder.unfreeze(["layer4.1", "layer1"])
    assert not encoder.frozen
    before = statistics(encoder), weights(encoder)
    training_step(encoder, pixels)
    assert not changed(before[0], statistics(encoder))
    trained = in_stage(before[1], "layer4.1") | in_stage(before[1], "layer1")
    convolutions = {name for name in trained if "conv" in name}
    assert convolutions < trained
    assert changed(before[1], weights(encoder)) == convolutions
    with_gradient = {
        name for name, parameter in encoder.cnn.named_parameters() if parameter.grad is not None
    }
    assert with_gradient == convolutions
    assert {id(parameter) for parameter in encoder.trained_parameters()} == {
        id(parameter) for name, parameter in encoder.cnn.named_parameters() if name in convolutions
    }


def test_unfrozen_batchnorm_trains_in_its_stage_alone(encoder: Encoder, pixels: Tensor) -> None:
    encoder.unfreeze(["layer4"], freeze_batchnorm=False)
    before = statistics(encoder), weights(encoder)
    training_step(encoder, pixels)
    assert changed(before[0], statistics(encoder)) == in_stage(before[0], "layer4")
    assert changed(before[1], weights(encoder)) == in_stage(before[1], "layer4")
    encoder.eval()
    before = statistics(encoder), weights(encoder)
    encoder(pixels)
    assert not changed(before[0], statistics(encoder))


@pytest.mark.parametrize("freeze_batchnorm", [True, False])
def test_all_unfreezes_the_whole_cnn(
    freeze_batchnorm: bool, encoder: Encoder, pixels: Tensor
) -> None:
    encoder.unfreeze(["all"], freeze_batchnorm=freeze_batchnorm)
    before = statistics(encoder), weights(encoder)
    training_step(encoder, pixels)
    batchnorm = {name for name in before[1] if "bn" in name or "downsample.1" in name}
    assert changed(before[1], weights(encoder)) == before[1].keys() - (
        batchnorm if freeze_batchnorm else set()
    )
    assert changed(before[0], statistics(encoder)) == (
        set() if freeze_batchnorm else before[0].keys()
    )


def test_a_stage_does_not_unfreeze_another_that_begins_like_it() -> None:
    encoder = Encoder(EncoderConfig("mobilenet_v2"), SIZE)
    encoder.unfreeze(["features.1"])
    trained = {
        name for name, parameter in encoder.cnn.named_parameters() if parameter.requires_grad
    }
    assert trained and trained == {name for name in trained if name.startswith("features.1.")}


def test_freezing_again_undoes_it(encoder: Encoder, pixels: Tensor) -> None:
    encoder.unfreeze(["all"], freeze_batchnorm=False)
    encoder.unfreeze([])
    assert encoder.frozen
    before = statistics(encoder)
    training_step(encoder, pixels)
    assert not changed(before, statistics(encoder))


@pytest.mark.parametrize("stage", ["layer9", "", "fc", "layer4.9"])
def test_an_unknown_stage_is_refused_and_known_ones_are_named(stage: str, encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match=rf"no stage '{stage}'.*'all'.*layer4"):
        encoder.unfreeze(["layer4", stage])
    assert encoder.frozen


@pytest.mark.parametrize(
    ("name", "stage", "path"),
    [
        ("mobilenet_v2", "features.17", "features.17.conv.1.0"),
        (
            "timm/tf_efficientnet_lite0",
            "blocks.5",
            "blocks.5.0.conv_dw",
        ),  # padded as TensorFlow does, by timm
    ],
)
def test_depthwise_convolutions_train_in_float32_on_a_cpu(name: str, stage: str, path: str) -> None:
    """Mixed precision doesn't change them in training, and speeds them up while they are frozen."""
    encoder = Encoder(EncoderConfig(name), SIZE)
    layer = encoder.cnn.get_submodule(path)
    assert isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels
    inputs = torch.randn(2, layer.in_channels, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(inputs).dtype == torch.bfloat16
        encoder.unfreeze([stage])
        output = layer(inputs)
        (gradient,) = torch.autograd.grad(output.square().sum(), layer.weight)
    side = layer.kernel_size[0]
    before = side // 2 - (
        layer.stride[0] - 1
    )  # of a stride of two, a pixel less at the left and at the top
    padded = nn.functional.pad(inputs, (before, side // 2) * 2)
    expected = nn.functional.conv2d(padded, layer.weight, stride=layer.stride, groups=layer.groups)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(
        gradient, *torch.autograd.grad(expected.square().sum(), layer.weight)
    )
