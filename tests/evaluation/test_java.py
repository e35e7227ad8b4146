"""METEOR and SPICE: error messages, and METEOR against the official class."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from captioner.annotations.records import Record
from captioner.errors import CaptionerError, DataError, MissingExtraError
from captioner.evaluation import java
from captioner.evaluation.assess import System, assess
from captioner.evaluation.callbacks import Callbacks
from captioner.evaluation.findings import Comparison
from captioner.evaluation.html_report import write_page
from captioner.evaluation.java import MissingJavaError
from captioner.evaluation.meteor import meteor
from captioner.evaluation.spice import spice
from captioner.evaluation.text_report import as_text

REFERENCES = {"b": [["a", "dog", "runs"], ["the", "dog"]], "a": [["a", "cat", "sits"]]}
CANDIDATES = {"a": ["a", "cat"], "b": ["a", "dog"]}

posix = pytest.mark.skipif(os.name == "nt", reason="stands in for java by a script")


@pytest.fixture
def java_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a Python program in java's place on the PATH."""

    def replace(program: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        script = folder / "java"
        script.write_text(
            f"#!{sys.executable} -SE\nimport json, os, sys, time\n{program}\n", encoding="utf-8"
        )
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return script

    return replace


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with empty jars, Stanford's models among them."""
    import_module(
        "jinja2"
    )  # reports need it, and it may be where the real package is: hidden below
    folder = tmp_path / "site" / "pycocoevalcap"
    names = ["meteor/meteor-1.5.jar", "spice/spice-1.0.jar"]
    names += [f"spice/lib/stanford-corenlp-3.6.0{end}.jar" for end in ("", "-models")]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    others = [
        entry for entry in sys.path if not Path(entry, "pycocoevalcap").exists()
    ]  # two would make one package
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *others])
    for name in [name for name in sys.modules if name.partition(".")[0] == "pycocoevalcap"]:
        monkeypatch.delitem(sys.modules, name)
    return folder


def said(metric: Callable[..., object], kind: type[CaptionerError]) -> str:
    with pytest.raises(kind) as caught:
        metric(REFERENCES, CANDIDATES)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("metric", [meteor, spice])
def test_missing_dependencies_are_reported(
    metric: Callable[..., object], package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no `java` on the PATH. Install Java 8 or newer" in said(metric, MissingJavaError)
    for jar in package.glob("*/*.jar"):
        jar.unlink()
    assert "is missing. Reinstall the package: pip install" in said(metric, MissingJavaError)
    shutil.rmtree(package)
    assert "pip install 'captioner[coco]'" in said(metric, MissingExtraError)


@posix
def test_spice_without_its_models_says_how_to_get_them(
    package: Path, java_is: Callable[[str], Path]
) -> None:
    java_is("")
    (package / "spice/lib/stanford-corenlp-3.6.0-models.jar").unlink()
    assert "Download it once (400 MB): python -m pycocoevalcap.spice" in said(
        spice, MissingJavaError
    )


@posix
@pytest.mark.parametrize("metric", [meteor, spice])
@pytest.mark.parametrize(
    ("program", "message"),
    [
        (
            "sys.exit('Error: Could not create the Java Virtual Machine.\\nfurther')",
            "Could not create the Java",
        ),
        ("sys.exit('no Java Runtime present')", "no Java Runtime present"),
        ("os._exit(1)", "it gave no answer"),
        (
            (
                "os.close(0); sys.stderr.write('x' * 10**6); sys.stderr.flush();"
                " os.kill(os.getpid(), 9)"
            ),
            "xxx",
        ),
    ],
)
def test_a_crash_of_java_is_a_one_sentence_error(
    metric: Callable[..., object],
    program: str,
    message: str,
    package: Path,
    java_is: Callable[[str], Path],
) -> None:
    java_is(program)
    assert message in said(metric, MissingJavaError)


@posix
@pytest.mark.parametrize("metric", [meteor, spice])
def test_a_hanging_java_times_out(
    metric: Callable[..., object],
    package: Path,
    java_is: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(java, "_START_SECONDS", 2)
    monkeypatch.setattr(java, "_CAPTION_SECONDS", 0)
    pid = java_is("open(sys.argv[0] + '.pid', 'w').write(str(os.getpid())); time.sleep(600)")
    assert "it gave no answer" in said(metric, MissingJavaError)
    with pytest.raises(ProcessLookupError):  # and doesn't stay behind
        os.kill(int(Path(f"{pid}.pid").read_text(encoding="utf-8")), 0)


@posix
def test_an_unexpected_answer_of_meteor_is_an_error(
    package: Path, java_is: Callable[[str], Path]
) -> None:
    java_is("print('Error: specify SCORE or EVAL', flush=True); time.sleep(600)")
    start = time.monotonic()
    assert "METEOR's Java program failed" in said(meteor, MissingJavaError)
    assert time.monotonic() - start < 60  # the process was not waited for


@posix
def test_spice_is_given_the_captions_and_its_answers_are_put_in_order(
    package: Path, java_is: Callable[[str], Path]
) -> None:
    java_is(
        "entries = json.load(open(sys.argv[sys.argv.index('-jar') + 2], encoding='utf-8'))\nscores"
        " = [{'image_id': e['image_id'], 'scores': {'All': {'f': len(e['refs']) / 4 if e['test']"
        " else None}}} for e in reversed(entries)]\nassert entries[0]['refs'] == ['a dog runs',"
        " 'the dog'], entries\njson.dump(scores, open(sys.argv[sys.argv.index('-out') + 1], 'w'))"
    )
    corpus, images = spice(REFERENCES, CANDIDATES)
    assert (corpus, images.tolist()) == (0.375, [0.5, 0.25])
    corpus, images = spice(REFERENCES, CANDIDATES | {"a": []})
    assert np.isnan(corpus)
    np.testing.assert_array_equal(images, [0.5, np.nan])


COMPARED = [
    Record(key, Path("none.jpg"), tuple(map(" ".join, texts))) for key, texts in REFERENCES.items()
]
OURS, THEIRS = (
    System(name, dict.fromkeys(REFERENCES, text))
    for name, text in (("ours", "a dog"), ("theirs", "a cat"))
)


def test_a_comparison_continues_without_scores(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    told: list[str] = []
    found = assess(COMPARED, OURS, THEIRS, metrics=["spice"], callbacks=Callbacks(fail=told.append))
    assert (found.scores, found.comparison) == ({}, Comparison("theirs", {}))
    assert len(told) == 1 and told[0].startswith("SPICE requires Java")
    assert "against" not in as_text(found)
    with pytest.raises(MissingJavaError):
        assess(COMPARED, OURS, THEIRS, metrics=["spice"])


@posix
def test_a_metric_that_fails_on_the_other_system_alone_is_left_out_of_the_comparison(
    package: Path, java_is: Callable[[str], Path]
) -> None:
    java_is(
        "entries = json.load(open(sys.argv[sys.argv.index('-jar') + 2], encoding='utf-8'))\n"
        "if entries[0]['test'] == 'a cat': sys.exit('Error: too many cats')\n"
        "scores = [{'image_id': e['image_id'], 'scores': {'All': {'f': 0.5}}} for e in entries]\n"
        "json.dump(scores, open(sys.argv[sys.argv.index('-out') + 1], 'w'))"
    )
    told: list[str] = []
    metrics = ["bleu", "spice"]
    found = assess(COMPARED, OURS, THEIRS, metrics=metrics, callbacks=Callbacks(fail=told.append))
    assert found.scores["SPICE"] == 0.5 and "SPICE" in found.intervals
    assert found.comparison is not None
    assert list(found.comparison.differences) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"]
    (message,) = told
    assert message.startswith("theirs: SPICE's Java program failed: Error: too many cats")
    with pytest.raises(MissingJavaError):
        assess(COMPARED, OURS, THEIRS, metrics=metrics)


@posix
def test_an_image_without_spice_does_not_affect_other_scores(
    package: Path, java_is: Callable[[str], Path], tmp_path: Path
) -> None:
    java_is(
        "entries = json.load(open(sys.argv[sys.argv.index('-jar') + 2], encoding='utf-8'))\nscores"
        " = [{'image_id': e['image_id'], 'scores': {'All': {'f': 0.5 if e['image_id'] else None}}}"
        " for e in entries]\njson.dump(scores, open(sys.argv[sys.argv.index('-out') + 1], 'w'))"
    )
    for metrics in (["spice"], ["bleu", "cider", "spice"]):
        found = assess(COMPARED, OURS, THEIRS, metrics=metrics)
        assert np.isnan(found.scores["SPICE"]) and not np.isnan(found.scores.get("BLEU-4", 0))
        assert "\u2013" in as_text(found)
        write_page(tmp_path / "report.html", found)


@pytest.mark.parametrize("metric", [meteor, spice])
def test_images_that_do_not_fit_are_refused(metric: Callable[..., object]) -> None:
    with pytest.raises(DataError, match="image 'c' has a caption but no references"):
        metric(REFERENCES, CANDIDATES | {"c": ["a"]})


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="requires Java")
def test_meteor_equals_the_official_scorers() -> None:
    official = pytest.importorskip("pycocoevalcap.meteor.meteor").Meteor()
    references = {
        **REFERENCES,
        "one reference": [["two", "men", "are", "riding", "bicycles"]],
        "empty": [["a", "dog"], ["two", "dogs"]],
        "unicode": [["a", "café"], ["ein", "猫", "photograph"]],
        "the same": [["%", "kids", "play"]],
    }
    candidates = {
        **CANDIDATES,
        "one reference": ["a", "man", "rides", "a", "bike", "a"],
        "empty": [],
        "unicode": ["the", "café", "猫"],
        "the same": ["%", "kids", "play"],
    }
    expected, each = official.compute_score(
        {image_id: [" ".join(text) for text in texts] for image_id, texts in references.items()},
        {image_id: [" ".join(candidates[image_id])] for image_id in references},
    )
    corpus, images = meteor(references, candidates)
    assert corpus == expected
    assert images.tolist() == each
    assert json.dumps(corpus)  # a plain float
