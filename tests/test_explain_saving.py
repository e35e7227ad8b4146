"""`captioner caption --save-attention`: one file per photo, never another photo's."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.cli import main
from captioner.errors import ConfigError
from captioner.explain.saving import AttentionFolder
from captioner.inference import Caption, Captioner


@pytest.fixture
def photos(tmp_path: Path, picture: Callable[[int], Image.Image]) -> Path:
    """Three photos of which two have the same name."""
    for number, name in enumerate(("a/1.png", "b/1.png", "b/2.jpg")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    return tmp_path / "photos"


def load(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """What each file holds, by the path of its photo."""
    found = {}
    for path in folder.glob("*.npz"):
        with np.load(path) as arrays:
            found[str(arrays["path"])] = dict(arrays)
    return found


def test_a_file_for_each_photo(
    checkpoint_folder: Path,
    captioner: Captioner,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "deep" / "maps"
    call = [
        "caption",
        str(photos),
        "--model",
        str(checkpoint_folder),
        "--save-attention",
        str(target),
    ]
    call += ["--alternatives", "2"]
    assert main(call) == 0
    assert sorted(path.name for path in target.iterdir()) == [
        "1.png-2.npz",
        "1.png.npz",
        "2.jpg.npz",
    ]
    paths = [photos / name for name in ("a/1.png", "b/1.png", "b/2.jpg")]
    found = load(target)
    for path, caption in zip(paths, captioner.caption(paths), strict=True):
        arrays = found[str(path)]
        assert tuple(arrays["words"]) == caption.words
        assert str(arrays["caption"]) == caption.text
        assert arrays["attention"] == pytest.approx(caption.attention, abs=1e-5)
        assert arrays["attention"].shape == (len(caption.words), *arrays["attention"].shape[1:])
        assert arrays["log_probs"] == pytest.approx(caption.word_log_probs, abs=1e-4)

    before = {path.name: path.read_bytes() for path in target.iterdir()}
    assert main(call) == 0
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before, (
        "the same photos, the same files"
    )
    capsys.readouterr()


def caption_of(number: int) -> Caption:
    return Caption(
        "a dog", ("a", "dog"), -1.0, (-0.5, -number), np.full((2, 3, 3), number, np.float32)
    )


def test_later_runs_replace_only_the_same_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "first")
    folder = tmp_path / "maps"
    first = AttentionFolder(folder).save("x.png", caption_of(1))
    monkeypatch.chdir(tmp_path / "second")
    run = AttentionFolder(folder)
    second = run.save("x.png", caption_of(2))
    assert run.save(tmp_path / "first" / "x.png", caption_of(3)) == first != second
    assert run.save("x.png", caption_of(4)) == second
    assert AttentionFolder(folder).save("x.png", caption_of(5)) == second
    found = load(folder)
    assert found[str(tmp_path / "first" / "x.png")]["attention"].max() == 3
    assert found[str(tmp_path / "second" / "x.png")]["attention"].max() == 5
    assert len(list(folder.iterdir())) == 2


def test_files_that_are_nobodys_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x.png.npz").write_bytes(b"not ours")
    np.savez(tmp_path / "x.png-2.npz", other=np.zeros(3))
    run = AttentionFolder(tmp_path)
    assert run.save("x.png", caption_of(1)).name == "x.png-3.npz"
    assert (tmp_path / "x.png.npz").read_bytes() == b"not ours"
    assert [run.save(None, caption_of(n)).name for n in (1, 2)] == ["stdin.npz", "stdin-2.npz"]
    assert AttentionFolder(tmp_path).save(None, caption_of(3)).name == "stdin-3.npz", (
        "who knows whose the others are"
    )


def test_a_name_of_any_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"latin-\xe9.png")
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("the file system takes no such names")
    first = AttentionFolder(tmp_path / "maps").save(tmp_path / name, caption_of(1))
    assert AttentionFolder(tmp_path / "maps").save(tmp_path / name, caption_of(2)) == first


def test_many_photos_of_one_name(tmp_path: Path) -> None:
    run = AttentionFolder(tmp_path)
    names = {
        run.save(tmp_path / str(number) / "image.jpg", caption_of(number)).name
        for number in range(150)
    }
    assert len(names) == 150
    assert {int(arrays["attention"].max()) for arrays in load(tmp_path).values()} == set(range(150))


def test_a_model_without_attention_says_so(tmp_path: Path) -> None:
    caption = Caption("a dog", ("a", "dog"), -1.0, (-0.5, -0.5))
    with pytest.raises(ConfigError, match=r"no attention to save.*explain --method occlusion"):
        AttentionFolder(tmp_path).save("x.png", caption)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(
    checkpoint_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(photos / "b" / "2.jpg", tmp_path / "taken")
    call = ["caption", str(photos / "b" / "2.jpg"), "--model", str(checkpoint_folder)]
    assert main([*call, "--save-attention", str(tmp_path / "taken")]) == 2
    assert "taken: " in capsys.readouterr().err
