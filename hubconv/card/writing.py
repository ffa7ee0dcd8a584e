"""The text of README.md, and what of an earlier one a person wrote."""

import re
from pathlib import PurePath
from typing import Final

from markupsafe import Markup

from hubconv.card.facts import HUB, CardFacts
from hubconv.card.front import front_matter
from hubconv.card.pictures import shown
from hubconv.card.rendering import render_template
from hubconv.formats.front_matter import write_front_matter

CARD_TEMPLATE: Final = "model_card.md.jinja"

_KEEP: Final = re.compile(r"<!--\s*keep\s*-->(.*?)(?:<!--\s*/keep\s*-->|\Z)", re.DOTALL)


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
        "license_link": facts.license_link,
        "pictures": shown(facts.report, facts.pictures),
        "kept": [Markup(section) for section in facts.kept],  # noqa: S704
        "from_hub": bool(facts.report["commit"]),
    }
    return render_template(template or CARD_TEMPLATE, context, is_text=template is not None)


def kept_sections(old_card: str) -> list[str]:
    """What a person wrote between `<!-- keep -->` and `<!-- /keep -->`; to the end if unclosed."""
    found = (match[1].strip("\r\n") for match in _KEEP.finditer(old_card))
    return [section for section in found if section.strip()]
