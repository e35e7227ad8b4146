"""Sources of an encoder's weights, and errors on damaged, foreign or malicious files."""

import copy
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import WeightsEnum, get_model

from captioner.errors import CheckpointError, ConfigError
from captioner.model.encoder import Encoder, EncoderConfig
from captioner.model.pretrained import load_pretrained, warn_of_preprocessing
from captioner.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from captioner.pretraining.network import new_network

SIZE = 64


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A whole ResNet-18 with BatchNorm statistics of its own. Not to be changed."""
    torch.manual_seed(1)
    network = get_model("resnet18")
    network(torch.randn(4, 3, SIZE, SIZE))  # in training mode: moves the statistics
    return network.eval()


def save(network: nn.Module, path: Path) -> str:
    if path.suffix == ".safetensors":
        save_file(network.state_dict(), path)
    else:
        torch.save(network.state_dict(), path)
    return str(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_weights_are_those_of_torchvisions_state_dict(
    suffix: str, network: nn.Module, encoder: Encoder, tmp_path: Path
) -> None:
    load_pretrained(encoder, "resnet18", save(network, tmp_path / f"weights{suffix}"))
    expected, state = network.state_dict(), encoder.cnn.state_dict()
    assert expected.keys() - state.keys() == {"fc.weight", "fc.bias"}
    assert all(torch.equal(state[name], expected[name]) for name in state)
    assert encoder.frozen


def test_weights_without_batchnorms_counters_are_taken(
    network: nn.Module, encoder: Encoder, tmp_path: Path
) -> None:
    state = {
        name: t
        for name, t in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    save_file(state, tmp_path / "weights.safetensors")
    load_pretrained(encoder, "resnet18", str(tmp_path / "weights.safetensors"))
    assert torch.equal(encoder.cnn.state_dict()["bn1.running_var"], state["bn1.running_var"])


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def refused(encoder: Encoder, file: Path, said: str) -> None:
    """Check that a file is refused in words that name it, and that the encoder is as it was."""
    before = copy.deepcopy(encoder.cnn.state_dict())
    with pytest.raises(CheckpointError, match=said) as caught:
        load_pretrained(encoder, "resnet18", str(file))
    assert str(file) in str(caught.value)
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in encoder.cnn.state_dict().items()
    )


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_code_is_not_executed(legacy: bool, encoder: Encoder, tmp_path: Path) -> None:
    file, trace = tmp_path / "weights.pth", tmp_path / "executed"
    if legacy:
        file.write_bytes(pickle.dumps({"conv1.weight": Malicious(trace)}, protocol=2))
    else:
        torch.save({"conv1.weight": Malicious(trace)}, file)
    refused(encoder, file, "not a plain state dict")
    assert not trace.exists()
    torch.load(file, weights_only=False) if not legacy else pickle.loads(file.read_bytes())
    assert trace.exists()  # so the file would have done it


@pytest.mark.parametrize(
    "content", [[1, 2], {"state_dict": {"conv1.weight": torch.zeros(1)}}, {"epoch": 3}]
)
def test_a_pickle_of_something_else_is_refused(
    content: object, encoder: Encoder, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "weights.pt")
    refused(encoder, tmp_path / "weights.pt", "not a state dict of tensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_truncated_files_are_refused(
    suffix: str, share: float, network: nn.Module, encoder: Encoder, tmp_path: Path
) -> None:
    file = tmp_path / f"weights{suffix}"
    save(network, file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    refused(encoder, file, "cannot be read|not a plain state dict")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_files_of_another_network_are_refused(
    suffix: str, encoder: Encoder, tmp_path: Path
) -> None:
    file = tmp_path / f"weights{suffix}"
    save(get_model("squeezenet1_1"), file)
    refused(encoder, file, "lacks 100 tensors of resnet18.*weights of this network")


def test_files_of_a_network_with_the_same_names_are_refused(
    network: nn.Module, encoder: Encoder, tmp_path: Path
) -> None:
    state = network.state_dict()
    save_file(
        {**state, "layer4.1.conv2.weight": torch.zeros(512, 512, 1, 1)},
        tmp_path / "weights.safetensors",
    )
    refused(
        encoder, tmp_path / "weights.safetensors", r"the shape of layer4\.1\.conv2\.weight differs"
    )


@pytest.mark.parametrize("name", ["absent.safetensors", "absent.pth", "folder.pt"])
def test_missing_files_are_refused(name: str, encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "folder.pt").mkdir()
    refused(encoder, tmp_path / name, "no such file")


@pytest.mark.parametrize("weights", ["IMAGENET1K_V9", "weights.ckpt", ""])
def test_unknown_weights_names_are_refused(weights: str, encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match=rf"no weights '{weights}'.*a file.*IMAGENET1K_V1"):
        load_pretrained(encoder, "resnet18", weights)


# --- timm ---


def test_weights_are_those_of_timms_state_dict(tmp_path: Path) -> None:
    torch.manual_seed(2)
    network = timm.create_model("mobilenetv4_conv_small_035")
    encoder = Encoder(EncoderConfig("timm/mobilenetv4_conv_small_035"), SIZE)
    load_pretrained(
        encoder, "timm/mobilenetv4_conv_small_035", save(network, tmp_path / "weights.safetensors")
    )
    expected, state = network.state_dict(), encoder.cnn.state_dict()
    unused = {name.split(".")[0] for name in expected.keys() - state.keys()}
    assert unused == {"conv_head", "norm_head", "classifier"}  # behind the pooling
    assert all(torch.equal(state[name], expected[name]) for name in state)


@pytest.mark.parametrize("weights", ["pretrained", "e2400_r224_in1k"])
def test_without_a_network_timms_weights_cannot_be_downloaded(
    weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "timm/mobilenetv4_conv_small"
    encoder = Encoder(EncoderConfig(name), SIZE)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", "/nonexistent")
    with pytest.raises(
        ConfigError, match=f"'{weights}' of mobilenetv4_conv_small cannot be downloaded .*internet"
    ):
        load_pretrained(encoder, name, weights)
    with pytest.raises(
        ConfigError, match=r"no weights 'IMAGENET1K_V1'.*pretrained, .*e2400_r224_in1k"
    ):
        load_pretrained(encoder, name, "IMAGENET1K_V1")


def test_another_normalization_than_that_of_torchvisions_weights_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    half = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3)
    for name, weights, fitting in (
        ("resnet18", "IMAGENET1K_V1", Preprocessing()),
        ("resnet50", "DEFAULT", Preprocessing()),
        ("efficientnet_v2_l", "IMAGENET1K_V1", half),
        ("googlenet", "IMAGENET1K_V1", half),
        ("inception_v3", "IMAGENET1K_V1", half),
    ):
        warn_of_preprocessing(name, fitting, weights)
        assert not caplog.messages
        warn_of_preprocessing(name, Preprocessing() if fitting is half else half, weights)
        (message,) = caplog.messages
        assert f"torchvision's weights of {name}" in message
        assert f"{{mean: {list(fitting.mean)}" in message
        caplog.clear()
    for weights in ("gone.pth", "IMAGENET1K_V9"):  # of which nothing is known
        warn_of_preprocessing("resnet18", half, weights)
    warn_of_preprocessing("plain_cnn", half, "gone.pth")
    assert not caplog.messages


def test_googlenet_sees_pixels_from_minus_1_to_1() -> None:
    """With weights, torchvision's network converts them itself; ours gets them so."""
    network = get_model("googlenet", weights=None, init_weights=False, transform_input=True)
    pixels = torch.rand(1, 3, 32, 32)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(
        network._transform_input((pixels - mean) / std), (pixels - 0.5) / 0.5
    )


def test_googlenets_weights_have_its_auxiliary_classifiers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in torchvision's file; a network that is pretrained further has them too."""
    state = get_model("googlenet", weights=None, init_weights=False).state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: state)
    found = new_network("googlenet", SIZE, 3, "IMAGENET1K_V1").state_dict()
    assert found.keys() == state.keys()
    for name in ("conv1.conv.weight", "aux1.conv.conv.weight"):
        assert torch.equal(found[name], state[name])


def test_another_normalization_than_that_of_timms_weights_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    warn_of_preprocessing("resnet18", Preprocessing(mean=(0, 0, 0)))
    warn_of_preprocessing("timm/mobilenetv4_conv_small", Preprocessing())
    warn_of_preprocessing(
        "efficientnet_lite2", Preprocessing(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    )
    assert not caplog.messages
    warn_of_preprocessing("timm/tf_efficientnet_lite2", Preprocessing())
    (message,) = caplog.messages
    assert "mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], interpolation: bicubic" in message
    assert "260 pixels" in message and "config says {mean: [0.485, 0.456, 0.406]" in message
