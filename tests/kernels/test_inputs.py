import subprocess
import sys

import numpy as np
import pytest

from membound.kernels.seeded import make_inputs
from membound.kernels.slots import SET_BYTES, slots_to_defeat
from membound.kernels.weights import draws, few_draws, fp8, generate, ggml
from membound.kernels.weights.draws import (
    BLOCK,
    fill_bf16,
    fill_bytes,
    fill_f16,
    fill_f32,
    fill_fp8,
    fill_int8,
)
from membound.kernels.weights.formats import (
    FORMATS,
    KV_FORMATS,
    Weight,
    dequantize,
    from_bf16,
    quantize,
    to_bf16,
)
from membound.kernels.weights.generate import random_cache, random_weight
from membound.kernels.weights.grouped import unpack_int4
from membound.kernels.work import Linear, Step, parse

DTYPES = {
    "f32": np.float32,
    "bf16": np.uint16,
    "f16": np.float16,
    "int8": np.int8,
    "fp8": np.uint8,
    "int4g32": np.uint8,
    "int4g128": np.uint8,
    "int4g32z": np.uint8,
    "int4g128z": np.uint8,
    "q8_0": np.int8,
    "q4_0": np.uint8,
    "q4_k": np.uint8,
    "fp8g128": np.uint8,
    "fp8b128": np.uint8,
    "mxfp4": np.uint8,
}


def splitmix64(seed, index):
    mask = (1 << 64) - 1
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_bits_are_splitmix64():
    # First output for seed 0 in the authors' reference implementation (prng.di.unimi.it/splitmix64.c).
    assert splitmix64(0, 0) == 0xE220A8397B1DCDAF
    out = np.empty(8 * 5, np.uint8)
    fill_bytes(out, 12345)
    assert out.view(np.uint64).tolist() == [splitmix64(12345, i) for i in range(5)]


@pytest.mark.parametrize("size", [1, 7, 8, 9, 23])
def test_odd_sizes_are_filled(size):
    out = np.zeros((16, size), np.uint8)
    for row, target in enumerate(out):
        fill_bytes(target, row)
    assert (out.max(0) > 0).all()


NUMBERS = {
    "bytes": (np.uint8, ()),
    "int8": (np.int8, ()),
    "f32": (np.float32, (np.float32(0.25),)),
    "bf16": (np.uint16, (np.int32(-3),)),
    "f16": (np.uint16, (np.int32(-3),)),
    "fp8": (np.uint8, (np.int32(-1),)),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_drawn_without_a_compiler_are_the_same_to_the_bit(kind):
    dtype, more = NUMBERS[kind]
    for size in (1, 7, 8, 9, 1000, 2 * BLOCK + 5):
        for seed in (0, 12345, (1 << 63) - 1):
            few, many = np.empty(size, dtype), np.empty(size, dtype)
            getattr(few_draws, f"fill_{kind}")(few, seed, *more)
            getattr(draws, f"fill_{kind}")(many, seed, *more)
            assert few.tobytes() == many.tobytes(), (size, seed)


def test_many_numbers_are_drawn_by_what_is_compiled(monkeypatch):
    monkeypatch.setattr(generate, "_drawn", 0)
    monkeypatch.delitem(sys.modules, draws.__name__)
    assert generate._draws(generate.FEW) is few_draws
    monkeypatch.setitem(sys.modules, draws.__name__, draws)
    assert generate._draws(1) is draws
    monkeypatch.setattr(generate, "_drawn", 0)
    assert generate._draws(1) is draws  # which is there already


def float_bits(word, mantissa_bits, top):
    """As `fill_bf16` and the like are documented: the low half of a word is sign, coin tosses, mantissa."""
    r = word & 0xFFFFFFFF
    tails = f"{r >> 16 & 15:04b}"[::-1][:3] + "1"
    return r >> 31 << 15 | (top - tails.index("1")) << mantissa_bits | r & ((1 << mantissa_bits) - 1)


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, 2 * BLOCK + 17])
def test_every_number_follows_from_its_own_word(size):
    f32, fp8_codes = np.empty(size, np.float32), np.empty(size, np.uint8)
    bf16, f16 = np.empty(size, np.uint16), np.empty(size, np.uint16)
    fill_f32(f32, 77, np.float32(0.25))
    fill_bf16(bf16, 77, np.int32(-3))
    fill_f16(f16, 77, np.int32(-2))
    fill_fp8(fp8_codes, 77, np.int32(1))
    words = [splitmix64(77, i) for i in range(size)]
    assert f32.tolist() == [((word >> 40) - (1 << 23) + 0.5) * 2**-25 for word in words]
    assert bf16.tolist() == [float_bits(word, 7, 123) for word in words]
    assert f16.tolist() == [float_bits(word, 10, 12) for word in words]
    small = [float_bits(word, 3, 7) for word in words]
    assert fp8_codes.tolist() == [bits >> 8 | bits & 0x7F for bits in small]


@pytest.mark.parametrize("size", [1, 23, 8 * BLOCK, 8 * BLOCK + 5, 40_003])
def test_int8_is_uniform_bytes_without_the_lowest(size):
    drawn, values = np.empty(size, np.uint8), np.empty(size, np.int8)
    fill_bytes(drawn, 9)
    fill_int8(values, 9)
    lowest = drawn.view(np.int8) == -128
    assert size < 1000 or lowest.any()
    assert (values[lowest] == -127).all()
    assert np.array_equal(values[~lowest], drawn.view(np.int8)[~lowest])


def test_distributions():
    f32, bf16, f16 = np.empty(100_001, np.float32), np.empty(100_001, np.uint16), np.empty(100_001, np.uint16)
    fill_f32(f32, 1, np.float32(0.5))
    fill_bf16(bf16, 2, np.int32(-1))
    fill_f16(f16, 3, np.int32(-1))
    assert f32.std() == pytest.approx(0.5 / np.sqrt(3), rel=0.01)
    for values in (f32, from_bf16(bf16), f16.view(np.float16).astype(np.float32)):
        assert np.isfinite(values).all()
        assert 0.49 < np.abs(values).max() <= 0.5
        assert (values != 0).all()
        assert abs(values.mean()) < 0.005
    assert from_bf16(bf16).std() == pytest.approx(f16.view(np.float16).astype(np.float32).std(), rel=0.02)


def digest(threads):
    code = f"""
import zlib, numba
numba.set_num_threads({threads})
import membound.kernels.weights.draws  # which draws then, however few they are
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse
for weight in ("f32", "bf16", "f16", "int8", "int4g32"):
    w = make_inputs(parse(f"linear:n=37,k=96,weight={{weight}}"), 5, 2).weight(1)
    print(zlib.crc32(w.values.tobytes()), w.scales is not None and zlib.crc32(w.scales.tobytes()))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout


def test_the_same_bits_for_any_number_of_threads_and_any_process():
    lines = digest(1)
    assert len(set(lines.splitlines())) == 5
    assert digest(2) == lines


@pytest.mark.parametrize("fmt", FORMATS)
def test_weights_have_the_format_and_unit_gain(fmt):
    n, k = 301, 256
    weight = random_weight(fmt, n, k, 7)
    assert weight.values.dtype == DTYPES[fmt]
    among = FORMATS[fmt].matrix_bytes(n, k)[1] if fmt == "q4_k" else 0  # its scales lie among its values
    assert weight.values.nbytes == FORMATS[fmt].matrix_bytes(n, k)[0] + among
    scales = [array.nbytes for array in (weight.scales, weight.zeros) if array is not None]
    assert sum(scales) == FORMATS[fmt].matrix_bytes(n, k)[1] - among
    wide = dequantize(weight)
    assert wide.shape == (n, k)
    assert 0.5 < wide.std() * np.sqrt(k) < 1.6
    assert np.array_equal(wide[5:9], dequantize(weight, slice(5, 9)))
    louder = random_weight(fmt, n, k, 7, gain=4)
    assert dequantize(louder).std() == pytest.approx(4 * wide.std(), rel=1e-3)


@pytest.mark.parametrize("kv", KV_FORMATS)
def test_caches(kv):
    cache = random_cache(kv, (2, 3, 5, 16), 9)
    assert cache.k.shape == cache.v.shape == (2, 3, 5, 16)
    assert cache.k.dtype == DTYPES[kv]
    assert not np.array_equal(cache.k, cache.v)
    assert (cache.k_scales is None) == (cache.v_scales is None) == (kv != "int8")
    if kv == "int8":
        assert cache.k.min() >= -127
        assert cache.k_scales.shape == (2, 3, 5)
        assert not np.array_equal(cache.k_scales, cache.v_scales)
        assert cache.k_scales[:, :, -1].min() > 2 * cache.k_scales[:, :, :-1].max()
    else:
        keys = {"bf16": from_bf16, "fp8": fp8.decode}.get(kv, np.asarray)(cache.k)
        assert np.isfinite(keys).all()
        assert np.abs(keys[:, :, :-1]).max() <= 1 < np.abs(keys[:, :, -1]).max() <= 4


def test_fp8_codes_are_spread_over_sign_exponent_and_mantissa():
    codes = np.empty(100_003, np.uint8)
    fill_fp8(codes, 5, np.int32(0))
    values = fp8.decode(codes)
    assert np.abs(values).max() == 0.9375
    assert np.abs(values).min() == 2**-4
    assert values.std() == pytest.approx(1 / np.sqrt(3), rel=0.05)
    assert abs(values.mean()) < 0.01
    assert len(np.unique(codes)) == 2 * 4 * 8


def test_a_page_table_is_a_permutation_of_its_own_for_each_slot():
    inputs = make_inputs(parse("attention:context=33,batch=3,page=4"), 1, 2)
    tables = [inputs.page_table(slot) for slot in range(2)]
    for table in tables:
        assert table.shape == (3, 9)
        assert table.dtype == np.int32
        assert sorted(table.reshape(-1)) == list(range(27))
    assert not np.array_equal(*tables)
    assert np.array_equal(inputs.page_table(1), tables[1])
    assert make_inputs(parse("attention:context=33"), 1).page_table(0).shape == (1, 0)


def test_values_of_a_latent_cache_are_the_first_columns_of_its_keys():
    cache = make_inputs(parse("mla:context=5,q_heads=3,batch=2,kv=int8"), 1).cache(0)
    assert cache.k.shape == (2, 1, 5, 576)
    assert np.shares_memory(cache.v, cache.k)
    assert np.array_equal(cache.v, cache.k[..., :512])
    assert cache.v_scales is cache.k_scales


def test_slots_layers_and_seeds_differ():
    spec = parse("linear:n=9,k=32,weight=int8")
    slots = [make_inputs(spec, 1, 4).weight(slot) for slot in range(4)]
    again = make_inputs(spec, 1, 4).weight(2)
    assert np.array_equal(again.values, slots[2].values)
    assert len({w.values.tobytes() for w in slots} | {make_inputs(spec, 2).weight(0).values.tobytes()}) == 5

    attention = make_inputs(parse("attention:context=3,batch=2"), 1, 3)
    assert len({attention.cache(slot).k.tobytes() for slot in range(3)}) == 3

    step = make_inputs(parse("step:model=tiny"), 1)
    matrices = [w.values.tobytes()[:256] for i in range(2) for w in step.layer(i).matrices.values()]
    assert len(set(matrices)) == 14
    assert len({step.cache(i).v.tobytes() for i in range(2)}) == 2
    assert not np.array_equal(step.layer(0).attention_norm, step.layer(1).attention_norm)


def test_model_inputs_have_the_shapes_of_the_model():
    step = make_inputs(parse("step:model=qwen2.5-0.5b,layers=1,batch=3,context=5,weight=int8"), 1)
    layer = step.layer(0)
    assert step.x.shape == (3, 896)
    assert {name: (w.n, w.k) for name, w in layer.matrices.items()} == step.model.layer_matrices
    assert (layer.q_bias.shape, layer.k_bias.shape, layer.v_bias.shape) == ((896,), (128,), (128,))
    assert layer.q_norm is None
    assert step.cache(0).k.shape == (3, 2, 5, 64)
    prompt = make_inputs(parse("prefill:model=tiny,batch=2,tokens=7"), 1)
    assert prompt.x.shape == (14, 256)
    for i, gain in ((0, 1), (1, 4)):
        inputs = (prompt, make_inputs(parse("step:model=tiny"), 1))[i]
        queries, keys = (dequantize(inputs.layer(0).matrices[name]).std() for name in "qk")
        assert queries == pytest.approx(gain * keys, rel=0.03)
    head = make_inputs(parse("step:model=tiny"), 1).lm_head()
    assert (head.n, head.k) == (1000, 256)


def test_random_super_blocks_have_scales_near_each_other_and_numbers_around_zero():
    weight = random_weight("q4_k", 64, 1024, 9)
    heads, small, q = ggml.parts_of_q4_k(weight.values)
    assert (heads[..., 0] > 0).all()
    assert heads[..., 0].max() / heads[..., 0].min() < 1.7
    assert np.array_equal(np.unique(small), np.arange(32, 64))
    assert np.array_equal(np.unique(q), np.arange(16))
    wide = dequantize(weight) * np.sqrt(1024)
    assert abs(wide.mean()) < 0.05
    assert 0.95 < wide.std() < 1.08
    groups = wide.reshape(-1, 32)
    assert 0.2 < np.abs(groups.mean(1)).mean() < 0.5  # least values of their own
    assert not np.array_equal(weight.values, random_weight("q4_k", 64, 1024, 10).values)


@pytest.mark.parametrize("shape", [(1, 128), (7, 256), (33, 384)])
@pytest.mark.parametrize("fmt", FORMATS)
def test_quantize_stays_within_half_a_step(fmt, shape):
    if shape[1] % (FORMATS[fmt].group or 1):
        shape = (shape[0], 2 * FORMATS[fmt].group)
    w = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    stored = quantize(w, fmt)
    assert stored.values.dtype == DTYPES[fmt]
    error = np.abs(dequantize(stored) - w)
    if fmt in ("f32", "bf16", "f16"):
        subnormal = 2**-25 if fmt == "f16" else 0
        assert (error <= np.abs(w) * {"f32": 0, "bf16": 2**-8, "f16": 2**-11}[fmt] + subnormal).all()
    elif fmt == "int8":
        assert (error <= 0.5001 * np.abs(w).max(1, keepdims=True) / 127).all()
    elif fmt.startswith("fp8"):
        rows = np.abs(w).reshape(len(w), -1, 128).max(2)
        scales = (rows if fmt == "fp8g128" else np.broadcast_to(rows.max(0), rows.shape)) / 448
        assert (error <= np.abs(w) * 2**-4 + 0.51 * 2**-9 * np.repeat(scales, 128, axis=1)).all()
    elif fmt == "mxfp4":
        largest = np.abs(w).reshape(len(w), -1, 32).max(2, keepdims=True)
        scales = np.repeat(2 ** (np.floor(np.log2(largest)) - 2), 32, axis=2).reshape(w.shape)
        assert (error <= np.maximum(np.abs(w) / 4, scales / 4)).all()
    elif fmt == "q8_0":
        grouped = (len(w), -1, 32)
        assert (error.reshape(grouped) <= 0.57 * np.abs(w.reshape(grouped)).max(2, keepdims=True) / 127).all()
    elif fmt == "q4_k":  # the search cuts numbers off where that makes the sum of squares smaller
        grouped = w.reshape(len(w), -1, 32)
        step = (grouped.max(2, keepdims=True).clip(0) - grouped.min(2, keepdims=True).clip(None, 0)) / 15
        assert (error.reshape(grouped.shape) <= 1.5 * step).all()
        assert (error.reshape(grouped.shape) <= 0.6 * step).mean() > 0.97
    elif FORMATS[fmt].zeros:
        grouped = w.reshape(len(w), -1, FORMATS[fmt].group)
        step = (grouped.max(2, keepdims=True).clip(0) - grouped.min(2, keepdims=True).clip(None, 0)) / 15
        assert (error.reshape(grouped.shape) <= 1.02 * step).all()
    else:
        grouped = (len(w), -1, FORMATS[fmt].group)
        step = np.abs(w.reshape(grouped)).max(2, keepdims=True) / 8
        # The largest positive value has no code of its own (+8 is cut to +7): a whole step there.
        assert (error.reshape(grouped) <= 1.01 * step).all()
        inner = np.abs(w.reshape(grouped)) < 7.4 * step
        assert (error.reshape(grouped) <= 0.51 * step)[inner].all()


@pytest.mark.parametrize("fmt", FORMATS)
def test_zeros_survive(fmt):
    assert not dequantize(quantize(np.zeros((3, 256), np.float32), fmt)).any()


def test_bf16_rounds_to_nearest_even():
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0xBF818000, 0x3F80FFFF], np.uint32)
    assert to_bf16(bits.view(np.float32)).tolist() == [0x3F80, 0x3F82, 0x3F81, 0xBF82, 0x3F81]
    exact = np.arange(0x3F00, 0x4100, dtype=np.uint16)
    assert np.array_equal(to_bf16(from_bf16(exact)), exact)


def test_int4_layout_is_low_nibble_first():
    packed = np.array([[0x21, 0x43]], np.uint8)
    assert unpack_int4(packed).tolist() == [[1, 2, 3, 4]]
    weight = Weight("int4g32", 1, 32, np.full((1, 16), 0x9F, np.uint8), np.full((1, 1), 0.5, np.float16))
    assert dequantize(weight)[0, :4].tolist() == [3.5, 0.5, 3.5, 0.5]


def test_slots_defeat_the_cache_within_the_budget():
    work = Linear(256, 256, weight="f32")
    size = work.footprint_bytes
    assert slots_to_defeat(work, 10 * size, 1000 * size) == 41
    assert slots_to_defeat(work, 10 * size, 7 * (size + SET_BYTES)) == 7
    assert slots_to_defeat(work, 0, 0) == 2
    assert slots_to_defeat(Step("tiny"), 10 * size, 1000 * size) == 1
