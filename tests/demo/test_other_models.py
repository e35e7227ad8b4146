"""The demo of models without attention and with tags, in a real browser."""

import copy
from pathlib import Path

import pytest

from captioner.confidence import Calibration, Confidence
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


def test_tags_and_confidence_are_above_the_photo(captioner, picture, tmp_path):
    pytest.importorskip("gradio")
    from selenium.webdriver.support.ui import WebDriverWait

    from captioner.demo.server import serving

    picture(0).save(tmp_path / "photo.png")
    sure = copy.copy(captioner)
    sure.confidence = Confidence({"": Calibration(0.5, 60, 1.5, {"mean_log_prob": 0.3})})
    (caption,) = sure.caption(tmp_path / "photo.png")
    assert caption.tags and caption.confidence
    with serving(sure) as url, chromium(900, 900) as page:
        page.get(url)
        wait = WebDriverWait(page, 60)
        wait.until(lambda page: page.find_elements("css selector", ".cap-message"))
        page.find_element("css selector", "#cap-photo input[type=file]").send_keys(
            str(tmp_path / "photo.png")
        )
        wait.until(lambda page: page.find_elements("css selector", ".cap-sentence"))
        labels = [item.text for item in page.find_elements("css selector", ".cap-tags li")]
        assert labels == [f"{tag.noun} {100 * tag.probability:.0f} %" for tag in caption.tags]
        said = page.find_element("css selector", ".cap-confidence").text
        assert said == f"Confidence {100 * caption.confidence:.0f} %"
        page.find_elements("css selector", ".cap-other")[1].click()
        assert not page.find_elements("css selector", ".cap-confidence"), "it is the best one's"
        assert not console_errors(page)
