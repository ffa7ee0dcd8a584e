"""The model card: front matter we write ourselves, text from templates, pictures from numbers.

What a source says of itself is read once, value by value, at `read_front_matter`. Every string that
a template prints is escaped on its way out; only the filters of `markup` make Markdown.
"""

from hubconv.card.facts import CardFacts
from hubconv.card.front import front_matter
from hubconv.card.pictures import PICTURES, Picture, draw, load, shown
from hubconv.card.rendering import render_template, templates_folder
from hubconv.card.writing import kept_sections, render_card
from hubconv.formats.front_matter import SourceCard, read_front_matter

__all__ = [
    "PICTURES",
    "CardFacts",
    "Picture",
    "SourceCard",
    "draw",
    "front_matter",
    "kept_sections",
    "load",
    "read_front_matter",
    "render_card",
    "render_template",
    "shown",
    "templates_folder",
]
