"""Windows through the CUDA device, chunk by chunk: copy in, compute, copy out.

Each calling thread has two slots of its own. While one chunk is computed the next is on its way in
and the one before on its way out; several threads overlap in the same way.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hubconv.errors import IntegrityError
from hubconv.formats.nvfp4 import BLOCK, Encoded, Scales
from hubconv.formats.stored import Window
from hubconv.kernels import cuda_blocks, magnitude
from hubconv.kernels.cuda_staging import Slot, pinned

_INFINITY = 0x7F800000
_CODE_BYTES = 8  # of a block


class Engine:
    """Runs the kernels of `cuda_blocks` on windows. Threads may share an instance.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._of_thread = threading.local()
        # One thread at a time hands work to the device: several would only take the interpreter
        # from each other, between any two of many short calls.
        self._handing = threading.Lock()

    def amax(self, window: Window, chunk_bytes: int) -> float:
        """Largest magnitude of a window's weights, an exact float32 number.

        Args:
            window: At least one row of a stored weight; columns a multiple of 16.
            chunk_bytes: Stored bytes that each of two slots holds at a time.

        Raises:
            NonFiniteError: A weight or a scale is NaN or infinite, or their product is.
            torch.OutOfMemoryError: The device has no room for such chunks.
        """
        with self._passing() as (slots, tops):
            for index, (first, last) in enumerate(_cuts(window, chunk_bytes)):
                slot = slots[index % 2]
                tops += slot.taken()
                chunk = window.part(first, last)
                boxes = _boxed(slot, chunk)
                with self._handing, slot.working():
                    _start_amax(slot, chunk, boxes)
        largest = np.concatenate(tops).max(keepdims=True)
        if largest[0] >= _INFINITY:
            _refuse(window)
        return float(largest.view(np.float32)[0])

    def encode(
        self, window: Window, global_scale: float, rule: Scales, chunk_bytes: int
    ) -> Encoded:
        """Round a window to NVFP4 under a given global scale, and measure the distance.

        Args:
            window: At least one row of a stored weight; columns a multiple of 16.
            global_scale: Above zero; a power of two for `search`.
            rule: `search` or `amax`.
            chunk_bytes: Stored bytes that each of two slots holds at a time.

        Returns:
            Codes and scales in pinned memory that is theirs alone, for as long as they are used.

        Raises:
            NonFiniteError: A weight or a scale is NaN or infinite, or their product is.
            torch.OutOfMemoryError: The device has no room for such chunks.
        """
        rows, blocks = window.rows, window.rows * (window.weight.cols // BLOCK)
        memory = pinned((_CODE_BYTES + 1) * blocks)
        codes, scales = memory[: _CODE_BYTES * blocks], memory[_CODE_BYTES * blocks :]
        outputs = (codes.view(rows, -1), scales.view(rows, -1))
        with self._passing() as (slots, figures):
            for index, (first, last) in enumerate(_cuts(window, chunk_bytes)):
                slot = slots[index % 2]
                figures += slot.taken()
                chunk = window.part(first, last)
                boxes = _boxed(slot, chunk)
                of_chunk = (outputs[0][first:last], outputs[1][first:last])
                with self._handing, slot.working():
                    _start_encode(slot, chunk, boxes, of_chunk, global_scale, rule)
        table = np.concatenate(figures).reshape(-1, cuda_blocks.FIGURES)
        quality, not_finite = cuda_blocks.quality(table, blocks)
        if not_finite:
            _refuse(window)
        return Encoded(outputs[0].numpy(), outputs[1].numpy(), quality)

    def release(self) -> None:
        """Give back the device memory that this thread holds, so that smaller pieces fit."""
        for slot in self._slots():
            slot.clear()
        with torch.cuda.device(self._device):
            torch.cuda.empty_cache()

    @contextmanager
    def _passing(self) -> Iterator[tuple[tuple[Slot, Slot], list[npt.NDArray[np.generic]]]]:
        """This thread's slots, and a list for figures that holds all of them in the end."""
        slots = self._slots()
        figures: list[npt.NDArray[np.generic]] = []
        try:
            yield slots, figures
        finally:  # also before an error leaves: the memory around a copy under way must stay
            for slot in slots:
                figures += slot.taken()

    def _slots(self) -> tuple[Slot, Slot]:
        if not hasattr(self._of_thread, "slots"):
            self._of_thread.slots = (Slot(self._device), Slot(self._device))
        slots: tuple[Slot, Slot] = self._of_thread.slots
        return slots


_Boxes = tuple[Tensor, Tensor | None]


def _boxed(slot: Slot, chunk: Window) -> _Boxes:
    """A chunk's bytes and its scales, uint8 in pinned memory; no scales where it has none."""
    data = slot.boxed("data", chunk.data)
    return data, None if chunk.weight.kind == "plain" else slot.boxed("scales", chunk.scales)


def _start_amax(slot: Slot, chunk: Window, boxes: _Boxes) -> None:
    layout = cuda_blocks.geometry(chunk)
    tops = slot.room("tops", layout.programs, torch.int32)
    cuda_blocks.amax(*_sent(slot, boxes), tops, layout)
    slot.leave(tops)


def _start_encode(
    slot: Slot,
    chunk: Window,
    boxes: _Boxes,
    outputs: tuple[Tensor, Tensor],
    global_scale: float,
    rule: Scales,
) -> None:
    """Set a chunk on its way.

    Args:
        slot: Where; nothing may be under way there.
        chunk: Some rows of a window.
        boxes: Its bytes and scales in pinned memory.
        outputs: [rows, cols / 2] codes and [rows, cols / 16] scales, uint8 in pinned memory.
        global_scale: Above zero.
        rule: `search` or `amax`.
    """
    layout = cuda_blocks.geometry(chunk)
    codes = slot.room("codes", layout.blocks, torch.int64)
    scales = slot.room("block scales", layout.blocks, torch.uint8)
    figures = slot.room("figures", cuda_blocks.FIGURES * layout.programs, torch.float64)
    sources = _sent(slot, boxes)
    cuda_blocks.encode(*sources, codes, scales, figures, layout, global_scale, rule)
    slot.leave(figures)
    outputs[0].view(-1).view(torch.int64).copy_(codes, non_blocking=True)
    outputs[1].view(-1).copy_(scales, non_blocking=True)


def _sent(slot: Slot, boxes: _Boxes) -> tuple[Tensor, Tensor]:
    """Words [...] int64 and scales [...] float32, on their way to the device."""
    data, scales = boxes
    words = slot.room("data", data.numel() // 8, torch.int64)
    words.view(torch.uint8).copy_(data, non_blocking=True)
    if scales is None:
        return words, slot.room("no scales", 1, torch.float32)
    factors = slot.room("scales", scales.numel() // 4, torch.float32)
    factors.view(torch.uint8).copy_(scales, non_blocking=True)
    return words, factors


def _cuts(window: Window, chunk_bytes: int) -> Iterator[tuple[int, int]]:
    """(first, last) rows of the chunks of a window."""
    step = max(1, chunk_bytes // max(1, window.weight.row_bytes))
    for first in range(0, window.rows, step):
        yield first, min(first + step, window.rows)


def _refuse(window: Window) -> None:
    """The exact report on a window in which the device has met what is not finite.

    Raises:
        NonFiniteError: As the device said.
        IntegrityError: Every number is finite.
    """
    magnitude.largest(window)
    raise IntegrityError(
        "The CUDA device met a NaN or an infinity in weights that hold none.",
        "Its memory or its driver may be at fault: use --device cpu.",
    )
