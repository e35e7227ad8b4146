import logging
import types

import pytest

from captioner.errors import ImageError
from captioner.images import IMAGE_SUFFIXES, find_images, open_image


def test_find_images_is_recursive_sorted_and_by_suffix(tmp_path):
    names = [
        "b.JPG",
        "a.png",
        "c/d.webp",
        "c/a/x.jpeg",
        "c.gif",
        "z.avif",
        "c-1/y.bmp",
        "album.jpg/1.tiff",
    ]
    others = [
        "notes.txt",
        "c/data.json",
        "noext",
        ".hidden.jpg",
        "._a.png",
        ".thumbnails/t.jpg",
        "jpg",
    ]
    for name in names + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(find_images(tmp_path)) == sorted(tmp_path / name for name in names)
    assert list(find_images(str(tmp_path))) == sorted(tmp_path / name for name in names)


def test_find_images_is_lazy_and_does_not_follow_links_to_folders(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "broken.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "b" / "link.jpg").symlink_to(tmp_path / "a" / "1.jpg")
    found = find_images(tmp_path)
    assert isinstance(found, types.GeneratorType)
    assert next(found) == tmp_path / "a" / "1.jpg"
    (tmp_path / "b" / "new.jpg").touch()
    assert [path.name for path in found] == ["broken.jpg", "link.jpg", "new.jpg"]
    with pytest.raises(ImageError, match="does not exist"):
        open_image(tmp_path / "b" / "broken.jpg")


def test_find_images_needs_a_folder_and_says_so_at_once(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ImageError, match="does not exist"):
        find_images(tmp_path / "missing")
    with pytest.raises(ImageError, match="is not a folder"):
        find_images(tmp_path / "a.jpg")
    assert list(find_images(tmp_path)) == [tmp_path / "a.jpg"]


def test_find_images_skips_a_folder_that_vanishes_with_a_warning(tmp_path, caplog):
    (tmp_path / "a").mkdir()
    (tmp_path / "b.jpg").touch()
    found = find_images(tmp_path)
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "0.jpg").touch()
    assert next(found).name == "0.jpg"
    (tmp_path / "a").rmdir()
    with caplog.at_level(logging.WARNING):
        assert [path.name for path in found] == ["b.jpg"]
    assert str(tmp_path / "a") in caplog.text


def test_suffixes_are_lower_case_and_cover_the_formats_of_photos():
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in IMAGE_SUFFIXES)
    assert {
        ".jpg",
        ".jpeg",
        ".png",
        ".webp",
        ".gif",
        ".avif",
        ".bmp",
        ".tif",
        ".tiff",
    } <= IMAGE_SUFFIXES


def test_what_nas_and_photo_managers_keep_is_left_out_and_said_once(tmp_path, caplog):
    photos = [
        "a.jpg",
        "trip/b.jpg",
        "@anna/c.jpg",
        "Recipes/d.jpg",
        "trash/e.jpg",
        "My.photoslibrary/originals/f.jpg",
    ]
    others = [
        "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg",
        "trip/@eaDir/b.jpg",
        "@Recycle/x.jpg",
        "@Recently-Snapshot/x.jpg",
        "#recycle/x.jpg",
        "#snapshot/x.jpg",
        "$RECYCLE.BIN/S-1-5/x.jpg",
        "RECYCLER/x.jpg",
        "System Volume Information/x.jpg",
        "FOUND.000/x.jpg",
        ".thumbnails/x.jpg",
        ".Trash-1000/files/x.jpg",
        ".Trashes/501/x.jpg",
        ".@__thumb/x.jpg",
        ".AppleDouble/x.jpg",
        "__MACOSX/trip/b.jpg",
        "lost+found/x.jpg",
        "LOST.DIR/x.jpg",
        "iPod Photo Cache/x.jpg",
        "My Previews.lrdata/x.jpg",
        "My.photoslibrary/resources/derivatives/x.jpg",
        "trip/._b.jpg",
    ]
    for name in photos + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(find_images(tmp_path)) == sorted(tmp_path / name for name in photos)
    (record,) = caplog.records
    assert "skipped" in record.getMessage()
    assert "@eaDir (2)" in record.getMessage()


def test_a_folder_of_thumbnails_that_is_named_is_searched(tmp_path, caplog):
    (tmp_path / "@eaDir").mkdir()
    (tmp_path / "@eaDir" / "a.jpg").touch()
    assert list(find_images(tmp_path / "@eaDir")) == [tmp_path / "@eaDir" / "a.jpg"]
    assert not list(find_images(tmp_path))
    assert len(caplog.records) == 1


def test_a_tree_deeper_than_python_calls_and_links_to_themselves_are_searched(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    deepest = tmp_path
    try:
        for _ in range(1200):
            deepest = deepest / "d"
            deepest.mkdir()
        (deepest / "a.jpg").touch()
        assert [path.name for path in find_images(tmp_path)] == ["a.jpg"]
    finally:  # whoever removes the folder of the test may call itself as deep
        (deepest / "a.jpg").unlink(missing_ok=True)
        while deepest != tmp_path:
            deepest.rmdir()
            deepest = deepest.parent
