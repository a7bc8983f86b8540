"""Bytes from a socket with the time of each read: the kernel's where it tells it, else that of reading.

>>> wire = await open_wire(endpoint)
>>> wire.on_reads, wire.on_end = took, ended

On Linux without TLS each read comes with the time at which the kernel received its last byte (SO_TIMESTAMPNS through recvmsg),
as it is; `clocks.py` makes sense of it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
from collections.abc import Callable
from contextlib import suppress
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from membound.bench.serving.endpoint import Endpoint
from membound.bench.serving.raw import Read
from membound.bench.serving.stamps import CONTROL_BYTES, ask_for_stamps

if TYPE_CHECKING:
    from membound.bench.serving.rounds import Rounds

READ_BYTES = 1 << 13
"""Python allocates as much for each read and gives back the rest: from 64 KiB on glibc then tidies its whole heap each time."""


class Wire(asyncio.Protocol):
    """Whoever reads them: `on_reads`, each (when, struct timespec of the wall clock or b"", bytes) in order, and `on_end(why)`."""

    def __init__(self) -> None:
        self.on_reads: Callable[[list[Read]], None] = lambda reads: None
        self.on_end: Callable[[str], None] = lambda why: None
        self.ended = False

    def keep(self, kept: bool) -> None:
        """Whether bytes may be kept until what comes may be the last of a chunked answer; here they never are."""

    def gather(self) -> bool:
        """Hand on what is kept, and whether anything was."""
        return False

    def end(self, why: str) -> None:
        """Say once that nothing will come any more."""
        if not self.ended:
            self.ended = True
            self.on_end(why)


class KernelWire(Wire):
    """A socket of our own, read with the kernel's times where it tells them."""

    def __init__(self, sock: socket.socket, rounds: Rounds | None = None) -> None:
        super().__init__()
        self._sock, self._loop, self._rounds = sock, asyncio.get_running_loop(), rounds
        with suppress(OSError):  # then each is read without
            ask_for_stamps(sock)
        if rounds is None:
            self._loop.add_reader(sock.fileno(), self._read)
        else:
            rounds.add(sock.fileno(), self._noticed)

    def keep(self, kept: bool) -> None:
        """Read in rounds, they may be kept."""
        if self._rounds is not None:
            self._rounds.keep(self._sock.fileno(), kept)

    def gather(self) -> bool:
        """Hand on what is kept, each with the time of its reading, and whether anything was."""
        kept = [] if self._rounds is None else self._rounds.taken(self._sock.fileno())
        if kept:
            self.on_reads(kept)
        return bool(kept)

    def _noticed(self) -> None:
        ended = self._rounds is not None and self._rounds.ended(self._sock.fileno())
        self.gather()
        if ended and not self.ended:
            self._read()

    def _read(self) -> None:
        try:
            data, control, _, _ = self._sock.recvmsg(READ_BYTES, CONTROL_BYTES)
        except BlockingIOError:
            if self._rounds is not None:
                self._rounds.go_on(self._sock.fileno())
            return
        except OSError as error:
            self._stop(error.strerror or str(error))
            return
        if not data:
            self._stop("the server closed the connection")
            return
        stamp = control[0][2] if control else b""  # nothing but times was asked for
        self.on_reads([(monotonic_ns(), stamp, data)])

    def _stop(self, why: str) -> None:
        self._read_no_more()
        self.end(why)

    def _read_no_more(self) -> None:
        if self._rounds is None:
            self._loop.remove_reader(self._sock.fileno())
        else:
            self._rounds.remove(self._sock.fileno())

    async def send(self, data: bytes) -> None:
        """Hand all of it to the system."""
        await self._loop.sock_sendall(self._sock, data)

    def close(self) -> None:
        """Close it."""
        if self._sock.fileno() >= 0:
            self._read_no_more()
            self._sock.close()
        self.end("closed")


class ReadWire(Wire):
    """A connection of the event loop's, TLS included, read with the time of reading."""

    def connection_made(self, transport: Any) -> None:
        """Called by the loop."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self.on_reads([(monotonic_ns(), b"", data)])

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self.end(str(exc) if exc else "the server closed the connection")

    async def send(self, data: bytes) -> None:
        """Hand all of it to the loop, which sends at once what the system takes."""
        self._transport.write(data)

    def close(self) -> None:
        """Close it."""
        self._transport.abort()


async def open_wire(endpoint: Endpoint, rounds: Rounds | None = None) -> KernelWire | ReadWire:
    """A connection to it, read in `rounds` where the kernel tells times. Raises OSError with the system's words."""
    loop = asyncio.get_running_loop()
    if endpoint.tls or sys.platform != "linux":
        context = ssl.create_default_context() if endpoint.tls else None
        _, made = await loop.create_connection(ReadWire, endpoint.host, endpoint.port, ssl=context)
        return made
    sock = await _connected(endpoint.host, endpoint.port)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return KernelWire(sock, rounds)


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
            if error.errno:  # the loop's own words do not say why
                last = OSError(error.errno, os.strerror(error.errno))
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise last
