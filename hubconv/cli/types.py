"""Types of values on the command line: sizes, rates, times, slices."""

import re
from typing import TYPE_CHECKING, Final

import click

from hubconv.quantities import parse_size, parse_time

if TYPE_CHECKING:
    from hubconv.pipeline import Slice

_PART: Final = re.compile(r"(\d{1,6})/(\d{1,6})")
_LATENCY: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s)")


class Size(click.ParamType[int]):
    """`5GB`, `500MB`, `1.5GiB`."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Bytes of a size."""
        size = parse_size(str(value))
        if size is None:
            self.fail(f"{value!r} is not a size; write 5GB or 500MB.", param, ctx)
        return size


class Rate(Size):
    """`50MB/s`, `1GB/s`."""

    name = "rate"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Bytes a second."""
        text = str(value).strip()
        rate = super().convert(text[:-2] if text.lower().endswith("/s") else text, param, ctx)
        if not rate:
            self.fail("a line that carries nothing is of no use; write 50MB/s.", param, ctx)
        return rate


class Latency(click.ParamType[float]):
    """`20ms`, `0.5s`."""

    name = "latency"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds of a latency."""
        found = _LATENCY.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is not a latency; write 20ms or 0.5s.", param, ctx)
        return float(found[1]) / (1000 if found[2] == "ms" else 1)


class Part(click.ParamType["Slice"]):
    """`3/16`."""

    name = "slice"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> "Slice":
        """The slice a word names."""
        from hubconv.pipeline import Slice

        if isinstance(value, Slice):
            return value
        found = _PART.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is not a slice; write 3/16 for the third of sixteen.", param, ctx)
        return Slice(int(found[1]), int(found[2]))


class Duration(click.ParamType[float]):
    """`5h30m`, `90m`, `3600`."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds of a time."""
        seconds = parse_time(str(value))
        if seconds is None:
            self.fail(f"{value!r} is not a time; write 5h30m or 90m.", param, ctx)
        return seconds
