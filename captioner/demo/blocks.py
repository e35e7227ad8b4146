"""The page and the API, as Gradio blocks."""

import inspect
import logging
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import gradio as gr
import numpy as np

from captioner.decoding.options import Control, DecodingOptions, Option, decoding_options
from captioner.demo import limits
from captioner.demo.answers import api_answer, clip_answer, page_answer, page_options
from captioner.demo.card import Card
from captioner.demo.corrections import Corrections
from captioner.demo.visits import Visits
from captioner.errors import CaptionerError, ImageError
from captioner.explain.maps import colours
from captioner.inference import Captioner
from captioner.video.formats import can_read_clips

logger = logging.getLogger(__name__)

_Control: TypeAlias = gr.Slider | gr.Checkbox | gr.Textbox | gr.Dropdown
_File: TypeAlias = dict[str, Any] | None


def build_app(
    captioner: Captioner,
    *,
    card: Card | None = None,
    examples: Sequence[Path] = (),
    visits: Visits | None = None,
    corrections: Corrections | None = None,
) -> gr.Blocks:
    """Build the demo.

    Args:
        captioner: The model; all visitors share it.
        card: Facts about the model to show.
        examples: Example photos to offer; copies of them are served.
        visits: Tracks which visitor looks at which upload; the server reports uploads to it.
        corrections: Saves better captions by visitors with their consent; None to ask for none.

    Returns:
        The app. Launch it with `captioner.demo.server.serving`, which also hardens it against
        abuse, or mount it in another app.
    """
    app = gr.Blocks(
        title="captioner", analytics_enabled=False, delete_cache=(60, limits.LONGEST_VISIT)
    )
    with app:
        gr.HTML(_resource("header.html"), apply_default_css=False)
        with gr.Row(elem_id="cap-stage"):
            with gr.Column(scale=5, min_width=300, elem_id="cap-input"):
                photo = gr.Image(
                    label="Photo",
                    show_label=False,
                    sources=["upload", "clipboard", "webcam"],
                    height=320,
                    buttons=["fullscreen"],
                    placeholder="Drop a photo here\nor click to choose one",
                    elem_id="cap-photo",
                )
                if examples:
                    gr.Examples(
                        [[str(path)] for path in examples],
                        photo,
                        label="Or choose an example",
                        elem_id="cap-examples",
                        cache_examples=False,
                        api_visibility="private",
                    )
                clip = gr.File(
                    label="Or choose a clip",
                    file_types=["video"],
                    height=120,
                    visible=can_read_clips(),
                    elem_id="cap-clip",
                )
                controls = _controls(captioner)
            with gr.Column(scale=7, min_width=300, elem_id="cap-output"):
                result = gr.HTML(
                    value=None,
                    html_template=(
                        '<p class="cap-said" role="status"></p><div class="cap-result"></div>'
                    ),
                    js_on_load=_resource("result.js"),
                    apply_default_css=False,
                    palette=colours(np.linspace(0, 1, 7, dtype=np.float32)).tolist(),
                )
                if corrections is not None:
                    _ask(corrections, photo, result)
        if card is not None:
            _about(card)
        _connect(app, captioner, photo, clip, controls, result, visits or Visits())
    return app


def look() -> dict[str, Any]:
    """Return the arguments of `Blocks.launch` for the page's design, with local fonts only."""
    theme = gr.themes.Base(
        primary_hue="amber",
        secondary_hue="amber",
        neutral_hue="stone",
        radius_size="lg",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return {"theme": theme, "css": _resource("page.css"), "footer_links": ["api"]}


def _controls(captioner: Captioner) -> dict[str, _Control]:
    """Create the controls, by the names of their options, with the model's defaults.

    A model with a single style has no control for it.
    """
    own, styles = captioner.decoding, captioner.vocabulary.styles
    with gr.Accordion("Options", open=False, elem_id="cap-options"):
        controls = {
            option.name: _control(option, option.control, own, styles)
            for option in decoding_options()
            if option.control is not None and (option.name != "style" or styles)
        }
        for option in decoding_options():
            if option.needs and option.name in controls:
                controls[option.needs].change(
                    lambda on: gr.update(interactive=on),
                    controls[option.needs],
                    controls[option.name],
                    show_progress="hidden",
                    api_visibility="private",
                )
    return controls


def _control(
    option: Option, control: Control, decoding: DecodingOptions, styles: Sequence[str]
) -> _Control:
    """Create a checkbox, a text field, a dropdown of styles or a slider.

    A slider's range includes the model's default, up to the server's limit.
    """
    own = getattr(decoding, option.name)
    interactive = option.needs is None or getattr(decoding, option.needs)
    shown: dict[str, Any] = {
        "label": control.label,
        "info": control.info,
        "interactive": interactive,
    }
    if option.type is bool:
        return gr.Checkbox(own, **shown)
    if option.is_words:
        return gr.Textbox(", ".join(own), **shown)
    if option.name == "style":
        return gr.Dropdown([("plain", ""), *((name, name) for name in styles)], value=own, **shown)
    most = max(control.most, min(own, option.public_limit or own))
    return gr.Slider(
        control.least, most, min(max(own, control.start), most), step=control.step, **shown
    )


def _about(card: Card) -> None:
    facts = "".join(f"<li>{escape(fact)}</li>" for fact in card.facts)
    scores = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(number)}</dd></div>"
        for name, number in card.scores
    )
    scored = f'<p class="cap-scored">{escape(card.scored)}</p><dl>{scores}</dl>' if scores else ""
    content = (
        "<section"
        f' class="cap-about"><h2>{escape(card.title)}</h2><ul>{facts}</ul>{scored}</section>'
    )
    gr.HTML(content, apply_default_css=False)
    if card.text:
        with gr.Accordion("Model card: data, licence, limitations", open=False):
            gr.Markdown(card.text, elem_id="cap-card")


def _connect(
    app: gr.Blocks,
    captioner: Captioner,
    photo: gr.Image,
    clip: gr.File,
    controls: dict[str, _Control],
    result: gr.HTML,
    visits: Visits,
) -> None:
    visits.kept = lambda: photo.keep_in_cache
    shared: dict[str, Any] = {"concurrency_limit": limits.AT_ONCE, "concurrency_id": "captioner"}

    def show(request: gr.Request, photo: _File, clip: _File, *chosen: Any) -> dict[str, Any] | None:
        visitor = str(request.session_hash)
        file = photo if clip is None else clip
        if file is None:
            visits.leave(visitor)
            return None
        path, name = _uploaded(file)
        visits.look_at(visitor, path)
        try:
            options = page_options(captioner, dict(zip(controls, chosen, strict=True)))
        except CaptionerError as error:
            raise gr.Error(str(error), print_exception=False) from error
        if clip is None:
            return page_answer(captioner, path, name, options)
        return {**clip_answer(captioner, path, name, options), "src": _address(clip)}

    # A visitor sees either a photo or a clip: choosing one clears the other, and the event of
    # clearing is ignored.
    def show_photo(request: gr.Request, photo: _File, clip: _File, *chosen: Any) -> tuple[Any, Any]:
        if photo is None and clip is not None:
            return gr.skip(), gr.skip()
        return show(request, photo, None, *chosen), None

    def show_clip(request: gr.Request, photo: _File, clip: _File, *chosen: Any) -> tuple[Any, Any]:
        if clip is None and photo is not None:
            return gr.skip(), gr.skip()
        return show(request, None, clip, *chosen), None

    def leave(request: gr.Request) -> None:
        visits.leave(str(request.session_hash))

    def caption(photo: dict[str, Any], *values: Any) -> dict[str, Any]:
        given = dict(zip((option.name for option in decoding_options()), values, strict=False))
        visitor = uuid4().hex
        path, name = _uploaded(photo)
        visits.look_at(visitor, path)
        try:
            return api_answer(captioner, path, name, given)
        except CaptionerError as error:
            raise gr.Error(str(error), print_exception=False) from error
        finally:
            visits.leave(visitor)

    for triggers, answer, outputs in (
        ([photo.change], show_photo, [result, clip]),
        ([clip.change], show_clip, [result, photo]),
        ([_changed(control) for control in controls.values()], show, [result]),
    ):
        gr.on(
            triggers,
            answer,
            [photo, clip, *controls.values()],
            outputs,
            preprocess=False,  # so that Captioner opens the photo, not Gradio
            show_progress="minimal",
            show_progress_on=result,
            trigger_mode="always_last",
            api_visibility="private",
            **shared,
        )
    gr.api(  # type: ignore[attr-defined]
        _with_parameters(caption),
        api_name="caption",
        api_description=(
            "Caption a photo, sent by gradio_client.handle_file. The options are those of"
            " `captioner caption`, with the model's defaults. The answer is the output of"
            " `captioner caption --json` without the path."
        ),
        **shared,
    )
    app.unload(leave)


def _changed(control: _Control) -> Any:
    """Return the event of a control's new value; of a text field once it is entered or left.

    Half a word is none that the model knows.
    """
    if not isinstance(control, gr.Textbox):
        return control.change
    entered = gr.Textbox(control.value, visible="hidden")  # changes only if it differs
    gr.on(
        [control.submit, control.blur],
        None,
        control,
        entered,
        js="(text) => text",
        api_visibility="private",
    )
    return entered.change


def _ask(corrections: Corrections, photo: gr.Image, result: gr.HTML) -> None:
    """Ask for a better caption, and save it if the visitor agrees."""
    with gr.Group(elem_id="cap-correction"):
        text = gr.Textbox(label="A better caption", max_length=limits.LONGEST_CORRECTION)
        agreed = gr.Checkbox(
            False,
            label="Save this photo and this caption on this server, to train the model.",
        )
        send = gr.Button("Send correction")
        said = gr.Textbox(show_label=False, interactive=False, elem_id="cap-thanks")

    def keep(photo: _File, text: object, agreed: object) -> str:
        if photo is None:
            return "Choose a photo first."
        path, name = _uploaded(photo)
        try:
            new = corrections.add(path, text, agreed)
        except ImageError as error:
            return f"“{name}” {error.reason}."
        except CaptionerError as error:
            return str(error)
        except OSError:
            logger.exception("%s: cannot write a correction", corrections.file)
            return "The correction cannot be saved because of a server error."
        return "Thank you, it is saved." if new else "Thank you, it was already saved."

    # Runs in the browser: an answer with its maps exceeds the size limit of requests.
    result.change(
        None,
        result,
        [text, agreed, said],
        js="(answer) => [answer?.captions?.[0]?.text ?? '', false, '']",
        api_visibility="private",
    )
    send.click(
        keep,
        [photo, text, agreed],
        said,
        preprocess=False,
        show_progress="hidden",
        trigger_mode="once",
        concurrency_limit=1,
        api_visibility="private",
    )


def _with_parameters(caption: Callable[..., Any]) -> Callable[..., Any]:
    """Set the signature and the docstring from which Gradio reads the API's parameters."""
    types: dict[str, Any] = {"photo": dict[str, Any]}
    explained = ["photo: The photo, from `gradio_client.handle_file`."]
    for option in decoding_options():
        types[option.name] = (list[str] if option.is_words else option.type) | None
        explained.append(f"{option.name}: {option.help}")
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [
        inspect.Parameter(
            name,
            keyword,
            default=inspect.Parameter.empty if name == "photo" else None,
            annotation=kind,
        )
        for name, kind in types.items()
    ]
    answer = dict[str, Any]
    caption.__signature__ = inspect.Signature(parameters, return_annotation=answer)  # type: ignore[attr-defined]
    caption.__annotations__ = {**types, "return": answer}
    lines = "\n".join(f"    {line}" for line in explained)
    caption.__doc__ = f"Caption a photo. Options default to the model's settings.\n\nArgs:\n{lines}"
    return caption


def _uploaded(photo: object) -> tuple[Path, str]:
    """Return the path of an uploaded photo, and its original name.

    Gradio has already checked that a value in the form of a file is in the folder of uploads.
    """
    match photo:
        case {"path": str(path), "meta": {"_type": "gradio.FileData"}, **rest}:
            return Path(path), str(rest.get("orig_name") or Path(path).name)
    raise gr.Error(
        "photo is not an uploaded file; expected the result of gradio_client.handle_file.",
        print_exception=False,
    )


def _address(file: dict[str, Any]) -> str:
    """Return the URL of an uploaded file."""
    return str(file.get("url") or f"/gradio_api/file={file['path']}")


def _resource(name: str) -> str:
    return files("captioner.demo").joinpath(name).read_text(encoding="utf-8")
