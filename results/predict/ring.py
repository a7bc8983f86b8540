"""What devices that share a step send each other.

>>> ring_bytes(devices=2, payload=8192)
8192.0
"""

from __future__ import annotations

ALL_REDUCES = 2
"""A layer has two: after attention and after the MLP (Megatron-LM, arXiv 1909.08053)."""


def ring_bytes(devices: float, payload: float) -> float:
    """What each device of a ring sends in an all-reduce of that many bytes."""
    return 2 * (devices - 1) / devices * payload
