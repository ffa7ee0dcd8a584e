"""Work on one block of 16 code bytes, written as LLVM vector instructions.

The vectoriser of LLVM takes loops; here a block is one vector, or sixteen rows of a table are added
in a fixed order. The vectors are LLVM's portable ones: any processor runs them, and one without
wide registers splits them.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from hubconv.formats.stored import INT4_ZERO
from hubconv.kernels.cpu.jit import intrinsic

CANDIDATES = 9
ROW = 144
"""Columns of a table of candidates: codes -2 to 132, and room to read 16 from any of them."""

_BYTE, _INT, _FLOAT, _DOUBLE = ir.IntType(8), ir.IntType(64), ir.FloatType(), ir.DoubleType()
_BYTES16 = ir.VectorType(_BYTE, 16)


def _splat(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, at: Any, element: Any) -> Any:
    """Address of an array's element, as that of another type."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), element.as_pointer())


def _block(context: Any, builder: Any, kind: Any, codes: Any, at: Any) -> Any:
    return builder.load(_pointer(context, builder, kind, codes, at, _BYTES16), align=1)


def _magnitudes(context: Any, builder: Any, kind: Any, codes: Any, at: Any) -> Any:
    """The 16 codes without their signs, each as an index."""
    block = builder.and_(_block(context, builder, kind, codes, at), _splat(_BYTES16, 0x7F))
    lanes = [builder.extract_element(block, ir.Constant(_INT, lane)) for lane in range(16)]
    return [builder.zext(lane, _INT) for lane in lanes]


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
    return builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(ir.IntType(32), 16), order))


def _put(context: Any, builder: Any, kind: Any, array: Any, codes: Any) -> None:
    """Write 16 bytes where an array begins."""
    address = _pointer(context, builder, kind, array, ir.Constant(_INT, 0), _BYTES16)
    builder.store(codes, address, align=1)


@intrinsic
def unpack_e2m1(typing: Any, pairs: Any, at: Any, unpacked: Any) -> Any:
    """Write the 16 codes of 8 bytes of E2M1 pairs, their signs in bit 7 as those of E4M3."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        codes = _nibbles(context, builder, signature.args[0], args[0], args[1])
        signs = builder.shl(builder.and_(codes, _splat(_BYTES16, 8)), _splat(_BYTES16, 4))
        codes = builder.or_(builder.and_(codes, _splat(_BYTES16, 7)), signs)
        _put(context, builder, signature.args[2], args[2], codes)
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
def best_candidates(typing: Any, table: Any, origin: Any, codes: Any, at: Any) -> Any:
    """Which of nine candidates has the smallest error over a block of 16 codes.

    The table holds, [codes, ROW] float32 from `origin` on, the squared error of each magnitude code
    under each candidate. Bit n of the result is set if no candidate beats the one n columns on.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        floats, ints = ir.VectorType(_FLOAT, 16), ir.VectorType(ir.IntType(32), 16)
        rows = []
        for code in _magnitudes(context, builder, signature.args[2], args[2], args[3]):
            place = builder.add(args[1], builder.mul(code, ir.Constant(_INT, ROW)))
            address = _pointer(context, builder, signature.args[0], args[0], place, floats)
            rows.append(builder.load(address, align=4))
        # Floats that are not negative order like their bits.
        errors = builder.bitcast(_tree(builder, rows), ints)
        wanted = [lane < CANDIDATES for lane in range(16)]
        wanted = ir.Constant(ir.VectorType(ir.IntType(1), 16), wanted)
        errors = builder.select(wanted, errors, _splat(ints, 0x7FFFFFFF))
        kind = ir.FunctionType(ir.IntType(32), [ints])
        name = "llvm.vector.reduce.umin.v16i32"
        reduce = cgutils.get_or_insert_function(builder.module, kind, name)
        least = builder.insert_element(
            ir.Constant(ints, ir.Undefined), builder.call(reduce, [errors]), ir.Constant(_INT, 0)
        )
        least = builder.shuffle_vector(
            least, ir.Constant(ints, ir.Undefined), _splat(ir.VectorType(ir.IntType(32), 16), 0)
        )
        equal = builder.icmp_unsigned("==", errors, least)
        return builder.zext(builder.bitcast(equal, ir.IntType(16)), _INT)

    return types.int64(table, origin, codes, at), generate


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
            return builder.icmp_signed(">", sizes, _spread(builder, builder.load(address)))

        rounded = builder.zext(above(1), _BYTES16)
        for which in range(2, 8):
            rounded = builder.add(rounded, builder.zext(above(which), _BYTES16))
        signs = builder.xor(block, _spread(builder, builder.trunc(args[4], _BYTE)))
        signs = builder.and_(builder.lshr(signs, _splat(_BYTES16, 4)), _splat(_BYTES16, 8))
        signs = builder.and_(signs, builder.sext(above(0), _BYTES16))
        pairs_kind = ir.VectorType(ir.IntType(16), 8)
        pairs = builder.bitcast(builder.or_(rounded, signs), pairs_kind)
        pairs = builder.or_(pairs, builder.lshr(pairs, _splat(pairs_kind, 4)))
        written = ir.VectorType(_BYTE, 8)
        address = _pointer(context, builder, signature.args[5], args[5], args[6], written)
        builder.store(builder.trunc(pairs, written), address, align=1)
        return context.get_dummy_value()

    return types.none(codes, at, edges, edge, flip, packed, to), generate


def _spread(builder: Any, byte: Any) -> Any:
    """16 times the same byte."""
    undefined = ir.Constant(_BYTES16, ir.Undefined)
    lane = builder.insert_element(undefined, byte, ir.Constant(_INT, 0))
    return builder.shuffle_vector(lane, undefined, _splat(ir.VectorType(ir.IntType(32), 16), 0))


@intrinsic
def sum_figures(typing: Any, figures: Any, origin: Any, codes: Any, at: Any) -> Any:
    """(squared error, square) of a block of 16 codes, float64.

    The figures of each magnitude code lie side by side from `origin` on.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pair = ir.VectorType(_DOUBLE, 2)
        terms = []
        for code in _magnitudes(context, builder, signature.args[2], args[2], args[3]):
            place = builder.add(args[1], builder.shl(code, ir.Constant(_INT, 1)))
            address = _pointer(context, builder, signature.args[0], args[0], place, pair)
            terms.append(builder.load(address, align=8))
        total = _tree(builder, terms)
        both = [builder.extract_element(total, ir.Constant(_INT, lane)) for lane in range(2)]
        return context.make_tuple(builder, signature.return_type, both)

    return types.UniTuple(types.float64, 2)(figures, origin, codes, at), generate
