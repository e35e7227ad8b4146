"""The album in a real browser: what it shows, finds and asks the network for."""

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from captioner.caption import Caption
from captioner.library.album import Album, is_album
from captioner.tags import Tag
from tests.browser import chromium, console_errors, requested_urls

EVIL = '</figure><script>document.title = "evil"</script><img src=x onerror=alert(1)> & "quotes\''


def album(folder: Path, picture: Callable[[int], Image.Image], count: int) -> Path:
    """An album of drawn photos; every third has a cat, and one has an evil name and caption."""
    made = Album("Holiday & <b>more</b>")
    for number in range(count):
        name = folder / (f"{number:04}.jpg" if number != 1 else 'a"><b>&.jpg')
        picture(number % 7).save(name)
        text = EVIL if number == 1 else "a Cat on the grass" if number % 3 == 0 else "a dog"
        tags = (Tag("cat", 0.9), Tag("lawn", 0.5)) if number % 3 == 0 else ()
        made.add(name, Caption(text, (), -1.0, (), tags=tags))
    made.write(folder / "album.html")
    return folder / "album.html"


class Elements(HTMLParser):
    """Counts elements as an HTML parser sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


def test_whatever_is_filled_in_is_escaped(
    tmp_path: Path, picture: Callable[[int], Image.Image]
) -> None:
    page = album(tmp_path, picture, 4)
    elements = Elements()
    elements.feed(page.read_text(encoding="utf-8"))
    count = elements.tags.count
    assert (count("figure"), count("img"), count("script"), count("b")) == (4, 4, 1, 0)
    assert is_album(page) and not is_album(tmp_path / "0000.jpg")


def test_names_that_are_not_utf_8_are_shown(
    tmp_path: Path, picture: Callable[[int], Image.Image]
) -> None:
    photo = tmp_path / "caf\udce9.png"
    picture(0).save(tmp_path / "a.png")
    try:
        (tmp_path / "a.png").rename(photo)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    made = Album("Caf\udce9")
    made.add(photo, Caption("a dog", (), -1.0, ()))
    made.write(tmp_path / "album.html")
    page = (tmp_path / "album.html").read_text(encoding="utf-8")
    assert "<title>Caf\ufffd</title>" in page and "caf\ufffd.png</bdi>" in page


@pytest.mark.slow
def test_the_page_shows_and_searches_a_thousand_photos(
    tmp_path: Path, picture: Callable[[int], Image.Image]
) -> None:
    page = album(tmp_path, picture, 1000)
    with chromium() as driver:
        driver.get(page.as_uri())
        assert driver.title == "Holiday & <b>more</b>"
        shown = "return [...document.querySelectorAll('figure')].filter(f => f.offsetHeight).length"
        status = "return document.querySelector('[role=status]').textContent"
        assert driver.execute_script(shown) == 1000
        field = driver.find_element("css selector", "input")
        for query, found in (("cAT", 334), ("cat lawn", 334), ("dog cat", 0), ("0003.jpg", 1)):
            field.clear()
            field.send_keys(query)
            assert driver.execute_script(shown) == found
            assert driver.execute_script(status) == f"{found} of 1000 photos"
        field.clear()
        field.send_keys("evil")
        (figure,) = [each for each in driver.find_elements("css selector", "figure") if each.text]
        assert EVIL in figure.text
        widths = driver.execute_async_script(
            "const done = arguments[0];"
            "Promise.all([...document.images].slice(0, 3).map(i => { i.loading = 'eager';"
            " return i.decode().then(() => i.naturalWidth) })).then(done)"
        )
        assert all(width > 0 for width in widths)
        assert not [url for url in requested_urls(driver) if not url.startswith(("data:", "file:"))]
        assert not console_errors(driver)
