"""Kernels that Triton compiled once, kept on the disk, and loaded without it."""

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Self

from hubconv.errors import ResourceError
from hubconv.kernels.cache import cache_folder, keep
from hubconv.kernels.cuda.variants import Variant

_LINE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Binary:
    """A compiled kernel.

    Attributes:
        name: Of the function in the cubin.
        threads: Threads of a program.
        shared_bytes: Shared memory of a program.
        spare_pointers: Parameters behind ours that Triton adds for itself; null is right for them.
        code: The cubin.
    """

    name: str
    threads: int
    shared_bytes: int
    spare_pointers: int
    code: bytes

    def to_bytes(self) -> bytes:
        """A line of JSON, then the code."""
        facts = asdict(self) | {"code": hashlib.sha256(self.code).hexdigest()}
        return json.dumps(facts).encode() + b"\n" + self.code

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """What `to_bytes` wrote.

        Raises:
            ValueError: It is something else, or damaged.
        """
        line, _, code = content.partition(b"\n")
        facts = json.loads(line[:_LINE_BYTES])
        if not isinstance(facts, dict) or facts.pop("code", "") != hashlib.sha256(code).hexdigest():
            raise ValueError("not a compiled kernel")
        return cls(code=code, **facts)


Compile = Callable[[Variant, tuple[int, int]], Binary]


def binary(variant: Variant, capability: tuple[int, int], compile_it: Compile) -> Binary:
    """A kernel for a device: compiled now, or when it was first asked for.

    Args:
        variant: Which kernel.
        capability: Compute capability of the device.
        compile_it: Compiles it.

    Raises:
        ResourceError: It does not compile.
    """
    place = _place(variant, capability)
    if place is not None:
        try:
            return Binary.from_bytes(place.read_bytes())
        except (OSError, ValueError, TypeError):
            pass
    made = compile_it(variant, capability)
    if place is not None:
        keep(place, made.to_bytes())
    return made


def compile_with_triton(variant: Variant, capability: tuple[int, int]) -> Binary:
    """Have Triton compile a kernel.

    Raises:
        ResourceError: It is not installed, or cannot.
    """
    try:
        from hubconv.kernels.cuda.compiling import compiled
    except ImportError as error:
        raise ResourceError(
            f"The CUDA kernel needs Triton, which does not import: {error}.",
            "Install the torch build for CUDA, which brings it, or use --device cpu.",
        ) from error
    try:
        return compiled(variant, capability)
    except Exception as error:  # a compiler and its tools fail in many ways
        raise ResourceError(
            f"Triton does not compile {variant.name} for compute capability "
            f"{'.'.join(map(str, capability))}: {error}",
            "Use --device cpu, and report it with the versions of torch and Triton.",
        ) from error


def _place(variant: Variant, capability: tuple[int, int]) -> Path | None:
    folder = cache_folder("cuda", Path(__file__).parent, _triton())
    major, minor = capability
    return folder / f"{variant.name}-sm{major}{minor}.kernel" if folder else None


@functools.cache
def _triton() -> str:
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "none"
