from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from captioner.backends.torch import TorchBackend
from captioner.explain.gradient import smooth_gradient, word_gradients
from captioner.explain.occlusion import hide, log_probs_hidden, occlude
from captioner.inference import Captioner
from captioner.vocabulary import START
from tests.patches import SIZE, PatchBackend, patch_captioner

CELLS_OF_WORDS = [(1, 5), (6, 0), (3, 3)]


@pytest.fixture(scope="module")
def torch_captioner(checkpoint_folder: Path) -> Captioner:
    return Captioner.from_pretrained(checkpoint_folder, backend="torch")


@pytest.fixture(scope="module")
def pixels(captioner: Captioner, picture: Callable[[int], Image.Image]) -> np.ndarray:
    return captioner.preprocessing(picture(1))


@pytest.fixture(scope="module")
def words(captioner: Captioner, pixels: np.ndarray) -> list[int]:
    (caption,) = captioner.decode(captioner.backend.encode(pixels[None]))
    assert len(caption.words) > 2
    return [captioner.vocabulary.index(word) for word in caption.words]


def test_occlusion_finds_the_patch_that_each_word_depends_on() -> None:
    model = patch_captioner(CELLS_OF_WORDS)
    bright = np.full((3, SIZE, SIZE), 1.5, np.float32)
    maps = occlude(model.backend, bright, [4, 5, 6])
    for found, (row, column) in zip(maps, CELLS_OF_WORDS, strict=True):
        rows, columns = np.nonzero(found == found.max())
        assert row in rows // 2 and column in columns // 2, (
            "its 14 x 14 cells are half a patch wide"
        )
        away = np.ones(found.shape, np.bool_)
        away[max(0, 2 * row - 3) : 2 * row + 5, max(0, 2 * column - 3) : 2 * column + 5] = False
        assert not found[away].any(), "out of reach of all that hides the patch"
    fall = np.logaddexp(0, 0) - np.logaddexp(0, -4 * 1.5)
    assert maps.max() == pytest.approx(fall, rel=1e-5), (
        "hidden pixels are 0, whatever the others are"
    )

    dark = occlude(model.backend, -bright, [4, 5, 6])
    assert dark.max() == 0 and dark.min() < -1, (
        "hiding what speaks against a word makes it more probable"
    )


def test_occlusion_is_the_mean_over_all_patches_that_hide_a_cell(
    captioner: Captioner, torch_captioner: Captioner, pixels: np.ndarray, words: list[int]
) -> None:
    cells, patch, side = 4, 2, pixels.shape[1] // 4
    (whole,) = log_probs_hidden(captioner.backend, pixels, words, [np.zeros((1, 1), np.bool_)])
    sums, counts = np.zeros((len(words), cells, cells)), np.zeros((cells, cells))
    for top in range(cells - patch + 1):
        for left in range(cells - patch + 1):
            hidden = pixels.copy()
            hidden[:, top * side : (top + patch) * side, left * side : (left + patch) * side] = 0
            (log_probs,) = log_probs_hidden(
                captioner.backend, hidden, words, [np.zeros((1, 1), np.bool_)]
            )
            sums[:, top : top + patch, left : left + patch] += (whole - log_probs)[:, None, None]
            counts[top : top + patch, left : left + patch] += 1
    expected = sums / counts
    assert np.abs(expected).max() > 0.01
    for backend in (captioner.backend, torch_captioner.backend):
        for batch_size in (1, 4, 32):
            found = occlude(backend, pixels, words, batch_size=batch_size, cells=cells, patch=patch)
            assert found == pytest.approx(expected, abs=2e-4)


def test_no_more_images_at_once_than_asked_for() -> None:
    model = patch_captioner(CELLS_OF_WORDS)
    assert isinstance(model.backend, PatchBackend)
    occlude(model.backend, np.ones((3, SIZE, SIZE), np.float32), [4, 5, 6], batch_size=5)
    assert model.backend.largest == 5


def test_hiding_covers_the_cells_and_nothing_else() -> None:
    mask = np.array([[False, True, False], [False, False, False]])
    hidden = hide(np.ones((3, 10, 10), np.float32), mask)
    assert hidden.sum(axis=(1, 2)).tolist() == [100 - 5 * 3] * 3
    assert not hidden[:, :5, 4:7].any()


def forced(backend: TorchBackend, pixels: Tensor, words: list[int]) -> Tensor:
    """The log-probability of each word, (T,), by stepping in the model's own precision."""
    image, state = backend.model.decoder.prepare(backend.model.encoder(pixels[None]))
    state = {name: array.unsqueeze(1) for name, array in state.items()}
    found = []
    for last, word in zip([START, *words], words, strict=False):
        logits, state, _ = backend.model.decoder.step(image, state, torch.tensor([[last]]))
        found.append(logits[0, 0].log_softmax(dim=0)[word])
    return torch.stack(found)


@torch.no_grad()
def test_the_gradient_is_that_of_finite_differences(
    checkpoint_folder: Path, pixels: np.ndarray, words: list[int]
) -> None:
    backend = Captioner.from_pretrained(checkpoint_folder, backend="torch").backend
    assert isinstance(backend, TorchBackend)
    backend.model.double()
    # A little noise, or neighbours of one colour would tie for the maximum of a pooling, where
    # there is no gradient.
    exact = pixels + 0.1 * np.random.default_rng(0).standard_normal(pixels.shape)
    gradients = word_gradients(backend, exact, words)  # type: ignore[arg-type]
    assert gradients.shape == (len(words), *pixels.shape)
    random = torch.Generator().manual_seed(3)
    for _ in range(3):
        way = torch.randn(pixels.shape, generator=random, dtype=torch.float64)
        there, back = (
            forced(backend, torch.from_numpy(exact) + step * way, words) for step in (1e-7, -1e-7)
        )
        slopes = (there - back) / 2e-7
        assert (gradients * way).sum(dim=(1, 2, 3)).numpy() == pytest.approx(
            slopes.numpy(), rel=1e-4, abs=1e-5
        )


def test_gradients_leave_the_model_as_it_was(
    torch_captioner: Captioner, pixels: np.ndarray, words: list[int]
) -> None:
    backend = torch_captioner.backend
    assert isinstance(backend, TorchBackend)
    backend.model.train()
    once = smooth_gradient(backend, pixels, words, copies=2)
    assert backend.model.training
    assert all(parameter.grad is None for parameter in backend.model.parameters())
    backend.model.eval()
    assert once == pytest.approx(
        smooth_gradient(backend, pixels, words, copies=2, batch_size=2), rel=1e-3, abs=1e-7
    )
    assert once.shape == (len(words), 28, 28) and once.min() >= 0 and once.max() > 0


def test_a_caption_without_words_has_no_maps(
    torch_captioner: Captioner, pixels: np.ndarray
) -> None:
    backend = torch_captioner.backend
    assert isinstance(backend, TorchBackend)
    assert smooth_gradient(backend, pixels, [], copies=2).shape == (0, 28, 28)
    assert occlude(backend, pixels, []).shape == (0, 14, 14)


def test_a_smooth_gradient_stays_near_the_plain_one_and_varies_less(
    torch_captioner: Captioner, pixels: np.ndarray, words: list[int]
) -> None:
    backend = torch_captioner.backend
    assert isinstance(backend, TorchBackend)
    plain = word_gradients(backend, pixels, words).norm(dim=1)
    pooled = torch.nn.functional.adaptive_avg_pool2d(plain, 28).numpy()
    smooth = smooth_gradient(backend, pixels, words, copies=8)
    for one, other in zip(smooth, pooled, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.3
        jumps, plain_jumps = (np.abs(np.diff(each)).mean() / each.mean() for each in (one, other))
        assert jumps < plain_jumps
