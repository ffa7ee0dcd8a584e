"""Which files are large: `.gitattributes` rules, size, and a look at the first bytes."""

import base64
import binascii
from fnmatch import fnmatchcase

LARGE_FROM_BYTES = 10_000_000
_LARGE = "filter=lfs diff=lfs merge=lfs -text"
# fmt: off
_LARGE_PATTERNS = (
    "*.7z",
    "*.arrow",
    "*.bin",
    "*.bz2",
    "*.ckpt",
    "*.ftz",
    "*.gz",
    "*.h5",
    "*.joblib",
    "*.lfs.*",
    "*.mlmodel",
    "*.model",
    "*.msgpack",
    "*.npy",
    "*.npz",
    "*.onnx",
    "*.ot",
    "*.parquet",
    "*.pb",
    "*.pickle",
    "*.pkl",
    "*.png",
    "*.pt",
    "*.pth",
    "*.rar",
    "*.safetensors",
    "saved_model/**/*",
    "*.tar.*",
    "*.tar",
    "*.tflite",
    "*.tgz",
    "*.wasm",
    "*.xz",
    "*.zip",
    "*.zst",
    "*tfevents*",
)
# fmt: on

INITIAL = "".join(f"{pattern} {_LARGE}\n" for pattern in _LARGE_PATTERNS)


def large_patterns(attributes: str) -> list[str]:
    """The patterns that a `.gitattributes` text sends to LFS."""
    lines = (line.split() for line in attributes.splitlines())
    return [
        words[0].replace("[[:space:]]", " ")
        for words in lines
        if len(words) > 1 and "filter=lfs" in words[1:]
    ]


def matches(path: str, patterns: list[str]) -> bool:
    """Whether any git pattern takes in a path."""
    name = path.rsplit("/", 1)[-1]
    for pattern in patterns:
        if "/" not in pattern:
            if fnmatchcase(name, pattern):
                return True
        elif fnmatchcase(path, pattern.replace("**/", "*").lstrip("/")):
            return True
    return False


def is_large(path: str, size: int, sample_base64: str, attributes: str) -> bool:
    """Whether a file belongs into LFS: by rule, by size, or because it is no text."""
    if size >= LARGE_FROM_BYTES or matches(path, large_patterns(attributes)):
        return True
    try:
        sample = base64.b64decode(sample_base64)
    except (binascii.Error, ValueError):
        return False
    return b"\0" in sample


def with_rules_for(attributes: str, paths: list[str]) -> str:
    """The `.gitattributes` text that also takes in these paths."""
    patterns = large_patterns(attributes)
    missing = [path for path in paths if not matches(path, patterns)]
    if not missing:
        return attributes
    if attributes and not attributes.endswith("\n"):
        attributes += "\n"
    return attributes + "".join(
        f"{path.replace(' ', '[[:space:]]')} {_LARGE}\n" for path in missing
    )


def is_ignored(path: str, gitignore: str | None) -> bool:
    """Whether a `.gitignore` text leaves a path out (plain patterns and folders only)."""
    ignored = False
    for raw in (gitignore or "").splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").rstrip("/").lstrip("/")
        parts = path.split("/")
        heads = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        if any(fnmatchcase(head, pattern) for head in heads) or (
            "/" not in pattern and any(fnmatchcase(part, pattern) for part in parts)
        ):
            ignored = not line.startswith("!")
    return ignored
