"""Render pages from Jinja2 templates with escaping."""

import base64
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


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


def policy_hash(text: str) -> str:
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
