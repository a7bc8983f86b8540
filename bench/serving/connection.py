"""One connection to a server: sends a request, keeps what comes with the time at which it came.

>>> connection = await Connection.open(endpoint, Limits())
>>> raw = await connection.ask("completions", body, due_ns=time.monotonic_ns())
>>> raw.end, len(raw.parts)
('complete', 64)

On Linux without TLS each read has the time at which the kernel received its last byte (SO_TIMESTAMPNS through recvmsg): that a
client is busy adds nothing to it. Elsewhere it is the time of reading, and `kernel_times` says so. Every wait has a limit.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from membound.bench.serving.endpoint import Endpoint
from membound.bench.serving.raw import MOST_BYTES, RawAnswer

_SO_TIMESTAMPNS = 35  # Linux: asm-generic/socket.h; Python has no name for it
_TIMESPEC = struct.Struct("qq")
READ_BYTES = 1 << 16
CLOCK_TRIES = 8
CLOCK_APART_NS = 20_000
"""Three readings of clocks take less than a microsecond; a process that loses its core between them loses milliseconds."""
NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds."""

    connect_s: float = 10.0
    idle_s: float = 60.0
    """Between two reads of one answer, the first of them too."""
    total_s: float = 600.0

    @classmethod
    def within(cls, total_s: float) -> Self:
        """No wait longer than that, and none longer than by default."""
        usual = cls()
        return cls(min(usual.connect_s, total_s), min(usual.idle_s, total_s), total_s)


class Wire(asyncio.Protocol):
    """Bytes with times, whoever reads them: `on_bytes(when, data)`, `on_end(why)`."""

    def __init__(self) -> None:
        self.on_bytes: Callable[[int, bytes], None] = lambda at, data: None
        self.on_end: Callable[[str], None] = lambda why: None
        self.ended = False

    def end(self, why: str) -> None:
        """Say once that nothing will come any more."""
        if not self.ended:
            self.ended = True
            self.on_end(why)


class KernelWire(Wire):
    """A socket of our own, read with the kernel's times."""

    kernel_times = True

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._sock, self._loop = sock, asyncio.get_running_loop()
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._loop.add_reader(sock.fileno(), self._read)

    def _read(self) -> None:
        try:
            data, ancillary, _, _ = self._sock.recvmsg(READ_BYTES, 64)
        except BlockingIOError:
            return
        except OSError as error:
            self._stop(error.strerror or str(error))
            return
        if not data:
            self._stop("the server closed the connection")
            return
        self.on_bytes(_kernel_ns(ancillary), data)

    def _stop(self, why: str) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self.end(why)

    async def send(self, data: bytes) -> None:
        """Hand all of it to the system."""
        await self._loop.sock_sendall(self._sock, data)

    def close(self) -> None:
        """Close it."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
        self.end("closed")


class ReadWire(Wire):
    """A connection of the event loop's, TLS included, read with the time of reading."""

    kernel_times = False

    def connection_made(self, transport: Any) -> None:
        """Called by the loop."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self.on_bytes(time.monotonic_ns(), data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self.end(str(exc) if exc else "the server closed the connection")

    async def send(self, data: bytes) -> None:
        """Hand all of it to the loop, which sends at once what the system takes."""
        self._transport.write(data)

    def close(self) -> None:
        """Close it."""
        self._transport.abort()


def _kernel_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    """When the kernel received the last bytes, by CLOCK_MONOTONIC; now, where it does not say."""
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, ns = _TIMESPEC.unpack(value[: _TIMESPEC.size])
            now, wall = _both_clocks()
            age = wall - (seconds * NS + ns)
            return now - age if 0 <= age < NS else now  # a wall clock that was set meanwhile tells nothing
    return time.monotonic_ns()


def _both_clocks() -> tuple[int, int]:
    """CLOCK_MONOTONIC and the wall clock of the same moment: read again if the process lost its core in between."""
    for _ in range(CLOCK_TRIES):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        if after - before < CLOCK_APART_NS:
            break
    return (before + after) // 2, wall


class Connection:
    """Made by `open`. One answer at a time."""

    def __init__(self, endpoint: Endpoint, wire: KernelWire | ReadWire, limits: Limits) -> None:
        import httptools

        self._httptools = httptools
        self._endpoint, self._wire, self._limits = endpoint, wire, limits
        self._raw: RawAnswer | None = None
        self._done: asyncio.Future[None] | None = None
        self._reads, self._kept = 0, False
        self._at_ns = self._moved_ns = 0
        wire.on_bytes, wire.on_end = self._bytes, self._ended

    @classmethod
    async def open(cls, endpoint: Endpoint, limits: Limits) -> Self:
        """Raises OSError (of which a refused or late connection is one) with the system's words."""
        try:
            async with asyncio.timeout(limits.connect_s):
                return cls(endpoint, await _wire(endpoint), limits)
        except TimeoutError:
            raise OSError(f"no connection within {limits.connect_s:g} s") from None

    @property
    def usable(self) -> bool:
        """Whether another request may be sent on it."""
        return not self._wire.ended and self._raw is None

    @property
    def kernel_times(self) -> bool:
        """Whether times are the kernel's."""
        return self._wire.kernel_times

    async def ask(self, name: str, body: bytes, due_ns: int, raw: RawAnswer | None = None) -> RawAnswer:
        """POST `body` and wait for the end of its answer, however that comes; `raw` is filled if it is given."""
        return await self.request("POST", self._endpoint.path(name), body, raw or RawAnswer(due_ns))

    async def request(self, method: str, path: str, body: bytes, raw: RawAnswer) -> RawAnswer:
        """The same with a method and a whole path."""
        self._raw, due_ns = raw, raw.due_ns
        done = self._done = asyncio.get_running_loop().create_future()
        self._parser = self._httptools.HttpResponseParser(self)
        limits, now = self._limits, time.monotonic_ns
        started = self._moved_ns = now()
        try:
            async with asyncio.timeout(limits.total_s):
                raw.sent_ns = self._at_ns = max(
                    now(), due_ns
                )  # before: the answer may be there when sending returns
                await self._wire.send(self._endpoint.head(method, path, len(body)) + body)
                while not done.done():
                    idle_s = limits.idle_s - (now() - self._moved_ns) / NS
                    if idle_s <= 0:
                        raw.finish("stalled", now(), f"no byte for {limits.idle_s:g} s")
                        break
                    await asyncio.wait({done}, timeout=idle_s)
        except TimeoutError:
            raw.finish("timeout", now(), f"not at its end after {(now() - started) / NS:.0f} s")
        except OSError as error:
            raw.finish("closed" if raw.parts else "unreachable", now(), error.strerror or str(error))
        finally:
            self._raw = self._done = None
            if raw.end != "complete" or not self._kept:
                self.close()
        return raw

    def close(self) -> None:
        """Close it; a request under way ends as closed."""
        self._wire.close()

    # The wire

    def _bytes(self, at_ns: int, data: bytes) -> None:
        if self._raw is None:
            self._wire.end("the server sent what nobody asked for")
            return
        self._reads += 1
        self._moved_ns = time.monotonic_ns()
        self._at_ns = min(max(at_ns, self._at_ns), self._moved_ns)  # what comes later came no earlier
        try:
            self._parser.feed_data(data)
        except self._httptools.HttpParserError as error:
            self._finish("not http", " ".join(str(error).split())[:120])
        if self._raw is not None and self._raw.size > MOST_BYTES:
            self._finish("flooded", f"more than {MOST_BYTES >> 20} MiB")

    def _ended(self, why: str) -> None:
        if self._raw is not None and not self._raw.end:
            with suppress(self._httptools.HttpParserError):
                self._raw.status = self._raw.status or self._parser.get_status_code()
            self._finish("closed", why)

    def _finish(self, end: str, why: str = "") -> None:
        if self._raw is not None and self._done is not None and not self._done.done():
            self._raw.finish(end, time.monotonic_ns() if end != "complete" else self._at_ns, why)
            self._done.set_result(None)

    # Called by httptools

    def on_headers_complete(self) -> None:
        """The status is known."""
        if self._raw is not None:
            self._raw.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if self._raw is not None:
            self._raw.feed(self._at_ns, self._reads, body)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        self._kept = self._parser.should_keep_alive()
        self._finish("complete")


async def _wire(endpoint: Endpoint) -> KernelWire | ReadWire:
    loop = asyncio.get_running_loop()
    if endpoint.tls or sys.platform != "linux":
        context = ssl.create_default_context() if endpoint.tls else None
        _, made = await loop.create_connection(ReadWire, endpoint.host, endpoint.port, ssl=context)
        return made
    sock = await _connected(endpoint.host, endpoint.port)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return KernelWire(sock)


async def _connected(host: str, port: int) -> socket.socket:
    """A socket to the first address that takes it."""
    loop = asyncio.get_running_loop()
    last: OSError = OSError(f"{host} has no address")
    for family, kind, proto, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, proto)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            last = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise last
