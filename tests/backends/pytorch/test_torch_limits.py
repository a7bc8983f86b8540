"""The limits that torch offers of a device: each right, each checked, each a ceiling."""

from __future__ import annotations

import pytest
from fake_accelerator import install

from membound.backends.pytorch import limits as torch_limits
from membound.backends.pytorch.backend import PyTorch
from membound.bench.ceilings.device import measure_device_ceilings


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("QUICK_ARRAY_BYTES", 1 << 16), ("QUICK_GEMM_SIZE", 64), ("LINK_BYTES", 1 << 14)):
        monkeypatch.setattr(torch_limits, name, value)


@pytest.mark.usefixtures("device", "small")
def test_every_limit_of_a_device_is_offered_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = PyTorch()
    backend.open("fake:0", 2)
    amounts: dict[str, float] = {}
    spoiled: set[str] = set()
    for limit in backend.limits(quick=True):
        limit.launch(0)
        assert limit.check(), limit.name
        amounts[limit.name] = limit.amount
        cells = [cell.cell_contents for cell in limit.launch.__closure__ or ()]
        for result in (c for c in cells if isinstance(c, torch_limits.Result)):
            result.keep(result.value * 2)
            assert not limit.check(), f"{limit.name} is checked"
            spoiled.add(limit.name)
    assert spoiled == {"read", "read_l2", "gemm_int8", "gemm_fp8"}
    assert amounts == {
        "read": 8 << 16,  # eight times the cache
        "copy": 2 * 8 << 16,
        "triad": 3 * 8 << 16,
        "read_l2": 64 * (1 << 15),
        **dict.fromkeys(("host_to_device_pinned", "device_to_host_pinned"), 1 << 14),
        **dict.fromkeys(("host_to_device_pageable", "device_to_host_pageable"), 1 << 14),
        **dict.fromkeys(("gemm_int8", "gemm_fp8"), 2 * 64**3),
    }


@pytest.mark.usefixtures("device", "small")
def test_limits_become_ceilings_and_variants_do_not_repeat_them() -> None:
    backend = PyTorch()
    opened = backend.open("fake:0", 2)
    ceilings = {c.name: c for c in measure_device_ceilings(backend, opened, True, lambda _: None)}
    assert len(ceilings) == 10
    assert all(c.status == "ok" and c.value and len(c.samples) == 5 for c in ceilings.values())
    assert ceilings["copy"].config == {
        "backend": "torch:fake:0",
        "threads": 2,
        "array_bytes": 8 << 16,
        "variant": "copy_",
        "arrays": 2,
    }
    backend.open("fake:0+graph", 2)
    assert list(backend.limits(quick=True)) == []
