"""Products of small matrices in compiled code, in the instructions that a processor has for them.

`multiply` is a product of two small matrices of bfloat16 numbers. Processors with AMX have instructions for it
(Intel 64 and IA-32 Architectures Optimization Reference Manual, chapter 20) that compute a thousand products a cycle;
those with AVX512_BF16 have one that computes 32 (VDPBF16PS), as many as two fused products of float32 vectors; for
others it is compiled from loops. Every way that the processor has is compiled, and an argument says which one runs:
the operating system may withhold one.
"""

import ctypes
import platform
from collections.abc import Callable
from itertools import product
from typing import Any, cast

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ffnsearch_indexer.hardware.compiled import numba
from ffnsearch_indexer.hardware.llvm import BYTE, INT, LONG, POINTER, SHORT, Generate, load, row_of, splat, store, zero
from ffnsearch_indexer.hardware.vectors import COLUMNS, LINE_BYTES, as_float32

ROWS = 16
"""The rows of what `multiply` writes."""

LOOPS, AVX512_BF16, AMX = range(3)
"""The ways to `multiply`, each faster than those before it."""

_VALUES = 16
"""Numbers of four bytes in a vector of LINE_BYTES."""

_FLOATS, _INTS = (ir.VectorType(kind, _VALUES) for kind in (ir.FloatType(), INT))
_SHORTS, _BYTES = (ir.VectorType(kind, 2 * _VALUES) for kind in (SHORT, BYTE))


class _BFloat16(ir.Type):  # type: ignore[misc]
    """A type of LLVM's that llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"


_BFLOATS = ir.VectorType(_BFloat16(), 2 * _VALUES)


def _compiled_ways() -> frozenset[int]:
    """The ways for which the processor has instructions, where numba compiles for it."""
    if any(getattr(numba.config, name) for name in ("CPU_NAME", "CPU_FEATURES")):
        return frozenset({LOOPS})
    features = llvmlite.binding.get_host_cpu_features()
    needed = {AVX512_BF16: "avx512bf16", AMX: "amx-bf16"}
    return frozenset({LOOPS, *(way for way, feature in needed.items() if features.get(feature, False))})


def _ways() -> tuple[int, ...]:
    """The compiled ways that this process may use, the fastest last: Linux must be asked for AMX."""
    may_use_amx = AMX in _COMPILED and platform.system() == "Linux"
    if may_use_amx:
        arch_prctl, request_permission, tile_data = 158, 0x1023, 18
        may_use_amx = ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0
    return tuple(way for way in sorted(_COMPILED) if way != AMX or may_use_amx)


_COMPILED = _compiled_ways()

WAYS = _ways()
"""The ways to `multiply` on this machine, the fastest last."""

MATRICES = np.zeros(64, np.uint8)
"""How AMX is set up (ldtilecfg): palette 1, eight matrices of ROWS rows of LINE_BYTES."""
MATRICES[0], MATRICES[48:56] = 1, ROWS
MATRICES[16:32].view(np.uint16)[:] = LINE_BYTES


def _begin(typing_context: Any, shapes: Any, way: Any) -> tuple[Any, Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        if AMX in _COMPILED:
            source = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            with builder.if_then(_is_amx(context, builder, signature.args[1], arguments[1])):
                _instruct(builder, "ldtilecfg", builder.bitcast(source, POINTER))
        return context.get_dummy_value()

    return types.none(shapes, way), generate


begin = cast("Callable[[Any, Any], None]", intrinsic(_begin))
"""Make this thread ready for `multiply`, until `end`: MATRICES, way. Nothing else may use AMX between them."""


def _end(typing_context: Any, way: Any) -> tuple[Any, Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        if AMX in _COMPILED:
            with builder.if_then(_is_amx(context, builder, signature.args[0], arguments[0])):
                _instruct(builder, "tilerelease")
        return context.get_dummy_value()

    return types.none(way), generate


end = cast("Callable[[Any], None]", intrinsic(_end))
"""Give back what `begin` took. Takes the way."""


def _is_amx(context: Any, builder: ir.IRBuilder, kind: Any, way: ir.Value) -> ir.Value:
    return builder.icmp_signed("==", context.cast(builder, way, kind, types.intp), LONG(AMX))


def _multiply(
    typing_context: Any, left: Any, first: Any, right: Any, panel: Any, out: Any, columns: Any, way: Any
) -> tuple[Any, Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        made = [each for each in ((AMX, _with_amx), (AVX512_BF16, _with_avx512)) if each[0] in _COMPILED]
        chosen = context.cast(builder, arguments[6], signature.args[6], types.intp)
        done = builder.append_basic_block("multiplied")
        for number, instruct in made:
            with builder.if_then(builder.icmp_signed("==", chosen, LONG(number))):
                instruct(context, builder, signature, arguments)
                builder.branch(done)
        context.compile_internal(builder, _in_loops, types.none(*signature.args[:5]), arguments[:5])  # all columns
        builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.none(left, first, right, panel, out, columns, way), generate


multiply = cast("Callable[..., None]", intrinsic(_multiply))
"""Write left[first : first + 16] times right[panel] to out: left, first, right, panel, out, columns, way.

left: [M, K] uint16, bits of bfloat16, K a multiple of 32. right: [n, K/2, 32] uint32, two of them in each, that of the
even row in the lower half. out: [16, 32] float32; only the first columns, 16 or 32, are wanted. All begin at a multiple
of LINE_BYTES, and are in C order. Products are exact, and sums are those of float32 in some order, of numbers that are
not subnormal. To be called between `begin` and `end`; way, one of WAYS, is the same in all of them.
"""


def _with_amx(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> None:
    of_left, left_stride = row_of(context, builder, signature, arguments, 0, 1)
    of_right, _ = row_of(context, builder, signature, arguments, 2, 3)
    of_out = builder.ptrtoint(context.make_array(signature.args[4])(context, builder, arguments[4]).data, LONG)

    def at(address: ir.Value, offset: ir.Value) -> ir.Value:
        return builder.inttoptr(builder.add(address, offset), POINTER)

    line, width, matrix = LONG(LINE_BYTES), LONG(4 * COLUMNS), LONG(4 * COLUMNS * ROWS)
    both_halves = _are_both_halves(context, builder, signature, arguments)
    _instruct(builder, "tilezero", BYTE(0))
    _instruct(builder, "tilezero", BYTE(1))
    with cgutils.for_range(builder, builder.udiv(left_stride, line), intp=LONG) as loop:
        down = builder.mul(loop.index, matrix)
        _instruct(builder, "tileloadd64", BYTE(2), at(of_left, builder.mul(loop.index, line)), left_stride)
        _instruct(builder, "tileloadd64", BYTE(3), at(of_right, down), width)
        _instruct(builder, "tdpbf16ps", BYTE(0), BYTE(2), BYTE(3))
        with builder.if_then(both_halves):
            _instruct(builder, "tileloadd64", BYTE(4), at(of_right, builder.add(down, line)), width)
            _instruct(builder, "tdpbf16ps", BYTE(1), BYTE(2), BYTE(4))
    _instruct(builder, "tilestored64", BYTE(0), at(of_out, LONG(0)), width)
    with builder.if_then(both_halves):
        _instruct(builder, "tilestored64", BYTE(1), at(of_out, line), width)


def _instruct(builder: ir.IRBuilder, name: str, *operands: ir.Value) -> None:
    """An instruction of x86 processors, on operands as LLVM's intrinsic function of that name takes them."""
    kind = ir.FunctionType(ir.VoidType(), [operand.type for operand in operands])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}")  # type: ignore[no-untyped-call]
    builder.call(function, operands)


def _with_avx512(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> None:
    """Take as many rows and vectors of columns at a time as registers hold sums of, pair after pair of numbers."""
    of_left, left_stride = row_of(context, builder, signature, arguments, 0, 1)
    of_right, _ = row_of(context, builder, signature, arguments, 2, 3)
    of_out = builder.ptrtoint(context.make_array(signature.args[4])(context, builder, arguments[4]).data, LONG)
    pairs = builder.udiv(left_stride, LONG(4))

    def sum_rows(rows: range, vectors: range) -> None:
        sums = {place: zero(builder, _FLOATS) for place in product(rows, vectors)}
        with cgutils.for_range(builder, pairs, intp=LONG) as loop:
            of_pair = builder.add(of_right, builder.mul(loop.index, LONG(4 * COLUMNS)))
            factors = [load(builder, builder.add(of_pair, LONG(LINE_BYTES * each)), _INTS) for each in vectors]
            for row in rows:
                at = builder.add(of_left, builder.mul(left_stride, LONG(row)))
                both = load(builder, builder.add(at, builder.mul(loop.index, LONG(4))), INT)
                for vector in vectors:
                    _add_pairs(builder, sums[row, vector], splat(builder, both), factors[vector])
        for (row, vector), total in sums.items():
            at = builder.add(of_out, LONG(4 * COLUMNS * row + LINE_BYTES * vector))
            store(builder, builder.load(total), at)

    with builder.if_else(_are_both_halves(context, builder, signature, arguments)) as (both_halves, one_half):
        with both_halves:
            for first in range(0, ROWS, ROWS // 2):
                sum_rows(range(first, first + ROWS // 2), range(2))
        with one_half:
            sum_rows(range(ROWS), range(1))


def _add_pairs(builder: ir.IRBuilder, total: ir.Value, left: ir.Value, right: ir.Value) -> None:
    """Add two products of bfloat16 numbers to each of 16 sums."""
    kind = ir.FunctionType(_FLOATS, [_FLOATS, _BFLOATS, _BFLOATS])
    name = "llvm.x86.avx512bf16.dpbf16ps.512"
    function = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
    factors = (builder.bitcast(each, _BFLOATS) for each in (left, right))
    builder.store(builder.call(function, [builder.load(total), *factors]), total)


def _are_both_halves(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
    columns = context.cast(builder, arguments[5], signature.args[5], types.intp)
    return builder.icmp_signed(">", columns, LONG(COLUMNS // 2))


def _in_loops(left: Any, first: Any, right: Any, panel: Any, out: Any) -> None:
    """As `multiply`; four rows at once, so that what is widened serves four times."""
    sums = np.empty((4, COLUMNS), np.float32)  # made here, so that the compiler knows that nothing else refers to it
    for row in range(first, first + ROWS, 4):
        sums[:] = 0
        for pair in range(left.shape[1] // 2):
            q0, q1 = _float32(left[row, 2 * pair]), _float32(left[row, 2 * pair + 1])
            r0, r1 = _float32(left[row + 1, 2 * pair]), _float32(left[row + 1, 2 * pair + 1])
            s0, s1 = _float32(left[row + 2, 2 * pair]), _float32(left[row + 2, 2 * pair + 1])
            t0, t1 = _float32(left[row + 3, 2 * pair]), _float32(left[row + 3, 2 * pair + 1])
            for column in range(right.shape[2]):
                both = right[panel, pair, column]
                x0, x1 = as_float32(both << np.uint32(16)), as_float32(both & np.uint32(0xFFFF0000))
                sums[0, column] += q0 * x0 + q1 * x1
                sums[1, column] += r0 * x0 + r1 * x1
                sums[2, column] += s0 * x0 + s1 * x1
                sums[3, column] += t0 * x0 + t1 * x1
        for part in range(4):
            for column in range(right.shape[2]):
                out[row - first + part, column] = sums[part, column]


@numba.njit(nogil=True, cache=True)
def _float32(bfloat16: Any) -> Any:
    return as_float32(np.uint32(bfloat16) << np.uint32(16))


def _multiply_row(
    typing_context: Any, left: Any, row: Any, right: Any, panel: Any, out: Any, line: Any
) -> tuple[Any, Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        of_left, left_bytes = row_of(context, builder, signature, arguments, 0, 1)
        of_right, _ = row_of(context, builder, signature, arguments, 2, 3)
        of_out, _ = row_of(context, builder, signature, arguments, 4, 5)
        vectors = range(COLUMNS // _VALUES)
        sums = [zero(builder, _INTS) for _ in vectors]
        with cgutils.for_range(builder, builder.udiv(left_bytes, LONG(4)), intp=LONG) as loop:
            both = load(builder, builder.add(of_left, builder.mul(loop.index, LONG(4))), INT)
            factors = builder.bitcast(splat(builder, both), _SHORTS)
            of_pair = builder.add(of_right, builder.mul(loop.index, LONG(2 * COLUMNS)))
            for vector in vectors:
                values = load(builder, builder.add(of_pair, LONG(2 * _VALUES * vector)), _BYTES, align=1)
                _add_whole_pairs(builder, sums[vector], factors, values)
        for vector in vectors:
            rounded = builder.sitofp(builder.load(sums[vector]), _FLOATS)
            store(builder, rounded, builder.add(of_out, LONG(LINE_BYTES * vector)))
        return context.get_dummy_value()

    return types.none(left, row, right, panel, out, line), generate


multiply_row = cast("Callable[..., None]", intrinsic(_multiply_row))
"""Write left[row] times right[panel] to out[line]: left, row, right, panel, out, line.

left: [M, K] int16, K even. right: [n, 32 K] int8, two numbers of each of 32 columns, then the next two. out: [m, 32]
float32, and all in C order. Sums are exact where they fit in 32 bits, and then rounded once.
"""


def _dot(typing_context: Any, left: Any, row: Any, right: Any, right_row: Any) -> tuple[Any, Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        of_left, _ = row_of(context, builder, signature, arguments, 0, 1)
        of_right, width = row_of(context, builder, signature, arguments, 2, 3)
        total = zero(builder, _INTS)
        step = LONG(2 * _VALUES)
        with cgutils.for_range_slice(builder, LONG(0), width, step, LONG) as (at, _):
            factors = load(builder, builder.add(of_left, builder.mul(at, LONG(2))), _SHORTS, align=1)
            _add_whole_pairs(builder, total, factors, load(builder, builder.add(of_right, at), _BYTES, align=1))
        kind, name = ir.FunctionType(INT, [_INTS]), f"llvm.vector.reduce.add.v{_VALUES}i32"
        reduce = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
        return builder.sitofp(builder.call(reduce, [builder.load(total)]), ir.FloatType())

    return numba.float32(left, row, right, right_row), generate


dot = cast("Callable[..., np.float32]", intrinsic(_dot))
"""The product of left[row] and right[right_row]: left, row, right, right_row.

left: [M, K] int16, right: [n, K] int8, in C order, K a multiple of 32. Sums are as in `multiply_row`.
"""


def _add_whole_pairs(builder: ir.IRBuilder, total: ir.Value, left: ir.Value, right: ir.Value) -> None:
    """Add two products of int16 and int8 numbers to each of 16 sums: LLVM knows the instruction where there is one."""
    wide = ir.VectorType(INT, 2 * _VALUES)
    products = builder.mul(builder.sext(left, wide), builder.sext(right, wide))
    none = ir.Constant(wide, ir.Undefined)
    even, odd = (
        builder.shuffle_vector(products, none, ir.Constant(_INTS, list(range(first, 2 * _VALUES, 2))))
        for first in (0, 1)
    )
    builder.store(builder.add(builder.load(total), builder.add(even, odd)), total)
