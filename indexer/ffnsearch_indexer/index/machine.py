"""What compiled code can ask of a processor that numba has no word for; LLVM has it for any processor but `multiply`.

`multiply` is a product of two small matrices of bfloat16 numbers. Processors with AMX have instructions for it
(Intel 64 and IA-32 Architectures Optimization Reference Manual, chapter 20), which answer a thousand products a
cycle; on others it is compiled from loops.
"""

import ctypes
import platform
from collections.abc import Callable
from typing import Any, cast

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

LINE_BYTES = 64
"""What a processor fetches from memory at once. Rows of what `multiply` reads and writes begin at such multiples."""

ROWS, COLUMNS = 16, 32
"""The shape of what `multiply` writes, and COLUMNS is the number of values that `above` compares."""

_Generate = Callable[[Any, ir.IRBuilder, Any, list[ir.Value]], ir.Value]
_BYTE, _LONG = ir.IntType(8), ir.IntType(64)
_POINTER = _BYTE.as_pointer()


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


def _widened(typing_context: Any, bits: Any) -> tuple[Any, _Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return numba.float32(numba.uint16), generate


def _as_float32(typing_context: Any, bits: Any) -> tuple[Any, _Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        return builder.bitcast(arguments[0], ir.FloatType())

    return numba.float32(numba.uint32), generate


def _as_bits(typing_context: Any, value: Any) -> tuple[Any, _Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return numba.uint32(numba.float32), generate


def _lowest_bit(typing_context: Any, mask: Any) -> tuple[Any, _Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        return builder.zext(builder.cttz(arguments[0], ir.IntType(1)(1)), _LONG)

    return numba.int64(numba.uint32), generate


def _bits_set(typing_context: Any, mask: Any) -> tuple[Any, _Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        return builder.zext(builder.ctpop(arguments[0]), _LONG)

    return numba.int64(numba.uint32), generate


def _above(typing_context: Any, values: Any, row: Any, limit: Any) -> tuple[Any, _Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        read = _columns(context, builder, signature, arguments, 0, 1)
        return _exceeds(builder, read, arguments[2])

    return numba.uint32(values, row, numba.float32), generate


def _sum_above(
    typing_context: Any, scale: Any, values: Any, row: Any, other_scale: Any, others: Any, other_row: Any, limit: Any
) -> tuple[Any, _Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        read = _columns(context, builder, signature, arguments, 1, 2)
        other = _columns(context, builder, signature, arguments, 4, 5)
        scaled = builder.fmul(_splat(builder, arguments[0]), read, flags=["contract"])
        other_scaled = builder.fmul(_splat(builder, arguments[3]), other, flags=["contract"])
        return _exceeds(builder, builder.fadd(scaled, other_scaled, flags=["contract"]), arguments[6])

    number = numba.float32
    return numba.uint32(number, values, row, number, others, other_row, number), generate


def _copy_row(typing_context: Any, target: Any, row: Any, source: Any, from_row: Any) -> tuple[Any, _Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        to, stride = _row(context, builder, signature, arguments, 0, 1)
        source, _ = _row(context, builder, signature, arguments, 2, 3)
        line = ir.VectorType(ir.IntType(32), LINE_BYTES // 4).as_pointer()
        with cgutils.for_range_slice(builder, _LONG(0), stride, _LONG(LINE_BYTES), _LONG) as (at, _):
            read = builder.load(builder.inttoptr(builder.add(source, at), line), align=4)
            builder.store(read, builder.inttoptr(builder.add(to, at), line), align=4)
        return context.get_dummy_value()

    return types.none(target, row, source, from_row), generate


def _use_widest_vectors(typing_context: Any) -> tuple[Any, _Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # llvmlite knows no attribute with a value
        return context.get_dummy_value()

    return types.none(), generate


def _prefetch(typing_context: Any, array: Any, row: Any) -> tuple[Any, _Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        first, stride = _row(context, builder, signature, arguments, 0, 1)
        kind = ir.FunctionType(ir.VoidType(), [_POINTER, *[ir.IntType(32)] * 3])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [_POINTER], kind)
        settings = [ir.IntType(32)(value) for value in (0, 3, 1)]  # to be read, kept in every cache, data
        with cgutils.for_range_slice(builder, _LONG(0), stride, _LONG(LINE_BYTES), _LONG) as (at, _):
            builder.call(fetch, [builder.inttoptr(builder.add(first, at), _POINTER), *settings])
        return context.get_dummy_value()

    return types.none(array, row), generate


def _multiply(
    typing_context: Any, left: Any, first: Any, right: Any, panel: Any, out: Any, columns: Any, in_hardware: Any
) -> tuple[Any, _Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        loops = types.none(*signature.args[:5])  # they write all columns
        if not IN_HARDWARE:
            return context.compile_internal(builder, _in_loops, loops, arguments[:5])
        with builder.if_else(arguments[6]) as (then, otherwise):
            with then:
                _in_hardware(context, builder, signature, arguments)
            with otherwise:
                context.compile_internal(builder, _in_loops, loops, arguments[:5])
        return context.get_dummy_value()

    return types.none(left, first, right, panel, out, columns, in_hardware), generate


def _in_hardware(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> None:
    of_left, left_stride = _row(context, builder, signature, arguments, 0, 1)
    of_right, _ = _row(context, builder, signature, arguments, 2, 3)
    of_out = builder.ptrtoint(context.make_array(signature.args[4])(context, builder, arguments[4]).data, _LONG)

    def at(address: ir.Value, offset: ir.Value) -> ir.Value:
        return builder.inttoptr(builder.add(address, offset), _POINTER)

    line, width, matrix = _LONG(LINE_BYTES), _LONG(4 * COLUMNS), _LONG(4 * COLUMNS * ROWS)
    columns = context.cast(builder, arguments[5], signature.args[5], types.intp)
    both_halves = builder.icmp_signed(">", columns, _LONG(COLUMNS // 2))
    _instruct(builder, "tilezero", _BYTE(0))
    _instruct(builder, "tilezero", _BYTE(1))
    with cgutils.for_range(builder, builder.udiv(left_stride, line), intp=_LONG) as loop:
        down = builder.mul(loop.index, matrix)
        _instruct(builder, "tileloadd64", _BYTE(2), at(of_left, builder.mul(loop.index, line)), left_stride)
        _instruct(builder, "tileloadd64", _BYTE(3), at(of_right, down), width)
        _instruct(builder, "tdpbf16ps", _BYTE(0), _BYTE(2), _BYTE(3))
        with builder.if_then(both_halves):
            _instruct(builder, "tileloadd64", _BYTE(4), at(of_right, builder.add(down, line)), width)
            _instruct(builder, "tdpbf16ps", _BYTE(1), _BYTE(2), _BYTE(4))
    _instruct(builder, "tilestored64", _BYTE(0), at(of_out, _LONG(0)), width)
    with builder.if_then(both_halves):
        _instruct(builder, "tilestored64", _BYTE(1), at(of_out, line), width)


def _multiply_row(
    typing_context: Any, left: Any, row: Any, right: Any, panel: Any, out: Any, line: Any
) -> tuple[Any, _Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        of_left, left_bytes = _row(context, builder, signature, arguments, 0, 1)
        of_right, _ = _row(context, builder, signature, arguments, 2, 3)
        of_out, _ = _row(context, builder, signature, arguments, 4, 5)
        sums, pairs = (ir.VectorType(kind, COLUMNS) for kind in (ir.FloatType(), ir.IntType(16)))
        eight, any_order = ir.Constant(pairs, [8] * COLUMNS), ["contract", "reassoc"]
        total = cgutils.alloca_once_value(builder, ir.Constant(sums, None))  # type: ignore[no-untyped-call]
        with cgutils.for_range(builder, builder.udiv(left_bytes, _LONG(4)), intp=_LONG) as loop:
            at = builder.add(of_left, builder.mul(loop.index, _LONG(4)))
            both = builder.load(builder.inttoptr(at, ir.IntType(32).as_pointer()), align=4)
            at = builder.add(of_right, builder.mul(loop.index, _LONG(2 * COLUMNS)))
            values = builder.load(builder.inttoptr(at, pairs.as_pointer()), align=1)
            low = builder.ashr(builder.shl(values, eight), eight)
            for factor, part in ((builder.shl(both, both.type(16)), low), (both, builder.ashr(values, eight))):
                upper = builder.bitcast(builder.and_(factor, factor.type(0xFFFF0000)), ir.FloatType())
                scaled = builder.fmul(_splat(builder, upper), builder.sitofp(part, sums), flags=any_order)
                builder.store(builder.fadd(builder.load(total), scaled, flags=any_order), total)
        builder.store(builder.load(total), builder.inttoptr(of_out, sums.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.none(left, row, right, panel, out, line), generate


def _begin(typing_context: Any, shapes: Any, in_hardware: Any) -> tuple[Any, _Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        if IN_HARDWARE:
            source = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            with builder.if_then(arguments[1]):
                _instruct(builder, "ldtilecfg", builder.bitcast(source, _POINTER))
        return context.get_dummy_value()

    return types.none(shapes, in_hardware), generate


def _end(typing_context: Any, in_hardware: Any) -> tuple[Any, _Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        if IN_HARDWARE:
            with builder.if_then(arguments[0]):
                _instruct(builder, "tilerelease")
        return context.get_dummy_value()

    return types.none(in_hardware), generate


def _instruct(builder: ir.IRBuilder, name: str, *operands: ir.Value) -> None:
    """An instruction of x86 processors, on operands as LLVM's intrinsic function of that name takes them."""
    kind = ir.FunctionType(ir.VoidType(), [operand.type for operand in operands])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}")  # type: ignore[no-untyped-call]
    builder.call(function, operands)


def _columns(
    context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value], array: int, row: int
) -> ir.Value:
    """The COLUMNS values in a row of a float32 array, as a vector."""
    address, _ = _row(context, builder, signature, arguments, array, row)
    vector = ir.VectorType(ir.FloatType(), COLUMNS)
    return builder.load(builder.inttoptr(address, vector.as_pointer()), align=4)


def _splat(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """A vector of COLUMNS times the same float32."""
    none = ir.Constant(ir.VectorType(ir.FloatType(), COLUMNS), ir.Undefined)
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), COLUMNS), None)
    return builder.shuffle_vector(builder.insert_element(none, value, ir.IntType(32)(0)), none, zeros)


def _exceeds(builder: ir.IRBuilder, values: ir.Value, limit: ir.Value) -> ir.Value:
    """A bit for each value that exceeds a limit."""
    return builder.bitcast(builder.fcmp_ordered(">", values, _splat(builder, limit)), ir.IntType(COLUMNS))


def _row(
    context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value], array: int, row: int
) -> tuple[ir.Value, ir.Value]:
    """The address of a row of an array in C order, and the bytes of each row; both given as numbers of arguments."""
    source = context.make_array(signature.args[array])(context, builder, arguments[array])
    size = source.itemsize
    for axis in range(1, signature.args[array].ndim):  # of arrays without items, strides say anything
        size = builder.mul(size, builder.extract_value(source.shape, axis))
    number = context.cast(builder, arguments[row], signature.args[row], types.intp)
    return builder.add(builder.ptrtoint(source.data, _LONG), builder.mul(number, size)), size


def _may_multiply_in_hardware() -> bool:
    """Whether the processor has AMX for bfloat16, numba compiles for it, and Linux lets this process use it."""
    told = [getattr(numba.config, name) for name in ("CPU_NAME", "CPU_FEATURES")]
    if platform.system() != "Linux" or any(told):
        return False
    if not llvmlite.binding.get_host_cpu_features().get("amx-bf16", False):
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return bool(ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0)


IN_HARDWARE = _may_multiply_in_hardware()
"""Whether this processor has instructions for `multiply`."""

widened = cast("Callable[[Any], np.float32]", intrinsic(_widened))
"""The float32 value of a float16 that is given by its bits (uint16): exact, and one instruction for a whole vector."""

as_float32 = cast("Callable[[Any], np.float32]", intrinsic(_as_float32))
"""The float32 value with these bits (uint32)."""

as_bits = cast("Callable[[Any], np.uint32]", intrinsic(_as_bits))
"""The bits of a float32 value (uint32)."""

lowest_bit = cast("Callable[[Any], int]", intrinsic(_lowest_bit))
"""The number of the lowest bit that is set in a uint32 other than 0."""

bits_set = cast("Callable[[Any], int]", intrinsic(_bits_set))
"""How many bits of a uint32 are set."""

above = cast("Callable[[Any, Any, Any], np.uint32]", intrinsic(_above))
"""Which of the 32 values in a row of a float32 array [M, 32] exceed a limit: bit i says it of value i."""

sum_above = cast("Callable[..., np.uint32]", intrinsic(_sum_above))
"""The same of `scale * values[row] + other_scale * others[other_row]`, given as scale, values, row and so on."""

copy_row = cast("Callable[[Any, Any, Any, Any], None]", intrinsic(_copy_row))
"""Copy to a row of an array from a row of another: target, row, source, row. The rows are whole lines, in C order."""

use_widest_vectors = cast("Callable[[], None]", intrinsic(_use_widest_vectors))
"""Let the loops of this function use all that a vector register holds: compilers prefer half on some processors."""

prefetch = cast("Callable[[Any, Any], None]", intrinsic(_prefetch))
"""Let the processor fetch a row of an array in C order into its cache, while something else is computed."""

multiply = cast("Callable[..., None]", intrinsic(_multiply))
"""Write left[first : first + 16] times right[panel] to out: left, first, right, panel, out, columns, in_hardware.

left: [M, K] uint16, bits of bfloat16, K a multiple of 32. right: [n, K/2, 32] uint32, two of them in each, that of the
even row in the lower half. out: [16, 32] float32; only the first columns, 16 or 32, are wanted. All begin at a multiple
of LINE_BYTES, and are in C order. Products are exact, and sums are those of float32 in some order, of numbers that are
not subnormal. To be called between `begin` and `end`; in_hardware is the same in all of them, False unless IN_HARDWARE.
"""

multiply_row = cast("Callable[..., None]", intrinsic(_multiply_row))
"""Write left[row] times right[panel] to out[line]: left, row, right, panel, out, line. On any processor.

As for `multiply`, but right: [n, 32 K] int8, two whole numbers of each column, then the next two.
"""

begin = cast("Callable[[Any, Any], None]", intrinsic(_begin))
"""Make this thread ready for `multiply`, until `end`: MATRICES, in_hardware. Nothing else may use AMX between them."""

end = cast("Callable[[Any], None]", intrinsic(_end))
"""Give back what `begin` took. Takes in_hardware."""

MATRICES = np.zeros(64, np.uint8)
"""What AMX is to be told (ldtilecfg): palette 1, eight matrices of ROWS rows of LINE_BYTES."""
MATRICES[0], MATRICES[48:56] = 1, ROWS
MATRICES[16:32].view(np.uint16)[:] = LINE_BYTES


def _in_loops(left: Any, first: Any, right: Any, panel: Any, out: Any) -> None:
    """As `multiply`; four rows at once, so that what is widened serves four times."""
    sums = np.empty((4, COLUMNS), np.float32)  # made here, so that the compiler knows it to be nobody else's
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
