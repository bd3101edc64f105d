"""What numba has no word for, of vectors and of memory: LLVM has it for any processor."""

from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ffnsearch_indexer.hardware.llvm import INT, LONG, POINTER, Generate, load, row_of, splat

LINE_BYTES = 64
"""What a processor fetches from memory at once. Rows that `matrix.multiply` reads and writes begin at its multiples."""

COLUMNS = 32
"""How many values `above` compares, and the columns of what `matrix.multiply` writes."""


def aligned(array: NDArray[Any]) -> NDArray[Any]:
    """The array where it begins at a multiple of LINE_BYTES, else a copy that does."""
    if array.ctypes.data % LINE_BYTES == 0 or not array.size:
        return array
    copy = aligned_zeros(array.shape, array.dtype)
    copy[...] = array
    return copy


def aligned_zeros(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Zeros that begin at a multiple of LINE_BYTES."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.zeros(size + LINE_BYTES, np.uint8)
    first = -room.ctypes.data % LINE_BYTES
    zeros: NDArray[Any] = room[first : first + size].view(dtype).reshape(shape)
    return zeros


def _widened(typing_context: Any, bits: Any) -> tuple[Any, Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return numba.float32(numba.uint16), generate


widened = cast("Callable[[Any], np.float32]", intrinsic(_widened))
"""The float32 value of a float16 that is given by its bits (uint16): exact, and one instruction for a whole vector."""


def _as_float32(typing_context: Any, bits: Any) -> tuple[Any, Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        return builder.bitcast(arguments[0], ir.FloatType())

    return numba.float32(numba.uint32), generate


as_float32 = cast("Callable[[Any], np.float32]", intrinsic(_as_float32))
"""The float32 value with these bits (uint32)."""


def _as_bits(typing_context: Any, value: Any) -> tuple[Any, Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        return builder.bitcast(arguments[0], INT)

    return numba.uint32(numba.float32), generate


as_bits = cast("Callable[[Any], np.uint32]", intrinsic(_as_bits))
"""The bits of a float32 value (uint32)."""


def _lowest_bit(typing_context: Any, mask: Any) -> tuple[Any, Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        return builder.zext(builder.cttz(arguments[0], ir.IntType(1)(1)), LONG)

    return numba.int64(numba.uint32), generate


lowest_bit = cast("Callable[[Any], int]", intrinsic(_lowest_bit))
"""The number of the lowest bit that is set in a uint32 other than 0."""


def _bits_set(typing_context: Any, mask: Any) -> tuple[Any, Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        return builder.zext(builder.ctpop(arguments[0]), LONG)

    return numba.int64(numba.uint32), generate


bits_set = cast("Callable[[Any], int]", intrinsic(_bits_set))
"""How many bits of a uint32 are set."""


def _above(typing_context: Any, values: Any, row: Any, limit: Any) -> tuple[Any, Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        read = _columns(context, builder, signature, arguments, 0, 1)
        return _exceeds(builder, read, arguments[2])

    return numba.uint32(values, row, numba.float32), generate


above = cast("Callable[[Any, Any, Any], np.uint32]", intrinsic(_above))
"""Which of the 32 values in a row of a float32 array [M, 32] exceed a limit: bit i says it of value i."""


def _sum_above(
    typing_context: Any, scale: Any, values: Any, row: Any, other_scale: Any, others: Any, other_row: Any, limit: Any
) -> tuple[Any, Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        read = _columns(context, builder, signature, arguments, 1, 2)
        other = _columns(context, builder, signature, arguments, 4, 5)
        scaled = builder.fmul(splat(builder, arguments[0], COLUMNS), read, flags=["contract"])
        other_scaled = builder.fmul(splat(builder, arguments[3], COLUMNS), other, flags=["contract"])
        return _exceeds(builder, builder.fadd(scaled, other_scaled, flags=["contract"]), arguments[6])

    number = numba.float32
    return numba.uint32(number, values, row, number, others, other_row, number), generate


sum_above = cast("Callable[..., np.uint32]", intrinsic(_sum_above))
"""The same of `scale * values[row] + other_scale * others[other_row]`, given as scale, values, row and so on."""


def _copy_row(typing_context: Any, target: Any, row: Any, source: Any, from_row: Any) -> tuple[Any, Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        to, stride = row_of(context, builder, signature, arguments, 0, 1)
        source, _ = row_of(context, builder, signature, arguments, 2, 3)
        line = ir.VectorType(INT, LINE_BYTES // 4).as_pointer()
        with cgutils.for_range_slice(builder, LONG(0), stride, LONG(LINE_BYTES), LONG) as (at, _):
            read = builder.load(builder.inttoptr(builder.add(source, at), line), align=4)
            builder.store(read, builder.inttoptr(builder.add(to, at), line), align=4)
        return context.get_dummy_value()

    return types.none(target, row, source, from_row), generate


copy_row = cast("Callable[[Any, Any, Any, Any], None]", intrinsic(_copy_row))
"""Copy to a row of an array from a row of another: target, row, source, row. The rows are whole lines, in C order."""


def _use_widest_vectors(typing_context: Any) -> tuple[Any, Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # llvmlite knows no attribute with a value
        return context.get_dummy_value()

    return types.none(), generate


use_widest_vectors = cast("Callable[[], None]", intrinsic(_use_widest_vectors))
"""Let the loops of this function use all that a vector register holds: compilers prefer half on some processors."""


def _prefetch(typing_context: Any, array: Any, row: Any) -> tuple[Any, Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        first, stride = row_of(context, builder, signature, arguments, 0, 1)
        kind = ir.FunctionType(ir.VoidType(), [POINTER, *[INT] * 3])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [POINTER], kind)
        settings = [INT(value) for value in (0, 3, 1)]  # to be read, kept in every cache, data
        with cgutils.for_range_slice(builder, LONG(0), stride, LONG(LINE_BYTES), LONG) as (at, _):
            builder.call(fetch, [builder.inttoptr(builder.add(first, at), POINTER), *settings])
        return context.get_dummy_value()

    return types.none(array, row), generate


prefetch = cast("Callable[[Any, Any], None]", intrinsic(_prefetch))
"""Let the processor fetch a row of an array in C order into its cache, while something else is computed."""


def _take(typing_context: Any, counter: Any, step: Any) -> tuple[Any, Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        source = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        added = context.cast(builder, arguments[1], signature.args[1], types.intp)
        return builder.atomic_rmw("add", source, added, "monotonic")

    return types.int64(counter, step), generate


take = cast("Callable[[Any, Any], int]", intrinsic(_take))
"""Add a step to the first number of an int64 array, and return what it was: no two threads are given the same."""


def _columns(
    context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value], array: int, row: int
) -> ir.Value:
    """The COLUMNS values in a row of a float32 array, as a vector."""
    address, _ = row_of(context, builder, signature, arguments, array, row)
    return load(builder, address, ir.VectorType(ir.FloatType(), COLUMNS))


def _exceeds(builder: ir.IRBuilder, values: ir.Value, limit: ir.Value) -> ir.Value:
    """A bit for each value that exceeds a limit."""
    return builder.bitcast(builder.fcmp_ordered(">", values, splat(builder, limit, COLUMNS)), ir.IntType(COLUMNS))
