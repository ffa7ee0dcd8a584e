"""Windows through the CUDA device, chunk by chunk: copy in, compute, copy out.

Each calling thread has two slots of its own, used in turn. While one chunk is computed the next is
on its way in and the one before on its way out, and the thread may read and write meanwhile;
several threads overlap in the same way.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from hubconv.errors import IntegrityError
from hubconv.formats.nvfp4 import BLOCK, Encoded, Quality, Scales
from hubconv.formats.stored import Bytes2D, Window
from hubconv.kernels import Kernel
from hubconv.kernels.cuda import variants
from hubconv.kernels.cuda.compiled import Compile, binary
from hubconv.kernels.cuda.driver import Bytes, Device, Function
from hubconv.kernels.cuda.slots import Figures, Lane, Slot
from hubconv.kernels.cuda.variants import FIGURES, Variant, geometry

_INFINITY = 0x7F800000
_CODE_BYTES = 8  # of a block
_FIGURE_BYTES = 8 * FIGURES  # of a program
_TOP_BYTES = 4  # of a program
_COUNT_BYTES = 4  # of a program
_GROUP = 2 * BLOCK
_PAIR_BYTES = 16  # of a group


class Engine:
    """Runs the kernels of `blocks` on windows. Threads may share an instance.

    Args:
        device: The CUDA device.
        report: Says where a window is not finite.
        compile_it: Compiles kernels that are not compiled yet.
    """

    def __init__(self, device: Device, report: Kernel, compile_it: Compile) -> None:
        self._device = device
        self._report = report
        self._compile = compile_it
        self._of_thread = threading.local()
        self._lock = threading.Lock()
        self._functions: dict[Variant, tuple[Function, list[Any]]] = {}

    def begin_amax(self, window: Window, chunk_bytes: int) -> Callable[[], float]:
        """Begin to look for the largest magnitude of a window's weights.

        Args:
            window: At least one row of a stored weight; columns a multiple of 16.
            chunk_bytes: Stored bytes that each of two slots holds at a time.

        Returns:
            Waits for it, an exact float32 number, on the thread that began. It raises
            NonFiniteError where a weight or a scale is NaN or infinite, or their product is.

        Raises:
            FullError: The device has no room for such chunks.
        """
        lane, figures = self._lane(), Figures()
        for part, (first, last) in enumerate(_cuts(window, chunk_bytes)):
            slot = lane.next()
            with slot.working(figures, part, window):
                self._start_amax(slot, window.part(first, last))

        def largest() -> float:
            tops = np.concatenate(lane.finished(figures)).view(np.int32)
            bits = int(tops.max())
            if bits >= _INFINITY:
                self._refuse(window)
            return float(np.int32(bits).view(np.float32))

        return largest

    def begin_encode(
        self, window: Window, global_scale: float, rule: Scales, chunk_bytes: int
    ) -> Callable[[], Encoded]:
        """Begin to round a window to NVFP4 under a given global scale.

        Args:
            window: At least one row of a stored weight; columns a multiple of 16.
            global_scale: Above zero; a power of two for `search`.
            rule: `search` or `amax`.
            chunk_bytes: Stored bytes that each of two slots holds at a time.

        Returns:
            Waits for codes and scales, in pinned memory that is theirs alone for as long as they
            are used, on the thread that began. It raises NonFiniteError where a weight or a scale
            is NaN or infinite, or their product is.

        Raises:
            FullError: The device has no room for such chunks.
        """
        rows, blocks = window.rows, window.rows * (window.weight.cols // BLOCK)
        memory = self._device.pinned.take((_CODE_BYTES + 1) * blocks)
        codes = memory[: _CODE_BYTES * blocks].reshape(rows, -1)
        scales = memory[_CODE_BYTES * blocks :].reshape(rows, -1)
        lane, figures = self._lane(), Figures()
        for part, (first, last) in enumerate(_cuts(window, chunk_bytes)):
            slot = lane.next()
            outputs = (codes[first:last].reshape(-1), scales[first:last].reshape(-1))
            with slot.working(figures, part, window, memory):
                chunk = window.part(first, last)
                self._start_encode(slot, chunk, outputs, global_scale, rule)

        def made() -> Encoded:
            quality = self._quality(window, lane.finished(figures), blocks)
            return Encoded(codes, scales, quality)

        return made

    def respell(self, window: Window, chunk_bytes: int) -> tuple[Bytes2D, Bytes2D] | None:
        """Spell a window of FP8 as MXFP4.

        Args:
            window: At least one row of a stored FP8 weight that has groups (`variants.Geometry`).
            chunk_bytes: Stored bytes that each of two slots holds at a time.

        Returns:
            E2M1 pairs [rows, cols / 2] and E8M0 exponents [rows, cols / 32], uint8 in pinned
            memory that is theirs alone; None where a group is to be left to the definition.

        Raises:
            FullError: The device has no room for such chunks.
        """
        rows, groups = window.rows, window.rows * (window.weight.cols // _GROUP)
        memory = self._device.pinned.take((_PAIR_BYTES + 1) * groups)
        pairs = memory[: _PAIR_BYTES * groups].reshape(rows, -1)
        exponents = memory[_PAIR_BYTES * groups :].reshape(rows, -1)
        lane, figures = self._lane(), Figures()
        for part, (first, last) in enumerate(_cuts(window, chunk_bytes)):
            slot = lane.next()
            outputs = (pairs[first:last].reshape(-1), exponents[first:last].reshape(-1))
            with slot.working(figures, part, window, memory):
                self._start_respell(slot, window.part(first, last), outputs)
        wrongs = np.concatenate(lane.finished(figures)).view(np.int32)
        return None if wrongs.any() else (pairs, exponents)

    def _quality(self, window: Window, figures: list[Bytes], blocks: int) -> Quality:
        table = np.concatenate(figures).view(np.float64).reshape(-1, FIGURES)
        quality, not_finite = variants.quality(table, blocks)
        if not_finite:
            self._refuse(window)
        return quality

    def release(self) -> None:
        """Give back the device memory that this thread holds, so that smaller pieces fit."""
        self._lane().clear()

    def _lane(self) -> Lane:
        if not hasattr(self._of_thread, "lane"):
            self._device.enter()
            self._of_thread.lane = Lane(self._device)
        lane: Lane = self._of_thread.lane
        return lane

    def _start_amax(self, slot: Slot, chunk: Window) -> None:
        layout = geometry(chunk)
        sources = self._sent(slot, chunk)
        tops = slot.room("tops", _TOP_BYTES * layout.programs)
        function, spare = self._function(variants.amax_variant(layout))
        addresses = variants.pointers([*sources, tops.address])
        function.launch(slot.stream, layout.programs, [*addresses, *layout.sizes(), *spare])
        slot.leave(tops, _TOP_BYTES * layout.programs)

    def _start_encode(
        self,
        slot: Slot,
        chunk: Window,
        outputs: tuple[Bytes, Bytes],
        global_scale: float,
        rule: Scales,
    ) -> None:
        """Set a chunk on its way.

        Args:
            slot: Where; nothing may be under way there.
            chunk: Some rows of a window.
            outputs: [blocks * 8] codes and [blocks] scales, uint8 in pinned memory.
            global_scale: Above zero.
            rule: `search` or `amax`.
        """
        layout = geometry(chunk)
        sources = self._sent(slot, chunk)
        codes = slot.room("codes", _CODE_BYTES * layout.blocks)
        scales = slot.room("block scales", layout.blocks)
        figures = slot.room("quality", _FIGURE_BYTES * layout.programs)
        function, spare = self._function(variants.encode_variant(layout, global_scale, rule))
        made = (codes.address, scales.address, figures.address)
        arguments = variants.pointers([*sources, *made]) + variants.scalars(global_scale)
        function.launch(slot.stream, layout.programs, [*arguments, *layout.sizes(), *spare])
        slot.leave(figures, _FIGURE_BYTES * layout.programs)
        slot.stream.copy_out(outputs[0], codes)
        slot.stream.copy_out(outputs[1], scales)

    def _start_respell(self, slot: Slot, chunk: Window, outputs: tuple[Bytes, Bytes]) -> None:
        layout = geometry(chunk)
        sources = self._sent(slot, chunk)
        pairs = slot.room("codes", outputs[0].nbytes)
        exponents = slot.room("block scales", outputs[1].nbytes)
        wrongs = slot.room("wrongs", _COUNT_BYTES * layout.group_programs)
        function, spare = self._function(variants.respell_variant(layout))
        made = (pairs.address, exponents.address, wrongs.address)
        arguments = [*variants.pointers([*sources, *made]), *layout.sizes(), *spare]
        function.launch(slot.stream, layout.group_programs, arguments)
        slot.leave(wrongs, _COUNT_BYTES * layout.group_programs)
        slot.stream.copy_out(outputs[0], pairs)
        slot.stream.copy_out(outputs[1], exponents)

    def _sent(self, slot: Slot, chunk: Window) -> tuple[int, int]:
        """Addresses of stored bytes and scales on the device, on their way there."""
        data = slot.sent("data", chunk.data)
        scaled = chunk.weight.kind != "plain"
        scales = slot.sent("scales", chunk.scales) if scaled else slot.room("no scales", 4)
        return data.address, scales.address

    def _function(self, variant: Variant) -> tuple[Function, list[Any]]:
        """A loaded kernel, and values for the parameters behind ours."""
        found = self._functions.get(variant)
        if found is not None:
            return found
        with self._lock:
            if variant not in self._functions:
                made = binary(variant, self._device.capability, self._compile)
                loaded = Function(made.code, made.name, made.threads, made.shared_bytes)
                spare = variants.pointers([0] * made.spare_pointers)
                self._functions[variant] = (loaded, spare)
            return self._functions[variant]

    def _refuse(self, window: Window) -> None:
        """The exact report on a window in which the device has met what is not finite.

        Raises:
            NonFiniteError: As the device said.
            IntegrityError: Every number is finite.
        """
        self._report.amax(window)
        raise IntegrityError(
            "The CUDA device met a NaN or an infinity in weights that hold none.",
            "Its memory or its driver may be at fault: use --device cpu.",
        )


def _cuts(window: Window, chunk_bytes: int) -> Iterator[tuple[int, int]]:
    """(first, last) rows of the chunks of a window."""
    step = max(1, chunk_bytes // max(1, window.weight.row_bytes))
    for first in range(0, window.rows, step):
        yield first, min(first + step, window.rows)
