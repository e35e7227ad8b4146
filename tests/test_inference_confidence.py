"""Confidence of captions: in Python, with both backends, and `--min-confidence`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit

from captioner.checkpoint import CONFIG, describe, read_checkpoint, write_calibration
from captioner.cli import main
from captioner.confidence import Calibration, Confidence
from captioner.errors import CheckpointError, ConfigError
from captioner.inference import Captioner
from captioner.tags.matching import forms

WEIGHTS = {"mean_log_prob": 2.0, "least_log_prob": 0.5, "recognised": -1.0, "named": 3.0}
BIAS = 10.5  # so that the random network is neither sure nor hopeless
CONFIDENCE = Confidence({"": Calibration(0.5, 60, BIAS, WEIGHTS)})


@pytest.fixture(scope="module")
def calibrated(checkpoint_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose confidence is calibrated."""
    folder = tmp_path_factory.mktemp("calibrated") / "model"
    shutil.copytree(checkpoint_folder, folder)
    write_calibration(folder, confidence=CONFIDENCE)
    return folder


@pytest.fixture(scope="module")
def photos(
    tmp_path_factory: pytest.TempPathFactory, picture: Callable[[int], Image.Image]
) -> list[Path]:
    paths = [tmp_path_factory.mktemp("photos") / f"{number}.png" for number in range(6)]
    for number, path in enumerate(paths):
        picture(number).save(path)
    return paths


@pytest.fixture(scope="module")
def confidences(calibrated: Path, photos: list[Path]) -> list[float]:
    captions = Captioner.from_pretrained(calibrated, backend="onnx").caption(photos)
    found = [caption.confidence for caption in captions]
    assert None not in found and len(set(found)) == len(photos)
    assert 0.05 < min(each or 0 for each in found) < max(each or 0 for each in found) < 0.95
    return [confidence for confidence in found if confidence is not None]


@pytest.fixture(scope="module")
def middle(confidences: list[float]) -> float:
    """A least confidence that half of the photos have."""
    return float(np.median(confidences))


def test_it_is_the_regression_on_what_the_caption_tells(
    calibrated: Path, photos: list[Path], confidences: list[float]
) -> None:
    captioner = Captioner.from_pretrained(calibrated)
    assert captioner.tags is not None
    table = captioner.tags.tagger.table
    classes_of = [stepper.classes for stepper in captioner.encode(photos)]
    everything = np.concatenate([each for each in classes_of if each is not None])
    for caption, scores, confidence in zip(
        captioner.caption(photos), everything.astype(float), confidences, strict=True
    ):
        classes = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        shares: dict[str, float] = {}
        for probability, (noun, *_) in zip(classes, table.words, strict=True):
            shares[noun] = shares.get(noun, 0.0) + probability
        noun = max(shares, key=lambda name: shares[name])
        kinds = [words[: words.index(noun)] for words in table.words if noun in words]
        said = {form for name in {noun}.union(*kinds) for form in forms(name)}
        named = any(f" {form} " in f" {caption.text} " for form in said)
        log_odds = (
            BIAS
            + 2.0 * np.mean(caption.word_log_probs)
            + 0.5 * min(caption.word_log_probs)
            - shares[noun]
            + 3.0 * shares[noun] * named
        )
        assert confidence == pytest.approx(expit(log_odds), abs=1e-4)


def test_both_backends_give_the_same(
    calibrated: Path, photos: list[Path], confidences: list[float]
) -> None:
    captions = Captioner.from_pretrained(calibrated, backend="torch").caption(photos, batch_size=4)
    assert [caption.confidence for caption in captions] == pytest.approx(confidences, abs=1e-3)


def test_it_does_not_depend_on_how_many_captions_are_asked_for(
    calibrated: Path, photos: list[Path], confidences: list[float]
) -> None:
    captions = Captioner.from_pretrained(calibrated).caption(photos, alternatives=3)
    assert [caption.confidence for caption in captions] == pytest.approx(confidences, abs=1e-6)
    for caption in captions:
        first, *others = caption.alternatives
        assert first.confidence == caption.confidence
        assert [other.confidence for other in others] == [None] * len(others)
        assert caption.to_dict()["confidence"] == caption.confidence


def test_there_is_none_where_nothing_was_calibrated(
    calibrated: Path, captioner: Captioner, photos: list[Path]
) -> None:
    ours = Captioner.from_pretrained(calibrated)
    together = Captioner.from_pretrained([calibrated] * 2)
    for each, options, why in (
        (captioner, {}, "no confidence calibration"),
        (together, {}, "no confidence calibration"),
        (ours, {"sample": True, "seed": 1}, "are sampled have no confidence"),
        (ours, {"include": ["dog"]}, "must include words"),
    ):
        (caption,) = each.caption(photos[0], **options)
        assert caption.confidence is None
        with pytest.raises(ConfigError, match=why):
            each.check_confidence(**options)
    first, second = ours.caption(photos[:2], include=[["dog"], []])
    assert first.confidence is None and second.confidence is not None
    ours.check_confidence(beam_size=2)


def test_a_style_has_its_own(calibrated: Path, photos: list[Path]) -> None:
    captioner = Captioner.from_pretrained(calibrated)
    captioner.confidence = Confidence({"long": CONFIDENCE.styles[""]})
    assert captioner.caption(photos[0])[0].confidence is None
    with pytest.raises(
        ConfigError, match="style plain has no confidence calibration \\(calibrated: long"
    ):
        captioner.check_confidence()


def test_it_is_a_section_of_the_checkpoint(
    calibrated: Path, checkpoint_folder: Path, tmp_path: Path
) -> None:
    assert read_checkpoint(calibrated).confidence == CONFIDENCE
    assert describe(read_checkpoint(calibrated))["confidence"] == CONFIDENCE.to_dict()
    assert read_checkpoint(checkpoint_folder).confidence is None
    before, after = (
        json.loads((folder / CONFIG).read_text()) for folder in (checkpoint_folder, calibrated)
    )
    assert after.pop("confidence") == CONFIDENCE.to_dict()
    assert before == after
    folder = shutil.copytree(calibrated, tmp_path / "model")
    del after["tags"]
    (folder / CONFIG).write_text(json.dumps({**after, "confidence": CONFIDENCE.to_dict()}))
    with pytest.raises(CheckpointError, match="requires tags, and the model has none"):
        read_checkpoint(folder)
    words = Confidence({"": Calibration(0.5, 60, 1.0, {"mean_log_prob": 1.0})})
    (folder / CONFIG).write_text(json.dumps({**after, "format_version": 1}))
    write_calibration(folder, confidence=words)
    assert read_checkpoint(folder).confidence == words
    assert json.loads((folder / CONFIG).read_text())["format_version"] == 2


def test_a_shared_file_is_left_alone(checkpoint_folder: Path, tmp_path: Path) -> None:
    shared = shutil.copytree(checkpoint_folder, tmp_path / "shared")
    (tmp_path / "model").mkdir()
    for path in shared.iterdir():
        (tmp_path / "model" / path.name).symlink_to(path)
    before = (shared / CONFIG).read_bytes()
    write_calibration(tmp_path / "model", confidence=CONFIDENCE)
    assert (shared / CONFIG).read_bytes() == before
    assert read_checkpoint(tmp_path / "model").confidence == CONFIDENCE
    assert {path.name for path in shared.iterdir()} == {
        path.name for path in (tmp_path / "model").iterdir()
    }


def test_json_says_of_what_is_left_out_how_sure_it_was(
    calibrated: Path,
    photos: list[Path],
    confidences: list[float],
    middle: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call = ["caption", *map(str, photos), "--model", str(calibrated), "--json"]
    assert main(call) == 0
    everything = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["confidence"] for entry in everything] == pytest.approx(confidences, abs=1e-6)
    assert main([*call, "--min-confidence", str(middle), "--alternatives", "2"]) == 0
    printed = capsys.readouterr()
    rows = [json.loads(line) for line in printed.out.splitlines()]
    kept = [confidence >= middle for confidence in confidences]
    assert sum(kept) == 3
    assert [row["caption"] is not None for row in rows] == kept
    for row, entry, stays in zip(rows, everything, kept, strict=True):
        assert (row["path"], row["tags"]) == (entry["path"], entry["tags"])
        assert row["confidence"] == pytest.approx(entry["confidence"], abs=1e-6)
        assert row["caption"] == (entry["caption"] if stays else None)
        assert (row["log_prob"] is None, row["alternatives"] == []) == (not stays, not stays)
    *named, summary = printed.err.splitlines()
    assert summary == f"Left out 3 of 6 captions: confidence below {middle:g}."
    assert named == [
        f"{path}: left out (confidence {confidence:.3f})"
        for path, confidence, stays in zip(photos, confidences, kept, strict=True)
        if not stays
    ]


def test_tables_have_a_column_and_no_caption_that_is_left_out(
    calibrated: Path,
    photos: list[Path],
    confidences: list[float],
    middle: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call = ["caption", *map(str, photos), "--model", str(calibrated)]
    assert main(call) == 0
    plain = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert main([*call, "--min-confidence", str(middle)]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        [path, text if confidence >= middle else "", f"{confidence:.3f}"]
        for (path, text), confidence in zip(plain, confidences, strict=True)
    ]
    assert main([*call, "--min-confidence", "0"]) == 0
    assert capsys.readouterr().err == ""
    assert (
        main(["caption", str(photos[0]), "--model", str(calibrated), "--min-confidence", "1"]) == 0
    )
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1] == "Left out 1 of 1 captions: confidence below 1."


@pytest.mark.parametrize("form", [[], ["--json"], ["--tags"]], ids=["table", "json", "tags"])
def test_a_file_is_continued_and_not_mixed_with_another_least_confidence(
    calibrated: Path,
    photos: list[Path],
    middle: float,
    form: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "captions"
    call = ["caption", *map(str, photos), "--model", str(calibrated), "--output", str(output)]
    call += [*form, "--min-confidence"]
    assert main([*call, str(middle)]) == 0
    whole = output.read_bytes()
    output.write_bytes(b"".join(whole.splitlines(keepends=True)[:4]))
    capsys.readouterr()
    assert main([*call, str(middle)]) == 0
    assert "captions of 4 images" in capsys.readouterr().err
    assert len(output.read_bytes().splitlines()) == 6
    assert output.read_bytes().splitlines()[:4] == whole.splitlines()[:4]
    assert main([*call, "0.01"]) == 2
    assert "min_confidence" in capsys.readouterr().err


def test_maps_are_saved_of_what_is_kept(
    calibrated: Path, photos: list[Path], middle: float, tmp_path: Path
) -> None:
    call = ["caption", *map(str, photos), "--model", str(calibrated)]
    call += ["--min-confidence", str(middle), "--save-attention", str(tmp_path / "maps")]
    assert main(call) == 0
    assert len(list((tmp_path / "maps").rglob("*.npz"))) == 3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1.5", "--min-confidence is 1.5; expected a probability between 0 and 1"),
        ("-0.1", "--min-confidence is -0.1"),
        ("nan", "--min-confidence is nan"),
    ],
)
def test_what_is_no_probability_is_refused(
    calibrated: Path,
    photos: list[Path],
    value: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call = ["caption", str(photos[0]), "--model", str(calibrated), f"--min-confidence={value}"]
    assert main(call) == 2
    assert message in capsys.readouterr().err


def test_a_model_without_calibration_is_refused(
    checkpoint_folder: Path, photos: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["caption", str(photos[0]), "--model", str(checkpoint_folder)]
    assert main([*call, "--min-confidence", "0.5"]) == 2
    printed = capsys.readouterr()
    assert "no confidence calibration" in printed.err and "captioner calibrate" in printed.err
    assert printed.out == ""
