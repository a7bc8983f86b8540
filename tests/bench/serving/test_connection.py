"""A connection against the server that misbehaves on purpose: each fault is told for what it is."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from servers import bad_server, half_open

from membound.bench.serving import connection
from membound.bench.serving.answer import events, read_answer
from membound.bench.serving.connection import Connection, Limits
from membound.bench.serving.endpoint import Endpoint, parse_url
from membound.bench.serving.null_server import FAULTS, NullServer, Script
from membound.bench.serving.raw import RawAnswer
from membound.results.serving.request import Request

pytest.importorskip("httptools")

TOKENS = 6
QUICK = Script(ttft_s=0.01, itl_s=0.005)
LIMITS = Limits(connect_s=5, idle_s=0.3, total_s=20)
PLAIN = {"max_tokens": TOKENS, "stream": True, "stream_options": {"include_usage": True}}
COMPLETION = PLAIN | {"prompt": [1, 2, 3], "return_token_ids": True}
CHAT = PLAIN | {"messages": [{"role": "user", "content": "a b c"}]}


def with_server(script: Script, do: Callable[[Endpoint], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        server = NullServer(script)
        endpoint = Endpoint("127.0.0.1", await server.open())
        try:
            return await do(endpoint)
        finally:
            await server.close()

    return asyncio.run(run())


async def asked(endpoint: Endpoint, body: dict[str, Any], limits: Limits = LIMITS) -> RawAnswer:
    one = await Connection.open(endpoint, limits)
    try:
        name = "chat/completions" if "messages" in body else "completions"
        return await one.ask(name, json.dumps(body).encode(), time.monotonic_ns())
    finally:
        one.close()


def request(script: Script, body: dict[str, Any]) -> Request:
    raw = with_server(script, lambda endpoint: asked(endpoint, body))
    return read_answer(raw, raw.due_ns, TOKENS)


@pytest.mark.parametrize("steps", [False, True])
@pytest.mark.parametrize("body", [COMPLETION, CHAT], ids=["completion", "chat"])
def test_an_answer_has_a_time_for_each_token(body: dict[str, Any], steps: bool) -> None:
    one = request(Script(0.01, 0.005, steps), body)
    assert (one.outcome, one.reason, one.tokens) == ("ok", "", [1] * TOKENS)
    assert one.counted_by == ("ids" if body is COMPLETION else "usage")
    assert one.arrivals_s == sorted(one.arrivals_s)
    assert one.arrivals_s[0] >= 0.005


EXPECTED = {
    "429": ("refused", "HTTP 429: slow down"),
    "503": ("refused", "HTTP 503: overloaded"),
    "no-stream-options": ("refused", "stream_options"),
    "no-token-ids": ("refused", "return_token_ids"),
    "error-event": ("failed", "EngineDeadError"),
    "garbage": ("broken", "no JSON"),
    "cut": ("cut", "reset"),
    "close": ("cut", "closed"),
    "stall": ("stalled", "no byte for 0.3 s"),
    "hang": ("stalled", "no byte for 0.3 s"),
    "short": ("short", "3 tokens, 6 were asked for"),
    "no-http": ("broken", ""),
}
"""What is not here is answered, only differently."""


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_told_for_what_it_is(fault: str) -> None:
    one = request(Script(0.01, 0.005, fault=fault), CHAT if fault == "reasoning" else COMPLETION)
    outcome, words = EXPECTED.get(fault, ("ok", ""))
    assert one.outcome == outcome, one.reason
    assert words in one.reason
    if outcome == "ok":
        assert one.output_tokens == TOKENS


def test_chunks_of_four_tokens_are_four_tokens() -> None:
    assert request(Script(0.01, 0.005, fault="multi"), COMPLETION).tokens == [4, 2]
    told = request(Script(0.01, 0.005, fault="multi"), PLAIN | {"prompt": "a b"})
    assert (told.output_tokens, told.chunks_told, told.counted_by) == (TOKENS, False, "usage")


def test_a_connection_is_used_again_and_never_after_its_end() -> None:
    async def do(endpoint: Endpoint) -> list[Any]:
        one = await Connection.open(endpoint, LIMITS)
        ends = []
        for _ in range(3):
            raw = await one.ask("completions", json.dumps(COMPLETION).encode(), time.monotonic_ns())
            ends.append((raw.end, one.usable))
        one.close()
        return [*ends, one.usable]

    assert with_server(QUICK, do) == [("complete", True)] * 3 + [False]


def test_times_are_the_kernels_and_a_busy_client_does_not_move_them() -> None:
    async def do(endpoint: Endpoint) -> RawAnswer:
        one = await Connection.open(endpoint, LIMITS)
        task = asyncio.create_task(
            one.ask("completions", json.dumps(COMPLETION).encode(), time.monotonic_ns())
        )
        await asyncio.sleep(0.008)
        raw = await task
        one.close()
        return raw

    raw = with_server(QUICK, do)
    added = [at - json.loads(data)["t_ns"] for at, _, data in events(raw) if b"t_ns" in data]
    assert len(added) == TOKENS
    assert min(added) >= 0, "nothing arrives before it is sent"
    assert raw.stamped
    assert not raw.unstamped


def test_a_whole_that_is_too_long_is_a_timeout() -> None:
    raw = with_server(
        Script(0.01, 0.05), lambda endpoint: asked(endpoint, COMPLETION, Limits(5, 5, total_s=0.1))
    )
    assert read_answer(raw, 0, TOKENS).outcome == "timeout"


def test_where_nobody_listens_the_system_says_so() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(OSError, match="Connection refused"):
        asyncio.run(Connection.open(Endpoint("127.0.0.1", port), LIMITS))


def test_a_server_that_never_takes_a_connection_is_given_up() -> None:
    async def do() -> None:
        await Connection.open(Endpoint("127.0.0.1", port), Limits(connect_s=0.1))

    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        others = [socket.socket() for _ in range(4)]
        for one in others:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        with pytest.raises(OSError, match=r"no connection within 0\.1 s"):
            asyncio.run(do())
        for one in others:
            one.close()


HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def framed(*events: bytes) -> list[bytes]:
    """A chunk of HTTP for each."""
    return [b"%x\r\n%b\r\n" % (len(one), one) for one in events]


def told_by(*segments: bytes, limits: Limits = LIMITS) -> RawAnswer:
    """The answer that arrives in these segments."""

    def talk(sock: socket.socket, over: threading.Event) -> None:
        sock.recv(65536)
        for one in segments:
            sock.sendall(one)
            time.sleep(0.02)
        over.wait(5)

    with bad_server(talk) as url:
        endpoint = parse_url(url)
        return asyncio.run(asked(endpoint, COMPLETION, limits))


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b"0\r\nx-took: 3\r\n\r\n", b"\n\r\n0\r\n\r\n"])
def test_an_answer_is_whole_when_http_says_so_and_not_when_it_looks_so(end: bytes) -> None:
    """Events whose lines end with CR LF, and one that is cut where a whole answer would end."""
    chunks = framed(b"data: 10\r\n\r\n", b"data: 20\r\n\r\n")
    last = framed(b"data: 30\n\n")[0]
    split = (chunks[1][:-2], chunks[1][-2:])
    before = last if end.startswith(b"0") else last[:-3]
    raw = told_by(HEAD + chunks[0], *split, before, end)
    assert raw.end == "complete", raw.why
    found = list(events(raw))
    assert [data for *_, data in found] == [b"10", b"20", b"30"]
    assert [read for _, read, _ in found][:2] == [0, 1]
    assert raw.ended_ns is not None
    assert raw.ended_ns > found[1][0]


def test_garbage_within_a_stream_is_told_when_nothing_more_comes() -> None:
    raw = told_by(HEAD + framed(b"data: 1\n\n")[0], b"this is no chunk\r\n")
    assert (raw.end, [part for *_, part in raw.parts]) == ("not http", [b"data: 1\n\n"])


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    def talk(sock: socket.socket, over: threading.Event) -> None:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\ndata: [DONE]\n\n")

    with bad_server(talk) as url:
        raw = asyncio.run(asked(parse_url(url), COMPLETION))
    assert (raw.end, raw.status, raw.parts[0][2]) == ("closed", 200, b"data: [DONE]\n\n")


def test_a_flood_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MOST_BYTES", 2000)
    raw = told_by(HEAD + framed(b"x" * 3000)[0])
    assert raw.end == "flooded"


def test_a_server_that_takes_no_more_of_a_request_is_given_up() -> None:
    async def do(endpoint: Endpoint) -> RawAnswer:
        one = await Connection.open(endpoint, LIMITS)
        return await one.ask("completions", bytes(32 << 20), time.monotonic_ns())

    with bad_server(half_open) as url:
        raw = asyncio.run(do(parse_url(url)))
    assert (raw.end, raw.why) == ("stalled", "it took no byte for 0.3 s")
    assert raw.status == 0
