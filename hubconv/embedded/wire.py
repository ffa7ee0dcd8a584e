"""Requests and answers as the handlers see them, and the table that finds the handler."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlencode

from starlette.responses import Response

from hubconv.embedded.accounts import Account
from hubconv.embedded.refusals import Refusal
from hubconv.embedded.state import State

T = TypeVar("T")


@dataclass(slots=True)
class Call:
    """One request, ready for its handler.

    Attributes:
        state: The Hub.
        method: HTTP method.
        path: Path as it came, still escaped.
        params: The route's named parts, unescaped.
        query: First value of each query parameter.
        query_lists: All values of each query parameter.
        headers: Headers by lower-case name.
        account: Who asks; None for anybody.
        body: The whole body, unless the handler streams it.
        run: Runs a blocking function on the origin's threads (for streaming handlers).
    """

    state: State
    method: str
    path: str
    params: dict[str, str]
    query: dict[str, str]
    query_lists: dict[str, list[str]]
    headers: dict[str, str]
    account: Account | None
    run: Callable[..., Awaitable[Any]]
    body: bytes = b""

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; an empty body is an empty object.

        Raises:
            Refusal: It is something else.
        """
        try:
            value = json.loads(self.body or b"{}")
        except ValueError as error:
            raise Refusal(400, "The body is not JSON.") from error
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise Refusal(400, "The body is not a JSON object.")
        return value

    def form(self) -> dict[str, list[str]]:
        """The body as a form, or as JSON with the same members."""
        if "json" in self.headers.get("content-type", ""):
            return {
                name: [str(item) for item in value] if isinstance(value, list) else [str(value)]
                for name, value in self.json().items()
            }
        return parse_qs(self.body.decode(), keep_blank_values=True)


Handler = Callable[[Call], Response]
StreamHandler = Callable[[Call, AsyncIterator[bytes]], Awaitable[Response]]

_PARTS = {
    "type": "(?P<type>models|datasets|spaces)",
    "prefix": "(?:(?P<prefix>datasets|spaces)/)?",
    "path": "(?P<path>.+)",
    "num": r"(?P<num>\d+)",
}


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a pattern of the path; `kind` is the name in the log.

    In a pattern, `{name}` takes one escaped part of the path, `{path}` the rest, `{type}` and
    `{prefix}` the kind of repository.
    """

    method: str
    pattern: str
    kind: str
    handler: Handler | None = None
    stream: StreamHandler | None = None
    regex: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        def part(found: re.Match[str]) -> str:
            return _PARTS.get(found.group(1), f"(?P<{found.group(1)}>[^/]+)")

        pattern = re.sub(r"\{(\w+)\}", part, self.pattern.replace(".", r"\."))
        object.__setattr__(self, "regex", re.compile(pattern))


def find_route(routes: list[Route], method: str, path: str) -> tuple[Route, dict[str, str]]:
    """The route of a request, with the unescaped parts of its path.

    Raises:
        Refusal: There is none.
    """
    for route in routes:
        if route.method != method:
            continue
        found = route.regex.fullmatch(path)
        if found is not None:
            groups = found.groupdict().items()
            return route, {name: unquote(text) for name, text in groups if text is not None}
    raise Refusal(404, f"Nothing is served at {method} {path}")


def parse_query(text: str) -> dict[str, list[str]]:
    """All values of each query parameter."""
    return parse_qs(text, keep_blank_values=True)


def json_answer(
    value: object, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """An answer in JSON."""
    text = json.dumps(value, separators=(",", ":"))
    return Response(text, status, headers, media_type="application/json")


def refusal_answer(refusal: Refusal) -> Response:
    """A refusal as the Hub words it."""
    headers = {"X-Error-Message": _header_text(refusal.message), **refusal.headers}
    if refusal.code:
        headers["X-Error-Code"] = refusal.code
    fields = {"error": refusal.message, **refusal.fields}
    return json_answer(fields, refusal.status, headers)


def page_of(call: Call, items: list[T], page_size: int) -> tuple[list[T], dict[str, str]]:
    """The page that the query's cursor asks for, and the Link header to the next."""
    try:
        start = max(int(call.query.get("cursor", "0")), 0)
        wanted = int(call.query.get("limit", page_size))
    except ValueError as error:
        raise Refusal(400, "The cursor or the limit is not a number.") from error
    end = start + max(min(wanted, page_size), 1)
    if end >= len(items):
        return items[start:end], {}
    query = urlencode({**call.query_lists, "cursor": [str(end)]}, doseq=True)
    return items[start:end], {"Link": f'<{call.state.endpoint}{call.path}?{query}>; rel="next"'}


def _header_text(text: str) -> str:
    return " ".join(text.split()).encode("latin-1", "replace").decode("latin-1")
