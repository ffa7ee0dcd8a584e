"""What a card is made from."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Final

from hubconv.formats.front_matter import SourceCard

HUB: Final = "https://huggingface.co"

_REPACKED: Final = re.compile(r"[-_.](fp8|bf16|fp16|int4|int8|mxfp4|hf|dequant\w*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Everything a card is made from.

    Attributes:
        target: `org/name`, or a folder's path, of which only the last name shows.
        report: The report's plain values.
        source_card: What the source's own card says.
        kept: Sections a person wrote into the card that stands there now.
        pictures: Paths of the pictures that stand beside it.
    """

    target: str
    report: Mapping[str, Any]
    source_card: SourceCard = field(default_factory=SourceCard)
    kept: tuple[str, ...] = ()
    pictures: frozenset[str] = frozenset()

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

    @property
    def license_link(self) -> str:
        """The text of the licence: its address, or a file that travels along; else empty."""
        link = self.source_card.license_link
        copied = {row["path"] for row in self.report["copies"]}
        if not link or link.startswith("https://") or link in copied:
            return link
        if not self.report["commit"]:
            return ""
        return f"{HUB}/{self.report['source']}/blob/{self.report['commit']}/{link}"
