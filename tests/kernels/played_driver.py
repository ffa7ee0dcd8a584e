"""A CUDA driver that is played: memory is the machine's own, and work is done when the script says.

What a real device does between two calls nobody knows. This one does it as late as it may, at once,
or whenever chance has it, so that memory which is used too early or given away too soon shows.
Its kernels compute something simple of the same bytes in the same places.
"""

import ctypes
import math
import random
import threading
from collections import deque

import numpy as np

from hubconv.kernels.cuda.compiled import Binary
from hubconv.kernels.cuda.variants import LANES, TILES

BLOCK = 16
OUT_OF_MEMORY = 2
PROGRAM = LANES * TILES
MASK = 0xA5


def played_compile(variant, _capability):
    """A kernel that says which one it is."""
    return Binary(variant.name, 128, 0, 0, variant.name.encode())


def played_top(data):
    """[programs] int32: each program's largest byte as float32 bits; 255 stands for infinity."""
    step = PROGRAM * BLOCK
    tops = [data[first : first + step].max() for first in range(0, data.size, step)]
    values = [math.inf if top == 255 else float(top) for top in tops]
    return np.array(values, np.float32).view(np.int32)


def played_code(data, scale):
    """Codes [blocks * 8], scales [blocks] and figures [programs, 4] of some bytes."""
    blocks = data.reshape(-1, BLOCK)
    codes = (blocks[:, :8] ^ np.uint8(MASK) ^ np.uint8(scale)).reshape(-1)
    scales = blocks.sum(1, np.uint64).astype(np.uint8)
    programs = np.array_split(blocks, range(PROGRAM, len(blocks), PROGRAM))
    figures = np.zeros((len(programs), 4))
    for row, part in zip(figures, programs, strict=True):
        row[:3] = part.sum() / 3, part[:, 0].sum() / 7, part.max()
    return codes, scales, figures


def played_spelling(data, scale):
    """Pairs [groups * 16], exponents [groups] and wrong groups [programs] int32: those with 255."""
    groups = data.reshape(-1, 2 * BLOCK)
    pairs = (groups[:, :BLOCK] ^ np.uint8(MASK) ^ np.uint8(scale)).reshape(-1)
    exponents = groups.sum(1, np.uint64).astype(np.uint8)
    bad = (groups == 255).any(1)
    programs = np.array_split(bad, range(PROGRAM, len(groups), PROGRAM))
    return pairs, exponents, np.array([part.sum() for part in programs], np.int32)


class PlayedDriver:
    """The functions of `hubconv.kernels.cuda.driver.Driver`.

    Args:
        when: `late`: when it is waited for; `early`: at once; `chance`: at any call in between.
        room: Bytes that fit on the device.
        seed: Of chance.
    """

    def __init__(self, when="late", room=1 << 40, seed=0):
        self.when, self.room = when, room
        self._random = random.Random(seed)
        self._lock = threading.RLock()
        self._handles = iter(range(1, 1 << 30))
        self._kept = {}  # address: buffer
        self._used = 0
        self._streams = {}
        self._events = {}
        self._functions = {}

    # ── memory ───────────────────────────────────────────────────────────────────────────────

    def _made(self, pointer, nbytes):
        buffer = ctypes.create_string_buffer(nbytes)
        address = ctypes.addressof(buffer)
        with self._lock:
            self._kept[address] = buffer
        pointer._obj.value = address
        return 0

    def pin(self, pointer, nbytes, _flags):
        return self._made(pointer, nbytes)

    def allocate(self, pointer, nbytes):
        with self._lock:
            if self._used + nbytes > self.room:
                return OUT_OF_MEMORY
            self._used += nbytes
        return self._made(pointer, nbytes)

    def free(self, address):
        with self._lock:  # a real one waits for what is under way
            for stream in self._streams:
                self._do_all(stream)
            self._used -= len(self._kept.pop(address))
        return 0

    # ── work ─────────────────────────────────────────────────────────────────────────────────

    def _ask(self, stream, work):
        with self._lock:
            self._streams[stream.value].append(work)
            if self.when == "early":
                self._do_all(stream.value)
            elif self.when == "chance":
                for other in list(self._streams):
                    while self._streams[other] and self._random.random() < 0.5:
                        self._streams[other].popleft()()
        return 0

    def _do_all(self, stream):
        while self._streams[stream]:
            self._streams[stream].popleft()()

    def copy_in(self, target, source, nbytes, stream):
        return self._ask(stream, lambda: ctypes.memmove(target, source, nbytes))

    copy_out = copy_in

    def launch(self, function, *asked):
        stream, parameters = asked[-3], asked[-2]
        name = self._functions[function.value]
        work = {"amax": _amax, "encode": _encode, "respell": _respell}[name.partition("-")[0]]
        return self._ask(stream, work(parameters))

    def record(self, event, stream):
        self._events[event.value] = stream.value
        return 0

    def wait(self, event):
        with self._lock:
            if event.value in self._events:
                self._do_all(self._events[event.value])
        return 0

    # ── the rest ─────────────────────────────────────────────────────────────────────────────

    def _handle(self, pointer):
        pointer._obj.value = next(self._handles)
        return pointer._obj.value

    def stream(self, pointer, _flags):
        self._streams[self._handle(pointer)] = deque()
        return 0

    def event(self, pointer, _flags):
        self._handle(pointer)
        return 0

    def get(self, pointer, number):
        pointer._obj.value = number
        return 0

    def retain(self, pointer, _device):
        self._handle(pointer)
        return 0

    def enter(self, _context):
        return 0

    def load(self, pointer, _binary):
        self._handle(pointer)
        return 0

    def function(self, pointer, _module, name):
        self._functions[self._handle(pointer)] = name.decode()
        return 0

    def check(self, code):
        from hubconv.kernels.cuda.driver import FullError

        if code == OUT_OF_MEMORY:
            raise FullError
        if code:
            raise ValueError(code)


def _values(parameters, *types):
    return [
        ctypes.cast(pointer, ctypes.POINTER(kind)).contents.value
        for pointer, kind in zip(parameters, types, strict=False)
    ]


def _bytes(address, nbytes):
    return np.frombuffer((ctypes.c_uint8 * nbytes).from_address(address), np.uint8)


def _amax(parameters):
    data, _, tops, blocks = _values(parameters, *[ctypes.c_uint64] * 3, ctypes.c_int32)

    def work():
        found = played_top(_bytes(data, blocks * BLOCK))
        _bytes(tops, found.nbytes)[:] = found.view(np.uint8)

    return work


def _encode(parameters):
    kinds = (*[ctypes.c_uint64] * 5, *[ctypes.c_float] * 2, ctypes.c_int32)
    data, scale, codes, scales, figures, _, _, blocks = _values(parameters, *kinds)

    def work():
        made = played_code(_bytes(data, blocks * BLOCK), _bytes(scale, 1)[0])
        for address, part in zip((codes, scales, figures), made, strict=True):
            _bytes(address, part.nbytes)[:] = part.reshape(-1).view(np.uint8)

    return work


def _respell(parameters):
    kinds = (*[ctypes.c_uint64] * 5, ctypes.c_int32)
    data, scale, pairs, exponents, wrongs, blocks = _values(parameters, *kinds)

    def work():
        made = played_spelling(_bytes(data, blocks * BLOCK), _bytes(scale, 1)[0])
        for address, part in zip((pairs, exponents, wrongs), made, strict=True):
            _bytes(address, part.nbytes)[:] = part.view(np.uint8)

    return work
