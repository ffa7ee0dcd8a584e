"""From values to Markdown: every way in which a template may print more than inert text."""

import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

from markupsafe import Markup

from hubconv.progress import printable, text_bar
from hubconv.quantities import human_bytes, human_time

BAR: Final = 10

_STRUCTURE: Final = re.compile(
    r"[&<>\\`*\[\]|#~${}@]"  # emphasis, links, tables, headings, HTML, formulas, Jinja, mentions
    r"|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])"
    r"|:(?=//)|(?<=www)\."  # what becomes a link by itself
    r"|^\s?[-+=]+(?=\s|$)|^\s?\d+[.)](?=\s|$)",
    re.IGNORECASE,
)


def inert(text: str) -> Markup:
    """Text on one line that is nothing but text to Markdown, HTML, YAML and Jinja."""
    line = re.sub(r"\s+", " ", printable(text))
    escaped = _STRUCTURE.sub(lambda m: "".join(f"&#{ord(letter)};" for letter in m[0]), line)
    return Markup(escaped)  # noqa: S704


def code(text: str) -> Markup:
    """A name in backticks; what would end the span or a table cell becomes `?`."""
    line = re.sub(r"[`|<>]", "?", " ".join(printable(text).split()))
    return Markup(f"`{line}`" if line else "")  # noqa: S704


def shell(text: str) -> Markup:
    """A command for a fenced block: one line that cannot end the fence."""
    line = " ".join(printable(text).split()).replace("```", "'''").replace("<!--", "<! --")
    return Markup(line)  # noqa: S704


def link(text: str, address: str) -> Markup:
    """A link, or where the address is empty the name alone."""
    shown = inert(text)
    if not address:
        return shown
    return Markup(f"[{shown}]({quote(address, safe='/:%#=?&+,')})")  # noqa: S704


def share(part: float, whole: float) -> Markup:
    """`99.9 %`: 100 and 0 only where it is so."""
    if not whole or not part or part == whole:
        return unbroken("100 %" if part and part == whole else "0 %")
    tenths = min(max(int(1000 * part / whole), 1), 999)
    return unbroken(f"{tenths / 10:.1f} %")


def unbroken(figure: str) -> Markup:
    """A number that stays on one line with its unit, however narrow a table's column gets."""
    return Markup(figure.replace(" ", "\N{NO-BREAK SPACE}"))  # noqa: S704


def error_figure(value: float) -> Markup:
    """A relative error: `0.0817`, `1.2e-05`, `0`."""
    return Markup(f"{value:.4f}" if value >= 1e-3 else f"{value:.1e}" if value else "0")  # noqa: S704


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "inert": inert,
    "code": code,
    "shell": shell,
    "link": link,
    "share": share,
    "error": error_figure,
    "bytes": lambda count: unbroken(human_bytes(count)),
    "time": lambda seconds: Markup(human_time(seconds)),  # noqa: S704
    "count": lambda number: Markup(f"{number:,}"),  # noqa: S704
    "bar": lambda part, whole: Markup(text_bar(part / whole if whole else 0.0, BAR)),  # noqa: S704
    "decibels": lambda value: unbroken("exact" if value is None else f"{value:.1f} dB"),
}
