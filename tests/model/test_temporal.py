"""Temporal encoders: what they make of the order of frames, on both backends and in folders."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.checkpoint import read_checkpoint
from captioner.decoding import DecodingOptions
from captioner.errors import CheckpointError, ConfigError, ImageError
from captioner.explain import explain
from captioner.export import save_checkpoint
from captioner.inference import Captioner
from captioner.model.captioning import CaptioningModel
from captioner.model.decoder import DecoderConfig
from captioner.model.encoder import EncoderConfig
from captioner.model.temporal import TEMPORAL_ENCODERS, EventHead, TemporalConfig
from captioner.preprocessing import Preprocessing
from tests.clip_models import SIZE, VOCABULARY
from tests.clip_models import save_clip_model as save

B, F, L, D, H = 3, 5, 4, 7, 6
LENGTHS = {"mean": 1, "lrcn": 1, "s2vt": 2, "attention": F}


def make(name: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    config = TemporalConfig(name, frames=F, hidden_size=H, region_size=3, **options)
    return TEMPORAL_ENCODERS[name](config, L, D)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("name", TEMPORAL_ENCODERS)
def test_order_counts_for_all_but_the_mean(name: str, cell: str) -> None:
    encoder = make(name, cell=cell)
    features = torch.randn(B, F, L, D)
    there, back = (encoder(each.flatten(1, 2)) for each in (features, features.flip(1)))
    assert there.shape == (B, LENGTHS[name], H)
    assert torch.allclose(there, back, atol=1e-6) is (name == "mean")


def test_events_are_told_from_a_frame_and_its_neighbours() -> None:
    frames, states = torch.randn(2, B, F, H)
    head = EventHead(H, 2)
    weights = head.hidden.weight.detach().reshape(H, 3, 2, H)
    for frame in range(F):
        hidden = head.hidden.bias.detach().expand(B, H)
        for place, other in enumerate((frame - 1, frame, frame + 1)):
            if 0 <= other < F:
                hidden = hidden + frames[:, other] @ weights[:, place, 0].T
                hidden = hidden + states[:, other] @ weights[:, place, 1].T
        expected = hidden.clamp(min=0) @ head.output.weight.T + head.output.bias
        torch.testing.assert_close(head(frames, states)[:, frame], expected)


@pytest.mark.parametrize("name", ["lrcn", "s2vt", "attention"])
def test_the_states_are_those_of_the_last_rnn(name: str) -> None:
    encoder = make(name)
    features = torch.randn(B, F * L, D)
    attended, states, frames = encoder.read(features)
    torch.testing.assert_close(frames, encoder.embed(features))
    torch.testing.assert_close(attended, encoder(features))
    assert states.shape == (B, F, H)
    torch.testing.assert_close(states[:, -1], attended[:, -1])


def test_it_is_known_where_in_a_frame_something_is() -> None:
    features = torch.randn(B, F, L, D)
    encoder = make("mean")
    moved = features.roll(1, dims=2)
    assert not torch.allclose(
        *(encoder(each.flatten(1, 2)) for each in (features, moved)), atol=1e-3
    )


def test_attention_sees_no_later_frame() -> None:
    encoder = make("attention")
    features = torch.randn(B, F, L, D)
    changed = features.clone()
    changed[:, 3:] += 1
    one, other = (encoder(each.flatten(1, 2)) for each in (features, changed))
    torch.testing.assert_close(one[:, :3], other[:, :3])
    assert not torch.allclose(one[:, 3], other[:, 3])


@pytest.mark.parametrize(("cell", "reference"), [("lstm", torch.nn.LSTM), ("gru", torch.nn.GRU)])
def test_the_rnn_is_that_of_torch(cell: str, reference: type[torch.nn.Module]) -> None:
    encoder = make("attention", cell=cell)
    theirs = reference(H, H, batch_first=True)
    theirs.load_state_dict(
        {f"{name}_l0": value for name, value in encoder.rnn.cell.state_dict().items()}
    )
    features = torch.randn(B, F * L, D)
    torch.testing.assert_close(encoder(features), theirs(encoder.embed(features))[0])


def test_the_vectors_of_regions_are_the_frames_state_and_their_own() -> None:
    encoder, plain = make("attention", regions=True), make("attention")
    plain.load_state_dict(encoder.state_dict(), strict=False)
    features = torch.randn(B, F * L, D)
    states, both = plain(features), encoder(features)
    assert both.shape == (B, F * L, H)
    own = features @ encoder.local.weight.T + encoder.local.bias
    for frame in range(F):
        for region in range(L):
            row = frame * L + region
            torch.testing.assert_close(both[:, row], states[:, frame] + own[:, row])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "later"}, "temporal.name is 'later'; expected one of: none, mean, lrcn"),
        ({"name": "lrcn", "cell": "rnn"}, "temporal.cell is 'rnn'; expected one of: lstm, gru"),
        ({"name": "lrcn", "frames": 1}, "temporal.frames is 1; expected 2 or more"),
        ({"name": "lrcn", "hidden_size": 0}, "temporal.hidden_size is 0"),
        ({"name": "lrcn", "regions": True}, "only 'attention' can attend to regions"),
    ],
)
def test_wrong_configs_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TemporalConfig(**options)


def frames(count: int, seed: int = 0) -> list[Image.Image]:
    random = np.random.default_rng(seed)
    return [
        Image.fromarray(random.integers(0, 256, (3, 3, 3), dtype=np.uint8)).resize((80, 60))
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        pytest.param("attention", {}, (3,), marks=pytest.mark.slow),
        ("attention", {"regions": True, "cell": "gru"}, (3, 3, 3)),
        pytest.param("s2vt", {}, None, marks=pytest.mark.slow),
    ],
)
def test_both_backends_caption_a_clip_alike(
    tmp_path: Path, name: str, options: dict[str, object], shape: tuple[int, ...] | None
) -> None:
    folder = save(tmp_path / "model", name, **options)
    clips = [frames(3, seed) for seed in range(4)]
    light, torch_one = (
        Captioner.from_pretrained(folder, backend=backend) for backend in ("onnx", "torch")
    )
    for clip in clips:
        one, other = (each.caption_clip(clip) for each in (light, torch_one))
        assert one.text == other.text
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-3)
        if shape is None:
            assert one.attention is None
        else:
            assert one.attention.shape == (len(one.words), *shape)
    together = light.caption(clips)
    assert [caption.text for caption in together] == [
        light.caption_clip(clip).text for clip in clips
    ]
    back = light.caption_clip(clips[0][::-1])
    assert back.log_prob != pytest.approx(together[0].log_prob, abs=1e-4), "order counts"


def test_a_folder_says_how_many_frames_its_model_sees(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "lrcn", onnx=False)
    config = json.loads((folder / "config.json").read_text())
    assert config["format_version"] == 3, "what reads up to 2 says that it is too old"
    assert read_checkpoint(folder).frames == 3
    assert read_checkpoint().frames == 0
    for wrong in (None, {}, {"name": "lrcn", "frames": True}, {"frames": 0}):
        config["architecture"]["temporal"] = wrong
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match="expected an object that names the number"):
            read_checkpoint(folder)


def test_an_ensemble_of_models_of_clips(tmp_path: Path) -> None:
    folders = [save(tmp_path / str(seed), "lrcn", seed=seed, onnx=False) for seed in (0, 1)]
    captioner = Captioner.from_pretrained(folders)
    assert captioner.frames == 3
    assert captioner.caption_clip(frames(3)).words
    with pytest.raises(ConfigError, match="differ in their frames"):
        torch.manual_seed(0)
        other = CaptioningModel(
            EncoderConfig("plain_cnn"),
            DecoderConfig(hidden_size=4, embedding_size=4, context_size=4, attention_size=4),
            image_size=SIZE,
            vocab_size=len(VOCABULARY),
        )
        photos = tmp_path / "photos"
        save_checkpoint(
            photos,
            other,
            vocabulary=VOCABULARY,
            preprocessing=Preprocessing(size=SIZE),
            decoding=DecodingOptions(),
            card="# Of photos\n",
            onnx=False,
        )
        Captioner.from_pretrained([folders[0], photos])


def test_frames_are_taken_evenly_and_photos_stand_for_clips_of_one_frame(tmp_path: Path) -> None:
    captioner = Captioner.from_pretrained(save(tmp_path / "model", "s2vt", onnx=False))
    many = frames(9)
    assert captioner.caption_clip(many) == captioner.caption_clip([many[i] for i in (1, 4, 7)])
    assert captioner.caption(many[0]) == [captioner.caption_clip([many[0]] * 3)]
    with pytest.raises(ImageError, match="has no frames"):
        captioner.caption_clip([])
    with pytest.raises(ConfigError, match="Maps are not supported for models of clips"):
        explain(captioner, many[0])
    with pytest.raises(ConfigError, match="This model captions photos"):
        Captioner.from_pretrained().caption_clip(many)
