"""Render pages from Jinja2 templates with escaping."""

import base64
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

_SHARED = Path(__file__).with_name("page.css")


def render(package: str, template: str, **values: object) -> str:
    """Render a template of a package.

    Values are escaped as text, except what the template marks as `safe`; `tojson` gives JSON that
    cannot close the enclosing element. A missing value is an error.

    Args:
        package: The package whose folder contains the template: "captioner.explain".
        template: Its file name.
        **values: The values by name.

    Returns:
        The page.
    """
    return _environment(package).get_template(template).render(values)


def inlined(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the style sheet and the script that a page contains.

    Args:
        path: Of both, without the suffixes .css and .js; a page may do without a script.

    Returns:
        `style`, which begins with the style sheet that all pages share, `script`, and the
        Content-Security-Policy hash sources of both: `style_hash`, `script_hash`.
    """
    style = "".join(sheet.read_text("utf-8") for sheet in (_SHARED, Path(f"{path}.css")))
    code = Path(f"{path}.js")
    script = code.read_text("utf-8") if code.exists() else ""
    hashes = {"style_hash": _policy_hash(style), "script_hash": _policy_hash(script)}
    return {"style": style, "script": script, **hashes}


def data_uri(data: bytes, kind: str) -> str:
    """Write the bytes of a file as a URL; `kind` is its media type, such as image/png."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _policy_hash(text: str) -> str:
    """Return the Content-Security-Policy hash source of an inline style or script."""
    import hashlib

    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _environment(package: str) -> "Environment":
    from jinja2 import (
        Environment,
        PackageLoader,
        StrictUndefined,
    )  # imported only where a page is written

    environment = Environment(
        loader=PackageLoader(package, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment
