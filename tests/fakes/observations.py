"""Observations as `membound claim` would store them, for tests of what is made from them."""

from __future__ import annotations

from typing import Any

from membound.results.claim.observation import ClaimMeta, Observation

WORK = "linear:n=4096,k=4096,m=1,weight=f32,act=float"


def seen(time_s: float | None = 0.01, **values: Any) -> Observation:
    """An observation of experiment 1 with a clean time, unless told otherwise."""
    base: dict[str, Any] = {
        "experiment": 1,
        "backend": "alpha:cpu",
        "arm": "linear_f32",
        "replicate": 0,
        "factors": {"k": 0.0},
        "work": WORK,
        "bytes": 67_000_000,
        "flops": 33_000_000,
        "samples_s": [] if time_s is None else [time_s],
        "validity": "clean",
        "threads": 2,
        "read_bytes_per_s": 3e10,
        "compute_flops_per_s": 3e11,
        "launch_s": 1e-6,
    }
    return Observation(time_s=time_s, **(base | values))


def meta(**values: Any) -> ClaimMeta:
    """The first line of a claim file."""
    base: dict[str, Any] = {
        "claim_id": "20260101T000000-test-cpu-aaaa",
        "experiments_version": 1,
        "experiments_sha256": "0" * 64,
        "machine": {"cpu": "Test CPU", "cores": 2, "last_level_cache_bytes": 1 << 20},
        "threads": 2,
        "seed": 1,
        "started_at": "2026-01-01T00:00:00+00:00",
    }
    return ClaimMeta(**(base | values))
