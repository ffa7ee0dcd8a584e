"""Bytes of a result and of a source: scalars in as few requests as may be, weights by windows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt

from hubconv.audit.counterparts import Stored
from hubconv.audit.packed import Packed
from hubconv.ends import Source
from hubconv.errors import IntegrityError, SourceError
from hubconv.formats import nvfp4, stored
from hubconv.formats.checkpoint import StoredTensor
from hubconv.formats.nvfp4 import BLOCK
from hubconv.steps.inventory import HEADER_THREADS

Bytes2D = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

GAP_BYTES: Final = 64 * 1024
"""Scalars nearer to one another than this come by one request."""

RUN_BYTES: Final = 8 * 1024 * 1024
CHUNK_BYTES: Final = 4 * 1024 * 1024
"""Codes that are fetched, and of which the source's rows are, at a time."""

WINDOW_ELEMENTS: Final = 1 << 18
"""Elements that are decoded at a time: as float64 they take 2 MiB, and some times that in work."""

Place = tuple[str, int]
"""(shard, first byte) of a scalar."""


def read_scalars(view: Source, tensors: Iterable[StoredTensor]) -> dict[Place, float]:
    """Values of float32 scalars by where they are; those of one place are read once.

    Raises:
        SourceError: A file cannot be read.
    """
    places = sorted({(t.shard, t.begin, t.end) for t in tensors if t.nbytes == 4})
    runs = list(_runs(places))

    def read(run: list[tuple[str, int, int]]) -> list[tuple[Place, float]]:
        shard, begin, _ = run[0]
        content = view.read(shard, begin, run[-1][2])
        values = ((b, content[b - begin : e - begin]) for _, b, e in run)
        return [((shard, b), float(np.frombuffer(raw, "<f4")[0])) for b, raw in values]

    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        return dict(pair for pairs in pool.map(read, runs) for pair in pairs)


def _runs(places: Sequence[tuple[str, int, int]]) -> Iterator[list[tuple[str, int, int]]]:
    run: list[tuple[str, int, int]] = []
    for place in places:
        shard, begin, end = place
        apart = run and (
            shard != run[0][0] or begin - run[-1][2] > GAP_BYTES or end - run[0][1] > RUN_BYTES
        )
        if apart:
            yield run
            run = []
        run.append(place)
    if run:
        yield run


def place_of(tensor: StoredTensor) -> Place:
    """Where a scalar is."""
    return (tensor.shard, tensor.begin)


def chunks(weight: Packed) -> Iterator[tuple[int, int]]:
    """(first, last) rows of a weight, in pieces to fetch."""
    rows = max(CHUNK_BYTES // max(weight.cols // 2, 1), 1)
    for first in range(0, weight.rows, rows):
        yield first, min(first + rows, weight.rows)


def rows_of(view: Source, tensor: StoredTensor, first: int, last: int, row_bytes: int) -> Bytes2D:
    """Rows of a tensor as bytes.

    Raises:
        IntegrityError: Fewer bytes came than the header promises.
    """
    begin = tensor.begin + first * row_bytes
    content = view.read(tensor.shard, begin, begin + (last - first) * row_bytes)
    if len(content) != (last - first) * row_bytes:
        raise IntegrityError(f"{tensor.shard} ends within {tensor.name}.")
    return np.frombuffer(content, np.uint8).reshape(last - first, row_bytes)


def codes_of(view: Source, weight: Packed, first: int, last: int) -> Bytes2D:
    """Codes of some rows."""
    return rows_of(view, weight.codes, first, last, weight.cols // 2)


def scales_of(view: Source, weight: Packed, first: int, last: int) -> Bytes2D:
    """Block scales of some rows."""
    return rows_of(view, weight.scales, first, last, weight.cols // BLOCK)


def window_of(view: Source, weight: Stored, first: int, last: int) -> stored.Window:
    """Some rows of a weight that is not NVFP4, with the scales they need."""
    data = rows_of(view, weight.data, first, last, weight.weight.row_bytes)
    if weight.scale is None:
        return stored.window(weight.weight, first, data)
    needed = weight.weight.scale_rows(first, last - first)
    size = weight.weight.scale_row_bytes
    scales = rows_of(view, weight.scale, needed.start, needed.stop, size)
    return stored.window(weight.weight, first, data, scales)


def steps(rows: int, cols: int) -> Iterator[tuple[int, int]]:
    """(first, last) of rows to decode at a time."""
    step = max(WINDOW_ELEMENTS // max(cols, 1), 1)
    for first in range(0, rows, step):
        yield first, min(first + step, rows)


def decode(codes: Bytes2D, scales: Bytes2D, factor: float) -> Floats:
    """What NVFP4 bytes mean; values that are no numbers where a scale is none."""
    with np.errstate(all="ignore"):
        return nvfp4.decode(codes, scales, factor)


def dequantize(window: stored.Window) -> Floats:
    """The source's weights of a window.

    Raises:
        SourceError: A weight is not finite.
    """
    try:
        return stored.dequantize(window).astype(np.float64)
    except stored.NonFiniteError as error:
        raise SourceError(str(error)) from error


def named_scalars(
    values: Mapping[Place, float], tensors: Iterable[StoredTensor]
) -> dict[str, float]:
    """Values by tensor name, of scalars that were read."""
    return {
        tensor.name: values[place]
        for tensor in tensors
        if tensor.nbytes == 4 and (place := place_of(tensor)) in values
    }
