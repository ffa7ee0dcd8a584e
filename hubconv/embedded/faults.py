"""What the Hub is told to do wrong, and a log of what it was asked.

A `Rule` picks requests by method and path and says what goes wrong with them. Rules are tried in
the order they were added; the first that applies wins.
"""

import re
import threading
from collections import Counter, deque
from dataclasses import dataclass, field, fields
from typing import Any, Literal

Action = Literal["answer", "reset", "hang", "delay", "truncate", "corrupt", "throttle"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that goes wrong.

    Attributes:
        action: `answer` with a status; `reset` the connection; `hang` and never answer; `delay`,
            then go on; `truncate` the body; `corrupt` one byte of it; `throttle` both ways.
        method: HTTP method, or `*`.
        path: Regular expression searched in the path (escapes such as %2F stand as they came).
        skip: Matching requests to let through first.
        times: Matching requests to strike; None strikes all.
        after: For `answer`, `reset` and `hang`: do what was asked first, and lose only the answer.
        status: Status of `answer`.
        headers: Headers of `answer`, such as Retry-After.
        body: Body of `answer`.
        seconds: How long `hang` and `delay` last.
        at_byte: Where `truncate` ends the body, or which byte `corrupt` flips (of the file, if the
            answer is a range of one).
        bytes_per_s: Rate of `throttle`.
    """

    action: Action
    method: str = "*"
    path: str = ""
    skip: int = 0
    times: int | None = 1
    after: bool = False
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    seconds: float = 0.0
    at_byte: int = 0
    bytes_per_s: int = 1 << 20


@dataclass(slots=True)
class _Armed:
    rule: Rule
    seen: int = 0
    struck: int = 0


class Faults:
    """The rules in force. Safe to change while the Hub is serving."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []
        self._lock = threading.Lock()

    def add(self, rule: Rule) -> Rule:
        """Put a rule in force."""
        re.compile(rule.path)
        with self._lock:
            self._armed.append(_Armed(rule))
        return rule

    def answer(self, method: str, path: str, status: int, **more: Any) -> Rule:  # noqa: ANN401
        """Answer with a status; `after=True` does what was asked first."""
        return self.add(Rule("answer", method, path, status=status, **more))

    def reset(self, method: str, path: str, **more: Any) -> Rule:  # noqa: ANN401
        """Reset the connection; `after=True` does what was asked first."""
        return self.add(Rule("reset", method, path, **more))

    def hang(self, method: str, path: str, seconds: float, **more: Any) -> Rule:  # noqa: ANN401
        """Stay silent, then reset the connection."""
        return self.add(Rule("hang", method, path, seconds=seconds, **more))

    def delay(self, method: str, path: str, seconds: float, **more: Any) -> Rule:  # noqa: ANN401
        """Wait before answering."""
        return self.add(Rule("delay", method, path, seconds=seconds, **more))

    def truncate(self, method: str, path: str, at_byte: int, **more: Any) -> Rule:  # noqa: ANN401
        """End the body early and close the connection."""
        return self.add(Rule("truncate", method, path, at_byte=at_byte, **more))

    def corrupt(self, method: str, path: str, at_byte: int, **more: Any) -> Rule:  # noqa: ANN401
        """Flip the bits of one byte of the body."""
        return self.add(Rule("corrupt", method, path, at_byte=at_byte, **more))

    def throttle(self, method: str, path: str, bytes_per_s: int, **more: Any) -> Rule:  # noqa: ANN401
        """Move the bytes of each request no faster than this; `times` is unlimited by default."""
        more.setdefault("times", None)
        return self.add(Rule("throttle", method, path, bytes_per_s=bytes_per_s, **more))

    def clear(self) -> None:
        """Take all rules out of force."""
        with self._lock:
            self._armed.clear()

    def struck(self, rule: Rule) -> int:
        """How many requests a rule has struck."""
        with self._lock:
            return sum(armed.struck for armed in self._armed if armed.rule is rule)

    def strike(self, method: str, path: str) -> Rule | None:
        """The rule that applies to a request, counted as used."""
        with self._lock:
            for armed in self._armed:
                rule = armed.rule
                if rule.method not in {"*", method} or not re.search(rule.path, path):
                    continue
                armed.seen += 1
                if armed.seen <= rule.skip or (
                    rule.times is not None and armed.struck >= rule.times
                ):
                    continue
                armed.struck += 1
                return rule
        return None


def rule_from_json(value: dict[str, Any]) -> Rule:
    """A rule as it comes over HTTP.

    Raises:
        ValueError: A member is unknown, or the action is missing or none of ours.
    """
    known = {item.name for item in fields(Rule)}
    unknown = sorted(set(value) - known)
    if unknown or value.get("action") not in Action.__args__:  # type: ignore[attr-defined]
        raise ValueError(f"a fault rule knows {sorted(known)} and the actions of Rule; got {value}")
    re.compile(value.get("path", ""))
    return Rule(**value)


@dataclass(frozen=True, slots=True)
class Served:
    """One request that was served.

    Attributes:
        method: HTTP method.
        path: Path as it came, without the query.
        query: Query string.
        kind: What it was about: `commit`, `tree`, `resolve`, `blob`, `xorb`...
        status: Status sent; 0 if none was.
        received_bytes: Body bytes that came in.
        sent_bytes: Body bytes that went out.
        origin: `hub` or `cdn`.
        user_agent: Who asked.
        range: The Range header, or nothing.
    """

    method: str
    path: str
    query: str
    kind: str
    status: int
    received_bytes: int
    sent_bytes: int
    origin: str
    user_agent: str
    range: str


class ServedLog:
    """The last hundred thousand requests, oldest first."""

    def __init__(self) -> None:
        self._records: deque[Served] = deque(maxlen=100_000)
        self._kinds: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, record: Served) -> None:
        """Log a request."""
        with self._lock:
            self._records.append(record)
            self._kinds[record.kind] += 1

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._records.clear()
            self._kinds.clear()

    def all(self) -> list[Served]:
        """What was served so far."""
        with self._lock:
            return list(self._records)

    def kinds(self) -> dict[str, int]:
        """How many requests of each kind."""
        with self._lock:
            return dict(self._kinds)

    def find(
        self, *, kind: str | None = None, method: str | None = None, path: str = "", status: int = 0
    ) -> list[Served]:
        """The requests that match; `path` is a regular expression."""
        return [
            record
            for record in self.all()
            if (kind is None or record.kind == kind)
            and (method is None or record.method == method)
            and (not status or record.status == status)
            and re.search(path, record.path)
        ]

    def count(
        self, *, kind: str | None = None, method: str | None = None, path: str = "", status: int = 0
    ) -> int:
        """How many requests match."""
        return len(self.find(kind=kind, method=method, path=path, status=status))
