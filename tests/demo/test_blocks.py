"""The demo in a real browser: what a visitor does, and what they see."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from captioner.decoding import DecodingOptions
from captioner.explain import attention_map
from captioner.explain.maps import colours, opacity_of
from captioner.inference import Captioner
from tests.browser import chromium, console_errors, requested_urls

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PHOTO = EXAMPLES / "pagoda.jpg"
PATIENCE = 60  # seconds; a machine that runs other tests beside is slow


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium(1280, 900) as driver:
        yield driver


@pytest.fixture
def page(browser, url) -> Iterator:
    """A fresh visit; it must not have asked anybody but the demo for anything."""
    yield visit(browser, url)
    assert not strangers(requested_urls(browser), url)


def strangers(urls, url):
    return [
        asked
        for asked in urls
        if urlsplit(asked).scheme not in ("data", "blob") and not asked.startswith(f"{url}/")
    ]


def visit(driver, url):
    driver.get(url)
    wait(driver, ".cap-message")
    return driver


def wait(driver, selector, text=""):
    """The first element of a selector, once there is one with this text."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])].find(n =>"
            " n.textContent.includes(arguments[1]))",
            selector,
            text,
        )
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(
        f"there is no {selector} with the text {text!r}:"
        f" {driver.find_element('id', 'cap-stage').text}"
    )


def upload(driver, path):
    wait(driver, "#cap-photo input[type=file]").send_keys(str(path))


def clear(driver):
    driver.find_element(
        "css selector",
        "#cap-photo button[aria-label*=Clear], #cap-photo button[aria-label*=Remove]",
    ).click()


def text_of(driver, selector=".cap-sentence"):
    return driver.find_element("css selector", selector).text


def heat_of(driver):
    """The pixels of the map over the large photo, (h, w, 4)."""
    pixels = driver.execute_script("""const canvas = document.querySelector(".cap-figure canvas");
        const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return [canvas.height, canvas.width, [...data]]""")
    return np.array(pixels[2]).reshape(pixels[0], pixels[1], 4)


def test_an_uploaded_photo_gets_the_caption_that_captioner_writes(page, bundled):
    upload(page, PHOTO)
    wait(page, ".cap-sentence")
    (caption,) = bundled.caption(PHOTO, alternatives=3)
    assert text_of(page) == caption.text
    announced = page.find_element("css selector", "[role=status].cap-said")
    assert announced.get_attribute("textContent") == caption.text
    others = page.find_elements("css selector", ".cap-other-text")
    assert [other.text for other in others] == [one.text for one in caption.alternatives]
    shares = page.find_elements("css selector", ".cap-other .cap-share")
    for shown, one in zip(shares, caption.alternatives, strict=True):
        _, number = shown.text.split("1 in ")
        assert float(number.replace(",", "")) == pytest.approx(1 / np.exp(one.log_prob), rel=0.05)
    assert not console_errors(page)


def test_a_word_shows_its_map_at_once_and_without_asking_the_server(page, bundled):
    upload(page, PHOTO)
    wait(page, ".cap-sentence")
    (caption,) = bundled.caption(PHOTO, alternatives=3)
    words = page.find_elements("css selector", ".cap-word")
    assert [word.text for word in words] == list(caption.words)
    time.sleep(1)  # lets what the page still loads finish
    requested = requested_urls(page)
    assert len(requested) > 10, "the log of requests works"
    assert not strangers(requested, page.current_url.rstrip("/"))
    for number in (0, len(words) - 1):
        words[number].click()
        heat = heat_of(page)
        expected = attention_map(caption.attention[number], heat.shape[:2])
        np.testing.assert_allclose(heat[..., 3], 255 * opacity_of(expected), atol=2)
        seen = expected > 0.3  # where it is faint, the browser rounds colours by their opacity
        np.testing.assert_allclose(heat[seen][:, :3], colours(expected)[seen], atol=6)
        assert words[number].get_attribute("aria-pressed") == "true"
        assert f"chose {caption.words[number]}," in text_of(page, ".cap-note")
    assert requested_urls(page) == []
    words[-1].click()  # a second time: the plain photo again
    page.execute_script("arguments[0].blur()", words[-1])
    assert text_of(page, ".cap-note").startswith("Hover over or tap a word")


def test_pointing_at_a_word_and_tabbing_to_it_show_it_too(page):
    from selenium.webdriver import ActionChains, Keys

    upload(page, PHOTO)
    wait(page, ".cap-sentence")
    words = page.find_elements("css selector", ".cap-word")
    figure = page.find_element("css selector", ".cap-figure")
    ActionChains(page).move_to_element(words[2]).perform()
    assert figure.get_attribute("data-shown") == "2"
    ActionChains(page).move_to_element(page.find_element("css selector", "h1")).perform()
    assert figure.get_attribute("data-shown") == ""
    page.execute_script("arguments[0].focus()", words[0])
    ActionChains(page).send_keys(Keys.ARROW_RIGHT).perform()
    assert figure.get_attribute("data-shown") == "1"
    panels = page.find_elements("css selector", ".cap-panel")
    assert [panel.text.split("\n")[0] for panel in panels] == [word.text for word in words]
    ActionChains(page).move_to_element(panels[3]).perform()
    assert figure.get_attribute("data-shown") == "3"


def test_another_of_the_best_captions_can_be_looked_at(page, bundled):
    upload(page, PHOTO)
    wait(page, ".cap-sentence")
    (caption,) = bundled.caption(PHOTO, alternatives=3)
    page.find_elements("css selector", ".cap-other")[2].click()
    assert text_of(page) == caption.alternatives[2].text
    assert len(page.find_elements("css selector", ".cap-panel")) == len(
        caption.alternatives[2].words
    )


def test_an_example_is_one_click_away(page, bundled):
    page.find_elements("css selector", "#cap-examples button")[1].click()
    (caption,) = bundled.caption(EXAMPLES / "cat.jpg")
    wait(page, ".cap-sentence", caption.text)


def test_an_invalid_photo_gets_a_friendly_message_and_the_next_photo_a_caption(
    page, tmp_path, bundled
):
    path = tmp_path / "diary.jpg"
    path.write_text("dear diary")
    upload(page, path)
    sentence = wait(page, ".cap-sorry p").text
    assert sentence.startswith("“diary.jpg” is not an image, or damaged")
    assert "Traceback" not in page.page_source
    announced = page.find_element("css selector", ".cap-said")
    assert sentence in announced.get_attribute("textContent")
    clear(page)
    wait(page, ".cap-message", "will appear here")
    assert announced.get_attribute("textContent") == ""
    upload(page, PHOTO)
    wait(page, ".cap-sentence", bundled.caption(PHOTO)[0].text)


def test_a_clip_gets_a_player_and_captions_that_jump_to_their_shots(page, tmp_path, bundled):
    pytest.importorskip("av")
    from tests.clips import draw_clip

    upload(page, PHOTO)
    wait(page, ".cap-sentence")
    path = draw_clip(tmp_path / "clip.webm", ("cat", 2.3), ("rocket", 1.7), codec="libvpx")
    wait(page, "#cap-clip input[type=file]").send_keys(str(path))
    clip = bundled.caption_video(path)
    first, second = clip.shots
    wait(page, ".cap-shot-text", second.caption.text)
    assert text_of(page) == clip.summary.text
    deadline = time.monotonic() + PATIENCE
    while page.find_elements("css selector", "#cap-photo img") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not page.find_elements("css selector", "#cap-photo img"), "the photo has left the page"
    told = page.execute_async_script("""
        const [done] = arguments, player = document.querySelector(".cap-video");
        const track = player.querySelector("track");
        const told = (cue) => [cue.startTime, cue.endTime, cue.text];
        const tell = () => done([...track.track.cues].map(told));
        if (track.readyState === 2) tell(); else track.addEventListener("load", tell);
    """)
    assert [text for *_, text in told] == [first.caption.text, second.caption.text]
    assert [start for start, *_ in told] == pytest.approx([0, second.start], abs=1e-3)
    page.find_elements("css selector", ".cap-shot")[1].click()
    seconds = page.execute_async_script("""
        const [done] = arguments, player = document.querySelector(".cap-video");
        const tell = () => done(player.currentTime);
        if (player.seeking) player.addEventListener("seeked", tell); else tell();
    """)
    assert seconds == pytest.approx(second.start, abs=0.05)
    wait(page, '.cap-shot[aria-current="true"]', second.caption.text)
    assert not console_errors(page)


def test_an_invalid_clip_gets_a_friendly_message(page, tmp_path):
    pytest.importorskip("av")
    path = tmp_path / "diary.mp4"
    path.write_text("dear diary")
    wait(page, "#cap-clip input[type=file]").send_keys(str(path))
    assert wait(page, ".cap-sorry p").text.startswith("“diary.mp4” is not a clip, or is damaged")


def test_a_file_that_is_too_large_gets_a_friendly_sentence(page, tmp_path):
    from captioner.demo.limits import UPLOAD_SIZE

    path = tmp_path / "large.jpg"
    path.write_bytes(PHOTO.read_bytes() + bytes(UPLOAD_SIZE))
    upload(page, path)
    wait(page, "body", "exceed the maximum allowed size of 20.0 Mb")
    assert "Traceback" not in page.page_source


def test_the_options_are_those_of_the_captioner(page, bundled):
    upload(page, PHOTO)
    wait(page, ".cap-sentence")
    page.find_element("css selector", "#cap-options > button").click()
    beams = wait(page, "#cap-options input[type=number]")
    page.execute_script(
        "arguments[0].value = 1; ['input', 'change', 'blur'].map(kind =>"
        " arguments[0].dispatchEvent(new Event(kind)))",
        beams,
    )
    (greedy,) = bundled.caption(PHOTO, beam_size=1)
    wait(page, ".cap-sentence", greedy.text)
    deadline = time.monotonic() + PATIENCE
    while page.find_elements("css selector", ".cap-other") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert text_of(page) == greedy.text
    assert not page.find_elements("css selector", ".cap-other"), "greedy search gives one caption"


def test_words_to_contain_are_read_once_they_are_complete(page, bundled):
    from selenium.webdriver.common.keys import Keys

    upload(page, PHOTO)
    wait(page, ".cap-sentence")
    page.find_element("css selector", "#cap-options > button").click()
    wait(page, "#cap-options textarea")
    words = page.find_element("css selector", "#cap-options textarea")
    requested_urls(page)
    for letter in "dog, red":
        words.send_keys(letter)
    words.send_keys(Keys.ENTER)
    wait(page, ".cap-sentence", bundled.caption(PHOTO, include=["dog", "red"])[0].text)
    words.send_keys(Keys.BACKSPACE * len(", red"), Keys.TAB)
    wait(page, ".cap-sentence", bundled.caption(PHOTO, include=["dog"])[0].text)
    asked = [url for url in requested_urls(page) if url.endswith("/queue/join?")]
    assert len(asked) == 2, "each time when they were complete, not at each letter"


@pytest.mark.parametrize(
    ("own", "values", "ends"),
    [
        (DecodingOptions(), [5, 3, 20, 3, 1.0], [10, 10, 25, 5, 2]),
        (
            DecodingOptions(beam_size=30, max_length=40, no_repeat_ngram=7),
            [20, 3, 40, 7, 1.0],
            [20, 10, 40, 7, 2],
        ),
        (
            DecodingOptions(sample=True, alternatives=9, temperature=3.0),
            [5, 9, 20, 3, 3.0],
            [10, 10, 25, 5, 3.0],
        ),
    ],
)
def test_the_controls_start_with_the_models_defaults_within_the_limits(bundled, own, values, ends):
    import gradio as gr

    from captioner.demo.blocks import build_app

    app = build_app(Captioner(bundled.backend, bundled.vocabulary, bundled.preprocessing, own))
    sliders = [block for block in app.blocks.values() if isinstance(block, gr.Slider)]
    assert [slider.value for slider in sliders] == values
    assert [slider.maximum for slider in sliders] == ends
    switches = [block for block in app.blocks.values() if isinstance(block, gr.Checkbox)]
    assert [switch.value for switch in switches] == [own.repeat_words, own.say_tags, own.sample]
    assert sliders[-1].interactive == own.sample


def test_a_style_is_chosen_from_the_models_own(page, bundled):
    style = bundled.vocabulary.styles[-1]
    (plain,), (styled,) = (
        bundled.caption(EXAMPLES / "cat.jpg", style=name) for name in ("", style)
    )
    assert plain.text != styled.text, "or the test would see nothing"
    upload(page, EXAMPLES / "cat.jpg")
    wait(page, ".cap-sentence", plain.text)
    page.find_element("css selector", "#cap-options > button").click()
    chosen = wait(page, "#cap-options")
    chosen = chosen.find_element("css selector", "input[role=combobox]")
    chosen.click()
    wait(page, "li[role=option]", style)
    (option,) = (
        each for each in page.find_elements("css selector", "li[role=option]") if style in each.text
    )
    option.click()
    wait(page, ".cap-sentence", styled.text)


def test_a_model_of_one_style_has_no_control_for_it(bundled, captioner):
    import gradio as gr

    from captioner.demo.blocks import build_app

    lists = [
        [block for block in build_app(each).blocks.values() if isinstance(block, gr.Dropdown)]
        for each in (captioner, bundled)
    ]
    assert [len(found) for found in lists] == [0, 1]
    assert [value for _, value in lists[1][0].choices] == ["", *bundled.vocabulary.styles]


def test_two_visitors_at_once_see_each_their_own(page, url, bundled):
    with chromium(390, 844) as other:
        visit(other, url)
        photos = {page: EXAMPLES / "astronaut.jpg", other: EXAMPLES / "cat.jpg"}
        for driver, path in photos.items():
            upload(driver, path)
        for driver, path in photos.items():
            wait(driver, ".cap-sentence", bundled.caption(path)[0].text)


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_nothing_is_wider_than_the_screen(url, dark):
    with chromium(390, 844, dark=dark) as phone:
        visit(phone, url)
        upload(phone, PHOTO)
        wait(phone, ".cap-sentence")
        assert phone.execute_script("return document.documentElement.scrollWidth") <= 390
        widths = phone.execute_script(
            "return [...document.querySelectorAll('.cap-result *')].map(n =>"
            " n.getBoundingClientRect().right)"
        )
        assert max(widths) <= 390
        background = phone.execute_script("return getComputedStyle(document.body).backgroundColor")
        brightness = sum(json.loads(f"[{background[background.index('(') + 1 : -1]}]")[:3]) / 3
        assert (brightness < 128) == dark


def test_a_photo_does_not_outlive_the_visit(url, tmp_path):
    import os

    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    photo = tmp_path / "secret.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(
        photo
    )
    with chromium() as visitor:
        visit(visitor, url)
        upload(visitor, photo)
        wait(visitor, ".cap-sentence")
        assert list(folder.rglob("secret.png"))
    deadline = time.monotonic() + PATIENCE
    while list(folder.rglob("secret.png")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not list(folder.rglob("secret.png"))
