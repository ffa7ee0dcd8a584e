"""What the Hub demands of a README's front matter."""

import importlib
import json
import re
from typing import Any

_FRONT = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)(?:\r?\n)?---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_RELATIONS = {"adapter", "finetune", "merge", "quantized"}
_TEXTS = ("license_name", "license_link", "library_name", "pipeline_tag", "thumbnail")
_TEXT_LISTS = ("tags", "datasets", "metrics", "language", "base_model", "license")
_EMPTY = "empty or missing yaml metadata in repo card"


def front_matter(text: str) -> dict[str, Any] | None:
    """The front matter of a card, or None if it has none.

    Raises:
        ValueError: It is not YAML, or not a mapping.
    """
    found = _FRONT.match(text.removeprefix("\ufeff"))
    if found is None:
        return None
    value = _load(found.group(1))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("YAML metadata must be a mapping of names to values")  # noqa: TRY004
    return value


def front_matter_json(text: str) -> dict[str, Any]:
    """The front matter as JSON can carry it; empty if it is missing or broken."""
    try:
        value: dict[str, Any] = json.loads(json.dumps(front_matter(text) or {}, default=str))
    except ValueError:
        return {}
    return value


def card_faults(text: str) -> tuple[list[str], list[str]]:
    """Errors and warnings about a card."""
    try:
        card = front_matter(text)
    except ValueError as error:
        return [str(error)], []
    if not card:
        return [], [_EMPTY]
    errors = [f'"{name}" must be a string' for name in _TEXTS if not _is_text(card.get(name, ""))]
    errors += [
        f'"{name}" must be a string or a list of strings'
        for name in _TEXT_LISTS
        if not _is_texts(card.get(name, ""))
    ]
    relation = card.get("base_model_relation", "quantized")
    if not isinstance(relation, str) or relation not in _RELATIONS:
        errors.append(f'"base_model_relation" must be one of {sorted(_RELATIONS)}')
    errors += _license_faults(card.get("license", "other"))
    errors += _model_index_faults(card.get("model-index", []))
    return errors, []


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_texts(value: object) -> bool:
    return _is_text(value) or (
        isinstance(value, list) and all(isinstance(item, str) for item in value)
    )


def _license_faults(value: object) -> list[str]:
    names = value if isinstance(value, list) else [value]
    return [
        f'"license" must be an identifier such as apache-2.0, not "{name}"'
        for name in names
        if isinstance(name, str) and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", name)
    ]


def _model_index_faults(value: object) -> list[str]:
    if not isinstance(value, list):
        return ['"model-index" must be a list']
    if all(isinstance(item, dict) and "name" in item and "results" in item for item in value):
        return []
    return ['each entry of "model-index" needs "name" and "results"']


def _load(text: str) -> object:
    try:
        yaml = importlib.import_module("yaml")
    except ImportError:
        return _load_plainly(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"YAML metadata is broken: {error}") from error


def _load_plainly(text: str) -> object:
    """Enough of YAML to tell a mapping from something else, for machines without a YAML reader."""
    found: dict[str, object] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith((" ", "\t", "-", "#")):
            continue
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"YAML metadata is broken: no colon in {line!r}")
        found[name.strip()] = value.strip().strip("\"'") or None
    return found
