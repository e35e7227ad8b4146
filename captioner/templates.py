"""Pages from templates by Jinja2, in which whatever is filled in is escaped."""

import base64
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def render(package: str, template: str, **values: object) -> str:
    """Fill in a template that lies in a package.

    Everything that is filled in is text and is escaped, but for what the template itself calls
    `safe`; `tojson` gives JSON that cannot end the element it stands in. A name that the template
    uses and that isn't given is an error.

    Args:
        package: The package in whose folder the template is: "captioner.explain".
        template: Its file name.
        **values: What it fills in.

    Returns:
        The page.
    """
    return _environment(package).get_template(template).render(values)


def policy_hash(text: str) -> str:
    """What a Content-Security-Policy knows an inline style or script by."""
    import hashlib

    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _environment(package: str) -> "Environment":
    from jinja2 import (
        Environment,
        PackageLoader,
        StrictUndefined,
    )  # only who writes a page waits for it

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
