"""What a fuzz target is, and the ways to run one.

python -m fuzz.header corpus-folder -max_total_time=300      with atheris (pip install ".[fuzz]")
python -m fuzz.header                                        without: seeds and mutations of them
"""

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType

Target = Callable[[bytes], None]

CORPUS = Path(__file__).parent / "corpus"
MOST_BYTES = 4096


def seeds(name: str) -> list[bytes]:
    """The small inputs a target begins with."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def mutations(beginnings: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Seeds, then seeds with bytes changed, cut, repeated and spliced; the same for the same seed.

    Args:
        beginnings: Inputs to begin with.
        count: How many to make besides them.
        seed: Of the random numbers.
    """
    yield from beginnings
    chance = random.Random(seed)
    pool = list(beginnings)
    for _ in range(count):
        data = bytearray(chance.choice(pool))
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            _mutate(data, chance, pool)
        made = bytes(data[:MOST_BYTES])
        if chance.random() < 0.02:
            pool.append(made)
        yield made


def _mutate(data: bytearray, chance: random.Random, pool: Sequence[bytes]) -> None:
    at = chance.randint(0, len(data))
    to = min(len(data), at + chance.randint(1, 16))
    kind = chance.randrange(5)
    if kind == 0 and data:
        data[at % len(data)] = chance.choice((chance.randrange(256), *b'{}[]":,0-9\\ \x00\xff'))
    elif kind == 1:
        del data[at:to]
    elif kind == 2:
        data[at:at] = data[at:to]
    elif kind == 3:
        other = chance.choice(pool)
        begin = chance.randint(0, len(other))
        data[at:to] = other[begin : begin + chance.randint(1, 64)]
    else:
        data[at:at] = chance.choice((
            b"-1",
            b"1e400",
            b"2" * 30,
            b"NaN",
            b"../",
            b"null",
            b"\xef\xbb",
        ))


def run(target: Target, name: str, watched: Sequence[ModuleType]) -> None:
    """Run a target as a program: by atheris where it is, else over mutations.

    Args:
        target: Given every input.
        name: Of its seeds.
        watched: Modules whose branches guide atheris.
    """
    if find_spec("atheris") is None:
        for data in mutations(seeds(name), 20_000, 0):
            target(data)
        return
    import atheris

    for module in watched:
        for function in vars(module).values():
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                atheris.instrument_func(function)
    atheris.Setup([*sys.argv, str(CORPUS / name)], target)
    atheris.Fuzz()
