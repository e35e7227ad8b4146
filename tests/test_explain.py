"""`captioner explain`, from the library and from the command line."""

import importlib.util
import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.backends.torch import TorchBackend
from captioner.cli import main
from captioner.errors import ConfigError, ImageError
from captioner.explain import explain
from captioner.explain.occlusion import occlude
from captioner.inference import Captioner
from captioner.model.captioning import CaptioningModel
from captioner.model.decoder import DecoderConfig
from captioner.model.encoder import EncoderConfig
from tests.patches import SIZE, patch_captioner


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory, picture: Callable[[int], Image.Image]) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    picture(1).save(path)
    return path


@pytest.fixture(scope="module")
def without_attention(captioner: Captioner) -> Captioner:
    """A tiny network with random weights that sees the whole photo at once."""
    decoder = DecoderConfig(name="show_tell", hidden_size=16, embedding_size=12, context_size=8)
    model = CaptioningModel(
        EncoderConfig("squeezenet1_1"), decoder, image_size=64, vocab_size=len(captioner.vocabulary)
    )
    return Captioner(
        TorchBackend(model.eval()),
        captioner.vocabulary,
        captioner.preprocessing,
        captioner.decoding,
    )


def test_attention_is_the_captions_own(captioner: Captioner, photo: Path) -> None:
    (caption,) = captioner.caption(photo, beam_size=2, max_length=5)
    found = explain(captioner, photo, beam_size=2, max_length=5)
    assert found.caption == caption
    assert (found.method, found.words) == ("attention", caption.words)
    assert caption.attention is not None and np.array_equal(found.maps, caption.attention)
    assert found.maps.sum(axis=(1, 2)) == pytest.approx(np.ones(len(caption.words)), abs=1e-5)
    assert np.log(found.probabilities) == pytest.approx(caption.word_log_probs)
    assert explain(captioner, Image.open(photo), "attention").method == "attention"


def test_a_large_photo_is_decoded_as_for_its_caption(captioner: Captioner, tmp_path: Path) -> None:
    """A large JPEG is decoded at reduced size: the explained caption must be the printed one."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((1200, 800)).save(tmp_path / "large.jpg")
    (caption,) = captioner.caption(tmp_path / "large.jpg")
    found = explain(captioner, tmp_path / "large.jpg")
    assert found.caption.log_prob == pytest.approx(caption.log_prob, abs=1e-5)
    assert found.photo.size[0] <= 640 and found.photo.width * 2 == pytest.approx(
        found.photo.height * 3, abs=3
    )


@pytest.mark.parametrize("method", ["occlusion", "gradient"])
def test_a_model_without_attention_is_explained_in_other_ways(
    without_attention: Captioner, photo: Path, method: str
) -> None:
    with pytest.raises(ConfigError, match=r"no attention\..*--method occlusion"):
        explain(without_attention, photo)
    found = explain(without_attention, photo, method, max_length=4)  # type: ignore[arg-type]
    assert found.method == method
    assert (
        found.maps.shape[0] == len(found.words) and found.maps.shape[1] == found.maps.shape[2] > 7
    )
    assert found.maps.dtype == np.float32 and np.isfinite(found.maps).all() and found.maps.any()


def test_occlusion_is_of_the_captions_words(captioner: Captioner, photo: Path) -> None:
    found = explain(captioner, photo, "occlusion")
    pixels = captioner.preprocessing(Image.open(photo).convert("RGB"))
    words = [captioner.vocabulary.index(word) for word in found.words]
    assert found.maps == pytest.approx(
        occlude(captioner.backend, pixels, words, batch_size=7), abs=1e-4
    )


def test_what_cannot_be_done_is_said(captioner: Captioner, photo: Path) -> None:
    with pytest.raises(ConfigError, match="'rollout'; expected attention, occlusion, gradient"):
        explain(captioner, photo, "rollout")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="requires the torch backend"):
        explain(captioner, photo, "gradient")
    with pytest.raises(ConfigError, match="beam_size is 0"):
        explain(captioner, photo, beam_size=0)
    with pytest.raises(ImageError, match="does not exist"):
        explain(captioner, photo.with_name("missing.png"))
    with pytest.raises(ConfigError, match=r"figure.gif: expected a file name ending in .png"):
        explain(captioner, photo).save("figure.gif")


def test_a_word_that_depends_on_little_stays_faint() -> None:
    """The second word's patch lies in the dark, where its occlusion changes nothing."""
    model = patch_captioner([(1, 1), (5, 5)])
    light = np.full(
        (SIZE, SIZE, 3), (124, 116, 104), np.uint8
    )  # the mean colour, which is what hides
    light[:16, :16] = 255
    found = explain(model, light, "occlusion")
    first, second = found.shown(70)
    assert (first.max(), first.min()) == (1, 0)
    assert second.max() < 0.5
    both = explain(model, light).shown((70, 35))
    assert both.shape == (2, 35, 70)
    assert both.max(axis=(1, 2)).tolist() == [1, 1], "attention has no such measure"


def run(*args: object, stdin: bytes = b"") -> tuple[int, str, str]:
    """The status, and what was printed."""
    with pytest.MonkeyPatch.context() as patch:
        out, err = io.StringIO(), io.StringIO()
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        return main([str(arg) for arg in args]), out.getvalue(), err.getvalue()


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("figure.png", b"\x89PNG"),
        ("figure.pdf", b"%PDF"),
        ("figure.svg", b"<?xml"),
        ("Page.HTML", b"<!doctype html>"),
    ],
)
def test_the_command_writes_a_figure_or_a_page(
    checkpoint_folder: Path,
    captioner: Captioner,
    photo: Path,
    tmp_path: Path,
    name: str,
    signature: bytes,
) -> None:
    if not name.endswith("HTML"):
        pytest.importorskip("matplotlib")
    call = [
        "explain",
        photo,
        "--output",
        tmp_path / name,
        "--model",
        checkpoint_folder,
        "--max-length",
        4,
    ]
    (caption,) = captioner.caption(photo, max_length=4)
    assert run(*call) == (0, f"{caption.text}\n", "")
    assert (tmp_path / name).read_bytes().startswith(signature)


def test_the_command_takes_standard_input_and_options(
    checkpoint_folder: Path, captioner: Captioner, photo: Path, tmp_path: Path
) -> None:
    (caption,) = captioner.caption(photo, sample=True, seed=3, top_k=9)
    call = [
        "explain",
        "-",
        "--output",
        tmp_path / "page.html",
        "--model",
        checkpoint_folder,
        "--method",
        "occlusion",
    ]
    outcome = run(*call, "--sample", "--seed", 3, "--top-k", 9, stdin=photo.read_bytes())
    assert outcome == (0, f"{caption.text}\n", "")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "less probable when they are hidden" in page


def test_the_gradient_takes_the_torch_backend_by_itself(
    checkpoint_folder: Path, photo: Path, tmp_path: Path
) -> None:
    call = [
        "explain",
        photo,
        "--output",
        tmp_path / "page.html",
        "--model",
        checkpoint_folder,
        "--method",
        "gradient",
    ]
    assert run(*call)[0] == 0
    status, _, stderr = run(*call, "--backend", "onnx")
    assert status == 2 and "--backend torch" in stderr


def test_a_wrong_call_of_the_command_is_one_line(
    checkpoint_folder: Path, photo: Path, tmp_path: Path
) -> None:
    model = ["--model", checkpoint_folder]
    page = tmp_path / "page.html"
    for args, status, message in (
        ((photo, *model), 2, "--output"),
        ((photo, "--output", tmp_path / "figure.gif", *model), 2, "expected a file name ending in"),
        ((photo, "--output", page, "--method", "magic", *model), 2, "--method"),
        ((photo, "--output", photo, *model), 2, "would overwrite the photo"),
        (
            (photo, "--output", tmp_path / "no" / "page.html", *model),
            2,
            "no does not exist; create it",
        ),
        ((photo, "--output", page, "--beam-size", 0, *model), 2, "beam_size is 0"),
        ((tmp_path / "missing.jpg", "--output", page, *model), 1, "missing.jpg: does not exist"),
        ((checkpoint_folder / "README.md", "--output", page, *model), 1, "README.md: "),
        ((tmp_path, "--output", page, *model), 1, "is a folder"),
    ):
        found, stdout, stderr = run("explain", *args)
        assert (found, stdout) == (status, ""), args
        assert message in stderr and "Traceback" not in stderr
        assert not page.exists()


def test_without_matplotlib_a_page_can_be_written_still(
    checkpoint_folder: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    call = ["explain", photo, "--model", checkpoint_folder, "--output"]
    status, _, stderr = run(*call, tmp_path / "figure.png")
    assert status == 2 and "pip install 'captioner[explain]'" in stderr
    assert run(*call, tmp_path / "page.html")[0] == 0


@pytest.mark.parametrize("suffix", ["html", "png", "pdf", "svg"])
def test_an_explanation_replaces_explanations_alone(
    captioner: Captioner, photo: Path, tmp_path: Path, suffix: str
) -> None:
    if suffix != "html":
        pytest.importorskip("matplotlib")
    file = tmp_path / f"figure.{suffix}"
    explanation = explain(captioner, photo)
    for _ in range(2):
        explanation.save(file)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    another = photo.read_bytes()
    file.write_bytes(another)
    with pytest.raises(ConfigError, match="already exists and is not a figure"):
        explanation.save(file)
    assert file.read_bytes() == another
