"""Work on one block of 16 code bytes, written as LLVM vector instructions.

The vectoriser of LLVM takes loops; here a block is one vector, or sixteen rows of a table are added
in a fixed order. The vectors are LLVM's portable ones: any processor runs them, and one without
wide registers splits them.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from hubconv.formats.nvfp4 import E2M1
from hubconv.formats.stored import INT4_ZERO
from hubconv.kernels.cpu import numbers
from hubconv.kernels.cpu.jit import intrinsic

CANDIDATES = 9
WIDTH = 16
"""Columns of a table of candidates, 64 bytes: nine from any of the first eight."""

_BYTE, _INT32, _INT = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_FLOAT, _DOUBLE = ir.FloatType(), ir.DoubleType()
_BYTES16 = ir.VectorType(_BYTE, 16)


def _splat(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, at: Any, element: Any) -> Any:
    """Address of an array's element, as that of another type."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), element.as_pointer())


def _block(context: Any, builder: Any, kind: Any, codes: Any, at: Any) -> Any:
    return builder.load(_pointer(context, builder, kind, codes, at, _BYTES16), align=1)


def _magnitudes(builder: Any, halves: Any) -> Any:
    """The 16 codes of two words without their signs, each as an index.

    Shifting words keeps more of a processor busy than taking bytes out of a vector.
    """
    shifted = [
        builder.lshr(half, ir.Constant(_INT, at)) for half in halves for at in range(0, 64, 8)
    ]
    return [builder.and_(word, ir.Constant(_INT, 0x7F)) for word in shifted]


@intrinsic
def words(typing: Any, codes: Any, at: Any) -> Any:
    """The 16 bytes at a place as two words, the first byte the lowest."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first = _pointer(context, builder, signature.args[0], args[0], args[1], _INT)
        places = (first, builder.gep(first, [ir.Constant(_INT, 1)]))
        both = [builder.load(place, align=1) for place in places]
        return context.make_tuple(builder, signature.return_type, both)

    return types.UniTuple(types.int64, 2)(codes, at), generate


def _tree(builder: Any, terms: Any) -> Any:
    """Sum by adjacent pairs."""
    while len(terms) > 1:
        terms = [builder.fadd(terms[at], terms[at + 1]) for at in range(0, len(terms), 2)]
    return terms[0]


def _nibbles(context: Any, builder: Any, kind: Any, pairs: Any, at: Any) -> Any:
    """The 16 nibbles of 8 bytes, the low one of each first."""
    eight = ir.VectorType(_BYTE, 8)
    block = builder.load(_pointer(context, builder, kind, pairs, at, eight), align=1)
    low, high = builder.and_(block, _splat(eight, 15)), builder.lshr(block, _splat(eight, 4))
    order = [lane // 2 + 8 * (lane % 2) for lane in range(16)]
    return builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(_INT32, 16), order))


def _put(context: Any, builder: Any, kind: Any, array: Any, codes: Any) -> None:
    """Write 16 bytes where an array begins."""
    address = _pointer(context, builder, kind, array, ir.Constant(_INT, 0), _BYTES16)
    builder.store(codes, address, align=1)


@intrinsic
def unpack_e2m1(typing: Any, pairs: Any, at: Any, unpacked: Any) -> Any:
    """Write the 16 numbers of 8 bytes of E2M1 pairs as E4M3 codes.

    From 1 on both count halves of binades, E4M3 in steps of four codes; 0 and 0.5 do not fit in.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        codes = _nibbles(context, builder, signature.args[0], args[0], args[1])
        signs = builder.shl(builder.and_(codes, _splat(_BYTES16, 8)), _splat(_BYTES16, 4))
        sizes = builder.and_(codes, _splat(_BYTES16, 7))
        half = numbers.ONE - 8
        found = builder.add(builder.shl(sizes, _splat(_BYTES16, 2)), _splat(_BYTES16, half))
        for size, code in ((0, 0), (1, half)):
            is_it = builder.icmp_unsigned("==", sizes, _splat(_BYTES16, size))
            found = builder.select(is_it, _splat(_BYTES16, code), found)
        _put(context, builder, signature.args[2], args[2], builder.or_(found, signs))
        return context.get_dummy_value()

    return types.none(pairs, at, unpacked), generate


@intrinsic
def unpack_int4(typing: Any, pairs: Any, at: Any, unpacked: Any) -> Any:
    """Write the 16 magnitudes of 8 bytes of integers stored as 0 to 15, signs in bit 7."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        stored = _nibbles(context, builder, signature.args[0], args[0], args[1])
        middle = _splat(_BYTES16, INT4_ZERO)
        above, under = builder.sub(stored, middle), builder.sub(middle, stored)
        under = builder.or_(under, _splat(_BYTES16, 0x80))
        codes = builder.select(builder.icmp_unsigned("<", stored, middle), under, above)
        _put(context, builder, signature.args[2], args[2], codes)
        return context.get_dummy_value()

    return types.none(pairs, at, unpacked), generate


@intrinsic
def largest_code(typing: Any, codes: Any, at: Any) -> Any:
    """Largest magnitude code of the 16 bytes at a place."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        block = _block(context, builder, signature.args[0], args[0], args[1])
        block = builder.and_(block, _splat(_BYTES16, 0x7F))
        kind = ir.FunctionType(_BYTE, [_BYTES16])
        name = "llvm.vector.reduce.umax.v16i8"
        reduce = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.zext(builder.call(reduce, [block]), _INT)

    return types.int64(codes, at), generate


@intrinsic
def best_candidates(typing: Any, table: Any, origin: Any, first: Any, codes: Any) -> Any:
    """Which of nine candidates has the smallest error over a block of 16 codes.

    The table holds, [codes, WIDTH] float32 from `origin` on, the squared error of each magnitude
    code under each candidate; the nine begin at column `first`, 0 to 7. Bit n of the result is set
    if no candidate beats the one n columns on.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        floats, ints = ir.VectorType(_FLOAT, WIDTH), ir.VectorType(_INT32, WIDTH)
        rows = []
        for code in _magnitudes(builder, cgutils.unpack_tuple(builder, args[3], 2)):
            place = builder.add(args[1], builder.mul(code, ir.Constant(_INT, WIDTH)))
            address = _pointer(context, builder, signature.args[0], args[0], place, floats)
            rows.append(builder.load(address, align=4))
        # Floats that are not negative order like their bits.
        errors = builder.bitcast(_tree(builder, rows), ints)
        columns = ir.Constant(ints, list(range(WIDTH)))
        begin = _spread(builder, builder.trunc(args[2], _INT32), ints)
        wanted = builder.icmp_unsigned("<", builder.sub(columns, begin), _splat(ints, CANDIDATES))
        errors = builder.select(wanted, errors, _splat(ints, 0x7FFFFFFF))
        kind = ir.FunctionType(_INT32, [ints])
        name = "llvm.vector.reduce.umin.v16i32"
        reduce = cgutils.get_or_insert_function(builder.module, kind, name)
        least = _spread(builder, builder.call(reduce, [errors]), ints)
        equal = builder.bitcast(builder.icmp_unsigned("==", errors, least), ir.IntType(WIDTH))
        return builder.lshr(builder.zext(equal, _INT), args[2])

    return types.int64(table, origin, first, codes), generate


@intrinsic
def pack_block(
    typing: Any,
    codes: Any,
    at: Any,
    edges: Any,
    edge: Any,
    flip: Any,
    packed: Any,
    to: Any,
) -> Any:
    """Round 16 code bytes by their boundaries, and write 8 bytes of E2M1 pairs.

    Eight int8 from `edge` on: the largest magnitude code that has no sign, and the largest that
    round to E2M1 codes 0 to 6 or below. `flip` is 0x80 where the scale is negative, 0 elsewhere.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        block = _block(context, builder, signature.args[0], args[0], args[1])
        sizes = builder.and_(block, _splat(_BYTES16, 0x7F))

        def above(which: int) -> Any:
            place = builder.add(args[3], ir.Constant(_INT, which))
            address = _pointer(context, builder, signature.args[2], args[2], place, _BYTE)
            return builder.icmp_signed(
                ">", sizes, _spread(builder, builder.load(address), _BYTES16)
            )

        rounded = builder.zext(above(1), _BYTES16)
        for which in range(2, 8):
            rounded = builder.add(rounded, builder.zext(above(which), _BYTES16))
        has_sign = builder.sext(above(0), _BYTES16)
        signed = _signed(builder, rounded, block, args[4], has_sign)
        _put_pairs(context, builder, signature.args[5], args[5], args[6], signed)
        return context.get_dummy_value()

    return types.none(codes, at, edges, edge, flip, packed, to), generate


@intrinsic
def pack_born(
    typing: Any, codes: Any, at: Any, top: Any, flip: Any, zeros: Any, packed: Any, to: Any
) -> Any:
    """Write 8 bytes of E2M1 pairs for 16 E4M3 codes that end in 00, where they are exact so.

    Gives the sum of the squares in quarters of the scale's, or -1 where the block is not exact:
    then what was written means nothing. `top` is the largest magnitude code, of these or of more,
    and becomes 6 or 4. `zeros` is 0xFF where zeros keep their signs, 0 where they lose them.

    Codes count steps: 6, 4, 3, 2, 1.5 and 1 lie one step apart, 0.5 is two steps further down, and
    E4M3 has no such steps below its normal numbers.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        block = _block(context, builder, signature.args[0], args[0], args[1])
        sizes = builder.and_(block, _splat(_BYTES16, 0x7F))
        largest = _spread(builder, builder.trunc(args[2], _BYTE), _BYTES16)
        down = builder.lshr(builder.sub(largest, sizes), _splat(_BYTES16, 2))
        is_six = builder.and_(builder.lshr(largest, _splat(_BYTES16, 2)), _splat(_BYTES16, 1))
        steps = builder.sub(builder.or_(is_six, _splat(_BYTES16, 6)), down)
        is_zero = builder.icmp_unsigned("==", sizes, _splat(_BYTES16, 0))
        is_half = builder.icmp_signed("==", steps, _splat(_BYTES16, 0))
        exact = builder.or_(is_half, builder.icmp_signed(">", steps, _splat(_BYTES16, 1)))
        exact = builder.and_(exact, builder.icmp_unsigned(">", sizes, _splat(_BYTES16, 7)))
        exact = builder.bitcast(builder.or_(exact, is_zero), ir.IntType(16))
        rounded = builder.select(is_half, _splat(_BYTES16, 1), steps)
        rounded = builder.select(is_zero, _splat(_BYTES16, 0), rounded)
        kept = _spread(builder, builder.trunc(args[4], _BYTE), _BYTES16)
        has_sign = builder.or_(kept, builder.sext(builder.not_(is_zero), _BYTES16))
        signed = _signed(builder, rounded, block, args[3], has_sign)
        _put_pairs(context, builder, signature.args[5], args[5], args[6], signed)
        is_exact = builder.icmp_unsigned("==", exact, ir.Constant(ir.IntType(16), 0xFFFF))
        return builder.select(is_exact, _quarters(builder, rounded), ir.Constant(_INT, -1))

    return types.int64(codes, at, top, flip, zeros, packed, to), generate


def _quarters(builder: Any, rounded: Any) -> Any:
    """Sum of the squares of 16 E2M1 codes without signs, in quarters."""
    squares = _splat(_BYTES16, 0)
    before = 0
    for code, magnitude in enumerate(E2M1):
        square = int(4 * magnitude * magnitude)
        if code:
            reached = builder.icmp_unsigned(">=", rounded, _splat(_BYTES16, code))
            more = builder.select(reached, _splat(_BYTES16, square - before), _splat(_BYTES16, 0))
            squares = builder.add(squares, more)
        before = square
    wide = ir.VectorType(ir.IntType(16), 16)
    kind = ir.FunctionType(ir.IntType(16), [wide])
    name = "llvm.vector.reduce.add.v16i16"
    reduce = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.zext(builder.call(reduce, [builder.zext(squares, wide)]), _INT)


def _signed(builder: Any, rounded: Any, block: Any, flip: Any, has_sign: Any) -> Any:
    """E2M1 codes with the signs of a block of bytes, flipped or not, under a mask of bytes."""
    signs = builder.xor(block, _spread(builder, builder.trunc(flip, _BYTE), _BYTES16))
    signs = builder.and_(builder.lshr(signs, _splat(_BYTES16, 4)), _splat(_BYTES16, 8))
    return builder.or_(rounded, builder.and_(signs, has_sign))


def _put_pairs(context: Any, builder: Any, kind: Any, packed: Any, to: Any, codes: Any) -> None:
    """Write 16 E2M1 codes as 8 bytes, the first of each pair in the low nibble."""
    pairs_kind, written = ir.VectorType(ir.IntType(16), 8), ir.VectorType(_BYTE, 8)
    pairs = builder.bitcast(codes, pairs_kind)
    pairs = builder.or_(pairs, builder.lshr(pairs, _splat(pairs_kind, 4)))
    address = _pointer(context, builder, kind, packed, to, written)
    builder.store(builder.trunc(pairs, written), address, align=1)


def _spread(builder: Any, number: Any, kind: Any) -> Any:
    """A vector of the same number."""
    undefined = ir.Constant(kind, ir.Undefined)
    lane = builder.insert_element(undefined, number, ir.Constant(_INT, 0))
    return builder.shuffle_vector(lane, undefined, _splat(ir.VectorType(_INT32, kind.count), 0))


@intrinsic
def sum_figures(typing: Any, figures: Any, origin: Any, codes: Any) -> Any:
    """(squared error, square) of a block of 16 codes, float64.

    The figures of each magnitude code lie side by side from `origin` on.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pair = ir.VectorType(_DOUBLE, 2)
        terms = []
        for code in _magnitudes(builder, cgutils.unpack_tuple(builder, args[2], 2)):
            place = builder.add(args[1], builder.shl(code, ir.Constant(_INT, 1)))
            address = _pointer(context, builder, signature.args[0], args[0], place, pair)
            terms.append(builder.load(address, align=8))
        total = _tree(builder, terms)
        both = [builder.extract_element(total, ir.Constant(_INT, lane)) for lane in range(2)]
        return context.make_tuple(builder, signature.return_type, both)

    return types.UniTuple(types.float64, 2)(figures, origin, codes), generate
