"""From the reads of an answer to the parts of its body, with the time of each: after the run, since nobody waits for it then.

>>> unpack(raw, clocks)
>>> raw.parts[0]
(1234567890, 0, b'data: {"choices":[...]}\\n\\n')
"""

from __future__ import annotations

from membound.bench.serving.clocks import Clocks
from membound.bench.serving.raw import LATE_NS, RawAnswer


class _Unpacking:
    """Called by httptools."""

    def __init__(self, raw: RawAnswer) -> None:
        self.raw = raw
        self.at_ns = raw.sent_ns or 0
        self.number = 0
        self.whole = False

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self.raw.feed(self.at_ns, self.number, body)

    def on_message_complete(self) -> None:
        """What follows belongs to nothing that was asked."""
        self.whole = True


def unpack(raw: RawAnswer, clocks: Clocks) -> None:
    """Fill in `parts`, and the end of an answer that is whole: the kernel's time of its last read. `reads` are gone then."""
    import httptools

    into = _Unpacking(raw)
    parser = httptools.HttpResponseParser(into)
    for into.number, (read_ns, stamp, data) in enumerate(raw.reads):
        raw.stamped += bool(stamp)
        raw.unstamped += not stamp
        # what comes later came no earlier
        into.at_ns = min(max(clocks.monotonic(stamp, read_ns), into.at_ns), read_ns)
        if read_ns - into.at_ns > LATE_NS:
            raw.late.add(into.number)
        try:
            parser.feed_data(data)
        except httptools.HttpParserError:
            break
        if into.whole:
            break
    if raw.end == "complete":
        raw.ended_ns = into.at_ns
    raw.reads.clear()
