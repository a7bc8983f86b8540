"""Caches, ridges and sizes of works follow from what was measured on a backend's own device."""

from __future__ import annotations

import pytest
from rows import ceiling

from membound.bench.claim.arms import DUTIES, arms_of
from membound.bench.claim.scene import MOST_SCALE, Scene, scene_of
from membound.results.row import Row

MACHINE = {"last_level_cache_bytes": 300 << 20, "l2_bytes": 4 << 20, "cores": 2, "hypervisor": True}


def limits(backend: str, read: float, fma: float, tile: float = 0.0) -> list[Row]:
    rows = [ceiling("read", read, "bytes/s", backend), ceiling("fma_f32", fma, "FLOP/s", backend)]
    return rows + ([ceiling("tile_bf16", tile, "FLOP/s", backend)] if tile else [])


def scene(backend: str, rows: list[Row], threads: int = 2, machine: dict | None = None, **more: int) -> Scene:
    return scene_of(backend, machine or MACHINE, rows, threads, 1 << 40, 1, **more)


def test_a_processor() -> None:
    found = scene("alpha:cpu", limits("alpha:cpu", 3e10, 3.3e11, 2.1e12))
    assert (found.cache_bytes, found.core_cache_bytes, found.co_runner_cores, found.scale) == (
        300 << 20,
        4 << 20,
        1,
        1,
    )
    assert found.ridge == pytest.approx(11)
    assert (found.floats, found.spatial) == ("f32", False)
    assert found.knee_rows == pytest.approx(70)  # bf16 on matrix tiles; 22 for float32
    rows = {arm.factors["m"] for arm in arms_of(3, found)}
    assert max(rows) == 256
    assert scene("alpha:cpu", limits("alpha:cpu", 3e10, 3e11), threads=1).ridge == 0.0  # other threads
    alone = scene("alpha:cpu", limits("alpha:cpu", 3e10, 3e11), machine=MACHINE | {"hypervisor": False})
    assert alone.core_cache_bytes == 0


def test_a_gpu_has_its_own_cache_and_larger_works_and_shares_itself_with_a_co_runner() -> None:
    rows = [*limits("alpha:cpu", 3e10, 3e11), *limits("alpha:cuda:0", 3e12, 6e13)]
    rows.append(ceiling("gemm_bf16", 9e14, "FLOP/s", "alpha:cuda:0"))
    found = scene("alpha:cuda:0", rows, device_cache_bytes=50 << 20)
    assert (found.cache_bytes, found.core_cache_bytes) == (50 << 20, 0)
    assert (found.co_runner_cores, found.spatial) == (1, True)
    assert (found.scale, found.floats, found.variants) == (MOST_SCALE, "bf16", ())
    assert found.knee_rows == pytest.approx(300)
    assert {(arm.trade, arm.duty) for arm in arms_of(4, found)} == {
        (trade, duty) for trade in ("idle", "bandwidth", "fma") for duty in DUTIES
    }
    assert min(arm.parsed.traffic.total_bytes for arm in arms_of(4, found)) / 3e12 > 5e-5
    assert max(arm.factors["m"] for arm in arms_of(3, found)) == 1024
    sizes = [arm.parsed.footprint_bytes for arm in arms_of(5, found)]
    assert sizes[0] < 20 << 20
    assert sizes[-1] > 390 << 20
    moved = min(arm.parsed.traffic.total_bytes for arm in arms_of(2, found) if arm.name == "kv_heads")
    assert moved / 3e12 > 5e-5


def test_without_ceilings_nothing_is_assumed() -> None:
    found = scene("alpha:cpu", [])
    assert (found.ridge, found.knee_rows, found.scale) == (0.0, 0.0, 1)
    assert arms_of(1, found) == []
    assert len(arms_of(3, found)) > 10
