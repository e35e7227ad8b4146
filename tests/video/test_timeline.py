"""Timelines of drawn clips, by the bundled model."""

from pathlib import Path

import numpy as np
import pytest

from captioner.backends.ensemble import Ensemble
from captioner.caption import Caption
from captioner.errors import ConfigError, VideoError
from captioner.images import open_image
from captioner.inference import Captioner
from captioner.video.clip import Clip
from captioner.video.frames import Frames
from captioner.video.mixed import stream_mixed
from tests.clips import EXAMPLES, draw_clip, still

pytest.importorskip("av")

PARTS = (("cat", 2.3), ("rocket", 1.5), ("coffee", 1.2))


@pytest.fixture(scope="module")
def bundled() -> Captioner:
    return Captioner.from_pretrained()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", *PARTS)


@pytest.fixture(scope="module")
def clip(bundled: Captioner, path: Path) -> Clip:
    return bundled.caption_video(path)


def test_shots_are_those_that_were_drawn(clip: Clip) -> None:
    times = [(shot.start, shot.end) for shot in clip.shots]
    assert times == [pytest.approx(span) for span in [(0, 2.3), (2.3, 3.8), (3.8, 5)]]
    assert clip.duration == pytest.approx(5)


def test_a_shot_has_the_caption_of_one_of_its_frames(
    clip: Clip, bundled: Captioner, path: Path
) -> None:
    frames = [(frame.time, frame.image) for frame in Frames(path, size=256)]
    captions = bundled.caption([image for _, image in frames])
    for shot in clip.shots:
        within = {
            caption.text
            for (time, _), caption in zip(frames, captions, strict=True)
            if shot.start <= time < shot.end
        }
        assert shot.caption.text in within


def test_the_sentence_for_all_is_that_of_the_most_central_shot(clip: Clip) -> None:
    assert clip.summary == clip.shots[0].caption  # which lasts longest, and nothing is alike
    assert str(clip) == clip.summary.text


def test_batches_change_nothing(clip: Clip, bundled: Captioner, path: Path) -> None:
    small = bundled.caption_video(path, batch_size=2)
    assert [(shot.start, shot.caption.text) for shot in small.shots] == [
        (shot.start, shot.caption.text) for shot in clip.shots
    ]


def test_fixed_steps_caption_the_frame_at_each(bundled: Captioner, path: Path) -> None:
    clip = bundled.caption_video(path, every=1.2, beam_size=2)
    assert [shot.start for shot in clip.shots] == pytest.approx([0, 1.2, 2.4, 3.6, 4.8])
    assert [shot.end for shot in clip.shots] == pytest.approx([1.2, 2.4, 3.6, 4.8, 5])
    images = [frame.image for frame in Frames(path, every=1.2, size=256)]
    captions = bundled.caption(images, beam_size=2)
    assert [shot.caption.text for shot in clip.shots] == [caption.text for caption in captions]


def test_a_timeline_as_json(clip: Clip) -> None:
    data = clip.to_dict()
    assert data["caption"] == clip.summary.text
    assert data["duration"] == 5.0
    assert data["shots"][1]["start"] == 2.3
    assert data["shots"][1]["caption"] == clip.shots[1].caption.text


def test_options_are_checked_before_the_clip_is_read(bundled: Captioner) -> None:
    with pytest.raises(ConfigError, match="beam_size"):
        bundled.caption_video("missing.mp4", beam_size=0)
    with pytest.raises(ConfigError, match="batch_size"):
        bundled.caption_video("missing.mp4", batch_size=0)
    with pytest.raises(ConfigError, match="every"):
        bundled.caption_video("missing.mp4", every=0)


def test_photos_and_clips_in_any_order(clip: Clip, bundled: Captioner, path: Path) -> None:
    cat, rocket = EXAMPLES / "cat.jpg", EXAMPLES / "rocket.jpg"
    sources = [path, cat, "missing.jpg", "missing.mp4", path, rocket]
    results = list(stream_mixed(bundled, iter(sources)))
    kinds = [type(result) for result in results]
    assert issubclass(kinds.pop(2), Exception)
    assert kinds == [Clip, Caption, VideoError, Clip, Caption]
    assert str(results[0]) == str(results[4]) == str(clip)
    captions = bundled.caption([cat, rocket])
    assert [str(results[1]), str(results[5])] == [caption.text for caption in captions]


def test_both_backends_pool_the_same_features(checkpoint_folder: Path) -> None:
    photos = [still(name, 0.1)[0] for name in ("cat", "rocket", "coffee")]
    light, heavy = (
        Captioner.from_pretrained(checkpoint_folder, backend=name) for name in ("onnx", "torch")
    )
    pixels = np.stack([light.preprocessing(open_image(photo)) for photo in photos])
    ours, theirs = (each.backend.encode(pixels).pooled for each in (light, heavy))
    assert ours.shape == (3, 8)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    together = Ensemble([light.backend, heavy.backend]).encode(pixels).pooled
    assert together.shape == (3, 16)
    np.testing.assert_allclose((together**2).sum(axis=1), 2, rtol=1e-4)


def test_a_decoder_without_regions_has_features_too() -> None:
    import torch

    from captioner.backends.torch import TorchBackend
    from captioner.model.captioning import CaptioningModel
    from captioner.model.decoder import DecoderConfig
    from captioner.model.encoder import EncoderConfig

    decoder = DecoderConfig(name="show_tell", hidden_size=8, embedding_size=8)
    model = CaptioningModel(EncoderConfig("squeezenet1_1"), decoder, image_size=64, vocab_size=9)
    pooled = TorchBackend(model).encode(torch.randn(2, 3, 64, 64)).pooled
    assert pooled.shape == (2, 16)
    assert np.abs(pooled[0] - pooled[1]).max() > 0
