"""Corrections by visitors: what is saved, and what is rejected."""

import csv
import signal
from pathlib import Path

import pytest
from PIL import Image

from captioner.annotations.records import check_images, load_records
from captioner.demo import limits
from captioner.demo.corrections import Corrections, checked
from captioner.errors import ConfigError, DataError

PHOTO = Path(__file__).parents[2] / "examples" / "pagoda.jpg"
OTHER = PHOTO.with_name("cat.jpg")


def rows(file: Path) -> list[list[str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.reader(lines))


def test_what_is_kept_can_be_trained_on(tmp_path):
    file = tmp_path / "corrections.csv"
    corrections = Corrections(file)
    assert not list(tmp_path.iterdir()), "nothing is written before the first correction"
    assert corrections.add(PHOTO, 'a "red" temple,\n with  a roof', True)
    assert Corrections(file).add(PHOTO, "a temple", True), "another run goes on"
    assert corrections.add(OTHER, "a striped cat", True)
    first, second = load_records(file)
    assert first.captions == ('a "red" temple, with a roof', "a temple")
    assert second.captions == ("a striped cat",)
    check_images([first, second])
    assert first.path.parent == tmp_path / "corrections"


def test_a_correction_is_kept_once(tmp_path):
    corrections = Corrections(tmp_path / "c.csv")
    assert corrections.add(PHOTO, "a temple", True)
    assert not corrections.add(PHOTO, " a  temple ", True)
    assert not Corrections(tmp_path / "c.csv").add(PHOTO, "a temple", True)
    assert len(rows(tmp_path / "c.csv")) == 2


def test_a_table_without_the_end_of_its_last_line_goes_on(tmp_path):
    file = tmp_path / "c.csv"
    Corrections(file).add(PHOTO, "a temple", True)
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    Corrections(file).add(OTHER, "a cat", True)
    assert [caption for _, caption in rows(file)] == ["caption", "a temple", "a cat"]


def test_a_table_that_a_spreadsheet_has_saved_goes_on(tmp_path):
    file = tmp_path / "c.csv"
    Corrections(file).add(PHOTO, "a temple", True)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    again = Corrections(file)
    assert not again.add(PHOTO, "a temple", True)
    assert again.add(OTHER, "a cat", True)
    assert [record.captions for record in load_records(file)] == [("a temple",), ("a cat",)]


def test_a_file_where_the_photos_would_go_is_told_at_once(tmp_path):
    (tmp_path / "c").write_text("something else")
    with pytest.raises(ConfigError, match=r"photos go into .*, which is not a folder"):
        Corrections(tmp_path / "c.csv")


def test_no_part_of_a_row_is_written_to_a_full_disk(tmp_path):
    resource = pytest.importorskip("resource")  # not on Windows
    file = tmp_path / "c.csv"
    corrections = Corrections(file)
    corrections.add(PHOTO, "a temple", True)
    before = file.read_bytes()
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, usual[1]))
        with pytest.raises(OSError):
            corrections.add(PHOTO, "a red temple", True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        signal.signal(signal.SIGXFSZ, handler)
    assert file.read_bytes() == before
    assert corrections.add(PHOTO, "a red temple", True)
    assert len(rows(file)) == 3


@pytest.mark.parametrize("agreed", [False, None, "true", 1])
def test_without_consent_nothing_is_kept(tmp_path, agreed):
    with pytest.raises(DataError, match="without your consent"):
        Corrections(tmp_path / "c.csv").add(PHOTO, "a temple", agreed)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", [None, "", " \n", "123 !", {"a": 1}, "a" * 201, "a\x00b"])
def test_invalid_captions_are_rejected(tmp_path, text):
    with pytest.raises(DataError):
        Corrections(tmp_path / "c.csv").add(PHOTO, text, True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [("a" * 201, "too long"), ("a family \U0001f468\u200d\U0001f467", "invisible characters")],
)
def test_the_visitor_learns_what_is_wrong_with_a_caption(text, said):
    with pytest.raises(DataError, match=said):
        checked(text)


def test_no_caption_is_a_formula_of_a_spreadsheet():
    assert checked('=HYPERLINK("x")') == 'HYPERLINK("x")'
    assert checked("- +a dog") == "a dog"


def test_a_photo_is_kept_upright_and_without_metadata(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    exif.get_ifd(0x8825)[1] = "N"  # where it was taken
    Image.new("RGB", (2400, 1200), (200, 30, 30)).save(tmp_path / "photo.jpg", exif=exif)
    Corrections(tmp_path / "c.csv").add(tmp_path / "photo.jpg", "all red", True)
    (kept,) = (tmp_path / "c").iterdir()
    with Image.open(kept) as image:
        assert image.height == limits.KEPT_SIZE == 2 * image.width
        assert not image.getexif()


def test_the_number_of_corrections_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MOST_CORRECTIONS", 1)
    corrections = Corrections(tmp_path / "c.csv")
    corrections.add(PHOTO, "a temple", True)
    with pytest.raises(DataError, match="accepts no more"):
        corrections.add(PHOTO, "a pagoda", True)
    assert len(rows(tmp_path / "c.csv")) == 2


def test_a_foreign_table_is_not_changed(tmp_path):
    for name, content, message in (
        ("c.csv", "a,b\n1,2\n", "other columns"),
        ("c.csv", "image,caption\n1\n", "other columns"),
        ("c.csv", "\xff", "other columns"),
        ("c.txt", "", "ending in .csv"),
        ("none/c.csv", None, "not a writable folder"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content, encoding="utf-8")
        with pytest.raises(ConfigError, match=message):
            Corrections(tmp_path / name)
    assert (tmp_path / "c.csv").read_text(encoding="utf-8") == "\xff"


@pytest.mark.slow
def test_a_visitor_corrects_a_caption(bundled, tmp_path):
    pytest.importorskip("gradio")
    from selenium.webdriver.support.ui import WebDriverWait

    from captioner.demo.server import serving
    from tests.browser import chromium, console_errors

    kept = Corrections(tmp_path / "corrections.csv")
    with serving(bundled, corrections=kept) as url, chromium(900, 900) as page:
        page.get(url)
        wait = WebDriverWait(page, 60)

        def find(selector):
            selector = f"#cap-correction {selector}"
            return wait.until(lambda page: page.find_elements("css selector", selector))[0]

        def said():
            return find("#cap-thanks :is(textarea, input)").get_attribute("value")

        def click(selector):
            page.execute_script("arguments[0].click()", find(selector))

        wait.until(lambda page: page.find_elements("css selector", ".cap-message"))
        click("button")
        wait.until(lambda _: said() == "Choose a photo first.")
        page.find_element("css selector", "#cap-photo input[type=file]").send_keys(str(PHOTO))
        wait.until(lambda page: page.find_elements("css selector", ".cap-sentence"))
        (caption,) = bundled.caption(PHOTO)
        text = find(":is(textarea, input[type=text])")
        wait.until(lambda _: text.get_attribute("value") == caption.text)
        assert not find("input[type=checkbox]").is_selected()
        text.clear()
        text.send_keys("a red temple")
        click("button")
        wait.until(lambda _: "without your consent" in said())
        assert not list(tmp_path.iterdir())
        click("input[type=checkbox]")
        click("button")
        wait.until(lambda _: said() == "Thank you, it is saved.")
        assert not console_errors(page)
    (record,) = load_records(tmp_path / "corrections.csv")
    assert record.captions == ("a red temple",)
    assert record.path.is_file(), "it outlives the demo"


@pytest.mark.slow
def test_without_the_option_nobody_is_asked(bundled):
    pytest.importorskip("gradio")
    from captioner.demo.blocks import build_app

    assert "cap-correction" not in str(build_app(bundled).get_config_file())
