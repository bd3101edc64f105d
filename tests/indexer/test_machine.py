"""What compiled code asks of the processor gives what numpy gives, and writes nowhere else."""

import platform
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
import torch

from ffnsearch_indexer.index import machine
from ffnsearch_indexer.index.machine import COLUMNS, LINE_BYTES, MATRICES, ROWS, aligned, aligned_zeros

UNIT_ROUNDING = 2.0**-24
FLOATS = np.array([0, -0.0, 1, -1, 1.5, 1e-45, 2.0**-126, -(2.0**-127), 3e38, np.inf, -np.inf, np.nan], np.float32)
WIDTHS = [0, 32, 64, 384]

in_every_way = pytest.mark.parametrize(
    "way", [machine.LOOPS, machine.AVX512_BF16, machine.AMX], ids=["loops", "avx512", "amx"], indirect=True
)


@pytest.fixture
def way(request: pytest.FixtureRequest) -> int:
    """How matrices are multiplied, where this processor can."""
    if request.param not in machine.WAYS:
        pytest.skip("this processor has no such instructions for products of bfloat16")
    return int(request.param)


@numba.njit
def multiply(
    left: np.ndarray, first: int, right: np.ndarray, panel: int, out: np.ndarray, columns: int, way: int
) -> None:
    machine.begin(MATRICES, way)
    machine.multiply(left, first, right, panel, out, columns, way)
    machine.end(way)


@numba.njit
def multiply_rows(left: np.ndarray, rows: np.ndarray, right: np.ndarray, panels: np.ndarray, out: np.ndarray) -> None:
    """The numbers of rows and panels say what goes to every second line."""
    for number in range(len(rows)):
        machine.multiply_row(left, rows[number], right, panels[number], out, 2 * number)


@numba.njit
def dot_all(left: np.ndarray, rows: np.ndarray, right: np.ndarray, right_rows: np.ndarray) -> np.ndarray:
    products = np.empty(len(rows), np.float32)
    for number in range(len(rows)):
        products[number] = machine.dot(left, rows[number], right, right_rows[number])
    return products


@numba.njit(nogil=True)
def take_all(counter: np.ndarray, step: int, last: int, taken: np.ndarray) -> None:
    while True:
        first = machine.take(counter, step)
        if first >= last:
            return
        taken[first : first + step] += 1


@numba.njit
def above_all(values: np.ndarray, limits: np.ndarray) -> np.ndarray:
    found = np.empty((len(limits), len(values)), np.uint32)
    for number in range(len(limits)):
        for row in range(len(values)):
            found[number, row] = machine.above(values, row, limits[number])
    return found


@numba.njit
def sum_above(
    scale: float, values: np.ndarray, row: int, other_scale: float, others: np.ndarray, other_row: int, limit: float
) -> int:
    return machine.sum_above(scale, values, row, other_scale, others, other_row, limit)


@numba.njit
def copy_rows(target: np.ndarray, rows: np.ndarray, source: np.ndarray, from_rows: np.ndarray) -> None:
    for number in range(len(rows)):
        machine.copy_row(target, rows[number], source, from_rows[number])


@numba.njit
def bits_of(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lowest, counted = np.empty(len(masks), np.int64), np.empty(len(masks), np.int64)
    for number in range(len(masks)):
        lowest[number], counted[number] = machine.lowest_bit(masks[number]), machine.bits_set(masks[number])
    return lowest, counted


@numba.njit
def there_and_back(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, again = np.empty(len(bits), np.float32), np.empty(len(bits), np.uint32)
    for number in range(len(bits)):
        values[number] = machine.as_float32(bits[number])
        again[number] = machine.as_bits(values[number])
    return values, again


@numba.njit
def widen_all(bits: np.ndarray) -> np.ndarray:
    values = np.empty(len(bits), np.float32)
    for place in range(len(bits)):
        values[place] = machine.widened(bits[place])
    return values


@numba.njit
def fetch_all(array: np.ndarray, rows: np.ndarray) -> None:
    for row in rows:
        machine.prefetch(array, row)


@numba.njit
def doubled(values: np.ndarray) -> np.ndarray:
    machine.use_widest_vectors()
    return values * np.float32(2)


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """The bits of values that bfloat16 holds, or of what is left of others."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def float64_of(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


class Factors:
    """What `multiply` takes: left [48, K] and two panels of right, of given values, and room with guards around it."""

    def __init__(self, left: np.ndarray, right: np.ndarray) -> None:
        """left: [48, K], right: [2, K, 32]."""
        panels, K, columns = right.shape
        self.left = aligned_zeros(left.shape, np.uint16)
        self.left[:] = bfloat16_bits(left)
        pairs = aligned_zeros((panels, K // 2, columns, 2), np.uint16)
        pairs[:] = bfloat16_bits(right).reshape(panels, K // 2, 2, columns).transpose(0, 1, 3, 2)
        self.right = pairs.view(np.uint32)[..., 0]
        self.values, self.right_values = float64_of(self.left), float64_of(bfloat16_bits(right))
        self.room = aligned_zeros((3 * ROWS, COLUMNS), np.float32)
        self.room[:] = np.float32(7e7)

    def product(self, first: int, panel: int, columns: int, way: int) -> np.ndarray:
        """The first columns of a product, in float32; nothing was written beside it."""
        out = self.room[ROWS : 2 * ROWS]
        multiply(self.left, first, self.right, panel, out, columns, way)
        assert (self.room[:ROWS] == np.float32(7e7)).all(), "written before the result"
        assert (self.room[2 * ROWS :] == np.float32(7e7)).all(), "written behind the result"
        return out[:, :columns].copy()

    def exact(self, first: int, panel: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """The product in float64, and the product of magnitudes."""
        left, right = self.values[first : first + ROWS], self.right_values[panel, :, :columns]
        return left @ right, abs(left) @ abs(right)


PLACES = [(0, 0), (16, 1), (32, 0), (5, 1)]
"""First rows and panels."""


@in_every_way
@pytest.mark.parametrize("columns", [16, 32])
@pytest.mark.parametrize("K", WIDTHS)
def test_a_product_is_off_by_no_more_than_float32_sums_are(K: int, columns: int, way: int) -> None:
    rng = np.random.default_rng(K)
    sizes = 10.0 ** rng.uniform(-9, 2, (48, K))
    factors = Factors(sizes * rng.standard_normal((48, K)), rng.standard_normal((2, K, COLUMNS)))
    for first, panel in PLACES:
        product = factors.product(first, panel, columns, way)
        exact, magnitude = factors.exact(first, panel, columns)
        assert (abs(product - exact) <= K * UNIT_ROUNDING * magnitude).all()


@in_every_way
@pytest.mark.parametrize("columns", [16, 32])
@pytest.mark.parametrize("K", WIDTHS)
def test_a_product_of_whole_numbers_is_exact(K: int, columns: int, way: int) -> None:
    rng = np.random.default_rng(K)
    factors = Factors(rng.integers(-128, 129, (48, K)), rng.integers(-127, 128, (2, K, COLUMNS)))
    for first, panel in PLACES:
        product = factors.product(first, panel, columns, way)
        np.testing.assert_array_equal(product, factors.exact(first, panel, columns)[0])


@in_every_way
@pytest.mark.parametrize("columns", [16, 32])
@pytest.mark.parametrize("K", [32, 384])
def test_every_value_has_its_place(K: int, columns: int, way: int) -> None:
    """One number on either side: no two products are the same."""
    for place in (0, 1, 2, 31, K // 2, K - 1):
        left, right = np.zeros((48, K)), np.zeros((2, K, COLUMNS))
        left[:, place] = 2.0 ** np.arange(-24, 24)
        right[:, place] = np.arange(1, COLUMNS + 1)
        right[1] *= -1
        factors = Factors(left, right)
        for first, panel in PLACES:
            product = factors.product(first, panel, columns, way)
            np.testing.assert_array_equal(product, factors.exact(first, panel, columns)[0])


@in_every_way
def test_numbers_of_any_integer_type_say_which_rows(way: int) -> None:
    rng = np.random.default_rng(0)
    factors = Factors(rng.integers(-9, 9, (48, 64)), rng.integers(-9, 9, (2, 64, COLUMNS)))
    for kind in (np.int32, np.int64, np.uint32):
        product = factors.product(kind(16), kind(1), kind(COLUMNS), way)
        np.testing.assert_array_equal(product, factors.exact(16, 1, COLUMNS)[0])


@pytest.mark.parametrize("K", WIDTHS)
def test_the_product_of_a_row_with_whole_numbers(K: int) -> None:
    rng = np.random.default_rng(K)
    right = rng.integers(-128, 128, (3, K, COLUMNS)).astype(np.int8)
    pairs = right.reshape(3, K // 2, 2, COLUMNS).transpose(0, 1, 3, 2).reshape(3, COLUMNS * K)
    rows, panels = np.array([4, 0, 0, 1, 2], np.int32), np.array([0, 1, 2, 2, 1])
    left, out = whole_numbers(rng, K), np.full((10, COLUMNS), np.float32(7e7))
    multiply_rows(left, rows, pairs, panels, out)
    for number, (row, panel) in enumerate(zip(rows, panels, strict=True)):
        exact = left[row].astype(np.int64) @ right[panel]
        np.testing.assert_array_equal(out[2 * number], exact.astype(np.float32))
    assert (out[1::2] == np.float32(7e7)).all(), "written beside the line"


@pytest.mark.parametrize("K", [*WIDTHS, 416])
def test_the_product_of_two_rows_of_whole_numbers(K: int) -> None:
    rng = np.random.default_rng(K)
    left, right = whole_numbers(rng, K), rng.integers(-128, 128, (7, K)).astype(np.int8)
    right[3] = np.where(left[4] < 0, -128, 127)
    for kind in (np.int32, np.int64):
        rows, right_rows = np.array([4, 0, 0, 1, 2, 3, 4], kind), np.array([3, 6, 0, 2, 2, 1, 5])
        exact = np.einsum("mk,mk->m", left[rows].astype(np.int64), right[right_rows])
        np.testing.assert_array_equal(dot_all(left, rows, right, right_rows), exact.astype(np.float32))


def whole_numbers(rng: np.random.Generator, K: int) -> np.ndarray:
    """Rows [5, K] int16 of any numbers, of small ones and of the largest: whose products hardly fit in 32 bits."""
    rows = rng.integers(-(2**15) + 1, 2**15, (5, K))
    rows[1], rows[4] = rng.integers(-3, 4, K), rng.choice([-1, 1], K) * (2**15 - 1)
    return rows.astype(np.int16)


@in_every_way
def test_the_products_of_torch_go_on_unharmed(way: int) -> None:
    """It may use the same instructions in the same thread, before and after."""
    torch.manual_seed(0)
    left, right = torch.randn(64, 96).bfloat16(), torch.randn(96, 80).bfloat16()
    factors = Factors(np.ones((48, 64)), np.ones((2, 64, COLUMNS)))
    before = left @ right
    for _ in range(3):
        assert (factors.product(0, 0, COLUMNS, way) == 64).all()
        assert torch.equal(left @ right, before)


def test_what_is_compiled_is_what_the_processor_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for features, ways in (
        ({"avx2": True, "amx-bf16": False}, {machine.LOOPS}),
        ({"avx512bf16": True}, {machine.LOOPS, machine.AVX512_BF16}),
        ({"avx512bf16": True, "amx-bf16": True}, {machine.LOOPS, machine.AVX512_BF16, machine.AMX}),
    ):
        monkeypatch.setattr(machine.llvmlite.binding, "get_host_cpu_features", lambda features=features: features)
        assert machine._compiled_ways() == ways
    monkeypatch.setattr(numba.config, "CPU_NAME", "generic")  # what code is made for, not what it runs on
    assert machine._compiled_ways() == {machine.LOOPS}


def test_amx_is_used_where_the_system_lets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine._ways() == machine.WAYS, "to ask again changes nothing"
    assert machine.WAYS[0] == machine.LOOPS
    monkeypatch.setattr(machine, "_COMPILED", frozenset({machine.AMX, machine.LOOPS, machine.AVX512_BF16}))
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert machine._ways() == (machine.LOOPS, machine.AVX512_BF16)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    for answer, last in ((0, machine.AMX), (-1, machine.AVX512_BF16)):
        monkeypatch.setattr(machine.ctypes, "CDLL", lambda _, answer=answer: Kernel(answer))
        assert machine._ways()[-1] == last


class Kernel:
    """A system that gives one answer to all calls."""

    def __init__(self, answer: int) -> None:
        self.syscall = lambda *_: answer


@pytest.mark.parametrize("threads", [1, 4])
def test_what_threads_take_is_all_and_nothing_twice(threads: int) -> None:
    for step, last in ((1, 0), (1, 100_000), (7, 100_000), (512, 511)):
        counter, taken = np.zeros(1, np.int64), np.zeros(100_600, np.int64)
        with ThreadPoolExecutor(threads) as pool:
            for future in [pool.submit(take_all, counter, step, last, taken) for _ in range(threads)]:
                future.result()
        assert (taken[:last] == 1).all()
        assert taken.sum() == -(-last // step) * step
        assert counter[0] == taken.sum() + threads * step


def packed(is_above: np.ndarray) -> np.ndarray:
    """Rows of 32 answers as bits, the first the lowest."""
    return np.packbits(is_above, axis=-1, bitorder="little").view(np.uint32)[..., 0]


def test_above_is_a_bit_for_each_value_that_exceeds() -> None:
    rng = np.random.default_rng(0)
    values = rng.choice(np.append(FLOATS, rng.standard_normal(8)), (50, COLUMNS)).astype(np.float32)
    values[0], values[1] = -np.inf, 1
    values[2, :31] = -1
    limits = np.append(FLOATS, np.nextafter(np.float32(1), np.float32([-2, 2])))
    with np.errstate(invalid="ignore"):
        expected = values > limits[:, None, None]
    np.testing.assert_array_equal(above_all(values, limits), packed(expected))
    assert above_all(np.ones((1, COLUMNS), np.float32), np.float32([0])) == 0xFFFFFFFF


def test_sum_above_is_a_bit_for_each_sum_that_exceeds() -> None:
    rng = np.random.default_rng(0)
    values, others = (rng.standard_normal((9, COLUMNS)).astype(np.float32) for _ in range(2))
    for row in range(9):
        scale, other_scale, other_row = np.float32(rng.normal()), np.float32(rng.normal()), (row * 5) % 9
        sums = np.float64(scale) * values[row] + np.float64(other_scale) * others[other_row]
        for limit in [*rng.normal(size=4).astype(np.float32), np.float32(-9), np.float32(9)]:
            found = sum_above(scale, values, row, other_scale, others, other_row, limit)
            wanted = sums > limit
            assert (abs(sums - limit) > 1e-5).all(), "the case is too close to compare"
            assert found == packed(wanted)


def test_sums_that_equal_the_limit_do_not_exceed_it() -> None:
    values = np.arange(-64, 64, dtype=np.float32).reshape(4, COLUMNS)
    for row, other_row, limit in ((0, 3, 0), (1, 2, -17), (2, 2, 80), (3, 0, 1), (1, 1, -31)):
        wanted = 3 * values[row] + 2 * values[other_row] > limit
        assert sum_above(3, values, row, 2, values, other_row, limit) == packed(wanted)


@pytest.mark.parametrize("K", [0, 32, 96, 352])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_copy_row_writes_that_row_alone(K: int, dtype: type) -> None:
    rng = np.random.default_rng(K)
    source, target = rng.integers(0, 99, (7, K)).astype(dtype), rng.integers(100, 199, (ROWS, K)).astype(dtype)
    expected, untouched = target.copy(), source.copy()
    rows, from_rows = np.array([15, 0, 7, 7]), np.array([6, 0, 3, 5], np.int32)
    for row, from_row in zip(rows, from_rows, strict=True):
        expected[row] = source[from_row]
    copy_rows(target, rows, source, from_rows)
    np.testing.assert_array_equal(target, expected)
    np.testing.assert_array_equal(source, untouched)


def test_bits_are_found_and_counted() -> None:
    rng = np.random.default_rng(0)
    powers = np.uint32(1) << np.arange(32, dtype=np.uint32)
    masks = np.concatenate([powers, ~powers, rng.integers(1, 1 << 32, 200, np.uint32), np.uint32([0xFFFFFFFF])])
    lowest, counted = bits_of(masks)
    assert lowest.tolist() == [(mask & -mask).bit_length() - 1 for mask in masks.tolist()]
    assert counted.tolist() == [mask.bit_count() for mask in masks.tolist()]
    assert bits_of(np.uint32([0]))[1].tolist() == [0]


def test_float32_values_have_the_bits_that_numpy_sees() -> None:
    rng = np.random.default_rng(0)
    bits = np.concatenate([FLOATS.view(np.uint32), rng.integers(0, 1 << 32, 1000, np.uint32)])
    values, again = there_and_back(bits)
    np.testing.assert_array_equal(values.view(np.uint32), bits)
    np.testing.assert_array_equal(again, bits)


def test_a_processor_widens_float16_as_numpy_does() -> None:
    bits = np.arange(1 << 16).astype(np.uint16)
    expected = bits.view(np.float16).astype(np.float32)
    for values in (widen_all(bits), np.array([widen_all(bits[place : place + 1])[0] for place in range(1 << 16)])):
        is_number = ~np.isnan(expected)
        np.testing.assert_array_equal(np.isnan(values), ~is_number)
        np.testing.assert_array_equal(values[is_number].view(np.uint32), expected[is_number].view(np.uint32))


def test_fetching_ahead_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    for shape in [(1, 1), (3, 200, 33), (5, 32, 0), (4, 0)]:
        for dtype in (np.int8, np.float32):
            array = rng.integers(0, 100, shape).astype(dtype)
            before = array.copy()
            for kind in (np.int32, np.int64):
                fetch_all(array, np.array([0, len(array) - 1], kind))
            np.testing.assert_array_equal(array, before)


def test_the_widest_vectors_are_asked_for_where_they_are_wanted() -> None:
    values = np.arange(100, dtype=np.float32)
    np.testing.assert_array_equal(doubled(values), 2 * values)
    asked = '"prefer-vector-width"="512"'
    assert all(asked in code for code in doubled.inspect_llvm().values())
    widen_all(np.zeros(1, np.uint16))
    assert not any(asked in code for code in widen_all.inspect_llvm().values())


@pytest.mark.parametrize("shape", [(1,), (64,), (3, 5), (2, 16, 32), (0,), (16, 0), (0, 4)])
@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.float32, np.int64])
def test_an_aligned_array_is_the_same_one_or_a_copy(shape: tuple[int, ...], dtype: type) -> None:
    zeros = aligned_zeros(shape, dtype)
    assert (zeros.shape, zeros.dtype, zeros.flags.c_contiguous) == (shape, dtype, True)
    assert not zeros.any()
    assert aligned(zeros) is zeros
    beside = np.zeros(zeros.nbytes + 2 * LINE_BYTES, np.uint8)
    first = -beside.ctypes.data % LINE_BYTES + zeros.itemsize
    array = beside[first : first + zeros.nbytes].view(dtype).reshape(shape)
    array[...] = np.random.default_rng(0).integers(0, 100, shape)
    found = aligned(array)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == dtype
    assert not found.size or found.ctypes.data % LINE_BYTES == 0
