"""Decode attention on CUDA: its numbers in the simulator, and what the kernels become on a GPU."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from sass import sass

from membound.kernels.cuda.attention.cache_layout import lay_out
from membound.kernels.cuda.attention.cache_tiles import Tiles, unsupported
from membound.kernels.cuda.attention.combine import combine_kernel, rounds
from membound.kernels.cuda.attention.decode import (
    attention_kernel,
    gain,
    grid,
    plan_splits,
)
from membound.kernels.cuda.attention.latent import latent_splits, latent_tiles
from membound.kernels.cuda.attention.warp import LEAST
from membound.kernels.cuda.device import simulator
from membound.kernels.inputs import AttentionInputs
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import DecodeAttention, parse


def attend(spec: str, splits: int = 2, warps: int = 2, seed: int = 1) -> float:
    """The error of the simulated kernels as a fraction of the tolerance."""
    work = parse(spec)
    inputs = make_inputs(work, seed)
    assert isinstance(work, DecodeAttention)
    assert isinstance(inputs, AttentionInputs)
    tiles = Tiles(work.kv, work.head_dim, work.q_heads // work.kv_heads, work.page, warps)
    cache = lay_out(inputs.cache(0), tiles, inputs.page_table(0))
    parts = np.full(inputs.q.size * splits, np.nan, np.float32)
    logs = np.full(work.batch * work.q_heads * splits, np.nan, np.float32)
    out = np.full(inputs.q.size, np.nan, np.float32)
    simulator.launch(
        attention_kernel(tiles),
        grid(tiles, work.batch, work.kv_heads, splits),
        (
            inputs.q.reshape(-1),
            *(cache.k, cache.v, cache.k_scales, cache.v_scales, cache.table, parts, logs),
            *(gain(tiles.head_dim), work.q_heads, work.kv_heads, work.context, tiles.room(work.context)),
        ),
    )
    if splits > 1:
        simulator.launch(combine_kernel(work.head_dim), work.batch * work.q_heads, (parts, logs, out, splits))
    else:
        out = parts
    assert np.isfinite(logs).all()
    return relative_error(out.reshape(inputs.q.shape), compute(inputs, 0)) / tolerance(work)


@pytest.mark.parametrize("context", range(17, 33))
def test_every_residue_of_page_and_tile(context: int) -> None:
    spec = f"attention:context={context},q_heads=1,kv_heads=1,head_dim=32,page=16"
    assert attend(spec, warps=1, seed=context) < 0.5


@pytest.mark.parametrize("context", [1, 15, 63, 64, 65])
@pytest.mark.parametrize("kv", ["bf16", "int8"])
def test_a_cache_of_one_piece(context: int, kv: str) -> None:
    assert attend(f"attention:context={context},q_heads=2,kv_heads=1,head_dim=32,kv={kv}") < 0.5


def often(head: int, kv: int, page: int) -> bool:
    """Whether plain pytest has these, by their places in the lists: each pair of two of them comes once or twice."""
    return page == (head + kv) % 3


HEADS, KV, PAGES = [(32, 70), (64, 41), (128, 37)], ["bf16", "f16", "int8", "fp8"], [0, 16, 48]


@pytest.mark.parametrize(
    ("head_dim", "context", "kv", "page"),
    [
        pytest.param(*HEADS[i], KV[j], PAGES[k], marks=[] if often(i, j, k) else [pytest.mark.slow])
        for i, j, k in product(range(3), range(4), range(3))
    ],
)
def test_every_format_and_head(head_dim: int, context: int, kv: str, page: int) -> None:
    spec = f"attention:context={context},q_heads=3,kv_heads=1,head_dim={head_dim},kv={kv},page={page}"
    assert attend(spec, warps=1, seed=head_dim + page) < 0.5


@pytest.mark.parametrize(
    ("q_heads", "kv_heads"),
    [
        *((3, 3), (8, 2), (9, 1)),
        *(pytest.param(*heads, marks=pytest.mark.slow) for heads in ((8, 1), (17, 1), (32, 2), (40, 1))),
    ],
    ids=str,
)
def test_any_number_of_query_heads(q_heads: int, kv_heads: int) -> None:
    spec = f"attention:context=19,q_heads={q_heads},kv_heads={kv_heads},head_dim=32,kv=f16,batch=2,page=16"
    assert attend(spec, warps=1) < 0.5


@pytest.mark.parametrize("splits", [1, 3, 7])
@pytest.mark.parametrize("warps", [1, 2, 4])
def test_any_number_of_warps_and_parts_even_more_than_tiles(splits: int, warps: int) -> None:
    assert attend("attention:context=70,q_heads=2,kv_heads=1,head_dim=64,kv=f16", splits, warps) < 0.5


@pytest.mark.parametrize(
    ("kv", "head_dim", "page", "reason"),
    [
        ("f32", 128, 0, "the tensor cores that attention runs on do not take f32"),
        ("bf16", 96, 0, "attention kernels are made for heads of 32, 64, 128, not 96"),
        ("bf16", 64, 24, "attention kernels take pages of multiples of 16 tokens, not 24"),
    ],
)
def test_what_there_is_no_kernel_for(kv: str, head_dim: int, page: int, reason: str) -> None:
    assert unsupported(kv, head_dim, page) == reason
    assert unsupported("fp8", 64, 48) is None


def test_parts_fill_the_gpu_and_no_more() -> None:
    tiles = Tiles("bf16", 128, 4)
    # 8 groups: an H100 holds 264 blocks, 33 of each; 2048 tiles in 32 parts are as soon done, in 16 turns of 4 warps.
    assert plan_splits(tiles, 1, 8, 32768, 132) == 32
    assert plan_splits(tiles, 64, 8, 32768, 132) in range(1, 5)
    assert plan_splits(tiles, 1, 8, 64, 132) == 1
    assert plan_splits(tiles, 1, 1, 16, 132) == 1
    assert all(1 <= plan_splits(tiles, b, 2, 1000, 132) <= 63 for b in range(1, 9))


def test_a_short_context_is_not_split_for_less_than_combining_costs() -> None:
    """Up to twelve turns of a block of four warps in two parts save one, which a second kernel costs as well."""
    tiles = Tiles("bf16", 128, 4)
    assert [plan_splits(tiles, 16, 8, 16 * turns, 132) for turns in (4, 8, 12, 64)] == [1, 1, 1, 2]


def test_parts_are_fewer_where_each_trip_to_combine_them_brings_fewer() -> None:
    """A trip brings 16 parts of a latent head of 512 columns: 128 parts of 128 turns take eight, which cost what a turn saves. Of heads
    of 128 columns it brings 32, and 128 parts end sooner than 64."""
    latent = latent_tiles("bf16", 16, 0)
    contexts = [latent.stride * turns for turns in (64, 128, 256)]
    assert [latent_splits(latent, 1, n, 132) for n in contexts] == [64, 64, 128]
    assert [plan_splits(latent, 1, 1, n, 132) for n in contexts] == [64, 128, 128]


@pytest.mark.parametrize(
    ("head_dim", "splits"),
    [
        pytest.param(d, n, marks=[] if d in (32, 128) or n in (2, 33) else [pytest.mark.slow])
        for d, n in product((32, 64, 128, 512), (1, 2, 5, 32, 33, 128))
    ],
)
def test_parts_are_combined_by_their_denominators(head_dim: int, splits: int) -> None:
    rng = np.random.default_rng(splits)
    parts = rng.standard_normal((2, splits, head_dim)).astype(np.float32)
    logs = rng.uniform(-40, 40, (2, splits)).astype(np.float32)
    logs[1, splits // 2] = LEAST  # a part that has seen no token
    out = np.zeros(2 * head_dim, np.float32)
    simulator.launch(combine_kernel(head_dim), 2, (parts.ravel(), logs.ravel(), out, splits))
    weights = np.exp2(logs.astype(np.float64) - logs.max(axis=1, keepdims=True))
    expected = (weights[..., None] * parts).sum(axis=1) / weights.sum(axis=1)[:, None]
    np.testing.assert_allclose(out.reshape(2, head_dim), expected, rtol=1e-5, atol=1e-6)


def test_many_parts_are_few_trips_to_memory() -> None:
    assert [rounds(128, splits) for splits in (2, 32, 33, 128)] == [1, 1, 2, 4]
    assert [rounds(512, splits) for splits in (2, 16, 32)] == [1, 1, 2]


CONTRACTS = [
    # variant; wide loads of a turn of the loop, products of it
    (Tiles("bf16", 128, 8, 16), 16, 32),
    (Tiles("f16", 64, 4), 16, 32),
    (Tiles("int8", 128, 4, 16), 16, 64),
    (Tiles("fp8", 128, 16), 16, 64),
]


@pytest.mark.cuda_compile
@pytest.mark.parametrize(("tiles", "loads", "products"), CONTRACTS, ids=lambda v: getattr(v, "name", ""))
def test_all_loads_of_a_turn_are_under_way_before_the_first_product(
    tiles: Tiles, loads: int, products: int
) -> None:
    code = sass(attention_kernel(tiles))
    assert code.count(r"LDG.*LTC256B\.128") == loads
    assert code.longest_run >= loads
    assert code.count("HMMA.16816.F32") == products
    assert code.local == code.stack_bytes == code.doubles == 0
    assert code.registers <= 255  # two blocks of 128 threads share 65536
