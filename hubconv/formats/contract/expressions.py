"""Expressions of a configuration that a stranger wrote, matched with a patience that ends.

Loaders match them by Python's `re`, which may be kept busy for ever by an expression made for that.
Simple ones are left to `re`; for the others the `regex` library reads the same language and gives
up when it is told to.
"""

import re
import time
from functools import lru_cache
from typing import Any, Final, Protocol

import regex

from hubconv.errors import IntegrityError

PATIENCE_S: Final = 5.0
"""For all names together that one expression is held against."""

_NONE_LEFT: Final = 0.001
_REPEAT: Final = re.compile(r"[*+{]")
_CHOICE: Final = re.compile(r"[?|]")
_REPEATED_GROUP: Final = re.compile(r"\)[*+{]")
_REPEATS, _CHOICES = 2, 4
"""So many repeats, none within another, and so many choices are tried out in no time."""


class Expression(Protocol):
    """What is held against names."""

    def match(self, text: str, /) -> object | None:
        """Something where the expression begins the text."""
        ...

    def fullmatch(self, text: str, /) -> object | None:
        """Something where the expression is the text."""
        ...


@lru_cache(maxsize=8192)
def compiled(expression: str) -> Expression:
    """The expression; one that never matches where it is not valid."""
    try:
        found = re.compile(expression)
        if _is_simple(expression):
            return found
        return _Patient(expression, regex.compile(expression, regex.V0))
    except (re.error, regex.error, RecursionError, OverflowError):
        return re.compile("(?!)")


def _is_simple(expression: str) -> bool:
    return (
        len(_REPEAT.findall(expression)) <= _REPEATS
        and len(_CHOICE.findall(expression)) <= _CHOICES
        and not _REPEATED_GROUP.search(expression)
    )


class _Patient:
    """An expression whose matches may take so long in all."""

    def __init__(self, expression: str, pattern: Any) -> None:  # noqa: ANN401 - the library's own
        self._expression = expression
        self._pattern = pattern
        self._left = PATIENCE_S

    def match(self, text: str, /) -> object | None:
        """Something where the expression begins the text."""
        return self._within_patience(self._pattern.match, text)

    def fullmatch(self, text: str, /) -> object | None:
        """Something where the expression is the text."""
        return self._within_patience(self._pattern.fullmatch, text)

    def _within_patience(self, way: Any, text: str) -> object | None:  # noqa: ANN401 - its method
        started = time.perf_counter()
        try:
            found: object | None = way(text, timeout=self._left)
        except TimeoutError:
            self._left = _NONE_LEFT
            raise IntegrityError(
                f"The expression {self._expression[:200]!r} of the quantization configuration "
                f"takes more than {PATIENCE_S:g} s to hold against the names of this checkpoint.",
                "A loader would wait as well: have it written without repeats within repeats.",
            ) from None
        self._left = max(self._left - (time.perf_counter() - started), _NONE_LEFT)
        return found
