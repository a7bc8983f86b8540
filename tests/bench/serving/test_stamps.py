"""The kernel's times are there before the first byte that matters, and a client gets on where there are none."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import sys
import time

import pytest

from membound.bench.serving import stamps, wires
from membound.bench.serving.connection import Connection, Limits
from membound.bench.serving.endpoint import Endpoint
from membound.bench.serving.null_server import NullServer, Script
from membound.bench.serving.stamps import CONTROL_BYTES, MOST_S, ask_for_stamps, stamps_on

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SO_TIMESTAMPNS is Linux's")


def first_byte_is_stamped() -> bool:
    """Of a connection that asked for stamps just now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with theirs, ours:
        ask_for_stamps(ours)
        theirs.sendall(b"x")
        return bool(ours.recvmsg(1, CONTROL_BYTES)[1])


def test_the_first_byte_of_every_connection_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "MOST_S", 20.0)  # the kernel's worker waits for its turn on a busy machine
    for _ in range(20):
        with stamps_on() as on:
            assert on
            assert all(first_byte_is_stamped() for _ in range(20))
        time.sleep(0.01)  # the kernel stops some time after the last


def test_a_kernel_that_knows_no_stamps_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "_SO_TIMESTAMPNS", 9999)
    with pytest.raises(OSError, match="not available"):
        first_byte_is_stamped()
    monkeypatch.setattr(stamps, "MOST_S", 60.0)
    began = time.monotonic()
    with stamps_on() as on:
        assert not on
    assert time.monotonic() - began < 30


def test_without_another_open_file_a_load_goes_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "create_server", refused)
    with stamps_on() as on:
        assert not on


def test_one_that_never_stamps_is_waited_for_that_long_and_nothing_stays_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(stamps, "ask_for_stamps", lambda sock: None)
    began = time.monotonic()
    with stamps_on() as on:
        assert not on
    assert MOST_S <= time.monotonic() - began < MOST_S + 10
    assert set(os.listdir("/proc/self/fd")) == before


def test_without_stamps_reads_have_the_times_of_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(sock: socket.socket) -> None:
        raise OSError

    async def asked() -> tuple[int, int, list[int]]:
        server = NullServer(Script(ttft_s=0.001, itl_s=0.001))
        port = await server.open()
        monkeypatch.setattr(wires, "ask_for_stamps", refused)
        one = await Connection.open(Endpoint("127.0.0.1", port), Limits())
        body = json.dumps({"model": "null", "prompt": [1], "max_tokens": 4, "stream": True}).encode()
        began = time.monotonic_ns()
        raw = await one.ask("completions", body, began)
        one.close()
        await server.close()
        return raw.stamped, raw.unstamped, [began, *(at for at, _, _ in raw.parts), time.monotonic_ns()]

    stamped, unstamped, times = asyncio.run(asked())
    assert stamped == 0
    assert unstamped >= 4
    assert times == sorted(times)
