"""The demo of models without attention and with tags, in a real browser."""

from pathlib import Path

import pytest

from tests.browser import chromium, console_errors

pytestmark = pytest.mark.slow

PHOTO = Path(__file__).parents[2] / "examples" / "pagoda.jpg"


def test_without_attention_there_are_no_maps_and_the_page_says_so(without_attention):
    pytest.importorskip("gradio")
    from selenium.webdriver.support.ui import WebDriverWait

    from captioner.demo.server import serving

    with serving(without_attention) as url, chromium(900, 900) as page:
        page.get(url)
        wait = WebDriverWait(page, 60)
        wait.until(lambda page: page.find_elements("css selector", ".cap-message"))
        assert not page.find_elements("css selector", "#cap-examples"), "none were given"
        page.find_element("css selector", "#cap-photo input[type=file]").send_keys(str(PHOTO))
        wait.until(lambda page: page.find_elements("css selector", ".cap-sentence"))
        (caption,) = without_attention.caption(PHOTO, alternatives=3)
        assert page.find_element("css selector", ".cap-sentence").text == caption.text
        assert "no attention" in page.find_element("css selector", ".cap-note").text
        assert not page.find_elements("css selector", "[data-word]")
        assert not page.find_elements("css selector", ".cap-result script, .cap-sentence b"), (
            "words are text, not HTML"
        )
        said = [other.text for other in page.find_elements("css selector", ".cap-other-text")]
        assert said == [one.text for one in caption.alternatives]
        assert not console_errors(page)


def test_what_a_model_recognises_stands_above_the_photo(captioner, picture, tmp_path):
    pytest.importorskip("gradio")
    from selenium.webdriver.support.ui import WebDriverWait

    from captioner.demo.server import serving

    picture(0).save(tmp_path / "photo.png")
    (caption,) = captioner.caption(tmp_path / "photo.png")
    assert caption.tags
    with serving(captioner) as url, chromium(900, 900) as page:
        page.get(url)
        wait = WebDriverWait(page, 60)
        wait.until(lambda page: page.find_elements("css selector", ".cap-message"))
        page.find_element("css selector", "#cap-photo input[type=file]").send_keys(
            str(tmp_path / "photo.png")
        )
        wait.until(lambda page: page.find_elements("css selector", ".cap-sentence"))
        labels = [item.text for item in page.find_elements("css selector", ".cap-tags li")]
        assert labels == [f"{tag.noun} {100 * tag.probability:.0f} %" for tag in caption.tags]
        assert not console_errors(page)
