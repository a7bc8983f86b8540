"""Kernel choice: registers suffice, padding is whole, scratch is large enough."""

from __future__ import annotations

import pytest

from membound.kernels.cpu.matmul.recipe import (
    COLUMNS_A_LOAD,
    MOST_PANELS,
    MOST_STREAMED,
    STREAMED,
    choose,
    kind_of,
)
from membound.kernels.cpu.matmul.records import SUPER_BLOCKS
from membound.kernels.cpu.simd.amx import AMX_BF16, AMX_INT8
from membound.kernels.cpu.simd.features import BF16_DOT, LANES, REGISTERS
from membound.kernels.weights.formats import EVERY_FORMAT, FORMATS, INTEGER_FORMATS

CASES = [
    (fmt, act) for fmt in FORMATS for act in (("float", "int8") if fmt.startswith("int") else ("float",))
]


@pytest.mark.parametrize(("fmt", "act"), CASES)
def test_recipe(fmt: str, act: str) -> None:
    for m in range(1, 65):
        recipe = choose(fmt, act, m)
        assert m <= recipe.rows < m + 16
        if recipe.method == "tile":
            assert recipe.tiles <= 4, m
            continue
        each = 2 if act == "int8" and FORMATS[fmt].group else 1  # int4 with int8: two sums, two halves
        if recipe.tokens > 1:
            assert each * recipe.panels * (recipe.tokens + 1) + 1 <= REGISTERS, m
        assert recipe.padded_n(37) % recipe.panel_rows == 0, m
        assert 37 <= recipe.padded_n(37) < 37 + recipe.panel_rows, m


def test_one_row_streams_far_apart() -> None:
    assert choose("bf16", "float", 1).panels == MOST_PANELS >= 2


@pytest.mark.parametrize("m", [5, 16, 17, 64])
@pytest.mark.parametrize("fmt", FORMATS)
def test_blocks_are_whole_loads_and_groups(fmt: str, m: int) -> None:
    recipe = choose(fmt, "float", m)
    assert recipe.block % COLUMNS_A_LOAD.get(fmt, 1) == 0
    together = SUPER_BLOCKS[fmt].columns if fmt in SUPER_BLOCKS else FORMATS[fmt].group
    assert recipe.block % (together or 1) == 0


@pytest.mark.parametrize("fmt", INTEGER_FORMATS)
def test_integer_kernels_of_several_rounds_ask_for_the_next_block(fmt: str) -> None:
    recipes = [choose(fmt, "int8", m) for m in range(1, 65)]
    several = [recipe for recipe in recipes if recipe.method == "integer" and recipe.tiles > 1]
    assert several or AMX_INT8
    for recipe in several:
        assert recipe.integer_block % (FORMATS[fmt].group or 4) == 0
        assert recipe.ahead == recipe.integer_block * LANES * FORMATS[fmt].bits // 8 > 0


def test_pairs_where_the_processor_multiplies_them() -> None:
    methods = {m: choose("bf16", "float", m).method for m in (1, MOST_STREAMED, MOST_STREAMED + 1, 64)}
    assert methods[1] == "float"
    assert methods[MOST_STREAMED] == ("pairs" if BF16_DOT and STREAMED else "float")
    assert methods[MOST_STREAMED + 1] == methods[64]
    assert methods[64] == ("tile" if AMX_BF16 else "pairs" if BF16_DOT else "float")


@pytest.mark.parametrize(("fmt", "rows"), [("int4g32", 1), ("mxfp4", 1), ("int8", 2), ("fp8b128", 2)])
def test_pairs_of_fewer_bits_where_they_are_faster_than_float32(fmt: str, rows: int) -> None:
    faster = BF16_DOT and STREAMED
    assert choose(fmt, "float", rows).method == ("pairs" if faster else "float")
    assert choose(fmt, "float", 64).method == ("pairs" if faster else "float")


@pytest.mark.parametrize("fmt", sorted(EVERY_FORMAT))
def test_bytes_that_several_rounds_meet_are_widened_once(fmt: str) -> None:
    for recipe in (choose(fmt, "float", m) for m in (1, 2, 5, 13, 14, 15, 64)):
        if recipe.method == "pairs" and fmt != "bf16":
            assert recipe.blocked == (
                recipe.tiles > 1 and kind_of(fmt) == "bytes" and fmt not in SUPER_BLOCKS
            )


def test_activations_decide_the_arithmetic() -> None:
    assert choose("int8", "int8", 1).method == "integer"
    assert choose("int8", "float", 1).method == "float"
