"""Checkpoints whose files are links to another folder, as with DVC, git-annex and hubs."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from captioner.checkpoint import ONNX_PAIR, WEIGHTS
from captioner.errors import CheckpointError
from captioner.export import export_onnx
from captioner.inference import Captioner

pytestmark = pytest.mark.skipif(
    os.name == "nt", reason="Windows makes links for administrators alone"
)


def link(folder: Path, store: Path, names: set[str] | None = None) -> None:
    """Move files into a store, where they are called by something else, and leave links."""
    store.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        if names is None or path.name in names:
            path.rename(store / f"{number:064x}")
            path.symlink_to(os.path.relpath(store / f"{number:064x}", folder))


@pytest.fixture
def folder(checkpoint_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint_folder, tmp_path / "snapshots" / "model"))


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize(
    "names", [None, {WEIGHTS}, set(ONNX_PAIR)], ids=["all", "weights", "graphs"]
)
def test_linked_files_are_read(
    captioner: Captioner,
    folder: Path,
    tmp_path: Path,
    names: set[str] | None,
    backend: str,
    picture: Callable[[int], Image.Image],
) -> None:
    images = [picture(0), picture(1)]
    expected = captioner.caption(images)
    if backend == "openvino":
        pytest.importorskip("openvino")
        by_onnx = [caption.text for caption in expected]
        expected = Captioner.from_pretrained(folder, backend=backend).caption(images)
        assert [caption.text for caption in expected] == by_onnx
    link(folder, tmp_path / "blobs", names)
    (tmp_path / "alias").symlink_to(folder)
    for path in (folder, tmp_path / "alias"):
        assert Captioner.from_pretrained(path, backend=backend).caption(images) == expected


@pytest.mark.usefixtures("_traced")
def test_exporting_writes_no_linked_file(
    captioner: Captioner, folder: Path, tmp_path: Path
) -> None:
    link(folder, tmp_path / "blobs")
    before = {path: path.read_bytes() for path in (tmp_path / "blobs").iterdir()}
    names = {path.name for path in folder.iterdir()}
    export_onnx(folder)
    assert {path: path.read_bytes() for path in (tmp_path / "blobs").iterdir()} == before
    assert {path.name for path in folder.iterdir()} == names
    assert not any((folder / name).is_symlink() for name in ONNX_PAIR)
    image = Image.new("RGB", (64, 64), "red")
    assert Captioner.from_pretrained(folder, backend="onnx").caption(image) == captioner.caption(
        image
    )


@pytest.mark.usefixtures("_traced")
@pytest.mark.parametrize("failing", ["_verify", "save_model"])
def test_the_old_pair_stays_until_the_new_one_is_verified(
    folder: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_: object, **__: object) -> None:
        raise (
            OSError(28, "No space left on device")
            if failing == "save_model"
            else CheckpointError("It differs.")
        )

    monkeypatch.setattr(f"captioner.export.{failing}", fail)
    with pytest.raises(CheckpointError):
        export_onnx(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_whose_name_is_no_utf8(
    captioner: Captioner, folder: Path, picture: Callable[[int], Image.Image]
) -> None:
    odd = folder.with_name(os.fsdecode(b"mod\xe8le"))
    try:
        folder.rename(odd)
    except OSError:
        pytest.skip("the file system takes no such names")
    try:
        captions = Captioner.from_pretrained(odd, backend="onnx").caption(picture(0))
    except CheckpointError as error:  # an older ONNX Runtime, which cannot be given the bytes
        assert "rename the folder" in str(error)
    else:
        assert captions == captioner.caption(picture(0))
