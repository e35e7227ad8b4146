import io
import json
import math
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import captioner as package
from captioner.decoding import DecodingOptions
from captioner.errors import CheckpointError, ConfigError, ImageError, MissingExtraError
from captioner.images import ImageSource
from captioner.inference import Caption, Captioner
from captioner.preprocessing import Preprocessing

Picture = Callable[[int], Image.Image]


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def assert_same(ours: list[Caption], theirs: list[Caption]) -> None:
    assert [caption.text for caption in ours] == [caption.text for caption in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-4)
        assert one.word_log_probs == pytest.approx(other.word_log_probs, abs=1e-4)
        np.testing.assert_allclose(one.attention, other.attention, atol=1e-5)
        assert_same(list(one.alternatives[1:]), list(other.alternatives[1:]))


@pytest.fixture(scope="module")
def pictures(picture: Picture) -> list[Image.Image]:
    return [picture(number) for number in range(40)]


@pytest.fixture(scope="module")
def on_torch(checkpoint_folder: Path) -> Captioner:
    return Captioner.from_pretrained(checkpoint_folder, backend="torch")


def test_the_tiny_network_has_something_to_say(
    captioner: Captioner, pictures: list[Image.Image]
) -> None:
    captions = captioner.caption(pictures)
    assert len({caption.text for caption in captions}) > 10
    assert len({len(caption.words) for caption in captions}) > 3, (
        "some images are done before others"
    )


@pytest.mark.parametrize("beam_size", [1, 2, 5])
def test_onnx_and_torch_write_the_same(
    captioner: Captioner, on_torch: Captioner, pictures: list[Image.Image], beam_size: int
) -> None:
    options = {"beam_size": beam_size, "alternatives": min(2, beam_size), "length_penalty": 0.5}
    assert_same(captioner.caption(pictures, **options), on_torch.caption(pictures, **options))


def test_onnx_and_torch_draw_the_same(
    captioner: Captioner, on_torch: Captioner, pictures: list[Image.Image]
) -> None:
    options = {"sample": True, "seed": 3, "alternatives": 2, "top_p": 0.9}
    assert_same(captioner.caption(pictures, **options), on_torch.caption(pictures, **options))


@pytest.mark.parametrize("options", [{"alternatives": 2}, {"sample": True, "seed": 5}])
def test_a_caption_does_not_depend_on_its_batch_mates(
    captioner: Captioner, pictures: list[Image.Image], options: dict[str, object]
) -> None:
    together = captioner.caption(pictures, **options)
    for batch_size in (1, 7):
        assert_same(captioner.caption(pictures, batch_size=batch_size, **options), together)
    if "sample" not in options:
        assert_same(captioner.caption(pictures[::-1], **options), together[::-1])


def test_what_is_sampled_does_not_depend_on_images_that_cannot_be_read(
    captioner: Captioner, pictures: list[Image.Image]
) -> None:
    mixed: list[ImageSource] = [b"", *pictures[:5], b"", *pictures[5:10]]
    for batch_size in (3, 32):
        captions = captioner.caption(
            mixed, on_error="skip", batch_size=batch_size, sample=True, seed=0
        )
        assert_same(
            list(filter(None, captions)), captioner.caption(pictures[:10], sample=True, seed=0)
        )


def test_any_mix_of_sources_is_taken(
    captioner: Captioner, pictures: list[Image.Image], tmp_path: Path
) -> None:
    image = pictures[0]
    path = tmp_path / "image.png"
    image.save(path)
    sources: list[ImageSource] = [str(path), path, png(image), image, np.asarray(image)]
    expected = captioner.caption([image])
    assert_same(captioner.caption(sources), expected * 5)
    assert_same(captioner.caption(iter(sources)), expected * 5)
    for source in sources:
        assert_same(captioner.caption(source), expected)
    assert captioner.caption([]) == []


def test_a_caption_says_all_about_itself(captioner: Captioner, pictures: list[Image.Image]) -> None:
    for caption in captioner.caption(pictures, alternatives=3):
        assert str(caption) == caption.text
        assert caption.text == " ".join(caption.words).replace(" 's", "'s").replace(" n't", "n't")
        assert len(caption.word_log_probs) == len(caption.words)
        assert caption.log_prob <= sum(caption.word_log_probs) <= 0  # END has a probability too
        assert caption.attention is not None
        assert caption.attention.shape == (len(caption.words), 3, 3)
        np.testing.assert_allclose(caption.attention.sum(axis=(1, 2)), 1, atol=1e-5)
        assert caption.alternatives[0].text == caption.text
        assert len({other.words for other in caption.alternatives}) == len(caption.alternatives) > 1
        log_probs = [other.log_prob for other in caption.alternatives]
        assert log_probs == sorted(log_probs, reverse=True)
        assert caption.to_dict() == {
            "caption": caption.text,
            "log_prob": caption.log_prob,
            "confidence": None,
            "alternatives": [
                {"caption": one.text, "log_prob": one.log_prob} for one in caption.alternatives
            ],
            "tags": [{"noun": tag.noun, "probability": tag.probability} for tag in caption.tags],
        }


def test_captions_can_be_compared_and_hashed(
    captioner: Captioner, pictures: list[Image.Image]
) -> None:
    one, again = captioner.caption([pictures[0]]), captioner.caption([pictures[0]])
    assert one == again
    assert len({*one, *again}) == 1
    assert one[0].alternatives == ()


def test_options_reach_the_search(captioner: Captioner, pictures: list[Image.Image]) -> None:
    assert all(len(caption.words) <= 2 for caption in captioner.caption(pictures, max_length=2))
    endings = {caption.words[-1] for caption in captioner.caption(pictures)}
    forbidden = sorted(endings)[:2]
    others = captioner.caption(pictures, forbidden_endings=forbidden, max_length=20)
    assert not {caption.words[-1] for caption in others} & set(forbidden)


@pytest.mark.parametrize(
    "options",
    [
        {"beam_sise": 3},
        {"beam_size": 0},
        {"alternatives": 4},
        {"temperature": 0.5},
        {"batch_size": 0},
        {"batch_size": True},
        {"batch_size": 2.0},
        {"on_error": "ignore"},
    ],
)
def test_wrong_options_are_refused_before_an_image_is_read(
    captioner: Captioner, options: dict[str, object]
) -> None:
    def images() -> Iterator[bytes]:
        raise AssertionError("was read")
        yield b""

    with pytest.raises(ConfigError):
        captioner.caption(images(), **options)  # type: ignore[call-overload]
    if "on_error" not in options:
        with pytest.raises(ConfigError):
            captioner.stream(images(), **options)  # type: ignore[arg-type]


def test_an_image_that_cannot_be_read_is_raised_or_skipped(
    captioner: Captioner, pictures: list[Image.Image], tmp_path: Path
) -> None:
    missing = tmp_path / "missing.jpg"
    sources: list[ImageSource] = [pictures[0], missing, pictures[1], b"no image", pictures[2]]
    with pytest.raises(ImageError, match=r"missing\.jpg: does not exist"):
        captioner.caption(sources)
    with pytest.raises(ImageError, match=r"^image 2 \(bytes\): "):
        captioner.caption([pictures[0], b"no image"])
    captions = captioner.caption(sources, on_error="skip")
    assert [caption is None for caption in captions] == [False, True, False, True, False]
    assert_same([caption for caption in captions if caption], captioner.caption(pictures[:3]))
    results = list(captioner.stream(sources, batch_size=2))
    assert [type(result) for result in results] == [
        Caption,
        ImageError,
        Caption,
        ImageError,
        Caption,
    ]
    assert captioner.caption([missing], on_error="skip") == [None]


@pytest.mark.parametrize("what", [None, 5, bytearray(b"GIF89a"), io.BytesIO(b"a\nb")])
def test_what_is_no_image_is_named(captioner: Captioner, what: Any) -> None:
    with pytest.raises(ImageError, match=f"is of type {type(what).__name__}: expected a path"):
        captioner.caption(what)
    (error,) = captioner.stream(what)
    assert isinstance(error, ImageError)


def test_a_sequence_without_an_iterator_holds_images(
    captioner: Captioner, pictures: list[Image.Image]
) -> None:
    class Dataset:  # as torch's
        def __getitem__(self, index: int) -> Image.Image:
            return pictures[:3][index]

    images: Any = Dataset()
    assert_same(captioner.caption(images), captioner.caption(pictures[:3]))
    assert_same(
        captioner.caption(images, batch_size=np.int64(2)),  # type: ignore[call-overload]
        captioner.caption(pictures[:3]),
    )


@pytest.mark.parametrize("folder", [5, b"model", [5], [["model"]]])
def test_what_is_no_folder_is_named(folder: Any) -> None:
    with pytest.raises(CheckpointError, match=r"The checkpoint folder is .*; expected its path"):
        Captioner.from_pretrained(folder)


def test_a_stream_reads_no_more_than_a_batch_ahead(
    captioner: Captioner, pictures: list[Image.Image]
) -> None:
    read = 0

    def endless() -> Iterator[Image.Image]:
        nonlocal read
        while True:
            read += 1
            yield pictures[read % len(pictures)]

    stream = captioner.stream(endless(), batch_size=8)
    assert read == 0
    for count in range(1, 50):
        assert isinstance(next(stream), Caption)
        assert read < count + 2 * 8
        if count == 1:
            assert read <= 12, "the first caption does not wait for many images"
    stream.close()
    at_end = read
    assert list(stream) == []
    assert read == at_end


def test_a_stream_that_is_left_leaves_no_threads(
    captioner: Captioner, pictures: list[Image.Image]
) -> None:
    for _ in captioner.stream(pictures):
        break
    readers = [
        thread for thread in threading.enumerate() if thread.name.startswith("captioner-reader")
    ]
    for thread in readers:
        thread.join(timeout=10)
        assert not thread.is_alive()


@pytest.mark.parametrize("whole", [0, 1, 3, 9, 20])
def test_an_error_of_the_source_itself_is_passed_on_after_what_came_before(
    captioner: Captioner, pictures: list[Image.Image], whole: int
) -> None:
    given = [pictures[index % len(pictures)] for index in range(whole)]

    def failing() -> Iterator[Image.Image]:
        yield from given
        raise ConnectionError("the camera is gone")

    captions: list[Any] = []
    with pytest.raises(ConnectionError, match="the camera is gone"):
        captions.extend(captioner.stream(failing(), batch_size=8))
    assert_same(captions, captioner.caption(given))


def test_encoded_images_can_be_decoded(captioner: Captioner, pictures: list[Image.Image]) -> None:
    pixels = np.stack([captioner.preprocessing(image) for image in pictures[:4]])
    assert_same(captioner.decode(captioner.backend.encode(pixels)), captioner.caption(pictures[:4]))
    options = {"sample": True, "seed": 1}
    last = captioner.decode(captioner.backend.encode(pixels[2:]), first_image=2, **options)
    assert_same(last, captioner.caption(pictures[:4], **options)[2:])


@pytest.mark.parametrize("backend", ["onnx", "torch", "both"])
def test_encoded_images_can_be_decoded_again(
    checkpoint_folder: Path, pictures: list[Image.Image], backend: str
) -> None:
    captioner = (
        Captioner.from_pretrained([checkpoint_folder, checkpoint_folder], backend="onnx")
        if backend == "both"
        else Captioner.from_pretrained(checkpoint_folder, backend=backend)
    )
    (encoded,) = captioner.encode(pictures[:4])
    for options in ({}, {}, {"sample": True, "seed": 1}, {"include": ["cat"]}, {"beam_size": 1}):
        assert_same(
            captioner.decode(encoded, **options), captioner.caption(pictures[:4], **options)
        )


@pytest.mark.parametrize("first", [-1, 1.0, "1", True, None])
def test_an_index_of_the_first_image_that_is_none_is_refused(
    captioner: Captioner, first: Any
) -> None:
    encoded = captioner.backend.encode(np.zeros((1, 3, 64, 64), np.float32))
    for ask in (
        lambda: captioner.stream([], first_image=first, sample=True),
        lambda: captioner.decode(encoded, first_image=first, sample=True),
    ):
        with pytest.raises(ConfigError, match=r"^first_image is .*; expected a whole number, 0 or"):
            ask()


def test_a_live_model_captions_without_a_checkpoint(
    on_torch: Captioner, pictures: list[Image.Image]
) -> None:
    greedy = DecodingOptions(beam_size=1, max_length=12, no_repeat_ngram=2)
    live = Captioner(on_torch.backend, on_torch.vocabulary, Preprocessing(size=64), greedy)
    assert_same(live.caption(pictures[:3]), on_torch.caption(pictures[:3], beam_size=1))


def backend_name(captioner: Captioner) -> str:
    return type(captioner.backend).__name__


def test_the_backend_is_chosen(
    checkpoint_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    light = tmp_path / "light"
    shutil.copytree(checkpoint_folder, light)
    assert backend_name(Captioner.from_pretrained(light)) == "OnnxBackend"
    assert backend_name(Captioner.from_pretrained(light, device="cpu")) == "OnnxBackend"
    (light / "decoder.onnx").unlink()
    assert backend_name(Captioner.from_pretrained(str(light))) == "TorchBackend"
    with pytest.raises(
        CheckpointError, match=rf"decoder.onnx is missing.*captioner export {light}"
    ):
        Captioner.from_pretrained(light, backend="onnx")
    with pytest.raises(ConfigError, match="auto, openvino, onnx, torch"):
        Captioner.from_pretrained(light, backend="tensorflow")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="runs on the CPU, not on 'cuda'"):
        Captioner.from_pretrained(light, backend="onnx", device="cuda")
    with pytest.raises(ConfigError, match="nonsense"):
        Captioner.from_pretrained(light, device="nonsense")
    monkeypatch.setitem(
        sys.modules, "captioner.backends.torch", None
    )  # as if torch could not be imported
    with pytest.raises(MissingExtraError, match=r"pip install 'captioner\[train\]'"):
        Captioner.from_pretrained(light)


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "foreign", "of the other"])
def test_a_damaged_onnx_file_is_named_with_the_remedy(
    checkpoint_folder: Path, tmp_path: Path, name: str, damage: str
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(checkpoint_folder, folder)
    data = (folder / name).read_bytes()
    (other,) = {"encoder.onnx", "decoder.onnx"} - {name}
    damaged = {
        "empty": b"",
        "truncated": data[:-100],
        "foreign": b"GIF89a" * 9,
        "of the other": None,
    }[damage]
    (folder / name).write_bytes((folder / other).read_bytes() if damaged is None else damaged)
    with pytest.raises(CheckpointError, match=f"coder.onnx.*captioner export {folder}") as caught:
        Captioner.from_pretrained(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"preprocessing": {"size": 32}}, "pixels of the ONNX pair is 3 x 64 x 64"),
        ({"tags": {"table": ["cat", "dog"], "temperature": 1}}, "classes of .*1000, .*files 2"),
    ],
)
def test_a_config_of_another_model_is_refused_when_it_is_loaded(
    checkpoint_folder: Path, tmp_path: Path, backend: str, section: dict[str, object], said: str
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    folder = Path(shutil.copytree(checkpoint_folder, tmp_path / "mixed"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    changed = {**config, **section, "format_version": 3}
    (folder / "config.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(CheckpointError, match=said):
        Captioner.from_pretrained(folder, backend=backend)


def test_the_light_world_captions_without_torch(
    checkpoint_folder: Path, tmp_path: Path, picture: Picture
) -> None:
    path = tmp_path / "image.png"
    picture(0).save(path)
    code = (
        "import sys; from captioner import Captioner;"
        f" captioner = Captioner.from_pretrained({str(checkpoint_folder)!r});"
        f" print(captioner.caption([{str(path)!r}])[0].text);"
        " assert not {'torch', 'safetensors', 'onnx', 'rich'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(package.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_the_public_names_are_these() -> None:
    assert package.__all__ == ["Caption", "Captioner", "CaptionerError", "__version__"]
    assert all(hasattr(package, name) and name in dir(package) for name in package.__all__)
    assert package.Captioner is Captioner
    with pytest.raises(AttributeError, match="no attribute 'Model'"):
        package.Model  # noqa: B018


def test_log_probs_are_probabilities(captioner: Captioner, pictures: list[Image.Image]) -> None:
    """The probabilities of all captions of at most one word sum to at most one."""
    captions = captioner.caption(pictures[:5], beam_size=40, alternatives=40, max_length=1)
    for caption in captions:
        assert 0 < sum(math.exp(other.log_prob) for other in caption.alternatives) <= 1 + 1e-6
