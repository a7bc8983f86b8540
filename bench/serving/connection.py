"""One connection to a server: sends a request, keeps what comes with the time at which it came.

>>> connection = await Connection.open(endpoint, Limits())
>>> raw = await connection.ask("completions", body, due_ns=monotonic_ns())
>>> raw.end, len(raw.parts)
('complete', 64)

On Linux without TLS each read has the time at which the kernel received its last byte: that a client is busy adds nothing to it.
Elsewhere it is the time of reading, and such reads are counted as `unstamped`. Every wait has a limit.

Of a chunked answer, which a stream of tokens is, bytes are only kept: HTTP's parser gets them when they end as such an answer
may end, or when it is over otherwise.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic_ns
from typing import TYPE_CHECKING, Self

from membound.bench.serving.clocks import NS, Clocks
from membound.bench.serving.endpoint import Endpoint
from membound.bench.serving.raw import MOST_BYTES, RawAnswer, Read
from membound.bench.serving.unpacking import unpack
from membound.bench.serving.wires import KernelWire, ReadWire, open_wire

if TYPE_CHECKING:
    from membound.bench.serving.rounds import Rounds

MAY_END = b"\r\n\r\n"
"""What a chunked answer ends with, trailers or not; a chunk of events does so only where their lines end with CR LF."""
PIECE_BYTES = 1 << 18
"""Of a request: most are one piece, and of a longer one each has the limit of a wait."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds."""

    connect_s: float = 10.0
    idle_s: float = 60.0
    """Between two reads of one answer, the first of them too, and for the server to take a piece of the request."""
    total_s: float = 600.0

    @classmethod
    def within(cls, total_s: float) -> Self:
        """No wait longer than that, and none longer than by default."""
        usual = cls()
        return cls(min(usual.connect_s, total_s), min(usual.idle_s, total_s), total_s)


class Connection:
    """Made by `open`. One answer at a time."""

    def __init__(self, endpoint: Endpoint, wire: KernelWire | ReadWire, limits: Limits) -> None:
        import httptools

        self._httptools = httptools
        self._endpoint, self._wire, self._limits = endpoint, wire, limits
        self._raw: RawAnswer | None = None
        self._done: asyncio.Future[None] | None = None
        self._chunked = self._kept = False
        self._moved_ns = self._fed = 0
        wire.on_reads, wire.on_end = self._came, self._ended

    @classmethod
    async def open(cls, endpoint: Endpoint, limits: Limits, rounds: Rounds | None = None) -> Self:
        """One of many is read in `rounds`. Raises OSError (of which a refused or late connection is one) with the system's words."""
        try:
            async with asyncio.timeout(limits.connect_s):
                return cls(endpoint, await open_wire(endpoint, rounds), limits)
        except TimeoutError:
            raise OSError(f"no connection within {limits.connect_s:g} s") from None

    @property
    def usable(self) -> bool:
        """Whether another request may be sent on it."""
        return not self._wire.ended and self._raw is None

    async def ask(self, name: str, body: bytes, due_ns: int) -> RawAnswer:
        """POST `body` and wait for the end of its answer, however that comes."""
        return await self.request("POST", self._endpoint.path(name), body, RawAnswer(due_ns))

    async def request(self, method: str, path: str, body: bytes, raw: RawAnswer) -> RawAnswer:
        """The same with a method, a whole path and the answer to fill in."""
        clocks = Clocks()
        clocks.sample()
        await self.play(method, path, body, raw)
        clocks.sample()
        unpack(raw, clocks)
        return raw

    async def play(self, method: str, path: str, body: bytes, raw: RawAnswer) -> None:
        """The same, and leave what came as it was read: to be unpacked when there is time."""
        self._raw, due_ns = raw, raw.due_ns
        done = self._done = asyncio.get_running_loop().create_future()
        self._parser = self._httptools.HttpResponseParser(self)
        self._fed = 0
        self._chunked = self._kept = False
        self._wire.keep(False)
        limits, now = self._limits, monotonic_ns
        started = self._moved_ns = now()
        try:
            async with asyncio.timeout(limits.total_s):
                raw.sent_ns = max(now(), due_ns)  # before: the answer may be there when sending returns
                if not await self._sent(self._endpoint.head(method, path, len(body)) + body):
                    self._finish("stalled", f"it took no byte for {limits.idle_s:g} s")
                while not done.done():
                    idle_s = limits.idle_s - (now() - self._moved_ns) / NS
                    if idle_s <= 0 and self._wire.gather():
                        continue
                    if idle_s <= 0:
                        self._finish("stalled", f"no byte for {limits.idle_s:g} s")
                        break
                    await asyncio.wait({done}, timeout=idle_s)
        except TimeoutError:
            self._finish("timeout", f"not at its end after {(now() - started) / NS:.0f} s")
        except OSError as error:
            self._finish("closed" if raw.reads else "unreachable", error.strerror or str(error))
        finally:
            self._wire.gather()
            self._raw = self._done = None
            if raw.end != "complete" or not self._kept:
                self.close()

    async def _sent(self, data: bytes) -> bool:
        """Send it, piece by piece: whether the server took each within the limit of a wait."""
        for start in range(0, len(data), PIECE_BYTES):
            try:
                async with asyncio.timeout(self._limits.idle_s):
                    await self._wire.send(data[start : start + PIECE_BYTES])
            except TimeoutError:
                return False
            self._moved_ns = monotonic_ns()
        return True

    def close(self) -> None:
        """Close it; a request under way ends as closed."""
        self._wire.close()

    # The wire

    def _came(self, reads: list[Read]) -> None:
        raw = self._raw
        if raw is None:
            self._wire.end("the server sent what nobody asked for")
            return
        self._moved_ns, _, last = reads[-1]
        raw.reads += reads
        raw.size += sum(len(data) for _, _, data in reads)
        if not self._chunked or last.endswith(MAY_END) or raw.size > MOST_BYTES:
            self._feed()
            self._wire.keep(self._chunked)
            if raw.size > MOST_BYTES:
                self._finish("flooded", f"more than {MOST_BYTES >> 20} MiB")

    def _feed(self) -> None:
        """Let the parser have what came: it says whether the answer is whole, or no HTTP."""
        reads = [] if self._raw is None else self._raw.reads
        data = b"".join(data for _, _, data in reads[self._fed :])
        self._fed = len(reads)
        if not data:
            return
        try:
            self._parser.feed_data(data)
        except self._httptools.HttpParserError as error:
            self._settle("not http", " ".join(str(error).split())[:120])

    def _ended(self, why: str) -> None:
        if self._raw is not None and not self._raw.end:
            self._finish("closed", why)
            with suppress(self._httptools.HttpParserError):
                self._raw.status = self._raw.status or self._parser.get_status_code()

    def _finish(self, end: str, why: str = "") -> None:
        """It is over so, unless what came and was not looked at yet says otherwise."""
        self._wire.gather()
        self._feed()
        self._settle(end, why)

    def _settle(self, end: str, why: str = "") -> None:
        if self._raw is not None:
            self._raw.finish(end, self._moved_ns if end == "complete" else monotonic_ns(), why)
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    # Called by httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        if name.lower() == b"transfer-encoding" and b"chunked" in value.lower():
            self._chunked = True

    def on_headers_complete(self) -> None:
        """The status is known."""
        if self._raw is not None:
            self._raw.status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        """The answer is whole."""
        self._kept = self._parser.should_keep_alive()
        self._settle("complete")
