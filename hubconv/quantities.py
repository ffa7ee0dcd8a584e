"""Sizes, times and rates: as people write them, and as they read them."""

import re
from typing import Final

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|TB|KIB|MIB|GIB|TIB)?", re.IGNORECASE)
_UNITS: Final = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
_TIME: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")


def parse_size(text: str) -> int | None:
    """Bytes of `5GB`, `500MB` or `1.5GiB`; None where it is no size."""
    found = _SIZE.fullmatch(text.strip())
    return None if found is None else int(float(found[1]) * _UNITS[(found[2] or "B").upper()])


def parse_time(text: str) -> float | None:
    """Seconds of `5h30m`, `90m` or `3600`; None where it is no time."""
    found = _TIME.fullmatch(text.strip())
    if found is None or not any(found.groups()):
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def human_bytes(count: float) -> str:
    """`865 GB`: decimal units and three digits, as the Hub writes sizes."""
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    power = 0
    while power < len(units) - 1 and abs(count) >= (999.5 if power else 1000):
        count /= 1000
        power += 1
    if not power:
        return f"{count:.0f} B"
    digits = 2 if abs(count) < 9.995 else 1 if abs(count) < 99.95 else 0
    return f"{count:.{digits}f} {units[power]}"


def human_time(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `1 h 05 min`, `2 d 03 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if whole >= 10 or whole == seconds else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02} h"


def human_rate(bytes_per_second: float) -> str:
    """`1.20 GB/s`."""
    return f"{human_bytes(bytes_per_second)}/s"
