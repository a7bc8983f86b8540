"""Points of load as a run would store them, with answers that come evenly."""

from __future__ import annotations

from typing import Any

from membound.results.row import Row
from membound.results.serving.request import Request

STEP = {
    "weights_bytes": 1e6,
    "sequence_bytes": 1e3,
    "context_bytes": 100.0,
    "sequence_flops": 2e6,
    "context_flops": 0.0,
}
WORK = "step:model=tiny,batch=1,context=1024,weight=f32,kv=f32,act=float,cache=prompt"


def request(first_s: float, itl_s: float, tokens: int = 11, prompt: int = 94) -> Request:
    arrivals = [first_s + i * itl_s for i in range(tokens)]
    return Request(
        0.0, 0.0, arrivals, [1] * tokens, [*range(tokens)], ended_s=arrivals[-1], prompt_tokens=prompt
    )


def row(users: int, itl_s: float, **config: Any) -> Row:
    usual: dict[str, Any] = {
        "users": users,
        "warm_s": 0.0,
        "end_s": 10.0,
        "roofline": {
            "work": WORK,
            "step": STEP,
            "ceilings": [{"read": 1e8, "fma_f32": 1e9}, {"read": 2e8, "fma_f32": 1e9}, {"read": 1e8}],
        },
        "server": {"mean_itl_s": 0.9 * itl_s, "client_mean_itl_s": itl_s},
        "client": {"null_server": {"added_itl_p50_s": 0.01 * itl_s}},
    }
    requests = [request(1.0, itl_s) for _ in range(users)]
    return Row(
        "a-run", "serving", "null", f"serving:users={users}", "ok", requests=requests, config=usual | config
    )
