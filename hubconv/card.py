"""The model card: front matter we write ourselves, text from templates, strings made inert.

What a source says of itself is read once, value by value, at `read_front_matter`. Every string that
a template prints is escaped on its way out; only the filters named here make Markdown.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePath
from typing import Any, Final
from urllib.parse import quote

from jinja2 import FunctionLoader, StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment
from markupsafe import Markup

from hubconv.errors import UsageError
from hubconv.formats.front_matter import SourceCard, read_front_matter, write_front_matter
from hubconv.progress import human_bytes, human_time, printable, text_bar

__all__ = [
    "CardFacts",
    "SourceCard",
    "kept_sections",
    "read_front_matter",
    "render_card",
    "render_template",
    "templates_folder",
]

CARD_TEMPLATE: Final = "model_card.md.jinja"
HUB: Final = "https://huggingface.co"
BAR: Final = 10

_KEEP: Final = re.compile(r"<!--\s*keep\s*-->(.*?)(?:<!--\s*/keep\s*-->|\Z)", re.DOTALL)
_REPACKED: Final = re.compile(r"[-_.](fp8|bf16|fp16|int4|int8|mxfp4|hf|dequant\w*)", re.IGNORECASE)
_STRUCTURE: Final = re.compile(
    r"[&<>\\`*\[\]|#~${}@]"  # emphasis, links, tables, headings, HTML, formulas, Jinja, mentions
    r"|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])"
    r"|:(?=//)|(?<=www)\."  # what becomes a link by itself
    r"|^\s?[-+=]+(?=\s|$)|^\s?\d+[.)](?=\s|$)",
    re.IGNORECASE,
)
_FOREIGN_TAGS: Final = re.compile(
    r"(fp8|fp4|int[48]|[48]-?bit|mxfp4|nvfp4|gguf|mlx|awq|gptq|compressed-tensors|modelopt|"
    r"quantized|base_model|license|region|dataset|endpoints_compatible|text-generation-inference)"
    r"($|[:_\-].*)",
    re.IGNORECASE,
)
"""Tags of the source that speak of its own bytes, or that the Hub adds by itself."""


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Everything a card is made from.

    Attributes:
        target: `org/name`, or a folder's path, of which only the last name shows.
        report: The report's plain values.
        source_card: What the source's own card says.
        kept: Sections a person wrote into the card that stands there now.
    """

    target: str
    report: Mapping[str, Any]
    source_card: SourceCard = field(default_factory=SourceCard)
    kept: tuple[str, ...] = ()

    @property
    def original(self) -> str:
        """The model that this is a quantized version of; empty where nobody knows."""
        source = self.report["source"] if self.report["commit"] else ""
        return self.source_card.base_model[0] if self.is_repack else source

    @property
    def is_repack(self) -> bool:
        """Whether the source is itself another spelling of the model it names as its base."""
        card, source = self.source_card, PurePath(self.report["source"]).name.casefold()
        if len(card.base_model) != 1 or card.base_model[0] == self.report["source"]:
            return False
        base = card.base_model[0].rpartition("/")[2].casefold()
        more = source[len(base) :] if source.startswith(base) else None
        renamed = more is not None and (not more or _REPACKED.fullmatch(more) is not None)
        return card.base_model_relation == "quantized" or renamed

    @property
    def source_url(self) -> str:
        """The pinned commit of the source; empty for a folder."""
        if not self.report["commit"]:
            return ""
        return f"{HUB}/{self.report['source']}/tree/{self.report['commit']}"


def templates_folder() -> Traversable:
    """Where the templates lie: inside an installed package, or beside it in a checkout."""
    packaged = resources.files("hubconv") / "templates"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "templates"


def render_card(facts: CardFacts, template: str | None = None) -> str:
    """The text of README.md.

    Args:
        facts: What it is made from.
        template: Text of a template in place of hubconv's own.

    Raises:
        UsageError: The template is not valid, or asks for a fact that there is not.
    """
    name = PurePath(facts.target).name
    context = {
        "front_matter": Markup(write_front_matter(front_matter(facts))),  # noqa: S704
        "report": facts.report,
        "target": f"./{name}" if facts.target.startswith(("/", ".", "~")) else facts.target,
        "name": name,
        "original": facts.original,
        "original_url": f"{HUB}/{facts.original}" if facts.original else "",
        "is_repack": facts.is_repack,
        "source_url": facts.source_url,
        "license": facts.source_card.license,
        "license_name": facts.source_card.license_name,
        "license_link": _license_link(facts),
        "kept": [Markup(section) for section in facts.kept],  # noqa: S704
        "from_hub": bool(facts.report["commit"]),
    }
    return render_template(template or CARD_TEMPLATE, context, is_text=template is not None)


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


def kept_sections(old_card: str) -> list[str]:
    """What a person wrote between `<!-- keep -->` and `<!-- /keep -->`; to the end if unclosed."""
    found = (match[1].strip("\r\n") for match in _KEEP.finditer(old_card))
    return [section for section in found if section.strip()]


def front_matter(facts: CardFacts) -> dict[str, str | Sequence[str]]:
    """Keys and values of the card's front matter, in order; empty values are left out."""
    card, layout = facts.source_card, facts.report["layout"]
    spelled = "compressed-tensors" if layout == "compressed-tensors" else "modelopt"
    # transformers cannot read ModelOpt's spelling: a snippet made for it would fail.
    library = (card.library_name or "transformers") if spelled == "compressed-tensors" else "vllm"
    tags = ["nvfp4", spelled, "hubconv", "vllm"]
    tags += [tag for tag in card.tags if not _FOREIGN_TAGS.fullmatch(tag)]
    values: dict[str, str | Sequence[str]] = {
        "base_model": facts.original,
        "base_model_relation": "quantized" if facts.original else "",
        "license": card.license,
        "license_name": card.license_name,
        "license_link": _license_link(facts),
        "language": card.language,
        "pipeline_tag": card.pipeline_tag or "text-generation",
        "library_name": library,
        "tags": tuple(dict.fromkeys(tags)),
        "datasets": card.datasets,
        "quantized_by": "hubconv",
    }
    return {key: value for key, value in values.items() if value}


def _license_link(facts: CardFacts) -> str:
    link = facts.source_card.license_link
    copied = {row["path"] for row in facts.report["copies"]}
    if not link or link.startswith("https://") or link in copied:
        return link
    if not facts.report["commit"]:
        return ""
    return f"{HUB}/{facts.report['source']}/blob/{facts.report['commit']}/{link}"


# ── from values to Markdown ──────────────────────────────────────────────────────────────────


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
    environment.filters.update(_FILTERS)
    environment.tests["python_file"] = lambda path: path.lower().endswith(".py")
    environment.tests["fp8"] = lambda words: words.startswith("FP8")
    return environment


def _finalize(value: object) -> object:
    return inert(value) if isinstance(value, str) and not isinstance(value, Markup) else value


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
        return Markup("100 %" if part and part == whole else "0 %")  # noqa: S704
    tenths = min(max(int(1000 * part / whole), 1), 999)
    return Markup(f"{tenths / 10:.1f} %")  # noqa: S704


def error_figure(value: float) -> Markup:
    """A relative error: `0.0817`, `1.2e-05`, `0`."""
    return Markup(f"{value:.4f}" if value >= 1e-3 or not value else f"{value:.1e}")  # noqa: S704


_FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "inert": inert,
    "code": code,
    "shell": shell,
    "link": link,
    "share": share,
    "error": error_figure,
    "bytes": lambda count: Markup(human_bytes(count)),  # noqa: S704
    "time": lambda seconds: Markup(human_time(seconds)),  # noqa: S704
    "count": lambda number: Markup(f"{number:,}"),  # noqa: S704
    "bar": lambda part, whole: Markup(text_bar(part / whole if whole else 0.0, BAR)),  # noqa: S704
    "decibels": lambda value: Markup("exact" if value is None else f"{value:.1f} dB"),  # noqa: S704
}
