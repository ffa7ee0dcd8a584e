"""The CUDA kernel: Triton where it works, and what happens where it does not.

Importing this needs no Triton; making a `TritonKernel` does.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from hubconv.errors import IntegrityError, ResourceError
from hubconv.formats.nvfp4 import BLOCK, Encoded, Scales
from hubconv.formats.stored import Bytes2D, Window
from hubconv.kernels import Kernel, cuda_canary, devices
from hubconv.kernels.cpu import CpuKernel
from hubconv.kernels.cuda_staging import pinned
from hubconv.kernels.reference import ReferenceKernel

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

    Raises:
        ResourceError: No such device, one too old, no Triton, or kernels that do not compile.
        IntegrityError: The device gives other bytes than the CPU.
    """

    def __init__(self, device: str = "cuda", *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._device = _found(device)
        self._cpu = CpuKernel()
        self._chunk_bytes = chunk_bytes
        try:
            from hubconv.kernels.cuda_engine import Engine
        except ImportError as error:
            raise ResourceError(
                f"The CUDA kernel needs Triton, which does not import: {error}.",
                "Install the torch build for CUDA, which brings it, or use --device cpu.",
            ) from error
        self._engine = Engine(self._device)
        self._lock = threading.Lock()
        self._trusted: dict[tuple[str, bool], bool] = {}
        try:
            self._try("fp8", mixed=False)
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"{self._device} has no memory left for even small weights.",
                "Free some of it, or use another device.",
            ) from error

    @property
    def name(self) -> str:
        """What did the work, for reports."""
        return f"triton ({self._device})"

    def stage(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """[nbytes] uint8 of pinned memory to read into, for as long as the array is used.

        The data of a window that lies in it reaches the device without another copy.
        """
        staged: npt.NDArray[np.uint8] = pinned(nbytes).numpy()
        return staged

    def amax(self, window: Window) -> float:
        """Largest magnitude of a window's dequantised weights, as an exact float32 number.

        Raises:
            NonFiniteError: A weight or a scale is NaN or infinite, or their product is.
        """
        # The device takes whole blocks; other columns are recoded, never rounded to NVFP4.
        if not window.rows or window.weight.cols % BLOCK:
            return self._cpu.amax(window)

        def run(chunk_bytes: int) -> float:
            if not self._works_on(window):
                return self._cpu.amax(window)
            return self._engine.amax(window, chunk_bytes)

        found = self._with_room(run)
        return self._cpu.amax(window) if found is None else found

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
        if not window.rows:
            return self._cpu.encode(window, global_scale, scales)

        def run(chunk_bytes: int) -> Encoded:
            if not self._works_on(window):
                return ReferenceKernel(str(self._device)).encode(window, global_scale, scales)
            return self._engine.encode(window, global_scale, scales, chunk_bytes)

        found = self._with_room(run)
        return self._cpu.encode(window, global_scale, scales) if found is None else found

    def fp8_to_mxfp4(self, window: Window) -> tuple[Bytes2D, Bytes2D]:
        """`formats.recodes.fp8_to_mxfp4`, on the CPU: few tensors are re-spelled."""
        return self._cpu.fp8_to_mxfp4(window)

    def bf16_to_fp8_block(self, window: Window, block: tuple[int, int]) -> tuple[Bytes2D, Bytes2D]:
        """`formats.recodes.bf16_to_fp8_block`, on the CPU."""
        return self._cpu.bf16_to_fp8_block(window, block)

    def _with_room(self, run: Callable[[int], _Result]) -> _Result | None:
        """Run in chunks small enough for the device; None if it has room for none."""
        chunk_bytes = self._chunk_bytes
        while chunk_bytes >= _SMALLEST_CHUNK_BYTES:
            try:
                return run(chunk_bytes)
            except torch.OutOfMemoryError:
                self._engine.release()
            chunk_bytes //= 2
            _LOG.warning("%s is full: trying chunks of %d bytes.", self._device, chunk_bytes)
            self._chunk_bytes = max(chunk_bytes, _SMALLEST_CHUNK_BYTES)
        _LOG.warning("%s has no room: these rows are converted on the CPU.", self._device)
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
                    _LOG.warning("%s Plain torch works on %s weights.", error, form)
            return self._trusted[form, mixed]

    def _try(self, form: str, *, mixed: bool) -> None:
        try:
            cuda_canary.check(
                form,
                mixed=mixed,
                reference=ReferenceKernel("cpu"),
                amax=lambda window: self._engine.amax(window, CHUNK_BYTES),
                encode=lambda window, scale, rule: self._engine.encode(
                    window, scale, rule, CHUNK_BYTES
                ),
            )
        except (IntegrityError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a compiler, its tools and its driver fail in many ways
            raise ResourceError(
                f"The Triton kernels for {form} weights do not run on {self._device}: {error}",
                "Check that a C compiler is installed, or use --device cpu.",
            ) from error
        self._trusted[form, mixed] = True


def open_kernel(device: str, workers: int = 1) -> Kernel:
    """The best kernel for a CUDA device: Triton's, or the reference with a warning.

    Args:
        device: `cuda` or `cuda:N`.
        workers: Threads that will use it at the same time.

    Raises:
        ResourceError: The device does not exist here.
        IntegrityError: The device gives other bytes than the CPU.
    """
    reference = ReferenceKernel(device, workers)
    try:
        return TritonKernel(device)
    except ResourceError as error:
        _LOG.warning("%s Plain torch does the work on %s, more slowly.", error, device)
    return reference


def _found(name: str) -> torch.device:
    device = torch.device(devices.named(name))
    if device.type != "cuda":
        raise ResourceError(
            "torch finds no CUDA device for the CUDA kernel.",
            "Install a torch built for CUDA and check nvidia-smi, or use --device cpu.",
        )
    capability = torch.cuda.get_device_capability(device)
    if capability < _OLDEST:
        raise ResourceError(
            f"{device} has compute capability {'.'.join(map(str, capability))}; the CUDA kernel "
            f"needs {'.'.join(map(str, _OLDEST))}.",
            "Use --device cpu, or a newer card.",
        )
    return device
