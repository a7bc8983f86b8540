"""Loads that are over in a second."""

from __future__ import annotations

from typing import Any

from membound.bench.serving.connection import Limits
from membound.bench.serving.endpoint import Endpoint
from membound.bench.serving.lengths import parse_lengths
from membound.bench.serving.load import Load
from membound.bench.serving.served import parse_served

SERVED = parse_served("step:model=tiny,weight=f32,layers=1")


def load(**more: Any) -> Load:
    usual: dict[str, Any] = {
        "users": (2,),
        "seconds": 0.5,
        "warm_s": 0.0,
        "drain_s": 2.0,
        "prompt": parse_lengths("6"),
        "output": parse_lengths("3"),
        "limits": Limits.within(5.0),
    }
    return Load(Endpoint("127.0.0.1", 0), **(usual | more))
