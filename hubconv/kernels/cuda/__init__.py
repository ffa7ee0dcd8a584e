"""The CUDA kernel: Triton's code where it works, and what happens where it does not.

torch is not imported: it takes longer to start than a GPU takes for a model of 100 GB. Triton is
imported where a kernel is not compiled yet, and the CPU's kernel loaded where there is work for it.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from hubconv import devices
from hubconv.errors import ResourceError
from hubconv.formats.nvfp4 import BLOCK, Encoded, Scales
from hubconv.formats.stored import Bytes2D, Window
from hubconv.kernels import Kernel
from hubconv.kernels.cpu import CpuKernel
from hubconv.kernels.cuda import canary
from hubconv.kernels.cuda.compiled import Compile, compile_with_triton
from hubconv.kernels.cuda.driver import Device, FullDeviceError, FullError
from hubconv.kernels.cuda.engine import Engine
from hubconv.kernels.cuda.variants import geometry
from hubconv.kernels.later import WORTH_LOADING_BYTES, LaterKernel

_LOG: Final = logging.getLogger(__name__)

CHUNK_BYTES: Final = 32 * 1024 * 1024
"""Stored bytes that each half of a thread's double buffer holds."""

_SMALLEST_CHUNK_BYTES: Final = 256 * 1024
_OLDEST: Final = (7, 5)  # compute capability

_Result = TypeVar("_Result")


class TritonKernel:
    """Turns windows of stored weights into NVFP4 with Triton. Threads may share an instance.

    Before windows of a stored form are worked on for the first time, a small one of that form must
    come out with the bytes of the CPU; for FP8 that happens here.

    Args:
        device: `cuda` or `cuda:N`.
        chunk_bytes: Stored bytes on the device at a time, for each half of a double buffer.
        workers: Threads that will use it at the same time.
        compile_it: Compiles kernels that are not compiled yet; Triton if None.

    Raises:
        ResourceError: No such device, one too old, no Triton, or kernels that do not compile.
        FullDeviceError: It has no memory left for anything.
        IntegrityError: The device gives other bytes than the CPU.
    """

    def __init__(
        self,
        device: str = "cuda",
        *,
        chunk_bytes: int = CHUNK_BYTES,
        workers: int = 1,
        compile_it: Compile | None = None,
    ) -> None:
        self._device = _found(device)
        self._chunk_bytes = chunk_bytes
        self._cpu = LaterKernel(lambda: CpuKernel(workers), WORTH_LOADING_BYTES)
        self._memory = Device(int(self._device.removeprefix("cuda:")))
        self._engine = Engine(self._memory, self._cpu, compile_it or compile_with_triton)
        self._lock = threading.Lock()
        self._trusted: dict[tuple[str, bool], bool] = {}
        self._trusted_to_respell: bool | None = None
        self._had_no_room = False
        try:
            self._try("fp8", mixed=False)
        except FullError as error:
            raise FullDeviceError(
                f"{self._device} has no memory left for even small weights.",
                "End what else uses it (nvidia-smi shows that), or use another device or "
                "--device cpu, which gives the same bytes. Finished shards are kept.",
            ) from error

    @property
    def name(self) -> str:
        """What did the work, for reports."""
        helped = f" and {self._cpu.name}" if self._had_no_room else ""
        return f"triton ({self._device}){helped}"

    def stage(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """[nbytes] uint8 of pinned memory to read into, for as long as the array is used.

        The data of a window that lies in it reaches the device without another copy.
        """
        self._memory.enter()
        return self._memory.pinned.take(nbytes)

    def amax(self, window: Window) -> float:
        """Largest magnitude of a window's dequantised weights, as an exact float32 number.

        Raises:
            NonFiniteError: A weight or a scale is NaN or infinite, or their product is.
        """
        return self.begin_amax(window)()

    def begin_amax(self, window: Window) -> Callable[[], float]:
        """Begin `amax`; see `Kernel`."""
        # The device takes whole blocks; other columns are recoded, never rounded to NVFP4.
        if not window.rows or window.weight.cols % BLOCK:
            return self._cpu.begin_amax(window)

        def begin(chunk_bytes: int) -> Callable[[], float]:
            if not self._works_on(window):
                return self._cpu.begin_amax(window)
            return self._engine.begin_amax(window, chunk_bytes)

        return self._with_room(begin) or self._cpu.begin_amax(window)

    def encode(self, window: Window, global_scale: float, scales: Scales) -> Encoded:
        """Round a window to NVFP4 under a given global scale, and measure the distance.

        Args:
            window: Rows of a stored weight; columns a multiple of 16.
            global_scale: Above zero; a power of two for `search`.
            scales: `search` tries nine block scales; `amax` is ModelOpt's rule.

        Returns:
            Arrays that belong to the caller.

        Raises:
            NonFiniteError: A weight or a scale is NaN or infinite, or their product is.
        """
        return self.begin_encode(window, global_scale, scales)()

    def begin_encode(
        self, window: Window, global_scale: float, scales: Scales
    ) -> Callable[[], Encoded]:
        """Begin `encode`; see `Kernel`."""
        if not window.rows:
            return self._cpu.begin_encode(window, global_scale, scales)

        def begin(chunk_bytes: int) -> Callable[[], Encoded]:
            if not self._works_on(window):
                return self._cpu.begin_encode(window, global_scale, scales)
            return self._engine.begin_encode(window, global_scale, scales, chunk_bytes)

        begun = self._with_room(begin)
        return begun or self._cpu.begin_encode(window, global_scale, scales)

    def fp8_to_mxfp4(self, window: Window) -> tuple[Bytes2D, Bytes2D]:
        """`formats.recodes.fp8_to_mxfp4`, with its errors.

        A layer for token prediction can be a twentieth of a model.
        """

        def respell(chunk_bytes: int) -> tuple[Bytes2D, Bytes2D] | None:
            return self._engine.respell(window, chunk_bytes) if self._respells() else None

        suits = window.weight.kind == "fp8" and window.rows and geometry(window).has_groups
        made = self._with_room(respell) if suits else None
        # The CPU says what is wrong, and where.
        return made if made is not None else self._cpu.fp8_to_mxfp4(window)

    def bf16_to_fp8_block(self, window: Window, block: tuple[int, int]) -> tuple[Bytes2D, Bytes2D]:
        """`formats.recodes.bf16_to_fp8_block`, on the CPU."""
        return self._cpu.bf16_to_fp8_block(window, block)

    def _with_room(self, run: Callable[[int], _Result]) -> _Result | None:
        """Run in chunks small enough for the device; None if it has room for none."""
        chunk_bytes = self._chunk_bytes
        while chunk_bytes >= _SMALLEST_CHUNK_BYTES:
            try:
                return run(chunk_bytes)
            except FullError:
                self._engine.release()
            chunk_bytes //= 2
            _LOG.info("%s is full in chunks of %d bytes.", self._device, 2 * chunk_bytes)
            self._chunk_bytes = max(chunk_bytes, _SMALLEST_CHUNK_BYTES)
        with self._lock:
            is_first, self._had_no_room = not self._had_no_room, True
        if is_first:
            _LOG.warning(
                "%s has no memory left: the CPU converts what it has no room for, more slowly and "
                "to the same bytes. Something else uses the device: nvidia-smi shows what.",
                self._device,
            )
        return None

    def _works_on(self, window: Window) -> bool:
        """Whether the device can be trusted with windows stored like this one."""
        weight = window.weight
        form = weight.dtype if weight.kind == "plain" else weight.kind
        mixed = (
            form in {"fp8", "int4"} and weight.block[1] % BLOCK != 0 and weight.scale_shape[1] > 1
        )
        with self._lock:
            if (form, mixed) not in self._trusted:
                try:
                    self._try(form, mixed=mixed)
                except ResourceError as error:
                    self._trusted[form, mixed] = False
                    _LOG.warning("%s The CPU works on %s weights.", error, form)
            return self._trusted[form, mixed]

    def _respells(self) -> bool:
        """Whether the device can be trusted to spell FP8 as MXFP4."""
        with self._lock:
            if self._trusted_to_respell is None:
                try:
                    canary.check_respelling(
                        lambda window: self._engine.respell(window, CHUNK_BYTES)
                    )
                    self._trusted_to_respell = True
                except ResourceError as error:
                    self._trusted_to_respell = False
                    _LOG.warning("%s The CPU re-spells weights.", error)
            return self._trusted_to_respell

    def _try(self, form: str, *, mixed: bool) -> None:
        engine = self._engine
        canary.check(
            form,
            mixed=mixed,
            reference=lambda: self._cpu,
            begin_amax=lambda window: engine.begin_amax(window, CHUNK_BYTES),
            begin_encode=lambda window, scale, rule: engine.begin_encode(
                window, scale, rule, CHUNK_BYTES
            ),
        )
        self._trusted[form, mixed] = True


def open_kernel(device: str, workers: int = 1) -> Kernel:
    """The best kernel for a CUDA device: Triton's, or the reference with a warning.

    Args:
        device: `cuda` or `cuda:N`.
        workers: Threads that will use it at the same time.

    Raises:
        ResourceError: The device does not exist here, is full, or neither of the two can use it.
        IntegrityError: The device gives other bytes than the CPU.
    """
    found = devices.named(device)
    try:
        return TritonKernel(found, workers=workers)
    except FullDeviceError:
        raise  # torch would find no room there either
    except ResourceError as error:
        import torch

        if not torch.cuda.is_available():
            raise
        _LOG.warning("%s Plain torch does the work on %s, more slowly.", error, found)
    from hubconv.kernels.reference import ReferenceKernel

    return ReferenceKernel(found, workers)


def _found(name: str) -> str:
    device = devices.named(name)
    if device == "cpu":
        raise ResourceError(
            "There is no CUDA device for the CUDA kernel.",
            "Check nvidia-smi, or use --device cpu.",
        )
    capability = devices.capabilities()[int(device.removeprefix("cuda:"))]
    if capability < _OLDEST:
        raise ResourceError(
            f"{device} has compute capability {'.'.join(map(str, capability))}; the CUDA kernel "
            f"needs {'.'.join(map(str, _OLDEST))}.",
            "Use --device cpu, or a newer card.",
        )
    return device
