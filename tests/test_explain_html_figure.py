"""The HTML page, parsed and used in a real browser."""

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.explain import Explanation, explain
from captioner.explain.html_figure import to_html
from captioner.inference import Caption, Captioner
from tests.browser import chromium, console_errors, requested_urls

VOID = {"meta", "input"}


class Reader(HTMLParser):
    """Checks that elements are closed in order; gathers the start tags and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


@pytest.fixture(scope="module")
def explanation(captioner: Captioner, picture: Callable[[int], Image.Image]) -> Explanation:
    return explain(captioner, picture(2))


def images_in(html: str) -> list[Image.Image]:
    found = re.findall(r"url\(data:image/(jpeg|png);base64,([A-Za-z0-9+/=]+)\)", html)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for _, data in found]


def test_it_is_one_page_that_refers_to_nothing_outside(explanation: Explanation) -> None:
    html = to_html(explanation)
    page = Reader(html)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe", "a", "base")
        assert not attributes.keys() & {"src", "href", "srcset", "action"}
    targets = re.findall(r"url\((.{0,30})", html)
    assert targets and all(
        target.startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
        for target in targets
    )
    assert "@import" not in html and "http://" not in html and "https://" not in html
    assert explanation.caption.text in page.text
    radios = [attributes for tag, attributes in page.tags if tag == "input"]
    assert len(radios) == len(explanation.words)
    assert {radio["type"] for radio in radios} == {"radio"} and len(
        {radio["name"] for radio in radios}
    ) == 1
    labels = [attributes["for"] for tag, attributes in page.tags if tag == "label"]
    assert labels == [radio["id"] for radio in radios], "each word is the label of a radio button"


def test_its_images_are_the_photo_and_the_maps(explanation: Explanation) -> None:
    photo, dimmed, *glows = images_in(to_html(explanation))
    assert photo.size == dimmed.size == explanation.photo.size
    assert np.abs(np.asarray(photo, float) - np.asarray(explanation.photo, float)).mean() < 6
    assert len(glows) == len(explanation.words)
    for glow, attention in zip(glows, explanation.shown(glows[0].size), strict=True):
        opacity = np.asarray(glow, float)[:, :, 3]
        assert np.corrcoef(opacity.ravel(), attention.ravel())[0, 1] > 0.999
        assert glow.mode == "RGBA"


def test_words_are_text_and_nothing_else() -> None:
    words = (
        "<script>alert(1)</script>",
        "\"'&amp;",
        "$photo",
        "{{ photo }}",
        "{% if %}",
        "</style>",
        "d\u00f6g",
    )
    maps = np.random.default_rng(0).random((len(words), 7, 7)).astype(np.float32)
    caption = Caption(" ".join(words), words, -1.0, (-0.1,) * len(words), maps)
    html = to_html(Explanation(Image.new("RGB", (30, 20)), caption, "attention", maps))
    page = Reader(html)
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert page.text.count(" ".join(words)) == 2, "the title, and the heading"
    assert all(page.text.count(word) >= 3 for word in words)


@pytest.mark.slow
def test_in_a_browser_words_show_their_maps(explanation: Explanation, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By

    path = tmp_path / "page.html"
    explanation.save(path)
    for width in (1280, 360):
        with chromium(width, 800) as driver:
            driver.get(path.as_uri())
            maps, labels = (
                driver.find_elements(By.CSS_SELECTOR, name) for name in (".map", "label")
            )

            def shown(maps: list = maps) -> list[int]:
                return [number for number, element in enumerate(maps) if element.is_displayed()]

            assert shown() == [] and len(maps) == len(labels) == len(explanation.words)
            ActionChains(driver).move_to_element(labels[2]).perform()
            assert shown() == [2]
            labels[1].click()
            ActionChains(driver).move_to_element(driver.find_element(By.TAG_NAME, "h1")).perform()
            assert shown() == [1], "what was chosen stays when the pointer leaves"
            ActionChains(driver).send_keys(Keys.ARROW_RIGHT).perform()
            assert shown() == [2]
            ActionChains(driver).move_to_element(labels[0]).perform()
            assert 0 in shown(), "what is pointed at lies above what is chosen"
            top = "const r = arguments[0].getBoundingClientRect();"
            top += "return document.elementFromPoint(r.x + r.width / 2, r.y + r.height / 2).id"
            assert driver.execute_script(top, maps[0]) == "map0"
            assert driver.execute_script("return document.documentElement.scrollWidth") <= width
            assert all(url.startswith(("file:", "data:")) for url in requested_urls(driver))
            assert not console_errors(driver)
