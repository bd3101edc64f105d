"""Products of small matrices in compiled code are those of numpy, and nothing is written beside them."""

import platform

import numba
import numpy as np
import pytest
import torch

from ffnsearch_indexer.hardware import matrix
from ffnsearch_indexer.hardware.matrix import MATRICES, ROWS
from ffnsearch_indexer.hardware.vectors import COLUMNS, aligned_zeros

UNIT_ROUNDING = 2.0**-24
WIDTHS = [0, 32, 64, 384]
in_every_way = pytest.mark.parametrize(
    "way", [matrix.LOOPS, matrix.AVX512_BF16, matrix.AMX], ids=["loops", "avx512", "amx"], indirect=True
)


@pytest.fixture
def way(request: pytest.FixtureRequest) -> int:
    """How matrices are multiplied, where this processor can."""
    if request.param not in matrix.WAYS:
        pytest.skip("this processor has no such instructions for products of bfloat16")
    return int(request.param)


@numba.njit
def multiply(
    left: np.ndarray, first: int, right: np.ndarray, panel: int, out: np.ndarray, columns: int, way: int
) -> None:
    matrix.begin(MATRICES, way)
    matrix.multiply(left, first, right, panel, out, columns, way)
    matrix.end(way)


@numba.njit
def multiply_rows(left: np.ndarray, rows: np.ndarray, right: np.ndarray, panels: np.ndarray, out: np.ndarray) -> None:
    """The numbers of rows and panels say what goes to every second line."""
    for number in range(len(rows)):
        matrix.multiply_row(left, rows[number], right, panels[number], out, 2 * number)


@numba.njit
def dot_all(left: np.ndarray, rows: np.ndarray, right: np.ndarray, right_rows: np.ndarray) -> np.ndarray:
    products = np.empty(len(rows), np.float32)
    for number in range(len(rows)):
        products[number] = matrix.dot(left, rows[number], right, right_rows[number])
    return products


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
        ({"avx2": True, "amx-bf16": False}, {matrix.LOOPS}),
        ({"avx512bf16": True}, {matrix.LOOPS, matrix.AVX512_BF16}),
        ({"avx512bf16": True, "amx-bf16": True}, {matrix.LOOPS, matrix.AVX512_BF16, matrix.AMX}),
    ):
        monkeypatch.setattr(matrix.llvmlite.binding, "get_host_cpu_features", lambda features=features: features)
        assert matrix._compiled_ways() == ways
    monkeypatch.setattr(numba.config, "CPU_NAME", "generic")  # what code is made for, not what it runs on
    assert matrix._compiled_ways() == {matrix.LOOPS}


def test_amx_is_used_where_the_system_lets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert matrix._ways() == matrix.WAYS, "to ask again changes nothing"
    assert matrix.WAYS[0] == matrix.LOOPS
    monkeypatch.setattr(matrix, "_COMPILED", frozenset({matrix.AMX, matrix.LOOPS, matrix.AVX512_BF16}))
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert matrix._ways() == (matrix.LOOPS, matrix.AVX512_BF16)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    for answer, last in ((0, matrix.AMX), (-1, matrix.AVX512_BF16)):
        monkeypatch.setattr(matrix.ctypes, "CDLL", lambda _, answer=answer: Kernel(answer))
        assert matrix._ways()[-1] == last


class Kernel:
    """A system that gives one answer to all calls."""

    def __init__(self, answer: int) -> None:
        self.syscall = lambda *_: answer
