"""Latent attention on CUDA: its numbers in the simulator, and what the kernel becomes on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
from sass import sass

from membound.kernels.cuda.attention.cache_layout import upload_latent
from membound.kernels.cuda.attention.combine import combine_kernel
from membound.kernels.cuda.attention.latent import GAIN, latent_grid, latent_kernel, latent_tiles
from membound.kernels.cuda.device import simulator
from membound.kernels.cuda.device.simulated import HostArray, SimulatedGpu
from membound.kernels.inputs import AttentionInputs
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import LatentAttention, parse


def attend(spec: str, splits: int, seed: int = 1) -> float:
    """The error of the simulated kernels as a fraction of the tolerance."""
    work = parse(spec)
    inputs = make_inputs(work, seed)
    assert isinstance(work, LatentAttention)
    assert isinstance(inputs, AttentionInputs)
    tiles = latent_tiles(work.kv, work.q_heads, work.page)
    cache = upload_latent(SimulatedGpu(), inputs.cache(0), tiles, inputs.page_table(0))
    rows, scales, table = cache.k, cache.k_scales, cache.table
    assert isinstance(rows, HostArray)
    assert isinstance(scales, HostArray)
    assert isinstance(table, HostArray)
    heads = work.batch * work.q_heads
    parts = np.full(heads * splits * 512, np.nan, np.float32)
    logs, out = np.full(heads * splits, np.nan, np.float32), np.full(heads * 512, np.nan, np.float32)
    memory = (inputs.q.reshape(-1), rows.values, scales.values, table.values, parts, logs)
    simulator.launch(
        latent_kernel(tiles),
        latent_grid(tiles, work.batch, splits),
        (*memory, GAIN, work.q_heads, work.context, cache.room),
    )
    simulator.launch(combine_kernel(512), heads, (parts, logs, out, splits))
    expected = compute(inputs, 0)
    return relative_error(out.reshape(expected.shape), expected) / tolerance(work)


@pytest.mark.parametrize(
    ("spec", "splits"),
    [
        pytest.param("mla:context=33,q_heads=16,kv=bf16,page=32", 2, marks=pytest.mark.slow),
        pytest.param("mla:context=47,q_heads=9,kv=f16,page=16", 3, marks=pytest.mark.slow),
        ("mla:context=34,q_heads=5,kv=int8,page=16", 1),
        pytest.param("mla:context=17,q_heads=18,kv=fp8,batch=2", 1, marks=pytest.mark.slow),
    ],
)
def test_it_agrees_with_the_reference(spec: str, splits: int) -> None:
    assert attend(spec, splits) < 0.5


@pytest.mark.cuda_compile
@pytest.mark.parametrize(("kv", "loads"), [("bf16", 16), ("int8", 8)])
def test_all_rows_are_under_way_before_the_first_product(kv: str, loads: int) -> None:
    code = sass(latent_kernel(latent_tiles(kv, 16, 64)))
    names = [name for name, _ in code.instructions]
    streams = [i for i, name in enumerate(names) if "LTC256B" in name]
    assert len(streams) == loads + 4 * (kv == "bf16")  # RoPE: 8 bytes a lane, of int8 a plain word
    assert max(streams) < names.index("HMMA.16816.F32.BF16" if kv == "bf16" else "HMMA.16816.F32")
    assert code.count("HMMA") == 2 * (2 * 9 + 16)
    assert code.count("MOVM.16.MT88") == 64
    assert code.count("BAR.SYNC") == 1  # of a turn: scores are added up on two sides
    assert code.local == code.stack_bytes == code.doubles == 0
    assert code.registers <= 255  # two blocks of 128 threads share 65536
