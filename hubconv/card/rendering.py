"""Templates filled in: sandboxed, strict about what is missing, deaf to what strings contain."""

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from jinja2 import FunctionLoader, StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment
from markupsafe import Markup

from hubconv.card.markup import FILTERS, inert
from hubconv.errors import UsageError


def templates_folder() -> Traversable:
    """Where the templates lie: inside an installed package, or beside it in a checkout."""
    packaged = resources.files("hubconv") / "templates"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "templates"


def render_template(name: str, context: Mapping[str, Any], *, is_text: bool = False) -> str:
    """A template filled in.

    Args:
        name: A file of the templates' folder, or with `is_text` a template's text.
        context: What it may ask for; anything else stops it.
        is_text: Whether `name` is the template itself.

    Raises:
        UsageError: The template is not valid, or asks for a fact that there is not.
    """
    try:
        environment = _environment()
        template = environment.from_string(name) if is_text else environment.get_template(name)
        text = template.render(context)
    except TemplateError as error:
        raise UsageError(
            f"The card template cannot be filled in: {error}.",
            "Compare it with hubconv's own model_card.md.jinja.",
        ) from error
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


@cache
def _environment() -> SandboxedEnvironment:
    environment = SandboxedEnvironment(
        loader=FunctionLoader(lambda name: (templates_folder() / name).read_text("utf-8")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # made for HTML; `finalize` escapes for Markdown
        finalize=_finalize,
    )
    environment.filters.update(FILTERS)
    environment.tests["python_file"] = lambda path: path.lower().endswith(".py")
    environment.tests["fp8"] = lambda words: words.startswith("FP8")
    return environment


def _finalize(value: object) -> object:
    return inert(value) if isinstance(value, str) and not isinstance(value, Markup) else value
