from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.decoding.scoring import log_probs_of, log_probs_of_each
from captioner.inference import Captioner
from captioner.vocabulary import END, PAD, START
from tests.decoding.table import Table, TableStepper


def test_captions_of_any_lengths_are_looked_up_word_by_word() -> None:
    tables = [Table(seed, vocab_size=9) for seed in range(4)]
    captions = [(4, 5, END), (), (8,), (7, 7, 6, 5, END)]
    found = log_probs_of(TableStepper(tables), captions)
    for table, caption, log_probs in zip(tables, captions, found, strict=True):
        expected = [min(table.log_probs(caption[:t])[word], 0) for t, word in enumerate(caption)]
        assert log_probs.tolist() == pytest.approx(expected, abs=1e-6)
        assert log_probs.shape == (len(caption),)


def test_one_caption_for_each_image() -> None:
    with pytest.raises(ValueError, match="1 captions for 2 images"):
        log_probs_of(TableStepper([Table(0, 9), Table(1, 9)]), [(4,)])
    assert log_probs_of(TableStepper([Table(0, 9)]), [()])[0].shape == (0,)


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_it_agrees_with_the_search_and_with_teacher_forcing(
    checkpoint_folder: Path, picture: Callable[[int], Image.Image], backend: str
) -> None:
    captioner = Captioner.from_pretrained(checkpoint_folder, backend=backend)  # type: ignore[arg-type]
    pixels = np.stack([captioner.preprocessing(picture(number)) for number in range(5)])
    captions = captioner.decode(captioner.backend.encode(pixels))
    assert len({len(caption.words) for caption in captions}) > 1, "they end one after the other"
    ids = [[*map(captioner.vocabulary.index, caption.words), END] for caption in captions]
    found = log_probs_of(captioner.backend.encode(pixels), ids)
    for caption, log_probs in zip(captions, found, strict=True):
        assert log_probs[:-1] == pytest.approx(caption.word_log_probs, abs=1e-5)
        assert log_probs.sum() == pytest.approx(caption.log_prob, abs=1e-5)

    model = Captioner.from_pretrained(checkpoint_folder, backend="torch").backend.model  # type: ignore[attr-defined]
    for image, words, log_probs in zip(pixels, ids, found, strict=True):
        with torch.inference_mode():
            forced = model(torch.from_numpy(image[None]), torch.tensor([[[START, *words, PAD]]]))
        expected = forced.logits.log_softmax(dim=1)[torch.arange(len(words)), forced.targets]
        assert log_probs == pytest.approx(expected.numpy(), abs=1e-4)


def test_captions_of_one_image_are_looked_up_word_by_word() -> None:
    table = Table(3, vocab_size=9)
    captions = [(4, 5, END), (), (8,), (7, 7, 6, 5, END), (4, 5, 5)]
    found = log_probs_of_each(TableStepper([table]), captions)
    for caption, log_probs in zip(captions, found, strict=True):
        expected = [min(table.log_probs(caption[:t])[word], 0) for t, word in enumerate(caption)]
        assert log_probs.tolist() == pytest.approx(expected, abs=1e-6)
        assert log_probs.shape == (len(caption),)
    assert log_probs_of_each(TableStepper([table]), []) == []
    with pytest.raises(ValueError, match="2 images; expected one"):
        log_probs_of_each(TableStepper([table, table]), captions)
