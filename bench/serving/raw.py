"""What came over a connection, as bytes and times, before anybody has read it.

>>> raw = RawAnswer(due_ns=0)
>>> raw.feed(at_ns=100, read=0, body=b'data: {"choices":[{"text":" a"}]}')

Nothing is parsed while a load runs: a client that parses is late for the next chunk. `unpacking.py` takes reads apart
afterwards, and `answer.py` reads the parts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ENDS = (
    "",  # not over yet
    "complete",  # the whole HTTP message came
    "closed",  # the connection ended before it
    "stalled",  # no byte for longer than the limit
    "timeout",  # not over when the limit for the whole was
    "unreachable",  # no connection, or it ended before the request was sent
    "not http",  # what came is no HTTP
    "flooded",  # more bytes than any answer has
    "unsent",  # the run ended before it was due
)
MOST_BYTES = 1 << 28
"""Of one answer. A chunk of the protocol has some 250 bytes a token: a million tokens."""

LATE_NS = 3_000_000
"""From the kernel's having the bytes to their being read: a client that keeps up takes a round of a millisecond at most."""

Read = tuple[int, bytes, bytes]
"""When it was read by CLOCK_MONOTONIC in nanoseconds, the kernel's struct timespec of the wall clock or b"", bytes as they came."""


@dataclass(slots=True)
class RawAnswer:
    """One request on the wire. Nanoseconds of CLOCK_MONOTONIC; None until it happens."""

    due_ns: int
    sent_ns: int | None = None
    ended_ns: int | None = None
    status: int = 0
    end: str = ""
    why: str = ""
    """What the system said, where it said something."""
    reads: list[Read] = field(default_factory=list)
    """Until they are unpacked."""
    parts: list[tuple[int, int, bytes]] = field(default_factory=list)
    """(When, number of the read, bytes of the body), once they are unpacked."""
    late: set[int] = field(default_factory=set)
    """Numbers of the reads that waited for the client for longer than LATE_NS, once they are unpacked."""
    stamped: int = 0
    """Reads of which the kernel told when it had them, once they are unpacked."""
    unstamped: int = 0
    size: int = 0
    """Bytes of all reads."""
    asked_tokens: int | None = None
    """The length that the server was told to give; None if it may stop earlier."""
    body: bytes = b""
    """What was asked, of requests whose answers are compared with the reference."""

    def again(self) -> None:
        """Forget an attempt that never reached the server."""
        self.sent_ns = self.ended_ns = None
        self.end = self.why = ""

    def feed(self, at_ns: int, read: int, body: bytes) -> None:
        """Keep a part of the body."""
        self.parts.append((at_ns, read, body))

    def finish(self, end: str, at_ns: int, why: str = "") -> None:
        """The first end counts."""
        if not self.end:
            self.end, self.ended_ns, self.why = end, at_ns, why
