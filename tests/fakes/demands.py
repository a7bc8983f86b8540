"""Demands, offers and measured rows for tests of predictions: round numbers, easy to compute by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from membound.results.predict.demand import Demand, Measured, Offer

DEMAND = Demand(
    work="step:model=hand,batch=1",
    kind="decode",
    storage="float",
    arithmetic="bf16",
    mixture=False,
    weights_bytes=9e9,
    cache_bytes=1e9,
    flops=20e9,
    layers=32,
    hidden=4096,
    batch=1,
    resident_bytes=10e9,
    token_cache_bytes=1e5,
    context=1000,
)
OFFER = Offer("gpu", 500e9, 100e12)


def demand(**changes: Any) -> Demand:
    """DEMAND with changes."""
    return replace(DEMAND, **changes)


def offer(**changes: Any) -> Offer:
    """OFFER with changes."""
    return replace(OFFER, **changes)


def row(device: str, seconds: float, group: str = "single", **changes: Any) -> Measured:
    """A measured row of DEMAND on a device like OFFER."""
    return Measured(f"{device} {seconds}", device, group, DEMAND, offer(**changes), seconds, "test", "a row")
