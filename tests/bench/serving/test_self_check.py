"""The client measured against a server that says when it sent: what it added, and which points that spoils."""

from __future__ import annotations

import json
import socket
from dataclasses import replace

import pytest

from membound.bench.serving import self_check
from membound.bench.serving.client import Played
from membound.bench.serving.load import LoadPoint
from membound.bench.serving.null_process import null_process
from membound.bench.serving.null_server import Script
from membound.bench.serving.raw import RawAnswer
from membound.bench.serving.self_check import FEWEST, added_reasons, measure_client, measured_of
from membound.results.serving.point import point_of
from membound.results.serving.request import Request
from membound.results.serving.window import Window

pytest.importorskip("uvloop")

MS = 1_000_000


def answer(
    came_ms: list[float], sent_ms: list[float], asked_ms: float = 0.0, had_ms: float = 0.0
) -> RawAnswer:
    """Asked at `asked_ms`, which the server's kernel had at `had_ms`; chunks left at `sent_ms` and came at `came_ms`."""
    raw = RawAnswer(0, sent_ns=int(asked_ms * MS))
    for number, (came, sent) in enumerate(zip(came_ms, sent_ms, strict=True)):
        told = {"choices": [{"text": " w"}], "r_ns": int(had_ms * MS), "t_ns": int(sent * MS)}
        raw.feed(int(came * MS), number, b"data: " + json.dumps(told).encode() + b"\n\n")
    return raw


def test_what_was_added_is_the_difference_of_both_clocks() -> None:
    played = Played(0, [answer([53.0, 71.0, 95.0], [51.0, 70.0, 92.0], 0.0, 1.0)], [MS, 3 * MS], cpu_s=0.3)
    found = measured_of(played)
    assert found["added_ttft_p50_s"] == pytest.approx(0.003)
    assert found["added_itl_p50_s"] == pytest.approx(0.0015)
    assert (found["requests"], found["chunks"]) == (1, 3)
    assert found["cpu_per_chunk_s"] == pytest.approx(0.1)
    assert found["lag_p99_s"] == pytest.approx(0.00298)


def test_without_a_token_nothing_is_known() -> None:
    found = measured_of(Played(0, [RawAnswer(0)]))
    assert (found["added_ttft_p99_s"], found["cpu_per_chunk_s"]) == (None, None)


def test_a_point_is_about_the_client_where_it_adds_a_tenth() -> None:
    point = point_of(
        [Request(1.0, 1.0, [1.1, 1.12], [1, 1], [0, 1], ended_s=1.2)], Window(0.0, 2.0)
    )  # 100 ms, 20 ms
    assert added_reasons({"added_ttft_p99_s": 0.009, "added_itl_p99_s": 0.0019}, point) == []
    (ttft,) = added_reasons({"added_ttft_p99_s": 0.011, "added_itl_p99_s": 0.0019}, point)
    assert "adds 11 ms to first tokens" in ttft
    (itl,) = added_reasons({"added_ttft_p99_s": None, "added_itl_p99_s": 0.0021}, point)
    assert "gaps between tokens" in itl


@pytest.mark.parametrize("point", [LoadPoint("rate", 4.0), LoadPoint("users", 2.0)])
def test_the_client_is_measured_in_another_process(point: LoadPoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "CHECK_S", 0.3)
    monkeypatch.setattr(self_check, "TOKENS", 8)
    monkeypatch.setattr(self_check, "SCRIPT", replace(self_check.SCRIPT, ttft_s=0.01, itl_s=0.005))
    found = measure_client(point, due_per_s=4.0)
    assert found["requests"] >= (FEWEST if point.kind == "rate" else 2)
    assert found["chunks"] == 8 * found["requests"]
    assert found["added_ttft_p50_s"] > 0


def test_the_process_is_gone_afterwards() -> None:
    with (
        null_process(Script(0.001, 0.001)) as endpoint,
        socket.create_connection(("127.0.0.1", endpoint.port)),
    ):
        pass
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", endpoint.port), timeout=5)
