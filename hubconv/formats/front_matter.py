"""The front matter of model cards: reading a stranger's with suspicion, writing our own.

Reading knows a small part of YAML: top-level keys with scalars or lists of scalars. Anchors,
aliases, tags, nested mappings and block scalars are not expanded but dropped, so that no text can
cost more than its own length.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

MAX_CHARACTERS: Final = 64 * 1024

LICENSES: Final = frozenset(
    re.findall(
        r"\S+",
        """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause
    bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
    cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
    eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research
    intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0
    openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4
    grok2-community gemma unknown other
""",
    )
)
"""Licence identifiers of the Hub; it refuses cards with another."""

_REPO: Final = r"[A-Za-z0-9][\w.\-]{0,95}/[A-Za-z0-9][\w.\-]{0,95}"
_SCALARS: Final[Mapping[str, str]] = {
    "license": r"[A-Za-z0-9][A-Za-z0-9.+\-]{0,63}",
    "license_name": r"[A-Za-z0-9][\w.\- ]{0,95}",
    "license_link": r"https://[\w.\-]+(/[\w.\-/%#]*)?|(?!.*\.\.)[\w][\w.\-]*(/[\w][\w.\-]*)*",
    "pipeline_tag": r"[a-z0-9][a-z0-9\-]{1,49}",
    "library_name": r"[A-Za-z0-9][\w.\- ]{0,39}",
    "base_model_relation": r"finetune|adapter|merge|quantized",
}
_LISTS: Final[Mapping[str, str]] = {
    "language": r"[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}|multilingual|code",
    "base_model": _REPO,
    "datasets": rf"{_REPO}|[A-Za-z0-9][\w.\-]{{0,95}}",
    "tags": r"[A-Za-z0-9][\w.\- :/+]{0,63}",
}
MAX_ITEMS: Final = 100

_KEY: Final = re.compile(r"([A-Za-z_][\w\-]*)[ \t]*:(?:[ \t]+(.*))?")
_ITEM: Final = re.compile(r"[ \t]*-(?:[ \t]+(.*))?")
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\']|\'\')*\'')
_PLAIN: Final = re.compile(r"[A-Za-z][\w.\-/+]*", re.ASCII)
_YAML_WORDS: Final = frozenset({
    "y",
    "n",
    "yes",
    "no",
    "on",
    "off",
    "true",
    "false",
    "null",
    "nan",
    "inf",
})


@dataclass(frozen=True, slots=True)
class SourceCard:
    """What a source's card says in its front matter, each value checked by itself.

    Attributes:
        license: An identifier of the Hub.
        license_name: What a licence called `other` is.
        license_link: Its text: an https address, or a file of the source.
        pipeline_tag: The task.
        library_name: What loads it.
        base_model_relation: finetune, adapter, merge or quantized.
        language: Languages.
        base_model: What it was made from.
        datasets: What it was made with.
        tags: Others.
        notes: What was dropped, and why.
    """

    license: str = ""
    license_name: str = ""
    license_link: str = ""
    pipeline_tag: str = ""
    library_name: str = ""
    base_model_relation: str = ""
    language: tuple[str, ...] = ()
    base_model: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class _OddError(ValueError):
    """Raised when a value is more of YAML than is read here."""


def read_front_matter(text: str) -> SourceCard:
    """What the card of a source says; whatever is odd is dropped, with a note.

    Args:
        text: Its README.md.
    """
    lines = text[:MAX_CHARACTERS].removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    if lines[0].rstrip() != "---":
        return SourceCard()
    ends = [number for number, line in enumerate(lines) if number and line.rstrip() == "---"]
    if not ends:
        return SourceCard(notes=("The front matter of the source's card has no end: not read.",))
    notes: list[str] = []
    found: dict[str, list[str] | None] = _entries(lines[1 : ends[0]], notes)
    scalars: dict[str, str] = {}
    lists: dict[str, tuple[str, ...]] = {}
    for key, values in found.items():
        pattern = _SCALARS.get(key) or _LISTS.get(key)
        if pattern is None or values is None:
            continue
        kept = [value for value in values[:MAX_ITEMS] if re.fullmatch(pattern, value, re.ASCII)]
        if len(kept) < len(values) or (key in _SCALARS and len(kept) > 1):
            notes.append(f"{key} of the source's card was dropped in part or whole: odd values.")
        if key in _LISTS:
            lists[key] = tuple(dict.fromkeys(kept))
        elif len(kept) == 1:
            scalars[key] = kept[0]
    return SourceCard(**_licence(scalars, notes), **lists, notes=tuple(notes))  # type: ignore[arg-type]


def check_source_card(told: Mapping[str, object]) -> SourceCard:
    """What was once read from a source's card, kept by somebody else since; odd values are dropped.

    Args:
        told: Keys and values as `SourceCard` has them.
    """
    scalars = {
        key: value
        for key, pattern in _SCALARS.items()
        if isinstance(value := told.get(key), str) and re.fullmatch(pattern, value, re.ASCII)
    }
    lists = {
        key: tuple(
            value
            for value in values[:MAX_ITEMS]
            if isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII)
        )
        for key, pattern in _LISTS.items()
        if isinstance(values := told.get(key), list | tuple)
    }
    if scalars.get("license", "other") not in LICENSES:
        del scalars["license"]
    return SourceCard(**scalars, **lists)  # type: ignore[arg-type]


def _licence(scalars: dict[str, str], notes: list[str]) -> dict[str, str]:
    """The Hub knows a fixed list; a licence of another name is `other` with that name."""
    licence = scalars.get("license", "").lower()
    if licence and licence not in LICENSES:
        notes.append("The source's licence is none that the Hub lists: it is passed on as other.")
        scalars.setdefault("license_name", licence)
        licence = "other"
    if licence:
        scalars["license"] = licence
    if re.search(r"-nd(-|$)", licence):
        notes.append(
            f"The source's licence, {licence}, allows nobody to pass on changed versions: ask its "
            "owner before you publish one."
        )
    if "license_name" in scalars:
        name = re.sub(r"[^a-z0-9.\-]+", "-", scalars["license_name"].lower()).strip("-.")
        scalars["license_name"] = name
    return scalars


def _entries(lines: Sequence[str], notes: list[str]) -> dict[str, list[str] | None]:
    """Top-level keys and their values; None where a value is odd."""
    found: dict[str, list[str] | None] = {}
    key = ""
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        top, item = _KEY.fullmatch(line), _ITEM.fullmatch(line)
        wanted = key in _SCALARS or key in _LISTS
        try:
            if top:
                key = top[1]
                repeated = key in found
                found[key] = None if repeated else []
                if not repeated and (key in _SCALARS or key in _LISTS):
                    found[key] = _values(top[2] or "")
                continue
            values = found.get(key)
            if wanted and values is not None:
                values += _item(item)
        except _OddError:
            found[key] = None
            notes.append(f"{key} of the source's card was dropped: not a plain value or list.")
    return found


def _item(item: re.Match[str] | None) -> list[str]:
    if item is None:
        raise _OddError
    return _values(item[1] or "", in_list=True)


def _values(text: str, *, in_list: bool = False) -> list[str]:
    """The scalar or the flow list that stands after a key or a dash."""
    text = text.strip()
    if not in_list and text.startswith("["):
        return _flow(text)
    scalar = _scalar(text)
    return [] if scalar in {"", "~", "null"} else [scalar]


def _flow(text: str) -> list[str]:
    body = re.sub(r"\][ \t]*(#.*)?$", "", text[1:])
    if len(body) + 1 >= len(text) or re.search(r"[\[\]{}]", body):
        raise _OddError
    pieces = re.findall(r'\s*("(?:[^"\\]|\\.)*"|\'(?:[^\']|\'\')*\'|[^,"\']*)\s*(?:,|$)', body)
    return [_scalar(piece.strip()) for piece in pieces if piece.strip()]


def _scalar(text: str) -> str:
    quoted = _QUOTED.match(text)
    if quoted:
        if re.fullmatch(r"[ \t]*(#.*)?", text[quoted.end() :]) is None:
            raise _OddError
        return _unquoted(quoted[0])
    plain = re.sub(r"(^|[ \t]+)#.*$", "", text)
    if plain[:1] in set("&*!|>%@`{}[],?\"'") or ": " in plain or plain.endswith(":"):
        raise _OddError
    return plain


def _unquoted(text: str) -> str:
    if text[0] == "'":
        return text[1:-1].replace("''", "'")
    try:
        value = json.loads(text)
    except ValueError as error:  # an escape of YAML that JSON lacks
        raise _OddError from error
    return str(value)


def write_front_matter(values: Mapping[str, str | Sequence[str]]) -> str:
    """Front matter with its two lines of dashes; any reader of YAML gets the values back."""
    lines = ["---"]
    for key, value in values.items():
        if isinstance(value, str):
            lines.append(f"{key}: {_quoted(value)}")
        else:
            lines += [f"{key}:", *(f"- {_quoted(item)}" for item in value)]
    return "\n".join([*lines, "---"]) + "\n"


def _quoted(text: str) -> str:
    """Plain where no reader could take it for something else, else in JSON's quotes."""
    # Some readers take dashes at the end of a line for the end of the front matter.
    if _PLAIN.fullmatch(text) and text.lower() not in _YAML_WORDS and "---" not in text:
        return text
    quoted = json.dumps(text, ensure_ascii=False).replace("<", "\\u003c")  # no HTML comments
    # YAML reads two escaped surrogates as two characters, so only the basic plane is escaped.
    return "".join(
        letter if letter.isprintable() or ord(letter) > 0xFFFF else f"\\u{ord(letter):04x}"
        for letter in quoted
    )
