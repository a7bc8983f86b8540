"""A request as a client saw it: when it was due, when it was sent, when each chunk of its answer came, how it ended.

>>> one = Request(due_s=1.0, sent_s=1.001, arrivals_s=[1.1, 1.15], tokens=[1, 1], reads=[0, 1], ended_s=1.16)
>>> one.output_tokens, one.ok
(2, True)

Only what was seen is stored. A chunk may bring several tokens, and one read of the socket several chunks, which then
have one time between them: both are kept apart, so that nothing derived from them passes for a gap between two tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from membound.results.fields import fields_of, wrong_field

OUTCOMES = (
    "ok",
    "refused",  # the server answered with a status other than 200: 429, 503, 400
    "failed",  # an error event in the stream, after the status had said that all was well
    "broken",  # an event that is no JSON, or none that the protocol knows
    "cut",  # the connection ended before the answer did
    "stalled",  # no byte for longer than the limit between two of them
    "timeout",  # not at its end when its limit was over
    "short",  # another number of tokens than was asked for
    "unreachable",  # no connection
    "unsent",  # due within the window, and never sent: the client was late, or the run was ended
)
COUNTED_BY = ("ids", "usage", "chunks")
"""What the numbers of tokens rest on: token ids in each chunk, the server's own count, or one a chunk."""


@dataclass(frozen=True, slots=True)
class Request:
    """Seconds are of the run's clock, from its beginning."""

    due_s: float
    """When the schedule had it sent; of a closed loop, when its turn came."""
    sent_s: float | None = None
    """When its sending began; None if it never did."""
    arrivals_s: list[float] = field(default_factory=list)
    """When each chunk with a token came, by the kernel's clock where it can be had."""
    tokens: list[int] = field(default_factory=list)
    """Tokens in each of these chunks."""
    reads: list[int] = field(default_factory=list)
    """The read of the socket that brought each of them: chunks of one read share its time."""
    told_tokens: int | None = None
    """The server's own count of the whole answer, where chunks do not tell their tokens by ids."""
    ended_s: float | None = None
    """When the answer, or the attempt, was over."""
    outcome: str = "ok"
    reason: str = ""
    prompt_tokens: int = 0
    counted_by: str = "chunks"

    @property
    def ok(self) -> bool:
        """A whole answer. No other enters a latency."""
        return self.outcome == "ok"

    @property
    def output_tokens(self) -> int:
        """Tokens that came."""
        return sum(self.tokens) if self.told_tokens is None else self.told_tokens

    @property
    def chunks_told(self) -> bool:
        """Whether the tokens of each chunk are known."""
        return self.told_tokens is None or self.told_tokens == sum(self.tokens)

    def as_json(self) -> dict[str, Any]:
        """The fields that are not as they are by default."""
        return {name: value for name, value in fields_of(self).items() if value != _DEFAULTS.get(name, ())}

    @classmethod
    def from_fields(cls, data: Mapping[str, Any]) -> Self:
        """A stored request. Raises ValueError that says what is wrong with it."""
        if wrong := wrong_field(cls, data):
            raise ValueError(wrong)
        one = cls(**data)
        if wrong := one._wrong():
            raise ValueError(f"a request due at {one.due_s:g} s: {wrong}")
        return one

    def _wrong(self) -> str:
        """What no client can have seen, or ''."""
        if self.outcome not in OUTCOMES:
            return f"outcome {self.outcome!r} is none of {', '.join(OUTCOMES)}"
        if self.counted_by not in COUNTED_BY:
            return f"counted_by {self.counted_by!r} is none of {', '.join(COUNTED_BY)}"
        if not len(self.arrivals_s) == len(self.tokens) == len(self.reads):
            return "arrivals_s, tokens and reads differ in length"
        if min(self.tokens, default=1) < 1:
            return "a chunk without a token"
        times = [t for t in (self.sent_s, *self.arrivals_s, self.ended_s) if t is not None]
        if times != sorted(times) or (times and times[0] < self.due_s):
            return "its times are out of order"
        if self.ok and (self.sent_s is None or self.ended_s is None or not self.tokens):
            return "it is ok, and was not sent, has no end or brought no token"
        return ""


_DEFAULTS: dict[str, Any] = {
    "sent_s": None,
    "arrivals_s": [],
    "tokens": [],
    "reads": [],
    "told_tokens": None,
    "ended_s": None,
    "outcome": "ok",
    "reason": "",
    "prompt_tokens": 0,
    "counted_by": "chunks",
}
